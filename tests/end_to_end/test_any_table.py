"""Two tables of strangers through the whole loop, with the proposed files unedited.

init -> train -> served predictions and page -> a new month is ingested -> the monitoring sees a
shifted window -> a second training.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import schemathesis
from flask.testing import FlaskClient
from mlflow import MlflowClient
from prometheus_client import CollectorRegistry

from config.contract import Contract, load_contract
from config.model_registry import MODEL_NAME
from evidently_service.api.app import create_app as create_monitoring
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.reference.registry import ReferenceCache
from evidently_service.reference.registry import Registry as ReferenceRegistry
from evidently_service.settings import Settings as MonitoringSettings
from evidently_service.store.records import Measurement
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from prediction_service.follower import Follower
from prediction_service.http.app import create_app
from prediction_service.journal import Journal
from prediction_service.journal.reader import read_all
from prediction_service.metrics import Metrics
from prediction_service.models.live_model import LiveModel
from prediction_service.models.model_folder import ModelFolder
from prediction_service.models.registry import Registry
from prediction_service.predict.model import Model
from prediction_service.settings import Settings
from tests.evidently_service.events import soon_ready
from tests.conftest import mlflow_server
from training.__main__ import main
from training.data.source import load_source
from training.data.table_files import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = ["--max-evals", "2", "--folds", "2"]
JSON = "application/json"
BROWSER = {"Accept": "text/html,*/*;q=0.8"}
ROWS = 3000


@dataclass(frozen=True)
class Kind:
    """One table: its rows, its file and the arguments of `init`."""

    file: str
    target: str
    positive: str
    make: Callable[[int, int, bool], pd.DataFrame]  # rows, seed, shifted
    shifted: set[str]
    separator: str


def bank(n: int, seed: int, shifted: bool) -> pd.DataFrame:
    """Return rows like Bank Marketing's: unknown, -1 for never, months as words."""
    r = np.random.default_rng(seed)
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    called = r.random(n) < 0.2
    rows = pd.DataFrame(
        {
            "age": r.integers(50 if shifted else 18, 90, n),
            "job": r.choice(["admin.", "blue-collar", "self-employed", "unknown"], n),
            "education": r.choice(["primary", "secondary", "tertiary", "unknown"], n),
            "default": r.choice(["no", "yes"], n, p=[0.95, 0.05]),
            "balance": r.normal(1300, 2500, n).round().astype(int),
            "housing": r.choice(["no", "yes"], n),
            "contact": r.choice(["cellular", "telephone", "unknown"], n, p=[0.65, 0.06, 0.29]),
            "day": r.integers(1, 32, n),
            "month": r.choice(months[:3] if shifted else months, n),
            "duration": r.gamma(1.2, 220, n).astype(int),
            "pdays": np.where(called, r.integers(1, 500, n), -1),
            "poutcome": np.where(called, r.choice(["failure", "success"], n), "unknown"),
        }
    )
    margin = rows["duration"] / 240 + 2 * (rows["poutcome"] == "success") - 3
    rows["y"] = np.where(r.random(n) < 1 / (1 + np.exp(-margin)), "yes", "no")
    return rows


def telco(n: int, seed: int, shifted: bool) -> pd.DataFrame:
    """Return rows like the Telco churn table's: an id, cents, yes/no, 0/1, blank totals."""
    r = np.random.default_rng(seed)
    tenure = r.integers(40 if shifted else 0, 73, n)
    internet = r.choice(["DSL", "Fiber optic", "No"], n, p=[0.34, 0.44, 0.22])
    monthly = (18.25 + 40 * (internet != "No") + r.random(n) * 20).round(2)
    letters = np.array(list("ABCDEFGHJKLMNPQRSTUVWXYZ"))
    contract = r.choice(["Month-to-month", "One year", "Two year"], n, p=[0.55, 0.21, 0.24])
    margin = 2 * (contract == "Month-to-month") - tenure / 18
    answers = np.where(internet == "No", "No internet service", r.choice(["No", "Yes"], n))
    totals = [f"{total:g}" for total in (monthly * tenure * (0.95 + r.random(n) / 10)).round(2)]
    return pd.DataFrame(
        {
            "customerID": [f"{i:04d}-{''.join(r.choice(letters, 5))}" for i in r.permutation(n)],
            "gender": r.choice(["Female", "Male"], n),
            "SeniorCitizen": (r.random(n) < 0.16).astype(int),
            "Partner": r.choice(["Yes", "No"], n),
            "tenure": tenure,
            "InternetService": internet,
            "OnlineSecurity": answers,
            "Contract": contract,
            "PaymentMethod": r.choice(["Mailed check", "Credit card (automatic)"], n),
            "MonthlyCharges": [f"{charge:g}" for charge in monthly],
            "TotalCharges": np.where(tenure == 0, " ", totals),
            "Churn": np.where(r.random(n) < 1 / (1 + np.exp(-margin)), "Yes", "No"),
        }
    )


KINDS = [
    Kind("bank-full.csv", "y", "yes", bank, {"age", "month"}, ";"),
    Kind("telco.csv", "Churn", "Yes", telco, {"tenure", "TotalCharges"}, ","),
]


