"""Synthetic census rows, drawn from the aggregate tables in `config/census_tables.json`.

Takes the place of `census.load_census` on a machine that has no census files: it gives the same
kind of `Census`, marked as synthetic. `python -m training.data.synthetic tables` makes the tables
from the real training split; `... compare` measures how far drawn rows are from the real ones.

The model is a Bayesian network with the income first and every other column after it, so that
each column depends on the income and on the two or three earlier columns that tell most about it
(k-dependence Bayes: Sahami, 1996, KDD-96, pp. 335-338). A column's table holds counts of its
states by the groups of its parents. An integer column has bins as states; inside a bin, steps
(single values, or short ranges) by income give the value.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from config.contract import CONTRACT_PATH, MISSING, Contract, Feature, load_contract
from config.runtime.settings import exit_with_message, read_settings
from training.data.census import Census, CensusError, load_census, write_atomically
from training.model.pipeline import DEFAULT_PARAMS, make_classifier, make_encoder
from training.settings import Settings

TABLES_PATH = CONTRACT_PATH.with_name("census_tables.json")
ROWS_TRAIN, ROWS_TEST = 32_561, 16_281  # as many as the real split has

# How the tables are made.
MINIMUM_COUNT = 10  # no published number stands for fewer people
ROUNDING = 5  # published counts are multiples of it
MANY_VALUES = 1000  # a column with more distinct values (fnlwgt) is read in units of GRAIN
GRAIN = 1000
BIN_SHARE = 0.03  # of the rows that do not hold the commonest value: the least of a bin
BIN_ROWS = 100  # and its least in any case
GROUP_SHARE = 0.1  # a parent's neighbouring bins are one group up to this share of rows
COMMON_SHARE = 0.01  # a parent's category with a smaller share joins the group of rare ones
MAX_PARENTS = 4
MIN_GAIN = 0.0005  # of mean log-likelihood, in nats, on held-out rows: the worth of a parent
FOLDS = 5
RAKING_ROUNDS = 10

SMOOTHING = 20  # rows; the weight of the table with one parent less, in every configuration

# How drawn rows are compared with real ones.
BINS = 20  # equal parts of the real rows; columns with fewer distinct values are taken as is
GOALS = {"worst_one_way": 0.02, "worst_two_way": 0.10, "roc_auc_synthetic": 0.88}

Counts = np.ndarray  # (n_configurations, n_states)


class Cells(msgspec.Struct, frozen=True):
    """The published cells of one table, as three lists of the same length.

    `config` is the parents' groups as one number in mixed radix, the last parent running
    fastest. A state after the last one stands for the sum of all unpublished cells of its row.
    """

    config: list[int]
    state: list[int]
    count: list[int]


class Steps(msgspec.Struct, frozen=True):
    """The values of an integer column: step i is every value from first[i] to last[i]."""

    first: list[int]
    last: list[int]
    bins: list[int]  # the bin that a step lies in
    cells: Cells  # config: the class of income, state: the step


class Column(msgspec.Struct, frozen=True):
    """One column of the network. `tables[k]` counts its states by the first k parents."""

    name: str
    parents: list[str]
    states: list[str]  # categories; for an integer column the first value of each bin
    groups: list[int]  # the group of each state when this column is a parent
    tables: list[Cells]
    factors: list[list[float]] = []  # by class of income and state; see `rake`
    steps: Steps | None = None

    @property
    def n_groups(self) -> int:
        """How many groups this column has as a parent."""
        return max(self.groups) + 1


class Tables(msgspec.Struct, frozen=True):
    """All that is kept of the census: the columns, each after its parents."""

    about: str
    rows: int
    minimum_count: int
    rounding: int
    columns: list[Column]


# --- drawing rows -------------------------------------------------------------------------------


def synthesize(
    contract: Contract,
    rows_train: int = ROWS_TRAIN,
    rows_test: int = ROWS_TEST,
    seed: int = 0,
    tables: Tables | None = None,
) -> Census:
    """A synthetic census that keeps the contract; the same seed draws the same rows.

    Raises CensusError if the tables were made for other columns or categories.
    """
    tables = tables or read_tables(TABLES_PATH)
    check_tables(tables, contract)
    frame = draw_frame(tables, contract, rows_train + rows_test, seed)
    test = frame[rows_train:].reset_index(drop=True)
    duplicates = int(frame[:rows_train].duplicated().sum() + test.duplicated().sum())
    return Census(frame[:rows_train], test, "synthetic", {}, duplicates)


def read_tables(path: Path) -> Tables:
    """The tables of a file. Raises CensusError if it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tables)
    except (OSError, msgspec.DecodeError) as err:
        raise CensusError(
            f"{path}: {err}; `python -m training.data.synthetic tables` makes it from the real files"
        ) from err


