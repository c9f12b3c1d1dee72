"""Stored predictions compared with those of the same version and of another one."""

import json
from pathlib import Path

import msgspec
import pytest
from flask.testing import FlaskClient

from config.events import API, Prediction
from prediction_service.journal import Journal, read_after
from prediction_service.journal.export import Period
from prediction_service.sinks.log_of_record import stored_predictions
from prediction_service.models.model_folder import ModelFolder
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.compare_versions import (
    Change,
    NothingToCompare,
    Report,
    main,
    parse_time,
    run,
)
from prediction_service.settings import Settings
from tests.prediction_service.conftest import Command, install, with_metadata


@pytest.fixture
def stored(client: FlaskClient, settings: Settings, record: dict) -> list[Prediction]:
    """Store six predictions of version 1, which predicts a high income from about 45 years on.

    Predictions of the page are stored too, but not compared.
    """
    records = [record | {"age": age} for age in (20, 30, 40, 60, 70, 80)]
    assert client.post("/predict", json=records).status_code == 200
    assert client.post("/predict?source=page", json=records).status_code == 200
    found = [one for one in stored_predictions(settings) if one.source == API]
    assert sorted(one.income_class for one in found) == [0, 0, 0, 1, 1, 1]
    return found


def test_the_same_version_gives_the_same_predictions(
    settings: Settings, stored: list[Prediction]
) -> None:
    report = run("1", Period(), settings)
    assert (report.predictions, report.stored_versions, report.not_scored) == (6, {"1": 6}, 0)
    assert (report.max_difference, report.to_positive, report.to_negative) == (0.0, 0, 0)
    mean = sum(one.probability for one in stored) / 6
    assert report.mean_probability == report.mean_new_probability == pytest.approx(mean)


def test_another_threshold_changes_classes_and_no_probability(
    settings: Settings,
    model_folder: ModelFolder,
    package: Path,
    stored: list[Prediction],
    tmp_path: Path,
) -> None:
    install(model_folder, with_metadata(package, tmp_path / "strict", threshold="1.0"), "2")
    out = tmp_path / "changes.jsonl"
    report = run("2", Period(), settings, out)
    assert (report.to_positive, report.to_negative, report.mean_difference) == (0, 3, 0.0)
    changes = [msgspec.json.decode(line, type=Change) for line in out.read_bytes().splitlines()]
    assert {one.prediction_id for one in changes} == {one.prediction_id for one in stored}
    assert {one.new_class for one in changes} == {0}


def test_a_report_summarizes_its_changes() -> None:
    report = Report("9", {})
    report.add(Change("a", "1", 0.2, 0, 0.6, 1))
    report.add(Change("b", "1", 0.9, 1, 0.8, 1))
    report.add(Change("c", "2", 0.7, 1, 0.1, 0))
    assert (report.predictions, report.stored_versions) == (3, {"1": 2, "2": 1})
    assert (report.to_positive, report.to_negative) == (1, 1)
    assert report.mean_probability == pytest.approx(0.6)
    assert report.mean_new_probability == pytest.approx(0.5)
    assert report.mean_difference == pytest.approx((0.4 + 0.1 + 0.6) / 3)
    assert report.max_difference == pytest.approx(0.6)


def test_only_the_period_is_compared(
    settings: Settings, model_folder: ModelFolder, journal: Journal, record: dict
) -> None:
    assert model_folder.current()
    features = {name: record[name] for name in record if name not in ("fnlwgt", "education_num")}
    days = [parse_time(f"2026-10-0{day}") for day in (1, 2, 3)]
    journal.append([Prediction(f"{int(at):032x}", at, "1", features, 0.5, 1, 0.5) for at in days])
    assert run("1", Period(days[1], days[2]), settings).predictions == 1
    assert run("1", Period(since=days[1]), settings).predictions == 2
    with pytest.raises(NothingToCompare):
        run("1", Period(until=days[0]), settings)


def test_records_that_break_todays_contract_are_counted_and_not_scored(
    settings: Settings, journal: Journal, stored: list[Prediction]
) -> None:
    older = msgspec.structs.replace(
        stored[0], prediction_id="f" * 32, features=stored[0].features | {"age": 150}
    )
    journal.append([older])
    report = run("1", Period(), settings)
    assert (report.predictions, report.not_scored) == (6, 1)


def test_predictions_are_read_from_mongodb_if_it_is_configured(
    settings: Settings,
    journal: Journal,
    stored: list[Prediction],
    sink: MongoSink,
    mongodb_uri: str,
) -> None:
    database = sink.collection.database.name
    settings = settings.model_copy(
        update={"mongodb_address": mongodb_uri, "mongodb_database": database}
    )
    sink.send(read_after(journal.path, 0, 1))  # one of six
    assert run("1", Period(), settings).predictions == 1
    assert run("1", Period(until=stored[0].predicted_at + 1), settings).predictions == 1
    with pytest.raises(NothingToCompare):
        run("1", Period(since=stored[0].predicted_at + 1), settings)


def test_the_command_prints_the_report_or_the_error_in_one_line(
    stored: list[Prediction],
    settings: Settings,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def printed(*arguments: str) -> str:
        return command(main, settings, "--version", "1", *arguments)

    assert json.loads(printed("--from", "2026-01-01", "--json"))["predictions"] == len(stored)
    assert "max_difference        0.0000" in printed()
    with pytest.raises(SystemExit, match="^compare_versions: The period has no prediction"):
        printed("--to", "2001-01-01T12:00")
    with pytest.raises(SystemExit):
        printed("--from", "yesterday")
    assert "--from: got 'yesterday', expected a date" in capsys.readouterr().err
