"""Erasing one prediction from the window."""

from pathlib import Path

from evidently_service.window import Window
from tests.evidently_service.test_window import identities, label, prediction


def test_a_prediction_its_label_and_conflicts_are_gone_from_the_files(tmp_path: Path) -> None:
    window = Window(tmp_path / "window.db")
    window.add_predictions([prediction("kept-one"), prediction("erased-one")])
    window.add_labels([label("kept-one"), label("erased-one"), label("erased-one", 0)])
    assert window.erase("erased-one") == 1
    assert window.erase("erased-one") == 0
    assert identities(window.last_predictions(10)) == ["kept-one"]
    counts = window.label_counts()
    assert (counts.matched, counts.pending, counts.conflicting) == (1, 0, 0)
    assert window.counters().ingested == 2
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"kept-one" in content and b"erased-one" not in content
    window.close()
