"""Draw labels that follow from changed columns.

A changed record must not keep the label of the row that it was made from: its columns no longer
lead to that label. The rule is naive Bayes: each column adds its log odds, found in the traffic
rows. A record that is sent twice gets two labels of its own. So a model gains nothing by memorising
a record, although a small table's rows are sent many times.
"""

import math
import random
from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import quantiles
from typing import Any

from config.contract import Contract, Feature
from stream_generator.traffic.rows import Row, known_value


class LabelRule:
    """The probability of the positive label, given the columns of a record."""

    def __init__(self, rows: Sequence[Row], contract: Contract) -> None:
        share = (sum(row.label for row in rows) + 1) / (len(rows) + 2)
        self._prior = math.log(share / (1 - share))
        self._parts = [Parts(one, rows) for one in contract.inputs if not one.rank_of]
        self._odds: list[dict[Hashable, float]] = []
        for parts in self._parts:
            found = [(parts.of(row.record), row.label) for row in rows]
            count, positive = (Counter(p for p, label in found if label >= low) for low in (0, 1))
            # One more row, with the overall share of positive labels: a rare value says little.
            self._odds.append(
                {
                    part: math.log((positive[part] + share) / (n - positive[part] + 1 - share))
                    - self._prior
                    for part, n in count.items()
                }
            )

    def probability(self, record: dict[str, Any]) -> float:
        """Return the probability of the positive label; a value without rows has no effect."""
        pairs = zip(self._parts, self._odds, strict=True)
        log_odds = self._prior + sum(odds.get(parts.of(record), 0.0) for parts, odds in pairs)
        return 1 / (1 + math.exp(-log_odds))

    def draw(self, record: dict[str, Any], rng: random.Random) -> int:
        """Return a label."""
        return int(rng.random() < self.probability(record))


class Parts:
    """The parts of a column: its categories, or quarters of its different numbers or dates."""

    def __init__(self, feature: Feature, rows: Sequence[Row]) -> None:
        self._feature = feature
        self._cuts: list[float] = []
        if not feature.is_categorical:
            values: set[Any] = {known_value(feature, row.record) for row in rows} - {None}
            self._cuts = quantiles(sorted(values)) if len(values) > 1 else []

    def of(self, record: dict[str, Any]) -> Hashable:
        """Return the part of a record's value; None if it is missing or invalid."""
        value = known_value(self._feature, record)
        if value is None or self._feature.is_categorical:
            return value
        return bisect(self._cuts, value)
