"""The HTTP side: takes events into the window and shows what was measured of it.

No request computes anything: `measure` does that in its own process and leaves its results in
the window.
"""

import logging
import sqlite3
from datetime import datetime
from typing import Any

import msgspec
from flask import Flask, Response, render_template, request, send_file
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from werkzeug.exceptions import HTTPException

from config.contract import Contract, nearest
from config.runtime.cross_site import is_cross_site
from config.runtime.logs import where
from evidently_service.api import status_page as page
from evidently_service.api.parsing import RequestError, decode_labels, decode_predictions
from evidently_service.store.records import Measurement, WindowFacts
from evidently_service.api.metrics import WindowCollector
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.reports import LATEST, Reports
from evidently_service.settings import Settings
from evidently_service.store.window import Window

log = logging.getLogger(__name__)

ENDPOINTS = {
    "POST /iterate/<dataset>": "a JSON list of predictions",
    "POST /labels/<dataset>": "a JSON list of labels",
    "GET /": "this list, or in a browser the verdict as a page",
    "GET /drift": "the verdict, for machines",
    "GET /report": "the reports that are kept, for people",
    "GET /report/latest": "the newest, /report/<name> another one",
    "GET /metrics": "for Prometheus",
    "GET /health/live": "the process answers",
    "GET /health/ready": "events can be stored",
}


def create_app(
    settings: Settings,
    monitoring: Monitoring,
    contract: Contract,
    window: Window,
    registry: CollectorRegistry,
) -> Flask:
    """The service of one window; its metrics are registered in `registry`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.evidently_max_body_bytes
    registry.register(WindowCollector(window, monitoring))
    add_ingest(app, monitoring, contract, window)
    add_results(app, monitoring, window, settings.measure_period_s)
    add_reports(app, monitoring, Reports(settings.report_dir, monitoring.reports_kept))
    add_health(app, window, registry)
    add_errors(app)
    app.before_request(refuse_other_sites)
    return app


def refuse_other_sites() -> None:
    """Raises RequestError (403) for what a browser posts for a page of another site."""
    if is_cross_site(request.environ):
        raise RequestError(403, "cross_site", "A page of another site may not post: a program may.")


def add_ingest(app: Flask, monitoring: Monitoring, contract: Contract, window: Window) -> None:
    """The routes that the relay posts to; a 2xx means stored for good."""

    @app.post("/iterate/<dataset>")
    def iterate(dataset: str) -> Response:
        check_dataset(dataset, monitoring)
        predictions = decode_predictions(request.get_data(cache=False), contract)
        return stored(len(predictions), window.add_predictions(predictions))

    @app.post("/labels/<dataset>")
    def labels(dataset: str) -> Response:
        check_dataset(dataset, monitoring)
        received = decode_labels(request.get_data(cache=False))
        return stored(len(received), window.add_labels(received))


def add_results(
    app: Flask, monitoring: Monitoring, window: Window, measure_period_s: float | None
) -> None:
    """The routes that show what was measured; the period overrides the monitoring file's."""
    period_s = measure_period_s or monitoring.measure_period_s

    @app.get("/")
    def index() -> Response:
        if page.wants_page():
            return page.make_page(window, monitoring, period_s)
        return answer({"service": "evidently_service", "endpoints": ENDPOINTS})

    @app.get("/drift")
    def drift() -> Response:
        return answer(verdict(monitoring, window))


