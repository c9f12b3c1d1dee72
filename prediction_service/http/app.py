"""The Flask application: routes and error handlers around `Predictor`.

Nothing here uses the network: models come from the model folder, and predictions go to the journal.
"""

import os
import re
import time
from collections.abc import Callable
from typing import cast
from wsgiref.types import WSGIEnvironment

import msgspec
import structlog
from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
)
from werkzeug.wsgi import get_content_length

from config.events import API, SOURCES, Label
from config.feature import nearest
from config.runtime.cross_site import JSON, find_body_fault
from config.runtime.logs import where
from prediction_service.http.middleware import (
    Predict,
    CALLER,
    LOGGED,
    REQUEST_ID,
    RequestMiddleware,
    raise_rejection,
)
from prediction_service.http.request_log import RequestLog
from prediction_service.errors import (
    INTERNAL_ERROR,
    InvalidQuery,
    InvalidRecords,
    NotAuthorized,
    NotJson,
    NotReady,
    ReportedProblem,
    ServiceError,
    UnsupportedMediaType,
    error_body,
)
from prediction_service.journal import Journal, JournalFull, JournalUnavailable
from prediction_service.http.auth import Keys
from prediction_service.metrics import Metrics, StateCollector, exposition
from prediction_service.predict.batching import Batcher
from prediction_service.predict.model import Model
from prediction_service.predict.parsing import read_feedback
from prediction_service.predict.predictor import PredictionRequest, Predictor, required_model
from prediction_service.predict.responses import (
    FeedbackResponse,
    LivenessResponse,
    ModelResponse,
    ReadinessResponse,
)
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings
from prediction_service.web import routes

log = structlog.get_logger(__name__)

MAX_LOGGED_FIELDS = 20
is_name = re.compile(r"[A-Za-z_]\w{0,59}").fullmatch  # a caller may send any name

# Paths that never need an API key.
OPEN_PATHS = (
    "/model",
    "/model/card",
    "/health/live",
    "/health/ready",
    "/metrics",
    *routes.PATHS,
)


def create_app(
    settings: Settings,
    live_model: LiveModel,
    journal: Journal,
    metrics: Metrics,
    *,
    log_delay_s: float = 0.0,
    arrived_at: Callable[[], float] = time.time,
) -> Flask:
    """Return the Flask application. A request is logged and counted up to `log_delay_s` late.

    `arrived_at` returns the Unix time at which the current request arrived.
    """
    app = Flask(__name__, static_folder=None, template_folder=str(routes.TEMPLATES))
    predictor = Predictor(live_model, journal, metrics, settings.max_records)
    predict = add_prediction_routes(app, settings, predictor)
    add_state_routes(app, settings, live_model, journal, metrics)
    routes.add_web_routes(app, live_model, settings)
    add_error_handlers(app, metrics)

    app.before_request(raise_rejection)
    log_format = settings.log_format if settings.log_requests else None
    middleware = RequestMiddleware(
        app.wsgi_app,
        predict,
        Keys(settings.api_key_hashes),
        OPEN_PATHS,
        RequestLog(metrics, log_format, log_delay_s),
        trusted_hosts=settings.trusted_hosts,
        arrived_at=arrived_at,
    )
    app.wsgi_app = middleware  # type: ignore[method-assign]  # as Flask's documentation does
    return app


