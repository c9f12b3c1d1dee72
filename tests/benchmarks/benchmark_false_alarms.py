"""How many false alarms there are, against how many are promised, and how soon shifts are seen.

    make bench NAME=false-alarms

Months of undrifted windows on census rows: each month a reference of its own, thresholds found from
it as the service finds them, and a window every 15 minutes, judged by the service's own code. The
rows are those of the whole census, each with the out-of-fold answer of a model, so that reference
and windows are of one world. A single month says little of an expected number of 1, so there are
several, and the goal is held against their mean, less what chance explains of it.

Then the power: how many windows a shift of one kind lasts until it is seen.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import OrdinalEncoder

from config.contract import CONTRACT_PATH, Contract, load_contract
from evidently_service import scores
from evidently_service.drift import monitored_frame
from evidently_service.judgement import are_enough, judged
from evidently_service.measurement import Judgement
from evidently_service.monitoring import Monitoring, load_monitoring
from evidently_service.scores import Counts
from evidently_service.thresholds import find_thresholds
from tests.benchmarks.census import read_census
from tests.benchmarks.report import at_most, result, write

REFERENCE_ROWS = 5000  # training.orchestration.flows
LIMIT_S = 600  # of a month of windows
CHUNK = 80  # windows counted at once
PERSONS_EACH = 20  # repetitions of a shift
MOST_WINDOWS = 20  # that a shift is waited for

Shift = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


def people(contract: Contract) -> pd.DataFrame:
    """Every census row as it is monitored, with a model's out-of-fold answers."""
    census = read_census(contract)
    frame = pd.concat([census.train, census.test], ignore_index=True)
    X = frame[list(contract.input_names)].copy()
    texts = [feature.name for feature in contract.inputs if feature.is_categorical]
    X[texts] = OrdinalEncoder().fit_transform(X[texts].astype(object).fillna("?"))
    model = HistGradientBoostingClassifier(categorical_features=texts, random_state=0)
    labels = frame[contract.target.name].astype(int)
    probability = cross_val_predict(model, X, labels, method="predict_proba")[:, 1]
    answered = frame.assign(probability=probability, income_class=(probability >= 0.4).astype(int))
    names = [str(name) for name in answered]
    rows = answered.itertuples(index=False)
    return monitored_frame((dict(zip(names, row, strict=True)) for row in rows), contract)


class World:
    """Rows that are drawn again and again, as codes of their columns' distinct values."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self.coded = {name: pd.factorize(rows[name], sort=True) for name in rows}

    def month(
        self, monitoring: Monitoring, windows: int, rng: np.random.Generator
    ) -> tuple[list[dict[str, float]], float]:
        """The ratios of each window against one new reference, and the seconds they took."""
        order = rng.permutation(len(self.rows))
        reference, others = order[:REFERENCE_ROWS], order[REFERENCE_ROWS:]
        judging = judging_of(self.rows.iloc[reference], monitoring)
        started = time.monotonic()
        found: list[dict[str, float]] = []
        for first in range(0, windows, CHUNK):
            size = min(CHUNK, windows - first), monitoring.window_rows
            chosen = others[rng.integers(0, len(others), size)]
            found += self.ratios(judging, reference, chosen)
        return found, time.monotonic() - started

    def ratios(
        self, judging: Monitoring, reference: np.ndarray, chosen: np.ndarray
    ) -> list[dict[str, float]]:
        """Each window's ratio by column; `chosen` (n_windows, window_rows) row numbers."""
        by_column = {}
        for name, test in judging.tests.items():
            codes, values = self.coded[name]
            kinds = len(values)
            windows = np.stack([np.bincount(codes[one], minlength=kinds) for one in chosen])
            of_reference = np.bincount(codes[reference], minlength=kinds)
            numeric = pd.api.types.is_numeric_dtype(self.rows[name])
            counts = Counts(np.asarray(values), of_reference, windows)
            by_column[name] = [
                test.ratio(float(score)) for score in scores.scores(test.test, counts, numeric)
            ]
        return [
            dict(zip(by_column, one, strict=True)) for one in zip(*by_column.values(), strict=True)
        ]


def judging_of(reference: pd.DataFrame, monitoring: Monitoring) -> Monitoring:
    """The monitoring with the thresholds of a reference."""
    found = find_thresholds(reference, monitoring, monitoring.window_rows)
    return monitoring.with_thresholds(found)


def alarms(windows: list[dict[str, float]], monitoring: Monitoring) -> tuple[dict[str, int], int]:
    """How often each column and the dataset became drifted."""
    judgement = Judgement(reference="1")
    columns, dataset = dict.fromkeys(monitoring.tests, 0), 0
    for number, ratios in enumerate(windows):
        after = judged(judgement, ratios, float(number), monitoring)
        for name in set(after.persistent) - set(judgement.persistent):
            columns[name] += 1
        after_is, before_is = (are_enough(one.persistent, monitoring) for one in (after, judgement))
        dataset += after_is and not before_is
        judgement = after
    return columns, dataset


