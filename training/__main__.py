"""Commands of the training part: `python -m training --help`."""

import argparse
import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.contract import load_contract
from config.runtime.settings import exit_with_message, read_settings
from training.data.census import UCI, CensusError, CensusUnavailable, read_files, write_traffic
from training.data.feedback import FeedbackUnavailable
from training.data.storage import FilesUnavailable, open_folder
from training.data.batches import BatchRefused, forget_rejected, ingest
from training.registry.mlflow_registry import Promotion, Registry, RegistryUnavailable
from training.registry.retention import find_expired, listing, summary
from training.settings import Settings
from training.batch_scoring.spark import SparkUnavailable
from training.data.store import Store, StoreError
from training.data.synthetic import synthesize

EXPECTED = (
    CensusError,
    RegistryUnavailable,
    FilesUnavailable,
    StoreError,
    BatchRefused,
    FeedbackUnavailable,
    SparkUnavailable,
)
BANNER = """\
######################################################################
##  SYNTHETIC DATA: the real census files could not be fetched.     ##
##  Everything below runs on rows drawn from aggregate tables, and  ##
##  its figures say nothing about real people. To use the real      ##
##  files set CENSUS_DATA_DIR to a folder with adult.data and       ##
##  adult.test, then train again.                                   ##
######################################################################"""


