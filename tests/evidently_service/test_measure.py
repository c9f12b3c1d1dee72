"""The measure process: its states, when it measures again, and errors that stay visible."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from config.contract import Contract
from config.events import Label, Prediction
from config.runtime.settings import exit_with_message
from evidently_service.measure.__main__ import main
from evidently_service.measure.drift import Drift
from evidently_service.measure.measurement import Measure, is_below_floor
from evidently_service.store.records import (
    Interval,
    LabelCounts,
    Measurement,
    Quality,
)
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.registry import ReferenceCache
from evidently_service.store.reports import LATEST, Reports, SavedReport
from evidently_service.store.window import Window
from tests.evidently_service.events import (
    labels_of,
    made_up_predictions,
    made_up_rows,
    older,
    soon_ready,
)
from tests.evidently_service.mlflow_registry import FakeRegistry


class Clock:
    """A clock set by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def reference(contract: Contract) -> list[dict[str, Any]]:
    """Return 2,000 made-up rows."""
    return made_up_rows(contract, 2000, seed=1)


@pytest.fixture
def source(reference: list[dict[str, Any]]) -> FakeRegistry:
    """Return a registry with version 1 in production."""
    return FakeRegistry(reference)


@pytest.fixture
def clock() -> Clock:
    """Return a stopped clock."""
    return Clock()


@pytest.fixture
def small(judging: Monitoring) -> Monitoring:
    """Return the real file with windows of 600 rows; retention is twice that."""
    return msgspec.structs.replace(
        judging,
        window_rows=600,
        min_rows=500,
        min_labels=100,
        retention_rows=1200,
        label_rows=1200,
    )


@pytest.fixture
def whole(
    *,
    tmp_path: Path,
    window: Window,
    source: FakeRegistry,
    small: Monitoring,
    contract: Contract,
    clock: Clock,
) -> Measure:
    """Return the measure process's object for the empty window."""
    references = ReferenceCache(tmp_path / "reference", source)
    made = Measure(
        window,
        references,
        small,
        contract,
        reports=Reports(tmp_path / "reports", small.reports_kept),
        judge_period_s=0,
        clock=clock,
    )
    return soon_ready(made)


@pytest.fixture
def reporting(whole: Measure) -> Measure:
    """Return it without the joint test, which takes half a second for each version."""
    whole.judge.joint = None
    return whole


