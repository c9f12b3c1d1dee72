"""Log lines as text and as JSON."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from config.runtime.logs import LogFormat, set_up, where

SECRET = "a value of a record"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[LogFormat], io.StringIO]]:
    """Set up the logs in a format; the lines go to the returned stream."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    def start(log_format: LogFormat) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        set_up(log_format)
        return stream

    yield start
    structlog.reset_defaults()
    root.handlers = before[1]
    root.setLevel(before[0])


def test_a_json_line_has_the_event_first_and_a_field_for_each_value(logged):
    stream = logged("json")
    structlog.get_logger("part").warning(
        "sink_unavailable", sink="mongodb", rows=7, error=OSError("x")
    )
    line = json.loads(stream.getvalue())
    assert list(line)[:4] == ["at", "level", "logger", "event"]
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "part",
        "event": "sink_unavailable",
        "sink": "mongodb",
        "rows": 7,
        "error": "x",
    }


def test_a_text_line_has_the_event_and_its_fields(logged):
    stream = logged("text")
    structlog.get_logger("part").info("model_loaded", version="3")
    assert "model_loaded [part] version=3\n" in stream.getvalue()


def test_a_line_of_a_library_has_the_same_form(logged):
    stream = logged("json")
    logging.getLogger("library").warning("slow: %s s", 3)
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["event"]) == ("library", "slow: 3 s")


def test_a_traceback_stays_on_its_json_line(logged):
    stream = logged("json")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("part").exception("failed")
    assert json.loads(stream.getvalue())["exception"].endswith("ValueError: broken")


def test_lines_below_the_level_are_not_logged(logged):
    stream = logged("text")
    structlog.get_logger("part").debug("detail")
    assert not stream.getvalue()


def test_an_error_is_logged_with_its_place_and_without_its_message():
    text = ""
    try:
        raise ValueError(SECRET)
    except ValueError as err:
        text = where(err)
    assert text.startswith("ValueError at test_logs.py:")
    assert SECRET not in text
