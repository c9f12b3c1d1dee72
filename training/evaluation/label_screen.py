"""Leave out labels that no drift explains, before they train a model.

The production version scores the labelled rows. Two rules find rows to leave out:

- value: the rows with one value of a column have far more or fewer positive labels than expected.
  The probabilities are calibrated on all rows of the source first, so a change that all rows share
  does not count.
- own predictions: the labels agree with the version better than any label can. Its predictions were
  sent back as labels.

The rows are left out, and the training goes on: otherwise 30 labels would stop every training. A
mark of several columns, labels below the bound, and values with fewer rows are not found.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from config.contract import Contract
from training.data.assemble import LeftOut
from training.evaluation.metrics import weighted_auc
from training.model.calibration import fit_platt

# By chance at most 3 values in 100,000 depart so far with 30 rows. The drift scenarios of the
# census reach 0.27 (sudden) and 0.38 (concept shift, 50 of 5,000 rows); 250 rows that an attacker
# marks reach 0.38 to 0.73.
MIN_VALUE_ROWS, MAX_DEPARTURE = 30, 0.35
MIN_CALLER_ROWS = 200
MIN_OWN_ROC_AUC, MAX_EXPECTED_ROC_AUC = 0.99, 0.98


def screen_labels(
    rows: pd.DataFrame, probability: np.ndarray, contract: Contract
) -> tuple[pd.DataFrame, tuple[LeftOut, ...]]:
    """Return the rows of a source that may train, and what is left out.

    rows: inputs, target and maybe `caller`. probability: the production version's (n_samples,).
    """
    y, kept, found = rows[contract.target.name].to_numpy(int), np.ones(len(rows), bool), []
    for one, of in own_predictions(rows, y, probability):
        kept &= ~of
        found.append(one)
    departed = np.zeros(kept.sum(), bool)
    for one, of in departing_values(
        rows[list(contract.input_names)][kept], y[kept], probability[kept]
    ):
        departed |= of
        found.append(one)
    return rows[kept][~departed], tuple(found)


def own_predictions(
    rows: pd.DataFrame, y: np.ndarray, probability: np.ndarray
) -> Iterator[tuple[LeftOut, np.ndarray]]:
    """Yield each caller whose labels are the version's predictions, with the mask of its rows."""
    callers = rows.get("caller", pd.Series(None, rows.index, dtype=object)).to_numpy()
    for caller in pd.unique(callers):
        of = pd.isna(callers) if pd.isna(caller) else callers == caller
        n, p = int(of.sum()), probability[of].astype(float)
        if n < MIN_CALLER_ROWS:
            continue
        auc = weighted_auc(y[of], p)(np.ones(n))
        # Each row counts as positive with its probability, else as negative.
        both = weighted_auc(np.repeat([1, 0], n), np.tile(p, 2))
        expected = both(np.r_[p, 1 - p])
        if auc > MIN_OWN_ROC_AUC and expected < MAX_EXPECTED_ROC_AUC:
            name = None if pd.isna(caller) else str(caller)
            yield LeftOut("own predictions", "caller", name, n, auc, expected), of


def departing_values(
    inputs: pd.DataFrame, y: np.ndarray, probability: np.ndarray
) -> Iterator[tuple[LeftOut, np.ndarray]]:
    """Yield each value whose labels depart from the probabilities, with the mask of its rows."""
    if len(np.unique(y)) < 2:
        return
    expected = fit_platt(probability, y)(probability)
    for column in inputs:
        codes, values = pd.factorize(inputs[column].to_numpy(), use_na_sentinel=False)
        n = np.bincount(codes)
        rates, expected_rates = (np.bincount(codes, one) / n for one in (y, expected))
        departs = (n >= MIN_VALUE_ROWS) & (np.abs(rates - expected_rates) > MAX_DEPARTURE)
        for code in np.flatnonzero(departs):
            value = None if pd.isna(values[code]) else values[code]
            figures = int(n[code]), float(rates[code]), float(expected_rates[code])
            shown = value if value is None or isinstance(value, str) else float(value)
            yield LeftOut("value", str(column), shown, *figures), codes == code
