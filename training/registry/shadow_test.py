"""The start and the ends of a shadow test in MLflow: aliases, tags and the ledger.

The monitoring scores the shadow version on the traffic of production and compares both by labels.
The shadow is the challenger, or after a promotion the fallback: the former production version.
"""

from config.model_registry import CHALLENGER, FALLBACK, MODEL_NAME
from training.registry.ledger import UNDONE, Promotion
from training.registry.mlflow_registry import Registry, number_of

WHO = "shadow test"  # in the ledger, in place of a person
RESULT, REASON = "shadow", "shadow_reason"  # tags of a version
PROVED, REJECTED, KEPT = "proved", "rejected", "kept"  # results


def challenge(registry: Registry, version: str) -> None:
    """Make a version the challenger, without the result of an earlier test."""
    for name in (RESULT, REASON):
        registry.client.delete_model_version_tag(MODEL_NAME, version, name)
    registry.client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version)


def end_test(registry: Registry, version: str, result: str, why: str) -> None:
    """Write a result that leaves production in place to the version's tags and the ledger.

    version: the challenger, or production if it is KEPT.
    result: PROVED, REJECTED or KEPT. The last two remove the alias of the shadow.
    """
    production = number_of(registry.production())
    promotion = Promotion(WHO, f"version {version} {result}: {why}")
    with registry.ledger.promotion(promotion, production, production):
        tag(registry, version, result, why)
        if alias := {REJECTED: CHALLENGER, KEPT: FALLBACK}.get(result):
            registry.client.delete_registered_model_alias(MODEL_NAME, alias)


def undo(registry: Registry, why: str) -> None:
    """Move production back to the fallback, and reject the version that it leaves."""
    promotion = Promotion(WHO, f"{UNDONE}{why}")
    tag(registry, number_of(registry.production()), REJECTED, promotion.why)
    registry.promote(number_of(registry.named(FALLBACK)), promotion, guarded=False)


def tag(registry: Registry, version: str, result: str, why: str) -> None:
    """Set the tags of a result, the reason first."""
    for name, text in ((REASON, why), (RESULT, result)):
        registry.client.set_model_version_tag(MODEL_NAME, version, name, text)
