"""The shadow process: its scores, pairs, verdicts, restarts and errors."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from config.contract import Contract
from config.events import PAGE, Label, Prediction
from config.model.model import Model
from config.model.package import ModelRejected
from config.model_registry import CHALLENGER, FALLBACK, FILE_SHA256, MODEL_NAME, file_digests
from evidently_service.api.app import create_app
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.registry import Registry, RegistryError, Version
from evidently_service.settings import Settings
from evidently_service.shadow.sequential import Rules, decide, loss_differences
from evidently_service.shadow.shadow import Shadow
from evidently_service.shadow.store import ShadowStore, ShadowTest
from evidently_service.store.window import Window
from tests.conftest import ROOT, wait_until
from tests.evidently_service.events import made_up_predictions, made_up_rows
from tests.evidently_service.mlflow_registry import FakeRegistry, RegistryFile
from tests.prediction_service.conftest import make_package

STARTED = 1_699_999_999.0  # before the made-up predictions
LIMITS = {"1": 45, "2": 60, "3": 45}  # each version's age from which income is high


@pytest.fixture(scope="module")
def packages(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package of each version."""
    folder = tmp_path_factory.mktemp("packages")
    for number, limit in LIMITS.items():
        make_package(contract, folder / number, limit=limit)
    return folder


class Aliases(FakeRegistry):
    """A registry with a folder of packages; the test sets its aliases."""

    def __init__(self, packages: Path, contract: Contract) -> None:
        super().__init__(made_up_rows(contract, 500, seed=9))
        self.packages = packages
        self.shadow: tuple[str, str] | None = (CHALLENGER, "2")

    def shadow_version(self) -> tuple[str, Version] | None:
        """Return alias and version of the shadow."""
        return (
            (self.shadow[0], Version(self.shadow[1], f"run-{self.shadow[1]}"))
            if self.shadow
            else None
        )

    @contextmanager
    def package(self, version: Version) -> Iterator[Path]:
        """Yield the folder of a version."""
        folder = self.packages / version.number
        if not folder.exists():
            raise RegistryError(f"MLflow has no version {version.number}")
        yield folder


@pytest.fixture
def aliases(packages: Path, contract: Contract) -> Aliases:
    """Return a registry in which version 2 challenges version 1."""
    return Aliases(packages, contract)


@pytest.fixture
def shadow(window: Window, aliases: Aliases, monitoring: Monitoring, contract: Contract) -> Shadow:
    """Return a shadow before its first run."""
    return Shadow(window, aliases, monitoring, contract, clock=lambda: STARTED)


def predicted(
    contract: Contract, packages: Path, rows: int, seed: int = 1, version: str = "1"
) -> list[Prediction]:
    """Return predictions of a version for made-up records."""
    made = made_up_predictions(contract, rows, seed, version=version)
    model = Model(packages / version, version, contract)
    found = model.score_stored(made).tolist()
    return [
        msgspec.structs.replace(one, probability=p, income_class=int(p >= 0.5))
        for one, p in zip(made, found)
    ]


def labels_from(age: int, predictions: list[Prediction]) -> list[Label]:
    """Return labels of 1 from an age on."""
    return [
        Label(
            one.prediction_id,
            one.predicted_at + 60,
            int(int(one.features["age"] or 0) >= age),
            labelled_by="ann",
        )
        for one in predictions
    ]


def page_of(window: Window, shadow: Shadow) -> str:
    """Return the status page as a browser gets it."""
    app = create_app(Settings(), Monitoring(), shadow.contract, window, CollectorRegistry())
    return app.test_client().get("/", headers={"Accept": "text/html"}).text


def store_labelled(window: Window, predictions: list[Prediction], age: int) -> None:
    """Store predictions and their labels."""
    window.add_predictions(predictions)
    window.add_labels(labels_from(age, predictions))


def result(window: Window) -> ShadowTest:
    """Return the stored test."""
    return ShadowStore(window).test()


@pytest.mark.parametrize(
    ("alias", "world", "outcome"),
    [
        (CHALLENGER, 60, ("promote", "better")),
        (CHALLENGER, 45, ("reject", "worse")),
        (FALLBACK, 60, ("undo", "better")),
    ],
)
def test_labels_decide_between_production_and_the_shadow(alias, world, outcome, shadow, aliases):
    window, contract, (verdict, words) = shadow.window, shadow.contract, outcome
    aliases.shadow = alias, "2"
    shadow.run_once()
    assert (result(window).kind, result(window).verdict) == (alias, None)
    predictions = predicted(contract, aliases.packages, 400)
    window.add_predictions(predictions)
    shadow.run_once()
    scored = result(window)
    assert (scored.rows, scored.labels, scored.verdict) == (400, 0, None)
    assert 0.7 < scored.agreement < 0.95  # ages from 45 to 60 of 17 to 90
    assert scored.mean_probability[0] > scored.mean_probability[1] > 0
    window.add_labels(labels_from(world, predictions))
    shadow.run_once()
    found = result(window)
    assert found.verdict == verdict and words in found.why and found.decided_at == STARTED
    assert found.labels == found.evidence.labels < 200
    assert "sex: Female" in found.segments
    shadow.run_once()
    assert result(window) == found  # a decision stays until the registry changes


