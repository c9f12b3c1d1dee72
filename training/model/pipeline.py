"""The pipeline to fit: encoder -> SMOTE -> XGBoost, as an imbalanced-learn pipeline.

The search tunes its parameters; calibration and export follow. All categories come from the
contract, so the encoder learns nothing from the data and the exported graph has every category.
"""

from typing import Any

import numpy as np
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from xgboost import XGBClassifier

from config.contract import Contract
from training.data.validation import known_categories

Params = dict[str, Any]

# The search overrides these; `search.SPACE` has the ranges.
DEFAULT_PARAMS: Params = {
    "smote_ratio": 0.35,
    "smote_neighbours": 5,
    "n_estimators": 300,
    "learning_rate": 0.1,
    "max_depth": 6,
}


class ScaledSMOTE(SMOTE):  # pylint: disable=too-many-ancestors  # imbalanced-learn's own tree
    """SMOTE with distances in standard deviations; the rows it returns are in raw units.

    A `StandardScaler` before XGBoost would move rows across float32 split points in the exported
    graph. Here scaling affects the neighbours only.
    Source: Chawla et al. (2002), SMOTE, doi:10.1613/jair.953.
    """

    def _fit_resample(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = X.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1.0
        resampled, y_resampled = super()._fit_resample(X / scale, y)
        made = (resampled[len(X) :] * scale).astype(X.dtype)
        return np.concatenate([X, made]), y_resampled


def make_encoder(contract: Contract) -> ColumnTransformer:
    """Return the encoder from a frame of input columns to float32 (n_samples, n_encoded).

    Integers pass unchanged, ordinal columns become ranks, nominal ones one column per category. '?'
    is a category if the contract allows a missing value.
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


def make_sampler(params: Params, seed: int) -> ScaledSMOTE:
    """Return SMOTE that raises the minority to `smote_ratio` of the majority and removes no row."""

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
