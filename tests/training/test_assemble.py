"""The rows of a training: no holdout row is among them, and every source has its counts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace as replace_fields

from tests.conftest import made_up_rows
from training.data.assemble import (
    LeakError,
    Source,
    SourceRows,
    assemble_rows,
    data_digest,
    downsample_old_rows,
    from_feedback,
    from_store,
    is_held_out,
    reject_overlap,
)
from training.data.dataset import Dataset, ReadFile, split_judge_traffic
from training.data.feedback import Feedback
from training.data.rows import row_digests
from training.data.storage import Folder
from training.data.store import Batch, Store, StoreError
from training.data.synthetic import synthesize

LABELS = ("<=50K", ">50K")


@pytest.fixture(scope="module")
def census(contract) -> Dataset:
    """A small made-up census."""
    train, test = made_up_rows(contract, 400, seed=1), made_up_rows(contract, 300, seed=2)
    return Dataset(train, test, "uci", {}, 0, files=(ReadFile("adult.data", "5b00", 400),))


@pytest.fixture(scope="module")
def judges(census, contract) -> pd.DataFrame:
    """The judge half of its test split."""
    return split_judge_traffic(census.test, contract)[0]


def production(contract, rows: int, seed: int = 3) -> pd.DataFrame:
    """Return labelled predictions, one per second."""
    frame = made_up_rows(contract, rows, seed)[[*contract.input_names, "income"]]
    ids = [f"p{n}" for n in range(rows)]
    return frame.assign(prediction_id=ids, predicted_at=np.arange(rows, dtype=float))


def joining(contract, frame: pd.DataFrame) -> SourceRows:
    """Return rows as the source of MongoDB."""
    return from_feedback(Feedback(frame, disputed=0, rejected=0), contract)


def digests(frame: pd.DataFrame, contract) -> set[str]:
    """Return the digest of the input columns of each row."""
    return set(row_digests(frame, contract))


# --- training and holdout rows ------------------------------------------------------------------


def test_without_joined_rows_only_the_census_is_used(census, judges, contract):
    rows = assemble_rows(census, judges, [], contract)
    columns = [*contract.input_names, "income"]
    pd.testing.assert_frame_equal(rows.frame, census.train[columns])
    assert not rows.joined.any() and not rows.recent.any() and rows.recent_holdout.empty
    (part,) = rows.lineage
    assert (part.source, part.rows) == ("adult.data", 400) and part.sha256 == "5b00"


def test_one_joined_row_in_five_is_a_holdout_row(census, judges, contract):
    frame = production(contract, 1000)
    rows = assemble_rows(census, judges, [joining(contract, frame)], contract)
    assert 150 < len(rows.recent_holdout) < 250
    assert len(rows.frame) == 400 + 1000 - len(rows.recent_holdout)
    assert rows.joined.sum() == rows.recent.sum() == 1000 - len(rows.recent_holdout)
    assert not digests(rows.recent_holdout, contract) & digests(rows.frame, contract)
    part = rows.lineage[1]
    assert (part.name, part.rows + part.held_out) == ("production", 1000)
    reject_overlap(rows, contract)


def test_a_holdout_row_stays_one_with_any_label(contract, record):
    """A holdout row with another label could otherwise reach a later training."""
    people = pd.DataFrame([record | {"age": age} for age in range(20, 60)])
    held = people[is_held_out(row_digests(people, contract))]
    assert held["age"].tolist() == [22, 23, 24, 31, 38, 41, 52, 58, 59]


def test_a_duplicate_of_a_holdout_row_is_not_used_for_training(census, judges, contract, tmp_path):
    """The duplicate was exported without its id and ingested months later."""
    frame = production(contract, 500)
    first = assemble_rows(census, judges, [joining(contract, frame)], contract)
    store = Store(Folder(str(tmp_path)))
    nameless = frame.assign(prediction_id=None, predicted_at=np.nan, income=1 - frame["income"])
    store.append(Batch("ab" * 32, "feed.csv", "2027-03", 500, 0, 0, "2027-04-01", LABELS), nameless)
    later = assemble_rows(census, judges, list(from_store(store, contract)), contract)
    assert later.joined.sum() == first.joined.sum() > 300
    assert not digests(first.recent_holdout, contract) & digests(later.frame, contract)


def test_a_joined_row_equal_to_a_holdout_row_of_the_census_is_dropped(census, judges, contract):
    """For example, the official test file is ingested."""
    leaked = census.test[[*contract.input_names, "income"]]
    leaked = leaked.assign(prediction_id=None, predicted_at=1.0)
    rows = assemble_rows(census, judges, [joining(contract, leaked)], contract)
    part = rows.lineage[1]
    assert part.like_judges > 80 and part.like_judges + part.held_out + part.rows == 300
    assert not digests(judges, contract) & digests(rows.frame[rows.joined], contract)


def test_after_a_drift_no_row_of_several_callers_is_both_for_training_and_holdout(
    census, judges, contract
):
    """One caller's labels alone could otherwise train a model and get it promoted."""
    frame = production(contract, 4000)
    callers = pd.Series(np.where(np.arange(4000) % 3 == 0, "audit", "planning"), dtype=object)
    callers[:30] = "seldom"  # too few rows for a holdout set
    source = joining(contract, frame.assign(caller=callers))
    rows = assemble_rows(census, judges, [source], contract, recent_judge=True)
    of_audit = digests(frame[callers == "audit"], contract)
    assert len(rows.recent_holdout) > 200 and digests(rows.recent_holdout, contract) <= of_audit
    assert not digests(rows.frame[rows.joined], contract) & of_audit
    part = rows.lineage[1]
    counts = part.of_judge, part.rows, part.held_out, part.unused, part.like_judges
    assert sum(counts) == 4000 and part.unused > 300
    assert 900 < part.of_judge < (callers == "audit").sum()

    one = joining(contract, frame.assign(caller=np.where(callers == "seldom", None, "planning")))
    alone = assemble_rows(census, judges, [one], contract, recent_judge=True)
    test_split = assemble_rows(census, judges, [source], contract)
    assert alone.lineage[1].of_judge == test_split.lineage[1].of_judge == 0
    assert alone.lineage[1].rows == test_split.lineage[1].rows


