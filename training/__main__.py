"""Commands of the training part."""

import argparse
import getpass
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from config.contract import load_contract
from config.runtime import logs
from config.runtime.settings import (
    Count,
    exit_with_message,
    expectation,
    load_environment,
    read_settings,
)
from training.batch_scoring.spark import SparkUnavailable
from training.data.batches import BatchRejected, Limits, forget_rejected, ingest
from training.data.download import read_files
from training.data.errors import SourceError, SourceUnavailable, TableError
from training.data.feedback import FeedbackUnavailable
from training.data.rows import counted, write_requests
from training.data.source import CENSUS, SYNTHETIC, check_source, feed_format, load_source
from training.data.storage import FilesUnavailable, Folder
from training.data.store import Store, StoreError, UnknownBatch
from training.data.synthetic import TABLES_PATH, check_tables, read_tables, synthesize
from training.registry.ledger import NONE, Promotion
from training.registry.mlflow_registry import Registry, RegistryUnavailable
from training.registry.retention import describe_each, find_expired, summary
from training.registry.serving import find_laggards
from training.settings import (
    MAX_REJECTED,
    FoldCount,
    MaxEvals,
    Seed,
    Settings,
    Share,
    TimeoutS,
    Weight,
    absolute,
)

EXPECTED_ERRORS = (
    SourceError,
    TableError,
    RegistryUnavailable,
    FilesUnavailable,
    StoreError,
    UnknownBatch,
    BatchRejected,
    FeedbackUnavailable,
    SparkUnavailable,
)
SAY_AFTER_S, GIVE_UP_S = 3.0, 20.0  # of a command that asks MLflow
BANNER = """\
######################################################################
##  SYNTHETIC DATA: the real census files are unavailable.          ##
##  This run uses rows drawn from aggregate tables. Its figures     ##
##  say nothing about real people. For the real files, set          ##
##  CENSUS_DATA_DIR to a folder with adult.data and adult.test,     ##
##  then train again.                                               ##
######################################################################"""


# --- the command line ---------------------------------------------------------------------------


