"""Authenticate callers by their API keys. Off while API_KEY_HASHES is empty."""

from functools import lru_cache

from config.runtime.api_keys import hashes, owner_of
from prediction_service.errors import NotAuthorized

BEARER = "bearer"  # the case of an authentication scheme does not matter
MAX_REMEMBERED = 1000
REMEDY = (
    "Send a key as `Authorization: Bearer KEY`. The operator of the service makes one with"
    " `python -m prediction_service.keys new NAME`."
)


class Keys:
    """The known API keys, by their hashes."""

    def __init__(self, setting: str) -> None:
        """Read the setting API_KEY_HASHES."""
        # A known key is cached: hashing it for each request costs 3 % of a prediction. The cache
        # leaks nothing by its timing: Python compares a key only if its whole keyed hash agrees.
        self.caller = lru_cache(MAX_REMEMBERED)(self._caller)
        self._hashes = hashes(setting)

    def __bool__(self) -> bool:
        """Return whether a key is required."""
        return bool(self._hashes)

    def _caller(self, authorization: str | None) -> str:
        """Return the name of the key in an Authorization header. Raises NotAuthorized."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != BEARER:
            raise NotAuthorized(f"Authorization: no API key. {REMEDY}")
        caller = owner_of(key.lstrip(" "), self._hashes)
        if caller is None:
            raise NotAuthorized(f"Authorization: unknown API key. {REMEDY}")
        return caller
