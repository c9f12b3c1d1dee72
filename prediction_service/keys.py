"""Make an API key for a caller: `python -m prediction_service.keys new NAME`."""

import argparse
import re

from config.runtime.api_keys import NAME, hash_of, make_key


def key_name(text: str) -> str:
    """Return a command's argument if it is a valid name of a key. Raises ArgumentTypeError."""
    if re.fullmatch(NAME, text):
        return text
    raise argparse.ArgumentTypeError(
        f"got {text!r}, expected up to 50 letters, digits, '.', '_' and '-', starting with a letter"
        " or a digit"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction_service.keys",
        description="Make API keys for the callers of the prediction service.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="print a new key, which is not stored anywhere")
    new.add_argument("name", type=key_name, metavar="NAME", help="name of the caller")
    name = parser.parse_args().name
    key = make_key()
    print(f"For {name}, as `Authorization: Bearer KEY`. It is not shown again.\n\n  {key}\n")
    print(f"For the service: add to API_KEY_HASHES, after a comma.\n\n  {name}={hash_of(key)}")


if __name__ == "__main__":
    main()
