"""Settings of the web workers, the follower, the relay and the journal's command."""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from config.runtime.api_keys import ANONYMOUS_DESCRIPTION, KeyHashes
from config.runtime.cross_site import HOSTS_DESCRIPTION, TrustedHosts
from config.runtime.logs import LogFormat, LogLevel
from config.runtime.settings import (
    YEAR_S,
    BaseSettings,
    Count,
    Port,
    Seconds,
    Workers,
    matching,
)
from config.web import LINKS, LINKS_DESCRIPTION, PageLinks

FolderName = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*",
        "letters, digits, '.', '_' and '-', starting with a letter or a digit",
    ),
]

MAX_TTL_S = 2**31 - 1  # of MongoDB


class Settings(BaseSettings):
    """What all processes of the service share; relative paths start at the work folder."""

    bind_address: str = Field("127.0.0.1", description="Address that the service listens on.")
    prediction_port: Port = Field(9696, description="Port of the prediction service.")
    workers: Workers = Field(2, description="Worker processes.")
    graceful_timeout_s: Annotated[int, Field(ge=1, le=YEAR_S)] = Field(
        3,
        description="How long a stopping worker may finish its requests. An idle connection makes"
        " gunicorn wait for all of this time.",
    )
    request_timeout_s: Seconds = Field(
        10.0,
        description="Time from the end of a request's head to the last byte of its response. Then"
        " the connection is closed.",
    )
    max_body_bytes: Count = Field(1_000_000, description="Maximum size of a request. Larger: 413.")
    max_records: Count = Field(1000, description="Maximum number of records in a request.")
    api_key_hashes: KeyHashes = Field(
        "",
        description="Callers with their key's hash, `NAME=SHA256,NAME=SHA256`, as printed by"
        " `python -m prediction_service.keys new NAME`. Unset: no key is required.",
    )
    learn_anonymous_labels: bool = Field(False, description=ANONYMOUS_DESCRIPTION)
    trusted_hosts: TrustedHosts = Field("", description=HOSTS_DESCRIPTION)
    page_links: PageLinks = Field(LINKS, description=LINKS_DESCRIPTION)
    log_level: LogLevel = Field("INFO", description="Minimum level of a log line.")
    log_format: LogFormat = Field("text", description="Form of a log line, `text` or `json`.")
    log_requests: bool = Field(True, description="Log one line for each request.")

    model_dir: str = Field("var/model", description="Folder of the models that passed all checks.")
    model_check_s: Seconds = Field(
        1.0, description="How often a worker looks for a new model in MODEL_DIR."
    )
    mlflow_tracking_uri: str = Field("http://127.0.0.1:5000", description="Address of MLflow.")
    model_run_id: str = Field(
        "", description="Serve the model of this training run instead of `production`."
    )
    follow_period_s: Seconds = Field(
        5.0, description="How often the follower asks MLflow for the production version."
    )

    journal_dir: str = Field("var/journal", description="Folder of the journals of all instances.")
    instance: FolderName = Field(
        default_factory=socket.gethostname,
        description="Name of this host or container. Unset: its host name.",
    )
    journal_sync: Literal["normal", "full"] = Field(
        "normal",
        description="`normal` survives the death of any process, and a power failure loses about a"
        " second. `full` loses nothing and flushes the disk for each request.",
    )
    # A file is 1/64 of the maximum, and at least 1 MB.
    journal_max_mb: Annotated[int, Field(ge=64, le=10**8)] = Field(
        2000, description="Maximum size of all journals. Beyond it, predictions get 503."
    )
    journal_retention_s: Annotated[float, Field(ge=0, le=10 * YEAR_S)] = Field(
        3600.0,
        description="Minimum age of a delivered row before deletion. Files are deleted whole, so a"
        " row may stay up to twice as long. If the journals reach half of JOURNAL_MAX_MB,"
        " delivered rows are deleted earlier, and rows that only the Evidently service lacks are"
        " dropped. Without MongoDB rows stay.",
    )

    mongodb_address: str = Field(
        "",
        description="MongoDB, `mongodb://USER@HOST:PORT`. Unset: the journal is the only store.",
    )
    mongodb_password: SecretStr = Field(
        SecretStr(""), description="Password of the user in MONGODB_ADDRESS."
    )
    mongodb_database: str = Field("income", description="Database of the predictions.")
    mongodb_ttl_s: Annotated[int, Field(ge=0, le=MAX_TTL_S)] = Field(
        0, description="Age at which MongoDB deletes a prediction. 0 keeps all."
    )
    evidently_address: str = Field(
        "", description="Address of the Evidently service. Unset: nothing is sent to it."
    )
    evidently_api_key: SecretStr = Field(
        SecretStr(""),
        description="Key that the relay sends to the Evidently service. Its hash belongs in"
        " EVIDENTLY_KEY_HASHES there.",
    )
    evidently_sample: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of predictions that the Evidently service gets, with their labels. A"
        " hash of the prediction id decides. MongoDB gets all. Use one share for all instances.",
    )
    sink_timeout_s: Seconds = Field(
        10.0, description="Timeout of MongoDB and of the Evidently service."
    )
    relay_batch_rows: Count = Field(500, description="Maximum number of rows in a batch.")
    relay_batch_age_s: Seconds = Field(1.0, description="Maximum age of a batch that is not full.")
    relay_backoff_max_s: Seconds = Field(
        30.0, description="Maximum pause between two attempts to reach a sink."
    )
    relay_drain_s: Seconds = Field(10.0, description="How long the relay goes on after SIGTERM.")
    heartbeat_file: str = Field(
        "",
        description="File that the follower and the relay touch in each round, for a health check.",
    )

    @property
    def model_path(self) -> Path:
        """The folder of checked models."""
        return Path(self.model_dir)

    @property
    def journal_path(self) -> Path:
        """The folder of all instances' journals."""
        return Path(self.journal_dir)

    @property
    def sinks(self) -> dict[str, float]:
        """The share of predictions that each configured sink gets, by its name."""
        mongodb = {"mongodb": 1.0} if self.mongodb_address else {}
        evidently = {"evidently": self.evidently_sample} if self.evidently_address else {}
        return mongodb | evidently
