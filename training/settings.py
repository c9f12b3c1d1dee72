"""Settings of the training part, read from the environment at its entry points."""

from pathlib import Path
from typing import Annotated

import msgspec

from config.runtime.api_keys import KeyHashes

# Five times `gate.MIN_ROWS`: of fewer the held-out ones are too few to judge even on average.
MinLabels = Annotated[int, msgspec.Meta(ge=1000, description="1000 or more, so that 200 can judge")]


class Settings(msgspec.Struct, frozen=True):
    """Where training finds its data and its registry; every field is a variable in upper case."""

    mlflow_tracking_uri: str = "http://127.0.0.1:5000"  # the MLflow server
    census_data_dir: str = ""  # a folder with adult.data and adult.test; unset: cache or download
    data_dir: str = "data"  # cache of downloads, the quarantine of rejected rows, ingested batches
    training_store: str = ""  # folder or gs:// address of ingested batches; unset: in DATA_DIR
    feed: str = ""  # folder or gs:// address where monthly batches arrive as YYYY-MM*.csv or .jsonl
    # The prediction log, for labelled production rows (`--with-feedback`).
    mongodb_address: str = ""
    mongodb_password: str = ""  # of the address's user, kept out of the address
    mongodb_database: str = "income"
    api_key_hashes: KeyHashes = ""  # the prediction service's; where set, only their labels train
    evidently_address: str = "http://127.0.0.1:3000"  # where `watch` asks for the drift verdict
    train_period_minutes: float | None = None  # scheduled training; unset: as in prefect.yaml
    watch_period_s: float | None = None  # how often `watch` asks; unset: as in prefect.yaml
    watch_cooldown_s: float = 3600  # least time between two trainings that drift started
    # Labelled rows of since the drift that no training has seen. One in five is held out to judge,
    # and up to one in five of those looks like a row of the census: fewer than the 200 that a
    # judge needs (`gate.MIN_ROWS`) are left of 1,500 once in 500 times, of 1,000 nearly always.
    watch_min_labels: MinLabels = 1500
    watch_budget: int = 8  # most trainings that drift starts in 30 days
    # Training runs older than this are removed; 0 keeps them.
    run_retention_days: Annotated[float, msgspec.Meta(ge=0)] = 90
    max_evals: int = 20  # trials of a search, where a command does not say
    # Where the worker keeps the code of the flows and what they return.
    flow_storage: str = "gs://income-artifacts/prefect"
    notify_url: str = ""  # where failed flow runs are told, as an Apprise address

    @property
    def census_folder(self) -> Path | None:
        """The folder that the caller named, if any."""
        return Path(self.census_data_dir) if self.census_data_dir else None

    @property
    def raw_dir(self) -> Path:
        """The cache of the downloaded census files."""
        return Path(self.data_dir) / "raw"

    @property
    def quarantine(self) -> Path:
        """Where census rows that break the contract are set aside."""
        return Path(self.data_dir) / "quarantine.jsonl"

    @property
    def batch_quarantine(self) -> Path:
        """The folder where those of ingested batches are, a file for each batch."""
        return Path(self.data_dir) / "quarantine"

    @property
    def store_address(self) -> str:
        """Where ingested batches are kept: a gs:// address, or a path from the root on."""
        return absolute(self.training_store or f"{self.data_dir}/store")

    @property
    def feed_address(self) -> str:
        """Where batches arrive, likewise, or nothing."""
        return absolute(self.feed) if self.feed else ""


def absolute(address: str) -> str:
    """A gs:// address as it is; a path from the root on."""
    return address if "://" in address else str(Path(address).resolve())
