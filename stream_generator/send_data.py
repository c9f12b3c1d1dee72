"""The command: `python -m stream_generator.send_data`.

Reads flags, settings and rows, has them sent, and shows the summary. Status 0: every record that
was sent was answered or refused and every label that was sent arrived, be it all of them or what
--deadline-s left time for (the summary's `ended` says which); 1: some failed; 2: it could not
begin; 130: interrupted.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console
from rich.table import Table

from config.settings import SettingsError, read_settings
from stream_generator.client.pace import Clock
from stream_generator.traffic.registry import production_rows
from stream_generator.traffic.scenarios import SCENARIOS
from stream_generator.client.sender import Options, Unreachable, check_reachable, send
from stream_generator.settings import Settings
from stream_generator.client.summary import AnsweredRow, Summary
from stream_generator.traffic.rows import TrafficError, read_rows

FAILED, CANNOT_BEGIN, INTERRUPTED = 1, 2, 130
DEFAULTS = Options(address="")

DESCRIPTION = """\
Simulates census planners: sends people's records to the prediction service and, later, the true
labels of some. Ends with a table of what came of it."""


def whole(minimum: int) -> Callable[[str], int]:
    """A flag's type: a whole number from `minimum`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from {minimum}")

    return parse


def real(minimum: float, maximum: float = float("inf")) -> Callable[[str], float]:
    """A flag's type: a number from `minimum` to `maximum`."""
    expected = f"from {minimum:g}" + (f" to {maximum:g}" if maximum < float("inf") else "")

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if minimum <= value <= maximum and value < float("inf"):
            return value
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number {expected}")

    return parse


def address(text: str) -> str:
    """A flag's type: where a service is."""
    if text.startswith(("http://", "https://")):
        return text.rstrip("/")
    raise argparse.ArgumentTypeError(f"got {text!r}, expected http://host:port")


