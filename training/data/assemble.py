"""What a training learns from, and who judges it: the census, and the labelled rows since then.

Comes after reading and checking, before the search. Rows join the census's training split from
two places: ingested batches (`store`) and labelled production rows (`feedback`). Of all that joins
one row in five, by a hash of what the model sees, is held out of every training for ever, whichever
way it came; the newest of these judge a model that drift has asked for. What looks like a row of
the census that judges is left out too. All is counted, and goes into the run as its lineage.
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
from training.data.census import TRAIN_FILE, UCI, Census, check_frame, row_digests, row_texts
from training.data.feedback import Feedback
from training.data.store import Batch, Store

ONE_IN = 5  # rows that join: one is held out
THINNING = 1  # beside the seed
RECENT_ROWS = 5000  # the newest that joined: what drift looks at, and some more to judge by


class LeakError(Exception):
    """A row that judges is also trained on; nothing may be measured with it."""


class Part(msgspec.Struct, frozen=True):
    """One source of rows, for the lineage of a run."""

    name: str  # census, the period of a batch, or production
    source: str  # a file, an address or mongodb
    sha256: str  # of the file, or of the rows where there is none
    rows: int  # trained on, before older ones are thinned
    held_out: int = 0  # never trained on: they may judge
    like_judges: int = 0  # left out: they look like a row of the census that judges
    repeated: int = 0  # left out: an earlier part has the same prediction
    rejected: int = 0  # left out: they break the contract, or their label is disputed


class Joining(NamedTuple):
    """A source before its rows are divided: what is known of it, and the rows."""

    part: Part
    rows: pd.DataFrame  # inputs and target, `prediction_id`, and `at` (Unix time) for their order


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one training, which of them are new, and the rows that may judge it."""

    frame: pd.DataFrame  # inputs and target
    joined: np.ndarray  # (n_samples,) bool: not of the census
    recent: np.ndarray  # (n_samples,) bool: among the newest that joined
    census_judges: pd.DataFrame  # of the census's test split, with every column
    recent_judges: pd.DataFrame  # held out of the newest that joined; may be empty
    lineage: tuple[Part, ...]


def gather(
    census: Census,
    census_judges: pd.DataFrame,
    joinings: Sequence[Joining],
    contract: Contract,
    recent_since: float = 0.0,
) -> TrainingRows:
    """The census's training split with what may join it; what joins is recent from a Unix time on.

    `recent_judges` looks like no row that is trained on. The census's own split is left as it
    is, as everyone who reports on it has it: some people on its two sides look alike.
    """
    columns = [*contract.input_names, contract.target.name]
    new = divided(joinings, census_judges, contract)
    trains = new[new["use"] == "rows"]
    # An empty frame has no types, and would take the census's away.
    frames = [census.train[columns], *([trains[columns]] if len(trains) else [])]
    frame = pd.concat(frames, ignore_index=True)
    n_census = len(census.train)
    newest = new[new["use"].isin(["rows", "held_out"]) & (new["at"] >= recent_since)]
    newest = newest.sort_values("at", kind="stable").tail(RECENT_ROWS)
    trained = set(row_digests(frame, contract))
    judges = newest[(newest["use"] == "held_out") & ~newest["digest"].isin(trained)]
    return TrainingRows(
        frame,
        joined=np.arange(len(frame)) >= n_census,
        recent=np.r_[np.zeros(n_census, bool), trains.index.isin(newest.index)],
        census_judges=census_judges,
        recent_judges=judges[columns].reset_index(drop=True),
        lineage=(census_part(census), *counted(joinings, new)),
    )


def divided(
    joinings: Sequence[Joining], census_judges: pd.DataFrame, contract: Contract
) -> pd.DataFrame:
    """All rows that would join, with `part` (a number), `digest` and what becomes of each: `use`.

    `use` is a count of `Part`: rows, held_out, like_judges or repeated.
    """
    columns = [*contract.input_names, contract.target.name, "prediction_id", "at"]
    frames = [one.rows[columns].assign(part=n) for n, one in enumerate(joinings) if len(one.rows)]
    if not frames:
        return pd.DataFrame(columns=[*columns, "part", "digest", "use"])
    new = pd.concat(frames, ignore_index=True)
    new["digest"] = row_digests(new, contract)
    new["use"] = "rows"  # what comes later weighs more
    new.loc[new["digest"].isin(set(row_digests(census_judges, contract))), "use"] = "like_judges"
    new.loc[is_held_out(new["digest"]), "use"] = "held_out"
    known = new["prediction_id"].notna() & new["prediction_id"].duplicated()
    new.loc[known, "use"] = "repeated"
    return new


def is_held_out(digests: Sequence[str] | pd.Series) -> np.ndarray:
    """For each row's digest, whether no training may ever see it (n_samples,).

    By the digest's first digits: those at its end divide the census's test split.
    """
    return np.array([int(digest[:8], 16) % ONE_IN == 0 for digest in digests], dtype=bool)


