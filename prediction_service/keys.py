"""Who asks: the API keys of callers, and the command that makes one.

    python -m prediction_service.keys new NAME

Off as long as API_KEY_HASHES is empty.
"""

import argparse
import re
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest

from config.runtime.api_keys import NAME, hash_of, hashes, make_key
from prediction_service.errors import NotAuthorized

BEARER = "Bearer "
MOST_REMEMBERED = 1000
HOW = (
    "send one as `Authorization: Bearer KEY`; whoever runs the service makes one with"
    " `python -m prediction_service.keys new NAME`"
)


class Keys:
    """The keys that are known, by their hashes."""

    def __init__(self, setting: str) -> None:
        """`setting` is API_KEY_HASHES."""
        # A key that was found is remembered, as a hash for each request costs 3 % of a prediction.
        # That tells nobody anything: Python compares it only if a keyed hash of all of it agrees.
        self.caller = lru_cache(MOST_REMEMBERED)(self._caller)
        self._hashes = [(name, bytes.fromhex(known)) for name, known in hashes(setting)]

    def __bool__(self) -> bool:
        """True if callers must have one."""
        return bool(self._hashes)

    def _caller(self, authorization: str | None) -> str:
        """The name of the key in an Authorization header. Raises NotAuthorized.

        Every hash is compared, each in constant time.
        """
        if authorization is None or not authorization.startswith(BEARER):
            raise NotAuthorized(f"This needs an API key: {HOW}.")
        given, caller = sha256(authorization[len(BEARER) :].encode()).digest(), None
        for name, known in self._hashes:
            if compare_digest(known, given):
                caller = name
        if caller is None:
            raise NotAuthorized(f"The API key is not known, or no longer: {HOW}.")
        return caller


def key_name(text: str) -> str:
    """A command's argument: the name of a key."""
    if re.fullmatch(NAME, text):
        return text
    raise argparse.ArgumentTypeError(f"got {text!r}, expected letters, digits, '.', '_' and '-'")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m prediction_service.keys")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="a new key; it is printed once and kept nowhere")
    new.add_argument("name", type=key_name, help="who will have it")
    name = parser.parse_args().name
    key = make_key()
    print(f"For {name}, as `Authorization: Bearer KEY`; it is not shown again:\n\n  {key}\n")
    print(f"For the service, added to API_KEY_HASHES after a comma:\n\n  {name}={hash_of(key)}")


if __name__ == "__main__":
    main()
