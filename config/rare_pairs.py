"""Pairs of values that are rarer together than alone: a record with one is unlike the test rows.

Training finds them (`training/model/rare_pairs.py`) and writes them into the graph's metadata. An
explanation names those of its record.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from config.contract import Contract

RARE_PAIRS = "rare_pairs"  # in the graph's metadata


class Values(msgspec.Struct, frozen=True, array_like=True):
    """The values of a column from `low` to `high`, as frames have them, or one category."""

    column: str
    low: str | float
    high: str | float

    def words(self, contract: Contract) -> str:
        """Return the column and its values, such as `age 17 to 18 years`."""
        feature = contract[self.column]
        low = "" if self.low == self.high else f"{feature.show(self.low)} to "
        return f"{self.column.replace('_', ' ')} {low}{feature.words(feature.show(self.high))}"


class RarePair(msgspec.Struct, frozen=True, array_like=True):
    """Values of two columns."""

    parts: tuple[Values, Values]
    rows: int  # that have both
    expected: float  # number of rows if the columns were independent


class RarePairs(msgspec.Struct, frozen=True):
    """All rare pairs of a version."""

    rows: int = 0  # all test rows
    pairs: list[RarePair] = []

    def of(self, record: dict[str, Any], contract: Contract) -> Iterator[str]:
        """Yield in words each rare pair of a record with frame values."""
        for one in self.pairs:
            if all(part.low <= record[part.column] <= part.high for part in one.parts):
                both = " with ".join(part.words(contract) for part in one.parts)
                yield (
                    f"{both}: {one.rows:,} of {self.rows:,} test rows,"
                    f" {one.expected:,.0f} if the two were unrelated"
                )
