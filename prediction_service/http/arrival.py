"""When requests arrive in a worker, so that their latency includes the wait for the worker."""

import time

import gevent


class ArrivalClock:
    """The Unix time at which the current request arrived, as far as a worker can know it.

    gevent's loop handles the requests of one poll one after the other. A request that waits for its
    turn is still in its socket, so it counts from that poll. On a busy worker the next request of a
    connection may follow without a poll: it counts from the response before it.
    """

    def __init__(self) -> None:
        loop = gevent.get_hub().loop
        self._polled_at = time.time()
        self._after_poll = loop.check(ref=False)
        self._after_poll.priority = loop.MAXPRI  # before the handlers of the sockets
        self._after_poll.start(self._note_poll)

    def __call__(self) -> float:
        """Return the time."""
        return max(self._polled_at, getattr(gevent.getcurrent(), "responded_at", 0.0))

    def _note_poll(self) -> None:
        self._polled_at = time.time()


def note_response() -> None:
    """Note that the current connection's greenlet has sent a response."""
    gevent.getcurrent().responded_at = time.time()