def add_prediction_routes(app: Flask, settings: Settings, predictor: Predictor) -> Predict:
    """Add `/predict` and `/feedback`. Return what predicts for requests without parameters."""
    batcher = Batcher(predictor.predict)

    def predict(environ: WSGIEnvironment, explain: bool = False, source: str | None = API) -> bytes:
        body, key = read_body(environ, settings.max_body_bytes), environ.get("HTTP_IDEMPOTENCY_KEY")
        prediction = PredictionRequest(body, key, explain, source)
        batcher.predict(prediction)
        if isinstance(prediction.outcome, Exception):
            raise prediction.outcome
        if prediction.stored_id:
            environ[LOGGED] = {"prediction_id": prediction.stored_id}
        return cast(bytes, prediction.outcome)

    @app.post("/predict", endpoint="predict")
    def predict_with_parameters() -> Response:
        check_parameters("explain", "record", "source")
        explain = read_choice("explain", "false", "true") == "true"
        source = read_choice("source", *SOURCES)
        is_recorded = read_choice("record", "true", "false") == "true"
        content = predict(request.environ, explain, source if is_recorded else None)
        return Response(content, content_type=JSON)

    @app.post("/feedback")
    def feedback() -> Response:
        check_parameters()
        now, caller = time.time(), request.environ.get(CALLER)
        body = read_body(request.environ, settings.max_body_bytes)
        labels = read_feedback(body, settings.max_records)
        predictor.journal.append(
            [Label(one.prediction_id, now, one.label, caller) for one in labels]
        )
        return json_response(FeedbackResponse(len(labels)), 202)

    return predict


def add_state_routes(
    app: Flask, settings: Settings, live_model: LiveModel, journal: Journal, metrics: Metrics
) -> None:
    """Add the routes that describe the model and the state of the service."""
    state = StateCollector(live_model, journal, settings.sinks)

    @app.get("/model")
    def model() -> Response:
        return json_response(describe_model(required_model(live_model)))

    @app.get("/model/card")
    def card() -> Response:
        return model_card(required_model(live_model))

    @app.get("/health/live")
    def live() -> Response:
        return json_response(LivenessResponse(True))

    @app.get("/health/ready")
    def ready() -> Response:
        if missing := find_missing(settings, live_model, journal):
            raise NotReady("The service cannot predict now. `problems` has the causes.", missing)
        status = live_model.folder.status()
        registry = status.registry if status else "not followed"
        version, reported_at = required_model(live_model).version, live_model.folder.reported_at()
        age_s = None if reported_at is None else round(max(0.0, time.time() - reported_at), 1)
        rejection = live_model.rejection()
        return json_response(ReadinessResponse(True, version, rejection, registry, age_s))

    @app.get("/metrics")
    def prometheus() -> Response:
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        return Response(exposition(metrics, state, directory), content_type=CONTENT_TYPE_LATEST)


