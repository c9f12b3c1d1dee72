"""`POST /predict` without Flask's own cost; whatever is out of the ordinary is Flask's.

WSGI middleware around the application: an ordinary request is read, answered and counted here; one
with a query, a chunked body or a length beyond the limit goes on to Flask untouched, and what
failed goes on with its error, so that every error is answered in one place.
"""

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prediction_service.metrics import Metrics

ERROR = "prediction_service.error"  # in the WSGI environment: what Flask's route is to raise


class HotRoute:
    """Answers `POST /predict` with `predict(body, idempotency_key)`."""

    def __init__(
        self,
        app: WSGIApplication,
        predict: Callable[[bytes, str | None], bytes],
        metrics: Metrics,
        max_bytes: int,
    ) -> None:
        self.app = app
        self.predict = predict
        self.metrics = metrics
        self.max_bytes = max_bytes

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or ""
        if (
            environ["PATH_INFO"] != "/predict"
            or environ["REQUEST_METHOD"] != "POST"
            or environ.get("QUERY_STRING")
            or not (length.isdecimal() and int(length) <= self.max_bytes)
        ):
            return self.app(environ, start)
        try:
            body = environ["wsgi.input"].read(int(length))
            content = self.predict(body, environ.get("HTTP_IDEMPOTENCY_KEY"))
        except Exception as err:  # pylint: disable=broad-exception-caught  # Flask answers it
            environ[ERROR] = err
            return self.app(environ, start)
        self.metrics.count_request("predict", 200)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start("200 OK", headers)
        return [content]
