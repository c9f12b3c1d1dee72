"""The pause before a rejected version is loaded again."""

import time

FIRST_PAUSE_S = 30.0
MAX_PAUSE_S = 600.0


class Backoff:
    """A pause that doubles with each failure of the same version in a row.

    The cause of a failure may pass, such as a lack of memory or a full disk.
    """

    def __init__(self) -> None:
        self._source: object = None
        self._pause_s = 0.0
        self._until = 0.0

    def start(self, source: object) -> None:
        """Begin the pause of a version that failed; `source` says where it comes from."""
        is_first = source != self._source
        self._pause_s = FIRST_PAUSE_S if is_first else min(2 * self._pause_s, MAX_PAUSE_S)
        self._source, self._until = source, time.monotonic() + self._pause_s

    def is_over(self, source: object) -> bool:
        """Return whether a version may be loaded now."""
        return source != self._source or time.monotonic() >= self._until
