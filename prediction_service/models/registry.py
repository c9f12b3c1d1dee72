"""Access to MLflow's registry, for the follower and the comparison of versions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from requests import RequestException

from config.model.package import digests_in
from config.model_registry import ABSENT, ALIAS, MODEL_NAME, PACKAGE, no_response

REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds per request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the follower itself retries
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryUnavailable(Exception):
    """MLflow cannot be reached or has no such model. The message gives the reason."""


class Wanted(NamedTuple):
    """A model version in the registry that is to be downloaded."""

    version: str
    run_id: str
    uri: str
    digests: dict[str, str]  # hexadecimal sha256 by file name; empty if the registry has none


class Registry:
    """A client of MLflow's registry."""

    def __init__(self, tracking_uri: str, run_id: str = "") -> None:
        """Connect on first use. With a `run_id`, `wanted` is that run's model, not the alias's."""
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        mlflow.set_tracking_uri(tracking_uri)  # these two resolve `models:/` addresses
        mlflow.set_registry_uri(tracking_uri)
        self.client = mlflow.MlflowClient()

    def wanted(self) -> Wanted:
        """Return the version that should be live. Raises RegistryUnavailable."""
        with self._translated():
            if self.run_id:
                return self._wanted_run()
            return wanted_of(self.client.get_model_version_by_alias(MODEL_NAME, ALIAS))

    def version(self, number: str) -> Wanted:
        """Return a version by its number. Raises RegistryUnavailable."""
        with self._translated(f"version {number} of {MODEL_NAME}"):
            return wanted_of(self.client.get_model_version(MODEL_NAME, number))

    def download(self, wanted: Wanted, folder: Path) -> Path:
        """Download a package into an existing folder; return its path.

        Raises RegistryUnavailable.
        """
        with self._translated():
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=wanted.uri, dst_path=str(folder)
            )
        return Path(path)

    def _wanted_run(self) -> Wanted:
        self.client.get_run(self.run_id)  # raises if it does not exist
        query = f"name = '{MODEL_NAME}' and run_id = '{self.run_id}'"
        versions = self.client.search_model_versions(query)
        name = f"run-{self.run_id}"
        if versions:
            # Not `runs:/`: it first retries for 14 s in the run's own folder, which has no model.
            return wanted_of(versions[0])._replace(version=name)
        return Wanted(name, self.run_id, f"runs:/{self.run_id}/{PACKAGE}", {})

    @contextmanager
    def _translated(self, wanted: str = "") -> Iterator[None]:
        try:
            yield
        except MlflowException as err:
            if err.error_code in ABSENT:
                followed = f"run {self.run_id}" if self.run_id else f"{MODEL_NAME}@{ALIAS}"
                raise RegistryUnavailable(
                    f"MLflow at {self.tracking_uri} has no {wanted or followed}, or its files are"
                    f" missing: {err}. Train and promote a version."
                ) from err
            raise RegistryUnavailable(no_response(self.tracking_uri, err)) from err
        except (RequestException, OSError) as err:
            raise RegistryUnavailable(no_response(self.tracking_uri, err)) from err


def wanted_of(version: ModelVersion) -> Wanted:
    """Return what to download for a version of the registered model."""
    number = str(version.version)
    uri = f"models:/{MODEL_NAME}/{number}"
    return Wanted(number, version.run_id or "", uri, digests_in(version.tags))
