"""Three prediction services behind one MongoDB and one monitoring, as real processes.

Each has its own port, journal, model folder, follower and relay. Clients send a request that gets
no response to the next service, with the same Idempotency-Key. Labels go to another service than
their prediction, so a sink may receive them first.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from config.contract import Contract, load_contract
from config.events import Label, Prediction
from evidently_service.api.metrics import WindowCollector
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.reference.registry import ReferenceCache, Registry
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from prediction_service.relay.progress import backlog, dead_letters
from prediction_service.settings import Settings
from prediction_service.sinks.mongodb import MongoSink
from tests.config.test_alerts import NOTHING, ONCE, Case, check_case
from tests.conftest import free_port, wait_until
from tests.evidently_service.conftest import judging, mlflow_registry, monitoring
from tests.evidently_service.events import made_up_rows, older, unshifted
from tests.evidently_service.mlflow_registry import RegistryFile
from tests.prediction_service.conftest import address_of, environment, make_settings, package
from tests.soak.system import MONITORING, RELAY, SERVICE, Part

__all__ = ["judging", "mlflow_registry", "monitoring", "package"]  # fixtures

pytestmark = pytest.mark.slow

MEASURE = ("evidently_service.measure",)
NAMES = ("north", "east", "south")
RECORDS = 5  # of a request
REQUESTS = 240
ROWS = RECORDS * REQUESTS
SENDERS = 6
PROMOTION_S = 60.0  # at most, on a loaded machine; FOLLOW_PERIOD_S is 0.5
# Figures that depend on the clock, or on which attempt of a batch came first. MongoDB keeps whole
# milliseconds, and the limit of a gap follows from the time in which its rows came.
VARYING = (
    "_fairness_gap_",
    "_timestamp_",
    "_duration_",
    "_duplicates_",
    "label_delay_",
    "label_horizon_",
)


class Replica:
    """A prediction service with its follower and its relay."""

    def __init__(self, name: str, folder: Path, common: dict[str, Any]) -> None:
        folder.mkdir()
        self.settings: Settings = make_settings(folder).model_copy(
            update=common | {"instance": name, "workers": 1}
        )
        own = environment(self.settings) | {"PROMETHEUS_MULTIPROC_DIR": str(folder / "counts")}
        follower = ("prediction_service.follower",)
        self.service = Part("service", SERVICE, own, folder / "service.log")
        self.relay = Part("relay", RELAY, own, folder / "relay.log")
        self.follower = Part("follower", follower, own, folder / "follower.log")
        self.parts = (self.service, self.relay, self.follower)
        self.address = address_of(self.settings)

    def backlog(self) -> dict[str, int]:
        """Return the number of undelivered events by sink."""
        root = self.settings.journal_path
        return {sink: backlog(root, sink) for sink in self.settings.sinks}

    def has_delivered(self) -> bool:
        """Return whether both sinks have every event."""
        return not any(self.backlog().values())

    def version(self) -> str | None:
        """Return the version in /model; None before the first one."""
        try:
            return requests.get(f"{self.address}/model", timeout=60).json().get("model_version")
        except requests.ConnectionError:
            return None

    def page(self) -> str:
        """Return the page for people."""
        headers = {"Accept": "text/html"}
        return requests.get(self.address, headers=headers, timeout=60).text


class System:
    """The replicas and their monitoring."""

    def __init__(self, folder: Path, common: dict[str, Any], judging: Monitoring) -> None:
        """`common`: settings of all replicas."""
        self.address: str = common["evidently_address"]
        self.window = folder / "window"
        file = folder / "monitoring.yaml"
        file.write_text(monitoring_file(judging), "utf-8")
        self.monitoring = load_monitoring(file, load_contract())
        self.replicas = [Replica(name, folder / name, common) for name in NAMES]
        own = os.environ | {
            "WINDOW_DIR": str(self.window),
            "EVIDENTLY_PORT": self.address.rpartition(":")[2],
            "EVIDENTLY_WORKERS": "1",
            "MONITORING_FILE": str(file),
            "JUDGE_PERIOD_S": "0",
            "MEASURE_PERIOD_S": "0.5",
            "MLFLOW_TRACKING_URI": common["mlflow_tracking_uri"],
        }
        self.parts = [part for one in self.replicas for part in one.parts]
        for name, arguments in (("web", MONITORING), ("measure", MEASURE)):
            self.parts.append(Part(name, arguments, own, folder / f"{name}.log"))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all processes while the body runs. Each service has a model."""
        try:
            for part in self.parts:
                part.start()
            wait_until(lambda: all(one.version() for one in self.replicas), "three models")
            yield
        finally:
            for part in self.parts:
                part.kill()


