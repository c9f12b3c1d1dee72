"""Settings of the training part, read from the environment at its entry points."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from config.contract import contract_path
from config.runtime.api_keys import ANONYMOUS_DESCRIPTION, KeyHashes
from config.runtime.settings import YEAR_S, BaseSettings, Port

# Limits of settings, of options and of the training flow's parameters.
MaxEvals = Annotated[int, Field(ge=1, le=10_000)]
FoldCount = Annotated[int, Field(ge=2, le=100)]
TimeoutS = Annotated[float, Field(ge=0, le=YEAR_S)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # as NumPy's
Share = Annotated[float, Field(ge=0, le=1)]
MAX_REJECTED = 0.01  # share of the rows of a scored batch
MAX_REJECTED_INGESTED = 0.05  # share of the rows of an ingested batch
Weight = Annotated[float, Field(ge=1, le=1000)]


class Settings(BaseSettings):
    """Addresses of data and registry, and limits of trainings."""

    mlflow_tracking_uri: str = Field("http://127.0.0.1:5000", description="Address of MLflow.")
    source: str = Field(
        "",
        description="The description of the rows' source: a YAML file. Unset: `source.yaml` beside"
        " the contract.",
    )
    census_data_dir: str = Field(
        "",
        description="Folder with `adult.data` and `adult.test`. Unset: the cache, else a download.",
    )
    data_dir: str = Field(
        "data",
        description="Folder of downloaded files, quarantined rows and ingested batches.",
    )
    training_store: str = Field(
        "",
        description="Folder or `gs://bucket/folder` of ingested batches. Unset: `store` in"
        " DATA_DIR.",
    )
    feed: str = Field(
        "",
        description="Folder or `gs://bucket/folder` where batches arrive as `YYYY-MM*.csv`,"
        " `.parquet` or `.jsonl`. Prefect ingests new ones on the second of each month.",
    )
    mongodb_address: str = Field(
        "", description="Address of the prediction log in MongoDB, for `--with-feedback`."
    )
    mongodb_password: SecretStr = Field(
        SecretStr(""), description="Password of the user in MONGODB_ADDRESS."
    )
    mongodb_database: str = Field("income", description="Database of the prediction log.")
    api_key_hashes: KeyHashes = Field(
        "",
        description="The prediction service's API_KEY_HASHES. Only labels of these callers are used"
        " for training.",
    )
    learn_anonymous_labels: bool = Field(False, description=ANONYMOUS_DESCRIPTION)
    labels_per_caller_day: Annotated[int, Field(ge=1, le=10**9)] = Field(
        2000,
        description="Maximum number of labels that one caller's day adds to a training: the first"
        " ones of the day.",
    )
    prediction_address: str = Field(
        "http://127.0.0.1:9696",
        description="Where `promote` and `rollback` ask for the served version, and `watch` for the"
        " error rate and latency of a new one.",
    )
    evidently_address: str = Field(
        "http://127.0.0.1:3000",
        description="Where `watch` asks for the drift verdict and the shadow test, and `promote`"
        " for the version.",
    )
    promotion: Literal["shadow", "direct", "ask"] = Field(
        "shadow",
        description="What becomes of a version that passes the gate. `shadow`: the monitoring"
        " scores it beside production, and it is promoted once labels show that it is better."
        " `ask`: the same, but a person promotes it. `direct`: it is promoted at once.",
    )
    train_period_minutes: Annotated[float, Field(ge=1, le=YEAR_S / 60)] | None = Field(
        None, description="Period of scheduled training. Unset: 240 minutes, as in prefect.yaml."
    )
    watch_period_s: Annotated[float, Field(ge=1, le=YEAR_S)] | None = Field(
        None, description="Period of `watch`. Unset: 30 seconds, as in prefect.yaml."
    )
    watch_cooldown_s: Annotated[float, Field(ge=0, le=YEAR_S)] = Field(
        3600,
        description="Minimum time between two trainings that drift starts. It doubles after each"
        " one that was not promoted.",
    )
    # One labelled row in five is a holdout row. Up to one in five of those equals a training row
    # and is dropped. Of 1,500 labels fewer than `gate.MIN_ROWS` (200) holdout rows remain once in
    # 500 times, of 1,000 nearly always.
    watch_min_labels: Annotated[int, Field(ge=1000, le=10**9)] = Field(
        1500,
        description="Minimum number of new labelled rows before drift starts a training. At least"
        " 1000: fewer leave too few holdout rows for the gate.",
    )
    watch_budget: Annotated[int, Field(ge=0, le=10_000)] = Field(
        8, description="Maximum number of trainings that drift starts in 30 days."
    )
    run_retention_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        90,
        description="Age at which a training run is removed with its artifacts. The runs of the"
        " production version, its predecessor, the challenger, the fallback and the newest five"
        " stay. 0 keeps all.",
    )
    model_run_id: str = Field(
        "",
        description="The prediction service's MODEL_RUN_ID: the training run that it serves."
        " Retention keeps it.",
    )
    max_evals: MaxEvals = Field(20, description="Trials of a hyperparameter search.")
    search_start: bool = Field(
        True, description="Whether a search begins with `start` of `search.yaml`, if it has one."
    )
    flow_storage: str = Field(
        "gs://income-artifacts/prefect",
        description="Bucket folder of the flows' code and results.",
    )
    metrics_port: Port | None = Field(
        None, description="Port of the worker's Prometheus metrics. Unset: none."
    )
    notify_url: str = Field(
        "",
        description="Where failed flow runs are reported, as an"
        " [Apprise](https://github.com/caronc/apprise) address.",
    )

    @property
    def source_path(self) -> Path:
        """The description of the rows' source."""
        return Path(self.source) if self.source else contract_path().with_name("source.yaml")

    @property
    def census_folder(self) -> Path | None:
        """The folder of CENSUS_DATA_DIR, if set."""
        return Path(self.census_data_dir) if self.census_data_dir else None

    @property
    def raw_dir(self) -> Path:
        """The cache of downloaded files, one folder a source."""
        return Path(self.data_dir) / "raw"

    @property
    def batch_quarantine(self) -> Path:
        """The folder of quarantined batch rows, one file a batch."""
        return Path(self.data_dir) / "quarantine"

    @property
    def store_address(self) -> str:
        """The training store: a gs:// address or an absolute path."""
        return absolute(self.training_store or f"{self.data_dir}/store")

    @property
    def feed_address(self) -> str:
        """The feed: a gs:// address, an absolute path, or an empty text."""
        return absolute(self.feed)


def absolute(address: str) -> str:
    """Return a gs:// address and an empty text unchanged, and a path as an absolute one."""
    return address if "://" in address or not address else str(Path(address).resolve())
