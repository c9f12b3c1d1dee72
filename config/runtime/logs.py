"""Log lines of the processes, as text or as JSON: one object a line, its fields searchable.

A call says `log.info("model served version=%s run_id=%s", ...)`; as JSON, what is written as
`name=%s` becomes a field of its own.
"""

import logging
import re
import time
import traceback
from functools import lru_cache
from typing import Any, Literal

import msgspec

LogFormat = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
FIELD = re.compile(r"\s*(\w+)=%[sd]")


class JsonLines(logging.Formatter):
    """One JSON object a line: at, level, logger, event and the call's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = split(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        head = {"at": iso_time(record.created), "level": record.levelname, "logger": record.name}
        return msgspec.json.encode({**head, "event": event, **fields}).decode()


def set_up(log_format: LogFormat, level: int | str = logging.INFO) -> None:
    """Has this process log to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(log_format))
    logging.basicConfig(level=level, handlers=[handler])


def make_formatter(log_format: LogFormat) -> logging.Formatter:
    """What turns records into lines."""
    return JsonLines() if log_format == "json" else logging.Formatter(TEXT)


def where(err: BaseException) -> str:
    """The kind of an error and where it was raised, without its message.

    For what fails on a record: the message may hold values of it, as `log.exception` would show.
    """
    return f"{type(err).__name__}\n{''.join(traceback.format_tb(err.__traceback__))}"


def split(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """A record's event and fields; the whole message and none where the call is not written so."""
    names = FIELD.findall(str(record.msg))
    if not names or not isinstance(record.args, tuple) or len(names) != len(record.args):
        return record.getMessage(), {}
    fields = zip(names, record.args)
    plain = {n: v if isinstance(v, (int, float, str)) else str(v) for n, v in fields}
    return FIELD.sub("", str(record.msg)).strip(), plain


def iso_time(at: float) -> str:
    """Unix time as 2026-11-24T02:30:00.123Z."""
    return f"{_utc_second(int(at))}.{int(at * 1000) % 1000:03d}Z"


def local_time(at: float) -> str:
    """Unix time as `logging` writes it, 2026-11-24 02:30:00,123 on this machine's clock."""
    return f"{_local_second(int(at))},{int(at * 1000) % 1000:03d}"


@lru_cache(maxsize=2)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(maxsize=2)
def _local_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