class Loop:
    """The parts of one table, as a stranger starts them."""

    def __init__(self, folder: Path, kind: Kind, tracking_uri: str) -> None:
        self.folder = folder
        self.kind = kind
        self.uri = tracking_uri
        self.contract_path = folder / "proposed" / "features.yaml"
        self.models = ModelFolder(folder / "models")
        self.journal = folder / "journal"
        self.journal.mkdir()

    @property
    def contract(self) -> Contract:
        """The proposed contract."""
        return load_contract(self.contract_path)

    def write(self, name: str, seed: int, shifted: bool = False) -> Path:
        """Write a file of the table."""
        path = self.folder / name
        rows = self.kind.make(ROWS, seed, shifted)
        rows.to_csv(path, index=False, sep=self.kind.separator, quoting=2)
        return path

    def records(self, file: Path) -> list[dict[str, Any]]:
        """Return the inputs of a file's rows as a client sends them."""
        source = load_source(self.contract_path.with_name("source.yaml"))
        raw = read_table(file.name, file.read_bytes(), self.contract, source.format).raw
        return raw[list(self.contract.input_names)].to_dict("records")  # type: ignore[return-value]

    def versions(self) -> list[str]:
        """Return the numbers of the registered versions."""
        found = MlflowClient(self.uri).search_model_versions(f"name='{MODEL_NAME}'")
        return sorted(version.version for version in found)

    @contextmanager
    def client(self) -> Iterator[FlaskClient]:
        """Serve the production version, after the follower has fetched it."""
        Follower(Registry(self.uri, ""), self.models, self.contract).follow()
        live_model = LiveModel(self.models, self.contract, Model)
        live_model.refresh()
        settings = Settings(
            model_dir=str(self.models.path), journal_dir=str(self.journal), instance="here"
        )
        with closing(Journal(self.journal, "here", "normal", 10**8)) as journal:
            app = create_app(settings, live_model, journal, Metrics(CollectorRegistry()))
            yield app.test_client()

    @contextmanager
    def monitoring(self) -> Iterator[Callable[[], Measurement]]:
        """Return a function that sends what is new in the journal, and measures the window."""
        monitoring, contract = load_monitoring(None, self.contract), self.contract
        references = ReferenceCache(self.folder / "reference", ReferenceRegistry(self.uri))
        with closing(Window(self.folder / "window.db")) as window:
            reports = Reports(self.folder / "reports", monitoring.reports_kept)
            measure = Measure(
                window,
                references,
                monitoring,
                contract,
                reports=reports,
                judge_period_s=0,
            )
            soon_ready(measure)
            settings = MonitoringSettings()
            app = create_monitoring(settings, monitoring, contract, window, CollectorRegistry())

            def measured() -> Measurement:
                for events in read_all(self.journal, 1000):  # a repeated event changes nothing
                    body = b"[" + b",".join(event.body for event in events) + b"]"
                    sent = app.test_client().post("/iterate", data=body, content_type=JSON)
                    assert sent.status_code < 300, sent.text
                measure.run_once()
                found = window.latest()
                assert found is not None
                return found

            yield measured


@pytest.fixture(name="loop", params=KINDS, ids=lambda kind: kind.make.__name__)
def _loop(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Loop]:
    """A table without files, and an MLflow server of its own."""
    with mlflow_server(tmp_path) as address:
        loop = Loop(tmp_path, request.param, address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("CONTRACT", str(loop.contract_path))
        yield loop
    mlflow.set_registry_uri("")  # the services' registries change MLflow's global address


@pytest.mark.usefixtures("prefect_server")
def test_a_strangers_table_goes_through_the_whole_loop(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, folder = loop.kind, str(loop.contract_path.parent)
    table = loop.write(kind.file, seed=1)
    main(["init", str(table), "--target", kind.target, "--positive", kind.positive]
         + ["--output", folder])  # fmt: skip
    main(["train", *SMALL])
    assert "roc_auc" in capsys.readouterr().out and loop.versions() == ["1"]

    calm, shifted = loop.write("calm.csv", seed=2), loop.write("shifted.csv", 3, shifted=True)
    with loop.client() as client, loop.monitoring() as measured:
        check_pages(client, loop.contract)
        found = predict(client, loop.records(calm))
        positives = pd.read_csv(calm, sep=kind.separator)[kind.target] == kind.positive
        assert np.mean(found[positives]) > np.mean(found[~positives]) + 0.1
        assert drifted(measured()) == set()
        for part in np.array_split(np.array(loop.records(shifted)), 3):
            predict(client, part.tolist())
            last = measured()
        assert kind.shifted <= drifted(last)

    main(["ingest", str(shifted), "--period", "2026-10"])
    main(["train", *SMALL])
    assert f"{ROWS:,} rows of 2026-10" in capsys.readouterr().out
    assert loop.versions() == ["1", "2"]


def drifted(measurement: Measurement) -> set[str]:
    """Return the features that have drifted in enough windows."""
    assert measurement.state == "ok", measurement
    return {one.name for one in measurement.features if one.persistent}


def check_pages(client: FlaskClient, contract: Contract) -> None:
    """Check that the form and the API document have every input of the contract."""
    page = client.get("/", headers=BROWSER)
    document = client.get("/openapi.json").json
    assert page.status_code == 200 and document is not None
    schemathesis.openapi.from_dict(document).validate()
    for name in contract.input_names:
        assert f'name="{name}"' in page.text
    assert document["components"]["schemas"]["Record"]["properties"].keys() == {*contract.by_name}


def predict(client: FlaskClient, records: list[dict[str, Any]]) -> np.ndarray:
    """Return the probabilities (n_records,) of records that are sent in requests of 500."""
    found = []
    for start in range(0, len(records), 500):
        response = client.post("/predict", json=records[start : start + 500])
        assert response.status_code == 200, response.text[:2000]
        assert response.json is not None
        found += [one["probability"] for one in response.json]
    return np.array(found)
