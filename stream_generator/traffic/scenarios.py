"""Simulate drift: seeded changes to the rows that are sent.

A scenario takes the traffic rows, the number of rows to send, a seed and the contract. It yields
the rows to send. It copies every row that it changes; a valid record stays valid. Under the same
seed, `sudden` and `none` send the same people in the same order.

`sudden` and `gradual` shift six of the model's twelve features:

| feature        | change                                                        |
| -------------- | ------------------------------------------------------------- |
| age            | 12 years more, up to the feature's maximum                    |
| hours_per_week | 12 hours less, down to the minimum                            |
| capital_gain   | resampled: 40 % have 10,000 or 20,000 dollars                 |
| workclass      | resampled: 80 % self-employed                                 |
| occupation     | resampled: services, sales, households; few managers          |
| native_country | resampled: 80 % from Mexico, the Philippines and India        |
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from config.contract import Contract, Feature
from stream_generator.traffic.rows import Row, TrafficError, endless

Scenario = Callable[[Sequence[Row], int, int, Contract], Iterator[Row]]

# Added to a number, in its feature's unit.
ADDED = {"age": 12, "hours_per_week": -12}
# The values that replace the old one, with their shares. Most capital gains are 0 and a few are
# 99,999: no drift test detects some thousands more on that scale, so capital_gain is resampled too.
RESAMPLED: dict[str, dict[str | int, float]] = {
    "capital_gain": {0: 0.6, 10_000: 0.25, 20_000: 0.15},
    "workclass": {"Self-emp-not-inc": 0.5, "Self-emp-inc": 0.3, "Private": 0.2},
    "occupation": {
        "Other-service": 0.4,
        "Sales": 0.3,
        "Priv-house-serv": 0.2,
        "Exec-managerial": 0.1,
    },
    "native_country": {
        "Mexico": 0.3,
        "Philippines": 0.3,
        "India": 0.2,
        "United-States": 0.2,
    },
}

POSITIVE_SHARE = 0.6  # of label_shift; 0.24 in the census

HOURS_A_DAY = 8  # of unit_change
UNSEEN = "Atlantis"  # of unseen_category

# concept_shift flips the labels of this group: a quarter of the people, with the highest incomes.
FLIPPED_FEATURE = "occupation"
FLIPPED_GROUP = ("Exec-managerial", "Prof-specialty")


def none(rows: Sequence[Row], n_rows: int, seed: int, _contract: Contract) -> Iterator[Row]:
    """Send the rows unchanged."""
    return islice(endless(rows, random.Random(seed)), n_rows)


def sudden(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """Make all people older, working less, self-employed and foreign-born (6 of 12 features)."""
    rng = shift_rng(seed)
    return (shifted(row, contract, rng) for row in none(rows, n_rows, seed, contract))


def gradual(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """Apply the shift of `sudden` to a share of the rows that grows from 0 to 100 %."""
    rng = shift_rng(seed)
    last = max(n_rows - 1, 1)
    for position, row in enumerate(none(rows, n_rows, seed, contract)):
        yield shifted(row, contract, rng) if rng.random() < position / last else row


def label_shift(rows: Sequence[Row], n_rows: int, seed: int, _contract: Contract) -> Iterator[Row]:
    """Sample people above 50K more often: 60 % of the rows instead of 24 %."""
    rng = shift_rng(seed)
    by_label = [[row for row in rows if row.label == label] for label in (0, 1)]
    if not all(by_label):
        raise TrafficError(
            "--scenario label_shift: all rows have the same label; expected both labels."
            " Use another file or scenario."
        )
    negatives, positives = (endless(group, random.Random(seed)) for group in by_label)
    return (next(positives if rng.random() < POSITIVE_SHARE else negatives) for _ in range(n_rows))


def concept_shift(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """Flip the true labels of managers and specialists (needs --labels)."""
    for row in none(rows, n_rows, seed, contract):
        flips = row.record.get(FLIPPED_FEATURE) in FLIPPED_GROUP
        yield row._replace(label=1 - row.label) if flips else row


def unit_change(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """Send hours_per_week in days of eight hours: another unit, still within the range."""

    def in_days(value: Any) -> Any:
        return max(value // HOURS_A_DAY, 1) if isinstance(value, int) else value

    return changed(none(rows, n_rows, seed, contract), "hours_per_week", in_days)


def missing_field(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """Send occupation as null, as if the clients no longer knew it."""
    return changed(none(rows, n_rows, seed, contract), "occupation", lambda _: None)


def unseen_category(
    rows: Sequence[Row], n_rows: int, seed: int, contract: Contract
) -> Iterator[Row]:
    """Send a native_country that the contract does not list."""
    return changed(none(rows, n_rows, seed, contract), "native_country", lambda _: UNSEEN)


SCENARIOS: dict[str, Scenario] = {
    "none": none,
    "sudden": sudden,
    "gradual": gradual,
    "label_shift": label_shift,
    "concept_shift": concept_shift,
    "unit_change": unit_change,
    "missing_field": missing_field,
    "unseen_category": unseen_category,
}


def changed(rows: Iterator[Row], name: str, change: Callable[[Any], Any]) -> Iterator[Row]:
    """Yield the rows with one field changed. A record without the field stays unchanged."""
    for row in rows:
        known = name in row.record
        yield Row(row.record | {name: change(row.record[name])}, row.label) if known else row


def shift_rng(seed: int) -> random.Random:
    """Return the random source of the changes. The order of the rows has its own, as in `none`."""
    return random.Random(f"shift {seed}")


def shifted(row: Row, contract: Contract, rng: random.Random) -> Row:
    """Return the row with the features of the table above shifted and its label unchanged."""
    record = dict(row.record)
    for name, step in ADDED.items():
        if name in record:
            record[name] = add_within_range(record[name], step, contract[name])
    for name, shares in RESAMPLED.items():
        record[name] = rng.choices(list(shares), list(shares.values()))[0]
    return Row(record, row.label)


def add_within_range(value: Any, step: int, feature: Feature) -> Any:
    """Return a number plus `step`, limited to the feature's range; other values unchanged."""
    if not isinstance(value, int):
        return value
    assert feature.minimum is not None and feature.maximum is not None
    return min(max(value + step, feature.minimum), feature.maximum)