@pytest.fixture
def measure(reporting: Measure, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return it with empty reports, because Evidently's take a second each."""
    monkeypatch.setattr(Drift, "html", lambda drift: "")
    return reporting


@pytest.fixture
def enough(contract: Contract) -> list[Prediction]:
    """Return 600 undrifted predictions."""
    return made_up_predictions(contract, 600, seed=2)


def latest(window: Window) -> Measurement:
    """Return the latest measurement, which must exist."""
    found = window.latest()
    assert found is not None
    return found


def latest_report(measure: Measure) -> str:
    """Return the latest report."""
    path = measure.reports.path(LATEST)
    assert path is not None
    return path.read_text("utf-8")


def error(window: Window) -> str | None:
    """Return the last run's error."""
    run = window.last_run()
    assert run is not None
    return run.error


def test_without_reference_data_the_data_quality_and_the_estimate_are_measured(
    measure: Measure, window: Window, source: FakeRegistry, enough: list[Prediction]
) -> None:
    """The made-up probability is age / 100, with ages from 17 to 90 and classes at 0.5."""
    source.rows = None
    features = enough[599].features | {"native_country": "Atlantis"}
    window.add_predictions(enough[:599])
    window.add_predictions([msgspec.structs.replace(enough[599], features=features)])
    measure.run_once()
    found = latest(window)
    assert (found.state, found.drifted, found.share_drifted) == ("no_reference", False, None)
    assert found.window.rows == 600
    assert error(window) == "no version in production"
    unseen = {one.feature: one.unseen for one in found.data_quality if one.unseen}
    assert unseen == {"native_country": 1 / 600}
    assert (found.quality, found.estimation_error) == (None, {})
    assert found.estimated is not None
    sure = [max(p.probability, 1 - p.probability) for p in enough]
    assert found.estimated.metrics["accuracy"] == pytest.approx(sum(sure) / 600)


def test_a_comparison_needs_at_least_min_rows(
    reporting: Measure, window: Window, enough: list[Prediction]
) -> None:
    window.add_predictions(enough[:499])
    reporting.run_once()
    found = latest(window)
    assert (found.state, found.drifted, found.share_drifted) == ("not_enough_rows", False, None)
    assert (found.features, found.prediction) == ((), ())
    assert (found.data_quality, found.estimated) == ((), None)
    assert (found.model_version, found.reference_rows) == ("1", 2000)
    assert reporting.reports.path(LATEST) is None
    window.add_predictions(enough[499:500])
    reporting.run_once()
    assert latest(window).state == "ok"


def test_an_undrifted_window_has_a_verdict_and_a_report(
    whole: Measure, window: Window, enough: list[Prediction], clock: Clock
) -> None:
    window.add_predictions(enough)
    whole.run_once()
    found = latest(window)
    assert (found.state, found.drifted, found.share_drifted) == ("ok", False, 0.0)
    assert len(found.features) == 12 and len(found.prediction) == 2
    assert (found.window.rows, found.window.ingested_total) == (600, 600)
    assert found.window.first_event_at == 1_700_000_000.0
    assert found.window.last_event_at == 1_700_000_599.0
    assert found.measured_at == clock.now
    assert found.duration_s is not None and 0 < found.duration_s < 60
    assert found.judgement.joint is not None and found.judgement.joint.ratio < 1
    assert error(window) is None
    assert "native_country" in latest_report(whole)


def test_label_coverage_is_of_the_window_and_label_delay_of_the_newest_labels(
    measure: Measure, window: Window, enough: list[Prediction]
) -> None:
    """The window is the newest 600; predictions come a second apart, all labels at once."""
    measure.run_once()
    assert latest(window).label_coverage is None
    window.add_predictions(enough)
    window.add_labels([Label(p.prediction_id, 1_700_001_000.0, 1) for p in enough[:99]])
    measure.run_once()
    assert latest(window).label_coverage == 99 / 600
    assert latest(window).label_delay_s == {}  # too few labels
    window.add_labels([Label(p.prediction_id, 1_700_001_000.0, 1) for p in enough[99:101]])
    measure.run_once()
    # Predicted at seconds 0 to 100: the labels came 1,000 to 900 seconds later.
    assert latest(window).label_delay_s == {"0.5": 950.0, "0.9": 990.0}


def test_a_field_is_broken_if_far_more_of_its_values_are_invalid_than_in_the_reference_data(
    measure: Measure,
    window: Window,
    source: FakeRegistry,
    reference: list[dict[str, Any]],
    enough: list[Prediction],
) -> None:
    """Half of the reference rows lack the workclass, so half of the window may lack it too."""
    changed = [
        row | {"workclass": (None, row["workclass"])[n % 2]} for n, row in enumerate(reference)
    ]
    source.promote("1", changed)
    occupations = (None, "Astronaut", "Sales", "Sales", "Sales", "Sales", "Sales", "Sales")
    rows = [
        (
            {"workclass": (None, "Private")[n % 2], "occupation": occupations[n % 8], "age": 200}
            if n % 10
            else {"workclass": "Private"}
        )
        for n in range(600)
    ]
    window.add_predictions(
        [
            msgspec.structs.replace(one, features=one.features | row)
            for one, row in zip(enough, rows, strict=True)
        ]
    )
    measure.run_once()
    found = latest(window)
    assert found.invalid_share_rises["age"] == pytest.approx(0.9)
    assert found.invalid_share_rises["occupation"] == pytest.approx(0.225, abs=0.01)
    assert found.invalid_share_rises["workclass"] <= 0
    assert found.broken_features == ("age", "occupation")
    trained_on_such = [row | {"age": 200 + n % 2} for n, row in enumerate(changed)]
    source.promote("2", trained_on_such)
    measure.run_once()
    assert latest(window).broken_features == ("occupation",)


def richer(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with three shifted features."""
    return older(row) | {"sex": "Female", "race": "Other"}


def test_the_drift_verdict_needs_enough_drifted_features_in_two_windows_in_a_row(
    measure: Measure, window: Window, contract: Contract
) -> None:
    window.add_predictions(made_up_predictions(contract, 600, seed=3, shift=older))
    window.add_predictions(made_up_predictions(contract, 600, seed=4, shift=richer))
    measure.run_once()
    found = latest(window)
    assert found.share_drifted == pytest.approx(1 / 12) and not found.drifted
    assert found.impacts[0].feature == "age" and found.impacts[0].shift > 0.15
    assert {one.feature for one in found.distributions} == {"age", "sex", "race"}
    of_sex = next(one.bins for one in found.distributions if one.feature == "sex")
    assert {one.values: one.window for one in of_sex} == {"Female": 1, "Male": 0}
    assert {column.name for column in found.features if column.drifted} == {"age", "sex", "race"}
    assert {column.name for column in found.features if column.persistent} == {"age"}
    window.add_predictions(made_up_predictions(contract, 600, seed=5, shift=richer))
    measure.run_once()
    found = latest(window)
    assert found.share_drifted == pytest.approx(3 / 12) and found.drifted
    assert found.share_threshold == 0.2
    assert {column.name for column in found.features if column.persistent} == {"age", "sex", "race"}
    assert found.judgement.drifted_since == 1_700_000_599.0
    assert found.judgement.drifted_from == "1"


def test_without_new_rows_the_same_figures_are_confirmed_and_not_measured_again(
    measure: Measure, window: Window, enough: list[Prediction], clock: Clock
) -> None:
    window.add_predictions(enough)
    measure.run_once()
    first = latest(window)
    clock.now += 10
    measure.run_once()
    # A new measurement would have taken another time.
    assert latest(window) == msgspec.structs.replace(first, measured_at=clock.now)


def test_after_a_promotion_the_first_undrifted_window_ends_the_drift(
    measure: Measure, window: Window, source: FakeRegistry, contract: Contract
) -> None:
    for seed in (3, 4):
        window.add_predictions(made_up_predictions(contract, 600, seed, shift=richer))
    measure.run_once()
    assert latest(window).drifted and latest(window).judgement.resolved_at is None
    source.promote("2", made_up_rows(contract, 3000, seed=5, shift=richer))
    measure.run_once()
    found = latest(window)
    assert (found.model_version, found.reference_rows) == ("2", 3000)
    assert not any(column.drifted for column in found.features)  # the scores are current
    assert found.drifted and found.judgement.windows == 0  # no window has been judged yet
    assert found.verdict == "drifted"
    window.add_predictions(made_up_predictions(contract, 600, seed=6, shift=richer))
    measure.run_once()
    found = latest(window)
    assert not found.drifted and found.judgement.resolved_at == 1_700_000_599.0
    assert (found.judgement.drifted_from, found.judgement.reference) == ("1", "2")


def test_a_promoted_version_has_no_drift_verdict_before_its_first_judged_window(
    measure: Measure, window: Window, source: FakeRegistry, contract: Contract
) -> None:
    window.add_predictions(made_up_predictions(contract, 600, seed=3))
    measure.run_once()
    assert latest(window).verdict == "calm"
    source.promote("2", made_up_rows(contract, 3000, seed=5))
    measure.run_once()
    window.add_predictions(made_up_predictions(contract, 599, seed=6, shift=richer))
    measure.run_once()
    found = latest(window)
    assert (found.verdict, found.open_rows, found.is_judged) == ("not_judged", 599, False)
    assert {"age", "sex", "race"} <= set(found.beyond)
    window.add_predictions(made_up_predictions(contract, 1, seed=7, shift=richer))
    measure.run_once()
    assert (latest(window).verdict, latest(window).open_rows) == ("suspicious", 0)


def test_outputs_are_compared_with_their_own_versions_reference_only(
    measure: Measure, window: Window, source: FakeRegistry, contract: Contract
) -> None:
    """Another version's rows count for the features, not for the outputs."""
    window.add_predictions(made_up_predictions(contract, 600, seed=3, shift=older))
    source.promote("2", made_up_rows(contract, 2000, seed=1))
    measure.run_once()
    found = latest(window)
    assert (found.state, found.prediction, len(found.features)) == ("ok", (), 12)
    assert found.fairness_gaps == ()  # nor are selection rates
    assert found.judgement.streaks.get("age") == 1
    assert "probability" not in found.judgement.streaks
    mine = [
        msgspec.structs.replace(one, model_version="2")
        for one in made_up_predictions(contract, 600, seed=4, shift=older)
    ]
    window.add_predictions(mine)
    measure.run_once()
    found = latest(window)
    assert [column.name for column in found.prediction] == ["probability", "income_class"]
    assert found.judgement.streaks["age"] == 2 and found.judgement.streaks["probability"] == 1


def test_rows_older_than_window_s_do_not_count(
    measure: Measure, window: Window, enough: list[Prediction], clock: Clock, small: Monitoring
) -> None:
    """Events are a second apart; the window holds those of the last 550 seconds."""
    measure.monitoring = msgspec.structs.replace(small, window_s=550.0)
    window.add_predictions(enough)
    clock.now = 1_700_000_599.0
    measure.run_once()
    assert (latest(window).state, latest(window).window.rows) == ("ok", 551)
    clock.now += 100  # nothing arrived, but rows have aged
    measure.run_once()
    assert (latest(window).state, latest(window).window.rows) == ("not_enough_rows", 451)


def test_coverage_is_over_rows_that_are_old_enough_for_a_label(
    measure: Measure, window: Window, enough: list[Prediction], clock: Clock
) -> None:
    """Events are a second apart, and each third one gets its label after 400 seconds."""
    window.add_predictions(enough)
    window.add_labels(
        [Label(one.prediction_id, one.predicted_at + 400, 1) for one in enough[:200:3]]
    )
    clock.now = 1_700_000_599.0
    measure.run_once()
    assert latest(window).label_coverage == 67 / 200
    assert latest(window).label_horizon_s == 599


def test_the_cached_reference_is_used_while_the_registry_is_unavailable(
    measure: Measure, window: Window, source: FakeRegistry, enough: list[Prediction]
) -> None:
    measure.run_once()
    source.rows = None
    window.add_predictions(enough)
    measure.run_once()
    assert (latest(window).state, latest(window).model_version) == ("ok", "1")
    assert error(window) == "no version in production"


def test_a_reference_without_a_column_is_a_visible_error_until_the_next_promotion(
    measure: Measure,
    window: Window,
    source: FakeRegistry,
    reference: list[dict[str, Any]],
    enough: list[Prediction],
) -> None:
    window.add_predictions(enough)
    measure.run_once()
    lacking = [{name: v for name, v in row.items() if name != "age"} for row in reference]
    source.promote("2", lacking)
    with capture_logs():  # with all variables, the traceback takes a second
        measure.run_once()
    assert "2.jsonl: a row has no 'age'; expected the label and every column" in (
        error(window) or ""
    )
    assert latest(window).model_version == "1"  # the last successful measurement stays
    source.promote("3", reference)
    measure.run_once()
    assert (error(window), latest(window).model_version) == (None, "3")


def test_an_unavailable_window_is_logged_and_does_not_end_the_process(
    measure: Measure, window: Window
) -> None:
    window.close()
    with capture_logs() as logged:
        measure.run_once()
    assert [line["event"] for line in logged] == ["measurement_failed"]


def test_quality_needs_enough_labels(
    measure: Measure, window: Window, enough: list[Prediction]
) -> None:
    labels = labels_of(enough, wrong_every=4)
    window.add_predictions(enough)
    window.add_labels(labels[:99])
    measure.run_once()
    assert latest(window).quality is None
    window.add_labels(labels[99:200])
    measure.run_once()
    found = latest(window)
    assert found.labels == LabelCounts(matched=200, pending=0, conflicting=0)
    assert found.quality is not None
    assert found.quality.rows == 200
    assert found.quality.accuracy == pytest.approx(0.75)
    assert found.estimated is not None and found.estimated.rows == 600  # labelled or not
    assert set(found.estimation_error) == set(found.estimated.metrics)
    groups = {(one.segment, one.group): one for one in found.segments}
    women = [p for p in enough if p.features["sex"] == "Female"]
    assert groups["sex", "Female"].rows == len(women)  # of the window
    selected = sum(p.income_class for p in women) / len(women)
    assert groups["sex", "Female"].selection_rate == pytest.approx(selected)
    assert 0.6 < groups["sex", "Female"].quality["accuracy"] < 0.9  # of its labels: 3 in 4


@pytest.mark.parametrize(("wrong_every", "below"), [(2, True), (1000, False)])
def test_the_newest_labels_decide_below_floor_and_the_first_of_them_its_time(
    measure: Measure, window: Window, enough: list[Prediction], wrong_every: int, below: bool
) -> None:
    """The concept shift starts a training, with rows from this prediction time on."""
    window.add_predictions(enough)
    window.add_labels(labels_of(enough[100:300], wrong_every))
    measure.run_once()
    found = latest(window)
    assert found.below_floor == found.concept_shift == below
    assert found.concept_shift_scores.keys() == {"calibration", "roc_auc"}
    assert found.quality is not None and found.quality.since == enough[100].predicted_at


def test_the_floor_follows_from_the_version_unless_the_file_fixes_it(
    measure: Measure,
    window: Window,
    source: FakeRegistry,
    contract: Contract,
    enough: list[Prediction],
) -> None:
    """With a fixed floor of 0.85, each table harder than the census once started trainings."""
    window.add_predictions(enough)
    window.add_labels(
        [Label(p.prediction_id, 1_700_100_000.0, i % 2) for i, p in enumerate(enough)]
    )
    measure.run_once()
    found = latest(window)
    assert found.roc_auc_floor == pytest.approx(0.61, abs=0.03) and found.below_floor
    no_skill = [row | {"label": n % 2} for n, row in enumerate(made_up_rows(contract, 2000, 7))]
    source.promote("2", no_skill)
    measure.run_once()
    assert latest(window).roc_auc_floor == 0.5
    measure.monitoring = msgspec.structs.replace(measure.monitoring, roc_auc_floor=0.9)
    source.promote("3", no_skill)
    measure.run_once()
    assert latest(window).roc_auc_floor == 0.9


def test_quality_is_below_the_floor_with_its_whole_interval_alone() -> None:
    def quality(upper: float) -> Quality:
        return Quality(200, bounds={"roc_auc": Interval(0.7, upper)})

    assert is_below_floor(quality(0.84), floor=0.85)
    assert not is_below_floor(quality(0.85), floor=0.85)
    assert not is_below_floor(quality(0.86), floor=0.85)
    assert not is_below_floor(Quality(200), floor=0.85)  # labels of one class have no ROC AUC
    assert not is_below_floor(quality(0.4), floor=None)  # no reference data yet


def test_after_a_promotion_quality_is_of_the_new_versions_predictions_alone(
    measure: Measure,
    window: Window,
    source: FakeRegistry,
    contract: Contract,
    enough: list[Prediction],
) -> None:
    """Nearly all predictions of version 1 are right, and a third of version 2's are wrong."""
    window.add_predictions(enough[:200])
    window.add_labels(labels_of(enough[:200], wrong_every=1000))
    measure.run_once()
    assert latest(window).quality is not None
    source.promote("2", made_up_rows(contract, 2000, seed=5))
    measure.run_once()
    assert latest(window).quality is None
    own = [msgspec.structs.replace(one, model_version="2") for one in enough[200:350]]
    window.add_predictions(own)
    window.add_labels(labels_of(own, wrong_every=3))
    measure.run_once()
    found = latest(window).quality
    assert found is not None and found.rows == 150
    assert found.accuracy == pytest.approx(2 / 3)


def test_a_group_whose_positives_are_missed_has_a_gap_beyond_its_bound(
    measure: Measure, window: Window, contract: Contract, enough: list[Prediction]
) -> None:
    """First the labels of both sexes are as in the reference data, then those of women are not."""
    truth = [row["label"] for row in made_up_rows(contract, 600, seed=2)]  # of `enough`

    def label(prefix: str, labels: list[int]) -> Measurement:
        own = [
            msgspec.structs.replace(one, prediction_id=prefix + one.prediction_id) for one in enough
        ]
        window.add_predictions(own)
        times = range(1_700_100_000, 1_700_100_600)
        window.add_labels(
            [Label(one.prediction_id, at, label) for one, at, label in zip(own, times, labels)]
        )
        measure.run_once()
        return latest(window)

    found = label("a", truth)
    assert {one.rate for one in found.fairness_gaps} == {"selection_rate", "tpr", "fpr"}
    assert found.grown_gaps == ()
    wrong = [
        1 - one.income_class if one.features["sex"] == "Female" else true
        for one, true in zip(enough, truth)
    ]
    found = label("b", wrong)
    grown = {(one.segment, one.rate): one for one in found.grown_gaps}
    assert grown.keys() == {("sex", "tpr"), ("sex", "fpr")}
    assert grown["sex", "tpr"].lowest == grown["sex", "fpr"].highest == "Female"


def test_the_latest_report_is_replaced_once_a_period(
    reporting: Measure, window: Window, enough: list[Prediction], clock: Clock
) -> None:
    window.add_predictions(enough[:500])
    reporting.run_once()
    first = latest_report(reporting)
    clock.now += 59
    window.add_predictions(enough[500:])
    reporting.run_once()
    assert latest_report(reporting) == first
    clock.now += 1  # no new rows, but the last measurement is not in the report yet
    reporting.run_once()
    assert latest_report(reporting) != first
    assert [path.name for path in reporting.reports.folder.iterdir()] == ["latest.html"]


def test_a_report_that_contradicts_the_scores_is_replaced_at_once(
    reporting: Measure, window: Window, contract: Contract, enough: list[Prediction], clock: Clock
) -> None:
    """A minute after the drift, the page once still reported no drift."""
    window.add_predictions(enough)
    reporting.run_once()
    assert "Dataset Drift is NOT detected" in latest_report(reporting)
    clock.now += 5
    window.add_predictions(made_up_predictions(contract, 600, seed=4, shift=richer))
    reporting.run_once()
    assert "Dataset Drift is detected" in latest_report(reporting)


def test_each_newly_drifted_window_has_a_report_even_two_of_one_run(
    reporting: Measure, window: Window, contract: Contract, enough: list[Prediction], clock: Clock
) -> None:
    """Both reports once had the time of the run as their name: the second replaced the first."""
    window.add_predictions(enough)
    reporting.run_once()
    assert reporting.reports.saved() == []
    for seed, shift in ((3, older), (4, richer), (5, richer)):
        window.add_predictions(made_up_predictions(contract, 600, seed, shift))
    window.add_predictions(made_up_predictions(contract, 50, seed=6))  # of the next window
    for _ in range(2):
        clock.now += 5
        reporting.run_once()
    newest, oldest = reporting.reports.saved()
    times = 1_700_000_000.0, 1_700_000_599.0
    outputs = "probability", "income_class"
    assert oldest == SavedReport("20270115T080005Z", ("age", *outputs), "1", 600, *times)
    assert newest == SavedReport("20270115T080006Z", ("race", "sex"), "1", 600, *times)
    pages = [reporting.reports.path(one.name) for one in (newest, oldest)]
    assert all(path and "Drift is detected" in path.read_text("utf-8") for path in pages)


def test_old_rows_are_pruned(
    measure: Measure, window: Window, contract: Contract, small: Monitoring, clock: Clock
) -> None:
    window.add_predictions(made_up_predictions(contract, 1500, seed=6))
    measure.run_once()
    assert len(window.last_predictions(10_000)) == small.retention_rows == 1200
    assert window.counters().ingested == 1500
    assert window.label_coverage(10_000, clock.now).rows == small.label_rows == 1200


def test_old_rows_are_pruned_although_no_report_can_be_written(
    reporting: Measure, window: Window, contract: Contract, small: Monitoring, tmp_path: Path
) -> None:
    """The window once grew until the disk was full."""
    (tmp_path / "reports").write_text("a file in place of the folder")
    window.add_predictions(made_up_predictions(contract, 1500, seed=6))
    with capture_logs() as logged:
        reporting.run_once()
    assert [line["event"] for line in logged] == ["measurement_done", "measurement_failed"]
    assert "FileExistsError" in (error(window) or "")
    assert len(window.last_predictions(10_000)) == small.retention_rows


def test_wrong_settings_end_the_start_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEASURE_PERIOD_S", "-1")
    with pytest.raises(SystemExit) as ended:
        exit_with_message(main)
    assert ended.value.code == 2
    assert "MEASURE_PERIOD_S: got -1" in capsys.readouterr().err