def number(kind: Any) -> Callable[[str], Any]:
    """Return the type of an option: a number with limits, such as `MaxEvals`."""
    adapter = TypeAdapter(kind)

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as err:
            rule = expectation(err.errors()[0]["msg"])
            raise argparse.ArgumentTypeError(f"got {text}, expected {rule}") from None

    return read


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line; `run` is the command's function."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")

    def add(name: str, run: Callable[..., None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        return command

    add_init_options(add("init", run_init, "propose a contract and a source for a table"))
    add_train_options(add("train", run_train, "train, evaluate and register one model"))
    text = "add a batch of labelled rows to the training store, or take one back"
    add_ingest_options(add("ingest", run_ingest, text))
    text = "remove a prediction from the training store and the quarantine"
    add("forget", run_forget, text).add_argument("prediction_id", help="id of the prediction")
    command = add("worker", run_worker, "create the deployments and start scheduled runs")
    command.add_argument(
        "--with-healthcheck",
        action="store_true",
        help="serve a health check on PREFECT_WORKER_WEBSERVER_PORT",
    )
    command.add_argument(
        "--server-wait-s",
        type=number(TimeoutS),
        default=120.0,
        help="seconds to wait for Prefect's server (default: %(default)s)",
    )
    add_score_options(add("score", run_score, "score Parquet files with a registered version"))
    command = add("promote", run_promote, "make a version the production version")
    command.add_argument("version", help="number of the version in MLflow")
    command.add_argument(
        "--force", action="store_true", help="promote a version that did not pass the gate"
    )
    add_promotion_options(command)
    text = "promote the predecessor of the production version"
    add_promotion_options(add("rollback", run_rollback, text))
    add("history", run_history, "list all promotions: when, who, why")
    add("decisions", run_decisions, "list all decisions for or against a training after drift")
    command = add("retain", run_retain, "remove runs older than RUN_RETENTION_DAYS")
    command.add_argument("--dry-run", action="store_true", help="only list the runs")
    command = add("synthesize", run_synthesize, "draw synthetic census rows")
    command.add_argument(
        "--rows", type=number(Count), default=48842, help="number of rows (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=number(Seed), default=0, help="random seed (default: %(default)s)"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("build/synthetic.jsonl"),
        help=".jsonl for the stream generator, .csv or .parquet (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def add_init_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `init`."""
    command.add_argument(
        "tables",
        nargs="+",
        metavar="TABLE",
        help="path or gs:// address of a CSV, JSON-lines or Parquet file, also with .gz, or of a"
        " folder of such files; several files make one table",
    )
    command.add_argument("--target", required=True, help="column to predict, with two values")
    command.add_argument(
        "--positive", required=True, help="value of the target whose probability is predicted"
    )
    command.add_argument("--output", default="", help="new folder (default: the table's name)")
    command.add_argument(
        "--names",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        help="names of the columns, with commas between them, for a file without a header line",
    )


def add_train_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    command.add_argument(
        "--data",
        default="source",
        help="source: the rows that SOURCE describes (or its name, uci for the census); synthetic:"
        " made-up census rows; auto: these if the census is unavailable (default: %(default)s)",
    )
    command.add_argument(
        "--unless-production",
        action="store_true",
        help="do nothing if there is a production version",
    )
    command.add_argument(
        "--max-evals",
        type=number(MaxEvals),
        help="trials of the search (default: MAX_EVALS, or 20)",
    )
    command.add_argument(
        "--timeout-s",
        type=number(TimeoutS),
        help="seconds after which no trial starts (default: no limit)",
    )
    command.add_argument(
        "--folds",
        type=number(FoldCount),
        default=5,
        help="folds of the cross-validation (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=number(Seed), default=0, help="random seed (default: %(default)s)"
    )
    command.add_argument(
        "--force", action="store_true", help="train even if data, code and settings are unchanged"
    )
    add_engine(command, "local", "where trials run")
    command.add_argument(
        "--with-feedback", action="store_true", help="add labelled rows from MONGODB_ADDRESS"
    )
    command.add_argument(
        "--without-store", action="store_true", help="leave out the ingested batches"
    )
    command.add_argument(
        "--recent-weight",
        type=number(Weight),
        default=1.0,
        help="weight of the newest joined rows, relative to other rows (default: %(default)s)",
    )


def add_ingest_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `ingest`."""
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file", nargs="?", help="path or gs:// address of a table (CSV, JSON lines, Parquet)"
    )
    what.add_argument("--list", action="store_true", help="list the batches of the store")
    what.add_argument(
        "--undo",
        metavar="BATCH",
        help="remove a batch from the store; BATCH: its source, or the start of its sha256",
    )
    month = f"{datetime.now(UTC):%Y-%m}"
    command.add_argument("--period", default=month, help="month of the rows (default: %(default)s)")
    command.add_argument(
        "--max-rejected",
        type=number(Share),
        default=Limits().max_rejected,
        help="maximum share of rejected rows; with more, the whole batch is rejected"
        " (default: %(default)s)",
    )
    command.add_argument(
        "--allow-one-class",
        action="store_true",
        help="accept a batch whose valid rows all have the same label",
    )


def add_score_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `score`."""
    command.add_argument("source", help="path or gs:// address of a file or a folder")
    command.add_argument("output", help="path or gs:// address of a new folder")
    command.add_argument(
        "--version", default="", help="number of the version in MLflow (default: production)"
    )
    add_engine(command, "spark", "where rows are scored")
    command.add_argument(
        "--max-rejected",
        type=number(Share),
        default=MAX_REJECTED,
        help="maximum share of rejected rows for exit status 0 (default: %(default)s)",
    )


def add_engine(command: argparse.ArgumentParser, default: str, text: str) -> None:
    """Add the options that choose Spark."""
    text = f"{text} (default: %(default)s)"
    command.add_argument("--engine", choices=["local", "spark"], default=default, help=text)
    command.add_argument(
        "--spark-master", default="local[*]", help="address of Spark (default: %(default)s)"
    )


def add_promotion_options(command: argparse.ArgumentParser) -> None:
    """Add the options that the history records, and whether to wait for the services."""
    command.add_argument("--why", required=True, help="reason, for the history")
    command.add_argument(
        "--who", default=getpass.getuser(), help="name, for the history (default: %(default)s)"
    )
    command.add_argument(
        "--no-wait", action="store_true", help="do not wait until the services use the version"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run one command; print an expected error as one message on standard error."""
    name_user()
    options = parse(arguments)
    load_environment()  # Prefect reads its settings when it is imported
    try:
        options.run(options)
    except EXPECTED_ERRORS as err:
        sys.exit(str(err))


def name_user() -> None:
    """Use the user id as the name of a user without one, for the history and MLflow's runs."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container may run under any user id
        os.environ["LOGNAME"] = str(os.getuid())


# --- the commands -------------------------------------------------------------------------------


def run_init(options: argparse.Namespace) -> None:
    """Write a contract and a source description; print what was found and what comes next."""
    from training.data.proposal import init_table  # pylint: disable=import-outside-toplevel

    written = init_table(
        options.tables, options.target, options.positive, options.output, options.names
    )
    print(*written.lines, sep="\n")
    print(f"wrote {written.contract} and {written.source}; edit them, then")
    print(f"  CONTRACT={written.contract} {sys.executable} -m training train")
    print(f"  make demo CONTRACT={written.contract}")


def run_train(options: argparse.Namespace) -> None:
    """Run the training flow in this process and print its result."""
    # pylint: disable=import-outside-toplevel  # importing Prefect takes seconds
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
        data=find_data(options.data, settings),
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
    """Return the address of Spark, or an empty text for this process."""
    return options.spark_master if options.engine == "spark" else ""


def find_data(data: str, settings: Settings) -> str:
    """Return the source of rows; for `auto`, synthetic rows if the census is unavailable.

    Raises SourceError before the flow starts, so the user gets one message.
    """
    source, contract = load_source(settings.source_path), load_contract()
    if data in ("source", "auto", source.name):
        check_source(source, contract)
        try:
            read_files(source, settings)
            return source.name
        except SourceUnavailable as err:
            if data != "auto" or source.name != CENSUS:
                raise
            print(f"{err}\n{BANNER}", file=sys.stderr)
    elif data != SYNTHETIC:
        raise SourceError(
            f"--data: got {data}, expected source, {source.name} (its name), {SYNTHETIC} or auto."
            " SOURCE names the description of another source."
        )
    check_tables(read_tables(TABLES_PATH), contract)
    return SYNTHETIC


def run_ingest(options: argparse.Namespace) -> None:
    """Ingest a batch and print the numbers of its rows; or list the batches, or remove one."""
    settings, store = read_settings(Settings), open_store()
    if options.list:
        listed = [batch.described() for batch in store.batches()]
        print(*(listed or [f"{settings.store_address}: no batches"]), sep="\n")
        return
    if options.undo:
        undo_ingest(options.undo, store, settings.feed_address)
        return
    limits = Limits(options.max_rejected, options.allow_one_class)
    where = store, load_contract(), settings.batch_quarantine
    try:
        done = ingest(
            options.file,
            options.period,
            *where,
            limits=limits,
            table_format=feed_format(settings),
        )
    except BatchRejected as err:
        sys.exit("\n  ".join([str(err), *err.examples]))
    batch = done.batch
    what = f"{counted(batch.rows)} of {batch.period}, sha256 {batch.sha256[:12]}"
    if not done.is_new:
        print(f"already ingested at {batch.ingested_at}: {what}; nothing was added")
        return
    print(f"ingested {options.file} into {settings.store_address}: {what}")
    print(*[f"{note}\n" for note in done.notes], sep="", end="")
    if batch.duplicates:
        print(f"kept {counted(batch.duplicates)} that equal an earlier row of {batch.period}")
    if done.known:
        print(f"skipped {counted(done.known, 'prediction')} that the store has")
    if done.quarantine:
        print(f"quarantined {counted(batch.rejected, 'invalid row')}: {done.quarantine}")
        print(*[f"  {fault.example()}" for fault in done.faults], sep="\n")
    for name, values in done.unseen.items():
        count = done.read_as_missing[name]
        print(f"{name}: {counted(count, 'value')} not in the contract, read as missing:")
        print(*[f"  {value!r}: {counted(rows)}" for value, rows in values.items()], sep="\n")


def undo_ingest(name: str, store: Store, feed: str) -> None:
    """Remove a batch from the store; print what was removed and what is left to do."""
    batch = store.named(name)
    store.remove(batch)
    print(f"removed from {store.folder.address}:\n{batch.described()}")
    print(
        "The next training does without these rows. Versions that were trained with them stay: see"
        f" sha256 {batch.sha256[:12]} in their data/lineage.json. To replace such a version, run"
        " `python -m training rollback`, or `python -m training train --force`."
    )
    if feed and absolute(batch.source).startswith(f"{feed.rstrip('/')}/"):
        print(f"{batch.source} is in FEED: remove it there, or Prefect ingests it again.")


def run_forget(options: argparse.Namespace) -> None:
    """Remove a prediction's rows from the training store and the quarantine."""
    folder, store = read_settings(Settings).batch_quarantine, open_store()
    print(f"training store: {counted(store.forget(options.prediction_id))} removed")
    if store.folder.is_bucket:
        print(
            f"{store.folder.address}: if the bucket has soft delete, it keeps removed objects until"
            " their retention ends"
        )
    print(f"quarantine: {counted(forget_rejected(folder, options.prediction_id))} removed")


def open_store() -> Store:
    """Return the training store of the settings."""
    return Store(Folder(read_settings(Settings).store_address))


def run_worker(options: argparse.Namespace) -> None:
    """Run Prefect's worker until it is stopped."""
    # pylint: disable=import-outside-toplevel
    from training.orchestration import worker
    from training.orchestration.tasks import PrefectUnavailable

    try:
        worker.run_worker(options.with_healthcheck, options.server_wait_s)
    except (worker.WorkerError, PrefectUnavailable) as err:
        sys.exit(str(err))


def open_registry() -> Registry:
    """Return the registry of the settings."""
    return Registry(read_settings(Settings).mlflow_tracking_uri)


@contextmanager
def patience() -> Iterator[None]:
    """Say what the body waits for if MLflow responds late; end the command if it does not."""
    address = read_settings(Settings).mlflow_tracking_uri
    waits = iter([GIVE_UP_S - SAY_AFTER_S])

    def ring(*_: object) -> None:
        if pause_s := next(waits, None):
            print(f"waiting for MLflow at {address}", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_REAL, pause_s)
        else:
            sys.exit(f"MLFLOW_TRACKING_URI: no response within {GIVE_UP_S:g} s; got {address}.")

    in_main_thread = threading.current_thread() is threading.main_thread()  # as signals need it
    if not in_main_thread or not address.startswith("http"):  # a database may be made first
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, SAY_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def run_score(options: argparse.Namespace) -> None:
    """Score a batch; exit with status 1 if too many rows were rejected."""
    from training.batch_scoring import score  # pylint: disable=import-outside-toplevel

    try:
        done = score.score_batch(
            open_registry(), options.source, options.output, options.version, spark_of(options)
        )
    except score.ScoringError as err:
        sys.exit(str(err))
    print(f"{counted(done.rows_scored)} scored by version {done.version}: {done.output}")
    for note in done.notes:
        print(note, file=sys.stderr)
    for name, count in done.unseen.items():
        print(
            f"{name}: {counted(count, 'value')} not in the contract, read as missing",
            file=sys.stderr,
        )
    if done.rows_rejected:
        invalid = counted(done.rows_rejected, "invalid row")
        print(f"rejected {invalid}: {done.rejected}", file=sys.stderr)
    if done.share_rejected > options.max_rejected:
        sys.exit(
            f"--max-rejected: {done.share_rejected:.1%} of the rows were rejected, expected at most"
            f" {options.max_rejected:.1%}"
        )


@contextmanager
def promotion_lock() -> Iterator[None]:
    """Hold the lock that a training holds from its gate to its promotion.

    If Prefect is down, a warning replaces the lock: a rollback must not need Prefect.
    """
    # pylint: disable=import-outside-toplevel  # importing Prefect takes seconds
    from training.orchestration.tasks import PrefectUnavailable, find_prefect, promotion_turn

    try:
        find_prefect()
    except PrefectUnavailable as err:
        print(f"{err}\nThe promotion lock is not held.", file=sys.stderr)
        yield
        return
    print("waiting for the promotion lock", flush=True)
    with promotion_turn():
        yield


def run_promote(options: argparse.Namespace) -> None:
    """Promote a version that passed the gate, or any version with --force."""
    with patience():
        registry = open_registry()
        version = registry.version(options.version)
    if version is None:
        sys.exit(f"version: got {options.version}, expected a version in MLflow.")
    passed = version.tags.get("gate") == "passed"
    if not passed and not options.force:
        reason = version.tags.get("gate_reason", "it has no verdict")
        sys.exit(f"version {version.version}: did not pass the gate: {reason}. Use --force.")
    with promotion_lock():
        promotion = Promotion(options.who, options.why, not passed)
        move_production(registry, version.version, promotion)
    check_services(version.version, options.no_wait)


def run_rollback(options: argparse.Namespace) -> None:
    """Promote the predecessor of the production version."""
    with patience():
        registry = open_registry()
    with promotion_lock():
        before = production_number(registry)
        earlier = registry.ledger.predecessor(before)
        if earlier == NONE:
            sys.exit("rollback: there is no earlier version; see `python -m training history`.")
        if registry.version(earlier) is None:
            sys.exit(
                f"rollback: version {earlier} was production before {before} and no longer exists."
                " Choose a version with `python -m training promote`."
            )
        move_production(registry, earlier, Promotion(options.who, f"rollback: {options.why}"))
    check_services(earlier, options.no_wait)


def move_production(registry: Registry, version: str, promotion: Promotion) -> None:
    """Promote a version; print the move before it is made."""
    print(f"production: version {production_number(registry)} -> {version}", flush=True)
    registry.promote(version, promotion)
    print(f"version {version} is production", flush=True)


def check_services(version: str, no_wait: bool) -> None:
    """Wait until the services use a version; exit with status 1 and the reasons if they do not."""
    if no_wait:
        return
    if late := find_laggards(str(version), read_settings(Settings)):
        sys.exit("\n".join(late))
    print(f"the prediction service and the monitoring use version {version}")


def production_number(registry: Registry) -> str:
    """Return the number of the production version, or `none`."""
    version = registry.production()
    return str(version.version) if version else NONE


def run_history(_: argparse.Namespace) -> None:
    """Print all promotions, newest first."""
    with patience():
        promotions = open_registry().ledger.promotions()
    for move in promotions:
        forced = " (forced)" if move["forced"] == "True" else ""
        moved = f"{move['from_version']} -> {move['to_version']}"
        print(f"{move['at']}  {moved}  {move['who']}{forced}: {move['why']}")


def run_decisions(_: argparse.Namespace) -> None:
    """Print all decisions about trainings, newest first."""
    with patience():
        decisions = open_registry().ledger.decisions()
    for one in decisions:
        repeated = f" to {one['until']} ({one['times']} times)" if one["times"] != "1" else ""
        what = f"flow run {one['flow_run']} started" if "flow_run" in one else "no training"
        when = f"{one['at']}{repeated}"
        print(f"{when}  version {one['version']}: {one['cause']}; {what}: {one['why']}")


def run_retain(options: argparse.Namespace) -> None:
    """Remove old runs, or list them."""
    settings = read_settings(Settings)
    registry = open_registry()
    expired = find_expired(registry, settings)
    if options.dry_run:
        print(*describe_each(expired), f"would remove {summary(expired)}", sep="\n")
        return
    registry.remove(expired)
    print(f"removed {summary(expired)}")


def run_synthesize(options: argparse.Namespace) -> None:
    """Write synthetic rows, as requests or as a table."""
    contract = load_contract()
    rows = synthesize(contract, rows_train=options.rows, rows_test=0, seed=options.seed).train
    options.out.parent.mkdir(parents=True, exist_ok=True)
    labels = [contract.target.labels[index] for index in rows[contract.target.name]]
    table = rows[list(contract.input_names)].assign(**{contract.target.name: labels})
    match options.out.suffix:
        case ".csv":
            table.to_csv(options.out, index=False)
        case ".parquet":
            table.to_parquet(options.out, index=False)
        case _:
            write_requests(rows, contract, options.out)
    print(f"{options.rows} synthetic rows: {options.out}")


if __name__ == "__main__":
    logs.set_up("text", "WARNING")
    exit_with_message(main)
