"""Commands that move `production`: `promote` and `rollback`."""

import sys
from argparse import Namespace

from training.commands.ledger import open_registry, patience
from training.orchestration.promotion import (
    check_services,
    move_production,
    promote_version,
    promotion_lock,
)
from training.registry.ledger import NONE, Promotion
from training.registry.mlflow_registry import number_of


def run_promote(options: Namespace) -> None:
    """Promote a version, or make it the challenger."""
    with patience():
        registry = open_registry()
    promotion = Promotion(options.who, options.why, options.force, options.now)
    if promote_version(registry, options.version, promotion) and not options.no_wait:
        check_services(options.version)


def run_rollback(options: Namespace) -> None:
    """Promote the predecessor of the production version."""
    with patience():
        registry = open_registry()
    with promotion_lock():
        before = number_of(registry.production())
        earlier = registry.ledger.predecessor(before)
        if earlier == NONE:
            sys.exit("rollback: there is no earlier version; see `python -m training history`.")
        if registry.version(earlier) is None:
            sys.exit(
                f"rollback: version {earlier} was production before {before} and no longer exists."
                " Choose a version with `python -m training promote`."
            )
        promotion = Promotion(options.who, f"rollback: {options.why}")
        move_production(registry, earlier, promotion, guarded=False)
    if not options.no_wait:
        check_services(earlier)
