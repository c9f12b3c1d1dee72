"""The rows of the training benchmarks."""

import sys

from config.contract import Contract
from config.runtime.settings import read_settings
from training.census import Census, CensusUnavailable, load_census
from training.settings import Settings
from training.synthesis import synthesize


def read_census(contract: Contract) -> Census:
    """Return the real census, or synthetic rows with a warning if it is unavailable."""
    settings = read_settings(Settings)
    try:
        return load_census(contract, settings.raw_dir, settings.census_folder, settings.quarantine)
    except CensusUnavailable as err:
        print(f"{err}\nSYNTHETIC ROWS: the figures do not describe real people", file=sys.stderr)
        return synthesize(contract)
