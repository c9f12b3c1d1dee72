"""No part sends telemetry, whichever of its modules is imported first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.runtime.telemetry import SWITCHES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module",
    ["training.model.onnx_export", "training.retraining.watch", "prediction_service.predict.model"]
    + ["prediction_service.models.registry", "evidently_service.measure.drift"]
    + ["evidently_service.reference.registry"],
)
def test_every_switch_is_set_and_the_home_folder_stays_empty(module, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    env |= {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    env |= {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    code = f"import json, os, {module}; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert SWITCHES.items() <= json.loads(done.stdout).items()
    left = {path.name for path in tmp_path.iterdir()} - {"prefect", "matplotlib"}
    assert not left


def test_the_callers_own_switch_wins(monkeypatch):
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    done = subprocess.run(
        [sys.executable, "-c", "import os, prediction_service; print(os.environ['DO_NOT_TRACK'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "0\n"
