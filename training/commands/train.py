"""The command `train`."""

import sys
from argparse import Namespace

from config.contract import load_contract
from config.runtime.settings import read_settings
from training.commands.ledger import open_registry
from training.data.download import read_files
from training.data.errors import SourceUnavailable
from training.data.source import CENSUS, SYNTHETIC, check_data, check_source, load_source
from training.data.synthetic import TABLES_PATH, check_tables, read_tables
from training.orchestration.flows import train
from training.orchestration.tasks import find_prefect
from training.settings import Settings

BANNER = """\
######################################################################
##  SYNTHETIC DATA: the real census files are unavailable.          ##
##  This run uses rows drawn from aggregate tables. Its figures     ##
##  say nothing about real people. For the real files, set          ##
##  CENSUS_DATA_DIR to a folder with adult.data and adult.test,     ##
##  then train again.                                               ##
######################################################################"""


def run_train(options: Namespace) -> None:
    """Run the training flow in this process and print its result."""
    settings = read_settings(Settings)
    if options.unless_production:
        version = open_registry().production()
        if version:
            print(f"version {version.version} is in production: nothing to do")
            return
    find_prefect()
    result = train(
        data=find_data(options.data, settings),
        max_evals=options.max_evals,
        timeout_s=options.timeout_s,
        n_folds=options.folds,
        seed=options.seed,
        force=options.force,
        spark_master=options.spark_master if options.engine == "spark" else "",
        with_store=not options.without_store,
        with_feedback=options.with_feedback,
        recent_weight=options.recent_weight,
    )
    for name, value in (result | result.get("test_metrics", {})).items():
        if name != "test_metrics":
            print(f"{name:14}{value:.4f}" if isinstance(value, float) else f"{name:14}{value}")


def find_data(data: str, settings: Settings) -> str:
    """Return the source of rows; for `auto`, synthetic rows if the census is unavailable.

    Raises SourceError before the flow starts, so the user gets one message.
    """
    source, contract = load_source(settings.source_path), load_contract()
    check_data(data, source, "auto")
    if data != SYNTHETIC:
        check_source(source, contract)
        try:
            read_files(source, settings)
            return source.name
        except SourceUnavailable as err:
            if data != "auto" or source.name != CENSUS:
                raise
            print(f"{err}\n{BANNER}", file=sys.stderr)
    check_tables(read_tables(TABLES_PATH), contract)
    return SYNTHETIC