def counted(joinings: Sequence[Joining], new: pd.DataFrame) -> Iterator[Part]:
    """The part of each joining, with what became of its rows."""
    for number, joining in enumerate(joinings):
        uses = new.loc[new["part"] == number, "use"].value_counts()
        yield msgspec.structs.replace(joining.part, **{str(k): int(v) for k, v in uses.items()})


def thinned(rows: TrainingRows, recent_weight: float, seed: int) -> TrainingRows:
    """The rows with fewer older ones, so that a recent one weighs `recent_weight` times as much.

    One in `recent_weight` of the others stays, drawn at random. Weighting would say the same,
    but repeated rows would sit on both sides of a fold, and calibration would need the weights too.
    Without recent rows nothing changes. Raises ValueError for a weight below 1.
    """
    if recent_weight < 1:
        raise ValueError(f"recent_weight: got {recent_weight}, expected 1 (all alike) or more")
    if recent_weight == 1 or not rows.recent.any():
        return rows
    # A stream of its own: synthetic rows were drawn with the seed alone, their income first.
    drawn = np.random.default_rng([seed, THINNING]).random(len(rows.frame))
    stays = rows.recent | (drawn < 1 / recent_weight)
    return replace(
        rows,
        frame=rows.frame[stays].reset_index(drop=True),
        joined=rows.joined[stays],
        recent=rows.recent[stays],
    )


def refuse_overlap(rows: TrainingRows, contract: Contract) -> None:
    """Raises LeakError if a row that joined looks like one that judges, or a recent judge like any.

    `gather` has left such rows out; this is what stands between a mistake there and a figure.
    """
    digests = pd.Series(row_digests(rows.frame, contract))
    for name, judges, trained in (
        ("census", rows.census_judges, digests[rows.joined]),
        ("newest labelled", rows.recent_judges, digests),
    ):
        judging = pd.Series(row_digests(judges, contract), dtype=object)
        seen = judging[judging.isin(set(trained))]
        if len(seen):
            # By place and digest: no message holds a value of a record.
            raise LeakError(
                f"{len(seen)} of {len(judges)} {name} rows that judge are also trained on, expected"
                f" none (training/data/assemble.py), e.g. row {seen.index[0]} with digest {seen.iloc[0]}"
            )


def data_digest(census: Census, rows: TrainingRows) -> str:
    """sha256 of all that goes into a training and its judgement, but for how it is weighted."""
    return hashlib.sha256(msgspec.json.encode([census.digest, rows.lineage])).hexdigest()


# --- the sources ----------------------------------------------------------------------------------


def census_part(census: Census) -> Part:
    """The census's training split; the real one is known by its file."""
    if census.source == "uci":
        return Part("census", TRAIN_FILE, UCI.sums[TRAIN_FILE], len(census.train))
    return Part("census", census.source, census.digest, len(census.train))


def from_store(store: Store, contract: Contract) -> Iterator[Joining]:
    """Every batch, held against the contract of today. Raises StoreError or FilesUnavailable."""
    for batch in store.batches():
        stored = store.rows(batch)
        checked, rejected = check_frame(stored, contract)
        checked = checked.assign(
            prediction_id=stored.loc[checked.index, "prediction_id"],
            at=predicted_at(batch, stored)[checked.index],
        )
        part = Part(batch.period, batch.source, batch.sha256, 0, rejected=len(rejected))
        yield Joining(part, checked)


def predicted_at(batch: Batch, rows: pd.DataFrame) -> pd.Series:
    """When each row of a batch was asked about, in Unix time.

    A row without a time counts from its period's first day: it may be of before a change.
    """
    begins = datetime.fromisoformat(f"{batch.period}-01").replace(tzinfo=UTC)
    return rows["predicted_at"].fillna(begins.timestamp())


def count_ingested(store: Store, since: float, seen_until: float) -> int:
    """Rows of since a Unix time in batches that came after another.

    Raises StoreError or FilesUnavailable.
    """
    moment = datetime.fromtimestamp(seen_until, UTC)
    fresh = [one for one in store.batches() if datetime.fromisoformat(one.ingested_at) > moment]
    return sum(int((predicted_at(one, store.rows(one)) >= since).sum()) for one in fresh)


def from_feedback(feedback: Feedback, contract: Contract) -> Joining:
    """The labelled production rows."""
    columns = [*contract.input_names, contract.target.name, "prediction_id", "predicted_at"]
    texts = "\n".join(row_texts(feedback.rows[columns]))
    sha256 = hashlib.sha256(texts.encode()).hexdigest()
    left_out = feedback.disputed + feedback.rejected
    part = Part("production", "mongodb", sha256, 0, rejected=left_out)
    return Joining(part, feedback.rows.rename(columns={"predicted_at": "at"}))
