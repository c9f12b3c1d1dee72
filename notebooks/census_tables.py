"""Make the aggregate census tables, and compare synthetic rows with real ones.

    python -m notebooks.census_tables tables
    python -m notebooks.census_tables compare

Both read the real census. `training.data.synthetic` draws rows from the tables, and its docstring
explains their fields.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sklearn.metrics import mutual_info_score, roc_auc_score

from config.contract import Contract, Feature, load_contract
from config.runtime.settings import exit_with_message, read_settings
from training.data.dataset import Dataset, load_dataset
from training.data.errors import SourceError
from training.data.storage import write_atomically
from training.data.synthetic import (
    ROWS_TRAIN,
    TABLES_PATH,
    Cells,
    Column,
    Counts,
    Steps,
    Tables,
    configuration,
    drawn_features,
    probabilities,
    read_tables,
    synthesize,
)
from training.data.validation import known_categories
from training.model.pipeline import DEFAULT_PARAMS, make_classifier, make_encoder
from training.settings import Settings

# How the tables are made.
MIN_COUNT = 10  # people that a published number stands for
ROUNDING = 5  # published counts are multiples of it
MANY_VALUES = 1000  # a column with more distinct values (fnlwgt) is read in units of GRAIN
GRAIN = 1000
MIN_BIN_SHARE = 0.03  # of the rows without the most common value
MIN_BIN_ROWS = 100
GROUP_SHARE = 0.1  # neighbouring bins of a parent form a group up to this share of rows
COMMON_SHARE = 0.01  # rarer categories of a parent form one group
MAX_PARENTS = 4
MIN_GAIN = 0.0005  # of a parent: mean log-likelihood of held-out rows, in nats
FOLDS = 5
RAKING_ROUNDS = 10

# How drawn rows are compared with real ones.
BINS = 20  # of equal count in the real rows, for columns with more distinct values
GOALS = {"worst_one_way": 0.02, "worst_two_way": 0.10, "roc_auc_synthetic": 0.88}


# --- making the tables --------------------------------------------------------------------------


def build_tables(frame: pd.DataFrame, contract: Contract) -> Tables:
    """Return the tables of a checked frame, columns ordered by mutual information with income."""
    target = contract.target.name
    states = {target: frame[target].to_numpy()}
    columns = [root(states[target], contract)]
    shapes = {one.name: shape_of(frame, one, target) for one in drawn_features(contract)}
    states |= {name: state for name, (_, state) in shapes.items()}
    order = sorted(shapes, key=lambda name: -mutual_info_score(states[name], states[target]))
    groups = {target: states[target]}
    for name in order:
        shape = shapes[name][0]
        column = attach(shape, states[name], columns, groups)
        groups[name] = np.array(column.groups)[states[name]]
        columns.append(column)
    about = (
        "Aggregate counts of the training split of the UCI Adult census extract "
        "(doi:10.24432/C5XW20, CC BY 4.0), for drawing synthetic rows. Made by "
        "`python -m notebooks.census_tables tables`; training/data/synthetic.py explains the "
        "fields."
    )
    return Tables(about, len(frame), MIN_COUNT, ROUNDING, columns)


def root(income: np.ndarray, contract: Contract) -> Column:
    """Return the income, a parent of every other column."""
    cells = sparse(publish(np.bincount(income, minlength=2)[None, :]))
    return Column(contract.target.name, [], list(contract.target.labels), [0, 1], [cells])


def shape_of(frame: pd.DataFrame, feature: Feature, target: str) -> tuple[Column, np.ndarray]:
    """Return a column without parents and tables, and the state (n_samples,) of each row."""
    if feature.is_categorical:
        names = known_categories(feature)
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
    """Return common values as steps, rare ones in short ranges, and bins of these.

    A rare value between two common ones is not published; it counts as the common one before it.
    """
    grain = GRAIN if values.nunique() > MANY_VALUES else 1
    counts = (values // grain * grain).value_counts().sort_index()
    run = merge_runs(counts.to_numpy(), MIN_COUNT)
    rows, ranges = counts.groupby(run).sum(), counts.index.to_series().groupby(run)
    first = ranges.min()[rows >= MIN_COUNT].tolist()
    last = (ranges.max()[rows >= MIN_COUNT] + grain - 1).tolist()
    step = step_of(values, first)
    sizes = np.bincount(step)
    min_rows = max(MIN_BIN_ROWS, MIN_BIN_SHARE * (len(values) - sizes.max()))
    by_income = np.bincount(income * len(sizes) + step, minlength=2 * len(sizes))
    cells = sparse(publish(by_income.reshape(2, -1), remainder=False))
    return Steps(first, last, merge_runs(sizes, min_rows).tolist(), cells)


def step_of(values: pd.Series, first: list[int]) -> np.ndarray:
    """Return the step (n_samples,) that contains each value, or the one before it."""
    return np.maximum(np.searchsorted(first, values.to_numpy(), side="right") - 1, 0)


def merge_runs(sizes: np.ndarray, minimum: float) -> np.ndarray:
    """Merge neighbours from the left into runs of at least `minimum`; return the run of each (n,).

    A size that is large enough starts its own run, even after a run that is too small.
    """
    run, held, labels = -1, np.inf, []
    for size in sizes:
        if held >= minimum or size >= minimum:
            run, held = run + 1, 0
        held += size
        labels.append(run)
    return np.array(labels)


def group_bins(bins: np.ndarray) -> list[int]:
    """Return the group of each bin: neighbours up to a share of the rows that vary.

    The most common value (no capital gain) does not count; the other bins would form one group.
    """
    sizes = np.bincount(bins)
    return merge_runs(sizes, GROUP_SHARE * (len(bins) - sizes.max())).tolist()


def attach(
    shape: Column, states: np.ndarray, earlier: list[Column], groups: Mapping[str, np.ndarray]
) -> Column:
    """Return the column with income and the best other parents, by held-out rows."""
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
    """Return factors (2, n_states) on the probabilities that restore the shares by income.

    Rare states are below the minimum count in many configurations and would be drawn too seldom.
    Source: Deming & Stephan (1940), doi:10.1214/aoms/1177731829.
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
    """Return the column with these parents and its published tables."""
    n_states, tables = len(shape.states), []
    for k in range(len(parents) + 1):
        config = configuration(parents[:k], groups, sizes, len(states))
        n_configs = int(np.prod([sizes[parent] for parent in parents[:k]], dtype=int))
        counts = np.bincount(config * n_states + states, minlength=n_configs * n_states)
        tables.append(sparse(publish(counts.reshape(n_configs, n_states))))
    return msgspec.structs.replace(shape, parents=parents, tables=tables)


