"""The reference data: rows of the production version, as logged by its training.

`registry` downloads the file; `verdict` and `measure` compare windows with the rows.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract
from config.events import Prediction
from evidently_service.reference.registry import RegistryError, Version


class Reference(NamedTuple):
    """The reference data of one version."""

    version: Version
    frame: pd.DataFrame  # as `monitored_frame` returns it
    label: np.ndarray  # (n_rows,), the true class, 0 or 1


def read_reference(path: Path, version: Version, contract: Contract) -> Reference:
    """Read a reference file, one JSON object a line.

    Raises RegistryError if a row lacks its label or a column of the contract.
    """
    rows = msgspec.json.Decoder(dict).decode_lines(path.read_bytes())
    try:
        label = np.array([row["label"] for row in rows], int)
        return Reference(version, monitored_frame(rows, contract), label)
    except KeyError as err:
        raise RegistryError(
            f"{path}: a row has no {err}; expected the label and every column of the contract."
            " Promote a version that was trained with this contract."
        ) from err


def monitored_frame(rows: Iterable[Mapping[str, Any]], contract: Contract) -> pd.DataFrame:
    """Return the model's input columns and outputs.

    DataFrame (n_rows, n_features + 2): the features in contract order, then `probability` and
    `income_class`. A missing or unseen category becomes '?'. Raises KeyError naming a missing
    column.
    """
    rows = list(rows)
    columns: dict[str, list[Any]] = {
        feature.name: [feature.known(row[feature.name]) for row in rows]
        for feature in contract.inputs
    }
    columns["probability"] = [float(row["probability"]) for row in rows]
    columns["income_class"] = [int(row["income_class"]) for row in rows]
    return pd.DataFrame(columns)


def prediction_frame(predictions: Iterable[Prediction], contract: Contract) -> pd.DataFrame:
    """Return predictions as `monitored_frame` does."""
    return monitored_frame(
        (
            {**one.features, "probability": one.probability, "income_class": one.income_class}
            for one in predictions
        ),
        contract,
    )
