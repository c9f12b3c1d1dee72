"""No part sends telemetry, whichever of its modules is imported first."""

import json
import os
import sys

import pytest

from config.runtime.telemetry import SWITCHES
from tests.conftest import run


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["training.retraining.watch", "prediction_service.predict.model"]
    + ["evidently_service.measure.drift"],
)
def test_every_switch_is_set_and_the_home_folder_stays_empty(module, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    env |= {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    env |= {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    code = f"import json, os, {module}; print(json.dumps(dict(os.environ)))"
    found = run(sys.executable, "-W", "ignore", "-c", code, env=env)
    assert SWITCHES.items() <= json.loads(found).items()
    left = {path.name for path in tmp_path.iterdir()} - {"prefect", "matplotlib"}
    assert not left


def test_a_switch_of_the_caller_is_not_changed(monkeypatch):
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    code = "import os, prediction_service; print(os.environ['DO_NOT_TRACK'])"
    assert run(sys.executable, "-c", code) == "0\n"
