"""Retention: removes old training runs. `python -m training retain`, and a daily Prefect flow.

After RUN_RETENTION_DAYS a run is removed with its trials and artifacts. The runs of the production
version, of its predecessor, of the challenger, of the fallback and of the newest versions stay, and
so does the run of MODEL_RUN_ID.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from training.registry.mlflow_registry import Expired, Registry
from training.settings import Settings

KEPT_VERSIONS = 5  # of any age, for a rollback


def find_expired(
    registry: Registry,
    settings: Settings,
    now: datetime | None = None,
    n_versions: int = KEPT_VERSIONS,
) -> Expired:
    """Return what retention removes at `now`; the newest `n_versions` always stay."""
    if not settings.run_retention_days:
        return Expired([], [])
    age = timedelta(days=settings.run_retention_days)
    before = (now or datetime.now(UTC)) - age
    return registry.expired(before, n_versions, settings.model_run_id)


def describe_each(expired: Expired) -> Iterator[str]:
    """Yield a line for each version and each run."""
    for version in expired.versions:
        yield f"version {version.version} of run {version.run_id}"
    for run in expired.runs:
        started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        yield f"run {run.info.run_id} of {started:%Y-%m-%d %H:%M} UTC, {run.info.run_name}"


def summary(expired: Expired) -> str:
    """Return the numbers of runs and versions in one line."""
    return f"{len(expired.runs)} runs with their artifacts, {len(expired.versions)} model versions"
