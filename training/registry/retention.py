"""Lets go of old trainings: `python -m training retain`, and a Prefect flow once a day.

After RUN_RETENTION_DAYS a run goes with its trials and artifacts, unless it made the production
version or one of the newest ones.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from training.registry.mlflow_registry import Expired, Registry
from training.settings import Settings

KEPT_VERSIONS = 5  # to roll back to, however old


def find_expired(
    registry: Registry,
    settings: Settings,
    now: datetime | None = None,
    n_versions: int = KEPT_VERSIONS,
) -> Expired:
    """What retention would remove now; the newest `n_versions` stay in any case."""
    if not settings.run_retention_days:
        return Expired([], [])
    age = timedelta(days=settings.run_retention_days)
    return registry.expired((now or datetime.now(UTC)) - age, n_versions)


def listing(expired: Expired) -> Iterator[str]:
    """Each version and each run, in a line."""
    for version in expired.versions:
        yield f"version {version.version} of run {version.run_id}"
    for run in expired.runs:
        started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        yield f"run {run.info.run_id} of {started:%Y-%m-%d %H:%M} UTC, {run.info.run_name}"


def summary(expired: Expired) -> str:
    """What is removed, in a line."""
    return f"{len(expired.runs)} runs with their artifacts, {len(expired.versions)} model versions"
