"""What is proposed for each column of a table."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from msgspec.structs import replace

from config.contract import Target
from config.feature import Feature
from training.data.table_files import TableFormat


@dataclass
class Column:
    """One column of the table, and what is proposed for it."""

    header: str
    texts: pd.Series  # (n_rows,), None if missing
    written: Counter[str] = field(default_factory=Counter)  # marks that were read as missing
    feature: Feature | None = None  # None: left out of the contract
    odd: tuple[str, ...] = ()  # texts to read as missing in this column alone
    numbers: pd.Series | None = None  # (n_rows,) of a number or a date (days), NaN if missing
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)  # what a person has to decide

    @cached_property
    def counts(self) -> dict[str, int]:
        """Rows by text, the commonest first; without missing values."""
        return dict(Counter(self.texts.dropna()).most_common())

    @property
    def is_used(self) -> bool:
        """True for an input of the model."""
        return self.feature is not None and self.feature.used

    @property
    def name(self) -> str:
        """The proposed name."""
        assert self.feature is not None
        return self.feature.name

    def leave_out(self, reason: str) -> None:
        """Leave the column out of the contract."""
        self.feature = None
        self.checks = [f"left out, {reason}"]

    def propose(self, **changes: Any) -> None:
        """Change the proposed feature."""
        assert self.feature is not None
        self.feature = replace(self.feature, **changes)


@dataclass(frozen=True)
class Proposal:
    """The proposed contract and how the table writes its values."""

    target: Target
    labels: pd.Series  # (n_rows,) texts of the target, None if missing
    columns: list[Column]
    table_format: TableFormat

    @property
    def n_rows(self) -> int:
        """The number of rows of the table."""
        return len(self.labels)
