"""Settings: typed, from the environment, `.env` and secret files, with every problem at once."""

import os
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from config.runtime import settings as settings_module
from config.runtime.settings import (
    BaseSettings,
    SettingsError,
    check_folder,
    exit_with_message,
    load_environment,
    read_settings,
)
from prediction_service.settings import Settings
from tests.conftest import ROOT, run


class Example(BaseSettings):
    """Settings of the kinds in use."""

    address: str
    port: int = 9696
    sync: bool = False
    password: SecretStr = Field(SecretStr(""))


def test_variables_are_read_by_upper_case_name_and_converted(monkeypatch):
    for name, value in {"ADDRESS": "a", "PORT": "1", "SYNC": "true", "OTHER": "x"}.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(Example)
    assert (settings.address, settings.port, settings.sync) == ("a", 1, True)


def test_an_empty_variable_takes_the_default(monkeypatch):
    monkeypatch.setenv("ADDRESS", "a")
    monkeypatch.setenv("PORT", "")
    assert read_settings(Example).port == 9696


def test_all_problems_are_reported_at_once(monkeypatch):
    monkeypatch.setenv("PORT", "many")
    with pytest.raises(SettingsError) as caught:
        read_settings(Example)
    assert str(caught.value).splitlines() == [
        "ADDRESS: not set; expected a value. Set it in the environment or in .env.",
        "PORT: got many, expected a valid integer",
    ]


def test_a_secret_is_not_shown_and_a_pattern_is_explained_in_words(monkeypatch):
    """An API key in place of its hash once was logged, with a regular expression as the rule."""
    wrong = {
        "API_KEY_HASHES": "planning=income_sesame",
        "PAGE_LINKS": "Grafana",
        "INSTANCE": "a/b",
        "WORKERS": "income:sesame@host",
        "PREDICTION_PORT": "0",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings)
    assert sorted(str(caught.value).splitlines()) == [
        "API_KEY_HASHES: got a value that is not shown, expected NAME=SHA256,NAME=SHA256, each as"
        " printed by `python -m prediction_service.keys new NAME`. The key itself does not belong"
        " here.",
        "INSTANCE: got a/b, expected letters, digits, '.', '_' and '-', starting with a letter or a"
        " digit",
        "PAGE_LINKS: got Grafana, expected NAME=PORT or NAME=PORT/PATH, separated by commas",
        "PREDICTION_PORT: got 0, expected greater than or equal to 1",
        "WORKERS: got a value that is not shown, expected a valid integer",
    ]


def test_a_password_is_masked_where_settings_are_printed(monkeypatch):
    monkeypatch.setenv("ADDRESS", "a")
    monkeypatch.setenv("PASSWORD", "sesame")
    settings = read_settings(Example)
    assert "sesame" not in repr(settings)
    assert settings.password.get_secret_value() == "sesame"


def test_the_env_file_is_read_as_a_shell_reads_it(tmp_path):
    """A quoted value once kept its quotes, and a comment after a value was part of the value."""
    (tmp_path / ".env").write_text(
        'ADDRESS="it\'s # b"  # with a comment\nPORT=1 # a port\nexport SYNC="true"\n#OTHER=1\n'
    )
    script = 'import os; print(os.environ["ADDRESS"], os.environ["PORT"], os.environ["SYNC"])'
    python, shell = (sys.executable, "-c", script), 'set -a; . ./.env; exec "$0" "$@"'
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    ours = run(sys.executable, "-m", "config.runtime", *python, cwd=tmp_path, env=env)
    assert ours == run("sh", "-c", shell, *python, cwd=tmp_path) == "it's # b 1 true\n"


def test_the_environment_overrides_the_env_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("ADDRESS=file\nPORT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENV_FILE")
    monkeypatch.setenv("ADDRESS", "environment")
    monkeypatch.setenv("PORT", "")  # Compose sets unset variables so
    settings = read_settings(Example)
    assert (settings.address, settings.port) == ("environment", 1)


def test_a_secret_file_sets_its_variable(tmp_path, monkeypatch):
    """The folder of secret files is /run/secrets. The test uses another one."""
    path = tmp_path / "password"
    path.write_text("sesame\n")
    monkeypatch.setattr(settings_module, "SECRET_FOLDER", f"{tmp_path}/")
    monkeypatch.setenv("PASSWORD_FILE", str(path))
    load_environment()
    assert os.environ["PASSWORD"] == "sesame" and "PASSWORD_FILE" not in os.environ
    path.write_text("")
    monkeypatch.setenv("PASSWORD_FILE", str(path))
    with pytest.raises(SettingsError, match="PASSWORD_FILE: .*is empty. Run `make secrets`."):
        load_environment()


def test_an_unusable_folder_is_reported_with_its_setting(tmp_path):
    check_folder("WINDOW_DIR", tmp_path / "new" / "window")
    assert not list((tmp_path / "new" / "window").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError) as caught:
        check_folder("WINDOW_DIR", tmp_path / "file" / "window")
    assert f"WINDOW_DIR: Not a directory; got {tmp_path}/file/window, expected" in str(caught.value)


def test_a_system_error_prints_one_line_and_ends_with_status_1(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as caught:
        exit_with_message((tmp_path / "no" / "such").touch)
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert str(tmp_path / "no" / "such") in printed and len(printed.splitlines()) == 1
