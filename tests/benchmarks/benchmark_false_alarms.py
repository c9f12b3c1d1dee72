"""The number of false alarms compared with the stated number, and the time to detect shifts.

    make bench NAME=false-alarms

The benchmark simulates months of undrifted windows on census rows. Each month has a new reference,
with thresholds from the service's own code, and a window every 15 minutes. All rows come from the
whole census, with out-of-fold predictions of one model, so reference and windows have the same
distribution. One month says little about an expected number of 1. The goal therefore applies to the
mean of several months, minus two standard errors.

Then it measures power: the number of shifted windows until a shift is detected.
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
from evidently_service.verdict import scores
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.verdict.judge import is_dataset_drift, judge_window
from evidently_service.store.records import Judgement
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.verdict.scores import Counts
from evidently_service.verdict.thresholds import find_thresholds
from tests.benchmarks.census import read_census
from tests.benchmarks.report import at_most, result, write

REFERENCE_ROWS = 5000  # training.orchestration.flows
MAX_MONTH_S = 600
CHUNK = 80  # windows counted together
REPETITIONS = 20  # of each shift
MAX_WINDOWS = 20  # until a shift counts as not detected

Shift = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


def people(contract: Contract) -> pd.DataFrame:
    """Return every census row as it is monitored, with out-of-fold predictions of a model."""
    census = read_census(contract)
    frame = pd.concat([census.train, census.test], ignore_index=True)
    X = frame[list(contract.input_names)].copy()
    texts = [feature.name for feature in contract.inputs if feature.is_categorical]
    X[texts] = OrdinalEncoder().fit_transform(X[texts].astype(object).fillna("?"))
    model = HistGradientBoostingClassifier(categorical_features=texts, random_state=0)
    labels = frame[contract.target.name].astype(int)
    probability = cross_val_predict(model, X, labels, method="predict_proba")[:, 1]
    predicted = frame.assign(probability=probability, income_class=(probability >= 0.4).astype(int))
    names = [str(name) for name in predicted]
    rows = predicted.itertuples(index=False)
    return monitored_frame((dict(zip(names, row, strict=True)) for row in rows), contract)


class World:
    """Rows to draw windows from; each value is the code of a distinct value of its column."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self.coded = {name: pd.factorize(rows[name], sort=True) for name in rows}

    def month(
        self, monitoring: Monitoring, windows: int, rng: np.random.Generator
    ) -> tuple[list[dict[str, float]], float]:
        """Return the ratios of each window to a new reference, and the seconds for them."""
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
        """Return each window's ratio by column; `chosen` (n_windows, window_rows) row numbers."""
        by_column = {}
        for name, test in judging.tests.items():
            codes, values = self.coded[name]
            kinds = len(values)
            windows = np.stack([np.bincount(codes[one], minlength=kinds) for one in chosen])
            of_reference = np.bincount(codes[reference], minlength=kinds)
            counts = Counts(np.asarray(values), of_reference, windows)
            by_column[name] = [
                test.ratio(float(score)) for score in scores.scores(test.test, counts)
            ]
        return [
            dict(zip(by_column, one, strict=True)) for one in zip(*by_column.values(), strict=True)
        ]


def judging_of(reference: pd.DataFrame, monitoring: Monitoring) -> Monitoring:
    """Return the monitoring with the thresholds of a reference."""
    found = find_thresholds(reference, monitoring, monitoring.window_rows)
    return monitoring.with_tests(found)


def alarms(windows: list[dict[str, float]], monitoring: Monitoring) -> tuple[dict[str, int], int]:
    """Return how often each column and the dataset became drifted."""
    judgement = Judgement(reference="1")
    columns, dataset = dict.fromkeys(monitoring.tests, 0), 0
    for number, ratios in enumerate(windows):
        after = judge_window(judgement, ratios, float(number), monitoring)
        for name in set(after.persistent) - set(judgement.persistent):
            columns[name] += 1
        after_is, before_is = (
            is_dataset_drift(one.persistent, monitoring) for one in (after, judgement)
        )
        dataset += after_is and not before_is
        judgement = after
    return columns, dataset


def with_gain_of_more(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Raise the number of people with a capital gain by half."""
    gains = rows.loc[rows["capital_gain"] > 0, "capital_gain"].to_numpy()
    chance = 0.5 * len(gains) / (len(rows) - len(gains))
    more = (rows["capital_gain"] == 0) & (rng.random(len(rows)) < chance)
    return rows.assign(capital_gain=rows["capital_gain"].mask(more, rng.choice(gains, len(rows))))


def some(column: str, value: str, share: float) -> Shift:
    """Return a shift that gives a value to that share of the rows."""
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
    "capital_gain: 50 % more people": ("capital_gain", with_gain_of_more),
    "capital_gain: 0 for all": ("capital_gain", lambda rows, _: rows.assign(capital_gain=0)),
    "occupation: missing in 5 %": ("occupation", some("occupation", "?", 0.05)),
    "workclass: 10 % more self-employed": ("workclass", some("workclass", "Self-emp-inc", 0.1)),
    "probability: 0.05 more": (
        "probability",
        lambda rows, _: rows.assign(probability=rows["probability"] + 0.05),
    ),
}


def windows_to_detect(world: World, monitoring: Monitoring, seed: int) -> dict[str, list[int]]:
    """Return the number of windows until each shift is detected, at most MAX_WINDOWS + 1."""
    rng = np.random.default_rng(seed)
    reference = world.rows.iloc[rng.permutation(len(world.rows))[:REFERENCE_ROWS]]
    judging = judging_of(reference, monitoring)
    return {
        name: [detected_after(world, judging, reference, shift, rng) for _ in range(REPETITIONS)]
        for name, shift in SHIFTS.items()
    }


def detected_after(
    world: World,
    judging: Monitoring,
    reference: pd.DataFrame,
    shift: tuple[str, Shift],
    rng: np.random.Generator,
) -> int:
    """Return the number of the shifted window that makes its column drifted."""
    column, change = shift
    test = judging.tests[column]
    judgement = Judgement(reference="1")
    for number in range(1, MAX_WINDOWS + 1):
        chosen = rng.integers(0, len(world.rows), judging.window_rows)
        window = change(world.rows.iloc[chosen], rng)
        score = scores.score(reference[column], window[column], test.test)
        ratios = {column: test.ratio(score)}
        judgement = judge_window(judgement, ratios, float(number), judging)
        if column in judgement.persistent:
            return number
    return MAX_WINDOWS + 1


def months_of(
    world: World, monitoring: Monitoring, months: int, windows: int
) -> list[dict[str, Any]]:
    """Return the figures of that many months."""
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
        at_most(f"{windows} windows", max(seconds), "s", MAX_MONTH_S),
        result("months, each with a new reference", months, ""),
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
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=20)
    parser.add_argument("--windows", type=int, default=2880, help="of a month (2880)")
    options = parser.parse_args()
    contract = load_contract()
    monitoring = load_monitoring(CONTRACT_PATH.with_name("monitoring.yaml"), contract)
    world = World(people(contract))
    results = months_of(world, monitoring, options.months, options.windows)
    for name, counts in windows_to_detect(world, monitoring, seed=1000).items():
        minutes = float(np.median(counts)) * monitoring.judge_period_s / 60
        results.append(result(f"until detected, median: {name}", minutes, "min"))
        missed = counts.count(MAX_WINDOWS + 1) / len(counts)
        results.append(result(f"not detected in {MAX_WINDOWS} windows: {name}", missed, "share"))
    write("false-alarms", results)


if __name__ == "__main__":
    main()