def publish(counts: Counts, remainder: bool = True) -> Counts:
    """Return the counts that may be published: at least MIN_COUNT, multiples of ROUNDING.

    The last column is the sum of the smaller cells, or 0 if it is too small itself.
    """
    shown = np.where(counts >= MIN_COUNT, counts, 0)
    rest = (counts - shown).sum(axis=1, keepdims=True)
    rest = np.where(remainder & (rest >= MIN_COUNT), rest, 0)
    return np.rint(np.hstack([shown, rest]) / ROUNDING).astype(int) * ROUNDING


def sparse(published: Counts) -> Cells:
    """Return the non-zero cells."""
    config, state = np.nonzero(published)
    return Cells(config.tolist(), state.tolist(), published[config, state].tolist())


def held_out_score(
    shape: Column,
    states: np.ndarray,
    parents: list[str],
    groups: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
) -> float:
    """Return the mean log-likelihood of rows, each under tables made without its fold."""
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
    """Write the tables as JSON, one column of the network a line."""
    head = msgspec.json.encode(msgspec.structs.replace(tables, columns=[]))
    columns = b",\n".join(msgspec.json.encode(column) for column in tables.columns)
    write_atomically(path, head.removesuffix(b"]}") + b"\n" + columns + b"\n]}\n")


# --- comparing drawn with real rows -------------------------------------------------------------


