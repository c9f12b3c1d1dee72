"""A sample (EVIDENTLY_SAMPLE) has the figures of all rows."""

import random
from contextlib import closing

import msgspec
import numpy as np
import pytest

from config.contract import Contract
from config.events import Label, Prediction
from evidently_service.measure.measurement import Measure, outputs
from evidently_service.measure.performance import measure_quality
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.registry import ReferenceCache
from evidently_service.store.records import Measurement
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from prediction_service.sinks.base import is_in_sample
from tests.evidently_service.events import made_up_predictions, made_up_rows, older
from tests.evidently_service.mlflow_registry import FakeRegistry

ROWS = 10_000
METRICS = {"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}


def events(contract: Contract) -> tuple[list[Prediction], list[Label]]:
    """Return predictions of older people, and labels that follow their probabilities."""
    draw = random.Random(5)
    predictions = made_up_predictions(contract, ROWS, seed=4, shift=older)
    labels = [
        Label(one.prediction_id, one.predicted_at + 60, int(draw.random() < one.probability))
        for one in predictions
    ]
    return predictions, labels


@pytest.fixture(scope="module")
def measured(
    contract: Contract, judging: Monitoring, tmp_path_factory: pytest.TempPathFactory
) -> dict[float, Measurement]:
    """Return the measurement of all rows and of a fifth, by share."""
    monitoring = msgspec.structs.replace(judging, window_rows=ROWS)
    predictions, labels = events(contract)
    source = FakeRegistry(made_up_rows(contract, 2000, seed=1))
    found = {}
    for share in (1.0, 0.2):
        folder = tmp_path_factory.mktemp("sample")
        with closing(Window(folder / "window.db", segments=contract.segments)) as window:
            window.add_predictions([p for p in predictions if is_in_sample(p.prediction_id, share)])
            window.add_labels([one for one in labels if is_in_sample(one.prediction_id, share)])
            references = ReferenceCache(folder, source)
            reports = Reports(folder / "reports", max_saved=1)
            measure = Measure(window, references, monitoring, contract, reports=reports)
            measure.judge.joint = None  # no figure here is of the joint test
            measure.run_once()
            latest = window.latest()
        assert latest
        found[share] = latest
    return found


def test_a_sample_has_the_verdict_of_all_rows(measured: dict[float, Measurement]) -> None:
    everything, sample = measured[1.0], measured[0.2]
    assert (everything.window.rows, sample.window.rows) == (ROWS, pytest.approx(ROWS / 5, abs=160))
    assert sample.beyond == everything.beyond and "age" in sample.beyond
    drift = {one.name: one.ratio for one in everything.features}
    (age,) = [one.ratio for one in sample.features if one.name == "age"]
    assert age == pytest.approx(drift["age"], rel=0.1)
    shifts = {one.feature: one for one in everything.impacts}
    for one in sample.impacts:
        error = one.standard_error + shifts[one.feature].standard_error
        assert one.shift == pytest.approx(shifts[one.feature].shift, abs=2 * error), one.feature


def test_labels_of_a_sample_join_its_predictions(measured: dict[float, Measurement]) -> None:
    found = measured[0.2]
    assert found.quality and found.quality.rows == found.labels.matched == found.window.rows
    assert (found.labels.pending, found.label_coverage) == (0, 1.0)


def test_the_quality_of_all_rows_is_within_the_intervals_of_a_sample(contract: Contract) -> None:
    """Twenty sets of ids, because a 95 % interval of one set may miss the value by chance."""
    predictions, labels = events(contract)
    label = np.array([one.label for one in labels])
    everything = measure_quality(label, *outputs(predictions))
    held = []
    for number in range(20):
        chosen = [n for n in range(ROWS) if is_in_sample(f"{number}-{n}", 0.2)]
        sample = measure_quality(label[chosen], *outputs([predictions[n] for n in chosen]))
        assert METRICS <= set(sample.bounds)
        for name, bounds in sample.bounds.items():
            held.append(bounds.lower <= getattr(everything, name) <= bounds.upper)
            narrow = everything.bounds[name]
            assert bounds.upper - bounds.lower > 1.5 * (narrow.upper - narrow.lower), name
    assert np.mean(held) > 0.92
