"""MLflow: runs, trials, the registered model, its versions and their aliases.

A training run has the package under `models_mlflow`, the scikit-learn pipeline for notebooks,
plots, the monitoring reference and the traffic rows.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlflow
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, Schema
from mlflow.utils.time import get_current_time_millis

from config.contract import Contract
from config.model_registry import (
    ABSENT,
    ALIAS,
    CARD,
    CHALLENGER,
    FALLBACK,
    FILE_SHA256,
    MODEL_NAME,
    PACKAGE,
    file_digests,
    no_response,
)
from training.errors import ExpectedError
from training.registry.ledger import KIND, NONE, Ledger, Promotion, experiment_tags
from training.settings import Settings

if TYPE_CHECKING:  # they take a second, and few commands need them
    from matplotlib.figure import Figure
    from sklearn.pipeline import Pipeline

EXPERIMENT = "income"
ABOUT = (
    "One run for each training. Its child runs are the trials of the search. Parameters hold the"
    " chosen setting, `test_` metrics the quality on the test split, `plots` the curves."
)
KEPT_VERSIONS = 5  # of any age, for a rollback
DIGEST_LENGTH = 8  # of a data set's name on MLflow's pages, as MLflow's own digests
# MLflow's client reads these only from the environment.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per trial
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryUnavailable(ExpectedError):
    """MLflow is unavailable; the message names its address and the setting."""


def is_transient(err: object) -> bool:
    """Return True for an MLflow error that a retry may fix: no connection, or a server error."""
    return isinstance(err, MlflowException) and err.get_http_status_code() >= 500


class InputFile(NamedTuple):
    """Rows that a run reads, for its lineage."""

    name: str
    source: str  # a path, an address or a name
    sha256: str
    rows: int
    use: str  # training or judging


class Expired(NamedTuple):
    """Runs and versions that retention removes."""

    runs: list[Run]
    versions: list[ModelVersion]

    def __str__(self) -> str:
        return f"{len(self.runs)} runs with their artifacts, {len(self.versions)} model versions"

    def lines(self) -> Iterator[str]:
        """Yield a line for each version and each run."""
        for version in self.versions:
            yield f"version {version.version} of run {version.run_id}"
        for run in self.runs:
            started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
            yield f"run {run.info.run_id} of {started:%Y-%m-%d %H:%M} UTC, {run.info.run_name}"


def version_or_none(get: Callable[[str, str], ModelVersion], key: str) -> ModelVersion | None:
    """Return the version that `get` finds by alias or number, or None."""
    try:
        return get(MODEL_NAME, key)
    except MlflowException as err:
        if err.error_code in ABSENT:
            return None
        raise


def number_of(version: ModelVersion | None) -> str:
    """Return a version's number; NONE without a version."""
    return str(version.version) if version else NONE


