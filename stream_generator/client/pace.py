"""Time in a run: its clock, which ends at a deadline or when stopped, and its requests' pace."""

import threading
import time


class Clock:
    """The machine's own clock, and how threads learn that the run is to end."""

    def __init__(self, deadline_s: float = float("inf")) -> None:
        self._stop = threading.Event()
        self._deadline = self.now() + deadline_s

    @property
    def interrupted(self) -> bool:
        """True after `stop`."""
        return self._stop.is_set()

    @property
    def stopped(self) -> bool:
        """True once the run is to end: interrupted, or past its deadline."""
        return self.interrupted or self.now() >= self._deadline

    def stop(self) -> None:
        """Ends all pauses; what is under way finishes and nothing new begins."""
        self._stop.set()

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Returns after so many seconds, or as soon as the clock is stopped."""
        self._stop.wait(max(min(seconds, self._deadline - self.now()), 0))


class Pacer:
    """Spaces requests evenly, over all threads. A delay is not made up for by a burst."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._period_s = 1 / rate if rate else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next_at = clock.now()

    def wait(self) -> None:
        """Returns when the caller may send its next request."""
        if not self._period_s:
            return
        with self._lock:
            now = self._clock.now()
            send_at = max(self._next_at, now)
            self._next_at = send_at + self._period_s
        self._clock.pause(send_at - now)
