"""`python -m training`: what it writes, and how it fails."""

import json

import pandas as pd
import pytest

from config.settings import exit_on_settings_error
from training.__main__ import main


def test_synthesize_writes_rows_that_the_service_accepts(contract, tmp_path, capsys):
    out = tmp_path / "rows" / "synthetic.jsonl"
    main(["synthesize", "--rows", "300", "--seed", "5", "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == 300 and {row["label"] for row in rows} == {0, 1}
    assert all(contract.check(row["record"]) == [] for row in rows)
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("name, read", [("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)])
def test_synthesize_writes_tables(contract, tmp_path, name, read):
    main(["synthesize", "--rows", "300", "--out", str(tmp_path / name)])
    rows = read(tmp_path / name)
    assert list(rows) == [*contract.input_names, contract.target.name] and len(rows) == 300
    assert set(rows["sex"]) == {"Male", "Female"} and set(rows[contract.target.name]) == {0, 1}


def test_a_wrong_setting_is_named_and_exit_status_2(monkeypatch, capsys):
    monkeypatch.setenv("MAX_EVALS", "many")
    with pytest.raises(SystemExit) as caught:
        exit_on_settings_error(lambda: main(["train"]))
    assert caught.value.code == 2
    assert "MAX_EVALS=many" in capsys.readouterr().err


def test_census_files_that_are_wrong_end_in_one_clear_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "adult.data").write_text("39, State-gov\n", "utf-8")
    monkeypatch.setenv("CENSUS_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main(["train"])
    assert caught.value.code == 1
    assert "adult.data" in (said := capsys.readouterr().err) and "CENSUS_DATA_DIR" in said
