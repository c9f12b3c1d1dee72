"""Every setting is in the README's table, with its default."""

from pathlib import Path

import msgspec
import pytest

from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from training.settings import Settings as TrainingSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "kind", [TrainingSettings, PredictionSettings, EvidentlySettings, GeneratorSettings]
)
def test_every_setting_is_documented_with_its_default(kind):
    undocumented = []
    for field in msgspec.structs.fields(kind):
        value = "" if field.default in (msgspec.NODEFAULT, None) else str(field.default)
        default = f"`{value.removeprefix(f'{ROOT}/')}`" if value else ""
        rows = [
            line for line in README.splitlines() if line.startswith(f"| `{field.name.upper()}` |")
        ]
        if not any(default in row for row in rows):
            undocumented.append(f"{field.name.upper()} {default}")
    assert not undocumented
