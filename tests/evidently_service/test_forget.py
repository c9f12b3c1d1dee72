"""Erasing one prediction from the window leaves nothing of it in any file."""

import re
import sqlite3
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.measure.drift import measure_drift
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.window import Window
from tests.conftest import run
from tests.evidently_service.events import made_up_rows
from tests.evidently_service.test_window import identities, label, prediction


def bytes_of(folder: Path) -> bytes:
    """Return the content of every file in a folder."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def forget(prediction_id: str, folder: Path, status: int = 0) -> str:
    """Run the command; return what it prints."""
    command = [sys.executable, "-m", "evidently_service.forget", prediction_id]
    return run(*command, env={"WINDOW_DIR": str(folder)}, status=status)


def test_a_prediction_its_outputs_label_and_conflicts_are_gone_from_the_files(
    window: Window, tmp_path: Path
) -> None:
    erased, other = "5e" * 16, "0f" * 16
    window.add_predictions([prediction(other), prediction(erased)])
    window.add_labels([label(other), label(erased), label(erased, 0)])
    assert window.erase(erased) == 4
    assert window.erase(erased) == 0
    assert identities(window.last_predictions(10)) == [other]
    counts = window.label_counts()
    assert (counts.matched, counts.pending, counts.conflicting) == (1, 0, 0)
    assert window.counters().ingested == 2
    assert window.label_coverage(10, 2.0).rows == 1
    content = bytes_of(tmp_path)
    assert other.encode() in content and erased.encode() not in content
    assert bytes.fromhex(other) in content and bytes.fromhex(erased) not in content


def test_pruned_rows_leave_nothing_in_the_files(window: Window, tmp_path: Path) -> None:
    names = [f"{number:012x}{sha256(bytes(number)).hexdigest()[:20]}" for number in range(1500)]
    window.add_predictions([prediction(name) for name in names])
    window.prune(100, 200, at=2.0)
    window.erase("number-none")
    content = bytes_of(tmp_path)
    assert not [name for name in names[:-100] if name.encode() in content]
    # When SQLite joins two pages of an index, an unused copy of a key may stay.
    assert len([name for name in names[:-200] if bytes.fromhex(name) in content]) < 10
    assert all(bytes.fromhex(name) in content for name in names[-200:])


def test_a_write_ahead_log_in_use_is_an_error_and_emptied_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "window.db"
    monkeypatch.setattr("evidently_service.store.window.BUSY_TIMEOUT_S", 0.1)
    with closing(Window(path)) as window:
        window.add_predictions([prediction("erased-one")])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM predictions").fetchall()
            with pytest.raises(sqlite3.OperationalError, match="log is in use"):
                window.erase("erased-one")
        assert window.erase("erased-one") == 0
        assert b"erased-one" not in bytes_of(tmp_path)


def test_the_command_also_erases_an_unmatched_label_and_reports_when_nothing_is_stored(
    window: Window, tmp_path: Path
) -> None:
    window.add_labels([label("erased-one")])
    assert "window rows       1 erased" in forget("erased-one", tmp_path)
    assert "no stored rows of erased-one" in forget("erased-one", tmp_path)


def test_a_folder_without_a_window_is_named_and_not_created(tmp_path: Path) -> None:
    assert "WINDOW_DIR" in forget("erased-one", tmp_path / "elsewhere", status=1)
    assert not (tmp_path / "elsewhere").exists()


def test_the_report_of_min_rows_rows_shows_no_value_except_a_columns_extremes(
    judging: Monitoring, contract: Contract
) -> None:
    """An erasure does not change the report. In smaller windows Evidently would draw each row."""
    reference = monitored_frame(made_up_rows(contract, 2000, seed=1), contract)
    window = monitored_frame(made_up_rows(contract, judging.min_rows, seed=2), contract)
    window["probability"] = np.random.default_rng(3).random(len(window))

    only_outputs = msgspec.structs.replace(judging, features={})  # drawn like features, and sooner

    def shown(rows: pd.DataFrame) -> set[float]:
        page = measure_drift(reference, rows, only_outputs, contract).html()
        return set(rows["probability"]) & {float(n) for n in re.findall(r"0\.\d+", page)}

    assert shown(window) <= {window["probability"].min(), window["probability"].max()}
    assert len(shown(window[:100])) > 50