def add_error_handlers(app: Flask, metrics: Metrics) -> None:
    """Respond to every error with the one JSON body, without a stack trace."""

    def unavailable(code: str) -> Callable[[Exception], Response]:
        return lambda err: error_response(503, code, str(err))

    @app.errorhandler(ServiceError)
    def known(err: ServiceError) -> Response:
        if isinstance(err, (NotJson, InvalidRecords)):
            metrics.invalid_records.inc(getattr(err, "n_invalid", 1))
        response = error_response(err.status, err.code, str(err), err.problems)
        if isinstance(err, NotAuthorized):
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.errorhandler(HTTPException)
    def http(err: HTTPException) -> Response:
        code = (err.name or "error").lower().replace(" ", "_")
        response = error_response(err.code or 500, code, err.description or err.name)
        allowed = getattr(err, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(Exception)
    def surprise(err: Exception) -> Response:
        log.error(
            "request_failed",
            endpoint=request.endpoint,
            request_id=request.environ[REQUEST_ID],
            error=where(err),
        )
        return error_response(500, ServiceError.code, INTERNAL_ERROR)

    app.register_error_handler(JournalFull, unavailable("journal_full"))
    app.register_error_handler(JournalUnavailable, unavailable("journal_unavailable"))


def check_parameters(*names: str) -> None:
    """Raise InvalidQuery for a parameter of another name: `recrod=false` would store the record."""
    for name in request.args:
        if name not in names:
            near = nearest(name, names)
            expected = f"expected {', '.join(names)}" if names else "expected no parameter"
            meant = f"; did you mean {near}?" if near else "."
            raise InvalidQuery(f"{name}: no such parameter, {expected}{meant}")


def read_choice(name: str, *choices: str) -> str:
    """Return a parameter of the query, by default the first choice. Raises InvalidQuery."""
    value = request.args.get(name, choices[0])
    if value not in choices:
        raise InvalidQuery(f"{name}: got {value!r}, expected {' or '.join(choices)}.")
    return value


def read_body(environ: WSGIEnvironment, max_bytes: int) -> bytes:
    """Return the request's body.

    Raises RequestEntityTooLarge, BadRequest, ClientDisconnected or UnsupportedMediaType.

    The stream is read directly: Werkzeug's own limit truncates a chunked body without an error,
    and its wrapper costs a tenth of a request.
    """
    length = get_content_length(environ)
    if length is not None and length > max_bytes:
        raise RequestEntityTooLarge()
    try:
        body = environ["wsgi.input"].read(max_bytes + 1 if length is None else length)
    except Exception as err:  # pylint: disable=broad-exception-caught  # the server's own errors
        raise BadRequest("The body is not valid HTTP.") from err
    if len(body) > max_bytes:
        raise RequestEntityTooLarge()
    if length is not None and len(body) < length:
        raise ClientDisconnected()
    if fault := find_body_fault(environ):
        raise UnsupportedMediaType(fault)
    return body


def model_card(model: Model) -> Response:
    """Return the model card. Raises NotFound if the version has none."""
    try:
        page = model.card_path.read_bytes()
    except OSError as err:
        raise NotFound(f"Version {model.version} has no model card. Train a new version.") from err
    page = page.replace(b"<body>", b'<body>\n<nav><a href="../">Predict</a></nav>', 1)
    response = Response(page, content_type="text/html; charset=utf-8")
    # The page comes from the registry. It must not run or load anything.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
    response.headers["Content-Security-Policy"] = policy
    return response


def describe_model(model: Model) -> ModelResponse:
    """Return the facts in the model's own file."""
    facts = model.facts
    return ModelResponse(
        model_version=model.version,
        run_id=facts.get("run_id"),
        data_source=facts.get("data_source"),
        trained_at=facts.get("trained_at"),
        threshold=model.threshold,
        contract_digest=facts.get("contract_digest"),
        metrics=msgspec.json.decode(facts.get("metrics") or "{}"),
    )


def find_missing(
    settings: Settings, live_model: LiveModel, journal: Journal
) -> list[ReportedProblem]:
    """Return the reasons why the service cannot predict; empty if it can."""
    missing = []
    if live_model.model is None:
        status = live_model.folder.status()
        expected = f"a model in MODEL_DIR={settings.model_dir}"
        registry = status.registry if status else "the follower has not reported yet"
        missing.append(ReportedProblem("model", None, f"{expected}; registry: {registry}"))
        if rejection := live_model.rejection():
            missing.append(ReportedProblem("model_version", rejection.version, rejection.reason))
    if journal.is_full:
        expected = f"less than JOURNAL_MAX_MB={settings.journal_max_mb}; is the relay running?"
        missing.append(ReportedProblem("journal", "full", expected))
    return missing


def json_response(body: msgspec.Struct, status: int = 200) -> Response:
    """Return a response with a struct as its JSON body."""
    return Response(msgspec.json.encode(body), status=status, content_type=JSON)


def error_response(
    status: int, code: str, message: str, problems: list[ReportedProblem] | None = None
) -> Response:
    """Return the error body with its status; the log line gets the code and the fields' names."""
    logged: dict[str, str] = {"code": code}
    if fields := {p.field for p in problems or [] if is_name(p.field)}:
        logged["fields"] = ",".join(sorted(fields)[:MAX_LOGGED_FIELDS])
    request.environ[LOGGED] = logged
    return Response(error_body(code, message, problems or []), status=status, content_type=JSON)