def compare(real: Dataset, synthetic: Dataset, contract: Contract) -> dict[str, float]:
    """Return how far the synthetic training split is from the real one.

    Distances are total variation, in [0, 1], of single columns (`one_way age`) and of pairs.
    Integer columns with more than BINS values are cut into BINS bins of equal count. Both ROC AUCs
    are on the real test split, of models fitted on synthetic and on real rows.
    """
    bins = {name: binned(real.train[name], synthetic.train[name]) for name in real.train}
    one_way = {f"one_way {name}": total_variation(*pair) for name, pair in bins.items()}
    two_way = {}
    for (a, (real_a, drawn_a)), (b, (real_b, drawn_b)) in itertools.combinations(bins.items(), 2):
        n_b = max(real_b.max(), drawn_b.max()) + 1
        distance = total_variation(real_a * n_b + real_b, drawn_a * n_b + drawn_b)
        two_way[f"two_way {a} x {b}"] = distance
    return {
        "worst_one_way": max(one_way.values()),
        "worst_two_way": max(two_way.values()),
        "roc_auc_synthetic": fitted_auc(synthetic.train, real.test, contract),
        "roc_auc_real": fitted_auc(real.train, real.test, contract),
        **one_way,
        **two_way,
    }


def binned(real: pd.Series, synthetic: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return both columns as numbers of the same bins, or of the same distinct values."""
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
    """Return half the sum of the differences between two columns' shares of each bin."""
    size = max(a.max(), b.max()) + 1
    shares = [np.bincount(part, minlength=size) / len(part) for part in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def fitted_auc(train: pd.DataFrame, test: pd.DataFrame, contract: Contract) -> float:
    """Return the ROC AUC on `test` of XGBoost with default parameters, fitted on `train`."""
    columns, target = list(contract.input_names), contract.target.name
    encoder = make_encoder(contract)
    model = make_classifier(DEFAULT_PARAMS, seed=0)
    model.fit(encoder.fit_transform(train[columns]), train[target])
    probability = model.predict_proba(encoder.transform(test[columns]))[:, 1]
    return float(roc_auc_score(test[target], probability))


def is_met(name: str, value: float) -> bool:
    """Return True if a figure meets its goal."""
    return value >= GOALS[name] if name.startswith("roc_auc") else value <= GOALS[name]


# --- commands -----------------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.census_tables", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables", help="make the aggregate tables from the real files")
    tables.add_argument("--out", type=Path, default=TABLES_PATH)
    distance = commands.add_parser("compare", help="compare drawn rows with the real files")
    distance.add_argument("--rows", type=int, default=ROWS_TRAIN)
    distance.add_argument("--seed", type=int, default=0)
    distance.add_argument("--tables", type=Path, default=TABLES_PATH)
    distance.add_argument("--out", type=Path, default=Path("build/bench/synthesis.json"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run one command on the real files."""
    options = parse(arguments)
    contract, settings = load_contract(), read_settings(Settings)
    try:
        census = load_dataset(contract, settings)
        if options.command == "tables":
            write_tables(build_tables(census.train, contract), options.out)
            print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
        else:
            run_compare(options, census, contract)
    except SourceError as err:
        print(err, file=sys.stderr)
        sys.exit(1)


def run_compare(options: argparse.Namespace, census: Dataset, contract: Contract) -> None:
    """Print the figures with a goal and the largest distances; write all figures."""
    drawn = synthesize(contract, options.rows, 0, options.seed, read_tables(options.tables))
    figures: dict[str, Any] = compare(census, drawn, contract)
    results = [
        {"name": name, "value": value}
        | ({"goal": GOALS[name], "met": is_met(name, value)} if name in GOALS else {})
        for name, value in figures.items()
    ]
    write_atomically(options.out, json.dumps({"results": results}, indent=1).encode())
    pairs = [row for row in results if row["name"].startswith("two_way")]
    worst = sorted(pairs, key=lambda row: -row["value"])[:3]
    for row in [*(row for row in results if " " not in row["name"]), *worst]:
        goal = f"goal {row['goal']}: {'met' if row['met'] else 'missed'}" if "goal" in row else ""
        print(f"{row['name']:45} {row['value']:8.4f}  {goal}".rstrip())
    print(f"all distances: {options.out}")


if __name__ == "__main__":
    exit_with_message(main)
