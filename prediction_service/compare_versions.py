"""Scores logged traffic with another version: `python -m prediction_service.compare_versions --version 4`.

Reads the log of record, scores each prediction's own raw values with the version, and says how its
answers differ from those that were given. Nothing is stored; the version comes from the model
folder or, if it is not there, from the registry.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from config.contract import load_contract
from config.events import Prediction
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.journal import JournalUnavailable
from prediction_service.journal.export import Period, stored_predictions
from prediction_service.predict.model import Model, ModelRefused, check_digests
from prediction_service.models.registry import Registry, RegistryUnavailable
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable

BATCH_ROWS = 1000


class NothingToReplay(Exception):
    """The period holds nothing that the version can score."""


# What `main` says in one line: of the version, the registry, the log of record and `--out`.
EXPECTED = (
    ModelRefused,
    RegistryUnavailable,
    NothingToReplay,
    JournalUnavailable,
    SinkUnavailable,
    OSError,
)


class Change(msgspec.Struct, frozen=True):
    """One prediction as it was answered and as the version answers it."""

    prediction_id: str
    model_version: str  # that answered
    probability: float
    income_class: int
    replayed_probability: float
    replayed_class: int

    @property
    def difference(self) -> float:
        """How far the probabilities lie apart."""
        return abs(self.replayed_probability - self.probability)


class Report(msgspec.Struct):
    """How a version's answers differ from those that were given."""

    version: str
    answered_by: dict[str, int]  # how many by which version
    predictions: int = 0
    not_scored: int = 0  # records that break today's contract
    mean_probability: float = 0.0
    mean_replayed_probability: float = 0.0
    mean_difference: float = 0.0  # of the probability, whatever its sign
    largest_difference: float = 0.0
    to_positive: int = 0  # answered 0, replayed 1
    to_negative: int = 0

    def add(self, change: Change) -> None:
        """Counts one more prediction; a mean moves by its share."""
        self.predictions += 1
        version, difference = change.model_version, change.difference
        self.answered_by[version] = self.answered_by.get(version, 0) + 1
        self.mean_probability += (change.probability - self.mean_probability) / self.predictions
        self.mean_replayed_probability += (
            change.replayed_probability - self.mean_replayed_probability
        ) / self.predictions
        self.mean_difference += (difference - self.mean_difference) / self.predictions
        self.largest_difference = max(self.largest_difference, difference)
        self.to_positive += change.replayed_class > change.income_class
        self.to_negative += change.replayed_class < change.income_class


def replay(predictions: Iterable[Prediction], model: Model) -> Iterator[Change | None]:
    """Each prediction beside the model's answer; None for one that it cannot score."""
    waiting, contract = iter(predictions), model.contract
    while batch := list(islice(waiting, BATCH_ROWS)):
        valid = [one for one in batch if not contract.check(one.features)]
        yield from [None] * (len(batch) - len(valid))
        rows = [[one.features.get(name) for name in contract.input_names] for one in valid]
        for one, probability in zip(valid, model.score(rows).tolist() if rows else ()):
            yield Change(
                one.prediction_id,
                one.model_version,
                one.probability,
                one.income_class,
                probability,
                int(probability >= model.threshold),
            )


@contextmanager
def opened_version(number: str, settings: Settings) -> Iterator[Model]:
    """A version from the model folder, else from the registry.

    Raises ModelRefused or RegistryUnavailable.
    """
    contract, local = load_contract(), settings.model_path / number
    if (local / "model.onnx").exists():
        yield Model(local, number, contract)
        return
    with tempfile.TemporaryDirectory() as scratch:
        registry = Registry(settings.mlflow_tracking_uri)
        wanted = registry.version(number)
        package = registry.download(wanted, Path(scratch))
        check_digests(package, wanted.digests)
        yield Model(package, number, contract)


def moment(text: str) -> float:
    """Unix time of a date or a date with a time; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a date, or a time as in 2026-10-31T18:30"
        ) from err
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def run(version: str, period: Period, settings: Settings, out: Path | None = None) -> Report:
    """Replays a period; each change goes to `out` as a line of JSON, if it is given.

    Raises ModelRefused, RegistryUnavailable, SinkUnavailable, or NothingToReplay.
    """
    report = Report(version, {})
    with opened_version(version, settings) as model, (out or Path(os.devnull)).open("wb") as lines:
        for change in replay(stored_predictions(settings, period), model):
            if change is None:
                report.not_scored += 1
            else:
                report.add(change)
                lines.write(msgspec.json.encode(change) + b"\n")
    if not report.predictions:
        raise NothingToReplay(
            f"no prediction of this period can be scored: {report.not_scored} read"
        )
    return report


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction_service.compare_versions", description=__doc__
    )
    parser.add_argument("--version", required=True, help="number of the version to score with")
    parser.add_argument("--from", dest="since", type=moment, default=Period().since)
    parser.add_argument("--to", dest="until", type=moment, default=Period().until)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--out", type=Path, help="every prediction beside its replay, JSON lines")
    arguments = parser.parse_args()
    settings = read_settings(Settings)
    period = Period(arguments.since, arguments.until)
    try:
        report = run(arguments.version, period, settings, arguments.out)
    except EXPECTED as err:
        raise SystemExit(f"replay: {err}") from err
    if arguments.json:
        print(msgspec.json.encode(report).decode())
        return
    for name, value in msgspec.structs.asdict(report).items():
        print(f"{name:27}{value:.4f}" if isinstance(value, float) else f"{name:27}{value}")


if __name__ == "__main__":
    exit_with_message(main)