def check_tables(tables: Tables, contract: Contract) -> None:
    """Raises CensusError if rows drawn from the tables would not keep the contract."""
    found = {column.name: column for column in tables.columns}
    expected = {contract.target.name, *(feature.name for feature in modelled(contract))}
    wrong = sorted(expected ^ found.keys())
    for feature in modelled(contract):
        column = found.get(feature.name)
        if column and not fits(column, feature):
            wrong.append(feature.name)
    if wrong:
        raise CensusError(
            f"census tables do not fit config/features.yaml in column(s) {', '.join(wrong)}; "
            "make them anew: `python -m training.data.synthetic tables`"
        )


def fits(column: Column, feature: Feature) -> bool:
    """True if every state of the column is a value that the feature may have."""
    if column.steps is None:
        return feature.is_categorical and column.states == states_of(feature)
    ends = (column.steps.first[0], column.steps.last[-1])
    return not feature.is_categorical and not any(feature.check(value) for value in ends)


def modelled(contract: Contract) -> list[Feature]:
    """The features that are drawn; one that is the rank of another follows from it."""
    return [feature for feature in contract.features if not feature.rank_of]


def states_of(feature: Feature) -> list[str]:
    """The categories of a feature, with '?' where the files may have it."""
    may_be_missing = feature.missing == "category" or feature.unseen == "missing"
    return [*feature.categories, MISSING] if may_be_missing else list(feature.categories)


def draw_frame(tables: Tables, contract: Contract, n_rows: int, seed: int) -> pd.DataFrame:
    """Drawn rows (n_rows, contract columns and target), typed as `Census` has them."""
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
    """The parents' groups of each row as one number (n_rows,)."""
    config = np.zeros(n_rows, dtype=np.int64)
    for parent in parents:
        config = config * sizes[parent] + groups[parent]
    return config


def probabilities(column: Column, sizes: Mapping[str, int]) -> np.ndarray:
    """P(state | parents' groups), (n_configurations, n_states), from the coarsest table down."""
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
    """Published cells as an array (n_configs, n_states + 1); the last column is the remainder."""
    counts = np.zeros((n_configs, n_states + 1))
    counts[cells.config, cells.state] = cells.count
    return counts


def refine(prior: np.ndarray, published: Counts) -> np.ndarray:
    """The distribution that the counts give where they are published, and the prior elsewhere.

    The remainder is shared out among the unpublished states as the prior has them.
    """
    counts = published[:, :-1]
    unpublished = np.where(counts > 0, 0, prior)
    unpublished /= np.maximum(unpublished.sum(axis=1, keepdims=True), 1e-12)
    counts = counts + published[:, -1:] * unpublished + SMOOTHING * prior
    return counts / counts.sum(axis=1, keepdims=True)


