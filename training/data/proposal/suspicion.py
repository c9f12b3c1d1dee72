"""What looks suspicious among the columns of a table: duplicates, ranks, leaks and late dates.

`kinds` makes the columns; the functions here change their features and add checks.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import TargetEncoder

from training.data.proposal.columns import Column, Proposal

LEAK_AUC = 0.99  # of one column alone
DUPLICATE_INFORMATION = 0.98  # normalized mutual information
DUPLICATE_CORRELATION = 0.999  # of ranks (Spearman)
ROWS_PER_VALUE = 20  # mean, to compare the values of two columns
MAX_ROWS = 20_000  # of the comparisons
MAX_BINS = 50
LATEST_SHARE = 0.9  # of the rows in which a date is not before any other


def compare_columns(proposal: Proposal, seed: int = 0) -> None:
    """Set `used: false` for near-duplicates and leaks, find ranks, and add checks."""
    n_rows = min(MAX_ROWS, proposal.n_rows)
    labels = proposal.labels.sample(n_rows, random_state=seed)
    columns = [column for column in proposal.columns if column.is_used]
    codes = {one.name: pd.factorize(one.texts[labels.index])[0] for one in columns}
    numbers = {one.name: one.numbers[labels.index] for one in columns if one.numbers is not None}
    many = {name: values for name, values in numbers.items() if values.nunique() > 2}
    order = pd.DataFrame(many).corr("spearman", min_periods=ROWS_PER_VALUE).to_dict()
    for first, second in combinations(columns, 2):
        if not first.is_used or not second.is_used:
            continue
        if same_values(codes[first.name], codes[second.name]):
            if not propose_rank(first, second) and not propose_rank(second, first):
                drop(second, first)
        elif abs(order.get(first.name, {}).get(second.name, 0)) > DUPLICATE_CORRELATION:
            drop(second, first)
    compare_dates(columns)
    labels = labels.dropna()
    is_positive = (labels == proposal.target.positive).to_numpy().astype(int)
    for column in columns:
        find_leak(column, auc_alone(column, labels.index, is_positive))


def drop(column: Column, other: Column) -> None:
    """Set `used: false` for a column that says the same as another one."""
    column.propose(used=False)
    column.checks.append(f"nearly a duplicate of {other.name}; one of both is enough")


def same_values(one: np.ndarray, other: np.ndarray) -> bool:
    """Return True if each value of a column nearly always goes with one value of the other.

    one, other: numbers of the values (n_rows,), -1 if missing.
    """
    if (max(one.max(), other.max()) + 1) * ROWS_PER_VALUE > len(one):
        return False  # rare values go with few others by chance
    low, high = sorted(float(entropy(np.bincount(codes + 1))) for codes in (one, other))
    if low < DUPLICATE_INFORMATION**2 * high:
        return False  # spares the slow comparison
    return normalized_mutual_info_score(one, other) > DUPLICATE_INFORMATION


def propose_rank(ranked: Column, rank: Column) -> bool:
    """Propose an ordinal column if another one numbers its categories; return True if so."""
    order = rank_order(ranked, rank)
    if order is None:
        return False
    ranked.propose(kind="ordinal", categories=order, unseen="reject")
    ranked.checks.append(f"the order of the categories is that of {rank.name}")
    rank.propose(used=False, rank_of=ranked.name, minimum=1, maximum=len(order))
    rank.checks.append(f"nearly a duplicate: it numbers the categories of {ranked.name}")
    return True


def rank_order(ranked: Column, rank: Column) -> tuple[str, ...] | None:
    """Return the categories in order if the second column numbers them 1, 2, 3, ...; else None."""
    assert ranked.feature is not None and rank.feature is not None
    if ranked.feature.kind != "nominal" or rank.feature.kind != "integer":
        return None
    pairs = pd.DataFrame({"text": ranked.texts, "rank": rank.numbers}).drop_duplicates()
    if len(pairs) != len(ranked.counts) or pairs.isna().to_numpy().any():
        return None
    pairs = pairs.sort_values("rank")
    return tuple(pairs["text"]) if [*pairs["rank"]] == [*range(1, len(pairs) + 1)] else None


def compare_dates(columns: list[Column]) -> None:
    """Add a check to a date that is nearly always the latest of its row."""
    dates = [column for column in columns if column.feature and column.feature.kind == "date"]
    for column in dates:
        text = "is it known when a prediction is asked for? A date after the event tells the target"
        others = [one.numbers for one in dates if one is not column]
        if others and column.numbers is not None:
            latest = pd.concat(others, axis=1).max(axis=1)
            share = (column.numbers >= latest)[column.numbers.notna()].mean()
            if share > LATEST_SHARE:
                text = f"the latest date in {share:.0%} of the rows: {text}"
        column.checks.append(text)


def find_leak(column: Column, auc: float | None) -> None:
    """Set `used: false` for a column that alone predicts the target."""
    if auc is None:
        return
    column.notes.append(f"AUC {auc:.2f}")
    if auc > LEAK_AUC and column.is_used:
        column.propose(used=False)
        column.checks.append(
            f"a leak? Alone it predicts the target with an AUC of {auc:.3f}. If the value is known"
            " when a prediction is asked for, remove used: false"
        )


def auc_alone(column: Column, rows: pd.Index, is_positive: np.ndarray) -> float | None:
    """Return the ROC AUC of one column as the only input; None with too few rows of a class.

    The score of a row is the rate of positive labels among other rows with its value.
    """
    folds = min(5, is_positive.sum(), len(is_positive) - is_positive.sum())
    if folds < 2:
        return None
    values = column.texts[rows]
    bins = max(4, min(MAX_BINS, len(rows) // ROWS_PER_VALUE))
    if column.numbers is not None and column.numbers[rows].nunique() > bins:
        values = pd.qcut(column.numbers[rows], bins, labels=False, duplicates="drop")
    codes = pd.factorize(values)[0].reshape(-1, 1)
    split = StratifiedKFold(int(folds), shuffle=True, random_state=0)
    rates = TargetEncoder(target_type="binary", cv=split).fit_transform(codes, is_positive)
    return float(roc_auc_score(is_positive, rates[:, 0]))
