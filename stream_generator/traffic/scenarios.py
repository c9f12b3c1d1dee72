"""Simulate drift: seeded changes to the rows that are sent.

A scenario takes the changes for the traffic rows, the number of rows to send and a seed. It yields
the rows to send. It copies every row that it changes; a valid record stays valid. Under the same
seed, `sudden` and `none` take the same rows in the same order.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from operator import add
from typing import Any

from stream_generator.traffic.changes import COVARIATE_SHIFT, Changes, divided, is_in, moved
from stream_generator.traffic.rows import Row, TrafficError, endless

Scenario = Callable[[Changes, int, int], Iterator[Row]]


def none(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Send the rows unchanged."""
    return islice(endless(changes.rows, random.Random(seed)), n_rows)


def sudden(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Change half of the columns; the labels follow from the changed records."""
    rng = shift_rng(seed)
    return (shifted(row, changes, rng) for row in none(changes, n_rows, seed))


def gradual(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Apply the change of `sudden` to a share of the rows that grows from 0 to 100 %."""
    rng = shift_rng(seed)
    last = max(n_rows - 1, 1)
    for position, row in enumerate(none(changes, n_rows, seed)):
        yield shifted(row, changes, rng) if rng.random() < position / last else row


def label_shift(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Sample the rows of one label, usually the rarer one, more often."""
    rng, share = shift_rng(seed), changes.label_shift
    by_label = ([row for row in changes.rows if row.label == label] for label in (0, 1))
    negatives, positives = (endless(group, random.Random(seed)) for group in by_label)
    return (next(positives if rng.random() < share else negatives) for _ in range(n_rows))


def covariate_shift(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Sample the rows of a group more often. Their labels follow from their columns as before."""
    group, rng = changes.concept_shift, shift_rng(seed)
    feature = changes.contract[group.column]
    divided_rows: tuple[list[Row], list[Row]] = ([], [])
    for row in changes.rows:
        divided_rows[is_in(group, row.record.get(group.column), feature)].append(row)
    if not all(divided_rows):
        raise TrafficError(
            f"--scenario covariate_shift: {group} for all rows or for none; expected rows of both"
            " kinds. Use another file or scenario."
        )
    others, members = (endless(rows, random.Random(seed)) for rows in divided_rows)
    return (next(members if rng.random() < COVARIATE_SHIFT else others) for _ in range(n_rows))


def concept_shift(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Flip the true labels of a group of rows (needs --labels)."""
    group = changes.concept_shift
    feature = changes.contract[group.column]
    for row in none(changes, n_rows, seed):
        flips = is_in(group, row.record.get(group.column), feature)
        yield row._replace(label=1 - row.label) if flips else row


def mixed_records(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Send a column of other rows, as after a wrong join. Each column keeps its values."""
    name, rng = changes.concept_shift.column, shift_rng(seed)
    values = [row.record[name] for row in changes.rows if name in row.record]
    return changed(none(changes, n_rows, seed), name, lambda _: rng.choice(values))


def unit_change(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Send a number in another unit, still within its range."""
    name, divisor = changes.unit_change.column, changes.unit_change.divisor
    feature = changes.contract[name]
    rows = none(changes, n_rows, seed)
    return changed(rows, name, lambda value: divided(value, divisor, feature))


def missing_field(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Send a column as null, as if the clients no longer knew it."""
    return changed(none(changes, n_rows, seed), changes.missing_field, lambda _: None)


def unseen_category(changes: Changes, n_rows: int, seed: int) -> Iterator[Row]:
    """Send a category that the contract does not list."""
    unseen = changes.unseen_category
    return changed(none(changes, n_rows, seed), unseen.column, lambda _: unseen.value)


SCENARIOS: dict[str, Scenario] = {
    "none": none,
    "sudden": sudden,
    "gradual": gradual,
    "covariate_shift": covariate_shift,
    "label_shift": label_shift,
    "concept_shift": concept_shift,
    "mixed_records": mixed_records,
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


def shifted(row: Row, changes: Changes, rng: random.Random) -> Row:
    """Return the row with the columns of `sudden` changed, and a label that follows from them."""
    record, contract = dict(row.record), changes.contract
    for name, step in changes.sudden.shift.items():
        if name in record:
            record[name] = moved(record[name], partial(add, step), contract[name])
    for name, shares in changes.sudden.resample.items():
        record[name] = rng.choices(list(shares), list(shares.values()))[0]
    for feature in contract.features:  # a rank follows its column
        if feature.rank_of in changes.sudden.resample and feature.name in record:
            categories = contract[feature.rank_of].categories
            record[feature.name] = categories.index(record[feature.rank_of]) + 1
    return Row(record, changes.label_rule.draw(record, rng))
