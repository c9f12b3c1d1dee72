"""The status page at `/` for an operator: has the data drifted, and how good are the predictions?

It shows what the measure process stored in the window. Only the chart's coordinates are calculated.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from flask import Response, render_template, request

from config.alerts import ALERTS, Alert
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.shadow.store import ShadowStore
from evidently_service.store.records import (
    Backlog,
    ColumnDrift,
    DriftImpact,
    FairnessGap,
    Interval,
    Measurement,
    Quality,
    sample_share,
)
from evidently_service.store.window import Window

MEASUREMENTS = 300  # in the chart
WIDTH, HEIGHT = 600, 120  # of the chart, in SVG units
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
MAX_SILENCE_S = 60.0  # of a relay, twice its longest pause; then the page warns
STALE_PERIODS = 12  # without a measurement; then the page warns
METRICS = (
    *("roc_auc", "log_loss", "accuracy", "precision", "recall", "f1"),
    *("calibration_excess", "calibration_slope", "calibration_intercept"),
)
STATES = {
    "not_measured": "Nothing has been measured yet. The measure process has not run.",
    "not_enough_rows": "Too few predictions for a comparison.",
    "no_reference": "Waiting for the first model: no version is in production yet."
    " A scheduled training makes it, or `python -m training train`.",
}


class Verdict(NamedTuple):
    """The first sentence of the page."""

    words: str
    style: Literal["", "unsure", "bad"] = ""


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


def make_page(window: Window, monitoring: Monitoring) -> Response:
    """Return the page of the newest measurements."""
    measurements = window.newest(MEASUREMENTS)
    latest = measurements[-1] if measurements else None
    backlog, newest = window.backlog(), window.last_predictions(1)
    verdict = with_backlog(verdict_of(latest, monitoring), backlog, monitoring)
    page = render_template(
        "page.html",
        latest=latest,
        verdict=verdict,
        alerts=alerts_of(latest, backlog, monitoring) if latest else [],
        backlog=backlog,
        sample=sample_share(backlog),
        is_silent=is_silent,
        newest_at=newest[0].predicted_at if newest else None,
        next_window=next_window(latest, monitoring) if latest else "",
        columns=by_impact(latest) if latest else [],
        metrics=quality_rows(latest) if latest else [],
        chart=chart_of(measurements, monitoring.share_drifted),
        size=(WIDTH, HEIGHT),
        monitoring=monitoring,
        received=window.counters().ingested,
        run=window.last_run(),
        shadow=ShadowStore(window).test(),
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Vary": "Accept"}
    return Response(page, headers=headers)


def is_stale(measurement: Measurement, monitoring: Monitoring) -> bool:
    """Return whether the measurement is older than STALE_PERIODS."""
    oldest = time.time() - STALE_PERIODS * monitoring.measure_period_s
    return measurement.measured_at is not None and measurement.measured_at < oldest


def verdict_of(latest: Measurement | None, monitoring: Monitoring) -> Verdict:
    """Return the verdict, or that there is no current one."""
    if latest is None:
        return Verdict(STATES["not_measured"])
    words = in_words(latest, monitoring)
    if is_stale(latest, monitoring):
        measured_at = format_time(latest.measured_at or 0.0)
        stale = f"No measurement since {measured_at} UTC. Check the measure process."
        return Verdict(f"{stale} Last result: {words}", "bad")
    if latest.drifted or latest.concept_shift or latest.below_floor or latest.grown_gaps:
        return Verdict(words, "bad")
    is_unsure = latest.beyond or latest.verdict in ("joint_drift", "suspicious")
    return Verdict(words, "unsure" if latest.state == "ok" and is_unsure else "")


def with_backlog(verdict: Verdict, backlog: Sequence[Backlog], monitoring: Monitoring) -> Verdict:
    """Return the verdict after what the monitoring lacks: a silent relay, or a window of rows."""
    if silent := next((one for one in backlog if is_silent(one)), None):
        words = f"The relay of {silent.instance} is silent since {format_time(silent.at)} UTC."
        return Verdict(
            f"{words} Newer predictions of it are missing here. Last result: {verdict.words}", "bad"
        )
    if is_behind(backlog, monitoring):
        waiting = sum(one.events for one in backlog)
        return Verdict(f"{waiting:,} predictions wait in the journals. {verdict.words}", "bad")
    return verdict


def is_behind(backlog: Sequence[Backlog], monitoring: Monitoring) -> bool:
    """Return whether as many events as a window has rows wait in the journals."""
    return sum(one.events for one in backlog) >= monitoring.window_rows


def is_silent(relay: Backlog) -> bool:
    """Return whether the relay has reported nothing for longer than its longest pause."""
    return relay.at < time.time() - MAX_SILENCE_S


def alerts_of(
    latest: Measurement, backlog: Sequence[Backlog], monitoring: Monitoring
) -> list[Alert]:
    """Return the alerts whose runbooks the page shows."""
    persistent = any(one.persistent for one in latest.features)
    shown = {  # in the order of the verdict
        "MonitoringStale": is_stale(latest, monitoring),
        "SinkBacklog": is_behind(backlog, monitoring) or any(map(is_silent, backlog)),
        "ConceptShift": latest.concept_shift,
        "PerformanceBelowFloor": latest.below_floor,
        "FairnessGap": latest.grown_gaps,
        "InvalidValues": latest.broken_features,
        "DatasetDrift": latest.drifted,
        "FeatureDrift": persistent and not latest.drifted,
        "JointDrift": latest.verdict == "joint_drift",
        "TargetDrift": any(one.persistent for one in latest.prediction),
    }
    by_name = {alert.name: alert for alert in ALERTS}
    return [by_name[name] for name, applies in shown.items() if applies]


def in_words(measurement: Measurement, monitoring: Monitoring) -> str:
    """Return a measurement's results on quality and drift, the worst first."""
    beyond, waiting = measurement.beyond, next_window(measurement, monitoring)
    joint = joint_words(measurement)
    words = []
    if measurement.concept_shift:
        words.append("Concept shift: the labels contradict the probabilities of the same rows.")
    if measurement.below_floor:
        floor = measurement.roc_auc_floor
        limit = f"its floor, {floor:.3f}" if floor is not None else "its floor"
        words.append(f"Quality is too low: the whole interval of the ROC AUC is below {limit}.")
    words += map(gap_words, measurement.grown_gaps)
    match measurement.verdict:
        case "drifted" if not measurement.judgement.windows:
            words.append("The dataset had drifted from the reference data of the former version.")
            words.append(f"This version is not judged yet. {waiting}")
        case "drifted":
            words.append("The dataset has drifted.")
        case "columns_drifted":
            words.append("Some columns have drifted, but not the dataset as a whole.")
        case "not_judged":
            columns = len(measurement.features) + len(measurement.prediction)
            words.append(f"Not judged yet: {len(beyond)} of {columns} columns are beyond their")
            words.append(f"threshold so far. {waiting}")
        case "joint_drift":
            words.append(f"The features have drifted together, no column alone: {joint}.")
        case "suspicious":
            what = ", ".join(beyond) or f"{joint} together"
            words.append(f"Suspicious: {what} beyond the threshold. {waiting}")
        case "calm":
            if not words and measurement.features:
                words.append("No drift: the window matches the reference data.")
        case state:
            words.append(STATES[state])
    if measurement.not_compared:
        words.append(f"Too few values to compare: {', '.join(measurement.not_compared)}.")
    return " ".join(words)


def gap_words(gap: FairnessGap) -> str:
    """Return a sentence on a gap between groups that is beyond its bound."""
    return (
        f"A gap between groups has grown: {gap.rate.replace('_', ' ')} of {gap.segment},"
        f" {gap.highest} {gap.gap:.3f} above {gap.lowest}, {gap.reference_gap:.3f} in the reference"
        " data."
    )


def joint_words(measurement: Measurement) -> str:
    """Return the columns that drifted together."""
    found = measurement.judgement.joint
    return " with ".join(found.columns) if found else ""


def format_age(at: float) -> str:
    """Return the time since a Unix time in words, in its largest unit."""
    seconds = time.time() - at
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} seconds ago"


def next_window(measurement: Measurement, monitoring: Monitoring) -> str:
    """Return when the next window is judged, in a sentence."""
    at, not_before = measurement.measured_at, measurement.judgement.not_before
    if at is not None and at < not_before:
        return f"The next window starts at {format_time(not_before)[-8:-3]} UTC."
    return (
        f"The next window has {measurement.open_rows:,} of {monitoring.window_rows:,} predictions."
    )


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