@pytest.mark.parametrize(
    ("found", "verdict"), [((FALLBACK, "2"), "keep"), ((CHALLENGER, "3"), "reject")]
)
def test_a_test_without_a_result_is_decided_at_its_time_limit(
    found, verdict, window, shadow, aliases
):
    """Version 2 is worse than production, and version 3 is equal to it."""
    aliases.shadow = found
    shadow.run_once()
    store_labelled(window, predicted(shadow.contract, aliases.packages, 400), 45)
    shadow.run_once()
    assert result(window).verdict is None and result(window).labels == 400
    shadow.clock = lambda: STARTED + 15 * 86400
    shadow.run_once()
    assert result(window).verdict == verdict and "undecided after 15.0 days" in result(window).why


def test_only_production_predictions_after_the_start_count_and_each_record_once(
    window, shadow, aliases, contract
):
    before = predicted(contract, aliases.packages, 50, seed=2)
    store_labelled(window, before, 60)
    shadow.run_once()
    rows = predicted(contract, aliases.packages, 100)
    again = [
        msgspec.structs.replace(one, prediction_id=f"again-{one.prediction_id}") for one in rows
    ]
    page = [
        msgspec.structs.replace(one, source=PAGE)
        for one in predicted(contract, aliases.packages, 20, seed=3)
    ]
    late = [  # predicted before the start, and delivered after it
        msgspec.structs.replace(one, predicted_at=STARTED - 10)
        for one in predicted(contract, aliases.packages, 20, seed=4)
    ]
    other = predicted(contract, aliases.packages, 20, seed=5, version="3")
    store_labelled(window, rows + again + page + late + other, 60)
    shadow.run_once()
    assert result(window).rows == 100


def test_labels_without_a_key_count_only_with_the_setting(
    window, shadow, aliases, monitoring, contract
):
    shadow.run_once()
    predictions = predicted(contract, aliases.packages, 400)
    window.add_predictions(predictions)
    labels = labels_from(60, predictions)
    window.add_labels([msgspec.structs.replace(one, labelled_by=None) for one in labels[:200]])
    window.add_labels(labels[200:203])
    shadow.run_once()
    assert (result(window).labels, result(window).verdict) == (3, None)
    ShadowStore(window).start(ShadowTest())
    trusting = Shadow(window, aliases, monitoring, contract, anonymous=True, clock=lambda: STARTED)
    trusting.run_once()
    unkeyed = predicted(contract, aliases.packages, 400, seed=8)
    window.add_predictions(unkeyed)
    window.add_labels(
        [msgspec.structs.replace(one, labelled_by=None) for one in labels_from(60, unkeyed)]
    )
    trusting.run_once()
    assert result(window).verdict == "promote"


