"""Erase one prediction, its outputs and its labels from the window.

    python -m evidently_service.forget PREDICTION_ID

Run the prediction service's command of the same name first: it stops the relay from sending the
prediction again. This is a command, not a route, because the service's port has no authentication.

When SQLite splits or joins pages of an index, unused bytes may keep a copy of a bare id. All other
data of the prediction is overwritten.

Measurements and HTML reports stay: they hold no rows. A report draws a column as 150 means, and as
a histogram from its minimum to its maximum. With the `min_rows` of config/monitoring.yaml each
mean is over three rows or more; below 300 rows it would be over single rows.
"""

import argparse
import sqlite3
from contextlib import closing

from config.runtime.settings import exit_with_message, read_settings
from evidently_service.settings import Settings
from evidently_service.store.window import Window


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m evidently_service.forget")
    parser.add_argument("prediction_id", help="as in the response of the prediction service")
    prediction_id = parser.parse_args().prediction_id
    path = read_settings(Settings).window_path
    if not path.exists():
        raise SystemExit(
            f"WINDOW_DIR: nothing erased; got {path.parent}, expected a folder with window.db."
        )
    try:
        with closing(Window(path)) as window:
            erased = window.erase(prediction_id)
    except sqlite3.Error as err:
        raise SystemExit(f"{path}: not erased completely: {err}. Run this command again.") from err
    print(f"{'window rows':18}{erased} erased")
    if not erased:
        print(f"no stored rows of {prediction_id}")


if __name__ == "__main__":
    exit_with_message(main)
