"""The command `worker`."""

from argparse import Namespace

from training.orchestration import worker


def run_worker(options: Namespace) -> None:
    """Run Prefect's worker until it is stopped."""
    worker.run_worker(options.with_healthcheck, options.server_wait_s)
