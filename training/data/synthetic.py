"""Synthetic census rows, drawn from the aggregate tables in `config/census_tables.json`.

Replaces `dataset.load_dataset` where the census's files are missing, and marks its `Dataset` as
synthetic. `python -m notebooks.census_tables` makes the tables and compares drawn with real rows.

The model is a Bayesian network: the income first, and each other column after its parents. These
are the income and the earlier columns that predict it best (k-dependence Bayes: Sahami, 1996,
KDD-96, pp. 335-338). A table has counts of a column's states by the groups of its parents. The
states of an integer column are bins; a bin has steps (single values, or short ranges) by income.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract, Feature
from training.code_bundle import ROOT
from training.data.dataset import Dataset
from training.data.errors import SourceError
from training.data.source import SYNTHETIC
from training.data.validation import known_categories

TABLES_PATH = ROOT / "config/census_tables.json"
ROWS_TRAIN, ROWS_TEST = 32_561, 16_281  # the sizes of the real split
SMOOTHING = 20  # rows; weight of the table with one parent less, for each group of parents
REMEDY = "make new tables from the real files: `python -m notebooks.census_tables tables`."

Counts = np.ndarray  # (n_configurations, n_states)


class Cells(msgspec.Struct, frozen=True):
    """The published cells of one table, as three lists of equal length.

    `config` encodes the parents' groups as one number in mixed radix, the last parent fastest. The
    state after the last one is the sum of all unpublished cells of its row.
    """

    config: list[int]
    state: list[int]
    count: list[int]


class Steps(msgspec.Struct, frozen=True):
    """The values of an integer column: step i is every value from first[i] to last[i]."""

    first: list[int]
    last: list[int]
    bins: list[int]  # the bin of each step
    cells: Cells  # config: the class of income; state: the step


class Column(msgspec.Struct, frozen=True):
    """One column of the network. `tables[k]` counts its states by the first k parents."""

    name: str
    parents: list[str]
    states: list[str]  # categories; for an integer column the first value of each bin
    groups: list[int]  # the group of each state if this column is a parent
    tables: list[Cells]
    factors: list[list[float]] = []  # by class of income and state, to restore their shares
    steps: Steps | None = None

    @property
    def n_groups(self) -> int:
        """Number of groups of this column as a parent."""
        return max(self.groups) + 1


class Tables(msgspec.Struct, frozen=True):
    """The published tables, each column after its parents."""

    about: str
    rows: int
    minimum_count: int
    rounding: int
    columns: list[Column]


def synthesize(
    contract: Contract,
    rows_train: int = ROWS_TRAIN,
    rows_test: int = ROWS_TEST,
    seed: int = 0,
    tables: Tables | None = None,
) -> Dataset:
    """Return a synthetic census that keeps the contract; the same seed draws the same rows.

    Raises SourceError for tables of other columns or categories.
    """
    tables = tables or read_tables(TABLES_PATH)
    check_tables(tables, contract)
    frame = draw_frame(tables, contract, rows_train + rows_test, seed)
    test = frame[rows_train:].reset_index(drop=True)
    duplicates = int(frame[:rows_train].duplicated().sum() + test.duplicated().sum())
    return Dataset(frame[:rows_train], test, SYNTHETIC, {}, duplicates)


def read_tables(path: Path) -> Tables:
    """Return the tables of a file. Raises SourceError if it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tables)
    except (OSError, msgspec.DecodeError) as err:
        raise SourceError(f"{path}: {err}. Fix the file, or {REMEDY}") from err


def check_tables(tables: Tables, contract: Contract) -> None:
    """Raise SourceError unless rows drawn from the tables keep the contract."""
    found = {column.name: column for column in tables.columns}
    expected = {contract.target.name, *(feature.name for feature in drawn_features(contract))}
    wrong = sorted(expected ^ found.keys())
    for feature in drawn_features(contract):
        column = found.get(feature.name)
        if column and not fits(column, feature):
            wrong.append(feature.name)
    if wrong:
        raise SourceError(
            f"synthetic rows: column(s) {', '.join(wrong)} of the contract and of"
            f" {TABLES_PATH.name} do not match; synthetic rows exist for the census alone. Train"
            " on the rows of your source (`--data source`). If the census's contract changed:"
            f" {REMEDY}"
        )


def fits(column: Column, feature: Feature) -> bool:
    """Return True if every state of the column is a valid value of the feature."""
    if column.steps is None:
        return feature.is_categorical and column.states == known_categories(feature)
    ends = (column.steps.first[0], column.steps.last[-1])
    return not feature.is_categorical and not any(feature.check(value) for value in ends)


