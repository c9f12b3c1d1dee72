"""Settings of the Evidently service: its web workers, the measure process and the shadow."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from config.contract import contract_path
from config.runtime.api_keys import ANONYMOUS_DESCRIPTION, KeyHashes
from config.runtime.cross_site import HOSTS_DESCRIPTION, TrustedHosts
from config.runtime.logs import LogFormat, LogLevel
from config.runtime.settings import YEAR_S, BaseSettings, Count, Port, Seconds, Workers
from config.web import LINKS, LINKS_DESCRIPTION, PageLinks


class Settings(BaseSettings):
    """Settings of all three processes. Relative paths start at the working folder."""

    bind_address: str = Field("127.0.0.1", description="Address that the service listens on.")
    evidently_port: Port = Field(3000, description="Port of the Evidently service.")
    evidently_workers: Workers = Field(2, description="Worker processes of the Evidently service.")
    evidently_max_body_bytes: Count = Field(
        16_000_000,
        description="Maximum size in bytes of a batch that the relay posts. Larger: 413.",
    )
    evidently_key_hashes: KeyHashes = Field(
        "",
        description="Senders of predictions and labels with their key's hash, `NAME=SHA256`, as"
        " printed by `python -m prediction_service.keys new relay`. Unset: no key is required.",
    )
    learn_anonymous_labels: bool = Field(False, description=ANONYMOUS_DESCRIPTION)
    trusted_hosts: TrustedHosts = Field("", description=HOSTS_DESCRIPTION)
    page_links: PageLinks = Field(LINKS, description=LINKS_DESCRIPTION)
    window_dir: str = Field(
        "var/window", description="Folder of the window, the cached reference data and the reports."
    )
    monitoring_file: str = Field(
        "",
        description="File with drift tests by column, window sizes and the false-alarm budget."
        " Unset: `monitoring.yaml` beside the contract. Without that file, values have defaults.",
    )
    measure_period_s: Seconds | None = Field(
        None, description="Seconds between two measurements. Unset: as in MONITORING_FILE."
    )
    judge_period_s: Annotated[float, Field(ge=0, le=YEAR_S)] | None = Field(
        None,
        description="Minimum seconds between two judged windows. Unset: as in MONITORING_FILE."
        " A shorter time gives more false alarms; 0 judges every full window.",
    )
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", description="Address of MLflow, the source of the reference data."
    )
    log_level: LogLevel = Field("INFO", description="Minimum level of a log line.")
    log_format: LogFormat = Field("text", description="Form of a log line, `text` or `json`.")
    heartbeat_file: str = Field(
        "",
        description="File that the measure process or the shadow touches in each round, for health"
        " checks.",
    )

    @property
    def monitoring_path(self) -> Path | None:
        """The monitoring file; None if the setting is unset and the contract has none beside it."""
        if self.monitoring_file:
            return Path(self.monitoring_file)
        beside = contract_path().with_name("monitoring.yaml")
        return beside if beside.exists() else None

    @property
    def window_path(self) -> Path:
        """The SQLite file of the window."""
        return Path(self.window_dir) / "window.db"

    @property
    def reference_dir(self) -> Path:
        """The folder of the cached reference data."""
        return Path(self.window_dir) / "reference"

    @property
    def report_dir(self) -> Path:
        """The folder of the HTML reports."""
        return Path(self.window_dir) / "reports"
