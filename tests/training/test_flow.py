"""The flow against a real Prefect, MLflow server and gs:// emulator, on a small census."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from prefect.testing.utilities import prefect_test_harness

from config.model_registry import MODEL_NAME
from tests.conftest import accepts_connections, free_port, made_up_rows, wait_until
from training import flow
from training.__main__ import main
from training.census import Census
from training.package import Package
from training.registry import Registry, RegistryUnavailable

SMALL = {"max_evals": 2, "n_folds": 2}


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    """An MLflow server on SQLite with its artifacts in a gs:// emulator."""
    folder = tmp_path_factory.mktemp("mlflow")
    gcs, port = free_port(), free_port()
    scripts = Path(sys.executable).parent
    emulator = [scripts / "gcp-storage-emulator", "--data-dir", folder / "gcs", "start", "--quiet"]
    emulator += ["--host", "127.0.0.1", "--port", str(gcs), "--default-bucket", "tests"]
    server = [scripts / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    server += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    server += ["--artifacts-destination", "gs://tests"]
    env = os.environ | {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gcs}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "log").open("wb") as log:
        processes = [  # ended below, in any case
            # pylint: disable-next=consider-using-with
            subprocess.Popen(command, env=env, stdout=log, stderr=log)
            for command in (emulator, server)
        ]
        try:
            for listening in (gcs, port):
                wait_until(
                    lambda p=listening: accepts_connections(p), 60, (folder / "log").read_text
                )
            yield f"http://127.0.0.1:{port}"
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    """A real Prefect server on a database of its own."""
    with prefect_test_harness(server_startup_timeout=60):
        yield


@pytest.fixture
def small_census(contract, monkeypatch, tracking_uri):
    """`train` reads this made-up census; the name of the source is the test's to change."""
    census = Census(
        made_up_rows(contract, 500, seed=1),
        made_up_rows(contract, 300, seed=2),
        source="uci",
        problems={},
        duplicates=0,
        rejected=0,
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)

    def use(census: Census) -> None:
        monkeypatch.setattr(flow, "read", lambda *_: census)

    use(census)
    return census, use


