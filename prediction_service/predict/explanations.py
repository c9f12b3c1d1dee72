"""Explain a record's probability: exact TreeSHAP of the same trees, by XGBoost itself.

A worker imports this module with its first explanation: XGBoost and SciPy take seconds and memory.
The booster travels beside the graph. Its checksum is in the graph, and it must reproduce the golden
rows.

Source: Lundberg et al. (2020), From local explanations to global understanding with explainable AI
for trees, doi:10.1038/s42256-019-0138-9.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import xgboost

from config.contract import Contract
from config.feature import MISSING, Feature, Value
from config.model.package import ModelRejected, Row, read_golden, sha256_of
from config.model_registry import BOOSTER, GOLDEN
from config.rare_pairs import RARE_PAIRS, RarePairs
from prediction_service.predict.responses import Calibration, Explanation
from prediction_service.errors import NotExplained

N_REASONS = 3


class Explainer:
    """Explainer of one version's predictions."""

    def __init__(self, folder: Path, facts: dict[str, str], contract: Contract) -> None:
        """Load the booster. Raises NotExplained if it is missing or not the graph's own."""
        self.contract = contract
        try:
            self.calibration = read_calibration(folder, facts)
            self._rare_pairs = msgspec.json.decode(facts.get(RARE_PAIRS, "{}"), type=RarePairs)
            self._booster = xgboost.Booster({"nthread": 1}, model_file=folder / BOOSTER)
            self._columns = [Column(name, contract) for name in self._booster.feature_names or ()]
            self._check_golden(folder / GOLDEN)
        except (ModelRejected, xgboost.core.XGBoostError, KeyError) as err:
            raise NotExplained(
                f"The predictions of this version cannot be explained: {err}"
            ) from err

    def explain(self, rows: Sequence[Row]) -> list[Explanation]:
        """Return one explanation for each row of raw input values."""
        encoded = np.array([[column(row) for column in self._columns] for row in rows], np.float32)
        matrix = xgboost.DMatrix(encoded, feature_names=self._booster.feature_names, nthread=1)
        shares = self._booster.predict(matrix, pred_contribs=True).astype(float)
        return [self._explanation(row, *pair) for row, pair in zip(rows, self._by_feature(shares))]

    def _by_feature(self, shares: np.ndarray) -> Iterable[tuple[float, dict[str, float]]]:
        """Yield base value and contribution of each feature: sums over its encoded columns."""
        for *values, base in shares.tolist():
            contributions = dict.fromkeys(self.contract.input_names, 0.0)
            for column, value in zip(self._columns, values):
                contributions[column.feature.name] += value
            yield base, contributions

    def _explanation(self, row: Row, base: float, shares: dict[str, float]) -> Explanation:
        margin = base + sum(shares.values())
        strongest = sorted(
            zip(self.contract.inputs, row), key=lambda one: -abs(shares[one[0].name])
        )
        reasons = [self._reason(f, value, shares[f.name]) for f, value in strongest[:N_REASONS]]
        record = {f.name: f.known(value) for f, value in zip(self.contract.inputs, row)}
        unusual = list(self._rare_pairs.of(record, self.contract))
        return Explanation(base, shares, margin, self.calibration, reasons, unusual)

    def _reason(self, feature: Feature, value: Value, contribution: float) -> str:
        """Return the effect of a feature on the odds, in words."""
        effect = self.calibration.slope * contribution
        verb = "raises" if effect > 0 else "lowers"
        odds = f"the odds of {self.contract.target.positive} {math.exp(abs(effect)):.2f} times"
        return f"{feature.name.replace('_', ' ')}: {feature.words(value)} {verb} {odds}"

    def _check_golden(self, path: Path) -> None:
        golden, names = read_golden(path), self.contract.input_names
        explained = self.explain([[row.get(name) for name in names] for row in golden.rows])
        for one, probability in zip(explained, golden.probabilities):
            found = self.calibration(one.margin)
            if not abs(found - probability) <= golden.tolerance:
                raise ModelRejected(
                    f"{BOOSTER}: wrong golden row; got {found:.6f}, expected {probability:.6f}."
                    " Train a new version."
                )


class Column:
    """A column that the trees split on: a number, a part of a date, a rank or a category's flag."""

    def __init__(self, name: str, contract: Contract) -> None:
        """Parse a name as training writes it: `feature`, `feature.part` or `feature=category`.

        Raises KeyError for an unknown feature.
        """
        column, _, self.category = name.partition("=")
        feature_name, _, self.part = column.partition(".")
        self.feature = contract[feature_name]
        self._position = contract.input_names.index(feature_name)

    def __call__(self, row: Row) -> float:
        """Return the encoded value of a row, NaN for a missing one."""
        value = self.feature.known(row[self._position])
        if self.category:
            return float(value == self.category)
        if not self.feature.is_categorical:
            return self.feature.date_part(float(value), self.part) if self.part else float(value)
        if value == MISSING:
            return math.nan
        return float(self.feature.categories.index(str(value)))


def read_calibration(folder: Path, facts: dict[str, str]) -> Calibration:
    """Return the graph's calibration. Raises ModelRejected for a booster of another graph."""
    expected = facts.get("booster_sha256")
    if expected is None:
        raise ModelRejected(f"The package has no {BOOSTER}. Train a new version.")
    if (found := sha256_of(folder / BOOSTER)) != expected:
        raise ModelRejected(
            f"{BOOSTER}: not the booster of this graph; got sha256 {found}, expected {expected}."
            " Train a new version."
        )
    return Calibration(float(facts["platt_slope"]), float(facts["platt_intercept"]))