def with_gain_of_more(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Half as many people more have a capital gain."""
    gains = rows.loc[rows["capital_gain"] > 0, "capital_gain"].to_numpy()
    chance = 0.5 * len(gains) / (len(rows) - len(gains))
    more = (rows["capital_gain"] == 0) & (rng.random(len(rows)) < chance)
    return rows.assign(capital_gain=rows["capital_gain"].mask(more, rng.choice(gains, len(rows))))


def some(column: str, value: str, share: float) -> Shift:
    """That share of the rows get this value."""
    return lambda rows, rng: rows.assign(
        **{column: rows[column].mask(rng.random(len(rows)) < share, value)}
    )


SHIFTS: dict[str, tuple[str, Shift]] = {
    "age: 2 years more": ("age", lambda rows, _: rows.assign(age=rows["age"] + 2)),
    "age: 5 years more": ("age", lambda rows, _: rows.assign(age=rows["age"] + 5)),
    "hours_per_week: in minutes": (
        "hours_per_week",
        lambda rows, _: rows.assign(hours_per_week=rows["hours_per_week"] * 60),
    ),
    "capital_gain: half as many people more": ("capital_gain", with_gain_of_more),
    "capital_gain: 0 for all": ("capital_gain", lambda rows, _: rows.assign(capital_gain=0)),
    "occupation: missing in 5 %": ("occupation", some("occupation", "?", 0.05)),
    "workclass: 10 % more self-employed": ("workclass", some("workclass", "Self-emp-inc", 0.1)),
    "probability: 0.05 more": (
        "probability",
        lambda rows, _: rows.assign(probability=rows["probability"] + 0.05),
    ),
}


def windows_until_seen(world: World, monitoring: Monitoring, seed: int) -> dict[str, list[int]]:
    """After how many shifted windows each shift is seen, at most MOST_WINDOWS + 1."""
    rng = np.random.default_rng(seed)
    reference = world.rows.iloc[rng.permutation(len(world.rows))[:REFERENCE_ROWS]]
    judging = judging_of(reference, monitoring)
    return {
        name: [seen_after(world, judging, reference, shift, rng) for _ in range(PERSONS_EACH)]
        for name, shift in SHIFTS.items()
    }


def seen_after(
    world: World,
    judging: Monitoring,
    reference: pd.DataFrame,
    shift: tuple[str, Shift],
    rng: np.random.Generator,
) -> int:
    """The number of the shifted window with which its column has drifted."""
    column, change = shift
    test = judging.tests[column]
    judgement = Judgement(reference="1")
    for number in range(1, MOST_WINDOWS + 1):
        chosen = rng.integers(0, len(world.rows), judging.window_rows)
        window = change(world.rows.iloc[chosen], rng)
        score = scores.score(reference[column], window[column], test.test)
        ratios = {column: test.ratio(score)}
        judgement = judged(judgement, ratios, float(number), judging)
        if column in judgement.persistent:
            return number
    return MOST_WINDOWS + 1


def months_of(
    world: World, monitoring: Monitoring, months: int, windows: int
) -> list[dict[str, Any]]:
    """The false alarms of some months, as figures."""
    by_month, datasets, seconds = [], [], []
    by_column = dict.fromkeys(monitoring.tests, 0)
    for seed in range(months):
        ratios, took = world.month(monitoring, windows, np.random.default_rng(seed))
        columns, dataset = alarms(ratios, monitoring)
        by_month.append(sum(columns.values()))
        by_column = {name: count + columns[name] for name, count in by_column.items()}
        datasets.append(dataset)
        seconds.append(took)
    mean, error = np.mean(by_month), np.std(by_month, ddof=1) / np.sqrt(months)
    print("false alarms of each month:", by_month)
    return [
        at_most(f"{windows} windows", max(seconds), "s", LIMIT_S),
        result("months, each with its own reference", months, ""),
        result(
            "false alarms a month, mean",
            float(mean),
            "",
            f"<= {monitoring.false_alarms_per_month:g}, within 2 standard errors",
            bool(mean - 2 * error <= monitoring.false_alarms_per_month),
        ),
        result("its standard error", float(error), ""),
        result("months without a false alarm", by_month.count(0) / months, "share"),
        result("verdicts of drift a month, mean", float(np.mean(datasets)), ""),
        *(
            result(f"false alarms a month of {name}", count / months, "")
            for name, count in by_column.items()
        ),
    ]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=20)
    parser.add_argument("--windows", type=int, default=2880, help="of a month (2880)")
    options = parser.parse_args()
    contract = load_contract()
    monitoring = load_monitoring(CONTRACT_PATH.with_name("monitoring.yaml"), contract)
    world = World(people(contract))
    results = months_of(world, monitoring, options.months, options.windows)
    for name, seen in windows_until_seen(world, monitoring, seed=1000).items():
        minutes = float(np.median(seen)) * monitoring.judge_period_s / 60
        results.append(result(f"until seen, median: {name}", minutes, "min"))
        missed = seen.count(MOST_WINDOWS + 1) / len(seen)
        results.append(result(f"not seen in {MOST_WINDOWS} windows: {name}", missed, "share"))
    write("false-alarms", results)


if __name__ == "__main__":
    main()
