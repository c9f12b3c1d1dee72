"""The number of false alarms on undrifted traffic of several kinds, and the time to detect shifts.

    make bench NAME=false-alarms

All rows come from the whole census, with out-of-fold predictions of one model. Each reference is a
sample, with thresholds from the service's own code; the windows are drawn from the other rows. So
nothing drifts, but only rows of the kind `iid` are independent. Each kind begins with the windows
of phase I. The alarms of the windows after it are scaled to a month, with the factors of phase I
and without them. With 5 references and 288 windows each, one alarm counts as 2 a month.

Then it measures power: the number of shifted windows until a shift is detected.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kstwobign
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import OrdinalEncoder

from config.contract import CONTRACT_PATH, Contract, load_contract
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.store.records import Judgement
from evidently_service.verdict import scores
from evidently_service.verdict.calibration import Compared, calibrate
from evidently_service.verdict.judge import are_full, beyond_of, is_dataset_drift, judge_window
from evidently_service.verdict.scores import Counts
from evidently_service.verdict.thresholds import find_thresholds
from tests.benchmarks.census import read_census
from tests.benchmarks.report import at_most, result, write

REFERENCE_ROWS = 5000  # training.orchestration.steps
MONTH = 2880  # windows
DAY = 96
MAX_ALARMS, MAX_DATASETS = 3, 0.3  # a month
PROBABILITIES = 500  # distinct ones, for speed
REPETITIONS = 20  # of each shift
MAX_WINDOWS = 20  # until a shift counts as not detected

Shift = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
Windows = Iterator[np.ndarray]  # row numbers of each, more than a window has


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
    monitored = monitored_frame((dict(zip(names, row, strict=True)) for row in rows), contract)
    step = np.linspace(0, 1, PROBABILITIES)
    nearest = np.searchsorted(step, monitored["probability"])
    return monitored.assign(probability=step[nearest])


class World:
    """Rows to draw windows from, and kinds of undrifted traffic."""

    def __init__(self, rows: pd.DataFrame, contract: Contract) -> None:
        self.rows = rows
        # Each value is the code of a distinct value of its column.
        self.coded = {str(name): pd.factorize(rows[name], sort=True) for name in rows}
        self.profiles = rows.groupby(list(contract.input_names)).ngroup().to_numpy()
        self.occupation = self.coded["occupation"][0]
        self.kinds: dict[str, Callable[[np.random.Generator, np.ndarray], Windows]] = {
            "independent rows": partial(self.repeated, times=1),
            "each person twice": partial(self.repeated, times=2),
            "each person three times": partial(self.repeated, times=3),
            "daily cycle of 10 %": partial(self.cycle, amplitude=0.1),
            "daily cycle of 30 %": partial(self.cycle, amplitude=0.3),
            "batches of 5 of one occupation": self.batches,
            "occupations wander by 10 %": partial(self.wander, sd=0.1),
            "occupations wander by 20 %": partial(self.wander, sd=0.2),
        }

    def repeated(self, rng: np.random.Generator, rows: np.ndarray, times: int) -> Windows:
        """Yield windows in which each person comes so many times."""
        while True:
            yield np.repeat(rng.choice(rows, 1200), times)

    def cycle(self, rng: np.random.Generator, rows: np.ndarray, amplitude: float) -> Windows:
        """Yield windows whose share of young or part-time people follows the hour."""
        some = (self.rows["age"] < 30) | (self.rows["hours_per_week"] < 35)
        chosen, window = some.to_numpy()[rows], 0
        while True:
            weight = 1 + amplitude * np.sin(2 * np.pi * window / DAY)
            yield weighted(rng, rows, np.where(chosen, weight, 1.0))
            window += 1

    def batches(self, rng: np.random.Generator, rows: np.ndarray) -> Windows:
        """Yield windows of batches of five people who share the occupation."""
        codes = self.occupation[rows]
        by_code = [rows[codes == code] for code in range(codes.max() + 1)]
        while True:
            first = rng.choice(codes, 240)
            yield np.concatenate([rng.choice(by_code[code], 5) for code in first])

    def wander(self, rng: np.random.Generator, rows: np.ndarray, sd: float) -> Windows:
        """Yield windows whose shares of occupations wander slowly: AR(1) of their logarithms."""
        codes = self.occupation[rows]
        logs = rng.normal(0, sd, codes.max() + 1)
        while True:
            logs = 0.95 * logs + (1 - 0.95**2) ** 0.5 * rng.normal(0, sd, len(logs))
            yield weighted(rng, rows, np.exp(logs)[codes])

    def judged(self, chosen: np.ndarray, monitoring: Monitoring) -> np.ndarray:
        """Return the distinct rows of the window that closes within these rows."""
        keys = self.profiles[chosen]
        closed = list(are_full(keys.tolist(), monitoring)).index(True) + 1
        return chosen[np.unique(keys[:closed], return_index=True)[1]]

    def compare(
        self, judging: Monitoring, reference: np.ndarray, window: np.ndarray
    ) -> dict[str, Compared]:
        """Return each column's comparison; both arrays are row numbers."""
        found = {}
        for name, test in judging.tests.items():
            codes, values = self.coded[name]
            of_reference, of_window = (
                np.bincount(codes[some], minlength=len(values)) for some in (reference, window)
            )
            counts = Counts(np.asarray(values), of_reference, of_window[np.newaxis])
            score = float(scores.distances(test.test, counts)[0])
            if test.test == "ks":  # the limit for many rows: the exact p-value takes 20 ms
                root = (len(window) * len(reference) / (len(window) + len(reference))) ** 0.5
                score = float(kstwobign.sf(score * root))
            found[name] = Compared(test.ratio(score), test.test, counts)
        return found


