"""What follows from a shadow test or the figures of serving: promote, reject, undo or keep."""

from collections.abc import Callable, Mapping
from typing import Any

from config.model_registry import ALIAS, FALLBACK
from training.evaluation.serving_bounds import Served, serving_problem
from training.orchestration.tasks import announce, promotion_turn
from training.registry import shadow_test
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry, number_of
from training.settings import Settings


def carry_out(state: Mapping[str, Any], settings: Settings) -> str:
    """Do what a response of `GET /shadow` decided; return it in words, empty if nothing was due.

    Nothing is due if the aliases have moved since, or if a person was already asked to promote.
    """
    registry = Registry(settings.mlflow_tracking_uri)
    version, production, why = state["version"], state["production"], state["why"]
    asks = state["verdict"] == "promote" and settings.promotion == "ask"

    def is_due() -> bool:
        shadow = registry.named(state["kind"])
        if asks and shadow and shadow.tags.get(shadow_test.RESULT) == shadow_test.PROVED:
            return False
        return (number_of(shadow), number_of(registry.production())) == (version, production)

    def act() -> str:
        match state["verdict"]:
            case "promote" if asks:
                shadow_test.end_test(registry, version, shadow_test.PROVED, why)
                what = f"version {version} waits for its promotion"
                announce(what, f"{why}. python -m training promote {version} --why ...")
                return f"{what}: {why}"
            case "promote":
                registry.promote(version, Promotion(shadow_test.WHO, why))
            case "reject":
                shadow_test.end_test(registry, version, shadow_test.REJECTED, why)
            case "undo":
                return undo(registry, why)
            case "keep":
                shadow_test.end_test(registry, production, shadow_test.KEPT, why)
        return f"{state['verdict']}: {state['kind']} {version}: {why}"

    return in_turn(is_due, act)


def undo_by_figures(served: Mapping[str, Served], settings: Settings) -> str:
    """Undo the last promotion if the new version breaks a bound of serving; return it in words."""
    registry = Registry(settings.mlflow_tracking_uri)

    def problem() -> str:
        new, former = registry.named(ALIAS), registry.named(FALLBACK)
        if not new or not former:
            return ""
        if new.tags.get(shadow_test.RESULT) == shadow_test.REJECTED:
            return ""  # someone forced it after it was undone, and its counts are older than that
        return serving_problem(*(served.get(number_of(one), Served()) for one in (new, former)))

    return in_turn(problem, lambda: undo(registry, problem()))


def in_turn(is_due: Callable[[], Any], act: Callable[[], str]) -> str:
    """Act in the turn for promotions, if something is due before the turn and in it."""
    if is_due():
        with promotion_turn():
            if is_due():
                return act()
    return ""


def undo(registry: Registry, why: str) -> str:
    """Move production back to the fallback, and notify; return it in words."""
    bad, good = (number_of(registry.named(alias)) for alias in (ALIAS, FALLBACK))
    shadow_test.undo(registry, why)
    what = f"version {bad} was undone, version {good} is production again"
    announce(what, why)
    return f"{what}: {why}"