@pytest.mark.parametrize("leaked", ["test_holdout", "recent_holdout"])
def test_a_holdout_row_among_training_rows_is_rejected(census, judges, contract, leaked):
    rows = assemble_rows(census, judges, [joining(contract, production(contract, 300))], contract)
    one = getattr(rows, leaked)[list(rows.frame)].head(1)
    wrong = replace(
        rows,
        frame=pd.concat([rows.frame, one], ignore_index=True),
        joined=np.append(rows.joined, True),
        recent=np.append(rows.recent, False),
    )
    (found,) = row_digests(one, contract)
    with pytest.raises(LeakError, match=r"1 of \d+ are also training rows") as said:
        reject_overlap(wrong, contract)
    assert str(said.value).endswith(f"row 0 with digest {found}")  # no value of the record


def test_a_recent_row_equal_to_a_census_row_is_not_a_holdout_row(census, judges, contract):
    known = census.train[[*contract.input_names, "income"]].head(100)
    known = known.assign(prediction_id=None, predicted_at=9.0)
    rows = assemble_rows(census, judges, [joining(contract, known)], contract)
    assert rows.lineage[1].held_out > 5 and rows.recent_holdout.empty


# --- recent rows and counts ---------------------------------------------------------------------


def test_the_newest_rows_are_those_with_the_latest_prediction_time(census, judges, contract):
    frame = production(contract, 200).sample(frac=1, random_state=0)
    sources = [joining(contract, frame)]
    rows = assemble_rows(census, judges, sources, contract, max_recent=50)
    newest = frame[frame["predicted_at"] >= 150]
    assert digests(rows.frame[rows.recent], contract) < digests(newest, contract)
    assert digests(rows.recent_holdout, contract) < digests(newest, contract)
    assert rows.recent.sum() + len(rows.recent_holdout) == 50


def test_no_row_from_before_a_drift_is_recent(census, judges, contract):
    frame = production(contract, 200)
    sources = [joining(contract, frame)]
    drift = assemble_rows(census, judges, sources, contract, recent_since=150.0)
    newest = assemble_rows(census, judges, sources, contract, max_recent=50)
    assert (drift.recent == newest.recent).all()
    pd.testing.assert_frame_equal(drift.recent_holdout, newest.recent_holdout)


def test_a_prediction_in_two_sources_counts_once(census, judges, contract):
    frame = production(contract, 100)
    both = [joining(contract, frame.head(60)), joining(contract, frame)]
    rows = assemble_rows(census, judges, both, contract)
    assert rows.lineage[2].repeated == 60
    once = assemble_rows(census, judges, [joining(contract, frame)], contract)
    assert len(rows.frame) == len(once.frame)