def weighted(rng: np.random.Generator, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return rows drawn with these weights."""
    ends = np.cumsum(weights)
    return rows[np.searchsorted(ends, rng.random(1200) * ends[-1], side="right")]


def judging_of(reference: pd.DataFrame, monitoring: Monitoring) -> Monitoring:
    """Return the monitoring with the thresholds of a reference."""
    found = find_thresholds(reference, monitoring, monitoring.window_rows)
    return monitoring.with_tests(found)


def alarms(
    windows: list[dict[str, float]], factors: dict[str, float], monitoring: Monitoring
) -> tuple[int, int]:
    """Return how often a column and the dataset became drifted."""
    judgement = Judgement(reference="1")
    columns = dataset = 0
    for number, ratios in enumerate(windows):
        widened = {name: ratio / factors.get(name, 1) for name, ratio in ratios.items()}
        after = judge_window(judgement, widened, float(number), monitoring)
        columns += len(set(after.persistent) - set(judgement.persistent))
        after_is, before_is = (
            is_dataset_drift(one.persistent, monitoring) for one in (after, judgement)
        )
        dataset += after_is and not before_is
        judgement = after
    return columns, dataset


def month_of(
    world: World, kind: str, judging: Monitoring, order: np.ndarray, windows: int
) -> np.ndarray:
    """Return alarms of columns and dataset a month: with factors, and without (4,)."""
    reference, others = order[:REFERENCE_ROWS], order[REFERENCE_ROWS:]
    stream = world.kinds[kind](np.random.default_rng(0), others)
    judgement, needed = Judgement(reference="1"), judging.calibration_windows
    found: list[dict[str, float]] = []
    while len(found) < windows:
        compared = world.compare(judging, reference, world.judged(next(stream), judging))
        ratios = {name: one.ratio for name, one in compared.items()}
        if judgement.calm_windows == needed:
            found.append(ratios)
        elif not is_dataset_drift(beyond_of(ratios), judging):
            judgement = calibrate(judgement, compared, needed)
    counted = (*alarms(found, judgement.factors, judging), *alarms(found, {}, judging))
    return np.array(counted) * MONTH / windows


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


def false_alarms(
    world: World, monitoring: Monitoring, references: int, windows: int
) -> list[dict[str, Any]]:
    """Return the false alarms of each kind of traffic, the mean over references."""
    by_kind: dict[str, list[np.ndarray]] = {kind: [] for kind in world.kinds}
    for seed in range(references):
        order = np.random.default_rng(seed).permutation(len(world.rows))
        judging = judging_of(world.rows.iloc[order[:REFERENCE_ROWS]], monitoring)
        for kind, months in by_kind.items():
            months.append(month_of(world, kind, judging, order, windows))
            print(seed, kind, months[-1], flush=True)
    results = [result(f"references, {windows} windows each after phase I", references, "")]
    for kind, months in by_kind.items():
        columns, datasets, before, datasets_before = np.mean(months, axis=0)
        results += [
            at_most(f"{kind}: column alarms a month", columns, "", MAX_ALARMS),
            at_most(f"{kind}: dataset verdicts a month", datasets, "", MAX_DATASETS),
            result(f"{kind}: column alarms a month without factors", before, ""),
            result(f"{kind}: dataset verdicts a month without factors", datasets_before, ""),
        ]
    return results


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--windows", type=int, default=288, help="of each kind (288, three days)")
    options = parser.parse_args()
    contract = load_contract()
    monitoring = load_monitoring(CONTRACT_PATH.with_name("monitoring.yaml"), contract)
    world = World(people(contract), contract)
    results = false_alarms(world, monitoring, options.references, options.windows)
    for name, counts in windows_to_detect(world, monitoring, seed=1000).items():
        minutes = float(np.median(counts)) * monitoring.judge_period_s / 60
        results.append(result(f"until detected, median: {name}", minutes, "min"))
        missed = counts.count(MAX_WINDOWS + 1) / len(counts)
        results.append(result(f"not detected in {MAX_WINDOWS} windows: {name}", missed, "share"))
    write("false-alarms", results)


if __name__ == "__main__":
    main()
