"""Settings: typed, with every problem reported at once."""

import msgspec
import pytest

from config.settings import SettingsError, read_settings


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
