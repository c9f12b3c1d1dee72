"""What changes in the world while the traffic runs: seeded changes to the rows that are sent.

A scenario takes the traffic rows, how many to send, a seed and the contract, and gives the rows
to send one by one. It copies what it changes, and a record that keeps the contract still does
afterwards. With one seed `sudden` sends the very people that `none` sends, only shifted.

The features that `sudden` and `gradual` shift, six of the model's twelve:

| feature        | what happens to it                                            |
| -------------- | ------------------------------------------------------------- |
| age            | 12 years more, up to the feature's maximum                    |
| hours_per_week | 12 hours less, down to the minimum                            |
| capital_gain   | drawn anew: two in five have 10,000 or 20,000 dollars         |
| workclass      | drawn anew: four in five self-employed                        |
| occupation     | drawn anew: services, sales, households; few managers         |
| native_country | drawn anew: four in five from Mexico, the Philippines, India  |
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from config.contract import Contract, Feature
from stream_generator.traffic.rows import Row, TrafficError, endless

Scenario = Callable[[Sequence[Row], int, int, Contract], Iterator[Row]]

# Added to a number, in its feature's unit.
MOVED = {"age": 12, "hours_per_week": -12}
# The values that replace the old one, with their shares. Capital gains are among them, for most are
# 0 and a few 99,999: on that scale, adding some thousands to all is no shift that a test sees.
DRAWN: dict[str, dict[str | int, float]] = {
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

POSITIVE_SHARE = 0.6  # under label_shift; 0.24 in the census

HOURS_A_DAY = 8  # of unit_change
UNSEEN = "Atlantis"  # of unseen_category

# Whose labels concept_shift flips: a quarter of the people, who used to earn the most.
FLIPPED_FEATURE = "occupation"
FLIPPED_GROUP = ("Exec-managerial", "Prof-specialty")


def none(rows: Sequence[Row], n_rows: int, seed: int, _contract: Contract) -> Iterator[Row]:
    """the rows as they are"""
    return islice(endless(rows, random.Random(seed)), n_rows)


def sudden(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """every person older, working less, self-employed, born elsewhere (6 of 12 features)"""
    rng = shift_rng(seed)
    return (shifted(row, contract, rng) for row in none(rows, n_rows, seed, contract))


def gradual(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """the same shift, its share growing from none to all of the rows over the run"""
    rng = shift_rng(seed)
    last = max(n_rows - 1, 1)
    for position, row in enumerate(none(rows, n_rows, seed, contract)):
        yield shifted(row, contract, rng) if rng.random() < position / last else row


def label_shift(rows: Sequence[Row], n_rows: int, seed: int, _contract: Contract) -> Iterator[Row]:
    """people above 50K drawn more often: 60 % of the rows instead of 24 %"""
    rng = shift_rng(seed)
    by_label = [[row for row in rows if row.label == label] for label in (0, 1)]
    if not all(by_label):
        raise TrafficError("label_shift: the traffic has rows of one label only, expected both")
    negatives, positives = (endless(group, random.Random(seed)) for group in by_label)
    return (next(positives if rng.random() < POSITIVE_SHARE else negatives) for _ in range(n_rows))


def concept_shift(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """the same people, but managers' and specialists' true labels flipped (needs --labels)"""
    for row in none(rows, n_rows, seed, contract):
        flips = row.record.get(FLIPPED_FEATURE) in FLIPPED_GROUP
        yield row._replace(label=1 - row.label) if flips else row


def unit_change(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """hours of work come as days of eight hours: a number in another unit, within its range"""

    def in_days(value: Any) -> Any:
        return max(value // HOURS_A_DAY, 1) if isinstance(value, int) else value

    return changed(none(rows, n_rows, seed, contract), "hours_per_week", in_days)


def missing_field(rows: Sequence[Row], n_rows: int, seed: int, contract: Contract) -> Iterator[Row]:
    """the occupation is null, as if a client had stopped to send it"""
    return changed(none(rows, n_rows, seed, contract), "occupation", lambda _: None)


def unseen_category(
    rows: Sequence[Row], n_rows: int, seed: int, contract: Contract
) -> Iterator[Row]:
    """the native country is one that the contract does not know"""
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
    """Rows with one field changed; a record that lacks it stays for the service to refuse."""
    for row in rows:
        known = name in row.record
        yield Row(row.record | {name: change(row.record[name])}, row.label) if known else row


def shift_rng(seed: int) -> random.Random:
    """Chance for the changes alone, so that the order of the rows is that of `none`."""
    return random.Random(f"shift {seed}")


def shifted(row: Row, contract: Contract, rng: random.Random) -> Row:
    """A row with every feature of the table above shifted; its label stays."""
    record = dict(row.record)
    for name, step in MOVED.items():
        if name in record:
            record[name] = moved(record[name], step, contract[name])
    for name, mix in DRAWN.items():
        record[name] = rng.choices(list(mix), list(mix.values()))[0]
    return Row(record, row.label)


def moved(value: Any, step: int, feature: Feature) -> Any:
    """A number moved within its feature's range; what is no number stays for the service."""
    if not isinstance(value, int):
        return value
    assert feature.minimum is not None and feature.maximum is not None
    return min(max(value + step, feature.minimum), feature.maximum)
