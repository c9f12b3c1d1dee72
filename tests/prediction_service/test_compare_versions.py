"""Replay: answered predictions scored again, with the version that answered and with another."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from flask.testing import FlaskClient

from config.events import Prediction
from prediction_service.journal import Journal, read_after
from prediction_service.journal.export import Period, stored_predictions
from prediction_service.models.model_folder import ModelFolder
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.compare_versions import Change, NothingToReplay, Report, moment, run
from prediction_service.settings import Settings
from tests.prediction_service.conftest import Start, install, with_metadata


@pytest.fixture
def answered(client: FlaskClient, settings: Settings, record: dict) -> list[Prediction]:
    """Six predictions of version 1: income is high from about 45 years on."""
    records = [record | {"age": age} for age in (20, 30, 40, 60, 70, 80)]
    assert client.post("/predict", json=records).status_code == 200
    stored = list(stored_predictions(settings))
    assert sorted(one.income_class for one in stored) == [0, 0, 0, 1, 1, 1]
    return stored


def test_the_version_that_answered_answers_the_same(
    settings: Settings, answered: list[Prediction]
) -> None:
    report = run("1", Period(), settings)
    assert (report.predictions, report.answered_by, report.not_scored) == (6, {"1": 6}, 0)
    assert (report.largest_difference, report.to_positive, report.to_negative) == (0.0, 0, 0)
    mean = sum(one.probability for one in answered) / 6
    assert report.mean_probability == report.mean_replayed_probability == pytest.approx(mean)


def test_another_threshold_changes_classes_and_no_probability(
    settings: Settings,
    model_folder: ModelFolder,
    package: Path,
    answered: list[Prediction],
    tmp_path: Path,
) -> None:
    install(model_folder, with_metadata(package, tmp_path / "strict", threshold="1.0"), "2")
    out = tmp_path / "changes.jsonl"
    report = run("2", Period(), settings, out)
    assert (report.to_positive, report.to_negative, report.mean_difference) == (0, 3, 0.0)
    changes = [msgspec.json.decode(line, type=Change) for line in out.read_bytes().splitlines()]
    assert {one.prediction_id for one in changes} == {one.prediction_id for one in answered}
    assert {one.replayed_class for one in changes} == {0}


def test_a_report_is_what_its_changes_say() -> None:
    report = Report("9", {})
    report.add(Change("a", "1", 0.2, 0, 0.6, 1))
    report.add(Change("b", "1", 0.9, 1, 0.8, 1))
    report.add(Change("c", "2", 0.7, 1, 0.1, 0))
    assert (report.predictions, report.answered_by) == (3, {"1": 2, "2": 1})
    assert (report.to_positive, report.to_negative) == (1, 1)
    assert report.mean_probability == pytest.approx(0.6)
    assert report.mean_replayed_probability == pytest.approx(0.5)
    assert report.mean_difference == pytest.approx((0.4 + 0.1 + 0.6) / 3)
    assert report.largest_difference == pytest.approx(0.6)


def test_only_the_period_is_replayed(
    settings: Settings, model_folder: ModelFolder, journal: Journal, record: dict
) -> None:
    assert model_folder.current()
    features = {name: record[name] for name in record if name not in ("fnlwgt", "education_num")}
    days = [moment(f"2026-10-0{day}") for day in (1, 2, 3)]
    journal.append([Prediction(f"{int(at):032x}", at, "1", features, 0.5, 1, 0.5) for at in days])
    assert run("1", Period(days[1], days[2]), settings).predictions == 1
    assert run("1", Period(since=days[1]), settings).predictions == 2
    with pytest.raises(NothingToReplay):
        run("1", Period(until=days[0]), settings)


def test_records_that_break_todays_contract_are_counted_and_not_scored(
    settings: Settings, journal: Journal, answered: list[Prediction]
) -> None:
    older = msgspec.structs.replace(
        answered[0], prediction_id="f" * 32, features=answered[0].features | {"age": 150}
    )
    journal.append([older])
    report = run("1", Period(), settings)
    assert (report.predictions, report.not_scored) == (6, 1)


def test_with_mongodb_that_is_what_is_replayed(
    settings: Settings,
    journal: Journal,
    answered: list[Prediction],
    sink: MongoSink,
    mongodb_uri: str,
) -> None:
    database = sink.collection.database.name
    settings = settings.model_copy(
        update={"mongodb_address": mongodb_uri, "mongodb_database": database}
    )
    sink.send(read_after(journal.path, 0, 1))  # the journal holds six
    assert run("1", Period(), settings).predictions == 1
    assert run("1", Period(until=answered[0].predicted_at + 1), settings).predictions == 1
    with pytest.raises(NothingToReplay):
        run("1", Period(since=answered[0].predicted_at + 1), settings)


@pytest.fixture
def replayed(settings: Settings, start: Start, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command; its exit code and what it said."""

    def command(*arguments: str) -> tuple[int, str]:
        process = start(settings, "prediction_service.compare_versions", *arguments)
        code = process.wait(60)
        (log,) = tmp_path.glob("prediction_service.compare_versions-*.log")
        text = log.read_text()
        log.unlink()
        return code, text

    return command


def test_the_command_prints_the_report_or_one_line_of_what_is_wrong(
    answered: list[Prediction], replayed: Callable[..., tuple[int, str]]
) -> None:
    code, text = replayed("--version", "1", "--from", "2026-01-01", "--json")
    assert (code, json.loads(text)["predictions"]) == (0, len(answered))
    code, text = replayed("--version", "1")
    assert code == 0 and "largest_difference         0.0000" in text
    code, text = replayed("--version", "1", "--to", "2001-01-01T12:00")
    assert code == 1 and text.startswith("replay: no prediction of this period")
    code, text = replayed("--version", "1", "--from", "yesterday")
    assert code == 2 and "--from" in text