def drawn_features(contract: Contract) -> list[Feature]:
    """Return the features that are drawn; the rank of another feature follows from it."""
    return [feature for feature in contract.features if not feature.rank_of]


def draw_frame(tables: Tables, contract: Contract, n_rows: int, seed: int) -> pd.DataFrame:
    """Draw rows (n_rows, contract columns and target), typed as in `Dataset`."""
    rng = np.random.default_rng(seed)
    sizes = {column.name: column.n_groups for column in tables.columns}
    groups: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for column in tables.columns:
        config = configuration(column.parents, groups, sizes, n_rows)
        states = draw(probabilities(column, sizes), config, rng)
        groups[column.name] = np.array(column.groups)[states]
        if column.name == contract.target.name:
            values[column.name] = states
        elif column.steps:
            income = values[contract.target.name]
            values[column.name] = draw_integers(column.steps, states, income, rng)
        else:
            values[column.name] = np.array(column.states, dtype=object)[states]
    for feature in contract.features:
        if feature.rank_of:
            ranks = {name: i for i, name in enumerate(contract[feature.rank_of].categories, 1)}
            values[feature.name] = pd.Series(values[feature.rank_of]).map(ranks).to_numpy()
    return pd.DataFrame({name: values[name] for name in [*contract.by_name, contract.target.name]})


def configuration(
    parents: list[str], groups: Mapping[str, np.ndarray], sizes: Mapping[str, int], n_rows: int
) -> np.ndarray:
    """Return the parents' groups of each row as one number (n_rows,)."""
    config = np.zeros(n_rows, dtype=np.int64)
    for parent in parents:
        config = config * sizes[parent] + groups[parent]
    return config


def probabilities(column: Column, sizes: Mapping[str, int]) -> np.ndarray:
    """Return P(state | parents' groups), (n_configurations, n_states), coarsest table first."""
    n_states = len(column.states)
    probability = np.full((1, n_states), 1 / n_states)
    for parent, cells in zip([None, *column.parents], column.tables, strict=True):
        if parent is not None:
            probability = probability.repeat(sizes[parent], axis=0)
        probability = refine(probability, dense(cells, len(probability), n_states))
    if column.factors:
        by_income = probability.reshape(2, -1, n_states) * np.array(column.factors)[:, None, :]
        by_income /= by_income.sum(axis=2, keepdims=True)
        return by_income.reshape(probability.shape)
    return probability


def dense(cells: Cells, n_configs: int, n_states: int) -> Counts:
    """Return published cells as an array (n_configs, n_states + 1), the remainder last."""
    counts = np.zeros((n_configs, n_states + 1))
    counts[cells.config, cells.state] = cells.count
    return counts


def refine(prior: np.ndarray, published: Counts) -> np.ndarray:
    """Return the distribution of the published counts, smoothed by the prior.

    The prior distributes the remainder among the unpublished states.
    """
    counts = published[:, :-1]
    unpublished = np.where(counts > 0, 0, prior)
    unpublished /= np.maximum(unpublished.sum(axis=1, keepdims=True), 1e-12)
    counts = counts + published[:, -1:] * unpublished + SMOOTHING * prior
    return counts / counts.sum(axis=1, keepdims=True)


def draw(probability: np.ndarray, config: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a state (n_rows,) for each row from the distribution of its configuration.

    The cumulative distribution of configuration i lies between i and i + 1 on one line, so a
    single binary search serves every row.
    """
    n_configs, n_states = probability.shape
    cumulative = probability.cumsum(axis=1) / probability.sum(axis=1, keepdims=True)
    line = (cumulative + np.arange(n_configs)[:, None]).ravel()
    states = np.searchsorted(line, config + rng.random(len(config)), side="right")
    return np.clip(states - config * n_states, 0, n_states - 1)


def draw_integers(
    steps: Steps, bins: np.ndarray, income: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw values (n_rows,) in the given bins: a step by bin and income, then a value of it."""
    n_steps, n_bins = len(steps.bins), max(steps.bins) + 1
    counts = dense(steps.cells, 2, n_steps)[:, :-1]
    weights = counts + SMOOTHING * counts.sum(axis=0) / counts.sum() + 1e-9
    inside = np.array(steps.bins) == np.arange(n_bins)[:, None]
    by_income_and_bin = (weights[:, None, :] * inside).reshape(2 * n_bins, n_steps)
    step = draw(by_income_and_bin, income * n_bins + bins, rng)
    return rng.integers(np.array(steps.first)[step], np.array(steps.last)[step], endpoint=True)
