"""Settings: typed, with every problem reported at once."""

import msgspec
import pytest

from config.runtime.settings import SettingsError, check_folder, exit_with_message, read_settings
from prediction_service.settings import Settings


class Example(msgspec.Struct):
    """Three settings of the kinds in use."""

    address: str
    port: int = 9696
    sync: bool = False


def test_variables_are_read_by_upper_case_name_and_converted():
    settings = read_settings(Example, {"ADDRESS": "a", "PORT": "1", "SYNC": "true", "OTHER": "x"})
    assert settings == Example("a", 1, True)


def test_an_empty_variable_takes_the_default():
    assert read_settings(Example, {"ADDRESS": "a", "PORT": ""}).port == 9696


def test_all_problems_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        read_settings(Example, {"PORT": "many"})
    assert "ADDRESS: not set" in str(caught.value) and "PORT=many" in str(caught.value)


def test_a_secret_is_not_shown_and_a_description_says_what_a_pattern_means():
    """An API key that was pasted in place of its hash stood in the logs, beside a regex."""
    wrong = {
        "API_KEY_HASHES": "planning=income_sesame",
        "PAGE_LINKS": "Grafana",
        "INSTANCE": "a/b",
        "WORKERS": "income:sesame@host",
        "PREDICTION_PORT": "0",
    }
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings, wrong)
    assert sorted(str(caught.value).splitlines()) == [
        "API_KEY_HASHES (its value is not shown): expected NAME=SHA256,NAME=SHA256, each as"
        " `python -m prediction_service.keys new NAME` prints it: the key itself does not belong"
        " here",
        "INSTANCE=a/b: expected letters, digits, '.', '_' and '-', a letter or digit first",
        "PAGE_LINKS=Grafana: expected NAME=PORT or NAME=PORT/PATH, separated by commas",
        "PREDICTION_PORT=0: Expected `int` >= 1",
        "WORKERS (its value is not shown): Expected `int`, got `str`",
    ]


def test_a_folder_that_cannot_be_used_is_named_with_its_setting(tmp_path):
    check_folder("WINDOW_DIR", tmp_path / "new" / "window")
    assert not list((tmp_path / "new" / "window").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError) as caught:
        check_folder("WINDOW_DIR", tmp_path / "file" / "window")
    assert f"WINDOW_DIR={tmp_path}/file/window: Not a directory; name" in str(caught.value)


def test_what_the_system_refuses_is_one_line_and_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        exit_with_message((tmp_path / "no" / "such").touch)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "no" / "such") in said and len(said.splitlines()) == 1
