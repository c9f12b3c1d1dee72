"""Download the production version's reference data from MLflow's registry, and cache it on disk.

The only module of the service that imports MLflow; only the measure process loads it. Training logs
`monitoring/reference.jsonl` with each run.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import msgspec
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests import RequestException

from config.model.package import check_digests, digests_in
from config.model_registry import (
    ABSENT,
    ALIAS,
    CHALLENGER,
    DECISIONS,
    FALLBACK,
    MODEL_NAME,
    PACKAGE,
    PROMOTIONS,
    REFERENCE,
    no_response,
)
from evidently_service.store.records import Decision, Promotion

LOGGED_MODEL = "models:/"  # start of a version's source that is a model of a run
REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds per request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the next measurement tries again
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryError(Exception):
    """MLflow is unavailable, or the production version or its reference data is unusable."""


class Version(msgspec.Struct, frozen=True):
    """A registered version and the run that made it."""

    number: str
    run_id: str


class Registry:
    """The MLflow server at a tracking URI."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        self.tracking_uri = tracking_uri
        self.client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)

    def production_version(self) -> Version | None:
        """Return the version with the production alias, if any. Raises RegistryError."""
        return self._version(ALIAS)

    def _version(self, alias: str) -> Version | None:
        with self._translated(f"{MODEL_NAME}@{alias}"):
            try:
                version = self.client.get_model_version_by_alias(MODEL_NAME, alias)
            except MlflowException as err:
                if err.error_code in ABSENT:
                    return None
                raise
        return Version(str(version.version), version.run_id or "")

    def download_reference(self, version: Version, folder: Path) -> Path:
        """Download a version's reference file into an existing folder. Raises RegistryError."""
        with self._translated(f"{REFERENCE} of version {version.number}"):
            path = mlflow.artifacts.download_artifacts(
                run_id=version.run_id,
                artifact_path=REFERENCE,
                dst_path=str(folder),
                tracking_uri=self.tracking_uri,
            )
        return Path(path)

    def shadow_version(self) -> tuple[str, Version] | None:
        """Return alias and version of the challenger or else of the fallback, if there is one.

        Raises RegistryError.
        """
        for kind in (CHALLENGER, FALLBACK):
            if version := self._version(kind):
                return kind, version
        return None

    @contextmanager
    def package(self, version: Version) -> Iterator[Path]:
        """Download a version's package and yield its folder, with the checksums of the registry.

        Raises RegistryError or ModelRejected.
        """
        with tempfile.TemporaryDirectory() as folder:
            with self._translated(f"{PACKAGE} of version {version.number}"):
                found = self.client.get_model_version(MODEL_NAME, version.number)
                address = str(found.source)
                if address.startswith(LOGGED_MODEL):
                    model = self.client.get_logged_model(address.removeprefix(LOGGED_MODEL))
                    address = model.artifact_location
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=folder, tracking_uri=self.tracking_uri
                )
            check_digests(Path(path), digests_in(found.tags))
            yield Path(path)

    def last_decision(self) -> Decision | None:
        """Return the newest decision, if any. Raises RegistryError."""
        if (run := self._newest_run(DECISIONS)) is None:
            return None
        since, tags = run.info.start_time, run.data.tags
        until = run.info.end_time or since
        facts = tags["rule"], tags["why"], tags.get("flow_run")
        return Decision(since / 1000, until / 1000, *facts)

    def last_promotion(self) -> Promotion | None:
        """Return the newest change of the production version, if any. Raises RegistryError."""
        run = self._newest_run(PROMOTIONS, "attributes.status = 'FINISHED'")
        if run is None:
            return None
        tags = run.data.tags
        facts = tags["from_version"], tags["to_version"], tags["why"]
        return Promotion(run.info.start_time / 1000, *facts)

    def _newest_run(self, experiment: str, query: str = "") -> Run | None:
        with self._translated(experiment):
            if (found := self.client.get_experiment_by_name(experiment)) is None:
                return None
            runs = self.client.search_runs([found.experiment_id], query, max_results=1)
            return runs[0] if runs else None

    @contextmanager
    def _translated(self, wanted: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, RequestException, OSError) as err:
            raise RegistryError(f"{wanted}: {no_response(self.tracking_uri, err)}") from err


class ReferenceCache:
    """The production version's reference file in a folder, for when MLflow is unavailable."""

    def __init__(self, folder: Path, source: Registry) -> None:
        self.folder = folder
        self.source = source
        self._pointer = folder / "production.json"

    def refresh(self) -> None:
        """Download the production version's file unless it is cached. Raises RegistryError."""
        version = self.source.production_version()
        if version is not None and version != self.version():
            self._download(version)

    def version(self) -> Version | None:
        """Return the version of the cached file, or None if nothing is cached."""
        try:
            return msgspec.json.decode(self._pointer.read_bytes(), type=Version)
        except (FileNotFoundError, ValueError):  # a power cut may leave a damaged file
            return None

    def path(self, version: Version) -> Path:
        """Return the path of a version's file."""
        return self.folder / f"{version.number}.jsonl"

    def _download(self, version: Version) -> None:
        """Replace the file, then the pointer to it; each replacement is atomic."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            downloaded = self.source.download_reference(version, Path(scratch))
            os.replace(downloaded, self.path(version))
            pointer = Path(scratch) / self._pointer.name
            pointer.write_bytes(msgspec.json.encode(version))
            os.replace(pointer, self._pointer)
        for old in self.folder.glob("*.jsonl"):
            if old != self.path(version):
                old.unlink()
