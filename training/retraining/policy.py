"""Whether drift leads to a training, and why not: the rules, without the world they ask about.

`watch` gives what it has been told and has found out; it carries the Decision out and writes it
down.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from training.settings import Settings

BUDGET_PERIOD_S = 30 * 24 * 3600.0
LONGEST_BACK_OFF = 10  # doublings of the cool-down


class Cause(NamedTuple):
    """What the monitoring has seen that a training may mend."""

    what: str
    version: str | None  # that is in production, for all that the monitoring knows
    since: float  # Unix time from which rows are of the changed world, as far as one can tell
    is_judged: bool = True  # by rows that came since this version is compared with


class Facts(NamedTuple):
    """What is known of trainings. Times are Unix times in seconds."""

    production: str | None  # the production version
    fresh_labels: int  # rows that no training has seen yet
    started: tuple[float, ...] = ()  # trainings that drift has started in BUDGET_PERIOD_S
    fruitless: int = 0  # how many of them production is older than: none of those was promoted
    running: str | None = None  # the name of the one that has not ended


class Decision(NamedTuple):
    """To train or not, and why."""

    train: bool
    rule: str  # which rule said so: one word for the ledger
    why: str


def cause_of(verdict: Mapping[str, Any]) -> Cause | None:
    """What `GET /drift` of the Evidently service gives as a cause for a training, if anything."""
    version, judgement = verdict.get("model_version"), verdict.get("judgement", {})
    if verdict["drifted"]:
        columns = ", ".join(judgement["persistent"])
        return Cause(
            f"{verdict['share_drifted']:.0%} of the features have drifted ({columns})",
            version,
            judgement["changed_by"] or 0.0,
            # A verdict stays over a promotion until windows of the new reference clear it.
            judgement["drifted_from"] == version,
        )
    if verdict["below_floor"]:
        quality = verdict["quality"]
        auc, upper = quality["roc_auc"], quality["bounds"]["roc_auc"]["upper"]
        what = f"ROC AUC {auc:.3f} of {quality['rows']} labelled rows (at most {upper:.3f})"
        return Cause(f"{what} is below its floor", version, quality["since"])
    return None


def decide(cause: Cause, facts: Facts, settings: Settings, now: float) -> Decision:
    """A training, unless a rule objects; the first that does says why not."""
    rule, why = next(objections(cause, facts, settings, now), (None, ""))
    if rule:
        return Decision(False, rule, why)
    return Decision(True, "train", f"{facts.fresh_labels} fresh labelled rows")


def objections(
    cause: Cause, facts: Facts, settings: Settings, now: float
) -> Iterator[tuple[str, str]]:
    """Every rule against a training now, and what it says.

    A candidate that was not promoted doubles the time until the next try: nothing is trained again
    and again on what has not helped.
    """
    if facts.running:
        yield "running", f"flow run {facts.running} has not ended"
    if facts.production is None or cause.version != facts.production:
        known = f"production is {facts.production or 'none'}"
        yield "version", f"{known}, the monitoring knows {cause.version or 'none'}"
    if not cause.is_judged:
        yield "not judged", f"too few rows since version {cause.version} was promoted"
    pause = settings.watch_cooldown_s * 2 ** min(facts.fruitless, LONGEST_BACK_OFF)
    waited = now - max(facts.started, default=float("-inf"))
    if waited < pause:
        tries = f" after {facts.fruitless} without a promotion" if facts.fruitless else ""
        why = f"the last one was started {waited:.0f} s ago, expected {pause:.0f} s{tries}"
        yield "back-off" if tries else "cool-down", why
    if len(facts.started) >= settings.watch_budget:
        why = f"{len(facts.started)} were started in 30 days, expected at most"
        yield "budget", f"{why} WATCH_BUDGET={settings.watch_budget}"
    if facts.fresh_labels < settings.watch_min_labels:
        why = f"{facts.fresh_labels} fresh labelled rows, expected WATCH_MIN_LABELS="
        remedy = "send what came true to /feedback, and without MongoDB ingest the journal's export"
        yield "labels", f"{why}{settings.watch_min_labels}: {remedy}"
