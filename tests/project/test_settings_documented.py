"""docs/configuration.md holds every setting with its default and description."""

import subprocess
import sys

import pytest

from config.runtime.settings import BaseSettings
from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from tests.conftest import ROOT
from training.settings import Settings as TrainingSettings

KINDS = [TrainingSettings, PredictionSettings, EvidentlySettings, GeneratorSettings]


def test_the_page_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/write_configuration", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_description(kind: type[BaseSettings]):
    missing = [name for name, field in kind.model_fields.items() if not field.description]
    assert not missing