def make_parser(settings: Settings) -> argparse.ArgumentParser:
    """The command's flags."""
    scenarios = "\n".join(f"  {name:14} {run.__doc__}" for name, run in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m stream_generator.send_data",
        description=DESCRIPTION,
        epilog=f"scenarios:\n{scenarios}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_rows_flags(parser.add_argument_group("what is sent"), settings)
    add_delivery_flags(parser.add_argument_group("how it is sent"), settings)
    add_output_flags(parser.add_argument_group("what is kept"))
    return parser


def add_rows_flags(group: argparse._ArgumentGroup, settings: Settings) -> None:
    """Flags on the rows and what happens to them."""
    group.add_argument(
        "--traffic",
        type=Path,
        metavar="FILE",
        help="rows to send, one JSON object with record and label per line"
        " (default: those of the production model's run, from MLflow)",
    )
    group.add_argument(
        "--tracking-uri",
        type=address,
        metavar="URL",
        default=settings.mlflow_tracking_uri,
        help="the MLflow server, without --traffic (MLFLOW_TRACKING_URI, %(default)s)",
    )
    group.add_argument(
        "--rows",
        type=whole(1),
        metavar="N",
        default=DEFAULTS.rows,
        help="how many records; beyond the file's, they are sent again (%(default)s)",
    )
    group.add_argument(
        "--scenario",
        choices=SCENARIOS,
        metavar="NAME",
        default=DEFAULTS.scenario,
        help="what changes in the world, see below (%(default)s)",
    )
    group.add_argument(
        "--labels",
        type=real(0, 1),
        metavar="SHARE",
        default=DEFAULTS.labels,
        help="share of the answered records, 0-1, whose true label is told later (%(default)g)",
    )
    group.add_argument(
        "--label-delay-s",
        type=real(0),
        metavar="S",
        default=DEFAULTS.label_delay_s,
        help="seconds from an answer to its label (%(default)g)",
    )
    group.add_argument(
        "--seed",
        type=whole(0),
        metavar="N",
        default=DEFAULTS.seed,
        help="decides the order, the changes and which labels are told (%(default)s)",
    )


def add_delivery_flags(group: argparse._ArgumentGroup, settings: Settings) -> None:
    """Flags on requests."""
    group.add_argument(
        "--address",
        type=address,
        metavar="URL",
        default=settings.prediction_address,
        help="the prediction service (PREDICTION_ADDRESS, %(default)s)",
    )
    group.add_argument(
        "--rate",
        type=real(0),
        metavar="R",
        default=DEFAULTS.rate,
        help="requests per second, 0 for as fast as possible (%(default)g)",
    )
    group.add_argument(
        "--batch",
        type=whole(1),
        metavar="N",
        default=DEFAULTS.batch,
        help="records per request (%(default)s)",
    )
    group.add_argument(
        "--concurrency",
        type=whole(1),
        metavar="N",
        default=DEFAULTS.concurrency,
        help="connections, each with one request at a time (%(default)s)",
    )
    group.add_argument(
        "--timeout-s",
        type=real(0.001),
        metavar="S",
        default=DEFAULTS.timeout_s,
        help="seconds one attempt may wait for the service (%(default)g)",
    )
    group.add_argument(
        "--attempts",
        type=whole(1),
        metavar="N",
        default=DEFAULTS.attempts,
        help="attempts per request, under one Idempotency-Key (%(default)s)",
    )
    group.add_argument(
        "--deadline-s",
        type=real(0),
        metavar="S",
        default=0,
        help="seconds after which the run ends well, done or not, 0 for none (%(default)s)",
    )


def add_output_flags(group: argparse._ArgumentGroup) -> None:
    """Flags on what is left behind."""
    group.add_argument("--summary", type=Path, metavar="FILE", help="the summary as JSON")
    group.add_argument(
        "--answers", type=Path, metavar="FILE", help="each answered record with its true label"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.INFO)
    on_signals(signal.default_int_handler)  # until there is something to sum up
    try:
        settings = read_settings(Settings, os.environ)
        summary = run(make_parser(settings).parse_args(arguments), settings)
    except (SettingsError, TrafficError, Unreachable, OSError) as err:
        print(f"send_data: {err}", file=sys.stderr)
        return CANNOT_BEGIN
    except KeyboardInterrupt:
        print("send_data: interrupted", file=sys.stderr)
        return INTERRUPTED
    if summary.ended == "interrupted":
        return INTERRUPTED
    return 0 if summary.all_well else FAILED


def run(flags: argparse.Namespace, settings: Settings) -> Summary:
    """Sends what the flags say; prints and writes the summary."""
    clock = Clock(flags.deadline_s or float("inf"))
    if flags.traffic:
        rows = read_rows(flags.traffic)
    else:
        rows = production_rows(flags.tracking_uri, settings.mlflow_auth)
    options = msgspec.convert(vars(flags) | {"api_key": settings.prediction_api_key}, Options)
    check_reachable(options, clock)
    # No KeyboardInterrupt from here on: raised within Thread.join, it makes Python 3.11 take the
    # thread for dead (github.com/python/cpython/issues/90882), and its answer would be lost.
    on_signals(lambda number, frame: clock.stop())
    with answers_file(flags.answers) as keep:
        summary = send(rows, options, clock=clock, keep=keep, show_progress=not flags.quiet)
    Console().print(table(summary))
    if flags.summary:
        flags.summary.parent.mkdir(parents=True, exist_ok=True)
        flags.summary.write_bytes(msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def on_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Has Ctrl-C and TERM handled, even where a shell starts its background jobs with INT off."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


@contextmanager
def answers_file(path: Path | None) -> Iterator[Callable[[Sequence[AnsweredRow]], None]]:
    """What writes answered rows to the file, one JSON object per line; nothing without a path."""
    if path is None:
        yield lambda rows: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield lambda rows: file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def table(summary: Summary) -> Table:
    """The summary for people."""
    rows = {
        "records": f"{summary.sent:,} sent: {summary.answered:,} answered,"
        f" {summary.refused:,} refused, {summary.failed:,} failed",
        "requests": f"{summary.requests:,}, and {summary.retries:,} retries",
        "labels": f"{summary.labels_sent:,} sent, {summary.labels_failed:,} failed,"
        f" {summary.labels_unsent:,} held back",
        "throughput": f"{summary.requests_per_s:,} requests/s, {summary.rows_per_s:,} records/s"
        f" over {summary.seconds:,} s",
        "latency": latency_words(summary),
        **{f"because {reason}": f"{count:,}" for reason, count in summary.reasons.items()},
    }
    shown = Table(show_header=False, title=f"Traffic: {summary.scenario} ({summary.ended})")
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


def latency_words(summary: Summary) -> str:
    """The latency percentiles in a line."""
    if summary.latency_p50_ms is None:
        return "nothing answered"
    return (
        f"{summary.latency_p50_ms:.1f} ms median, {summary.latency_p95_ms:.1f} ms at 95 %,"
        f" {summary.latency_p99_ms:.1f} ms at 99 %"
    )


if __name__ == "__main__":
    sys.exit(main())
