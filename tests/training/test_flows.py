"""The flows on a real Prefect server, MLflow server and gs:// emulator, with a small census."""

import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pymongo
import pytest
from mlflow import MlflowClient
from prefect.exceptions import ParameterTypeError

from config.contract import Contract
from config.events import Label, Prediction
from config.model_registry import (
    BOOSTER,
    CARD,
    CHALLENGER,
    GOLDEN,
    GRAPH,
    MODEL_NAME,
    file_digests,
)
from prediction_service.follower import Follower
from prediction_service.journal import Journal
from prediction_service.models.model_folder import ModelFolder
from prediction_service.models.registry import Registry as ServiceRegistry
from tests.conftest import (
    clean,
    free_port,
    gcs_emulator,
    made_up_rows,
    mlflow_database,
    mlflow_server,
)
from tests.conftest import run as run_command
from training.__main__ import main
from training.batch_scoring.score import ScoringError
from training.data.assemble import LeakError, assemble_rows
from training.data.batches import BatchRejected
from training.data.dataset import Dataset, ReadFile, split_judge_traffic
from training.data.errors import SourceError, UntrainableRows
from training.data.rows import write_requests
from training.model.calibration import Platt
from training.model.onnx_export import Package
from training.model.search import Trial
from training.orchestration import flows, steps
from training.orchestration.steps import make_reference
from training.registry.mlflow_registry import Registry, RegistryUnavailable
from training.settings import Settings

SMALL = {"max_evals": 2, "n_folds": 2}

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    """An MLflow server on SQLite with its artifacts in a gs:// emulator."""
    folder = tmp_path_factory.mktemp("mlflow")
    with gcs_emulator(folder / "gcs") as gcs:
        with mlflow_server(folder, "gs://tests", STORAGE_EMULATOR_HOST=gcs) as address:
            yield address


class CensusFile:
    """The data set that `train` reads in place of the census: made-up rows, or those of a test."""

    def __init__(self, contract: Contract) -> None:
        self.rows = Dataset(
            made_up_rows(contract, 500, seed=1),
            made_up_rows(contract, 300, seed=2),
            source="uci",
            problems={},
            duplicates=0,
            rejected=0,
            files=(ReadFile("adult.data", "5b00", 500), ReadFile("adult.test", "a2a9", 0)),
        )
        self.asked: list[str] = []  # the values of `data`

    def read(self, data: str, *_: object) -> Dataset:
        """Return the rows, as the step `read_dataset`."""
        self.asked.append(data)
        return self.rows

    def use(self, **parts: Any) -> None:
        """Replace parts of the rows."""
        self.rows = replace(self.rows, **parts)


def use_made_up_census(contract: Contract, tracking_uri: str, patch: pytest.MonkeyPatch):
    """Replace the census in `train`, which then promotes at once; return the replacement."""
    census = CensusFile(contract)
    patch.setattr(flows, "read_dataset", census.read)
    patch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    patch.setenv("PROMOTION", "direct")
    return census


@pytest.fixture(scope="module")
def first(contract, tracking_uri, tmp_path_factory):
    """The result of the first training of the server, on the made-up census."""
    with pytest.MonkeyPatch.context() as patch:
        clean(patch)
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("data")))
        use_made_up_census(contract, tracking_uri, patch)
        return flows.train(**SMALL)


@pytest.fixture
def census(first, contract, monkeypatch, tracking_uri, tmp_path):
    """The made-up census, after the first training; the training store is empty."""
    assert first["model_version"]
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    mlflow.set_tracking_uri(tracking_uri)
    return use_made_up_census(contract, tracking_uri, monkeypatch)