@pytest.fixture
def system(
    tmp_path: Path,
    judging: Monitoring,
    mlflow_registry: RegistryFile,
    sink: MongoSink,
    promote: Any,
) -> Iterator[System]:
    """Run everything on a version whose reference data have no drift against unshifted rows."""
    promote()
    host, port = sink.client.address or ("", 0)
    common = {
        "mlflow_tracking_uri": mlflow_registry.uri,
        "mongodb_address": f"mongodb://{host}:{port}",
        "mongodb_database": sink.collection.database.name,
        "evidently_address": f"http://127.0.0.1:{free_port()}",
        "follow_period_s": 0.5,
        "sink_timeout_s": 10.0,
        "relay_batch_rows": 50,
    }
    made = System(tmp_path, common, judging)
    with made.running():
        yield made


@pytest.fixture
def promote(mlflow_registry: RegistryFile, contract: Contract, package: Path) -> Callable[[], str]:
    """Return a function that puts a new version in production and returns its number."""
    reference = made_up_rows(contract, 2000, seed=1000)
    return lambda: mlflow_registry.promote(reference, package).number


def monitoring_file(judging: Monitoring) -> str:
    """Return a monitoring file whose window holds every row of the test."""
    whole = msgspec.structs.replace(judging, window_rows=ROWS, min_rows=500, min_labels=50)
    given = msgspec.to_builtins(whole)
    return yaml.safe_dump({name: value for name, value in given.items() if value is not None})


class Client:
    """Sends requests with labels to the replicas in turn; a failed one to the next replica."""

    def __init__(self, addresses: list[str], contract: Contract) -> None:
        self.addresses = addresses
        self.answered: list[dict[str, Any]] = []  # predictions of responses
        self.n_retried = 0
        names = [feature.name for feature in contract.inputs]
        half = ROWS // 2
        rows = made_up_rows(contract, half, 1, unshifted) + made_up_rows(contract, half, 2, older)
        self._records = [{name: row[name] for name in names} for row in rows]
        self._lock = threading.Lock()

    def send(self, number: int) -> None:
        """Send a request and the labels of its predictions; one label in five is wrong."""
        records = self._records[number * RECORDS :][:RECORDS]
        found = self._post("predict", number, records, {"Idempotency-Key": f"request {number}"})
        labels = [
            {
                "prediction_id": one["prediction_id"],
                "label": one["income_class"] ^ (index == number % RECORDS),
            }
            for index, one in enumerate(found)
        ]
        self._post("feedback", number + 1, labels)
        with self._lock:
            self.answered += found

    def _post(
        self, route: str, first: int, body: list[Any], headers: dict[str, str] | None = None
    ) -> Any:
        """Return the response of the first replica, from `first` on, that gives one."""
        for attempt in itertools.count(first):
            address = self.addresses[attempt % len(self.addresses)]
            try:
                response = requests.post(
                    f"{address}/{route}", json=body, headers=headers, timeout=10
                )
            except requests.RequestException:
                with self._lock:
                    self.n_retried += 1
                continue
            response.raise_for_status()
            return response.json()
        raise AssertionError("unreachable")


def figures(exposition: str) -> dict[str, float]:
    """Return the value of each series in a text of /metrics."""
    lines = (line.rsplit(" ", 1) for line in exposition.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in lines}


def scrape(address: str) -> dict[str, float]:
    """Return the value of each series of a service."""
    return figures(requests.get(f"{address}/metrics", timeout=10).text)


def comparable(found: dict[str, float]) -> dict[str, float]:
    """Return the figures that the same records must reproduce."""
    return {name: one for name, one in found.items() if not any(part in name for part in VARYING)}


def arrivals(system: System) -> tuple[list[Prediction], list[str]]:
    """Return the monitoring's predictions and the ids of its labels, both by arrival."""
    with closing(Window(system.window / "window.db")) as window:
        labelled = window.read("SELECT prediction_id FROM labels ORDER BY arrival")
        return window.last_predictions(10 * ROWS), [one for (one,) in labelled]


def measured(system: System) -> dict[str, float]:
    """Return the monitoring's figures once it has measured and judged all rows."""

    def settled() -> dict[str, float] | None:
        found = scrape(system.address)
        rows = found.get("income_quality_rows"), found.get("income_windows_judged")
        return found if rows == (ROWS, 1) else None

    return wait_until(settled, "all rows to be measured and judged")


