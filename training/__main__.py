"""Commands of the training part."""

import argparse
import getpass
import os
import pkgutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from config.runtime import logs
from config.runtime.settings import Count, exit_with_message, expectation, load_environment
from training.errors import ExpectedError
from training.settings import (
    MAX_REJECTED,
    MAX_REJECTED_INGESTED,
    FoldCount,
    MaxEvals,
    Seed,
    Share,
    TimeoutS,
    Weight,
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; print an expected error as one message on standard error."""
    name_user()
    options = parse(arguments)
    load_environment()  # Prefect reads its settings when it is imported
    # Importing MLflow, Prefect or scikit-learn takes a second each, so a command loads its own.
    run = pkgutil.resolve_name(f"training.commands.{options.module}:run_{options.command}")
    try:
        run(options)
    except ExpectedError as err:
        sys.exit(str(err))


def name_user() -> None:
    """Use the user id as the name of a user without one, for the history and MLflow's runs."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container may run under any user id
        os.environ["LOGNAME"] = str(os.getuid())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line; `module` has the function of `command`."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")

    def add(name: str, module: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(module=module)
        return command

    add_init_options(add("init", "data", "propose a contract and a source for a table"))
    add_train_options(add("train", "train", "train, evaluate and register one model"))
    text = "add a batch of labelled rows to the training store, or take one back"
    add_ingest_options(add("ingest", "data", text))
    text = "remove a prediction from the training store and the quarantine"
    add("forget", "data", text).add_argument("prediction_id", help="id of the prediction")
    text = "create the deployments and start scheduled runs"
    add_worker_options(add("worker", "worker", text))
    add_score_options(add("score", "score", "score Parquet files with a registered version"))
    command = add("promote", "promotion", "promote a version, or test it beside production first")
    command.add_argument("version", help="number of the version in MLflow")
    text = "accept a version that the gate or a shadow test rejected"
    add_flag(command, "--force", text)
    add_flag(command, "--now", "move production at once, without a test on live labels")
    add_promotion_options(command)
    text = "promote the predecessor of the production version"
    add_promotion_options(add("rollback", "promotion", text))
    add("shadow", "shadow", "show the test of a version beside production")
    add("history", "ledger", "list all promotions and ends of shadow tests: when, who, why")
    add("decisions", "ledger", "list all decisions for or against a training after drift")
    command = add("retain", "ledger", "remove runs older than RUN_RETENTION_DAYS")
    add_flag(command, "--dry-run", "only list the runs")
    add_synthesize_options(add("synthesize", "data", "draw synthetic census rows"))
    return parser.parse_args(arguments)


def add_flag(command: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add an option without a value."""
    command.add_argument(name, action="store_true", help=text)


def add_number(
    command: argparse.ArgumentParser, name: str, kind: Any, default: float | None, text: str
) -> None:
    """Add an option for a number with limits, such as `MaxEvals`."""
    if default is not None:
        text = f"{text} (default: %(default)s)"
    command.add_argument(name, type=number(kind), default=default, help=text)


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
    add_flag(command, "--unless-production", "do nothing if there is a production version")
    text = "trials of the search (default: MAX_EVALS, or 20)"
    add_number(command, "--max-evals", MaxEvals, None, text)
    text = "seconds after which no trial starts (default: no limit)"
    add_number(command, "--timeout-s", TimeoutS, None, text)
    add_number(command, "--folds", FoldCount, 5, "folds of the cross-validation")
    add_number(command, "--seed", Seed, 0, "random seed")
    add_flag(command, "--force", "train even if data, code and settings are unchanged")
    add_engine(command, "local", "where trials run")
    add_flag(command, "--with-feedback", "add labelled rows from MONGODB_ADDRESS")
    add_flag(command, "--without-store", "leave out the ingested batches")
    text = "weight of the newest joined rows, relative to other rows"
    add_number(command, "--recent-weight", Weight, 1.0, text)


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
    text = "maximum share of rejected rows; with more, the whole batch is rejected"
    add_number(command, "--max-rejected", Share, MAX_REJECTED_INGESTED, text)
    text = "accept a batch whose valid rows all have the same label"
    add_flag(command, "--allow-one-class", text)


def add_worker_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `worker`."""
    text = "serve a health check on PREFECT_WORKER_WEBSERVER_PORT"
    add_flag(command, "--with-healthcheck", text)
    add_number(command, "--server-wait-s", TimeoutS, 120.0, "seconds to wait for Prefect's server")


def add_score_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `score`."""
    command.add_argument("source", help="path or gs:// address of a file or a folder")
    command.add_argument("output", help="path or gs:// address of a new folder")
    command.add_argument(
        "--version", default="", help="number of the version in MLflow (default: production)"
    )
    add_engine(command, "spark", "where rows are scored")
    text = "maximum share of rejected rows for exit status 0"
    add_number(command, "--max-rejected", Share, MAX_REJECTED, text)


def add_engine(command: argparse.ArgumentParser, default: str, text: str) -> None:
    """Add the options that choose Spark."""
    text = f"{text} (default: %(default)s)"
    command.add_argument("--engine", choices=["local", "spark"], default=default, help=text)
    command.add_argument(
        "--spark-master", default="local[*]", help="address of Spark (default: %(default)s)"
    )


def words(text: str) -> str:
    """Return a text. Raises ArgumentTypeError if it is blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a reason in words")
    return text


def add_promotion_options(command: argparse.ArgumentParser) -> None:
    """Add the options that the history records, and whether to wait for the services."""
    command.add_argument("--why", required=True, type=words, help="reason, for the history")
    command.add_argument(
        "--who", default=getpass.getuser(), help="name, for the history (default: %(default)s)"
    )
    add_flag(command, "--no-wait", "do not wait until the services use the version")


def add_synthesize_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `synthesize`."""
    add_number(command, "--rows", Count, 48842, "number of rows")
    add_number(command, "--seed", Seed, 0, "random seed")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("build/synthetic.jsonl"),
        help=".jsonl for the stream generator, .csv or .parquet (default: %(default)s)",
    )


if __name__ == "__main__":
    logs.set_up("text", "WARNING")
    exit_with_message(main)