class Registry:
    """One MLflow server: tracking, artifacts and model registry."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        mlflow.set_tracking_uri(tracking_uri)
        self.client = mlflow.MlflowClient(tracking_uri)
        self.ledger = Ledger(self.client)
        try:
            experiment = mlflow.set_experiment(EXPERIMENT)
            if KIND not in experiment.tags:
                mlflow.set_experiment_tags(experiment_tags(ABOUT))
            self.experiment_id = experiment.experiment_id
        except MlflowException as err:
            raise RegistryUnavailable(
                f"{no_response(tracking_uri, err)} `make demo KEEP=1` runs one."
            ) from err

    @contextmanager
    def run(self, name: str, tags: dict[str, str], params: dict[str, Any]) -> Iterator[str]:
        """Open a training run and yield its id. The run fails if the body raises."""
        with mlflow.start_run(run_name=name, tags=tags) as run:
            mlflow.log_params(params)
            yield run.info.run_id

    def finished_run(self, tags: dict[str, str]) -> str | None:
        """Return the id of the newest finished run with all these tags, if any."""
        clauses = [f"tags.{name} = '{value}'" for name, value in tags.items()]
        query = " and ".join(["attributes.status = 'FINISHED'", *clauses])
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0].info.run_id if found else None

    def log_trial(
        self, parent_id: str, number: int, params: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Log one trial of the search as a child run, in one batch."""
        now = get_current_time_millis()
        name = f"trial {number}{' (stopped early)' if 'pruned' in metrics else ''}"
        tags = {"mlflow.parentRunId": parent_id, "mlflow.runName": name}
        run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        self.client.set_terminated(run_id)

    def log(
        self, *, params: dict[str, Any] | None = None, metrics: dict[str, float] | None = None
    ) -> None:
        """Log parameters and metrics of the current run."""
        mlflow.log_params(params or {})
        mlflow.log_metrics(metrics or {})

    def log_inputs(self, run_id: str, inputs: Iterable[InputFile]) -> None:
        """Log the data sets of a run, for MLflow's page."""
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

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Log a plot of the current run."""
        mlflow.log_figure(figure, f"plots/{name}.png")

    def log_json(self, path: str, content: Any) -> None:
        """Log a JSON file of the current run."""
        mlflow.log_dict(content, path)

    def log_files(self, folder: Path) -> None:
        """Log all files under a folder as artifacts of the current run, at the same paths."""
        mlflow.log_artifacts(str(folder))

    def log_pipeline(self, pipeline: "Pipeline") -> None:
        """Log the scikit-learn pipeline, for notebooks; no service loads it."""
        # It warns about pickle at each call; no service unpickles.
        logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)
        # It warns that it cannot find the version of pip, which the images lack.
        logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
        mlflow.sklearn.log_model(
            pipeline, name="pipeline", serialization_format="cloudpickle", pip_requirements=[]
        )

    def register(self, folder: Path, contract: Contract) -> str:
        """Register the graph of the current run as a new version; return its number.

        The number becomes part of the run's name.
        """
        import onnx  # pylint: disable=import-outside-toplevel  # as above

        columns: list[Any] = [
            ColSpec("string" if f.is_categorical else "float", f.name) for f in contract.inputs
        ]
        logged = mlflow.onnx.log_model(
            onnx.load(folder / "model.onnx"),
            name=PACKAGE,
            signature=ModelSignature(Schema(columns), Schema([ColSpec("float", "probability")])),
            pip_requirements=["onnxruntime"],
        )
        version = str(mlflow.register_model(logged.model_uri, MODEL_NAME).version)
        if run := mlflow.active_run():
            self.client.update_run(run.info.run_id, name=f"v{version} {run.info.run_name}")
        return version

    def complete(self, version: str, folder: Path, description: str, tags: dict[str, str]) -> None:
        """Add all files of the package, a description and tags to a version.

        The last tag has the checksums of the files. No service loads a version without it.
        """
        source = self.client.get_model_version(MODEL_NAME, version).source
        model_id = str(source).removeprefix("models:/")
        self.client.log_model_artifacts(model_id, str(folder))
        page = f"#/experiments/{self.experiment_id}/models/{model_id}/artifacts"
        text = f"{description} [Model card: {CARD} of {PACKAGE}]({page})."
        self.client.update_model_version(MODEL_NAME, version, description=text)
        for name, value in {**tags, FILE_SHA256: json.dumps(file_digests(folder))}.items():
            self.client.set_model_version_tag(MODEL_NAME, version, name, value)

    def production(self) -> ModelVersion | None:
        """Return the production version, or None before the first promotion."""
        return self.named(ALIAS)

    def named(self, alias: str) -> ModelVersion | None:
        """Return the version with an alias, or None."""
        return version_or_none(self.client.get_model_version_by_alias, alias)

    def newest_promoted(self, production: ModelVersion | None) -> ModelVersion | None:
        """Return the newest version that is or was production, also after a rollback."""
        numbers = {move["to_version"] for move in self.ledger.promotions()}
        numbers |= {str(production.version)} if production else set()
        return next((v for v in self._versions() if str(v.version) in numbers), None)

    def judged_versions(self) -> int:
        """Return the number of versions with a gate verdict."""
        return sum("gate" in version.tags for version in self._versions())

    def version(self, number: str) -> ModelVersion | None:
        """Return a version by its number, or None for an unknown or invalid number."""
        return version_or_none(self.client.get_model_version, number)

    def promote(self, version: str, promotion: Promotion, *, guarded: bool = True) -> None:
        """Point `production` at a version, and write the promotion to the ledger.

        The former version becomes the fallback, and there is no challenger any more. A move back
        is not guarded: there is no fallback then.
        """
        before = number_of(self.production())
        with self.ledger.promotion(promotion, before, version):
            # A retry after an interruption finds the version in production: the fallback stays.
            if guarded and before not in (NONE, version):
                self.client.set_registered_model_alias(MODEL_NAME, FALLBACK, before)
            self.client.set_registered_model_alias(MODEL_NAME, ALIAS, version)
            self.client.delete_registered_model_alias(MODEL_NAME, CHALLENGER)
            if not guarded:
                self.client.delete_registered_model_alias(MODEL_NAME, FALLBACK)

    def expired(
        self, settings: Settings, now: datetime, n_versions: int = KEPT_VERSIONS
    ) -> Expired:
        """Return the runs that are older than RUN_RETENTION_DAYS at `now`, with their versions.

        Production, its predecessor, challenger, fallback, the newest `n_versions` and the run of
        MODEL_RUN_ID stay, with their runs and trials.
        """
        if not settings.run_retention_days:
            return Expired([], [])
        before = now - timedelta(days=settings.run_retention_days)
        versions = self._versions()
        numbers = {number_of(self.named(alias)) for alias in (CHALLENGER, FALLBACK)}
        if production := self.production():
            number = str(production.version)
            numbers |= {number, self.ledger.predecessor(number)}
        newest = versions[:n_versions]
        kept = {v.run_id for v in versions if v in newest or str(v.version) in numbers}
        kept.add(settings.model_run_id)
        query = f"attributes.start_time < {int(before.timestamp() * 1000)}"
        runs = [
            run
            for run in mlflow.search_runs([self.experiment_id], query, output_format="list")
            if not kept & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}
        ]
        ids = {run.info.run_id for run in runs}
        return Expired(runs, [version for version in versions if version.run_id in ids])

    def _versions(self) -> list[ModelVersion]:
        """Return every version, newest first."""
        return self.client.search_model_versions(
            f"name = '{MODEL_NAME}'", order_by=["version_number DESC"], max_results=10_000
        )

    def remove(self, expired: Expired) -> None:
        """Remove versions, artifacts and runs. Repeat it after an interruption.

        MLflow's database keeps the runs, marked as deleted, until `mlflow gc`.
        """
        for version in expired.versions:
            self.client.delete_model_version(MODEL_NAME, version.version)
        for run in expired.runs:
            query = f"source_run_id = '{run.info.run_id}'"
            for model in self.client.search_logged_models([self.experiment_id], query):
                get_artifact_repository(model.artifact_location).delete_artifacts()
                self.client.delete_logged_model(model.model_id)
            get_artifact_repository(run.info.artifact_uri).delete_artifacts()
            self.client.delete_run(run.info.run_id)

    @contextmanager
    def package_of(self, version: ModelVersion) -> Iterator[Path]:
        """Download a version's package and yield its folder, which exists during the body."""
        with tempfile.TemporaryDirectory() as folder:
            uri = f"models:/{MODEL_NAME}/{version.version}"
            yield Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
