"""The pause before another attempt at what has failed: to load a version, to reach a sink."""

import random
import time

# Of a rejected version, whose cause may pass, such as a lack of memory or a full disk.
FIRST_PAUSE_S = 30.0
MAX_PAUSE_S = 600.0
MAX_DOUBLINGS = 20


class Backoff:
    """A pause that doubles with each failure of the same source in a row."""

    def __init__(
        self, first_s: float = FIRST_PAUSE_S, max_s: float = MAX_PAUSE_S, jitter: float = 0.0
    ) -> None:
        """Start without a pause; `jitter` is the share of each pause that is random."""
        self.first_s = first_s
        self.max_s = max_s
        self.jitter = jitter
        self.failures = 0
        self.failed_at = self.retry_at = 0.0  # monotonic
        self._source: object = None

    def start(self, source: object = None) -> None:
        """Begin the pause after a failure; `source` says what failed."""
        self.failures = self.failures + 1 if source == self._source else 1
        self._source, self.failed_at = source, time.monotonic()
        pause_s = min(self.max_s, self.first_s * 2 ** min(self.failures - 1, MAX_DOUBLINGS))
        self.retry_at = self.failed_at + pause_s * random.uniform(1 - self.jitter, 1)

    def is_over(self, source: object = None) -> bool:
        """Return whether a source may be tried now."""
        return source != self._source or time.monotonic() >= self.retry_at
