"""The settings of the workers, the follower, the relay and the journal's command."""

import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from config.api_keys import KeyHashes
from config.logs import LogFormat

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
FolderName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="letters, digits, '.', '_' and '-', a letter or digit first",
    ),
]
PageLinks = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\w+=\d+[\w./-]*(,|$))*$",
        description="NAME=PORT or NAME=PORT/PATH, separated by commas",
    ),
]
MegaBytes = Annotated[int, msgspec.Meta(ge=64)]  # of which a file of 1/64 is a worker's, always


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable per field, in capitals; relative paths start at the work folder."""

    # The server: address, port and number of processes; seconds that a stopping process may take to
    # finish. A client that holds an idle connection makes gunicorn wait for all of that time.
    bind_address: str = "127.0.0.1"
    prediction_port: Port = 9696
    workers: Count = 2
    graceful_timeout_s: Count = 3

    # Seconds from the end of a request's head to the last byte of its response; then the connection
    # is closed. Larger bodies and longer lists are rejected with 413.
    request_timeout_s: Seconds = 10.0
    max_body_bytes: Count = 1_000_000
    max_records: Count = 1000

    # Who may ask: NAME=SHA256,NAME=SHA256 (`python -m prediction_service.keys new NAME`). Empty:
    # everyone. Labels of callers who are not in it do not train.
    api_key_hashes: KeyHashes = ""

    # What the page at / links to, on the host that the browser asked: NAME=PORT or NAME=PORT/PATH.
    page_links: PageLinks = "MLflow=5000,Prefect=4200,Drift=3000"

    # Log lines, of all processes; log_requests: one for each request.
    log_format: LogFormat = "text"
    log_requests: bool = True

    # Where the follower leaves checked models, and how often a worker looks for a new one.
    model_dir: str = "var/model"
    model_check_s: Seconds = 1.0

    # The follower: the registry and how often it is asked. A run's id pins that run's model.
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"
    model_run_id: str = ""
    follow_period_s: Seconds = 5.0

    # The journal: each host or container is an instance with a folder of its own.
    journal_dir: str = "var/journal"
    instance: FolderName = msgspec.field(default_factory=socket.gethostname)
    # normal: an answer survives the death of any process. full: and of the machine's power,
    # at the price of a disk flush per request.
    journal_sync: Literal["normal", "full"] = "normal"
    # The bound of all files in JOURNAL_DIR; beyond it /predict and /feedback answer 503.
    journal_max_mb: MegaBytes = 2000
    # How old a row that every sink has must be to be removed, and up to as long again: workers
    # begin another file so often, and files go as a whole. Without MongoDB rows stay for good.
    journal_retention_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0

    # The sinks; an empty address leaves one out. A TTL of 0 keeps documents for good.
    mongodb_address: str = ""
    mongodb_password: str = ""  # of the address's user, kept out of the address
    mongodb_database: str = "income"
    mongodb_ttl_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    evidently_address: str = ""
    sink_timeout_s: Seconds = 10.0

    # The relay: a batch leaves when it is full or when this old; the longest pause after
    # failures; how long it may go on shipping after TERM.
    relay_batch_rows: Count = 500
    relay_batch_age_s: Seconds = 1.0
    relay_backoff_max_s: Seconds = 30.0
    relay_drain_s: Seconds = 10.0

    # What the follower and the relay touch with each round of their work, for a health check.
    heartbeat_file: str = ""

    @property
    def model_path(self) -> Path:
        """The folder of checked models."""
        return Path(self.model_dir)

    @property
    def journal_path(self) -> Path:
        """The folder of all instances' journals."""
        return Path(self.journal_dir)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the configured sinks."""
        addresses = {"mongodb": self.mongodb_address, "evidently": self.evidently_address}
        return tuple(name for name, address in addresses.items() if address)
