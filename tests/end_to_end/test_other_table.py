"""Another table, from raw rows to predictions: only the contract changes."""

from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from sklearn.metrics import roc_auc_score

from config.contract import Contract
from config.model.package import sha256_of
from prediction_service.http.app import create_app
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.models.model_folder import Current, ModelFolder
from prediction_service.models.live_model import LiveModel
from prediction_service.predict.model import Model
from prediction_service.settings import Settings
from training.data.rows import records_of
from training.data.validation import check_frame
from training.model.onnx_export import Package, write_package
from training.model.search import Folds, run_search
from training.orchestration.steps import fit

BROWSER = {"Accept": "text/html,*/*;q=0.8"}
SUBSCRIBER = {
    "tenure": 3,
    "plan": None,
    "charges": 29.5,
    "autopay": "No",
    "senior": 0,
    "joined": "2024-02-29",
    "contentment": "poor",
}
LOYAL = {"tenure": 100, "senior": 1, "contentment": "good"}


def raw_rows(n_rows: int) -> pd.DataFrame:
    """Return random subscribers, a third of the values missing; two rows break the contract.

    New subscribers with a low contentment leave.
    """
    rng = np.random.default_rng(1)
    tenure = rng.integers(0, 121, n_rows)
    contentment = rng.choice(["poor", "fair", "good"], n_rows)
    leaves = rng.random(n_rows) < np.where((tenure < 24) & (contentment != "good"), 0.8, 0.1)
    days = rng.integers(0, 11_000, n_rows)
    rows = pd.DataFrame(
        {
            "tenure": tenure,
            "plan": rng.choice(["basic", "family", "student"], n_rows),
            "charges": (tenure + 20 * leaves + rng.random(n_rows)).round(2),
            "autopay": rng.choice(["No", "Yes"], n_rows),
            "senior": rng.integers(0, 2, n_rows),
            "joined": [str(date(2000, 1, 1) + timedelta(int(n))) for n in days],
            "contentment": contentment,
            "churn": np.where(leaves, "leaves", "stays"),
        }
    )
    for column in ("plan", "charges", "autopay", "joined", "contentment"):
        rows[column] = rows[column].astype(object).mask(rng.random(n_rows) < 0.33, None)
    rows.loc[0, "tenure"] = 500
    rows.loc[1, "contentment"] = "splendid"
    return rows


@pytest.fixture(scope="module")
def model_dir(churn: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with a model of the other table, trained as in the flow."""
    rows, rejected = check_frame(raw_rows(2000), churn)
    again, none = check_frame(rows, churn)
    pd.testing.assert_frame_equal(again, rows)
    assert none.empty
    assert [str(one) for problems in rejected["problems"] for one in problems] == [
        "tenure: got 500, expected a whole number from 0 to 120",
        "contentment: got 'splendid', expected one of poor, fair, good, or null",
    ]
    best = run_search(Folds.of(rows, churn, n_folds=2, seed=1), 2, None, seed=1)
    assert roc_auc_score(rows["churn"], best.probability) > 0.7
    model, _ = fit.fn(rows, churn, best, seed=1, compared=np.ones(len(rows), bool))
    models = ModelFolder(tmp_path_factory.mktemp("models"))
    folder = models.path / "1"
    write_package(folder, model, churn, rows[list(churn.input_names)], {"run_id": "0" * 32})
    models.switch(Current("1", "0" * 32, "1", sha256_of(folder / "model.onnx")))
    return models.path


@pytest.fixture
def client(churn: Contract, model_dir: Path, tmp_path: Path) -> Iterator[FlaskClient]:
    """Return a client of the prediction service with the other table's model."""
    settings = Settings(model_dir=str(model_dir), journal_dir=str(tmp_path), instance="here")
    live_model = LiveModel(ModelFolder(model_dir), churn, Model)
    live_model.refresh()
    with closing(Journal(tmp_path, "here", "normal", 10**8)) as journal:
        app = create_app(settings, live_model, journal, Metrics(CollectorRegistry()))
        yield app.test_client()


def test_predictions_use_the_other_tables_words(client: FlaskClient) -> None:
    leaver = client.post("/predict?explain=true", json=SUBSCRIBER).json
    stayer = client.post("/predict", json=LOYAL).json
    assert leaver is not None and stayer is not None
    assert (leaver["label"], stayer["label"]) == ("leaves", "stays")
    chance = f"{leaver['probability']:.1%}"
    assert leaver["message"] == (
        "Called leaves (whether a subscriber leaves within a month); the probability of leaves is"
        f" {chance}."
    )
    assert stayer["message"].startswith("Called stays (") and "50,000" not in stayer["message"]
    assert leaver["probability"] > 0.6 > 0.3 > stayer["probability"]
    assert set(leaver["explanation"]["contributions"]) == set(SUBSCRIBER)
    assert any(
        "tenure: 3 months raises the odds of leaves" in one
        for one in leaver["explanation"]["reasons"]
    )


def test_the_service_gives_the_same_probabilities_for_every_row(
    churn: Contract, model_dir: Path
) -> None:
    """Rows with missing values and dates of leap years included."""
    rows, _ = check_frame(raw_rows(3000), churn)
    expected = Package(model_dir / "1", churn).score(rows)
    service = Model(model_dir / "1", "1", churn)
    records = records_of(rows, churn)
    found = service.score([tuple(record.values()) for record in records])
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.2 < rows["charges"].isna().mean() < 0.5
    explained = service.explainer.explain([tuple(record.values()) for record in records])
    margins = [one.calibration(one.margin) for one in explained]
    assert margins == pytest.approx(found.tolist(), abs=1e-5)


def test_errors_page_and_api_reference_follow_its_contract(client: FlaskClient) -> None:
    wrong = client.post("/predict", json=SUBSCRIBER | {"plan": "famly"}).json
    assert wrong is not None
    assert wrong["error"]["problems"][0]["nearest"] == "family"
    page = client.get("/", headers=BROWSER).text
    assert "<h1>Churn prediction</h1>" in page and "contentment" in page and "months" in page
    document = client.get("/openapi.json")
    assert "50,000" not in document.text and "50K" not in document.text
    record = document.json["components"]["schemas"]["Record"]  # type: ignore
    assert set(record["properties"]) == {*SUBSCRIBER, "account"}