def number(kind: Callable[[str], Any], least: float) -> Callable[[str], Any]:
    """What an option takes: a number of a kind that is not below `least`."""

    def read(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"got {text}, expected {least} or more")
        return value

    read.__name__ = kind.__name__  # argparse says it of what is no number
    return read


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train", help="one run of the training flow, in this process")
    run.add_argument(
        "--data",
        choices=["uci", "synthetic", "auto"],
        default="uci",
        help="auto: the real census, or synthetic rows where it cannot be fetched (uci)",
    )
    run.add_argument(
        "--unless-production", action="store_true", help="only if no version is in production"
    )
    run.add_argument(
        "--max-evals", type=number(int, 1), help="trials of the search (MAX_EVALS, else 20)"
    )
    run.add_argument(
        "--timeout-s", type=number(float, 0), help="seconds after which no trial is started"
    )
    run.add_argument("--folds", type=number(int, 2), default=5, help="cross-validation folds (5)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--force", action="store_true", help="train even if nothing is new")
    run.add_argument(
        "--engine", choices=["local", "spark"], default="local", help="where trials run (local)"
    )
    run.add_argument("--spark-master", default="local[*]", help="(%(default)s)")
    run.add_argument(
        "--with-feedback", action="store_true", help="labelled rows of MONGODB_ADDRESS join"
    )
    run.add_argument("--without-store", action="store_true", help="ingested batches do not join")
    run.add_argument(
        "--recent-weight",
        type=number(float, 1),
        default=1.0,
        help="of the newest rows that join, beside all others; 1 or more (1)",
    )
    take = commands.add_parser("ingest", help="add a batch of labelled rows to the training store")
    take.add_argument("file", help="a .csv or .jsonl, by its path or its gs:// address")
    take.add_argument(
        "--period",
        default=f"{datetime.now(UTC):%Y-%m}",
        help="the month that its rows are of (this one, %(default)s)",
    )
    erase = commands.add_parser("forget", help="remove a prediction from store and quarantine")
    erase.add_argument("prediction_id")
    work = commands.add_parser("worker", help="make the deployments, run what Prefect schedules")
    work.add_argument(
        "--with-healthcheck", action="store_true", help="answer on PREFECT_WORKER_WEBSERVER_PORT"
    )
    batch = commands.add_parser("score", help="score Parquet files with a registered version")
    batch.add_argument("source", help="a file or folder, on disk or gs://")
    batch.add_argument("output", help="a folder that is not there yet, on disk or gs://")
    batch.add_argument(
        "--version", default="", help="its number in MLflow (the production version)"
    )
    batch.add_argument("--engine", choices=["spark", "local"], default="spark")
    batch.add_argument("--spark-master", default="local[*]", help="(%(default)s)")
    batch.add_argument(
        "--max-rejected",
        type=number(float, 0),
        default=0.01,
        help="the share of rows that break the contract above which the exit status is 1 (0.01)",
    )
    promote = commands.add_parser("promote", help="make a version production")
    promote.add_argument("version", help="its number in MLflow")
    promote.add_argument("--force", action="store_true", help="also one that the gate kept back")
    rollback = commands.add_parser("rollback", help="make the version before production again")
    for command in (promote, rollback):
        command.add_argument("--why", required=True, help="kept in the history")
        command.add_argument("--who", default=getpass.getuser(), help="(%(default)s)")
    commands.add_parser("history", help="every time that production moved: when, who, why")
    commands.add_parser("decisions", help="what drift led to, and why it led to no training")
    let_go = commands.add_parser("retain", help="remove runs older than RUN_RETENTION_DAYS")
    let_go.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    draw = commands.add_parser("synthesize", help="draw synthetic census rows")
    draw.add_argument("--rows", type=number(int, 1), default=48842)
    draw.add_argument("--seed", type=int, default=0)
    draw.add_argument(
        "--out",
        type=Path,
        default=Path("build/synthetic.jsonl"),
        help=".jsonl for the generator, .csv or .parquet (build/synthetic.jsonl)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; an expected failure is one line on standard error."""
    options = parse(arguments)
    try:
        COMMANDS[options.command](options)
    except EXPECTED as err:
        print(err, file=sys.stderr)
        sys.exit(1)


def run_train(options: argparse.Namespace) -> None:
    """`train`: runs the flow and prints what came of it."""
    # pylint: disable=import-outside-toplevel  # Prefect takes seconds
    from training.orchestration.flows import train
    from training.orchestration.tasks import PrefectUnavailable, find_prefect

    settings = read_settings(Settings)
    if options.unless_production:
        version = open_registry().production()
        if version:
            print(f"version {version.version} is in production: nothing to do")
            return
    try:
        find_prefect()
    except PrefectUnavailable as err:
        sys.exit(str(err))
    result = train(
        data=found_data(options.data, settings),
        max_evals=options.max_evals,
        timeout_s=options.timeout_s,
        n_folds=options.folds,
        seed=options.seed,
        force=options.force,
        spark_master=spark_of(options),
        with_store=not options.without_store,
        with_feedback=options.with_feedback,
        recent_weight=options.recent_weight,
    )
    for name, value in (result | result.get("test_metrics", {})).items():
        if name != "test_metrics":
            print(f"{name:14}{value:.4f}" if isinstance(value, float) else f"{name:14}{value}")


def spark_of(options: argparse.Namespace) -> str:
    """The Spark master, or nothing for this process alone."""
    return options.spark_master if options.engine == "spark" else ""


def found_data(data: str, settings: Settings) -> str:
    """What to train on: `data`, and for `auto` what there is.

    Raises CensusError before the flow starts, so that what fails is one clear line.
    """
    if data == "synthetic":
        return data
    try:
        read_files(settings.census_folder, settings.raw_dir, UCI)
    except CensusUnavailable as err:
        if data == "uci":
            raise
        print(f"{err}\n{BANNER}", file=sys.stderr)
        return "synthetic"
    return "uci"


def run_ingest(options: argparse.Namespace) -> None:
    """`ingest`: checks a batch, adds it and says what became of its rows."""
    settings = read_settings(Settings)
    done = ingest(
        options.file, options.period, open_store(), load_contract(), settings.batch_quarantine
    )
    batch = done.batch
    what = f"{batch.rows} rows of {batch.period}, sha256 {batch.sha256[:12]}"
    if not done.is_new:
        print(f"already there since {batch.ingested_at}: {what}; nothing was added")
        return
    print(f"ingested {options.file} into {settings.store_address}: {what}")
    if batch.duplicates:
        print(f"{batch.duplicates} of them equal an earlier row of {batch.period}; they are kept")
    if done.known:
        print(f"{done.known} predictions that the store has already were left out")
    if done.quarantine:
        print(f"{batch.rejected} rows break the contract: set aside in {done.quarantine}")


def run_forget(options: argparse.Namespace) -> None:
    """`forget`: one prediction's row, if it was ingested or set aside."""
    rejected = read_settings(Settings).batch_quarantine
    print(f"training store: {open_store().forget(options.prediction_id)} rows removed")
    print(f"quarantine: {forget_rejected(rejected, options.prediction_id)} rows removed")


def open_store() -> Store:
    """The training store of the settings."""
    return Store(open_folder(read_settings(Settings).store_address))


def run_work(options: argparse.Namespace) -> None:
    """`worker`: runs until it is stopped."""
    # pylint: disable=import-outside-toplevel
    from training.orchestration.tasks import PrefectUnavailable
    from training.orchestration.worker import WorkerError, run_worker

    try:
        run_worker(options.with_healthcheck)
    except (WorkerError, PrefectUnavailable) as err:
        sys.exit(str(err))


def open_registry() -> Registry:
    """The registry of the settings."""
    return Registry(read_settings(Settings).mlflow_tracking_uri)


def run_score(options: argparse.Namespace) -> None:
    """`score`: what could not be scored is counted, kept with its reason, and may fail the run."""
    from training.batch_scoring import score as scoring  # pylint: disable=import-outside-toplevel

    try:
        done = scoring.score_batch(
            open_registry(), options.source, options.output, options.version, spark_of(options)
        )
    except scoring.ScoringError as err:
        sys.exit(str(err))
    print(f"{done.rows_scored} rows scored by version {done.version}: {done.output}")
    if done.rows_rejected:
        print(f"{done.rows_rejected} rows break the contract: {done.rejected}", file=sys.stderr)
    if done.share_rejected > options.max_rejected:
        sys.exit(f"{done.share_rejected:.1%} of the rows are more than --max-rejected allows")


def run_promote(options: argparse.Namespace) -> None:
    """`promote`: what the gate kept back, or never saw, needs --force, which is written down."""
    registry = open_registry()
    version = registry.version(options.version)
    if version is None:
        sys.exit(f"version {options.version}: MLflow has none of that number")
    passed = version.tags.get("gate") == "passed"
    if not passed and not options.force:
        reason = version.tags.get("gate_reason", "the gate has not judged it")
        sys.exit(f"version {version.version} did not pass the gate: {reason}; or use --force")
    move_production(registry, version.version, Promotion(options.who, options.why, not passed))


def run_rollback(options: argparse.Namespace) -> None:
    """`rollback`: to the version that the newest promotion replaced."""
    registry = open_registry()
    moves = registry.ledger.promotions()
    before = moves[0]["from_version"] if moves else "none"
    if before == "none" or registry.version(before) is None:
        sys.exit("there is no earlier version to go back to: python -m training history")
    move_production(registry, before, Promotion(options.who, f"rollback: {options.why}"))


def move_production(registry: Registry, version: str, promotion: Promotion) -> None:
    """Promotes and says so."""
    registry.promote(version, promotion)
    print(f"version {version} is production; the services follow within seconds")


def run_history(_: argparse.Namespace) -> None:
    """`history`: newest first."""
    for move in open_registry().ledger.promotions():
        forced = " (forced)" if move["forced"] == "True" else ""
        moved = f"{move['from_version']} -> {move['to_version']}"
        print(f"{move['at']}  {moved}  {move['who']}{forced}: {move['why']}")


def run_decisions(_: argparse.Namespace) -> None:
    """`decisions`: newest first."""
    for one in open_registry().ledger.decisions():
        span = one["at"] + (
            f" to {one['until']} ({one['times']} times)" if one["times"] != "1" else ""
        )
        what = f"flow run {one['flow_run']} started" if "flow_run" in one else "no training"
        print(f"{span}  version {one['version']}: {one['cause']}; {what}: {one['why']}")


def run_retain(options: argparse.Namespace) -> None:
    """`retain`: what Prefect does once a day."""
    settings = read_settings(Settings)
    registry = open_registry()
    expired = find_expired(registry, settings)
    if options.dry_run:
        print(*listing(expired), f"would remove {summary(expired)}", sep="\n")
        return
    registry.remove(expired)
    print(f"removed {summary(expired)}")


def run_synthesize(options: argparse.Namespace) -> None:
    """`synthesize`: writes rows as the stream generator reads them, or as a table."""
    contract = load_contract()
    rows = synthesize(contract, rows_train=options.rows, rows_test=0, seed=options.seed).train
    options.out.parent.mkdir(parents=True, exist_ok=True)
    columns = [*contract.input_names, contract.target.name]
    match options.out.suffix:
        case ".csv":
            rows[columns].to_csv(options.out, index=False)
        case ".parquet":
            rows[columns].to_parquet(options.out, index=False)
        case _:
            write_traffic(rows, contract, options.out)
    print(f"{options.rows} synthetic rows: {options.out}")


COMMANDS = {
    "train": run_train,
    "ingest": run_ingest,
    "forget": run_forget,
    "worker": run_work,
    "score": run_score,
    "promote": run_promote,
    "rollback": run_rollback,
    "history": run_history,
    "decisions": run_decisions,
    "retain": run_retain,
    "synthesize": run_synthesize,
}

if __name__ == "__main__":
    exit_with_message(main)
