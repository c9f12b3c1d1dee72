"""API keys as the setting API_KEY_HASHES stores them: `NAME=SHA256,NAME=SHA256`.

The prediction service requires a key of its callers, and the Evidently service of the relay, in
EVIDENTLY_KEY_HASHES. Training and the journal's export use only labels of callers whose name is in
the list. A key has 256 random bits: it cannot be guessed from its hash, so a slow password hash
would not protect it better.
"""

import hashlib
import secrets
from collections.abc import Iterable
from hmac import compare_digest
from typing import Annotated

from config.runtime.settings import matching

PREFIX = "income_"  # marks a key that was pasted in a wrong place
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}"
ENTRY = rf"{NAME}=[0-9a-f]{{64}}"

ANONYMOUS_DESCRIPTION = (
    "Train on labels, and let them decide promotions, even if API keys are off. Anyone with access"
    " to the service can then change the next model."
)
KeyHashes = Annotated[
    str,
    matching(
        rf"({ENTRY}(,{ENTRY})*)?",
        "NAME=SHA256,NAME=SHA256, each as printed by `python -m prediction_service.keys new NAME`."
        " The key itself does not belong here.",
    ),
]


def make_key() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return the sha256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def hashes(setting: str) -> list[tuple[str, str]]:
    """Return each name with its hash. A name may have several, while its key is replaced."""
    pairs = (entry.partition("=") for entry in setting.split(",") if entry)
    return [(name, value) for name, _, value in pairs]


def owner_of(key: str, known: Iterable[tuple[str, str]]) -> str | None:
    """Return the name of a key, or None for an unknown key.

    `known` has each name with its hash. Every hash is compared, each in constant time.
    """
    given, owner = hash_of(key), None
    for name, value in known:
        if compare_digest(value, given):
            owner = name
    return owner


def names(setting: str) -> list[str]:
    """Return the names of the callers with a key, sorted; none if keys are off."""
    return sorted({name for name, _ in hashes(setting)})
