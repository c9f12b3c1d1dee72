"""What the monitoring measures of a sample (EVIDENTLY_SAMPLE) is what it measures of all rows."""

import random
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from config.contract import Contract
from config.events import Label
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.registry import ReferenceCache
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from prediction_service.sinks.base import is_in_sample
from tests.evidently_service.events import made_up_predictions, made_up_rows, older, soon_ready
from tests.evidently_service.mlflow_registry import FakeRegistry

ROWS = 10_000


def test_a_sample_has_the_verdict_of_all_rows_and_the_labels_of_its_own(
    contract: Contract, judging: Monitoring, tmp_path: Path
) -> None:
    draw, found = random.Random(5), []
    predictions = made_up_predictions(contract, ROWS, seed=4, shift=older)
    labels = [
        Label(one.prediction_id, one.predicted_at + 60, int(draw.random() < one.probability))
        for one in predictions
    ]
    monitoring = msgspec.structs.replace(judging, window_rows=ROWS)
    source = FakeRegistry(made_up_rows(contract, 2000, seed=1))
    references, reports = ReferenceCache(tmp_path, source), Reports(tmp_path / "reports", 2)
    for share in (1.0, 0.2):
        with closing(Window(tmp_path / f"{share}.db", segments=contract.segments)) as window:
            window.add_predictions([p for p in predictions if is_in_sample(p.prediction_id, share)])
            window.add_labels([one for one in labels if is_in_sample(one.prediction_id, share)])
            measure = Measure(window, references, monitoring, contract, reports=reports)
            soon_ready(measure).run_once()
            latest = window.latest()
        assert latest
        found.append(latest)
    everything, sample = found
    assert (everything.window.rows, sample.window.rows) == (ROWS, pytest.approx(ROWS / 5, abs=160))
    assert sample.beyond == everything.beyond and "age" in sample.beyond
    drift = {one.name: one.ratio for one in everything.features}
    (age,) = [one.ratio for one in sample.features if one.name == "age"]
    assert age == pytest.approx(drift["age"], rel=0.1)
    shifts = {one.feature: one for one in everything.impacts}
    for one in sample.impacts:
        error = one.standard_error + shifts[one.feature].standard_error
        assert one.shift == pytest.approx(shifts[one.feature].shift, abs=2 * error), one.feature
    assert sample.quality and sample.quality.rows == sample.labels.matched == sample.window.rows
    assert (sample.labels.pending, sample.label_coverage) == (0, 1.0)
