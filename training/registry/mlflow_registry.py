"""MLflow: the one module that knows it. Runs, trials, the model, its versions and aliases.

A training run keeps its package under `models_mlflow`, the scikit-learn pipeline beside it for
notebooks, plots, the monitoring reference and the traffic rows. `production` is an alias.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import onnx
from matplotlib.figure import Figure
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, Schema
from mlflow.utils.time import get_current_time_millis
from sklearn.pipeline import Pipeline

from config.contract import Contract
from config.model_registry import (
    ALIAS,
    CARD,
    FILE_SHA256,
    GRAPH,
    GRAPH_SHA256,
    MODEL_NAME,
    PACKAGE,
    file_digests,
)

EXPERIMENT = "income"
DIGEST_LENGTH = 36  # the most that MLflow keeps of a data set's digest
PROMOTIONS = "income-promotions"  # one run for each time that `production` moved
DECISIONS = "income-decisions"  # one for each time that `watch` changed its mind about a training
# How MLflow says that it has no such alias or version.
MISSING = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
# MLflow's client reads these from the environment only.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines a trial, across the bar
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def readable(milliseconds: int) -> str:
    """A time of MLflow's, for people."""
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", "seconds")


class RegistryUnavailable(Exception):
    """MLflow does not answer; the message names its address and the setting."""


def may_pass(err: object) -> bool:
    """True if MLflow could not be reached or failed by itself, and False if it refused."""
    return isinstance(err, MlflowException) and err.get_http_status_code() >= 500


class InputFile(NamedTuple):
    """Rows that a run reads."""

    name: str
    source: str  # a path, an address or where else they come from
    sha256: str
    rows: int
    use: str  # training or judging


class Promotion(NamedTuple):
    """Who asked for a version to be production, and why."""

    who: str
    why: str
    forced: bool = False  # against the gate, or without it


class Expired(NamedTuple):
    """What retention lets go of."""

    runs: list[Run]
    versions: list[ModelVersion]


