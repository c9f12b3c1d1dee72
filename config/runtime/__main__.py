"""Run a command with the completed environment: `python -m config.runtime mlflow server ...`.

The entry point of every image, for servers that read neither secret files nor `.env`.
"""

import os
import sys

from config.runtime.settings import exit_with_message, load_environment


def main() -> None:
    """Become the command of the arguments."""
    load_environment()
    os.execvp(sys.argv[1], sys.argv[1:])


exit_with_message(main)
