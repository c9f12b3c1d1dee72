"""Turn off the libraries' own telemetry, before any of them is imported.

Each part's `__init__` calls `turn_off`, so that it holds for every entry point.
"""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",  # Evidently, Prefect
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime; it also stores a device id in the home folder
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The pages of its second interface ask an analytics host from the browser, switched off or not.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
}


def turn_off() -> None:
    """Set every switch that the environment does not set."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
