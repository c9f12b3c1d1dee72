"""The pipeline to fit: encoder -> SMOTE -> XGBoost, as an imbalanced-learn pipeline.

The search tunes its parameters; calibration and export follow. All categories come from the
contract, so the encoder learns nothing from the data and the exported graph has every category.
"""

from typing import Any

import numpy as np
import pandas as pd
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder
from xgboost import XGBClassifier

from config.contract import Contract
from config.feature import Feature
from training.data.validation import known_categories

Params = dict[str, Any]

# The search overrides these; `search_space.Ranges` has the ranges.
DEFAULT_PARAMS: Params = {
    "smote_multiplier": 1.1,
    "smote_neighbours": 5,
    "n_estimators": 300,
    "learning_rate": 0.1,
    "max_depth": 6,
}


class ScaledSMOTE(SMOTE):  # pylint: disable=too-many-ancestors  # imbalanced-learn's own tree
    """SMOTE with distances in standard deviations; rows keep their raw units and missing numbers.

    A `StandardScaler` before XGBoost would move rows across float32 split points in the exported
    graph. Here scaling affects the neighbours only. imbalanced-learn's SMOTE rejects NaN. Here a
    missing number is the column's median for the distances. A synthetic row lies between a base row
    and a neighbour; it takes a column that either of them lacks from its base row.
    Source: Chawla et al. (2002), SMOTE, doi:10.1613/jair.953.
    """

    # Of the rows to resample, for the methods that imbalanced-learn calls.
    _missing, _scale = np.empty((0, 0), bool), np.empty(0)
    _n_rarer = 0

    def fit_resample(
        self, X: np.ndarray, y: np.ndarray, **params: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return all rows unchanged, then the synthetic rows of the rarer class."""
        missing = np.isnan(X)
        known = np.where(missing.all(axis=0), 0, X)
        rarer = y == np.bincount(y).argmin()
        self._missing, self._n_rarer = missing[rarer], int(rarer.sum())
        self._scale = np.nanstd(known, axis=0, dtype=np.float64)
        self._scale[self._scale == 0] = 1.0
        filled = np.where(missing, np.nanmedian(known, axis=0), X).astype(X.dtype)
        resampled, classes = super().fit_resample(filled, y, **params)
        resampled[: len(X)] = X
        return resampled, classes

    def _validate_estimator(self) -> None:
        super()._validate_estimator()
        self.nn_k_.set_params(n_neighbors=min(self.nn_k_.n_neighbors, self._n_rarer))

    def _fit_resample(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        resampled, classes = super()._fit_resample(X / self._scale, y)
        made = (resampled[len(X) :] * self._scale).astype(X.dtype)
        return np.concatenate([X, made]), classes

    # pylint: disable-next=too-many-arguments, too-many-positional-arguments  # SMOTE's own
    def _generate_samples(
        self,
        X: np.ndarray,
        nn_data: np.ndarray,
        nn_num: np.ndarray,
        rows: np.ndarray,
        cols: np.ndarray,
        *others: Any,
    ) -> np.ndarray:
        made = super()._generate_samples(X, nn_data, nn_num, rows, cols, *others)
        made = np.where(self._missing[nn_num[rows, cols]], X[rows], made)
        made[self._missing[rows]] = np.nan
        return made


def synthetic_rows(y: np.ndarray, multiplier: float) -> int:
    """Return how many rows raise the rarer class by `multiplier`, at most to balance.

    A class of one row has no neighbours, so the number is 0.
    """
    rarer, common = sorted(np.bincount(y, minlength=2))
    return min(round(multiplier * rarer), int(common)) - int(rarer) if rarer > 1 else 0


def make_encoder(contract: Contract) -> ColumnTransformer:
    """Return the encoder from a frame of input columns to float32 (n_samples, n_encoded).

    Numbers pass unchanged, dates become their parts, ordinal and boolean columns ranks, and nominal
    ones one column per category. A missing value stays NaN; in a nominal column '?' is a category.
    """
    inputs = by_encoding(contract)
    ranks = OrdinalEncoder(
        categories=[list(feature.categories) for feature in inputs["rank"]],
        dtype=np.float32,
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
    )
    one_hot = OneHotEncoder(
        categories=[known_categories(feature) for feature in inputs["nominal"]],
        dtype=np.float32,
        handle_unknown="ignore",
        sparse_output=False,
    )
    names = {encoding: [one.name for one in features] for encoding, features in inputs.items()}
    dates = [
        (f"date {one.name}", FunctionTransformer(date_parts, kw_args={"feature": one}), [one.name])
        for one in inputs["date"]
    ]
    steps = [
        ("number", "passthrough", names["number"]),
        *dates,
        ("rank", ranks, names["rank"]),
        ("nominal", one_hot, names["nominal"]),
    ]
    return ColumnTransformer(steps, sparse_threshold=0, verbose_feature_names_out=False)


def by_encoding(contract: Contract) -> dict[str, list[Feature]]:
    """Return the input columns by encoding, in the encoder's order."""
    encodings = {"integer": "number", "ordinal": "rank", "boolean": "rank"}
    found: dict[str, list[Feature]] = {name: [] for name in ("number", "date", "rank", "nominal")}
    for feature in contract.inputs:
        found[encodings.get(feature.kind, feature.kind)].append(feature)
    return found


def date_parts(frame: pd.DataFrame, feature: Feature) -> np.ndarray:
    """Return the parts of a column of days (n_samples, n_parts), float64; NaN stays."""
    days = frame[feature.name]
    # Without NaN: `pandas.to_datetime` rounds memory that it never set for one, and may overflow.
    since = pd.to_timedelta(days.fillna(0).astype("int64"), unit="D")
    dates = (pd.Timestamp(feature.reference) + since).where(days.notna()).dt
    return np.column_stack(
        [days if part == "days" else getattr(dates, part) for part in feature.parts]
    )


def encoded_columns(contract: Contract) -> list[str]:
    """Return the names of the encoded columns: `number`, `date.part`, `nominal=category`."""
    names = []
    for encoding, features in by_encoding(contract).items():
        for one in features:
            if encoding == "date":
                names += [f"{one.name}.{part}" for part in one.parts]
            elif encoding == "nominal":
                names += [f"{one.name}={category}" for category in known_categories(one)]
            else:
                names.append(one.name)
    return names


def make_sampler(params: Params, seed: int) -> ScaledSMOTE:
    """Return SMOTE that multiplies the rows of the rarer class and removes no row."""

    def wanted(y: np.ndarray) -> dict[int, int]:
        counts = np.bincount(y, minlength=2)
        rarer = int(counts.argmin())
        return {rarer: int(counts[rarer]) + synthetic_rows(y, params["smote_multiplier"])}

    return ScaledSMOTE(
        sampling_strategy=wanted,
        k_neighbors=params["smote_neighbours"],
        random_state=seed,
    )


def make_classifier(params: Params, seed: int, threads: int = 0) -> XGBClassifier:
    """Return XGBoost with its part of the parameters; `threads` 0 uses every core."""
    own = booster_params(params, seed, threads)
    return XGBClassifier(n_estimators=params.get("n_estimators"), **own)


def booster_params(params: Params, seed: int, threads: int = 0) -> Params:
    """Return XGBoost's part of the parameters, without the number of trees."""
    own = {name: value for name, value in params.items() if not name.startswith("smote_")}
    own.pop("n_estimators", None)
    # Boosting starts from even odds, so the log-odds that SMOTE adds are known exactly.
    fixed = {"objective": "binary:logistic", "tree_method": "hist", "base_score": 0.5}
    return own | fixed | {"seed": seed, "nthread": threads}


def make_pipeline(contract: Contract, params: Params, seed: int) -> Pipeline:
    """Return the unfitted pipeline; SMOTE acts in `fit` only."""
    steps = [
        ("encoder", make_encoder(contract)),
        ("sampler", make_sampler(params, seed)),
        ("classifier", make_classifier(params, seed)),
    ]
    return Pipeline(steps)
