"""Nothing is sent home: the libraries' own switches, set before any of them is imported.

Each part's `__init__` calls `turn_off`, so that it holds for every way to start a part.
"""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",  # Evidently, Prefect
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, which also keeps a device id in the home folder
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def turn_off() -> None:
    """Sets every switch that the environment does not set itself."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