class Ledger:
    """What became of versions and of causes for a training: two experiments of their own."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self.client = client

    @contextmanager
    def promotion(self, promotion: Promotion, before: str, after: str) -> Iterator[None]:
        """Writes down that production moves; it counts once the body has ended."""
        facts = promotion._asdict() | {"from_version": before, "to_version": after}
        tags = {name: str(value) for name, value in facts.items()}
        run = self.client.create_run(self._experiment(PROMOTIONS), tags=tags)
        yield
        self.client.set_terminated(run.info.run_id)

    def promotions(self) -> list[dict[str, str]]:
        """Every promotion, newest first: at, from_version, to_version, who, why, forced."""
        runs = self.client.search_runs(
            [self._experiment(PROMOTIONS)], "attributes.status = 'FINISHED'"
        )
        return [
            {"at": readable(run.info.start_time)}
            | {
                name: run.data.tags[name]
                for name in ("from_version", "to_version", *Promotion._fields)
            }
            for run in runs
        ]

    def note_decision(self, what: dict[str, str], details: dict[str, str]) -> None:
        """Writes down a decision; one like the last is counted there, with its details."""
        experiment_id = self._experiment(DECISIONS)
        last = self.client.search_runs([experiment_id], max_results=1)
        is_same = last and all(last[0].data.tags.get(name) == what[name] for name in what)
        if is_same:
            run_id, times = last[0].info.run_id, int(last[0].data.tags.get("times", 0)) + 1
        else:
            run_id, times = self.client.create_run(experiment_id, tags=what).info.run_id, 1
        tags = {**details, "times": str(times)}
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self.client.set_terminated(run_id)  # again and again: its end is when it was last made

    def decisions(self) -> list[dict[str, str]]:
        """Every decision about a training, newest first: at, until, times and its tags."""
        runs = self.client.search_runs([self._experiment(DECISIONS)])
        return [
            {
                **run.data.tags,
                "at": readable(run.info.start_time),
                "until": readable(run.info.end_time),
            }
            for run in runs
        ]

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)


class Registry:
    """One MLflow server: tracking, artifacts and model registry."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        mlflow.set_tracking_uri(tracking_uri)
        self.client = mlflow.MlflowClient(tracking_uri)
        self.ledger = Ledger(self.client)
        try:
            self.experiment_id = mlflow.set_experiment(EXPERIMENT).experiment_id
        except MlflowException as err:
            raise RegistryUnavailable(
                f"MLflow does not answer at MLFLOW_TRACKING_URI={tracking_uri}:"
                f" start it (make demo KEEP=1 runs one) or set the address. {err}"
            ) from err

    @contextmanager
    def run(self, tags: dict[str, str], params: dict[str, Any]) -> Iterator[str]:
        """A training run; its id. It is marked failed if the body raises."""
        with mlflow.start_run(tags=tags) as run:
            mlflow.log_params(params)
            yield run.info.run_id

    def finished_run(self, tags: dict[str, str]) -> str | None:
        """The id of the newest finished run that carries all these tags, if there is one."""
        clauses = [f"tags.{name} = '{value}'" for name, value in tags.items()]
        query = " and ".join(["attributes.status = 'FINISHED'", *clauses])
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0].info.run_id if found else None

    def log_trial(
        self, parent_id: str, number: int, params: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """One trial of the search as a child run: one batch, so that logging costs little."""
        now = get_current_time_millis()
        tags = {"mlflow.parentRunId": parent_id, "mlflow.runName": f"trial {number}"}
        run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        self.client.set_terminated(run_id)

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Metrics of the current run."""
        mlflow.log_metrics(metrics)

    def log_inputs(self, run_id: str, inputs: Iterable[InputFile]) -> None:
        """What a run reads, as MLflow's page shows it."""
        self.client.log_inputs(
            run_id,
            [
                DatasetInput(
                    Dataset(
                        one.name,
                        one.sha256[:DIGEST_LENGTH],
                        source_type="file",
                        source=json.dumps({"uri": one.source, "sha256": one.sha256}),
                        profile=json.dumps({"rows": one.rows}),
                    ),
                    [InputTag("mlflow.data.context", one.use)],
                )
                for one in inputs
            ],
        )

    def log_figure(self, name: str, figure: Figure) -> None:
        """A plot of the current run."""
        mlflow.log_figure(figure, f"plots/{name}.png")

    def log_json(self, path: str, content: Any) -> None:
        """A JSON file of the current run."""
        mlflow.log_dict(content, path)

    def log_files(self, folder: Path) -> None:
        """All files under a folder as artifacts of the current run, at the same paths."""
        mlflow.log_artifacts(str(folder))

    def log_pipeline(self, pipeline: Pipeline) -> None:
        """The scikit-learn pipeline, for notebooks; no service loads it."""
        # It warns of pickles at each call; nothing here unpickles one.
        logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)
        # An image has no pip whose version could be noted; nothing here installs from the notes.
        logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
        mlflow.sklearn.log_model(
            pipeline, name="pipeline", serialization_format="cloudpickle", pip_requirements=[]
        )

    def register(self, folder: Path, contract: Contract, tags: dict[str, str]) -> ModelVersion:
        """The package of the current run as a new version of the registered model.

        The sums of its files are among its tags: who downloads them can tell if they were changed.
        """
        columns: list[Any] = [
            ColSpec("string" if f.is_categorical else "float", f.name) for f in contract.inputs
        ]
        logged = mlflow.onnx.log_model(
            onnx.load(folder / "model.onnx"),
            name=PACKAGE,
            signature=ModelSignature(Schema(columns), Schema([ColSpec("float", "probability")])),
            pip_requirements=["onnxruntime"],
        )
        self.client.log_model_artifacts(logged.model_id, str(folder))
        digests = file_digests(folder)
        sums = {GRAPH_SHA256: digests[GRAPH], FILE_SHA256: json.dumps(digests)}
        version = mlflow.register_model(logged.model_uri, MODEL_NAME, tags=sums | tags)
        where = f"Model card: {PACKAGE}/{CARD}, among the artifacts of the run that made this."
        self.client.update_model_version(MODEL_NAME, version.version, description=where)
        return version

    def tag_version(self, version: str, tags: dict[str, str]) -> None:
        """Adds tags to a version."""
        for name, value in tags.items():
            self.client.set_model_version_tag(MODEL_NAME, version, name, value)

    def production(self) -> ModelVersion | None:
        """The version that `production` names, or None before the first promotion."""
        try:
            return self.client.get_model_version_by_alias(MODEL_NAME, ALIAS)
        except MlflowException as err:
            if err.error_code in MISSING:
                return None
            raise

    def production_tags(self) -> dict[str, str]:
        """What the production version was trained on and judged by; nothing before the first."""
        version = self.production()
        return dict(version.tags) if version else {}

    def judged_versions(self) -> int:
        """How many versions the gate has judged so far."""
        return sum("gate" in version.tags for version in self._versions())

    def version(self, number: str) -> ModelVersion | None:
        """A version by its number, or None if there is none; so for what is no number."""
        try:
            return self.client.get_model_version(MODEL_NAME, number)
        except MlflowException as err:
            if err.error_code in MISSING:
                return None
            raise

    def promote(self, version: str, promotion: "Promotion") -> None:
        """Points `production` at a version, and writes down who did it and why."""
        before = self.production()
        with self.ledger.promotion(promotion, before.version if before else "none", version):
            self.client.set_registered_model_alias(MODEL_NAME, ALIAS, version)

    def expired(self, before: datetime, n_versions: int) -> "Expired":
        """What started before a time and made none of the versions that stay.

        Those are production, the one before it, and the newest. The trials of a run that stays,
        stay.
        """
        versions = self._versions()
        production = self.production()
        numbers = {move["from_version"] for move in self.ledger.promotions()[:1]}
        numbers |= {production.version} if production else set()
        newest = versions[:n_versions]
        kept = {v.run_id for v in versions if v in newest or v.version in numbers}
        runs = [
            run
            for run in self._runs_before(before)
            if not kept & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}
        ]
        ids = {run.info.run_id for run in runs}
        return Expired(runs, [version for version in versions if version.run_id in ids])

    def _runs_before(self, before: datetime) -> list[Run]:
        query = f"attributes.start_time < {int(before.timestamp() * 1000)}"
        return mlflow.search_runs([self.experiment_id], query, output_format="list")

    def _versions(self) -> list[ModelVersion]:
        """Every version, newest first."""
        return self.client.search_model_versions(
            f"name = '{MODEL_NAME}'", order_by=["version_number DESC"], max_results=10_000
        )

    def remove(self, expired: "Expired") -> None:
        """Removes versions, artifacts and runs; may be repeated if it was interrupted.

        The rows of the runs stay in MLflow's database, marked as deleted, until `mlflow gc`.
        """
        for version in expired.versions:
            self.client.delete_model_version(MODEL_NAME, version.version)
        for run in expired.runs:
            for model in self._models_of(run):
                get_artifact_repository(model.artifact_location).delete_artifacts()
                self.client.delete_logged_model(model.model_id)
            get_artifact_repository(run.info.artifact_uri).delete_artifacts()
            self.client.delete_run(run.info.run_id)

    def _models_of(self, run: Run) -> list[LoggedModel]:
        query = f"source_run_id = '{run.info.run_id}'"
        return list(self.client.search_logged_models([self.experiment_id], query))

    @contextmanager
    def package_of(self, version: ModelVersion) -> Iterator[Path]:
        """A version's package, downloaded for as long as the body runs."""
        with tempfile.TemporaryDirectory() as folder:
            uri = f"models:/{MODEL_NAME}/{version.version}"
            yield Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
