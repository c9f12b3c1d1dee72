"""Erases one prediction and its labels from the window.

    python -m evidently_service.forget PREDICTION_ID

Comes after the prediction service's command of the same name, which keeps the relay from sending
it again. A command and no route: the service's port asks nobody who they are.

Measurements and the HTML report stay: they hold no rows. The report draws a column as 150 means,
of three rows or more with the `min_rows` of config/monitoring.yaml (of single ones below 300),
and as a histogram from its least to its largest value.
"""

import argparse
import sqlite3
from contextlib import closing

from config.runtime.settings import exit_with_message, read_settings
from evidently_service.settings import Settings
from evidently_service.store.window import Window


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m evidently_service.forget")
    parser.add_argument("prediction_id", help="as the answer gave it")
    prediction_id = parser.parse_args().prediction_id
    path = read_settings(Settings).window_path
    if not path.exists():
        raise SystemExit(f"not erased: no window.db in WINDOW_DIR={path.parent}")
    try:
        with closing(Window(path)) as window:
            erased = window.erase(prediction_id)
    except sqlite3.Error as err:
        raise SystemExit(f"not erased, run this again: {path}: {err}") from err
    print(f"{'window rows':18}{erased} erased")
    if not erased:
        print(f"nothing is kept of {prediction_id}")


if __name__ == "__main__":
    exit_with_message(main)
