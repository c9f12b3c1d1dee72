"""Judged windows: their rows, and the drift verdict of several windows in a row."""

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from config.contract import Contract
from config.events import Prediction
from evidently_service.reference.reference_data import Reference
from evidently_service.verdict.judge import (
    DriftJudge,
    are_full,
    closed_rows,
    is_dataset_drift,
    judge_window,
    reset_for_reference,
)
from evidently_service.store.records import Judgement
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.window import Window
from tests.evidently_service.events import (
    made_up_predictions,
    made_up_rows,
    older,
    reference_of,
    with_thresholds,
)


@pytest.fixture
def small(judging: Monitoring) -> Monitoring:
    """Return a monitoring with windows of 60 rows, one a minute; two in a row make a verdict."""
    return msgspec.structs.replace(
        judging, window_rows=60, min_rows=40, min_labels=10, judge_period_s=60.0
    )


@pytest.fixture(scope="module")
def reference(contract: Contract) -> Reference:
    """Return 2,000 made-up rows."""
    return reference_of(contract, made_up_rows(contract, 2000, seed=1))


def after(monitoring: Monitoring, windows: Iterable[dict[str, float]]) -> Judgement:
    """Return the judgement after windows with these ratios."""
    judgement = Judgement(reference="1")
    for number, ratios in enumerate(windows):
        judgement = judge_window(judgement, ratios, float(number), monitoring)
    return judgement


def test_a_column_has_drifted_from_two_windows_in_a_row_to_the_next_undrifted_window(
    small: Monitoring,
) -> None:
    above, below = {"age": 1.1}, {"age": 0.9}
    assert after(small, [above]).persistent == ()
    assert after(small, [above, below, above]).persistent == ()
    assert after(small, [above, above]).persistent == ("age",)
    assert after(small, [above, above, {}]).persistent == ("age",)  # no output was comparable
    assert after(small, [above, above, below]).persistent == ()


def test_the_drift_verdict_needs_share_drifted_of_the_features(small: Monitoring) -> None:
    two = after(small, [{"age": 2.0, "sex": 2.0, "probability": 2.0}] * 2)
    three = after(small, [{"age": 2.0, "sex": 2.0, "race": 2.0}] * 2)
    assert two.persistent == ("age", "sex", "probability") and not is_dataset_drift(
        two.persistent, small
    )
    assert is_dataset_drift(three.persistent, small) and three.drifted_since == 1.0


def test_a_verdict_from_earlier_reference_data_must_be_confirmed_by_new_windows(
    small: Monitoring,
) -> None:
    wide, calm = {"age": 2.0, "sex": 2.0, "race": 2.0}, {"age": 0.5, "sex": 0.5, "race": 0.5}
    drifted = after(small, [wide] * 2)
    assert (drifted.drifted_from, drifted.changed_by) == ("1", 0.0)
    promoted = reset_for_reference(drifted, "2", last_arrival=9)
    assert promoted.persistent == drifted.persistent and promoted.drifted_from == "1"
    once = judge_window(promoted, wide, 7.0, small)
    assert (once.drifted_from, once.changed_by) == ("1", 7.0)
    twice = judge_window(once, wide, 8.0, small)
    assert (twice.drifted_from, twice.drifted_since, twice.changed_by) == ("2", 8.0, 7.0)
    resolved = judge_window(promoted, calm, 7.0, small)
    assert (resolved.persistent, resolved.resolved_at, resolved.changed_by) == ((), 7.0, None)


def test_a_change_dates_from_the_first_of_the_windows_with_dataset_drift(
    small: Monitoring,
) -> None:
    wide, two = {"age": 2.0, "sex": 2.0, "race": 2.0}, {"age": 2.0, "sex": 2.0, "race": 0.5}
    assert after(small, [wide, two]).changed_by is None
    assert after(small, [wide, two, wide, wide, wide]).changed_by == 2.0


def numbered(predictions: list[Prediction]) -> list[tuple[int, Prediction]]:
    """Return predictions with arrivals from 1 on."""
    return list(enumerate(predictions, start=1))


def test_a_window_closes_when_it_is_full_or_when_a_row_is_too_new_for_it(
    small: Monitoring, contract: Contract
) -> None:
    rows = numbered(made_up_predictions(contract, 60, seed=1))
    keys = range(60)
    assert closed_rows(rows, keys, small) == 60
    assert closed_rows(rows[:59], keys, small) == 0
    timed = msgspec.structs.replace(small, window_s=45.0)
    assert closed_rows(rows[:46], keys, timed) == 0  # seconds 0 to 45
    assert closed_rows(rows[:47], keys, timed) == 46


