"""A real MLflow registry, with SQLite and artifacts in a folder, and a fake of it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from config.model_registry import ALIAS, FILE_SHA256, MODEL_NAME, PACKAGE, file_digests
from evidently_service.reference.registry import Registry, RegistryError, Version
from tests.conftest import mlflow_database


class RegistryFile:
    """Promotes versions as training does: a run with reference data, a version, the alias."""

    def __init__(self, folder: Path) -> None:
        self.uri = mlflow_database(folder)
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        artifacts = (folder / "artifacts").as_uri()
        self.experiment = self.client.create_experiment("census", artifact_location=artifacts)
        self.client.create_registered_model(MODEL_NAME)

    def promote(
        self, reference: list[dict[str, Any]] | None, package: Path | None = None
    ) -> Version:
        """Put a new version in production; None: its run logged no such files."""
        run = self.client.create_run(self.experiment)
        if reference is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "reference.jsonl"
                lines = (json.dumps(row, separators=(",", ":")) + "\n" for row in reference)
                path.write_text("".join(lines), encoding="utf-8")
                self.client.log_artifact(run.info.run_id, str(path), "monitoring")
        tags = {}
        if package is not None:
            self.client.log_artifacts(run.info.run_id, str(package), PACKAGE)
            tags = {FILE_SHA256: json.dumps(file_digests(package))}
        source = f"{run.info.artifact_uri}/{PACKAGE}"
        made = self.client.create_model_version(MODEL_NAME, source, run.info.run_id, tags=tags)
        self.client.set_registered_model_alias(MODEL_NAME, ALIAS, made.version)
        return Version(str(made.version), run.info.run_id)

    def demote(self) -> None:
        """Remove the version in production, if there is one."""
        try:
            self.client.delete_registered_model_alias(MODEL_NAME, ALIAS)
        except MlflowException:
            pass  # there was none


class FakeRegistry(Registry):
    """A registry whose production version and its rows are set by the test."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__("http://127.0.0.1:9")
        self.rows: list[dict[str, Any]] | None = rows  # None: the registry is unavailable
        self.version = Version("1", "run-1")

    def promote(self, number: str, rows: list[dict[str, Any]]) -> None:
        """Put a version in production."""
        self.rows, self.version = rows, Version(number, f"run-{number}")

    def production_version(self) -> Version | None:
        """Return the version in production."""
        if self.rows is None:
            raise RegistryError("no version in production")
        return self.version

    def last_decision(self) -> None:
        """Return no decision."""

    def last_promotion(self) -> None:
        """Return no promotion."""

    def download_reference(self, version: Version, folder: Path) -> Path:
        """Write the rows to a file."""
        path = folder / "reference.jsonl"
        path.write_bytes(msgspec.json.Encoder().encode_lines(self.rows or []))
        return path
