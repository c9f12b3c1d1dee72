"""Compare a version with the stored predictions: `python -m prediction_service.compare_versions`.

Reads the programs' predictions in the log of record and scores their raw values with the version.
Nothing is stored. The version comes from the model folder or else from the registry.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from config.contract import load_contract
from config.events import API, Prediction
from config.model.package import ModelRejected, check_digests
from config.model_registry import GRAPH
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.journal import JournalUnavailable
from prediction_service.journal.export import ALL_TIME, Period
from prediction_service.models.registry import Registry, RegistryUnavailable
from prediction_service.predict.model import Model
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable
from prediction_service.sinks.log_of_record import stored_predictions

BATCH_ROWS = 1000


class NothingToCompare(Exception):
    """The period has no prediction that the version can score."""


# Of the version, the registry, the log of record and `--out`: `main` prints them as one line.
EXPECTED_ERRORS = (
    ModelRejected,
    RegistryUnavailable,
    NothingToCompare,
    JournalUnavailable,
    SinkUnavailable,
    OSError,
)


class Change(msgspec.Struct, frozen=True):
    """A stored prediction beside that of the version."""

    prediction_id: str
    model_version: str  # of the stored prediction
    probability: float
    income_class: int
    new_probability: float
    new_class: int

    @property
    def difference(self) -> float:
        """The absolute difference of the probabilities."""
        return abs(self.new_probability - self.probability)


class Report(msgspec.Struct):
    """How the predictions of a version differ from the stored ones."""

    version: str
    stored_versions: dict[str, int]  # number of stored predictions by version
    predictions: int = 0
    not_scored: int = 0  # records that break today's contract
    mean_probability: float = 0.0
    mean_new_probability: float = 0.0
    mean_difference: float = 0.0  # of the probability, absolute
    max_difference: float = 0.0
    to_positive: int = 0  # from class 0 to class 1
    to_negative: int = 0

    def add(self, change: Change) -> None:
        """Count one more prediction; update each mean by its share."""
        self.predictions += 1
        version, difference = change.model_version, change.difference
        self.stored_versions[version] = self.stored_versions.get(version, 0) + 1
        self.mean_probability += (change.probability - self.mean_probability) / self.predictions
        self.mean_new_probability += (
            change.new_probability - self.mean_new_probability
        ) / self.predictions
        self.mean_difference += (difference - self.mean_difference) / self.predictions
        self.max_difference = max(self.max_difference, difference)
        self.to_positive += change.new_class > change.income_class
        self.to_negative += change.new_class < change.income_class


def compare(predictions: Iterable[Prediction], model: Model) -> Iterator[Change | None]:
    """Yield each prediction beside the model's; None for one that the model cannot score."""
    waiting = iter(predictions)
    while batch := list(islice(waiting, BATCH_ROWS)):
        for one, probability in zip(batch, model.score_stored(batch).tolist()):
            if math.isnan(probability):
                yield None
                continue
            yield Change(
                one.prediction_id,
                one.model_version,
                one.probability,
                one.income_class,
                probability,
                int(probability >= model.threshold),
            )


@contextmanager
def open_version(number: str, settings: Settings) -> Iterator[Model]:
    """Load a version from the model folder or else from the registry.

    Raises ModelRejected or RegistryUnavailable.
    """
    contract, local = load_contract(), settings.model_path / number
    if (local / GRAPH).exists():
        yield Model(local, number, contract)
        return
    with tempfile.TemporaryDirectory() as scratch:
        registry = Registry(settings.mlflow_tracking_uri)
        wanted = registry.version(number)
        package = registry.download(wanted, Path(scratch))
        check_digests(package, wanted.digests)
        yield Model(package, number, contract)


def parse_time(text: str) -> float:
    """Return the Unix time of a date or a date with a time, which is UTC without a zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a date, or a time as in 2026-10-31T18:30"
        ) from err
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def run(version: str, period: Period, settings: Settings, out: Path | None = None) -> Report:
    """Compare the predictions of a period; write each change to `out` as a line of JSON.

    Raises one of EXPECTED_ERRORS.
    """
    report = Report(version, {})
    with open_version(version, settings) as model, (out or Path(os.devnull)).open("wb") as lines:
        stored = (one for one in stored_predictions(settings, period) if one.source == API)
        for change in compare(stored, model):
            if change is None:
                report.not_scored += 1
            else:
                report.add(change)
                lines.write(msgspec.json.encode(change) + b"\n")
    if not report.predictions:
        raise NothingToCompare(
            f"The period has no prediction that version {version} can score;"
            f" {report.not_scored} predictions break today's contract."
        )
    return report


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction_service.compare_versions",
        description="Score stored predictions with a model version and print the differences.",
    )
    parser.add_argument("--version", required=True, help="number of the version to score with")
    parser.add_argument(
        "--from",
        dest="since",
        type=parse_time,
        default=ALL_TIME.since,
        metavar="TIME",
        help="start of the period, as 2026-10-31 or 2026-10-31T18:30 (UTC)",
    )
    parser.add_argument(
        "--to",
        dest="until",
        type=parse_time,
        default=ALL_TIME.until,
        metavar="TIME",
        help="end of the period, exclusive",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="file for each pair of predictions, JSON lines")
    return parser


def main() -> None:
    """Run the command."""
    arguments = make_parser().parse_args()
    settings = read_settings(Settings)
    period = Period(arguments.since, arguments.until)
    try:
        report = run(arguments.version, period, settings, arguments.out)
    except EXPECTED_ERRORS as err:
        raise SystemExit(f"compare_versions: {err}") from err
    if arguments.json:
        print(msgspec.json.encode(report).decode())
        return
    for name, value in msgspec.structs.asdict(report).items():
        print(f"{name:22}{value:.4f}" if isinstance(value, float) else f"{name:22}{value}")


if __name__ == "__main__":
    exit_with_message(main)