@pytest.mark.usefixtures("small_census")
def test_the_first_model_is_promoted_and_its_run_keeps_all_that_travels(
    contract, tracking_uri, tmp_path
):
    result = flow.train(**SMALL)
    client = MlflowClient(tracking_uri)
    version = client.get_model_version_by_alias(MODEL_NAME, "production")
    assert result["promoted"] and version.version == result["model_version"]
    assert version.tags["gate"] == "passed" and version.tags["data_source"] == "uci"

    run = client.get_run(result["run_id"])
    assert run.data.metrics["test_roc_auc"] == result["test_metrics"]["roc_auc"] > 0.7
    children = client.search_runs(
        [run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    )
    losses = {"cv_log_loss", "screening_log_loss"}
    assert len(children) == 2 and all(losses & c.data.metrics.keys() for c in children)

    scripts = Path(sys.executable).parent
    command = [scripts / "mlflow", "artifacts", "download", "--run-id", result["run_id"]]
    command += ["--artifact-path", "models_mlflow", "--dst-path", tmp_path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    package = Package(tmp_path / "models_mlflow", contract)
    assert package.metadata["run_id"] == result["run_id"]
    assert json.loads(package.metadata["metrics"]) == result["test_metrics"]
    assert "Model card" in (package.folder / "card.html").read_text("utf-8")
    assert (package.folder / "golden.json").exists() and (package.folder / "features.yaml").exists()

    mlflow.set_tracking_uri(tracking_uri)
    verdict = mlflow.artifacts.load_dict(f"runs:/{result['run_id']}/gate/verdict.json")
    assert verdict["promote"] and verdict["candidate"]["metrics"]["roc_auc"] > 0.7
    plots = {Path(f.path).stem for f in client.list_artifacts(result["run_id"], "plots")}
    assert plots == {"roc", "precision_recall", "calibration", "confusion", "importances"}


def test_reference_and_traffic_are_real_rows_that_a_request_may_carry(
    contract, small_census, tracking_uri, tmp_path
):
    census, _ = small_census
    result = flow.train(**SMALL, seed=7)
    mlflow.set_tracking_uri(tracking_uri)

    def rows(path: str) -> list[dict]:
        local = mlflow.artifacts.download_artifacts(
            run_id=result["run_id"], artifact_path=path, dst_path=str(tmp_path)
        )
        return [json.loads(line) for line in Path(local).read_text("utf-8").splitlines()]

    reference, traffic = rows("monitoring/reference.jsonl"), rows("traffic/traffic.jsonl")
    assert len(reference) == len(census.train)  # never resampled
    assert {"probability", "income_class", "label"} < reference[0].keys()
    assert all(contract.check(row["record"]) == [] for row in traffic)
    assert 0 < len(traffic) < len(census.test)  # the judge's rows are never sent


@pytest.mark.usefixtures("small_census")
def test_the_same_data_code_and_settings_are_nothing_new():
    flow.train(**SMALL, seed=3)
    again = flow.train(**SMALL, seed=3)
    assert again["nothing_new"]
    assert not flow.train(**SMALL, seed=3, force=True)["nothing_new"]


def test_a_synthetic_model_is_tagged_and_not_promoted_over_a_real_one(small_census, tracking_uri):
    census, use = small_census
    flow.train(**SMALL, seed=4)
    use(replace(census, source="synthetic"))
    result = flow.train(**SMALL, seed=4, data="synthetic", force=True)
    assert not result["promoted"] and "synthetic" in result["reason"]
    version = MlflowClient(tracking_uri).get_model_version(MODEL_NAME, result["model_version"])
    assert version.tags["data_source"] == "synthetic" and version.tags["gate"] == "failed"


@pytest.mark.usefixtures("small_census")
def test_files_are_scored_with_production_by_flow_and_by_command(
    contract, tracking_uri, tmp_path, capsys
):
    flow.train(**SMALL, seed=4, force=True)
    version = Registry(tracking_uri).production().version
    frame = made_up_rows(contract, 50, seed=6)[list(contract.input_names)]
    frame.to_parquet(tmp_path / "people.parquet")
    done = flow.score(str(tmp_path / "people.parquet"), str(tmp_path / "by-flow"))
    assert (done["version"], done["rows_scored"], done["rows_rejected"]) == (version, 50, 0)

    frame.assign(age=[200, *frame["age"][1:]]).to_parquet(tmp_path / "people.parquet")
    command = ["score", str(tmp_path / "people.parquet"), "--engine", "local"]
    with pytest.raises(SystemExit, match="2.0% of the rows are more than --max-rejected"):
        main([*command, str(tmp_path / "strict")])
    main([*command, str(tmp_path / "lax"), "--max-rejected", "0.1"])
    printed = capsys.readouterr()
    assert f"49 rows scored by version {version}: {tmp_path}/lax" in printed.out
    assert f"1 rows break the contract: {tmp_path}/lax-rejected" in printed.err
    with pytest.raises(SystemExit, match="version 999: MLflow has none"):
        main([*command, str(tmp_path / "none"), "--version", "999"])


@pytest.mark.slow
@pytest.mark.usefixtures("small_census")
def test_trials_run_on_spark_if_a_master_is_named():
    pytest.importorskip("pyspark", reason="pyspark is not installed: make spark")
    if not shutil.which("java"):
        pytest.skip("no Java on PATH")
    result = flow.train(**SMALL, seed=5, force=True, spark_master="local[2]")
    assert result["test_metrics"]["roc_auc"] > 0.7


def test_production_moves_with_who_and_why_and_goes_back(
    small_census, tracking_uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    census, use = small_census
    flow.train(**SMALL, seed=8, force=True)
    use(replace(census, source="synthetic"))
    kept_back = flow.train(**SMALL, seed=8, data="synthetic", force=True)["model_version"]
    registry = Registry(tracking_uri)
    before = registry.production().version

    with pytest.raises(SystemExit, match="did not pass the gate: trained on synthetic rows"):
        main(["promote", kept_back, "--why", "to see"])
    with pytest.raises(SystemExit, match="version 999: MLflow has none"):
        main(["promote", "999", "--why", "to see"])
    main(["promote", kept_back, "--why", "a drill", "--who", "ann", "--force"])
    assert registry.production().version == kept_back
    main(["rollback", "--why", "the drill is over", "--who", "ann"])
    assert registry.production().version == before
    main(["history"])
    printed = capsys.readouterr().out.splitlines()
    newest = [line for line in printed if " -> " in line][:2]
    assert f"{kept_back} -> {before}  ann: rollback: the drill is over" in newest[0]
    assert f"{before} -> {kept_back}  ann (forced): a drill" in newest[1]


def test_a_retraining_reads_what_production_was_trained_on(small_census, tracking_uri, monkeypatch):
    census, _ = small_census
    flow.train(**SMALL, seed=5, force=True)
    asked = []
    monkeypatch.setattr(flow, "read", lambda data, *_: asked.append(data) or census)
    flow.train(**SMALL, seed=5, data="production")
    production = MlflowClient(tracking_uri).get_model_version_by_alias(MODEL_NAME, "production")
    assert asked == [production.tags["data_source"]] == ["uci"]


def test_a_registry_that_is_away_is_named_with_its_setting(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnavailable, match=f"MLFLOW_TRACKING_URI={address}"):
        Registry(address)
