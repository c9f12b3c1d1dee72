"""The rows of one training: the source's training split and the labelled rows that join it.

Rows join from ingested batches (`store`) and labelled production rows (`feedback`). One joined row
in five is never used for training: a hash of its input columns decides. The newest of these holdout
rows judge a model after drift. Joined rows that look like a holdout row of the source are dropped.
Every count goes into the run as its lineage.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract
from training.data.dataset import Dataset
from training.data.feedback import Feedback
from training.data.rows import frame_digest, row_digests
from training.data.store import Batch, Store, StoreError
from training.data.validation import check_frame

HOLDOUT_ONE_IN = 5  # joined rows
DOWNSAMPLING = 1  # second part of the seed
# Holdout rows, and rows of each class, of a caller who judges the labels of others; as in the gate.
MIN_JUDGE_ROWS, MIN_JUDGE_CLASS = 200, 30
MAX_RECENT = 5000  # more than a drift window has, so that enough holdout rows are recent


class LeakError(Exception):
    """A holdout row is also a training row, so no measurement would be valid."""


class LeftOut(msgspec.Struct, frozen=True):
    """Labelled rows that must not train a model; `label_screen` finds them."""

    rule: str  # "value" or "own predictions"
    column: str
    value: str | float | None  # of the column
    rows: int
    found: float  # share of positive labels, or ROC AUC of the production version
    expected: float  # the same by that version's probabilities


class Source(msgspec.Struct, frozen=True):
    """One source of rows with its counts, for the lineage of a run."""

    name: str  # of the described source, the period of a batch, or production
    source: str  # a file, an address or mongodb
    sha256: str  # of the file, or of the rows if there is no file
    rows: int  # training rows, before old ones are downsampled
    held_out: int = 0  # holdout rows
    like_judges: int = 0  # dropped: they look like a holdout row of the described source
    repeated: int = 0  # dropped: an earlier source has the same prediction
    rejected: int = 0  # dropped: they break the contract, or their label is disputed
    capped: int = 0  # dropped: their caller sent too many on one day
    of_judge: int = 0  # dropped: their caller's holdout rows judge
    unused: int = 0  # holdout rows that do not judge: another caller's do
    left_out: tuple[LeftOut, ...] = ()  # dropped: no drift explains their labels


class SourceRows(NamedTuple):
    """Rows that may join: inputs and target, `prediction_id`, `at` (Unix time), maybe `caller`."""

    source: Source
    rows: pd.DataFrame


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one training, which of them are new, and the rows that may judge it."""

    frame: pd.DataFrame  # inputs and target
    joined: np.ndarray  # (n_samples,) bool: not from the described source
    recent: np.ndarray  # (n_samples,) bool: among the newest joined rows
    test_holdout: pd.DataFrame  # judge half of the test split, with every column
    recent_holdout: pd.DataFrame  # holdout rows among the newest joined rows; may be empty
    lineage: tuple[Source, ...]


def assemble_rows(
    dataset: Dataset,
    test_holdout: pd.DataFrame,
    sources: Sequence[SourceRows],
    contract: Contract,
    *,
    recent_since: float = 0.0,
    max_recent: int = MAX_RECENT,
    recent_judge: bool = False,
) -> TrainingRows:
    """Return the dataset's training split with the rows that join it.

    Joined rows are recent from the Unix time `recent_since` on, at most `max_recent` of them. No
    row of `recent_holdout` looks like a training row. The dataset's own split stays as it
    is, although some rows of its two sides may look alike.

    With `recent_judge`, the recent rows are to judge: one caller's, if several sent labels. That
    caller's other rows are then left out, so nobody both trains and judges.
    """
    columns = [*contract.input_names, contract.target.name]
    new = classify_rows(sources, test_holdout, contract)
    if recent_judge:
        separate_judge(new, new["at"] >= recent_since, contract)
    added = new[new["use"] == "rows"]
    # An empty frame has no types and would change the dataset's types.
    frames = [dataset.train[columns], *([added[columns]] if len(added) else [])]
    frame = pd.concat(frames, ignore_index=True)
    newest = new[new["use"].isin(["rows", "held_out"]) & (new["at"] >= recent_since)]
    newest = newest.sort_values("at", kind="stable").tail(max_recent)
    trained = set(row_digests(frame, contract))
    holdout = newest[(newest["use"] == "held_out") & ~newest["digest"].isin(trained)]
    return TrainingRows(
        frame,
        joined=np.arange(len(frame)) >= len(dataset.train),
        recent=np.r_[np.zeros(len(dataset.train), bool), added.index.isin(newest.index)],
        test_holdout=test_holdout,
        recent_holdout=holdout[columns].reset_index(drop=True),
        lineage=(*dataset_sources(dataset), *with_counts(sources, new)),
    )


