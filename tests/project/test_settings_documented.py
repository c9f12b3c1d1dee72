"""Every setting has a description in docs/configuration.md, and every number has limits."""

import sys
from typing import get_args

import pytest

from config.contract import ContractSettings
from config.runtime.settings import BaseSettings, SettingsError, read_settings
from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from tests.conftest import run
from training.settings import Settings as TrainingSettings

KINDS = [
    ContractSettings,
    TrainingSettings,
    PredictionSettings,
    EvidentlySettings,
    GeneratorSettings,
]


def test_the_page_is_up_to_date():
    run(sys.executable, ".ci/write_configuration", "--check")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_description(kind: type[BaseSettings]):
    missing = [name for name, field in kind.model_fields.items() if not field.description]
    assert not missing


def is_number(default: object, annotation: object) -> bool:
    """Return True for a setting that is a number, or unset."""
    kinds = {annotation, *get_args(annotation)}
    return isinstance(default, int | float | None) and bool(kinds & {int, float})


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_minimum_and_a_maximum(kind: type[BaseSettings], monkeypatch):
    """A period of `inf` or an age of 10,000 years once ended in a traceback."""
    numbers = [
        name
        for name, field in kind.model_fields.items()
        if is_number(field.default, field.annotation)
    ]
    for value in ("-1", str(10**15), "inf", "nan"):
        for name in numbers:
            monkeypatch.setenv(name.upper(), value)
        reported = []
        if numbers:
            with pytest.raises(SettingsError) as caught:
                read_settings(kind)
            reported = [line.partition(":")[0] for line in str(caught.value).splitlines()]
        assert reported == [name.upper() for name in numbers], value