def measured_alone(
    system: System, sink: MongoSink, contract: Contract, folder: Path
) -> dict[str, float]:
    """Return the figures of one window that gets the log of record.

    Its rows have the order of the shared window, because some intervals depend on it.
    """
    recorded = {one.prediction_id: one for one in sink.predictions()}
    true = {one.prediction_id: one.label for one in sink.labelled()}
    predictions, labelled = arrivals(system)
    rules, registry = system.monitoring, CollectorRegistry()
    tracking_uri = system.replicas[0].settings.mlflow_tracking_uri
    with closing(
        Window(folder / "window.db", segments=contract.segments, label_s=rules.label_s)
    ) as window:
        window.add_predictions([recorded[one.prediction_id] for one in predictions])
        window.add_labels([Label(id_, recorded[id_].predicted_at, true[id_]) for id_ in labelled])
        references = ReferenceCache(folder / "reference", Registry(tracking_uri))
        reports = Reports(folder / "reports", rules.reports_kept)
        Measure(window, references, rules, contract, reports=reports, judge_period_s=0).run_once()
        registry.register(WindowCollector(window, rules))
        return figures(generate_latest(registry).decode())


def send_while_one_is_killed(client: Client, killed: Replica) -> None:
    """Send all requests; kill service and relay between them, and start both again."""
    with ThreadPoolExecutor(SENDERS) as pool:
        sent = [pool.submit(client.send, number) for number in range(REQUESTS)]
        wait_until(lambda: len(client.answered) > ROWS / 4, "a quarter of the responses")
        killed.relay.kill()
        wait_until(lambda: min(killed.backlog().values()), "rows that wait for the relay")
        killed.service.kill()
        waiting = killed.backlog()
        wait_until(lambda: len(client.answered) > ROWS / 2, "half of the responses")
        assert killed.backlog() == waiting, "something else has delivered its rows"
        killed.service.start()
        killed.relay.start()
        for one in sent:
            one.result(timeout=60)
    assert client.n_retried, "the killed service had no request"


def test_replicas_store_and_measure_as_one_service_although_one_is_killed(
    system: System, contract: Contract, sink: MongoSink, tmp_path: Path
) -> None:
    """The killed service leaves requests without a response, and rows that wait for its relay."""
    client = Client([one.address for one in system.replicas], contract)
    send_while_one_is_killed(client, system.replicas[0])
    for replica in system.replicas:
        wait_until(replica.has_delivered, "the backlog to be delivered")
        assert not any(dead_letters(replica.settings.journal_path).values())

    ids = sorted(one["prediction_id"] for one in client.answered)
    assert len(set(ids)) == len(ids) == ROWS
    assert sorted(one.prediction_id for one in sink.predictions()) == ids
    assert sink.label_states() == {"matched": ROWS, "pending": 0, "conflicting": 0}
    predictions, labelled = arrivals(system)
    assert sorted(one.prediction_id for one in predictions) == sorted(labelled) == ids

    found = measured(system)
    assert found["income_window_ingested_total"] == found["income_labels_matched_total"] == ROWS
    assert found["income_quality_accuracy"] == 0.8
    assert found['income_feature_drift_score{feature="age"}'] > 1
    alone = measured_alone(system, sink, contract, tmp_path / "alone")
    # Evidently sums categories in the order of a set, which differs between processes.
    assert comparable(found) == pytest.approx(comparable(alone), rel=1e-9)


def are_serving(replicas: list[Replica], version: str) -> bool:
    """Return whether /model and the page of each name the version."""
    named = f"Version {version}, "
    return all(one.version() == version and named in one.page() for one in replicas)


def has_reference(system: System, version: str) -> bool:
    """Return whether the monitoring has the version's reference data."""
    return f'income_reference_info{{model_version="{version}"}}' in scrape(system.address)


def check_skew(system: System, folder: Path, firing: list[str]) -> None:
    """Evaluate the alert for ten minutes on what Prometheus would scrape now."""
    scraped = {one.settings.instance: scrape(one.address) for one in system.replicas}
    scraped["monitoring"] = scrape(system.address)
    series = {
        name.replace("}", f',instance="{instance}"}}'): f"{value:g}x10"
        for instance, found in scraped.items()
        for name, value in found.items()
        if name.startswith(("income_workers{", "income_reference_info{"))
    }
    assert len(series) >= len(scraped)
    check_case(Case("ModelVersionSkew", series, {10: firing}), folder)


def test_a_promotion_reaches_every_replica_and_a_skew_is_an_alert(
    system: System, promote: Callable[[], str], tmp_path: Path
) -> None:
    *others, late = system.replicas
    version = promote()
    wait_until(
        lambda: are_serving(system.replicas, version), "the promotion", timeout_s=PROMOTION_S
    )
    wait_until(lambda: has_reference(system, version), "the new reference data")
    check_skew(system, tmp_path, NOTHING)
    late.follower.kill()
    newer = promote()
    wait_until(
        lambda: are_serving(others, newer), "the promotion of two replicas", timeout_s=PROMOTION_S
    )
    wait_until(lambda: has_reference(system, newer), "the newer reference data")
    assert are_serving([late], version)
    check_skew(system, tmp_path, ONCE)
    late.follower.start()
    wait_until(lambda: are_serving(system.replicas, newer), "the last replica")
    check_skew(system, tmp_path, NOTHING)
