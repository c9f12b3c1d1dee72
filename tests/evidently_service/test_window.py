"""The durable window: each prediction once, labels in any order, restarts."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest

from config.events import Label, Prediction
from evidently_service.store.records import (
    Backlog,
    Counters,
    LabelCounts,
    LabelCoverage,
    LabelledPrediction,
    Measurement,
    Run,
    WindowFacts,
)
from evidently_service.store.window import MAX_WAIT_S, Window

NOW = 1_700_000_000.0
DAY_S = 86_400


def prediction(identity: str, probability: float = 0.7) -> Prediction:
    """Return a prediction with an id."""
    return Prediction(identity, 1.5, "1", {"age": 40}, probability, 1, 0.5)


def label(identity: str, value: int = 1, labelled_at: float = 2.5) -> Label:
    """Return a label with an id."""
    return Label(identity, labelled_at, value)


def labelled(value: int = 1, labelled_at: float = 2.5) -> LabelledPrediction:
    """Return what quality needs of `prediction` and `label`."""
    return LabelledPrediction(1.5, "1", 0.7, 1, {"age": "30 to 44"}, labelled_at, value)


def at_times(*times: float) -> list[Prediction]:
    """Return predictions of these times, each with its number as id."""
    return [Prediction(str(n), at, "1", {}, 0.5, 1, 0.5) for n, at in enumerate(times)]


def identities(predictions: list[Prediction]) -> list[str]:
    """Return the ids of predictions."""
    return [each.prediction_id for each in predictions]


def measurement(state: str = "ok", measured_at: float = 1.0) -> Measurement:
    """Return a measurement without figures."""
    facts = WindowFacts(0, 0)
    return Measurement(
        dataset="income",
        state=state,  # type: ignore[arg-type]
        share_threshold=0.2,
        measured_at=measured_at,
        window=facts,
    )


def test_a_prediction_sent_twice_is_stored_once_and_counted(window: Window) -> None:
    assert window.add_predictions([prediction("a"), prediction("b")]) == 2
    assert window.add_predictions([prediction("b"), prediction("c"), prediction("c")]) == 1
    assert window.add_predictions([prediction("a")]) == 0
    assert identities(window.last_predictions(10)) == ["a", "b", "c"]
    assert identities(window.last_predictions(2)) == ["b", "c"]  # by their first arrival
    assert window.counters() == Counters(ingested=3, duplicates=3)


def test_a_label_before_its_prediction_waits_and_then_matches(window: Window) -> None:
    window.add_labels([label("a", 0)])
    assert window.label_counts() == LabelCounts(matched=0, pending=1, conflicting=0)
    assert window.last_labelled(10) == []
    window.add_predictions([prediction("a")])
    assert window.label_counts() == LabelCounts(matched=1, pending=0, conflicting=0)
    assert window.last_labelled(10) == [labelled(0)]
    assert window.counters().labels_matched == 1


def test_the_first_label_wins_and_a_conflict_is_stored_once(window: Window) -> None:
    window.add_predictions([prediction("a"), prediction("b")])
    assert window.add_labels([label("a", 1), label("b", 0)]) == 2
    assert window.add_labels([label("a", 0)]) == 0
    assert window.add_labels([label("a", 0), label("b", 0)]) == 0
    assert window.label_counts() == LabelCounts(matched=2, pending=0, conflicting=1)
    assert [one.label for one in window.last_labelled(10)] == [1, 0]


def test_the_newest_labelled_rows_follow_the_labels_arrival(window: Window) -> None:
    window.add_predictions(at_times(1, 2, 3))
    window.add_labels([label("2"), label("x"), label("0"), label("1")])
    assert [one.predicted_at for one in window.last_labelled(2)] == [1, 2]


def test_the_coverage_is_of_the_newest_predictions_up_to_a_time(window: Window) -> None:
    assert window.label_coverage(10, 5.0) == LabelCoverage(0, 0, None)
    window.add_predictions(at_times(1, 2, 3, 4))
    window.add_labels([label("0"), label("2"), label("unknown")])
    assert window.label_coverage(10, 4.0) == LabelCoverage(4, 2, 1.0)
    assert window.label_coverage(10, 3.9) == LabelCoverage(3, 2, 1.0)
    assert window.label_coverage(2, 3.9) == LabelCoverage(2, 1, 1.0)
    assert window.label_coverage(2, 0.5).share is None


def test_pruning_keeps_the_newest_rows_and_labels_and_the_counters(window: Window) -> None:
    window.add_predictions([prediction(name) for name in "abcde"])
    window.add_labels([label(name) for name in "abcde"])
    window.add_labels([label(name, 0) for name in "abcde"])
    window.prune(retention_rows=3, label_rows=5, at=NOW)
    assert identities(window.last_predictions(10)) == ["c", "d", "e"]
    assert window.label_counts() == LabelCounts(matched=3, pending=0, conflicting=3)
    assert window.counters() == Counters(ingested=5, labels_matched=5)


def test_labels_and_duplicates_join_predictions_whose_features_were_pruned(window: Window) -> None:
    """A label once had to come before 50,000 later predictions, or it vanished silently."""
    window.add_predictions([prediction(name) for name in "abcde"])
    window.prune(retention_rows=3, label_rows=5, at=NOW)
    assert window.add_predictions([prediction("a")]) == 0
    earlier = msgspec.structs.replace(prediction("b", 0.2), predicted_at=1.0)
    assert window.add_predictions([earlier]) == 0
    assert identities(window.last_predictions(10)) == ["c", "d", "e"]
    assert window.add_labels([label("a", 0), label("b")]) == 2
    assert window.label_counts() == LabelCounts(matched=2)
    assert window.last_labelled(10)[0] == labelled(0)
    assert [one.probability for one in window.last_labelled(10)] == [0.7, 0.2]


def test_a_label_sent_again_after_it_was_pruned_is_a_duplicate_or_a_conflict(
    window: Window,
) -> None:
    window.add_predictions([prediction(name) for name in "abcde"])
    window.add_labels([label(name) for name in "abcde"])
    window.prune(retention_rows=3, label_rows=5, at=NOW)
    assert window.add_labels([label("a"), label("b", 0)]) == 0
    assert window.label_counts() == LabelCounts(matched=3, conflicting=1)


def test_a_label_beyond_label_days_is_counted_as_late_once_and_not_measured(
    tmp_path: Path,
) -> None:
    with closing(Window(tmp_path / "w.db", label_s=30 * DAY_S)) as window:
        window.add_predictions(at_times(0, 0))
        in_time, late = label("0", labelled_at=30 * DAY_S), label("1", labelled_at=30 * DAY_S + 1)
        assert window.add_labels([in_time, late]) == 2
        assert window.add_labels([late]) == 0
        assert window.label_counts() == LabelCounts(matched=1)
        assert window.counters() == Counters(ingested=2, labels_matched=1, labels_late=1)


def test_a_label_of_an_id_never_seen_waits_an_hour_and_is_counted(tmp_path: Path) -> None:
    with closing(Window(tmp_path / "w.db", clock=lambda: NOW)) as window:
        window.add_labels([label("never-seen")])
        window.prune(retention_rows=10, label_rows=10, at=NOW + MAX_WAIT_S)
        assert window.label_counts().pending == 1 and not window.counters().labels_unknown
        window.prune(retention_rows=10, label_rows=10, at=NOW + MAX_WAIT_S + 1)
        assert window.label_counts() == LabelCounts()
        assert window.counters().labels_unknown == 1


def test_pending_labels_beyond_retention_are_counted_and_matched_ones_stay(
    tmp_path: Path,
) -> None:
    with closing(Window(tmp_path / "w.db", clock=lambda: NOW)) as window:
        window.add_predictions([prediction("a")])
        window.add_labels([label("a"), label("first"), label("second"), label("third")])
        window.prune(retention_rows=2, label_rows=10, at=NOW)
        assert window.label_counts() == LabelCounts(matched=1, pending=2)
        assert window.counters().labels_unknown == 1


def test_outputs_for_late_labels_expire_by_prediction_time_and_by_number(tmp_path: Path) -> None:
    """Twice `label_s` after the newest prediction, or beyond `label_rows`."""
    with closing(Window(tmp_path / "w.db", label_s=100)) as window:
        window.add_predictions(at_times(99, 100, 150, 200, 300))
        window.prune(retention_rows=10, label_rows=10, at=NOW)
        assert window.label_coverage(10, NOW).oldest_at == 150
        window.prune(retention_rows=10, label_rows=2, at=NOW)
        assert window.label_coverage(10, NOW) == LabelCoverage(2, 0, 200)
        window.prune(retention_rows=10, label_rows=2, at=250)  # the clock may also be right
        assert window.label_coverage(10, NOW).oldest_at == 200


def test_arrival_numbers_continue_after_pruning_and_reopening(tmp_path: Path) -> None:
    with closing(Window(tmp_path / "w.db")) as first:
        first.add_predictions([prediction("a"), prediction("b")])
        first.add_labels([label("b")])
        first.prune(retention_rows=1, label_rows=1, at=NOW)
    with closing(Window(tmp_path / "w.db")) as second:
        second.add_predictions([prediction("c")])
        assert identities(second.last_predictions(10)) == ["b", "c"]
        assert second.counters() == Counters(ingested=3, labels_matched=1)
        assert second.label_counts().matched == 1


def test_a_batch_that_fails_midway_leaves_nothing(window: Window) -> None:
    broken = Prediction("b", 1.5, "1", {}, None, 1, 0.5)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        window.add_predictions([prediction("a"), broken])
    assert window.last_predictions(10) == []
    assert window.counters() == Counters()
    assert window.add_predictions([prediction("a")]) == 1


def test_the_latest_measurement_is_the_last_recorded_or_confirmed(window: Window) -> None:
    assert window.latest() is None and window.last_run() is None
    window.record(measurement("not_enough_rows", measured_at=1), Run(1.0))
    window.record(measurement("ok", measured_at=2), Run(2.0))
    window.record(measurement("ok", measured_at=3), Run(3.0), is_new=False)
    window.record(None, Run(4.0, "failed"))
    assert window.latest() == measurement("ok", measured_at=3)
    assert [one.measured_at for one in window.newest(2)] == [1, 3]
    assert window.last_run() == Run(4.0, "failed")


def test_windows_that_open_a_new_file_together_all_succeed(tmp_path: Path) -> None:
    """SQLite fails a concurrent switch to its write-ahead log at once: one opening of 40 failed."""

    def open_window(path: Path) -> None:
        start.wait(timeout=180)
        Window(path).close()

    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            list(pool.map(open_window, [tmp_path / f"{number}.db"] * 4))


def test_concurrent_writers_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    """Each thread opens the new file itself, as each worker does, and adds the same rows."""
    problems: list[BaseException] = []

    def write(start: threading.Barrier, offset: int) -> None:
        try:
            start.wait(timeout=180)
            with closing(Window(tmp_path / "w.db")) as mine:
                for batch in range(20):
                    first = offset + 10 * batch
                    mine.add_predictions([prediction(str(n)) for n in range(first, first + 20)])
        except BaseException as err:  # pylint: disable=broad-exception-caught  # asserted below
            problems.append(err)

    start = threading.Barrier(4)
    threads = [threading.Thread(target=write, args=(start, 100 * n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=180)
    assert not problems
    with closing(Window(tmp_path / "w.db")) as whole:
        # Rows 0 to 509: the last thread starts at 300 and its last batch ends before 510.
        assert whole.counters() == Counters(ingested=510, duplicates=4 * 20 * 20 - 510)


def test_a_file_of_an_earlier_release_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE backlog (instance TEXT PRIMARY KEY, events INT, at REAL)")
        connection.execute("INSERT INTO backlog VALUES ('a', 3, 1)")
    with closing(Window(path, clock=partial(float, 2.0))) as window:
        assert window.backlog() == [Backlog("a", 3, 1.0, 1.0)]
        window.store_backlog({"a": 4}, 0.5)
        assert window.backlog() == [Backlog("a", 4, 2.0, 0.5)]