def draw(probability: np.ndarray, config: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One state (n_rows,) for each row, from its configuration's distribution.

    All the cumulative distributions lie on one line, that of configuration i from i to i + 1,
    so that a single binary search serves every row.
    """
    n_configs, n_states = probability.shape
    cumulative = probability.cumsum(axis=1) / probability.sum(axis=1, keepdims=True)
    line = (cumulative + np.arange(n_configs)[:, None]).ravel()
    states = np.searchsorted(line, config + rng.random(len(config)), side="right")
    return np.clip(states - config * n_states, 0, n_states - 1)


def draw_integers(
    steps: Steps, bins: np.ndarray, income: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Values (n_rows,) in the given bins: a step by bin and income, then any value of the step."""
    n_steps, n_bins = len(steps.bins), max(steps.bins) + 1
    counts = dense(steps.cells, 2, n_steps)[:, :-1]
    weights = counts + SMOOTHING * counts.sum(axis=0) / counts.sum() + 1e-9
    inside = np.array(steps.bins) == np.arange(n_bins)[:, None]
    by_income_and_bin = (weights[:, None, :] * inside).reshape(2 * n_bins, n_steps)
    step = draw(by_income_and_bin, income * n_bins + bins, rng)
    return rng.integers(np.array(steps.first)[step], np.array(steps.last)[step], endpoint=True)


# --- making the tables --------------------------------------------------------------------------


def build_tables(frame: pd.DataFrame, contract: Contract) -> Tables:
    """The tables of a checked frame: the columns in the order of what they tell of the income."""
    target = contract.target.name
    states = {target: frame[target].to_numpy()}
    columns = [root(states[target], contract)]
    shapes = {feature.name: shape_of(frame, feature, target) for feature in modelled(contract)}
    states |= {name: state for name, (_, state) in shapes.items()}
    order = sorted(shapes, key=lambda name: -mutual_information(states[name], states[target]))
    groups = {target: states[target]}
    for name in order:
        shape = shapes[name][0]
        column = attach(shape, states[name], columns, groups)
        groups[name] = np.array(column.groups)[states[name]]
        columns.append(column)
    about = (
        "Aggregate counts of the training split of the UCI Adult census extract "
        "(doi:10.24432/C5XW20, CC BY 4.0), for drawing synthetic rows. Made by "
        "`python -m training.data.synthetic tables`, which says what the fields mean."
    )
    return Tables(about, len(frame), MINIMUM_COUNT, ROUNDING, columns)


def root(income: np.ndarray, contract: Contract) -> Column:
    """The income, which every other column depends on."""
    cells = sparse(publish(np.bincount(income, minlength=2)[None, :]))
    return Column(contract.target.name, [], list(contract.target.labels), [0, 1], [cells])


def shape_of(frame: pd.DataFrame, feature: Feature, target: str) -> tuple[Column, np.ndarray]:
    """A column without parents and tables, and the state (n_samples,) of each row."""
    if feature.is_categorical:
        names = states_of(feature)
        states = pd.Categorical(frame[feature.name], categories=names).codes.astype(np.int64)
        shares = np.bincount(states, minlength=len(names)) / len(states)
        common = shares >= COMMON_SHARE
        groups = np.where(common, common.cumsum() - 1, common.sum())
        return Column(feature.name, [], names, groups.tolist(), []), states
    values = frame[feature.name]
    steps = make_steps(values, frame[target].to_numpy())
    states = np.array(steps.bins)[step_of(values, steps.first)]
    firsts = [str(steps.first[steps.bins.index(i)]) for i in range(max(steps.bins) + 1)]
    return Column(feature.name, [], firsts, group_bins(states), [], steps=steps), states


def make_steps(values: pd.Series, income: np.ndarray) -> Steps:
    """Single values where they are common enough, else short ranges; and bins of those.

    A rare value between two common ones is not told of; it counts as the common one before it.
    """
    grain = GRAIN if values.nunique() > MANY_VALUES else 1
    counts = (values // grain * grain).value_counts().sort_index()
    run = runs(counts.to_numpy(), MINIMUM_COUNT)
    rows, ranges = counts.groupby(run).sum(), counts.index.to_series().groupby(run)
    first = ranges.min()[rows >= MINIMUM_COUNT].tolist()
    last = (ranges.max()[rows >= MINIMUM_COUNT] + grain - 1).tolist()
    step = step_of(values, first)
    sizes = np.bincount(step)
    least = max(BIN_ROWS, BIN_SHARE * (len(values) - sizes.max()))
    by_income = np.bincount(income * len(sizes) + step, minlength=2 * len(sizes))
    cells = sparse(publish(by_income.reshape(2, -1), remainder=False))
    return Steps(first, last, runs(sizes, least).tolist(), cells)


def step_of(values: pd.Series, first: list[int]) -> np.ndarray:
    """The step (n_samples,) that each value lies in, or comes next after."""
    return np.maximum(np.searchsorted(first, values.to_numpy(), side="right") - 1, 0)


def runs(sizes: np.ndarray, least: float) -> np.ndarray:
    """Neighbours merged from the left into runs of at least `least`; the run of each (n,).

    One that is large enough by itself stays by itself, even if that leaves a small run before.
    """
    run, held, labels = -1, np.inf, []
    for size in sizes:
        if held >= least or size >= least:
            run, held = run + 1, 0
        held += size
        labels.append(run)
    return np.array(labels)


def group_bins(bins: np.ndarray) -> list[int]:
    """The group of each bin: neighbours together up to a share of the rows that vary.

    The commonest value (no capital gain at all) does not count, or the rest were one group.
    """
    sizes = np.bincount(bins)
    return runs(sizes, GROUP_SHARE * (len(bins) - sizes.max())).tolist()


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """What two columns tell of each other, in nats."""
    joint = np.bincount(a * (b.max() + 1) + b).astype(float)
    joint = np.append(joint, np.zeros(-len(joint) % (b.max() + 1))).reshape(-1, b.max() + 1)
    joint /= joint.sum()
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    held = joint > 0
    return float((joint[held] * np.log(joint[held] / product[held])).sum())


def attach(
    shape: Column, states: np.ndarray, earlier: list[Column], groups: Mapping[str, np.ndarray]
) -> Column:
    """The column with the income and the best other parents, added while held-out rows gain."""
    sizes = {column.name: column.n_groups for column in earlier}
    parents, candidates = [earlier[0].name], [column.name for column in earlier[1:]]
    best = held_out_score(shape, states, parents, groups, sizes)
    while candidates and len(parents) < MAX_PARENTS:
        scores = [
            held_out_score(shape, states, [*parents, name], groups, sizes) for name in candidates
        ]
        if max(scores) < best + MIN_GAIN:
            break
        best = max(scores)
        parents.append(candidates.pop(scores.index(best)))
    column = tabulate(shape, states, parents, groups, sizes)
    factors = rake(column, configuration(parents, groups, sizes, len(states)), sizes)
    return msgspec.structs.replace(column, factors=factors)


def rake(column: Column, config: np.ndarray, sizes: Mapping[str, int]) -> list[list[float]]:
    """Factors (2, n_states) on the probabilities that restore the shares of states by income.

    Rare states fall below the minimum count in many configurations at once and would be drawn
    too seldom. Source: Deming & Stephan (1940), doi:10.1214/aoms/1177731829.
    """
    n_states = len(column.states)
    n_configs = int(np.prod([sizes[name] for name in column.parents]))
    rows = np.bincount(config, minlength=n_configs).astype(float)
    weights = np.stack([part / part.sum() for part in np.split(rows, 2)])[:, :, None]
    coarse = msgspec.structs.replace(column, parents=column.parents[:1], tables=column.tables[:2])
    wanted = probabilities(coarse, sizes)
    factors = np.ones((2, n_states))
    for _ in range(RAKING_ROUNDS):
        raked = msgspec.structs.replace(column, factors=factors.tolist())
        drawn = probabilities(raked, sizes).reshape(2, -1, n_states)
        factors *= wanted / (weights * drawn).sum(axis=1)
    return factors.round(3).tolist()


def tabulate(
    shape: Column,
    states: np.ndarray,
    parents: list[str],
    groups: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
) -> Column:
    """The column with these parents and its published tables."""
    n_states, tables = len(shape.states), []
    for k in range(len(parents) + 1):
        config = configuration(parents[:k], groups, sizes, len(states))
        n_configs = int(np.prod([sizes[parent] for parent in parents[:k]], dtype=int))
        counts = np.bincount(config * n_states + states, minlength=n_configs * n_states)
        tables.append(sparse(publish(counts.reshape(n_configs, n_states))))
    return msgspec.structs.replace(shape, parents=parents, tables=tables)


def publish(counts: Counts, remainder: bool = True) -> Counts:
    """What of the counts may be told: no number below the minimum, multiples of ROUNDING.

    Smaller cells are summed into a last column; a remainder that is too small itself is left out.
    """
    shown = np.where(counts >= MINIMUM_COUNT, counts, 0)
    rest = (counts - shown).sum(axis=1, keepdims=True)
    rest = np.where(remainder & (rest >= MINIMUM_COUNT), rest, 0)
    return np.rint(np.hstack([shown, rest]) / ROUNDING).astype(int) * ROUNDING


def sparse(published: Counts) -> Cells:
    """The cells that are not zero."""
    config, state = np.nonzero(published)
    return Cells(config.tolist(), state.tolist(), published[config, state].tolist())


def held_out_score(
    shape: Column,
    states: np.ndarray,
    parents: list[str],
    groups: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
) -> float:
    """Mean log-likelihood of rows, each under tables made without its fold."""
    fold = np.arange(len(states)) % FOLDS
    config = configuration(parents, groups, sizes, len(states))
    likelihood = np.empty(len(states))
    for i in range(FOLDS):
        kept, out = fold != i, fold == i
        kept_groups = {parent: groups[parent][kept] for parent in parents}
        column = tabulate(shape, states[kept], parents, kept_groups, sizes)
        likelihood[out] = probabilities(column, sizes)[config[out], states[out]]
    return float(np.log(np.maximum(likelihood, 1e-9)).mean())


def write_tables(tables: Tables, path: Path) -> None:
    """Writes the tables as JSON, one column of the network a line."""
    head = msgspec.json.encode(msgspec.structs.replace(tables, columns=[]))
    columns = b",\n".join(msgspec.json.encode(column) for column in tables.columns)
    write_atomically(path, head.removesuffix(b"]}") + b"\n" + columns + b"\n]}\n")


# --- how good they are --------------------------------------------------------------------------


def compare(real: Census, synthetic: Census, contract: Contract) -> dict[str, Any]:
    """How far the synthetic training split is from the real one, and what a model makes of it.

    Distances are total variation, in [0, 1]; integer columns with more than BINS distinct values
    are cut into BINS equal parts of the real rows. `roc_auc_synthetic` is of a model that was
    trained on the synthetic rows, `roc_auc_real` on the real ones; both on the real test split.
    """
    bins = {name: binned(real.train[name], synthetic.train[name]) for name in real.train}
    one_way = {name: total_variation(*pair) for name, pair in bins.items()}
    two_way = {}
    for (a, (real_a, drawn_a)), (b, (real_b, drawn_b)) in itertools.combinations(bins.items(), 2):
        n_b = max(real_b.max(), drawn_b.max()) + 1
        two_way[f"{a} x {b}"] = total_variation(real_a * n_b + real_b, drawn_a * n_b + drawn_b)
    return {
        "worst_one_way": max(one_way.values()),
        "worst_two_way": max(two_way.values()),
        "roc_auc_synthetic": fitted_auc(synthetic.train, real.test, contract),
        "roc_auc_real": fitted_auc(real.train, real.test, contract),
        "one_way": one_way,
        "two_way": two_way,
    }


def binned(real: pd.Series, synthetic: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as numbers of the same bins (or of the same distinct values)."""
    if real.dtype == object or real.nunique() <= BINS:
        names = sorted(set(real) | set(synthetic))
        codes = [pd.Categorical(part, categories=names).codes for part in (real, synthetic)]
        return codes[0].astype(np.int64), codes[1].astype(np.int64)
    edges = np.unique(np.quantile(real, np.arange(1, BINS) / BINS))
    return (
        np.searchsorted(edges, real, side="right"),
        np.searchsorted(edges, synthetic, side="right"),
    )


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the sum of the differences between two columns' shares of each bin, in [0, 1]."""
    size = max(a.max(), b.max()) + 1
    shares = [np.bincount(part, minlength=size) / len(part) for part in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def fitted_auc(train: pd.DataFrame, test: pd.DataFrame, contract: Contract) -> float:
    """ROC AUC on `test` of an XGBoost model with default parameters fitted on `train`."""
    columns, target = list(contract.input_names), contract.target.name
    encoder = make_encoder(contract)
    model = make_classifier(DEFAULT_PARAMS, seed=0)
    model.fit(encoder.fit_transform(train[columns]), train[target])
    probability = model.predict_proba(encoder.transform(test[columns]))[:, 1]
    return float(roc_auc_score(test[target], probability))


def report(comparison: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The comparison as a figures document, with the goals and whether they are met."""
    results = []
    for name, goal in GOALS.items():
        value = comparison[name]
        met = value >= goal if name.startswith("roc_auc") else value <= goal
        results.append({"name": name, "value": value, "unit": "", "goal": goal, "met": met})
    others = {"roc_auc_real": comparison["roc_auc_real"]}
    others |= {f"one_way {name}": value for name, value in comparison["one_way"].items()}
    others |= {f"two_way {name}": value for name, value in comparison["two_way"].items()}
    results += [{"name": name, "value": value, "unit": ""} for name, value in others.items()]
    results.sort(key=lambda result: "goal" not in result)
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    return {"machine": machine, "command": command, "results": results}


# --- commands -----------------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.data.synthetic")
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables", help="make the aggregate tables from the real files")
    tables.add_argument("--out", type=Path, default=TABLES_PATH)
    distance = commands.add_parser("compare", help="measure drawn rows against the real files")
    distance.add_argument("--rows", type=int, default=ROWS_TRAIN)
    distance.add_argument("--seed", type=int, default=0)
    distance.add_argument("--tables", type=Path, default=TABLES_PATH)
    distance.add_argument("--out", type=Path, default=Path("build/bench/synthesis.json"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command on the real files; an expected failure is one line on standard error."""
    options = parse(arguments)
    contract, settings = load_contract(), read_settings(Settings)
    folder = Path(settings.census_data_dir) if settings.census_data_dir else None
    try:
        census = load_census(contract, settings.raw_dir, folder, settings.quarantine)
        COMMANDS[options.command](options, census, contract)
    except CensusError as err:
        print(err, file=sys.stderr)
        sys.exit(1)


def run_tables(options: argparse.Namespace, census: Census, contract: Contract) -> None:
    """`tables`: the test split has no part in them."""
    write_tables(build_tables(census.train, contract), options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


def run_compare(options: argparse.Namespace, census: Census, contract: Contract) -> None:
    """`compare`: prints what has a goal and the largest distances, and writes all of them."""
    tables = read_tables(options.tables)
    start = time.perf_counter()
    synthetic = synthesize(contract, options.rows, 0, options.seed, tables)
    seconds = time.perf_counter() - start
    command = (
        f"python -m training.data.synthetic compare --rows {options.rows} --seed {options.seed}"
    )
    document = report(compare(census, synthetic, contract), command)
    document["results"].append({"name": "draw_seconds", "value": seconds, "unit": "s"})
    write_atomically(options.out, json.dumps(document, indent=1).encode())
    print_table(document["results"])
    print(f"all distances: {options.out}")


def print_table(results: list[dict[str, Any]]) -> None:
    """The goals, then the three worst pairs of columns."""
    pairs = sorted(
        (row for row in results if row["name"].startswith("two_way")), key=lambda row: -row["value"]
    )
    others = [row for row in results if " " not in row["name"]]
    for row in [*others, *pairs[:3]]:
        goal = f"goal {row['goal']}: {'met' if row['met'] else 'missed'}" if "goal" in row else ""
        print(f"{row['name']:45} {row['value']:8.4f}  {goal}".rstrip())


COMMANDS = {"tables": run_tables, "compare": run_compare}

if __name__ == "__main__":
    exit_with_message(main)