def separate_judge(new: pd.DataFrame, recent: pd.Series, contract: Contract) -> None:
    """Let the holdout rows of one caller judge, if several sent labels, and drop its other rows.

    It is the caller with the fewest holdout rows that are enough, so the fewest rows are lost.
    Changes `use` of `new`: the holdout rows of others become `unused`, its training rows
    `of_judge`.
    """
    held_out = new[recent & (new["use"] == "held_out")]
    counts = held_out.groupby("caller")[contract.target.name].agg(["size", "sum"])
    rarer = np.minimum(counts["sum"], counts["size"] - counts["sum"])
    enough = counts[(counts["size"] >= MIN_JUDGE_ROWS) & (rarer >= MIN_JUDGE_CLASS)]
    if new.loc[recent, "caller"].nunique() < 2 or enough.empty:
        return
    is_judge = new["caller"] == enough["size"].idxmin()
    new.loc[is_judge & (new["use"] == "rows"), "use"] = "of_judge"
    new.loc[~is_judge & (new["use"] == "held_out"), "use"] = "unused"


def classify_rows(
    sources: Sequence[SourceRows], test_holdout: pd.DataFrame, contract: Contract
) -> pd.DataFrame:
    """Return all rows of the sources with `source` (its index), `digest` and `use`.

    `use` is the name of a count of `Source`: rows, held_out, like_judges or repeated. `caller` sent
    the label; None: unknown, or an operator's batch.
    """
    columns = [*contract.input_names, contract.target.name, "prediction_id", "at"]
    frames = [
        one.rows[columns].assign(source=n, caller=one.rows.get("caller"))
        for n, one in enumerate(sources)
        if len(one.rows)
    ]
    columns += ["caller"]
    if not frames:
        return pd.DataFrame(columns=[*columns, "source", "digest", "use"])
    new = pd.concat(frames, ignore_index=True)
    new["digest"] = row_digests(new, contract)
    new["use"] = "rows"  # each later rule overrides the earlier ones
    new.loc[new["digest"].isin(set(row_digests(test_holdout, contract))), "use"] = "like_judges"
    new.loc[is_held_out(new["digest"]), "use"] = "held_out"
    known = new["prediction_id"].notna() & new["prediction_id"].duplicated()
    new.loc[known, "use"] = "repeated"
    return new


def is_held_out(digests: Sequence[str] | pd.Series) -> np.ndarray:
    """Return True for each digest whose row is never used for training (n_samples,).

    The first digits decide. The last digit decides between the halves of the test split.
    """
    return np.array([int(digest[:8], 16) % HOLDOUT_ONE_IN == 0 for digest in digests], dtype=bool)


def with_counts(sources: Sequence[SourceRows], new: pd.DataFrame) -> Iterator[Source]:
    """Yield each source with the counts of its classified rows."""
    for number, one in enumerate(sources):
        uses = new.loc[new["source"] == number, "use"].value_counts()
        yield msgspec.structs.replace(one.source, **{str(k): int(v) for k, v in uses.items()})


def downsample_old_rows(rows: TrainingRows, recent_weight: float, seed: int) -> TrainingRows:
    """Return the rows with one in `recent_weight` of the old ones, drawn at random.

    So a recent row weighs `recent_weight` times as much. Repeated rows would be on both sides of a
    fold, and calibration would need sample weights too. Without recent rows nothing changes.
    recent_weight: at least 1, equal weights.
    """
    if recent_weight == 1 or not rows.recent.any():
        return rows
    # With the seed alone the numbers would be those that drew the income of synthetic rows.
    drawn = np.random.default_rng([seed, DOWNSAMPLING]).random(len(rows.frame))
    kept = rows.recent | (drawn < 1 / recent_weight)
    return replace(
        rows,
        frame=rows.frame[kept].reset_index(drop=True),
        joined=rows.joined[kept],
        recent=rows.recent[kept],
    )


