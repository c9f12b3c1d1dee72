"""The page at `/` for an operator: is the world still the reference's, and how do we know?

Takes what `measure` left in the window and computes nothing but where lines of the chart go.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from flask import Response, render_template, request

from evidently_service.store.records import ColumnDrift, DriftEffect, Interval, Measurement, Quality
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.window import Window

MEASUREMENTS = 300  # of the chart
WIDTH, HEIGHT = 600, 120  # of the chart, in its own units
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
STALE_PERIODS = 12  # a measurement is late by then, and its verdict of the past
METRICS = ("roc_auc", "log_loss", "accuracy", "precision", "recall", "f1")
STATES = {
    "not_measured": "Nothing has been measured yet: the measure process has not run.",
    "not_enough_rows": "Too few predictions have come so far for a comparison.",
    "no_reference": "No version is in production yet, so there is nothing to compare with.",
}


class Verdict(NamedTuple):
    """What the page says first."""

    words: str
    is_bad: bool


class Column(NamedTuple):
    """One row of the drift table."""

    drift: ColumnDrift
    effect: DriftEffect | None  # None: the model's outputs have none


class Metric(NamedTuple):
    """One row of the performance table."""

    name: str
    measured: float | None
    bounds: Interval | None
    estimated: float | None
    estimated_bounds: Interval | None


class Chart(NamedTuple):
    """The share of features beyond their threshold, by measurement; places are those of the SVG."""

    points: str  # of a polyline
    threshold_y: float
    first_at: float  # Unix time in seconds
    last_at: float


def wants_page() -> bool:
    """Whether the request comes from a browser; programs are answered in JSON."""
    kinds = ["application/json", "text/html"]  # the first one where both are as welcome
    return request.accept_mimetypes.best_match(kinds) == "text/html"


def make_page(window: Window, monitoring: Monitoring, period_s: float) -> Response:
    """The page, as of the newest measurement; one is made every `period_s`."""
    measured = window.newest(MEASUREMENTS)
    latest = measured[-1] if measured else None
    page = render_template(
        "page.html",
        latest=latest,
        verdict=verdict_of(
            latest, monitoring.roc_auc_floor, time.time() - STALE_PERIODS * period_s
        ),
        columns=by_effect(latest) if latest else [],
        metrics=performance(latest) if latest else [],
        chart=chart_of(measured, monitoring.share_drifted),
        size=(WIDTH, HEIGHT),
        monitoring=monitoring,
        received=window.counters().ingested,
        run=window.last_run(),
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Vary": "Accept"}
    return Response(page, headers=headers)


def verdict_of(latest: Measurement | None, roc_auc_floor: float, oldest: float) -> Verdict:
    """What a measurement says; one made before `oldest` (Unix time in seconds) says it no more."""
    if latest is None:
        return Verdict(STATES["not_measured"], False)
    words, is_bad = in_words(latest, roc_auc_floor), latest.drifted or latest.below_floor
    if latest.measured_at is None or latest.measured_at >= oldest:
        return Verdict(words, is_bad)
    late = f"Not measured since {readable(latest.measured_at)} UTC: is the measure process running?"
    return Verdict(f"{late} Then: {words}", True)


def in_words(measured: Measurement, roc_auc_floor: float) -> str:
    """What a measurement says of quality and drift, the worst first."""
    words = []
    if measured.below_floor:
        words.append(
            f"Predictions are worse than they may be: ROC AUC is below the floor of {roc_auc_floor}"
            " with its whole interval."
        )
    if measured.state != "ok":
        words.append(STATES[measured.state])
    elif measured.drifted:
        words.append("The people who are asked about have changed: the dataset has drifted.")
    elif any(one.persistent for one in (*measured.features, *measured.prediction)):
        words.append("Single columns have drifted; the dataset as a whole has not.")
    elif not words:
        words.append("All is calm: the window looks like the reference.")
    return " ".join(words)


def readable(at: float) -> str:
    """A Unix time in UTC, to the second."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def by_effect(latest: Measurement) -> list[Column]:
    """The features, those first whose drift moves the model's output most; then the outputs."""
    effects = {one.feature: one for one in latest.effects}
    columns = [Column(one, effects.get(one.name)) for one in latest.features]
    columns.sort(key=lambda one: -one.effect.effect if one.effect else 0.0)
    return columns + [Column(one, None) for one in latest.prediction]


def performance(latest: Measurement) -> list[Metric]:
    """What was measured where labels have come, beside what was estimated for every row."""
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


def chart_of(measured: Sequence[Measurement], threshold: float) -> Chart | None:
    """The chart of two measurements or more, oldest first; the times decide what stands where."""
    shares = [
        (one.measured_at, sum(column.drifted for column in one.features) / len(one.features))
        for one in measured
        if one.measured_at is not None and one.features
    ]
    if len(shares) < 2 or shares[0][0] == shares[-1][0]:
        return None
    first, last = shares[0][0], shares[-1][0]
    places = (
        f"{WIDTH * (at - first) / (last - first):.1f},{HEIGHT * (1 - share):.1f}"
        for at, share in shares
    )
    return Chart(" ".join(places), HEIGHT * (1 - threshold), first, last)
