"""`POST /predict` without Flask's own cost; whatever is out of the ordinary is Flask's.

WSGI middleware around the application. An ordinary request is read when it is called and answered
when its answer is asked for, as WSGI allows. So a server that first calls for every request that
has arrived (`worker.KeptWorker`) has them scored and journalled together; one that comes alone is
answered alone. A query, a chunked body or a length beyond the limit goes on to Flask untouched;
what failed goes on with its error, so that every error is answered in one place.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prediction_service.http.middleware import ERROR
from prediction_service.metrics import Metrics
from prediction_service.predictor import Question

LONGEST_TOGETHER = 1 << 14  # bytes of a body; a longer list is answered alone


class HotRoute:
    """Answers `POST /predict` with `answer`, which sets the outcome of questions."""

    def __init__(
        self,
        app: WSGIApplication,
        answer: Callable[[list[Question]], None],
        metrics: Metrics,
        max_bytes: int,
    ) -> None:
        self.app = app
        self.answer = answer
        self.metrics = metrics
        self.max_bytes = max_bytes
        self._waiting: list[Question] = []
        self._mutex = threading.Lock()  # for servers with threads

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or ""
        if (
            environ["PATH_INFO"] != "/predict"
            or environ["REQUEST_METHOD"] != "POST"
            or environ.get("QUERY_STRING")
            or ERROR in environ
            or not (length.isdecimal() and int(length) <= self.max_bytes)
        ):
            return self.app(environ, start)
        body = environ["wsgi.input"].read(int(length))
        question = Question(body, environ.get("HTTP_IDEMPOTENCY_KEY"))
        if len(body) <= LONGEST_TOGETHER:
            self._waiting.append(question)
        return self._parts(question, environ, start)

    def _parts(
        self, question: Question, environ: WSGIEnvironment, start: StartResponse
    ) -> Iterator[bytes]:
        """The answer. Its first part is what all that wait are answered for."""
        with self._mutex:
            if question.outcome is None:
                together = [question]
                if question in self._waiting:
                    together, self._waiting = self._waiting, []
                self.answer(together)
        outcome = question.outcome
        if isinstance(outcome, bytes):
            self.metrics.count_request("predict", 200)
            length = str(len(outcome))
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", length)])
            yield outcome
        else:
            environ[ERROR] = outcome
            yield from self.app(environ, start)
