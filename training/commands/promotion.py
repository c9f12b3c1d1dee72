"""Commands that move `production`: `promote` and `rollback`."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from config.runtime.settings import read_settings
from training.commands.ledger import open_registry, patience
from training.orchestration.tasks import PrefectUnavailable, find_prefect, promotion_turn
from training.registry.ledger import NONE, Promotion
from training.registry.mlflow_registry import Registry
from training.registry.serving import find_laggards
from training.settings import Settings


def run_promote(options: Namespace) -> None:
    """Promote a version that passed the gate, or any version with --force."""
    with patience():
        registry = open_registry()
        version = registry.version(options.version)
    if version is None:
        sys.exit(f"version: got {options.version}, expected a version in MLflow.")
    passed = version.tags.get("gate") == "passed"
    if not passed and not options.force:
        reason = version.tags.get("gate_reason", "it has no verdict")
        sys.exit(f"version {version.version}: did not pass the gate: {reason}. Use --force.")
    with promotion_lock():
        promotion = Promotion(options.who, options.why, not passed)
        move_production(registry, version.version, promotion)
    check_services(version.version, options.no_wait)


def run_rollback(options: Namespace) -> None:
    """Promote the predecessor of the production version."""
    with patience():
        registry = open_registry()
    with promotion_lock():
        before = production_number(registry)
        earlier = registry.ledger.predecessor(before)
        if earlier == NONE:
            sys.exit("rollback: there is no earlier version; see `python -m training history`.")
        if registry.version(earlier) is None:
            sys.exit(
                f"rollback: version {earlier} was production before {before} and no longer exists."
                " Choose a version with `python -m training promote`."
            )
        move_production(registry, earlier, Promotion(options.who, f"rollback: {options.why}"))
    check_services(earlier, options.no_wait)


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


def move_production(registry: Registry, version: str, promotion: Promotion) -> None:
    """Promote a version; print the move before it is made."""
    print(f"production: version {production_number(registry)} -> {version}", flush=True)
    registry.promote(version, promotion)
    print(f"version {version} is production", flush=True)


def check_services(version: str, no_wait: bool) -> None:
    """Wait until the services use a version; exit with status 1 and the reasons if they do not."""
    if no_wait:
        return
    if late := find_laggards(str(version), read_settings(Settings)):
        sys.exit("\n".join(late))
    print(f"the prediction service and the monitoring use version {version}")


def production_number(registry: Registry) -> str:
    """Return the number of the production version, or `none`."""
    version = registry.production()
    return str(version.version) if version else NONE
