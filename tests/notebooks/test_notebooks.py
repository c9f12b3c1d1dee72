"""The notebooks: committed without outputs, and run on a sample with a real MLflow server."""

import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import black
import msgspec
import nbformat
import numpy as np
import pymongo
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from config.contract import MISSING, Contract
from config.events import Prediction
from config.runtime.telemetry import SWITCHES
from prediction_service.sinks.mongodb import COLLECTION, document_of
from tests.conftest import ROOT, clean, free_port, mlflow_server
from tests.conftest import run as run_command
from training.data.synthetic import synthesize

PAGES = ROOT / "build" / "notebooks"  # of executed notebooks, an artifact of CI
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRIALS = 4
WINDOW_ROWS = 1000  # config/monitoring.yaml
BEGUN_AT = 1.8e9  # the first prediction, in Unix time

Run = Callable[..., nbformat.NotebookNode]


# --- the committed files ------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_a_title_formatted_code_and_no_output(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert "widgets" not in notebook.metadata
    cells = notebook.cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for cell in cells:
        assert cell.metadata == {}, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
            formatted = black.format_str(cell.source, mode=black.Mode(line_length=100))
            assert cell.source == formatted.removesuffix("\n"), cell.id


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an MLflow server with a production version.

    A small training on synthetic rows made the version.
    """
    folder = tmp_path_factory.mktemp("stack")
    train = [sys.executable, "-m", "training", "train", "--data", "synthetic"]
    train += ["--max-evals", str(TRIALS), "--folds", "2"]
    with mlflow_server(folder) as uri, pytest.MonkeyPatch.context() as monkeypatch:
        clean(monkeypatch)  # MLflow puts addresses of earlier tests into the environment
        environ = os.environ | {
            "MLFLOW_TRACKING_URI": uri,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
        }
        run_command(*train, env=environ, timeout_s=300)
        yield uri


@pytest.fixture
def run(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a notebook by its name; keyword arguments are settings.

    It writes the page, as `make notebooks` does. It raises AssertionError for any text on standard
    error (a red box), a figure without a text alternative, and a file in the home folder.
    """
    # Under pytest, MLflow sends no telemetry. A notebook must turn it off itself.
    hidden = {*SWITCHES, "PYTEST_CURRENT_TEST"}
    (home := tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")  # nothing is downloaded
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'notebooks'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NOTEBOOK_ROWS", "2000")

    def run_notebook(name: str, **settings: str) -> nbformat.NotebookNode:
        for setting, value in settings.items():
            monkeypatch.setenv(setting, value)
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": str(tmp_path)}}
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        NotebookClient(notebook, timeout=240, resources=resources).execute(env=env)
        assert not [one.text for one in outputs(notebook) if one.get("name") == "stderr"]
        assert not list(home.iterdir())
        PAGES.mkdir(parents=True, exist_ok=True)
        page, _ = HTMLExporter().from_notebook_node(notebook)
        (PAGES / f"{name}.html").write_text(page, encoding="utf-8")
        assert "No description has been provided" not in page
        return notebook

    return run_notebook


def outputs(notebook: nbformat.NotebookNode, cell_id: str = "") -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell, or of all cells."""
    cells = [cell for cell in notebook.cells if cell_id in ("", cell.id)]
    return [one for cell in cells for one in cell.get("outputs", [])]


def text(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """Return the text of a cell, or the HTML of its table."""
    shown = outputs(notebook, cell_id)
    return "".join(one.get("text") or one.data.get("text/html", "") for one in shown)


def plots(notebook: nbformat.NotebookNode) -> int:
    """Return the number of plots."""
    shown = (one.get("data", {}).get("text/html", "") for one in outputs(notebook))
    return sum(page.startswith('<img alt="') for page in shown)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_exploration_shows_its_plots_and_the_source_of_the_rows(run):
    notebook = run("01_exploration")
    synthetic = not os.environ.get("CENSUS_DATA_DIR")
    assert ("SYNTHETIC ROWS" in text(notebook, "load")) == synthetic
    assert "2,000 of 32,561 training rows" in text(notebook, "load")
    assert "occupation" in text(notebook, "missing")
    assert plots(notebook) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_comparison_logs_every_model_with_and_without_smote(run, tracking_uri):
    notebook = run("02_model_comparison")
    client = MlflowClient(tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("model-comparison").experiment_id])
    assert len({(one.data.params["model"], one.data.params["sampling"]) for one in runs}) == 8
    for one in runs:
        figures = one.data.metrics
        assert figures["roc_auc_low"] < figures["roc_auc"] < figures["roc_auc_high"]
        assert f"{figures['roc_auc']:.4f} [" in text(notebook, "table")
        assert one.data.params["model"] in text(notebook, "smote")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_search_of_the_production_version_is_shown_with_every_trial(run, tracking_uri):
    """The notebook once showed the newest run, whose version the gate had rejected."""
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("income")
    newer = client.create_run(experiment.experiment_id, run_name="newer", tags={"trigger": "x"})
    client.set_terminated(newer.info.run_id)
    notebook = run("03_search")
    assert "synthetic" in text(notebook, "run") and "train manual" in text(notebook, "run")
    printed, warned = outputs(notebook, "trials")
    assert printed.text.startswith(f"{TRIALS} trials: ")
    assert "Too few trials to read anything" in warned.data["text/markdown"]
    assert "learning_rate" in text(notebook, "mattered") and plots(notebook) == 2


@pytest.fixture
def shifted_log(contract: Contract) -> list[Prediction]:
    """Return two windows of predictions; people are 15 years older in the second one."""
    rows = synthesize(contract, 2 * WINDOW_ROWS, 1, seed=1).train[list(contract.input_names)]
    rows.loc[WINDOW_ROWS:, "age"] = (rows["age"] + 15).clip(upper=contract["age"].bounds[1])
    records: list[Any] = rows.mask(rows == MISSING, None).to_dict("records")
    probability = np.random.default_rng(0).beta(0.5, 1.5, len(rows)).tolist()
    return [
        Prediction(f"{n:032x}", BEGUN_AT + n, "1", record, chance, int(chance >= 0.5), 0.5)
        for n, (record, chance) in enumerate(zip(records, probability, strict=True))
    ]


def assert_the_shift_is_found(notebook: nbformat.NotebookNode) -> None:
    """Check that only age has drifted, beginning with the second window."""
    second = datetime.fromtimestamp(BEGUN_AT + WINDOW_ROWS, UTC)
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", text(notebook, "since-first"))
    assert cells[cells.index("age") + 1 :][:2] == ["1", f"{second:%m-%d %H:%M:%S}"]
    assert "1 of 12 features drifted" in text(notebook, "verdict")
    assert len(text(notebook, "report")) > 1_000_000  # Evidently's own page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drift_in_an_exported_log_is_found_in_its_first_window(run, shifted_log, tmp_path):
    log = tmp_path / "predictions.jsonl"
    log.write_bytes(b"\n".join(map(msgspec.json.encode, shifted_log)))
    assert_the_shift_is_found(run("04_drift", PREDICTION_LOG=str(log)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drift_in_mongodb_is_found_in_its_first_window(run, shifted_log, mongodb_uri):
    database = f"notebooks_{uuid.uuid4().hex}"
    documents = [{"_id": one.prediction_id} | document_of(one) for one in shifted_log]
    with pymongo.MongoClient(mongodb_uri) as client:
        client[database][COLLECTION].insert_many([*documents, {"_id": "early label", "label": 1}])
        try:
            settings = {"MONGODB_ADDRESS": mongodb_uri, "MONGODB_DATABASE": database}
            assert_the_shift_is_found(run("04_drift", **settings))
        finally:
            client.drop_database(database)
