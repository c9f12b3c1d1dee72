"""The HTTP side: store posted events in the window, and show its measurements.

No request calculates anything: the measure process stores its results in the window.
"""

import sqlite3
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from flask import Flask, Response, render_template, request, send_file
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from werkzeug.exceptions import HTTPException

from config.contract import Contract, nearest
from config.events import BACKLOG_HEADER, SAMPLE_HEADER
from config.runtime.api_keys import hashes, owner_of
from config.runtime.cross_site import (
    JSON,
    UNTRUSTED_HOST,
    find_body_fault,
    is_cross_site,
    is_trusted_host,
)
from config.runtime.logs import where
from config.web import STYLE, absolute_links
from evidently_service.api import status_page
from evidently_service.api.metrics import WindowCollector
from evidently_service.api.parsing import (
    RequestError,
    decode_backlog,
    decode_labels,
    decode_predictions,
    decode_sample,
)
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.settings import Settings
from evidently_service.shadow.store import ShadowStore
from evidently_service.store.records import Measurement, WindowFacts, sample_share
from evidently_service.store.reports import LATEST, Reports
from evidently_service.store.window import Window

log = structlog.get_logger(__name__)

ENDPOINTS = {
    "POST /iterate": "store a JSON list of predictions; /iterate/<dataset> checks the name too",
    "POST /labels": "store a JSON list of labels; /labels/<dataset> checks the name too",
    "GET /": "this list as JSON; the status page in a browser",
    "GET /drift": "the drift verdict as JSON",
    "GET /shadow": "the test of the challenger or of the former version, as JSON",
    "GET /report": "list of drift reports as HTML",
    "GET /report/latest": "the latest report; /report/<name>: another one",
    "GET /metrics": "metrics for Prometheus",
    "GET /health/live": "200 while the process responds",
    "GET /health/ready": "200 while events can be stored",
}


def create_app(
    settings: Settings,
    monitoring: Monitoring,
    contract: Contract,
    window: Window,
    registry: CollectorRegistry,
) -> Flask:
    """Return the app of one window; its metrics are registered in `registry`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.evidently_max_body_bytes
    registry.register(WindowCollector(window, monitoring))
    add_ingest(app, settings, monitoring, contract, window)
    add_results(app, monitoring, window)
    add_reports(app, monitoring, Reports(settings.report_dir, monitoring.reports_kept))
    add_health(app, window, registry)
    add_errors(app)
    app.context_processor(
        lambda: {"links": absolute_links(settings.page_links, request.host_url, "Drift")}
    )
    app.before_request(partial(check_access, settings.trusted_hosts))
    return app


def check_access(trusted_hosts: str) -> None:
    """Raise RequestError for an untrusted host, or a POST from another site's page.

    Not with status 400: the relay would take the events for invalid ones.
    """
    if not is_trusted_host(request.headers.get("Host", ""), trusted_hosts):
        raise RequestError(403, "untrusted_host", UNTRUSTED_HOST)
    if is_cross_site(request.environ):
        raise RequestError(403, "cross_site", "A page of another site may not send POST requests.")


def add_ingest(
    app: Flask, settings: Settings, monitoring: Monitoring, contract: Contract, window: Window
) -> None:
    """Add the routes that the relay posts to. A 2xx means: stored durably."""
    known = hashes(settings.evidently_key_hashes)

    @app.post("/iterate")
    @app.post("/iterate/<dataset>")
    def iterate(dataset: str = monitoring.dataset) -> Response:
        check_key(known)
        check_dataset(dataset, monitoring)
        predictions = decode_predictions(read_body(), contract)
        if header := request.headers.get(BACKLOG_HEADER):
            sample = decode_sample(request.headers.get(SAMPLE_HEADER, "1"))
            window.store_backlog(decode_backlog(header), sample)
        return receipt(len(predictions), window.add_predictions(predictions))

    @app.post("/labels")
    @app.post("/labels/<dataset>")
    def labels(dataset: str = monitoring.dataset) -> Response:
        check_key(known)
        check_dataset(dataset, monitoring)
        received = decode_labels(read_body())
        return receipt(len(received), window.add_labels(received))


def add_results(app: Flask, monitoring: Monitoring, window: Window) -> None:
    """Add the routes that show measurements."""

    @app.get("/")
    def index() -> Response:
        if status_page.wants_page():
            return status_page.make_page(window, monitoring)
        return json_response({"service": "evidently_service", "endpoints": ENDPOINTS})

    @app.get("/drift")
    def drift() -> Response:
        return json_response(drift_body(monitoring, window))

    @app.get("/shadow")
    def shadow() -> Response:
        test = msgspec.to_builtins(ShadowStore(window).test())
        return json_response(test | {"error_rate": monitoring.shadow_error_rate})


def add_reports(app: Flask, monitoring: Monitoring, reports: Reports) -> None:
    """Add the list of reports, the reports, and the pages' static files."""
    app.add_template_filter(status_page.format_time, "time")
    app.add_template_filter(status_page.format_age, "age")
    app.add_template_filter(
        lambda name: status_page.format_time(datetime.fromisoformat(name).timestamp()), "name_time"
    )

    @app.get("/report")
    def report_index() -> Response:
        index = render_template(
            "reports.html",
            has_latest=reports.path(LATEST) is not None,
            saved=reports.saved(),
            max_saved=monitoring.reports_kept,
            min_rows=monitoring.min_rows,
        )
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'self'"}
        return Response(index, headers=headers | {"Cache-Control": "no-cache"})

    @app.get("/report/<name>")
    def report(name: str) -> Response:
        if (path := reports.path(name)) is None:
            message = f"There is no report {name!r}. /report lists all reports."
            raise RequestError(404, "no_report", message)
        response = send_file(path.resolve(), mimetype="text/html", conditional=True)
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.get("/style.css")
    def style() -> Response:
        own = render_template("style.css")
        return Response(STYLE.read_text("utf-8") + own, mimetype="text/css")

    @app.get("/page.js")
    def script() -> Response:
        return Response(render_template("page.js"), mimetype="text/javascript")