@pytest.mark.parametrize(
    ("keys", "closed"),
    [
        ([*range(57), 0, 0, 0, 57], 60),  # 95 % of 60 rows are distinct
        ([*range(56), 0, 0, 0, 0, 56], 61),
        ([n // 3 for n in range(300)], 169),  # the 57th distinct row is row 169
        ([0] * 301, 300),  # five times 60 rows
        ([0] * 299, 0),
    ],
)
def test_a_window_waits_for_distinct_rows_up_to_five_times_its_rows(
    small: Monitoring, keys: list[int], closed: int
) -> None:
    full = list(are_full(keys, small))
    assert (full.index(True) + 1 if True in full else 0) == closed


def repeated(predictions: list[Prediction], times: int) -> list[Prediction]:
    """Return each prediction `times` times in a row, under new ids, a second apart."""
    return [
        msgspec.structs.replace(
            predictions[number // times],
            prediction_id=f"again-{number}",
            predicted_at=1_700_000_000.0 + number,
        )
        for number in range(times * len(predictions))
    ]


def test_equal_rows_of_a_window_count_once(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    """Each row three times. The 57th distinct row is row 169 at first, then row 168 of a window."""
    people = made_up_predictions(contract, 228, seed=1)
    window.add_predictions(repeated(people, 3))
    judge = DriftJudge(window, small, contract)
    found = judge.run(reference)
    assert (found.windows, found.arrival) == (4, 169 + 3 * 168)
    assert judge.open_rows == 4  # distinct rows, with the last one of the window before


def test_a_window_of_equal_rows_is_too_small(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    window.add_predictions(repeated(made_up_predictions(contract, 1, seed=1), 600))
    found = DriftJudge(window, small, contract).run(reference)
    assert (found.windows, found.too_small) == (0, 2)


def test_all_rows_count_if_rows_of_the_reference_data_are_often_equal(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    """The reference data have four distinct rows, and so has the window."""
    few = reference._replace(frame=reference.frame.iloc[np.arange(2000) % 4])
    people = made_up_predictions(contract, 4, seed=1)
    window.add_predictions(repeated(people, 30))
    assert DriftJudge(window, small, contract).run(few).windows == 2


@pytest.mark.parametrize("drifted", [(), ("age", "sex", "race")])
def test_windows_without_dataset_drift_calibrate_the_thresholds(
    window: Window,
    small: Monitoring,
    contract: Contract,
    reference: Reference,
    drifted: tuple[str, ...],
) -> None:
    """Five windows, with thresholds that all columns exceed, or none."""
    far = {name: 1e-9 if test.test == "ks" else 1e9 for name, test in small.tests.items()}
    four = with_thresholds(small, far | dict.fromkeys(drifted, 1e-9))
    four = msgspec.structs.replace(four, calibration_windows=4)
    window.add_predictions(made_up_predictions(contract, 300, seed=1))
    found = DriftJudge(window, four, contract).run(reference)
    assert (found.windows, found.calm_windows) == (5, 0 if drifted else 4)
    assert set(found.factors) == (set() if drifted else set(four.tests))


def test_outputs_are_those_of_the_distinct_rows(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    """The row of one old person comes 120 times, and 56 other rows once."""
    people = made_up_predictions(contract, 57, seed=1)
    old = msgspec.structs.replace(
        people[0], features=people[0].features | {"age": 90}, probability=0.9
    )
    rows = repeated([old] * 120 + people[1:], 1)
    window.add_predictions(rows)
    judge = DriftJudge(window, small, contract)
    found = judge.run(reference)
    once, often = (judge.compare(some, reference, {}) for some in (rows[119:], rows))
    assert (found.windows, found.arrival) == (1, 176)
    assert found.streaks == {name: int(one.ratio > 1) for name, one in once.items()}
    assert often["probability"].ratio > 3 * once["probability"].ratio


def test_windows_share_no_rows_and_begin_at_most_once_a_period(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    """300 rows a second apart: 5 windows of a minute each, or 3 of one in two minutes."""
    window.add_predictions(made_up_predictions(contract, 300, seed=1))
    assert DriftJudge(window, small, contract).run(reference).windows == 5
    window.store_judgement(Judgement())
    slower = msgspec.structs.replace(small, judge_period_s=120.0)
    found = DriftJudge(window, slower, contract).run(reference)
    assert (found.windows, found.arrival) == (3, 300)


def test_late_and_duplicate_rows_change_no_window(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    rows = made_up_predictions(contract, 180, seed=1, shift=older)
    late = made_up_predictions(contract, 59, seed=2)  # of the first minute
    judge = DriftJudge(window, small, contract)
    window.add_predictions(rows[:120])
    assert judge.run(reference).windows == 2
    window.add_predictions(late)
    window.add_predictions(rows[:120])
    window.add_predictions(rows[120:])
    found = judge.run(reference)
    assert found.windows == 3 and found.streaks["age"] == 3
    assert window.counters().duplicates == 120


def test_a_window_that_ends_with_too_few_rows_is_counted_and_not_judged(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    """39 rows in 45 seconds, and then a full minute."""
    timed = msgspec.structs.replace(small, window_s=45.0)
    rows = made_up_predictions(contract, 200, seed=1)
    judge = DriftJudge(window, timed, contract)
    window.add_predictions(rows[:39])
    assert judge.run(reference).too_small == 0
    window.add_predictions(rows[100:])
    found = judge.run(reference)
    assert (found.too_small, found.windows) == (1, 1)


def test_a_restarted_drift_judge_reaches_the_same_judgement(
    window: Window, small: Monitoring, contract: Contract, reference: Reference
) -> None:
    for seed, shift in enumerate((older, lambda row: row, older, older)):
        rows = made_up_predictions(contract, 60, seed, shift)
        later = [
            msgspec.structs.replace(one, predicted_at=one.predicted_at + 60 * seed) for one in rows
        ]
        window.add_predictions(later)
    whole = DriftJudge(window, small, contract).run(reference)
    assert (whole.windows, whole.persistent[:1]) == (4, ("age",))
    for stopped_after in range(1, 4):
        window.store_judgement(Judgement())
        judge = DriftJudge(window, small, contract)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(judge, "_next_window", stopping(judge, stopped_after))
            with pytest.raises(KeyboardInterrupt):
                judge.run(reference)
        assert window.judgement().windows == stopped_after
        assert DriftJudge(window, small, contract).run(reference) == whole


def stopping(judge: DriftJudge, windows: int):
    """Return the judge's `_next_window`, interrupted after some windows."""
    original = judge._next_window  # pylint: disable=protected-access

    def next_window(judgement: Judgement, reference: Reference):
        if judgement.windows == windows:
            raise KeyboardInterrupt
        return original(judgement, reference)

    return next_window
