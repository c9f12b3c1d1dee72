"""Log lines of every process, by structlog: `log.warning("sink_unavailable", sink="mongodb")`.

An event is a constant in snake_case; whatever varies is a field. Lines of libraries, which use
`logging`, get the same form.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Literal

import msgspec
import structlog

LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
HEAD = ("at", "level", "logger", "event")
RUN_NAMES = ("flow_run_name", "task_run_name")  # fields of Prefect's lines


def set_up(log_format: LogFormat, level: LogLevel = "INFO") -> None:
    """Log to this process's standard error, as text or as one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=RUN_NAMES)],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer(log_format),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel("ERROR")  # a caller reports what its retries could not
    logging.getLogger("pymongo").setLevel("WARNING")  # its DEBUG lines contain records


def renderer(log_format: LogFormat) -> structlog.typing.Processor:
    """Return the processor that turns an event's fields into a line."""
    if log_format == "json":
        return structlog.processors.JSONRenderer(serializer=to_json)
    return to_text


def to_text(_: object, __: str, fields: structlog.typing.EventDict) -> str:
    """Return a line for people, then a traceback if there is one.

    structlog's own renderer costs 30 us a line, a tenth of a request.
    """
    at, level, logger, event = (fields.pop(name) for name in HEAD)
    exception = fields.pop("exception", None)
    line = f"{at} [{level}] {event} [{logger}]"
    for name, value in fields.items():
        line += f" {name}={value}"
    return f"{line}\n{exception}" if exception else line


def to_json(fields: dict[str, object], **_: object) -> str:
    """Return the fields as JSON, the event first; a value of an unknown type becomes text."""
    head = {name: fields.pop(name) for name in HEAD}
    return msgspec.json.encode(head | fields, enc_hook=str).decode()


def where(err: BaseException) -> str:
    """Return the kind of an error and where it was raised, innermost first, without its message.

    For failures on a record: the message may hold values of it, as `log.exception` would show.
    """
    frames = reversed(traceback.extract_tb(err.__traceback__))
    places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames)
    return f"{type(err).__name__} at {places}"
