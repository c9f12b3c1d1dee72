"""MLflow's registry, from which the production version's reference comes.

The one module of the service that knows MLflow; only `measure` imports it. Training logs
`monitoring/reference.jsonl` with each run; `References` keeps the production version's on disk.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import mlflow
import msgspec
from mlflow.exceptions import MlflowException
from requests import RequestException

from config.model_registry import ALIAS, MODEL_NAME, REFERENCE

REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds per request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the next measurement asks again
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryError(Exception):
    """MLflow does not answer, or has no production version or reference; says which."""


class Version(msgspec.Struct, frozen=True):
    """A registered version and the run that made it."""

    number: str
    run_id: str


class Source(Protocol):
    """Where references come from: MLflow, or a test's own."""

    def production_version(self) -> Version:
        """The version to watch. Raises RegistryError."""

    def download_reference(self, version: Version, folder: Path) -> Path:
        """Its reference as a file in the folder. Raises RegistryError."""


class Registry:
    """The MLflow server at a tracking URI."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        self.tracking_uri = tracking_uri
        self.client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)

    def production_version(self) -> Version:
        """The version that the alias names. Raises RegistryError."""
        with self._translated(f"{MODEL_NAME}@{ALIAS}"):
            version = self.client.get_model_version_by_alias(MODEL_NAME, ALIAS)
        return Version(str(version.version), version.run_id or "")

    def download_reference(self, version: Version, folder: Path) -> Path:
        """The version's reference, downloaded into an existing folder. Raises RegistryError."""
        with self._translated(f"{REFERENCE} of version {version.number}"):
            path = mlflow.artifacts.download_artifacts(
                run_id=version.run_id,
                artifact_path=REFERENCE,
                dst_path=str(folder),
                tracking_uri=self.tracking_uri,
            )
        return Path(path)

    @contextmanager
    def _translated(self, wanted: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, RequestException, OSError) as err:
            raise RegistryError(
                f"no {wanted} from MLflow at {self.tracking_uri} (MLFLOW_TRACKING_URI): {err}"
            ) from err


class References:
    """The production version's reference, kept in a folder for when the registry is away."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.source = source
        self._pointer = folder / "production.json"

    def follow(self) -> None:
        """Fetches the production version's reference unless it is here. Raises RegistryError."""
        version = self.source.production_version()
        if version != self.version():
            self._fetch(version)

    def version(self) -> Version | None:
        """The version whose reference is here, or None before the first."""
        try:
            return msgspec.json.decode(self._pointer.read_bytes(), type=Version)
        except (FileNotFoundError, msgspec.DecodeError):  # a power cut may leave an empty file
            return None

    def path(self, version: Version) -> Path:
        """Where a version's reference lies: one JSON object per line."""
        return self.folder / f"{version.number}.jsonl"

    def _fetch(self, version: Version) -> None:
        """Puts a reference and then the pointer to it in place, each at once or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            found = self.source.download_reference(version, Path(scratch))
            os.replace(found, self.path(version))
            fresh = Path(scratch) / self._pointer.name
            fresh.write_bytes(msgspec.json.encode(version))
            os.replace(fresh, self._pointer)
        for old in self.folder.glob("*.jsonl"):
            if old != self.path(version):
                old.unlink()
