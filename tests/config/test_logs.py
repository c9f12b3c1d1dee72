"""Log lines as text and as JSON."""

import json
import logging
import sys
import time

import pytest

from config.runtime.logs import JsonLines, iso_time, local_time, where

SECRET = "a value of a record"


def record(message: str, *args: object, exc_info: object = None) -> logging.LogRecord:
    """A call of `log.info`."""
    return logging.LogRecord("part", logging.INFO, "f.py", 1, message, args, exc_info)  # type: ignore


@pytest.mark.parametrize(
    ("message", "args", "event", "fields"),
    [
        ("relay started", (), "relay started", {}),
        ("served version=%s rows=%d", ("3", 7), "served", {"version": "3", "rows": 7}),
        ("no field %s here", ("x",), "no field x here", {}),
        ("half a=%s %s", ("x", "y"), "half a=x y", {}),
        ("kept by=%s", (None,), "kept", {"by": "None"}),
    ],
)
def test_what_is_written_as_name_and_value_is_a_field(message, args, event, fields):
    line = json.loads(JsonLines().format(record(message, *args)))
    assert line.pop("at").endswith("Z")
    head = {"level": "INFO", "logger": "part", "event": event}
    assert line == head | fields


def test_a_traceback_stays_on_its_line():
    text = ""
    try:
        raise ValueError("broken")
    except ValueError:
        text = JsonLines().format(record("failed", exc_info=sys.exc_info()))
    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: broken")


def test_where_an_error_was_raised_is_told_without_its_message():
    text = ""
    try:
        raise ValueError(SECRET)
    except ValueError as err:
        text = where(err)
    assert text.startswith("ValueError\n")
    assert "test_logs.py" in text
    assert SECRET not in text


def test_times_have_milliseconds():
    assert iso_time(1_700_000_000.0019) == "2023-11-14T22:13:20.001Z"
    assert local_time(1_700_000_000.5) == time.strftime(
        "%Y-%m-%d %H:%M:%S,500", time.localtime(1_700_000_000)
    )
