"""How a version becomes production: at once, or as a challenger that live labels must prove first.

The commands `promote` and `rollback` and the flows `train` and `promote` share it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from config.model_registry import ALIAS, CHALLENGER
from config.runtime.settings import read_settings
from training.data.source import SYNTHETIC
from training.errors import ExpectedError
from training.orchestration.tasks import PrefectUnavailable, find_prefect, promotion_turn
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry, number_of
from training.registry.serving import find_laggards
from training.registry.shadow_test import PROVED, REASON, REJECTED, RESULT, challenge
from training.settings import Settings


class PromotionRejected(ExpectedError):
    """A version may not become production; the message says why."""


class ServicesLag(ExpectedError):
    """A service does not use the production version; the message says which, and why."""


def alias_for(data_source: str, registry: Registry, settings: Settings) -> str:
    """Return the alias that a version gets which passed the gate: production or challenger.

    The first version needs no test, and neither does a model of real rows that replaces one of
    synthetic rows.
    """
    production = registry.production()
    if settings.promotion == "direct" or production is None:
        return ALIAS
    replaces_synthetic = production.tags.get("data_source") == SYNTHETIC != data_source
    return ALIAS if replaces_synthetic else CHALLENGER


def promote_version(registry: Registry, number: str, promotion: Promotion) -> bool:
    """Promote a version, or make it the challenger; print which. Return True if it is production.

    promotion: with `forced`, the gate and an earlier test do not matter; with `untested`, no test
    follows.

    Raises PromotionRejected for a version that the gate or its shadow test rejected.
    """
    version = registry.version(number)
    if version is None:
        raise PromotionRejected(f"version: got {number}, expected a version in MLflow.")
    tags, number = version.tags, str(version.version)
    objection = objection_to(tags)
    if objection and not promotion.forced:
        raise PromotionRejected(f"version {number}: {objection}. Use --force.")
    with promotion_lock():
        is_proved = tags.get(RESULT) == PROVED and number_of(registry.named(CHALLENGER)) == number
        alias = alias_for(tags.get("data_source", ""), registry, read_settings(Settings))
        production = number_of(registry.production())
        if alias == ALIAS or is_proved or promotion.untested:
            promotion = promotion._replace(forced=bool(objection))
            guarded = number != registry.ledger.predecessor(production)  # else it goes back
            move_production(registry, number, promotion, guarded=guarded)
            return True
        if number == production:
            raise PromotionRejected(f"version {number}: it is the production version.")
        challenge(registry, number)
    print(
        f"version {number} is the challenger of version {production}: labels decide whether it"
        " becomes production. See `python -m training shadow`; --now skips the test."
    )
    return False


def objection_to(tags: dict[str, str]) -> str:
    """Return why a version with these tags may not be promoted, or an empty text."""
    if tags.get("gate") != "passed":
        return f"did not pass the gate: {tags.get('gate_reason', 'it has no verdict')}"
    if tags.get(RESULT) == REJECTED:
        return f"its shadow test rejected it: {tags.get(REASON)}"
    return ""


@contextmanager
def promotion_lock() -> Iterator[None]:
    """Hold the lock that a training holds from its gate to its promotion.

    If Prefect is down, a warning replaces the lock: a rollback must not need Prefect.
    """
    try:
        find_prefect()
    except PrefectUnavailable as err:
        print(f"{err}\nThe promotion lock is not held.", file=sys.stderr)
        yield
        return
    print("waiting for the promotion lock", flush=True)
    with promotion_turn():
        yield


def move_production(
    registry: Registry, version: str, promotion: Promotion, *, guarded: bool = True
) -> None:
    """Promote a version; print the move before it is made."""
    print(f"production: version {number_of(registry.production())} -> {version}", flush=True)
    registry.promote(version, promotion, guarded=guarded)
    print(f"version {version} is production", flush=True)


def check_services(version: str) -> None:
    """Wait until the services use a version. Raises ServicesLag if they do not."""
    if late := find_laggards(version, read_settings(Settings)):
        raise ServicesLag("\n".join(late))
    print(f"the prediction service and the monitoring use version {version}")