def test_the_first_model_is_promoted_and_its_run_has_all_artifacts(
    contract, first, tracking_uri, tmp_path
):
    client = MlflowClient(tracking_uri)
    version = client.get_model_version(MODEL_NAME, first["model_version"])
    assert first["promoted"] and first["model_version"] == "1"
    assert version.tags["gate"] == "passed" and version.tags["data_source"] == "uci"

    run = client.get_run(first["run_id"])
    assert run.data.metrics["test_roc_auc"] == first["test_metrics"]["roc_auc"] > 0.7
    children = client.search_runs(
        [run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    )
    assert run.data.metrics["trials"] == run.data.metrics["trials_scored"] == 2
    losses = {"cv_log_loss", "screening_log_loss"}
    assert len(children) == 2 and all(losses & c.data.metrics.keys() for c in children)

    uri, folder = f"models:/{MODEL_NAME}/{version.version}", str(tmp_path / "package")
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.artifacts.download_artifacts(uri, dst_path=folder)
    package = Package(tmp_path / "package", contract)
    assert package.metadata["run_id"] == first["run_id"]
    assert json.loads(package.metadata["metrics"]) == first["test_metrics"]
    assert json.loads(package.metadata["metric_intervals"]).keys() >= {"roc_auc", "log_loss"}
    assert f"version {version.version}</h1>" in (package.folder / CARD).read_text("utf-8")
    assert (package.folder / "golden.json").exists() and (package.folder / "features.yaml").exists()

    verdict, _ = facts_of(first)
    assert verdict["promote"] and verdict["candidate"]["metrics"]["roc_auc"] > 0.7
    plots = {Path(f.path).stem for f in client.list_artifacts(first["run_id"], "plots")}
    assert plots == {"roc", "precision_recall", "calibration", "confusion", "importances"}


def test_mlflows_pages_show_the_chosen_parameters_and_link_the_model_card(first, tracking_uri):
    """The pages once consisted of hashes, and the description named a place without a card."""
    client, run_id = MlflowClient(tracking_uri), first["run_id"]
    run, (version,) = client.get_run(run_id), client.search_model_versions(f"run_id = '{run_id}'")
    assert run.info.run_name == f"v{version.version} train manual {datetime.now(UTC):%Y-%m-%d}"
    shown = {name for name in run.data.tags if not name.startswith("mlflow.")}
    assert shown == {"data_source", "trigger", "inputs_digest"}
    trials = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert any(trial.data.params.items() <= run.data.params.items() for trial in trials)
    assert 0 < float(run.data.params["threshold"]) < 1
    assert run.data.params["judge_rows"] == version.tags["judge_rows"]
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "trials of the search" in experiment.tags["mlflow.note.content"]
    described = re.search(r"experiments/(\d+)/models/(m-\w+)/artifacts", version.description)
    assert described and described[1] == run.info.experiment_id
    assert CARD in {file.path for file in client.list_logged_model_artifacts(described[2])}


@pytest.fixture
def service_registry(tracking_uri):
    """The registry of the prediction service; it changes MLflow's global address."""
    yield lambda run_id: ServiceRegistry(tracking_uri, run_id)
    mlflow.set_registry_uri("")


def test_a_run_is_served_if_its_files_have_the_registered_checksums(
    contract, first, service_registry, tmp_path
):
    run_id = first["run_id"]
    models, registry = ModelFolder(tmp_path / "model"), service_registry(run_id)
    assert {GRAPH, GOLDEN, BOOSTER, CARD} < registry.wanted().digests.keys()
    Follower(registry, models, contract).follow()
    current = models.current()
    assert current.version == f"run-{run_id}"
    assert registry.wanted().digests.items() <= file_digests(models.package(current)).items()


def test_reference_and_traffic_are_real_rows_that_the_contract_accepts(
    contract, first, census, tmp_path
):
    reference = reference_of(first["run_id"])
    traffic = mlflow.artifacts.load_text(f"runs:/{first['run_id']}/traffic/traffic.jsonl")
    assert len(reference) == len(census.rows.train)  # never resampled
    assert {"probability", "income_class", "label"} < set(reference)
    assert all(contract.check(json.loads(row)["record"]) == [] for row in traffic.splitlines())
    judges, sent = split_judge_traffic(census.rows.test, contract)
    assert min(len(judges), len(sent)) > 100
    write_requests(sent, contract, tmp_path / "sent.jsonl")
    assert traffic == (tmp_path / "sent.jsonl").read_text("utf-8")  # so no holdout row


def test_the_reference_holds_compared_rows_with_their_out_of_fold_predictions(
    contract,
):
    """Of 40 rows every fourth is compared, and 8 of these are kept; 0.5 is the threshold."""
    frame = made_up_rows(contract, 40, seed=3)
    out_of_fold = np.linspace(0, 1, 40)
    best = Trial({}, Platt(1.0, 0.0), out_of_fold, {})
    compared = np.arange(40) % 4 == 0
    found = make_reference(frame, contract, best, 0.5, compared, max_rows=8)
    assert list(found) == [*contract.input_names, "probability", "income_class", "label"]
    assert len(found) == 8 and set(found.index) < set(range(0, 40, 4))
    assert found["probability"].tolist() == out_of_fold[found.index].tolist()
    assert found["income_class"].tolist() == [int(row >= 20) for row in found.index]
    assert found["label"].equals(frame.loc[found.index, "income"].rename("label"))
    columns = list(contract.input_names)
    assert found[columns].equals(frame.loc[found.index, columns])


@pytest.mark.usefixtures("census")
def test_a_training_with_the_same_data_code_and_settings_is_skipped(first):
    assert flows.train(**SMALL) == {"run_id": first["run_id"], "nothing_new": True}


def rows_of(contract, negative: int, positive: int, seed: int) -> pd.DataFrame:
    """Return made-up rows with these numbers of rows of each class."""
    rows = made_up_rows(contract, 2000, seed=seed)
    wanted = [rows[rows["income"] == label].head(n) for label, n in enumerate((negative, positive))]
    return pd.concat(wanted, ignore_index=True)


@pytest.mark.slow
def test_a_table_of_50_rows_makes_a_version(contract, census):
    census.use(train=rows_of(contract, 28, 7, seed=11), test=rows_of(contract, 9, 6, seed=12))
    result = flows.train(max_evals=2)
    assert result["model_version"] and 0 <= result["test_metrics"]["roc_auc"] <= 1


def test_rows_of_one_class_end_in_one_message_before_any_run(contract, census, tracking_uri):
    """Such a table once ended in a traceback after the whole search."""
    census.use(train=rows_of(contract, 300, 0, seed=13))
    client = MlflowClient(tracking_uri)
    before = client.search_runs([Registry(tracking_uri).experiment_id])
    with pytest.raises(UntrainableRows, match="income: no training row of >50K; got 300 rows"):
        flows.train(**SMALL)
    assert len(client.search_runs([Registry(tracking_uri).experiment_id])) == len(before)


def facts_of(result: dict) -> tuple[dict, dict]:
    """Return the verdict and the lineage of a training."""
    root = f"runs:/{result['run_id']}"
    verdict = mlflow.artifacts.load_dict(f"{root}/gate/verdict.json")
    return verdict, mlflow.artifacts.load_dict(f"{root}/data/lineage.json")


@pytest.mark.slow
@pytest.mark.usefixtures("census")
def test_a_training_after_an_ingest_is_new_and_logs_its_lineage(
    contract, first, tracking_uri, tmp_path
):
    """Of the 400 new rows, 40 have labels that no drift explains."""
    batch = made_up_rows(contract, 400, seed=4)
    batch.loc[:39, "capital_loss"], batch.loc[:39, "income"] = 1234, 1
    batch["income"] = batch["income"].map(dict(enumerate(contract.target.labels)))
    (tmp_path / "feed.csv").write_text(batch.to_csv(index=False), "utf-8")
    main(["ingest", str(tmp_path / "feed.csv"), "--period", "2026-10"])
    assert flows.train(**SMALL, with_store=False)["run_id"] == first["run_id"]
    after = flows.train(**SMALL)
    assert not after["nothing_new"] and flows.train(**SMALL)["run_id"] == after["run_id"]

    verdict, lineage = facts_of(after)
    census, feed = lineage["training"]
    assert census == census | {"name": "uci", "source": "adult.data", "sha256": "5b00", "rows": 500}
    sha256 = hashlib.sha256((tmp_path / "feed.csv").read_bytes()).hexdigest()
    assert (feed["name"], feed["sha256"]) == ("2026-10", sha256)
    assert feed["rows"] + feed["held_out"] + feed["like_judges"] == 360 and feed["held_out"] > 50
    (out,) = feed["left_out"]
    assert out == out | {"rule": "value", "column": "capital_loss", "value": 1234, "rows": 40}
    assert [judge["name"] for judge in lineage["judging"]] == ["test split"]

    run = MlflowClient(tracking_uri).get_run(after["run_id"])
    assert run.data.params["train_rows"] == str(500 + feed["rows"])
    package = mlflow.artifacts.download_artifacts(f"models:/{MODEL_NAME}/{after['model_version']}")
    assert Package(Path(package), contract).metadata["joined_rows"] == str(feed["rows"])
    read = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert read.keys() == {"uci", "2026-10", "test split"}
    assert sha256.startswith(read["2026-10"].dataset.digest)
    assert verdict["judge_digest"] == facts_of(first)[0]["judge_digest"]


def a_new_group(contract, rows: int, seed: int) -> pd.DataFrame:
    """Return people that are not in the census, with inverted labels."""
    frame = made_up_rows(contract, rows, seed)
    return frame.assign(capital_gain=77777, capital_loss=4000, income=1 - frame["income"])


def reference_of(run_id: str) -> pd.DataFrame:
    """Return the reference data of a run."""
    uri = f"runs:/{run_id}/monitoring/reference.jsonl"
    return pd.DataFrame(map(json.loads, mlflow.artifacts.load_text(uri).splitlines()))


def exported(contract, folder: Path, frame: pd.DataFrame) -> Path:
    """Write predictions with labels as the journal exports them; return the path."""
    journal = Journal(folder / "journal", "here", "normal", 10**8)
    for number, row in enumerate(frame.to_dict("records")):
        features = {name: row[name] for name in contract.input_names}
        key = f"{number:032x}"
        journal.append([Prediction(key, 1.7e9, "1", features, 0.5, 1, 0.5)])
        journal.append([Label(key, 1.7e9 + number, row["income"])])
    journal.close()
    command = [sys.executable, "-m", "prediction_service.journal", "export", "--labelled"]
    env = os.environ | {"JOURNAL_DIR": str(folder / "journal"), "LEARN_ANONYMOUS_LABELS": "true"}
    path = folder / "rows.jsonl"
    path.write_text(run_command(*command, env=env), "utf-8")
    return path


@pytest.mark.slow
def test_after_drift_the_newest_labelled_rows_are_the_holdout_set_over_the_census_as_floor(
    contract, census, tracking_uri, tmp_path
):
    """The whole path without MongoDB: journal, export, ingest and a training after drift."""
    census.use(train=made_up_rows(contract, 1500, 11), test=made_up_rows(contract, 3000, 12))
    main(["ingest", str(exported(contract, tmp_path, a_new_group(contract, 2000, seed=13)))])

    drift = flows.train(**SMALL, seed=9, trigger="drift", data="production", force=True)
    assert drift["promoted"], drift["reason"]
    assert census.asked == ["source"]
    verdict, lineage = facts_of(drift)
    recent, floor = lineage["judging"]
    assert verdict["judge"] == recent["name"] == "newest labelled rows"
    assert verdict["judge_digest"] == recent["sha256"] and verdict["judge_rows"] == recent["rows"]
    assert verdict["floor"]["judge_digest"] == floor["sha256"] and floor["name"] == "test split"
    assert recent["rows"] == lineage["training"][1]["held_out"] > 300
    uri = f"models:/{MODEL_NAME}/{drift['model_version']}/{CARD}"
    assert f"newest labelled rows, {recent['rows']:,} rows" in mlflow.artifacts.load_text(uri)
    assert verdict["champion"]["metrics"]["roc_auc"] < 0.5 < verdict["floor"]["champion"]["roc_auc"]
    assert Registry(tracking_uri).production().tags["judge_digest"] == recent["sha256"]

    reference = reference_of(drift["run_id"])
    assert len(reference) == lineage["training"][1]["rows"]
    assert set(reference["capital_gain"]) == {77777}
    # Calibrated on these rows alone: their mean probability is their share of positive labels.
    assert reference["probability"].mean() == pytest.approx(reference["label"].mean(), abs=1e-4)

    later, _ = facts_of(flows.train(**SMALL, seed=10, trigger="schedule", data="production"))
    assert later["judge"] == recent["name"], "else the test split would bring its own model back"


@pytest.mark.slow
@pytest.mark.usefixtures("census")
def test_data_production_uses_the_rows_that_production_was_trained_with(
    contract, first, mongodb_uri, monkeypatch
):
    database = f"test_{uuid.uuid4().hex}"
    monkeypatch.setenv("MONGODB_ADDRESS", mongodb_uri)
    monkeypatch.setenv("MONGODB_DATABASE", database)
    monkeypatch.setenv("LEARN_ANONYMOUS_LABELS", "true")
    rows = made_up_rows(contract, 300, seed=14).to_dict("records")
    now = datetime.now(UTC)
    documents = [
        {
            "_id": f"{number:032x}",
            "predicted_at": now,
            "features": {name: row[name] for name in contract.input_names},
            "label": row["income"],
            "labelled_at": now,
        }
        for number, row in enumerate(rows)
    ]
    with pymongo.MongoClient(mongodb_uri) as client:
        client[database]["predictions"].insert_many(documents)
        joined = flows.train(**SMALL, with_feedback=True)
        main(["promote", joined["model_version"], "--why", "to see", "--force", "--no-wait"])
        again = flows.train(**SMALL, data="production")
        without = flows.train(**SMALL)
        client.drop_database(database)
    assert again == {"run_id": joined["run_id"], "nothing_new": True}
    assert without == {"run_id": first["run_id"], "nothing_new": True}
    _, production = facts_of(joined)[1]["training"]
    assert (production["name"], production["source"]) == ("production", "mongodb")
    assert production["rows"] + production["held_out"] + production["like_judges"] == 300


@pytest.mark.usefixtures("census")
def test_a_holdout_row_among_training_rows_stops_the_training(contract, monkeypatch):
    def leaky(census, judges, *_, **__):
        rows = assemble_rows(census, judges, [], contract)
        frame = pd.concat([rows.frame, judges[list(rows.frame)].head(3)], ignore_index=True)
        joined = np.arange(len(frame)) >= len(census.train)
        return replace(rows, frame=frame, joined=joined, recent=np.zeros(len(frame), bool))

    monkeypatch.setattr(steps, "assemble_rows", leaky)
    with pytest.raises(
        LeakError, match=r"holdout rows \(test split\): 3 of .* are also training rows"
    ):
        flows.train(**SMALL, seed=16)


def test_a_synthetic_model_is_tagged_and_not_promoted_over_a_real_one(census, tracking_uri):
    census.use(source="synthetic")
    result = flows.train(**SMALL, seed=4, data="synthetic", force=True)
    assert not result["promoted"] and "synthetic" in result["reason"]
    version = MlflowClient(tracking_uri).get_model_version(MODEL_NAME, result["model_version"])
    assert version.tags["data_source"] == "synthetic" and version.tags["gate"] == "failed"


def test_the_monthly_flow_ingests_new_files_and_fails_for_rejected_ones(
    contract, monkeypatch, tmp_path
):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    flows.ingest()  # no FEED: nothing to do
    rows = made_up_rows(contract, 20)[[*contract.input_names, "income"]]
    rows = rows.assign(income=rows["income"].map(dict(enumerate(contract.target.labels))))
    feed = tmp_path / "feed"
    feed.mkdir()
    rows.to_csv(feed / "2026-09.csv", index=False)
    rows.to_csv(feed / "September.csv", index=False)
    monkeypatch.setenv("FEED", str(feed))
    ended = flows.ingest(return_state=True)
    assert ended.is_completed() and ended.message.startswith("1 new batches of 1; passed over Sep")
    # A run once succeeded with the rows of one class, because the other had another spelling.
    (feed / "2026-10.csv").write_text(
        rows.to_csv(index=False).replace("<=", "\u2264"), encoding="utf-8"
    )
    (feed / "2026-08.csv").write_text("age\n1\n", encoding="utf-8")
    with pytest.raises(BatchRejected, match="2026-08.csv(.*\n)+.*2026-10.csv(.*\n)+.*September"):
        flows.ingest()
    assert len(list((tmp_path / "data" / "store").glob("*.parquet"))) == 1


def test_the_daily_flow_removes_old_runs(monkeypatch, tmp_path):
    registry = Registry(mlflow_database(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.client.tracking_uri)
    with registry.run("a training", {}, {}) as run_id:
        pass
    flows.retain()
    assert registry.client.get_run(run_id).info.lifecycle_stage == "active"
    monkeypatch.setenv("RUN_RETENTION_DAYS", "0.0000001")  # some milliseconds
    flows.retain()
    assert registry.client.get_run(run_id).info.lifecycle_stage == "deleted"


@pytest.mark.slow
@pytest.mark.usefixtures("census")
def test_files_are_scored_with_production_by_flow_and_by_command(
    contract, tracking_uri, tmp_path, capsys
):
    version = Registry(tracking_uri).production().version
    frame = made_up_rows(contract, 50, seed=6)[list(contract.input_names)]
    frame.to_parquet(tmp_path / "people.parquet")
    done = flows.score(str(tmp_path / "people.parquet"), str(tmp_path / "by-flow"))
    assert (done["version"], done["rows_scored"], done["rows_rejected"]) == (version, 50, 0)

    frame.assign(age=[200, *frame["age"][1:]]).to_parquet(tmp_path / "people.parquet")
    with pytest.raises(ScoringError, match="max_rejected: 2.0% of the rows were rejected"):
        flows.score(str(tmp_path / "people.parquet"), str(tmp_path / "failed"))
    assert (tmp_path / "failed-rejected").exists()
    command = ["score", str(tmp_path / "people.parquet"), "--engine", "local"]
    with pytest.raises(SystemExit, match="--max-rejected: 2.0% of the rows"):
        main([*command, str(tmp_path / "strict")])
    main([*command, str(tmp_path / "lax"), "--max-rejected", "0.1"])
    printed = capsys.readouterr()
    assert f"49 rows scored by version {version}: {tmp_path}/lax" in printed.out
    assert f"rejected 1 invalid row: {tmp_path}/lax-rejected" in printed.err
    with pytest.raises(SystemExit, match="version: got 999, expected a version in MLflow"):
        main([*command, str(tmp_path / "none"), "--version", "999"])


@pytest.mark.slow
@pytest.mark.usefixtures("census")
def test_trials_run_on_spark_if_spark_master_is_set():
    pytest.importorskip("pyspark", reason="pyspark is not installed: make spark")
    if not shutil.which("java"):
        pytest.skip("no Java on PATH")
    result = flows.train(**SMALL, seed=5, force=True, spark_master="local[2]")
    assert result["test_metrics"]["roc_auc"] > 0.7


@pytest.mark.slow
def test_a_version_that_passes_the_gate_is_tested_on_labels_before_it_is_promoted(
    contract, census, tracking_uri, monkeypatch
):
    census.use(train=made_up_rows(contract, 100, seed=21), test=made_up_rows(contract, 2000, 22))
    weak = flows.train(**SMALL, seed=19)["model_version"]
    main(["promote", weak, "--why", "to be replaced", "--force", "--no-wait"])
    monkeypatch.setenv("PROMOTION", "shadow")
    census.use(train=made_up_rows(contract, 2000, seed=20))
    result = flows.train(**SMALL, seed=19)
    assert (result["promoted"], result["challenger"]) == (False, True), result["reason"]
    registry = Registry(tracking_uri)
    challenger = registry.named(CHALLENGER)
    assert registry.production().version == weak
    assert challenger.version == result["model_version"]
    assert "gate passed: better: log loss" in challenger.description
    assert "Labels decide first whether it is promoted" in challenger.description
    # A newer one would end the test.
    skipped = {"tested_version": str(challenger.version), "nothing_new": True}
    assert flows.train(**SMALL, seed=20, trigger="schedule") == skipped
    main(["promote", str(challenger.version), "--why", "the end", "--now", "--no-wait"])
    assert registry.named(CHALLENGER) is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_evals", 0),
        ("n_folds", 1),
        ("seed", -1),
        ("timeout_s", float("nan")),
        ("recent_weight", 0.5),
    ],
)
def test_a_parameter_out_of_range_is_rejected_before_anything_is_read(name, value):
    """A search without a trial ended in an IndexError after minutes."""
    with pytest.raises(ParameterTypeError, match=f"(?s){name}.*(greater|less) than"):
        flows.train(**{name: value})


def test_an_unknown_data_name_is_rejected_with_the_known_ones(contract):
    expected = r"data: got census, expected source, uci \(its name\), synthetic or production"
    with pytest.raises(SourceError, match=expected):
        steps.read_dataset.fn("census", 0, contract, Settings())


def test_an_unavailable_registry_is_named_with_its_setting(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnavailable, match=f"MLFLOW_TRACKING_URI: .* got {address}"):
        Registry(address)