def add_health(app: Flask, window: Window, registry: CollectorRegistry) -> None:
    """Add the health checks and the metrics."""

    @app.get("/health/live")
    def live() -> Response:
        return json_response({"live": True})

    @app.get("/health/ready")
    def ready() -> Response:
        window.counters()
        return json_response({"ready": True})

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def add_errors(app: Flask) -> None:
    """Turn every error into the JSON error body."""

    @app.errorhandler(RequestError)
    def rejected(err: RequestError) -> Response:
        log.info("request_rejected", endpoint=request.endpoint, code=err.code, message=str(err))
        response = error_response(err.status, err.code, str(err), err.problems)
        if err.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.errorhandler(HTTPException)
    def http_error(err: HTTPException) -> Response:
        code = (err.name or "error").lower().replace(" ", "_")
        return error_response(err.code or 500, code, err.description or err.name)

    @app.errorhandler(sqlite3.Error)
    def window_unavailable(err: sqlite3.Error) -> Response:
        log.error("window_unavailable", endpoint=request.endpoint, error=str(err))
        message = f"The window is unavailable: {err}. Retry later."
        return error_response(503, "window_unavailable", message)

    @app.errorhandler(Exception)
    def unexpected(err: Exception) -> Response:
        log.error("request_failed", endpoint=request.endpoint, error=where(err))
        return error_response(500, "internal_error", "Internal error. See the service's log.")


def drift_body(monitoring: Monitoring, window: Window) -> dict[str, Any]:
    """Return the latest measurement, the last run, and the current counts of events.

    An old measurement has the verdict `stale`.
    """
    counters, labels, backlog = window.counters(), window.label_counts(), window.backlog()
    measurement = window.latest() or Measurement(
        dataset=monitoring.dataset,
        state="not_measured",
        share_threshold=monitoring.share_drifted,
        window=WindowFacts(0, 0),
    )
    run = window.last_run()  # read last: so a new measurement never has an old error beside it
    return {
        **msgspec.to_builtins(measurement),
        "verdict": (
            "stale" if status_page.is_stale(measurement, monitoring) else measurement.verdict
        ),
        "calibrating": measurement.calibrating,
        "last_run_at": run.at if run else None,
        "error": run.error if run else None,
        "training": msgspec.to_builtins(run.decision) if run else None,
        "promotion": msgspec.to_builtins(run.promotion) if run else None,
        "received": {**msgspec.to_builtins(counters), "labels": msgspec.to_builtins(labels)},
        "backlog": msgspec.to_builtins(backlog),
        "sample": sample_share(backlog),
    }


def check_key(known: list[tuple[str, str]]) -> None:
    """Raise RequestError (401) without a key of `known`, unless `known` is empty."""
    given = request.authorization
    key = given.token if given and given.type == "bearer" else None
    if known and owner_of(key or "", known) is None:
        message = "Authorization: no known API key. Set EVIDENTLY_API_KEY of the relay to its key."
        raise RequestError(401, "not_authorized", message)


def read_body() -> bytes:
    """Return the request's body. Raises RequestError (415) unless declared as plain JSON."""
    body = request.get_data(cache=False)
    if fault := find_body_fault(request.environ):
        raise RequestError(415, "unsupported_media_type", fault)
    return body


def check_dataset(name: str, monitoring: Monitoring) -> None:
    """Raise RequestError (404) for a dataset that is not monitored."""
    known = monitoring.dataset
    if name == known:
        return
    problem = {"field": "dataset", "value": name, "expected": known}
    problem |= {"nearest": like} if (like := nearest(name, (known,))) else {}
    message = f"dataset: unknown; got {name!r}, expected {known!r}."
    raise RequestError(404, "unknown_dataset", message, [problem])


def receipt(received: int, new: int) -> Response:
    """Return how many events arrived, and how many of them were new."""
    return json_response({"received": received, "stored": new, "duplicates": received - new})


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(body), status, content_type=JSON)


def error_response(
    status: int, code: str, message: str, problems: list[dict[str, Any]] | None = None
) -> Response:
    """Return the JSON error body."""
    body = {"code": code, "message": message, "problems": problems or []}
    return json_response({"error": body}, status)