def reject_overlap(rows: TrainingRows, contract: Contract) -> None:
    """Raise LeakError if a holdout row looks like a training row.

    For holdout rows of the test split only joined rows count. `assemble_rows` drops such rows; this
    check catches a mistake there.
    """
    digests = pd.Series(row_digests(rows.frame, contract))
    for name, holdout, trained in (
        ("test split", rows.test_holdout, digests[rows.joined]),
        ("newest labelled", rows.recent_holdout, digests),
    ):
        held_out = pd.Series(row_digests(holdout, contract), dtype=object)
        seen = held_out[held_out.isin(set(trained))]
        if len(seen):
            # No message contains a value of a record.
            raise LeakError(
                f"holdout rows ({name}): {len(seen)} of {len(holdout)} are also training rows,"
                f" expected none (training/data/assemble.py), e.g. row {seen.index[0]} with digest"
                f" {seen.iloc[0]}"
            )


def data_digest(dataset: Dataset, rows: TrainingRows) -> str:
    """Return the sha256 of the data of a training and of its gate, without the weights."""
    return hashlib.sha256(msgspec.json.encode([dataset.digest, rows.lineage])).hexdigest()


# --- sources ------------------------------------------------------------------------------------


def dataset_sources(dataset: Dataset) -> Iterator[Source]:
    """Yield each file that gave training rows, with its checksum; synthetic rows have no file."""
    if not dataset.files:
        yield Source(dataset.source, dataset.source, dataset.digest, len(dataset.train))
    for file in dataset.files:
        if file.rows_train:
            yield Source(dataset.source, file.name, file.sha256, file.rows_train)


def from_store(store: Store, contract: Contract) -> Iterator[SourceRows]:
    """Yield each batch, checked against the current contract.

    Raises StoreError or FilesUnavailable.
    """
    for batch in store.batches():
        stored = with_label_texts(store.rows(batch), batch, contract)
        checked, rejected = check_frame(stored, contract)
        checked = checked.assign(
            prediction_id=stored.loc[checked.index, "prediction_id"],
            at=prediction_times(batch, stored)[checked.index],
        )
        source = Source(batch.period, batch.source, batch.sha256, 0, rejected=len(rejected))
        yield SourceRows(source, checked)


def with_label_texts(stored: pd.DataFrame, batch: Batch, contract: Contract) -> pd.DataFrame:
    """Return the rows of a batch with labels in place of classes.

    A contract may exchange its labels after the batch was stored, and with them the classes. Raises
    StoreError for other labels.
    """
    if set(batch.labels) != set(contract.target.labels):
        raise StoreError(
            f"{batch.source}: stored with other labels; got {', '.join(batch.labels)}, expected"
            f" {', '.join(contract.target.labels)} (config/features.yaml). Take the batch back with"
            f" `python -m training ingest --undo {batch.sha256[:12]}` and ingest the file again."
        )
    name = contract.target.name
    return stored.assign(**{name: stored[name].map(dict(enumerate(batch.labels)))})


def from_feedback(feedback: Feedback, contract: Contract) -> SourceRows:
    """Return the labelled production rows as a source."""
    columns = [*contract.input_names, contract.target.name, "prediction_id", "predicted_at"]
    rejected, capped = feedback.disputed + feedback.rejected, feedback.capped
    digest = frame_digest(feedback.rows[columns])
    source = Source("production", "mongodb", digest, 0, rejected=rejected, capped=capped)
    return SourceRows(source, feedback.rows.rename(columns={"predicted_at": "at"}))


def prediction_times(batch: Batch, rows: pd.DataFrame) -> pd.Series:
    """Return the prediction time of each row of a batch, as Unix time.

    A row without one gets the first day of its period: it may be older than a drift.
    """
    begins = datetime.fromisoformat(f"{batch.period}-01").replace(tzinfo=UTC)
    return rows["predicted_at"].fillna(begins.timestamp())


def count_ingested(store: Store, since: float, seen_until: float) -> int:
    """Return the number of rows predicted since `since` in batches ingested after `seen_until`.

    Both are Unix times. Raises StoreError or FilesUnavailable.
    """
    moment = datetime.fromtimestamp(seen_until, UTC)
    fresh = [one for one in store.batches() if datetime.fromisoformat(one.ingested_at) > moment]
    return sum(int((prediction_times(one, store.rows(one)) >= since).sum()) for one in fresh)
