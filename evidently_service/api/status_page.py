"""The status page at `/` for an operator: has the data drifted, and how good are the predictions?

It shows what the measure process stored in the window. Only the chart's coordinates are calculated.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from flask import Response, render_template, request

from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.records import (
    ColumnDrift,
    DriftImpact,
    Interval,
    Measurement,
    Quality,
)
from evidently_service.store.window import Window

MEASUREMENTS = 300  # in the chart
WIDTH, HEIGHT = 600, 120  # of the chart, in SVG units
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
STALE_PERIODS = 12  # without a measurement; then the page warns
METRICS = ("roc_auc", "log_loss", "accuracy", "precision", "recall", "f1")
STATES = {
    "not_measured": "Nothing has been measured yet. The measure process has not run.",
    "not_enough_rows": "Too few predictions for a comparison.",
    "no_reference": "No reference data: no version is in production yet.",
}


class Verdict(NamedTuple):
    """The first sentence of the page."""

    words: str
    is_bad: bool


class Column(NamedTuple):
    """One row of the drift table."""

    drift: ColumnDrift
    impact: DriftImpact | None  # None for the model's outputs


class Metric(NamedTuple):
    """One row of the quality table."""

    name: str
    measured: float | None
    bounds: Interval | None
    estimated: float | None
    estimated_bounds: Interval | None


class Chart(NamedTuple):
    """The share of drifted features over time, in SVG coordinates."""

    points: str  # of a polyline
    threshold_y: float
    first_at: float  # Unix time in seconds
    last_at: float


def wants_page() -> bool:
    """Return whether the request is a browser's; other clients get JSON."""
    kinds = ["application/json", "text/html"]  # the first one wins a tie
    return request.accept_mimetypes.best_match(kinds) == "text/html"


def make_page(window: Window, monitoring: Monitoring, period_s: float) -> Response:
    """Return the page of the newest measurements; `period_s` is the time between two."""
    measurements = window.newest(MEASUREMENTS)
    latest = measurements[-1] if measurements else None
    oldest = time.time() - STALE_PERIODS * period_s
    page = render_template(
        "page.html",
        latest=latest,
        verdict=verdict_of(latest, oldest),
        columns=by_impact(latest) if latest else [],
        metrics=quality_rows(latest) if latest else [],
        chart=chart_of(measurements, monitoring.share_drifted),
        size=(WIDTH, HEIGHT),
        monitoring=monitoring,
        received=window.counters().ingested,
        run=window.last_run(),
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Vary": "Accept"}
    return Response(page, headers=headers)


def verdict_of(latest: Measurement | None, oldest: float) -> Verdict:
    """Return the verdict; a measurement before `oldest` (Unix time in seconds) is stale."""
    if latest is None:
        return Verdict(STATES["not_measured"], False)
    words, is_bad = in_words(latest), latest.drifted or latest.below_floor
    if latest.measured_at is None or latest.measured_at >= oldest:
        return Verdict(words, is_bad)
    measured_at = format_time(latest.measured_at)
    stale = f"No measurement since {measured_at} UTC. Check the measure process."
    return Verdict(f"{stale} Last result: {words}", True)


def in_words(measurement: Measurement) -> str:
    """Return a measurement's results on quality and drift, the worst first."""
    words = []
    if measurement.below_floor:
        floor = measurement.roc_auc_floor
        beyond = f"its floor, {floor:.3f}" if floor is not None else "its floor"
        words.append(f"Quality is too low: the whole interval of the ROC AUC is below {beyond}.")
    if measurement.state != "ok":
        words.append(STATES[measurement.state])
    elif measurement.drifted:
        words.append("The dataset has drifted.")
    elif any(one.persistent for one in (*measurement.features, *measurement.prediction)):
        words.append("Some columns have drifted, but not the dataset as a whole.")
    elif not words and measurement.features:
        words.append("No drift: the window matches the reference data.")
    if measurement.not_compared:
        words.append(f"Too few values to compare: {', '.join(measurement.not_compared)}.")
    return " ".join(words)


def format_time(at: float) -> str:
    """Return a Unix time in UTC, to the second."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def by_impact(latest: Measurement) -> list[Column]:
    """Return the features by impact, the largest first, then the outputs."""
    impacts = {one.feature: one for one in latest.impacts}
    columns = [Column(one, impacts.get(one.name)) for one in latest.features]
    columns.sort(key=lambda one: -one.impact.impact if one.impact else 0.0)
    return columns + [Column(one, None) for one in latest.prediction]


def quality_rows(latest: Measurement) -> list[Metric]:
    """Return each metric, measured from labels and estimated for the whole window."""
    quality, estimate = latest.quality or Quality(0), latest.estimated
    rows = [
        Metric(
            name,
            getattr(quality, name),
            quality.bounds.get(name),
            estimate.metrics.get(name) if estimate else None,
            estimate.bounds.get(name) if estimate else None,
        )
        for name in METRICS
    ]
    return [one for one in rows if one.measured is not None or one.estimated is not None]


def chart_of(measurements: Sequence[Measurement], threshold: float) -> Chart | None:
    """Return the chart of at least two measurements, oldest first, or None."""
    shares = [
        (one.measured_at, sum(column.drifted for column in one.features) / len(one.features))
        for one in measurements
        if one.measured_at is not None and one.features
    ]
    if len(shares) < 2 or shares[0][0] == shares[-1][0]:
        return None
    first, last = shares[0][0], shares[-1][0]
    points = (
        f"{WIDTH * (at - first) / (last - first):.1f},{HEIGHT * (1 - share):.1f}"
        for at, share in shares
    )
    return Chart(" ".join(points), HEIGHT * (1 - threshold), first, last)
