"""API keys as they are kept: `NAME=SHA256,NAME=SHA256`, the setting API_KEY_HASHES.

The prediction service asks callers for a key; training and the journal's export learn only from
labels of callers whose name is in the list. A key has 256 random bits, so nobody can guess what a
hash was made from, and the slow hashes that passwords need would protect nothing more here.
"""

import hashlib
import secrets
from typing import Annotated

import msgspec

PREFIX = "income_"  # so that a key is known as one where it does not belong
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}"
ENTRY = rf"{NAME}=[0-9a-f]{{64}}"

KeyHashes = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^({ENTRY}(,{ENTRY})*)?\Z",
        description="NAME=SHA256,NAME=SHA256, each as `python -m prediction_service.keys new NAME`"
        " prints it: the key itself does not belong here",
    ),
]


def make_key() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What is kept of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def hashes(setting: str) -> list[tuple[str, str]]:
    """Each name with its hash. A name may have several, so that a key can be changed in peace."""
    pairs = (entry.partition("=") for entry in setting.split(",") if entry)
    return [(name, value) for name, _, value in pairs]


def names(setting: str) -> list[str]:
    """Who has a key; nobody where keys are off."""
    return sorted({name for name, _ in hashes(setting)})
