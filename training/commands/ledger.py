"""Commands for MLflow alone: `history`, `decisions` and `retain`."""

import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from config.runtime.settings import read_settings
from training.registry.mlflow_registry import Registry
from training.settings import Settings

SAY_AFTER_S, GIVE_UP_S = 3.0, 20.0  # of a command that asks MLflow


def run_history(_: Namespace) -> None:
    """Print all promotions, newest first."""
    with patience():
        promotions = open_registry().ledger.promotions()
    for move in promotions:
        marks = ", ".join(mark for mark in ("forced", "untested") if move[mark] == "True")
        moved = f"{move['from_version']} -> {move['to_version']}"
        if move["from_version"] == move["to_version"]:
            moved = f"{move['to_version']} stays"
        who = f"{move['who']} ({marks})" if marks else move["who"]
        print(f"{move['at']}  {moved}  {who}: {move['why']}")


def run_decisions(_: Namespace) -> None:
    """Print all decisions about trainings, newest first."""
    with patience():
        decisions = open_registry().ledger.decisions()
    for one in decisions:
        repeated = f" to {one['until']} ({one['times']} times)" if one["times"] != "1" else ""
        what = f"flow run {one['flow_run']} started" if "flow_run" in one else "no training"
        when = f"{one['at']}{repeated}"
        print(f"{when}  version {one['version']}: {one['cause']}; {what}: {one['why']}")


def run_retain(options: Namespace) -> None:
    """Remove old runs, or list them."""
    settings = read_settings(Settings)
    registry = open_registry()
    expired = registry.expired(settings, datetime.now(UTC))
    if options.dry_run:
        print(*expired.lines(), f"would remove {expired}", sep="\n")
        return
    registry.remove(expired)
    print(f"removed {expired}")


def open_registry() -> Registry:
    """Return the registry of the settings."""
    return Registry(read_settings(Settings).mlflow_tracking_uri)


@contextmanager
def patience() -> Iterator[None]:
    """Say what the body waits for if MLflow responds late; end the command if it does not."""
    address = read_settings(Settings).mlflow_tracking_uri
    waits = iter([GIVE_UP_S - SAY_AFTER_S])

    def ring(*_: object) -> None:
        if pause_s := next(waits, None):
            print(f"waiting for MLflow at {address}", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_REAL, pause_s)
        else:
            sys.exit(f"MLFLOW_TRACKING_URI: no response within {GIVE_UP_S:g} s; got {address}.")

    in_main_thread = threading.current_thread() is threading.main_thread()  # as signals need it
    if not in_main_thread or not address.startswith("http"):  # a database may be made first
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, SAY_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