def add_reports(app: Flask, monitoring: Monitoring, reports: Reports) -> None:
    """The pages for people. Evidently's own need scripts, the others none."""
    app.add_template_filter(page.readable, "time")
    app.add_template_filter(
        lambda name: page.readable(datetime.fromisoformat(name).timestamp()), "seen"
    )

    @app.get("/report")
    def report_index() -> Response:
        index = render_template(
            "reports.html",
            has_latest=reports.path(LATEST) is not None,
            kept=reports.kept(),
            most=monitoring.reports_kept,
            min_rows=monitoring.min_rows,
        )
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'self'"}
        return Response(index, headers=headers | {"Cache-Control": "no-cache"})

    @app.get("/report/<name>")
    def report(name: str) -> Response:
        if (path := reports.path(name)) is None:
            raise RequestError(
                404, "no_report", f"There is no report {name!r}: /report lists those that are kept."
            )
        found = send_file(path.resolve(), mimetype="text/html", conditional=True)
        found.headers["Cache-Control"] = "no-cache"
        return found

    @app.get("/style.css")
    def style() -> Response:
        return Response(render_template("style.css"), mimetype="text/css")

    @app.get("/page.js")
    def script() -> Response:
        return Response(render_template("page.js"), mimetype="text/javascript")


def add_health(app: Flask, window: Window, registry: CollectorRegistry) -> None:
    """The routes that a process manager and Prometheus ask."""

    @app.get("/health/live")
    def live() -> Response:
        return answer({"live": True})

    @app.get("/health/ready")
    def ready() -> Response:
        window.counters()
        return answer({"ready": True})

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def add_errors(app: Flask) -> None:
    """Every failure becomes the one JSON error body."""

    @app.errorhandler(RequestError)
    def refused(err: RequestError) -> Response:
        log.info("request refused endpoint=%s code=%s message=%s", request.endpoint, err.code, err)
        return error(err.status, err.code, str(err), err.problems)

    @app.errorhandler(HTTPException)
    def http_error(err: HTTPException) -> Response:
        code = (err.name or "error").lower().replace(" ", "_")
        return error(err.code or 500, code, err.description or err.name)

    @app.errorhandler(sqlite3.Error)
    def store_failed(err: sqlite3.Error) -> Response:
        log.error("window failed endpoint=%s error=%s", request.endpoint, err)
        message = f"The window cannot be used just now ({err}); send this again later."
        return error(503, "window_unavailable", message)

    @app.errorhandler(Exception)
    def surprise(err: Exception) -> Response:
        log.error("request failed endpoint=%s error=%s", request.endpoint, where(err))
        return error(500, "internal_error", "The service failed; its log says why.")


def verdict(monitoring: Monitoring, window: Window) -> dict[str, Any]:
    """What /drift says: the latest measurement, how the last run fared, and what is here by now."""
    counters, labels = window.counters(), window.label_counts()
    measurement = window.latest() or Measurement(
        dataset=monitoring.dataset,
        state="not_measured",
        share_threshold=monitoring.share_drifted,
        window=WindowFacts(0, 0),
    )
    run = window.last_run()  # read last: a new measurement never stands beside an old error
    return {
        **msgspec.to_builtins(measurement),
        "last_run_at": run.at if run else None,
        "error": run.error if run else None,
        "received": {**msgspec.to_builtins(counters), "labels": msgspec.to_builtins(labels)},
    }


def check_dataset(name: str, monitoring: Monitoring) -> None:
    """Raises RequestError (404) for a dataset that is not monitored."""
    if name != monitoring.dataset:
        known = (monitoring.dataset,)
        problem = {"field": "dataset", "value": name, "expected": f"one of {', '.join(known)}"}
        problem |= {"nearest": like} if (like := nearest(name, known)) else {}
        message = f"There is no dataset {name!r}; the known ones are: {', '.join(known)}."
        raise RequestError(404, "unknown_dataset", message, [problem])


def stored(received: int, new: int) -> Response:
    """The relay's receipt: how many events came and how many were not here before."""
    return answer({"received": received, "stored": new, "duplicates": received - new})


def answer(body: dict[str, Any], status: int = 200) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def error(
    status: int, code: str, message: str, problems: list[dict[str, Any]] | None = None
) -> Response:
    """The one JSON error body."""
    return answer({"error": {"code": code, "message": message, "problems": problems or []}}, status)
