"""MLflow's registry: the one module of the service that knows it. Only the follower imports it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow
import msgspec
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from requests import RequestException

from config.model_registry import ALIAS, FILE_SHA256, GRAPH, GRAPH_SHA256, MODEL_NAME, PACKAGE

REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds per request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the follower itself comes back
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# What MLflow says of a name, an alias or a run that is not there; the second is for an alias.
ABSENT = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE")


class RegistryUnavailable(Exception):
    """MLflow cannot be reached or has no such model; the message says which."""


class Wanted(NamedTuple):
    """The model that the registry says to serve."""

    version: str
    run_id: str
    uri: str
    digests: dict[str, str]  # hex sha256 by file; empty if the registry does not say


class Registry:
    """Where a model is looked up and downloaded from."""

    def __init__(self, tracking_uri: str, run_id: str = "") -> None:
        """With a `run_id`, that run's model is wanted instead of the alias's version."""
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        mlflow.set_tracking_uri(tracking_uri)  # `models:/` addresses are resolved by these two
        mlflow.set_registry_uri(tracking_uri)
        self.client = mlflow.MlflowClient()

    def wanted(self) -> Wanted:
        """The model to serve. Raises RegistryUnavailable."""
        with self._translated():
            return self._wanted_run() if self.run_id else self._wanted_version()

    def version(self, number: str) -> Wanted:
        """A version by its number, to be served or not. Raises RegistryUnavailable."""
        with self._translated(f"version {number} of {MODEL_NAME}"):
            return wanted_of(self.client.get_model_version(MODEL_NAME, number))

    def download(self, wanted: Wanted, folder: Path) -> Path:
        """The package, downloaded into an existing folder. Raises RegistryUnavailable."""
        with self._translated():
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=wanted.uri, dst_path=str(folder)
            )
        return Path(path)

    def _wanted_version(self) -> Wanted:
        return wanted_of(self.client.get_model_version_by_alias(MODEL_NAME, ALIAS))

    def _wanted_run(self) -> Wanted:
        self.client.get_run(self.run_id)  # or it is absent
        query = f"name = '{MODEL_NAME}' and run_id = '{self.run_id}'"
        versions = self.client.search_model_versions(query)
        name = f"run-{self.run_id}"
        if versions:
            # `runs:/` looks in the run's own folder first, which has no model: 14 s of retries.
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
                    f"MLflow at {self.tracking_uri} has no {wanted or followed}, or not its files:"
                    f" train and promote a version. {err}"
                ) from err
            raise RegistryUnavailable(self._unreached(err)) from err
        except (RequestException, OSError) as err:
            raise RegistryUnavailable(self._unreached(err)) from err

    def _unreached(self, err: Exception) -> str:
        return f"MLflow does not answer at {self.tracking_uri} (MLFLOW_TRACKING_URI): {err}"


def wanted_of(version: ModelVersion) -> Wanted:
    """What to download for a version of the registered model."""
    number = str(version.version)
    uri = f"models:/{MODEL_NAME}/{number}"
    return Wanted(number, version.run_id or "", uri, digests_in(version.tags))


def digests_in(tags: dict[str, str]) -> dict[str, str]:
    """The sums that a version's tags hold; of the graph alone in those of earlier releases."""
    if FILE_SHA256 in tags:
        try:
            return msgspec.json.decode(tags[FILE_SHA256], type=dict[str, str])
        except msgspec.DecodeError:
            return {}
    return {GRAPH: tags[GRAPH_SHA256]} if GRAPH_SHA256 in tags else {}
