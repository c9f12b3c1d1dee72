"""When requests arrive in a worker, so that their latency includes the wait for the worker."""

import time

import gevent


class LastPoll:
    """The Unix time at which gevent's loop last polled the sockets.

    The loop handles the requests of one poll one after the other. A request that waits for its turn
    is still in its socket, so the application cannot measure the wait from the request itself.
    """

    def __init__(self) -> None:
        loop = gevent.get_hub().loop
        self._at = time.time()
        self._after_poll = loop.check(ref=False)
        self._after_poll.priority = loop.MAXPRI  # before the handlers of the sockets
        self._after_poll.start(self._note)

    def __call__(self) -> float:
        """Return the time."""
        return self._at

    def _note(self) -> None:
        self._at = time.time()