def test_rows_of_a_batch_are_checked_against_the_current_contract(contract, tmp_path):
    store = Store(Folder(str(tmp_path)))
    frame = production(contract, 10)
    frame.loc[3, "age"] = 150  # an older contract may have allowed it
    frame.loc[:4, "predicted_at"] = np.nan
    store.append(Batch("ab" * 32, "feed.csv", "1970-02", 10, 0, 0, "1970-03-01", LABELS), frame)
    (found,) = from_store(store, contract)
    assert found.source == Source("1970-02", "feed.csv", "ab" * 32, 0, rejected=1)
    february = 31 * 86400.0
    assert found.rows["at"].tolist() == [february] * 4 + [5.0, 6.0, 7.0, 8.0, 9.0]
    assert len(found.rows["prediction_id"]) == 9


def test_labels_of_a_batch_keep_their_meaning_if_the_contract_exchanges_them(contract, tmp_path):
    """The store holds classes. They were inverted when the contract exchanged its labels."""
    store, frame = Store(Folder(str(tmp_path))), production(contract, 10)
    batch = Batch("ab" * 32, "feed.csv", "1970-02", 10, 0, 0, "1970-03-01", LABELS)
    store.append(batch, frame)
    negative, positive = contract.target.labels
    target = replace_fields(contract.target, negative=positive, positive=negative)
    (found,) = from_store(store, replace_fields(contract, target=target))
    assert found.rows["income"].tolist() == (1 - frame["income"]).tolist()
    other = replace_fields(contract.target, negative="low")
    with pytest.raises(
        StoreError, match="feed.csv: stored with other labels; got <=50K, >50K, .*low"
    ):
        list(from_store(store, replace_fields(contract, target=other)))


def test_the_digest_depends_on_the_data_alone(census, judges, contract, tmp_path):
    """After the removal of a batch the digest is that before its ingest."""
    store, frame = Store(Folder(str(tmp_path))), production(contract, 50)

    def digest(*frames: pd.DataFrame) -> str:
        sources = [joining(contract, one) for one in frames]
        sources += from_store(store, contract)
        return data_digest(census, assemble_rows(census, judges, sources, contract))

    before = digest()
    assert digest(frame) == digest(frame.copy())
    relabelled = frame.assign(income=1 - frame["income"])
    assert len({before, digest(frame), digest(frame.head(49)), digest(relabelled)}) == 4
    batch = Batch("ab" * 32, "feed.csv", "1970-02", 50, 0, 0, "1970-03-01", LABELS)
    store.append(batch, frame)
    assert digest() != before
    store.remove(store.named("feed.csv"))
    assert digest() == before


# --- weight -------------------------------------------------------------------------------------


def test_downsampling_of_old_rows_raises_the_weight_of_recent_rows(census, judges, contract):
    rows = assemble_rows(census, judges, [joining(contract, production(contract, 300))], contract)
    assert downsample_old_rows(rows, 1.0, seed=0) is rows
    heavy = downsample_old_rows(rows, 4.0, seed=0)
    assert heavy.recent.sum() == rows.recent.sum() == heavy.joined.sum()
    assert 60 < (~heavy.recent).sum() < 140  # of 400
    assert len(heavy.frame) == len(heavy.recent) == len(heavy.joined)
    pd.testing.assert_frame_equal(
        heavy.frame[heavy.recent].reset_index(drop=True),
        rows.frame[rows.recent].reset_index(drop=True),
    )
    again = downsample_old_rows(rows, 4.0, seed=0)
    pd.testing.assert_frame_equal(heavy.frame, again.frame)


def test_downsampling_does_not_depend_on_the_label(contract):
    """Synthetic rows and the draw of kept rows once used the same random numbers, so nearly all
    kept rows had one label.
    """
    drawn = synthesize(contract, rows_train=3000, rows_test=600, seed=0)
    judges, _ = split_judge_traffic(drawn.test, contract)
    rows = assemble_rows(drawn, judges, [joining(contract, production(contract, 300))], contract)
    kept = downsample_old_rows(rows, 3.0, seed=0)
    shares = [one.frame["income"][~one.recent].mean() for one in (rows, kept)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_without_recent_rows_nothing_is_downsampled(census, judges, contract):
    rows = assemble_rows(census, judges, [], contract)
    assert downsample_old_rows(rows, 8.0, seed=0) is rows
