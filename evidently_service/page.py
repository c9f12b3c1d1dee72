"""The page at `/` for an operator: is the world still the reference's, and how do we know?

Takes what `measure` left in the window and computes nothing but where lines of the chart go.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flask import Response, render_template, request

from evidently_service.measurement import ColumnDrift, DriftEffect, Interval, Measurement, Quality
from evidently_service.monitoring import Monitoring
from evidently_service.window import Window

MEASUREMENTS = 300  # of the chart
WIDTH, HEIGHT = 600, 120  # of the chart, in its own units
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
METRICS = ("roc_auc", "log_loss", "accuracy", "precision", "recall", "f1")
STATES = {
    "not_measured": "Nothing has been measured yet: the measure process has not run.",
    "not_enough_rows": "Too few predictions have come so far for a comparison.",
    "no_reference": "No version is in production yet, so there is nothing to compare with.",
}


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


def make_page(window: Window, monitoring: Monitoring) -> Response:
    """The page, as of the newest measurement."""
    measured = window.newest(MEASUREMENTS)
    latest = measured[-1] if measured else None
    page = render_template(
        "page.html",
        latest=latest,
        said=verdict_in_words(latest),
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


def verdict_in_words(latest: Measurement | None) -> str:
    """What a measurement says, in a sentence."""
    if latest is None or latest.state != "ok":
        return STATES[latest.state if latest else "not_measured"]
    if latest.drifted:
        return "The people who are asked about have changed: the dataset has drifted."
    if any(one.persistent for one in (*latest.features, *latest.prediction)):
        return "Single columns have drifted; the dataset as a whole has not."
    return "All is calm: the window looks like the reference."


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
