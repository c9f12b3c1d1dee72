"""The pipeline to fit: encoder -> SMOTE -> XGBoost, in imbalanced-learn's terms.

Comes after the split and before calibration and export. Every category list is the contract's,
so encoding learns nothing from the data and a graph made from the encoder knows every category.
"""

from typing import Any

import numpy as np
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from xgboost import XGBClassifier

from config.contract import MISSING, Contract, Feature

Params = dict[str, Any]

# What the search tunes is laid over these; see `search.SPACE` for the ranges.
DEFAULT_PARAMS: Params = {
    "smote_ratio": 0.35,
    "smote_neighbours": 5,
    "n_estimators": 300,
    "learning_rate": 0.1,
    "max_depth": 6,
}


class ScaledSMOTE(SMOTE):  # pylint: disable=too-many-ancestors  # imbalanced-learn's own tree
    """SMOTE that measures neighbour distances in standard deviations, and returns raw units.

    A `StandardScaler` before XGBoost would move rows across float32 split points once the
    pipeline is a graph; scaling for the neighbours alone leaves the real rows as they were.
    Source: Chawla et al. (2002), SMOTE, doi:10.1613/jair.953.
    """

    def _fit_resample(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = X.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1.0
        resampled, y_resampled = super()._fit_resample(X / scale, y)
        made = (resampled[len(X) :] * scale).astype(X.dtype)
        return np.concatenate([X, made]), y_resampled


def make_encoder(contract: Contract) -> ColumnTransformer:
    """Encodes a frame of the contract's input columns to float32 (n_samples, n_encoded).

    Integers pass as they are, ordinal columns become their rank, nominal ones one column per
    category, with '?' as a category of its own where the contract allows a missing value.
    """
    inputs = contract.inputs
    ordinal = [feature for feature in inputs if feature.kind == "ordinal"]
    nominal = [feature for feature in inputs if feature.kind == "nominal"]
    ranks = OrdinalEncoder(categories=[list(f.categories) for f in ordinal], dtype=np.float32)
    one_hot = OneHotEncoder(
        categories=[known_categories(feature) for feature in nominal],
        dtype=np.float32,
        handle_unknown="ignore",
        sparse_output=False,
    )
    steps = [
        ("integer", "passthrough", [f.name for f in inputs if not f.is_categorical]),
        ("ordinal", ranks, [feature.name for feature in ordinal]),
        ("nominal", one_hot, [feature.name for feature in nominal]),
    ]
    return ColumnTransformer(steps, sparse_threshold=0, verbose_feature_names_out=False)


def known_categories(feature: Feature) -> list[str]:
    """The categories that the encoder gives a column, '?' among them where it can occur."""
    may_be_missing = feature.missing == "category" or feature.unseen == "missing"
    return [*feature.categories, MISSING] if may_be_missing else list(feature.categories)


def make_sampler(params: Params, seed: int) -> ScaledSMOTE:
    """SMOTE that fills the minority up to `smote_ratio` of the majority; never removes a row."""

    def wanted(y: np.ndarray) -> dict[int, int]:
        counts = np.bincount(y, minlength=2)
        minority = int(counts.argmin())
        return {minority: max(counts[minority], round(params["smote_ratio"] * counts.max()))}

    return ScaledSMOTE(
        sampling_strategy=wanted,
        k_neighbors=params["smote_neighbours"],
        random_state=seed,
    )


def make_classifier(params: Params, seed: int, threads: int = 0) -> XGBClassifier:
    """XGBoost with the model's part of the parameters; `threads` 0 takes every core."""
    own = booster_params(params, seed, threads)
    return XGBClassifier(n_estimators=params.get("n_estimators"), **own)


def booster_params(params: Params, seed: int, threads: int = 0) -> Params:
    """XGBoost's own part of the parameters, but for the number of trees."""
    own = {name: value for name, value in params.items() if not name.startswith("smote_")}
    own.pop("n_estimators", None)
    # Boosting starts from even odds, so that what SMOTE adds to them is known exactly.
    fixed = {"objective": "binary:logistic", "tree_method": "hist", "base_score": 0.5}
    return own | fixed | {"seed": seed, "nthread": threads}


def make_pipeline(contract: Contract, params: Params, seed: int) -> Pipeline:
    """The whole unfitted pipeline; SMOTE acts in `fit` only."""
    steps = [
        ("encoder", make_encoder(contract)),
        ("sampler", make_sampler(params, seed)),
        ("classifier", make_classifier(params, seed)),
    ]
    return Pipeline(steps)
