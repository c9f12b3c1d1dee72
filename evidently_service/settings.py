"""The settings of the web workers and of the measure process."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from config.contract import CONTRACT_PATH
from config.runtime.logs import LogFormat

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable per field, in capitals; relative paths start at the work folder."""

    # The server: address, port, processes, and the largest body a relay may post.
    bind_address: str = "127.0.0.1"
    evidently_port: Port = 3000
    evidently_workers: Count = 2
    evidently_max_body_bytes: Count = 16_000_000

    # The window, the cached reference and the reports. Workers and measure share this folder.
    window_dir: str = "var/window"

    # Columns, tests, window sizes and the budget; the periods override the file's. Judging more
    # often than the file says gives more false alarms than it says: 0 judges every full window.
    monitoring_file: str = str(CONTRACT_PATH.with_name("monitoring.yaml"))
    measure_period_s: Seconds | None = None
    judge_period_s: Annotated[float, msgspec.Meta(ge=0)] | None = None

    # The registry whose production version brings the reference.
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"

    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"

    # What measure touches with each round of its work, for a health check.
    heartbeat_file: str = ""

    @property
    def window_path(self) -> Path:
        """The SQLite file of the window."""
        return Path(self.window_dir) / "window.db"

    @property
    def reference_dir(self) -> Path:
        """The folder of the cached reference."""
        return Path(self.window_dir) / "reference"

    @property
    def report_dir(self) -> Path:
        """The folder of the HTML reports."""
        return Path(self.window_dir) / "reports"
