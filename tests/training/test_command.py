"""`python -m training`: its options, output and errors."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from prefect.settings import (  # pylint: disable=no-name-in-module  # made when asked for
    PREFECT_API_URL,
    temporary_settings,
)

from config.runtime.settings import exit_with_message
from tests.conftest import ROOT, free_port, mlflow_database, run
from training.__main__ import main
from training.commands import ledger
from training.data.errors import SourceError, SourceUnavailable
from training.registry.mlflow_registry import Registry

SLOW = {"hyperopt", "imblearn", "matplotlib", "onnx", "prefect", "pymongo", "sklearn", "xgboost"}


@pytest.mark.parametrize(
    "command, unused",
    [("--help", {"mlflow", "pandas", *SLOW}), ("history", SLOW)],
)
def test_a_command_imports_only_what_it_needs(command, unused, tmp_path):
    """Both once imported scikit-learn and ONNX, which they never use."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "training", command],
        cwd=ROOT,
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_database(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in times}
    assert "pydantic" in imported and not imported & unused


def test_synthesize_writes_tables_and_rows_that_the_service_accepts(contract, tmp_path, capsys):
    def synthesize(name: str) -> Path:
        main(["synthesize", "--rows", "300", "--seed", "5", "--out", str(tmp_path / name)])
        return tmp_path / name

    out = synthesize("rows/synthetic.jsonl")
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == 300 and {row["label"] for row in rows} == {0, 1}
    assert all(contract.check(row["record"]) == [] for row in rows)
    assert str(out) in capsys.readouterr().out
    for table in (
        pd.read_csv(synthesize("rows.csv")),
        pd.read_parquet(synthesize("rows.parquet")),
    ):
        assert list(table) == [*contract.input_names, contract.target.name] and len(table) == 300
        assert set(table["sex"]) == {"Male", "Female"}
        assert set(table[contract.target.name]) == set(contract.target.labels)


def test_prefect_reads_its_settings_from_the_env_file(tmp_path):
    """Prefect reads its settings at import. In `make up` the secret file was read later."""
    address = f"http://127.0.0.1:{free_port()}/api"
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={address}\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training", "worker", "--server-wait-s", "0"]
    printed = run(*command, cwd=tmp_path, env=env, status=1)
    assert f"Prefect does not respond; got {address}." in printed and "Traceback" not in printed


def test_an_invalid_setting_is_named_and_the_exit_status_is_2(monkeypatch, capsys):
    monkeypatch.setenv("MAX_EVALS", "many")
    with pytest.raises(SystemExit) as caught:
        exit_with_message(lambda: main(["train"]))
    assert caught.value.code == 2
    assert "MAX_EVALS: got many" in capsys.readouterr().err


