"""Why a record got its probability: exact TreeSHAP of the same trees, by XGBoost itself.

Imported with the first explanation that a worker is asked for, because XGBoost and SciPy take
seconds and memory that a worker without explanations does not need. The booster travels beside the
graph; its digest is in the graph, and it must reproduce the golden rows.

Source: Lundberg et al. (2020), From local explanations to global understanding with explainable AI
for trees, doi:10.1038/s42256-019-0138-9.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xgboost

from config.contract import Contract, Feature
from config.model_registry import BOOSTER
from prediction_service.errors import NotExplained
from prediction_service.model import ModelRefused, Row, read_golden, sha256_of
from prediction_service.responses import Calibration, Explanation

N_REASONS = 3


class Explainer:
    """Explains what one version answers."""

    def __init__(self, folder: Path, facts: dict[str, str], contract: Contract) -> None:
        """Raises NotExplained if the package's booster is missing, another one, or disagrees."""
        self.contract = contract
        try:
            self.calibration = read_calibration(folder, facts)
            self._booster = xgboost.Booster({"nthread": 1}, model_file=folder / BOOSTER)
            self._columns = [Column(name, contract) for name in self._booster.feature_names or ()]
            self._check_golden(folder / "golden.json")
        except (ModelRefused, xgboost.core.XGBoostError, KeyError) as err:
            raise NotExplained(f"This version's answers cannot be explained: {err}") from err

    def explain(self, rows: Sequence[Row]) -> list[Explanation]:
        """One explanation per row of raw input values."""
        encoded = np.array([[column(row) for column in self._columns] for row in rows], np.float32)
        matrix = xgboost.DMatrix(encoded, feature_names=self._booster.feature_names, nthread=1)
        shares = self._booster.predict(matrix, pred_contribs=True).astype(float)
        return [self._explanation(row, *pair) for row, pair in zip(rows, self._by_feature(shares))]

    def _by_feature(self, shares: np.ndarray) -> Iterable[tuple[float, dict[str, float]]]:
        """Base value and contribution of each feature, from those of the encoded columns."""
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
        return Explanation(base, shares, margin, self.calibration, reasons)

    def _reason(self, feature: Feature, value: str | int | None, contribution: float) -> str:
        """What a feature did to the odds of the answer, in words."""
        said = "not given" if value is None else f"{value} {feature.unit or ''}".strip()
        effect = self.calibration.slope * contribution
        verb = "raises" if effect > 0 else "lowers"
        odds = f"the odds of {self.contract.target.positive} {math.exp(abs(effect)):.2f} times"
        return f"{feature.name.replace('_', ' ')}: {said} {verb} {odds}"

    def _check_golden(self, path: Path) -> None:
        golden, names = read_golden(path), self.contract.input_names
        explained = self.explain([[row.get(name) for name in names] for row in golden.rows])
        for one, probability in zip(explained, golden.probabilities):
            found = self.calibration(one.margin)
            if not abs(found - probability) <= golden.tolerance:
                raise ModelRefused(
                    f"the booster gives a golden row {found:.6f}, expected {probability:.6f}"
                )


class Column:
    """One column that the trees split on: a number, a rank, or the flag of a category."""

    def __init__(self, name: str, contract: Contract) -> None:
        """`name` as training writes it, `feature` or `feature=category`. Raises KeyError."""
        feature_name, _, category = name.partition("=")
        self.feature = contract[feature_name]
        self.category = category
        self._position = contract.input_names.index(feature_name)

    def __call__(self, row: Row) -> float:
        """The encoded value."""
        value = row[self._position]
        if self.category:
            return float(self.feature.known(value) == self.category)
        if self.feature.is_categorical:
            return float(self.feature.categories.index(value))
        return float(value)


def read_calibration(folder: Path, facts: dict[str, str]) -> Calibration:
    """The graph's calibration. Raises ModelRefused if the booster is not the graph's own."""
    expected = facts.get("booster_sha256")
    if expected is None:
        raise ModelRefused("it came without its booster: train a new version")
    if (found := sha256_of(folder / BOOSTER)) != expected:
        raise ModelRefused(f"{BOOSTER} has the sha256 {found}, expected {expected}")
    return Calibration(float(facts["platt_slope"]), float(facts["platt_intercept"]))
