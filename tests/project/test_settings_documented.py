"""Every setting is in the README's table, with its default, and nothing else is."""

import re
from pathlib import Path

import msgspec
import pytest

from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from training.settings import Settings as TrainingSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
KINDS = [TrainingSettings, PredictionSettings, EvidentlySettings, GeneratorSettings]
# The default cell by setting.
DOCUMENTED = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) ?\|", README, re.M))


def fields(kind) -> dict[str, str]:
    """The default by setting, as the table writes it."""
    found = {}
    for field in msgspec.structs.fields(kind):
        value = "" if field.default in (msgspec.NODEFAULT, None) else str(field.default)
        found[field.name.upper()] = f"`{value.removeprefix(f'{ROOT}/')}`" if value else ""
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_documented_with_its_default(kind):
    found = fields(kind)
    if kind is PredictionSettings:
        found["EVIDENTLY_ADDRESS"] = DOCUMENTED["EVIDENTLY_ADDRESS"]  # the row says it in words
    for name, default in found.items():
        assert DOCUMENTED.get(name) == default, name


def test_every_documented_setting_exists():
    known = set()
    for kind in KINDS:
        known |= set(fields(kind))
    assert DOCUMENTED.keys() - known == set()