def test_invalid_census_files_end_in_one_message(tmp_path, monkeypatch):
    (tmp_path / "adult.data").write_text("39, State-gov\n", "utf-8")
    monkeypatch.setenv("CENSUS_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match="adult.data(.|\n)*CENSUS_DATA_DIR"):
        main(["train"])


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("--max-evals", "0", "got 0, expected greater than or equal to 1"),
        ("--timeout-s", "nan", "got nan, expected less than or equal to"),
        ("--recent-weight", "heavy", "got heavy, expected a valid number"),
    ],
)
def test_numbers_out_of_range_are_rejected_before_anything_starts(option, value, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", option, value])
    assert caught.value.code == 2
    assert f"argument {option}: {expected}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["promote", "abc", "--why", "x"], ["score", "a", "b", "--version", "abc"]]
)
def test_a_version_that_is_not_a_number_ends_in_one_message(command, tmp_path, monkeypatch):
    """The command once ended in a traceback: MLflow reports an invalid parameter."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database(tmp_path))
    with pytest.raises(SystemExit, match="^version: got abc, expected a version in MLflow"):
        main(command)


@pytest.mark.parametrize(
    "command",
    [["history"], ["decisions"], ["rollback", "--why", "x"], ["promote", "1", "--why", "x"]],
)
def test_a_command_reports_its_wait_for_mlflow_and_gives_up(command, monkeypatch, capsys):
    """Commands were silent for minutes if a server accepted connections and never responded."""
    monkeypatch.setattr(ledger, "SAY_AFTER_S", 0.2)
    monkeypatch.setattr(ledger, "GIVE_UP_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(SystemExit, match=f"no response within 0.5 s; got {address}"):
            main(command)
    assert f"waiting for MLflow at {address}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError, OSError])  # of Python 3.11, and of 3.13
def test_commands_run_under_a_user_id_without_a_name(error, tmp_path, monkeypatch, capsys):
    """Every command failed in a container with such a user id. An MLflow run needs a name too."""

    def find_no_name(_: int) -> None:
        raise error("uid not found")

    monkeypatch.setattr("pwd.getpwuid", find_no_name)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database(tmp_path))
    main(["history"])
    with Registry(mlflow_database(tmp_path)).run("a training", {}, {}) as run_id:
        assert run_id
    with pytest.raises(SystemExit):
        main(["promote", "--help"])
    assert f"(default: {os.getuid()})" in capsys.readouterr().out


@pytest.mark.parametrize("is_bucket", [False, True])
def test_forget_reports_that_a_bucket_may_keep_removed_objects(is_bucket, monkeypatch, capsys):
    folder = SimpleNamespace(is_bucket=is_bucket, address="gs://income/store")
    store = SimpleNamespace(folder=folder, forget=lambda _: 1)
    monkeypatch.setattr("training.commands.data.open_store", lambda: store)
    main(["forget", "p1"])
    printed = capsys.readouterr().out
    assert "training store: 1 row removed" in printed
    assert ("gs://income/store: if the bucket has soft delete" in printed) == is_bucket


@pytest.fixture
def flow_runs(monkeypatch):
    """Return the arguments of each call of the flow, which is replaced. The census files exist."""
    runs = []
    monkeypatch.setattr("training.commands.train.train", lambda **given: runs.append(given) or {})
    monkeypatch.setattr("training.commands.train.find_prefect", lambda: "")
    monkeypatch.setattr("training.commands.train.read_files", lambda *_: {})
    return runs


def test_the_flags_of_train_reach_the_flow(flow_runs):
    main(["train"])
    main(
        "train --data synthetic --max-evals 3 --timeout-s 4.5 --folds 6 --seed 7 --force --engine"
        " spark --spark-master local[2] --with-feedback --without-store --recent-weight 8".split()
    )
    plain, given = flow_runs
    assert given == {
        "data": "synthetic",
        "max_evals": 3,
        "timeout_s": 4.5,
        "n_folds": 6,
        "seed": 7,
        "force": True,
        "spark_master": "local[2]",
        "with_store": False,
        "with_feedback": True,
        "recent_weight": 8.0,
    }
    assert plain.keys() == given.keys() and not plain.items() & given.items()


def test_auto_uses_synthetic_rows_and_warns_only_without_files(flow_runs, monkeypatch, capsys):
    """Invalid files are an error, not a reason to train on other rows."""

    def read_files(*_):
        raise found

    main(["train", "--data", "auto"])
    assert "SYNTHETIC DATA" not in capsys.readouterr().err
    monkeypatch.setattr("training.commands.train.read_files", read_files)
    found = SourceUnavailable("nothing could be downloaded")
    main(["train", "--data", "auto"])
    said = capsys.readouterr().err
    assert "nothing could be downloaded" in said and "SYNTHETIC DATA" in said
    with pytest.raises(SystemExit):
        main(["train", "--data", "uci"])
    found = SourceError("adult.data: another checksum")
    with pytest.raises(SystemExit, match="adult.data: another checksum"):
        main(["train", "--data", "auto"])
    assert "SYNTHETIC DATA" not in capsys.readouterr().err
    assert [given["data"] for given in flow_runs] == ["uci", "synthetic"]


@pytest.fixture
def other_table(tmp_path, monkeypatch) -> Path:
    """Return the folder of another table's contract and description; its rows are missing."""
    (tmp_path / "features.yaml").write_text(
        "target: {name: repaid, negative: 'yes', positive: 'no', description: whether not repaid}\n"
        "features: [{name: amount, kind: integer, minimum: 0, maximum: 9, description: amount}]\n",
        encoding="utf-8",
    )
    (tmp_path / "source.yaml").write_text(
        "name: loans\naddress: rows\nfiles: {loans.csv: ''}\nsplit: {by: hash}\n", encoding="utf-8"
    )
    monkeypatch.setenv("CONTRACT", str(tmp_path / "features.yaml"))
    monkeypatch.setenv("CENSUS_DATA_DIR", str(tmp_path / "none"))
    return tmp_path


@pytest.mark.parametrize(
    "data, message",
    [
        ("auto", "rows/loans.csv: No such file or directory. Check `address`"),
        ("loans", "rows/loans.csv: No such file or directory. Check `address`"),
        ("uci", r"data: got uci, expected source, loans \(its name\), synthetic or auto"),
        (
            "synthetic",
            "synthetic rows: column.s. age, amount, .*synthetic rows exist for the census",
        ),
    ],
)
@pytest.mark.usefixtures("other_table")
def test_another_table_is_read_from_its_source_or_ends_in_one_message(data, message):
    """`train` once downloaded the census from UCI, used synthetic rows and ended in a traceback."""
    with pytest.raises(SystemExit, match=message):
        main(["train", "--data", data])


def test_another_tables_flow_gets_the_name_of_its_source(flow_runs, other_table):
    assert (other_table / "source.yaml").exists()
    main(["train"])
    main(["train", "--data", "auto"])
    assert [given["data"] for given in flow_runs] == ["loans", "loans"]


def test_unless_production_trains_only_before_the_first_promotion(flow_runs, monkeypatch, capsys):
    version = None
    registry = SimpleNamespace(production=lambda: version)
    monkeypatch.setattr("training.commands.train.open_registry", lambda: registry)
    main(["train", "--unless-production"])
    version = SimpleNamespace(version="3")
    main(["train", "--unless-production"])
    assert "version 3 is in production: nothing to do" in capsys.readouterr().out
    assert len(flow_runs) == 1
    main(["train"])
    assert len(flow_runs) == 2


def test_without_prefect_one_message_names_the_setting():
    address = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(SystemExit) as caught:
        main(["worker", "--server-wait-s", "0"])
    assert f"PREFECT_API_URL: Prefect does not respond; got {address}" in str(caught.value.code)
