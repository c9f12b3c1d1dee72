"""The command `python -m stream_generator.send_data`.

Exit status:
0    every record that was sent is answered or rejected, and every label that was sent arrived
1    records or labels failed
2    the run could not start, or a file could not be written
130  interrupted
A run that ends at --deadline-s has status 0 or 1: its summary says `deadline`.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, BinaryIO, get_origin, get_type_hints

import msgspec
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from config.runtime.logs import set_up
from config.runtime.settings import SettingsError, read_settings
from stream_generator.client.options import Options, Url
from stream_generator.client.sender import Unreachable, check_reachable, send
from stream_generator.client.summary import Summary
from stream_generator.settings import Settings
from stream_generator.traffic.registry import production_rows
from stream_generator.traffic.rows import TrafficError, read_rows
from stream_generator.traffic.scenarios import SCENARIOS

FAILED, CANNOT_START, INTERRUPTED = 1, 2, 130
DESCRIPTION = """\
Simulate clients: send records to the prediction service and, later, the true labels of
some predictions. Print a table of the outcomes at the end."""


def flag_type(annotation: Any) -> Callable[[str], Any]:
    """Return the parser of a flag's text: a value of the annotated type."""

    def parse(text: str) -> Any:
        try:
            return msgspec.convert(text, annotation, strict=False)
        except msgspec.ValidationError as err:
            rule = str(err).replace("Expected", "expected")
            raise argparse.ArgumentTypeError(f"got {text!r}, {rule}") from err

    return parse


def make_parser(settings: Settings) -> argparse.ArgumentParser:
    """Return the parser of the command's flags."""
    scenarios = "\n".join(f"  {name:16} {run.__doc__}" for name, run in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m stream_generator.send_data",
        description=DESCRIPTION,
        epilog=f"scenarios:\n{scenarios}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = "JSON lines with record and label (default: the production run's rows, from MLflow)"
    add("--traffic", type=Path, metavar="FILE", help=text)
    text = "MLflow server, unused with --traffic (MLFLOW_TRACKING_URI) (%(default)s)"
    add("--tracking-uri", type=flag_type(Url), metavar="URL", help=text)
    for name, annotation in get_type_hints(Options, include_extras=True).items():
        if get_origin(annotation) is Annotated:
            *_, meta = annotation.__metadata__
            add(
                "--" + name.replace("_", "-"),
                type=flag_type(annotation),
                choices=SCENARIOS if name == "scenario" else None,
                metavar=annotation.__origin__.__name__.upper(),
                help=f"{meta.title} (%(default)s)",
            )
    add("--summary", type=Path, metavar="FILE", help="write the summary as JSON")
    text = "write each prediction with its true label, one JSON object per line"
    add("--answers", type=Path, metavar="FILE", help=text)
    add("--quiet", action="store_true", help="show no progress bar")
    defaults = Options(
        address=settings.prediction_address, api_key=settings.prediction_api_key.get_secret_value()
    )
    parser.set_defaults(tracking_uri=settings.mlflow_tracking_uri, **asdict(defaults))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    set_up("text")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the summary counts the retries
    on_signals(signal.default_int_handler)  # until there are outcomes to sum up
    try:
        settings = read_settings(Settings)
        summary = run(make_parser(settings).parse_args(arguments), settings)
    except (SettingsError, TrafficError, Unreachable, OSError) as err:
        print(f"send_data: {err}", file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:
        print("send_data: interrupted", file=sys.stderr)
        return INTERRUPTED
    if summary.ended == "interrupted":
        return INTERRUPTED
    return 0 if summary.all_delivered else FAILED


def run(flags: argparse.Namespace, settings: Settings) -> Summary:
    """Send what the flags say; print and write the summary."""
    if flags.traffic:
        rows = read_rows(flags.traffic)
    else:
        rows = production_rows(flags.tracking_uri, settings.mlflow_auth)
    options = msgspec.convert(vars(flags), Options)
    check_reachable(options)
    # From here on, a signal raises no KeyboardInterrupt: it could fall between an outcome and its
    # count.
    stop = threading.Event()
    on_signals(lambda number, frame: stop.set())
    to_lines = msgspec.json.Encoder().encode_lines
    with open_new(flags.answers or Path(os.devnull)) as file:
        summary = send(
            rows,
            options,
            stop=stop,
            keep=lambda predictions: file.write(to_lines(predictions)),
            show_progress=not flags.quiet,
        )
    Console().print(summary_table(summary))
    if flags.summary:
        with open_new(flags.summary) as file:
            file.write(msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def open_new(path: Path) -> BinaryIO:
    """Open a file for writing; make its folder first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def on_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle SIGINT and SIGTERM. A shell starts its background jobs with SIGINT ignored."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, handler)


def summary_table(summary: Summary) -> Table:
    """Return the summary as a table for the terminal."""
    rows = {
        "change": summary.change,
        "records": f"{summary.sent:,} sent: {summary.answered:,} answered,"
        f" {summary.rejected:,} rejected, {summary.failed:,} failed",
        "requests": f"{summary.requests:,}, and {summary.retries:,} retries",
        "labels": f"{summary.labels_sent:,} sent, {summary.labels_failed:,} failed,"
        f" {summary.labels_unsent:,} not sent",
        "throughput": f"{summary.requests_per_s:,} requests/s, {summary.rows_per_s:,} records/s"
        f" over {summary.seconds:,} s",
        "latency": latency_text(summary),
        **{f"reason: {reason}": f"{count:,}" for reason, count in summary.reasons.items()},
    }
    table = Table(show_header=False, title=f"Traffic: {summary.scenario} ({summary.ended})")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def latency_text(summary: Summary) -> str:
    """Return the latency percentiles in one line."""
    if summary.latency_p50_ms is None:
        return "no predictions"
    return (
        f"{summary.latency_p50_ms:.1f} ms median, {summary.latency_p95_ms:.1f} ms at 95 %,"
        f" {summary.latency_p99_ms:.1f} ms at 99 %"
    )


if __name__ == "__main__":
    sys.exit(main())