@contextmanager
def shadow_process(env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the process while the body runs; then kill it."""
    command = [sys.executable, "-m", "evidently_service.shadow"]
    with (
        log.open("ab") as file,
        subprocess.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=file) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def unclear(
    contract: Contract, packages: Path, version: str
) -> tuple[list[Prediction], list[Label]]:
    """Return predictions of now and their labels; one in three is wrong.

    So the test takes some hundred of them.
    """
    predictions = [
        msgspec.structs.replace(one, predicted_at=time.time(), model_version=version)
        for one in predicted(contract, packages, 600)
    ]
    labels = [
        msgspec.structs.replace(one, label=one.label ^ (number % 3 == 0))
        for number, one in enumerate(labels_from(60, predictions))
    ]
    return predictions, labels


def test_a_killed_process_loses_no_score_and_no_label_of_its_test(
    window, mlflow_registry, packages, monitoring, contract
):
    shadow, production = (
        mlflow_registry.promote(made_up_rows(contract, 500, seed=9), packages / name)
        for name in ("2", "1")
    )
    client = mlflow_registry.client
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, shadow.number)
    log = Path(window.read("PRAGMA database_list")[0][2]).with_name("log")
    env = os.environ | {"WINDOW_DIR": str(log.parent), "MEASURE_PERIOD_S": "0.2"}
    env |= {"MLFLOW_TRACKING_URI": mlflow_registry.uri}
    try:
        with shadow_process(env, log):
            wait_until(lambda: result(window).kind, log.read_text)
            predictions, labels = unclear(contract, packages, production.number)
            window.add_predictions(predictions)
            window.add_labels(labels[:60])
            wait_until(lambda: result(window).labels == 60, log.read_text)
        assert result(window).verdict is None
        window.add_labels(labels[60:])
        Shadow(window, Registry(mlflow_registry.uri), monitoring, contract).run_once()
    finally:
        client.delete_registered_model_alias(MODEL_NAME, CHALLENGER)
    pairs = ShadowStore(window).pairs(10_000)
    differences = loss_differences(pairs.y, pairs.production, pairs.shadow)
    whole = decide(differences, pairs.segments, Rules(), guards=False)
    assert (result(window).verdict, whole.outcome) == ("promote", "better")
    assert result(window).labels == whole.labels > 60


def test_changed_aliases_start_a_new_test(window, shadow, aliases, contract):
    shadow.run_once()
    store_labelled(window, predicted(contract, aliases.packages, 400), 60)
    shadow.run_once()
    assert result(window).verdict == "promote"
    aliases.version, aliases.shadow = Version("2", "run-2"), (FALLBACK, "1")
    shadow.run_once()
    found = result(window)
    assert (found.kind, found.version, found.production) == (FALLBACK, "1", "2")
    assert (found.rows, found.labels, found.verdict) == (0, 0, None)
    aliases.shadow = CHALLENGER, "2"  # for a moment of its promotion
    shadow.run_once()
    assert result(window) == ShadowTest(run_at=STARTED, last=found.last)
    assert (found.last.version, found.last.verdict) == ("2", "promote")
    assert f"version 2 beside version 1: promote, {found.last.why}." in page_of(window, shadow)


def test_an_error_is_shown_until_a_run_succeeds(window, shadow, aliases):
    aliases.shadow = CHALLENGER, "77"
    shadow.run_once()
    assert result(window).error == "MLflow has no version 77" and result(window).kind is None
    aliases.shadow = None
    shadow.run_once()
    assert result(window).error is None
    aliases.shadow = CHALLENGER, "77"
    shadow.run_once()
    aliases.shadow = CHALLENGER, "2"
    shadow.run_once()
    assert result(window).error is None and result(window).version == "2"


def test_erasing_a_prediction_erases_its_score(window, shadow, aliases, contract):
    shadow.run_once()
    predictions = predicted(contract, aliases.packages, 10)
    store_labelled(window, predictions, 60)
    shadow.run_once()
    window.erase(predictions[0].prediction_id)
    assert window.read("SELECT count(*), min(arrival) FROM shadow") == [(9, 2)]


def test_the_registry_gives_the_shadow_version_and_its_checked_package(
    mlflow_registry: RegistryFile, packages, contract
):
    registry, client = Registry(mlflow_registry.uri), mlflow_registry.client
    version = mlflow_registry.promote([], packages / "1")
    assert registry.shadow_version() is None
    client.set_registered_model_alias(MODEL_NAME, FALLBACK, version.number)
    assert registry.shadow_version() == (FALLBACK, version)
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version.number)
    assert registry.shadow_version() == (CHALLENGER, version)
    digests = file_digests(packages / "1")
    with registry.package(version) as folder:
        assert Model(folder, version.number, contract).version == version.number
    digests["model.onnx"] = "0" * 64
    client.set_model_version_tag(MODEL_NAME, version.number, FILE_SHA256, json.dumps(digests))
    with pytest.raises(ModelRejected, match="changed or damaged"), registry.package(version):
        pass
    for alias in (CHALLENGER, FALLBACK):
        client.delete_registered_model_alias(MODEL_NAME, alias)


def test_the_service_shows_the_test(window, shadow, aliases, monitoring, contract):
    registry = CollectorRegistry()
    client = create_app(Settings(), monitoring, contract, window, registry).test_client()
    assert client.get("/shadow").json["kind"] is None
    assert "income_shadow" not in client.get("/metrics").text
    shadow.run_once()
    store_labelled(window, predicted(contract, aliases.packages, 400), 60)
    shadow.run_once()
    body = client.get("/shadow").json
    assert (body["kind"], body["version"], body["production"]) == (CHALLENGER, "2", "1")
    assert body["verdict"] == "promote" and body["evidence"]["lower"] > 0
    metrics = client.get("/metrics").text
    assert 'income_shadow_info{kind="challenger",production="1",version="2"} 1.0' in metrics
    assert f"income_shadow_run_timestamp_seconds {STARTED:.9e}" in metrics
    assert f"income_shadow_labels {body['labels']:.1f}" in metrics
    assert 'income_shadow_log_e{direction="better"}' in metrics
    assert 'income_shadow_segment_gain{segment="sex: Female"}' in metrics
    page = page_of(window, shadow)
    assert "<dt>Challenger</dt><dd>Version 2 beside version 1 since" in page
    assert "Verdict: promote." in page
