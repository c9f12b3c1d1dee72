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
from typing import BinaryIO

import msgspec
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from config.runtime.logs import set_up
from config.runtime.settings import SettingsError, read_settings
from stream_generator.client.options import Options
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


def integer(minimum: int) -> Callable[[str], int]:
    """Return a flag's type: an integer from `minimum`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from {minimum}")

    return parse


def number(minimum: float, maximum: float = sys.float_info.max) -> Callable[[str], float]:
    """Return a flag's type: a finite number from `minimum` to `maximum`."""
    up_to = f" to {maximum:g}" if maximum < sys.float_info.max else ""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if minimum <= value <= maximum:
            return value
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from {minimum:g}{up_to}")

    return parse


def url(text: str) -> str:
    """Parse a flag's value: the address of a service."""
    if text.startswith(("http://", "https://")):
        return text.rstrip("/")
    raise argparse.ArgumentTypeError(f"got {text!r}, expected http://host:port")


def make_parser(settings: Settings) -> argparse.ArgumentParser:
    """Return the parser of the command's flags."""
    scenarios = "\n".join(f"  {name:16} {run.__doc__}" for name, run in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m stream_generator.send_data",
        description=DESCRIPTION,
        epilog=f"scenarios:\n{scenarios}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_row_flags(parser.add_argument_group("rows"))
    add_request_flags(parser.add_argument_group("requests"))
    add_output_flags(parser.add_argument_group("output"))
    defaults = Options(
        address=settings.prediction_address, api_key=settings.prediction_api_key.get_secret_value()
    )
    parser.set_defaults(tracking_uri=settings.mlflow_tracking_uri, **asdict(defaults))
    return parser


def add_row_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags on the rows and their labels."""
    add = group.add_argument
    text = "JSON lines with record and label (default: the production run's rows, from MLflow)"
    add("--traffic", type=Path, metavar="FILE", help=text)
    text = "MLflow server, unused with --traffic (MLFLOW_TRACKING_URI, %(default)s)"
    add("--tracking-uri", type=url, metavar="URL", help=text)
    text = "number of records; rows repeat if the file has fewer (%(default)s)"
    add("--rows", type=integer(1), metavar="N", help=text)
    text = "drift to simulate, see below (%(default)s)"
    add("--scenario", choices=SCENARIOS, metavar="NAME", help=text)
    text = "share of the predictions, 0-1, whose true label is sent later (%(default)g)"
    add("--labels", type=number(0, 1), metavar="SHARE", help=text)
    text = "seconds from a prediction to its label (%(default)g)"
    add("--label-delay-s", type=number(0), metavar="S", help=text)
    text = "seed of the order, the drift and the choice of labels (%(default)s)"
    add("--seed", type=integer(0), metavar="N", help=text)


def add_request_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags on requests."""
    add = group.add_argument
    text = "prediction service (PREDICTION_ADDRESS, %(default)s)"
    add("--address", type=url, metavar="URL", help=text)
    text = "requests per second, 0 for no limit (%(default)g)"
    add("--rate", type=number(0), metavar="R", help=text)
    add("--batch", type=integer(1), metavar="N", help="records per request (%(default)s)")
    text = "maximum number of prediction requests in flight (%(default)s)"
    add("--concurrency", type=integer(1), metavar="N", help=text)
    text = "timeout of one attempt in seconds (%(default)g)"
    add("--timeout-s", type=number(0.001), metavar="S", help=text)
    text = "attempts per request, all with the same Idempotency-Key (%(default)s)"
    add("--attempts", type=integer(1), metavar="N", help=text)
    text = "end after so many seconds, 0 for no deadline (%(default)g)"
    add("--deadline-s", type=number(0), metavar="S", help=text)


def add_output_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags on files and progress."""
    add = group.add_argument
    add("--summary", type=Path, metavar="FILE", help="write the summary as JSON")
    text = "write each prediction with its true label, one JSON object per line"
    add("--answers", type=Path, metavar="FILE", help=text)
    add("--quiet", action="store_true", help="show no progress bar")


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
