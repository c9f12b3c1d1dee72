"""Decide whether drift starts a training. Pure functions; no I/O.

`watch` collects the facts and carries out the decision.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from training.settings import Settings

BUDGET_PERIOD_S = 30 * 24 * 3600.0
MAX_BACK_OFF = 10  # doublings of the cool-down


class Cause(NamedTuple):
    """A finding of the monitoring that a training may fix."""

    what: str
    version: str | None  # production version that the monitoring observes
    since: float  # Unix time of the change, as far as known
    is_judged: bool = True  # by rows that arrived after this version's promotion
    broken: tuple[str, ...] = ()  # features with far more invalid values than the reference data


class Facts(NamedTuple):
    """What is known about trainings. Times are Unix times."""

    production: str | None  # the production version
    fresh_labels: int  # labelled rows that no training has seen
    started: tuple[float, ...] = ()  # trainings that drift started in BUDGET_PERIOD_S
    unpromoted: int = 0  # how many of them started after the newest promoted version was made
    running: str | None = None  # name of one that has not ended
    tested: str | None = None  # version that labels test beside production


class Decision(NamedTuple):
    """Whether to train, and why."""

    train: bool
    rule: str  # the deciding rule, for the ledger
    why: str


def cause_of(verdict: Mapping[str, Any]) -> Cause | None:
    """Return the cause in a response of `GET /drift` of the Evidently service, if any."""
    version, judgement = verdict.get("model_version"), verdict.get("judgement", {})
    broken = tuple(verdict["broken_features"])
    if verdict["drifted"]:
        columns = ", ".join(judgement["persistent"])
        return Cause(
            f"{verdict['share_drifted']:.0%} of the features have drifted; columns and outputs:"
            f" {columns}",
            version,
            judgement["changed_by"] or 0.0,
            # After a promotion a verdict stays until windows of the new reference clear it.
            judgement["drifted_from"] == version,
            broken,
        )
    if verdict["concept_shift"]:
        quality, scores = verdict["quality"], verdict["concept_shift_scores"].items()
        checks = ", ".join(f"{name} {score:.1f} times its limit" for name, score in scores)
        what = f"{quality['rows']} labels contradict the probabilities ({checks})"
        return Cause(what, version, quality["since"], broken=broken)
    return None


def decide(cause: Cause, facts: Facts, settings: Settings, now: float) -> Decision:
    """Decide for a training unless a rule objects; the first objection is the reason."""
    rule, why = next(objections(cause, facts, settings, now), (None, ""))
    if rule:
        return Decision(False, rule, why)
    return Decision(True, "train", f"{facts.fresh_labels} fresh labelled rows")


def objections(
    cause: Cause, facts: Facts, settings: Settings, now: float
) -> Iterator[tuple[str, str]]:
    """Yield each rule against a training now, with its reason.

    Each candidate that was not promoted doubles the cool-down.
    """
    if cause.broken:
        columns = ", ".join(cause.broken)
        yield "upstream", f"far more invalid values than before ({columns}); fix upstream first"
    if facts.running:
        yield "running", f"flow run {facts.running} has not ended"
    if facts.production is None or cause.version != facts.production:
        known = f"production is {facts.production or 'none'}"
        yield "version", f"{known}, the monitoring observes {cause.version or 'none'}"
    if not cause.is_judged:
        yield "not judged", f"too few rows since version {cause.version} was promoted"
    if facts.tested:
        yield "tested", f"version {facts.tested} is tested beside production first"
    pause = settings.watch_cooldown_s * 2 ** min(facts.unpromoted, MAX_BACK_OFF)
    waited = now - max(facts.started, default=float("-inf"))
    if waited < pause:
        tries = f" after {facts.unpromoted} without a promotion" if facts.unpromoted else ""
        start = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now - waited + pause))
        why = f"the last one started {waited:.0f} s ago, the next may at {start} UTC{tries}"
        yield "back-off" if tries else "cool-down", why
    if len(facts.started) >= settings.watch_budget:
        why = f"{len(facts.started)} started in 30 days, expected at most"
        yield "budget", f"{why} WATCH_BUDGET={settings.watch_budget}"
    if facts.fresh_labels < settings.watch_min_labels:
        why = f"{facts.fresh_labels} fresh labelled rows, expected at least WATCH_MIN_LABELS="
        remedy = "Send labels to /feedback with an API key; without MongoDB, ingest an export"
        yield "labels", f"{why}{settings.watch_min_labels}. {remedy}"
