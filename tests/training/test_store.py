"""The training store in a folder and in a bucket: appends are atomic and happen once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from werkzeug import Request, Response

from tests.conftest import free_port, gcs_emulator, made_up_rows, served
from training.data.storage import FilesUnavailable, Folder, read_file
from training.data.store import Batch, Store, StoreError, UnknownBatch

LABELS = ("<=50K", ">50K")
BATCH = Batch("ab" * 32, "feed.csv", "2026-10", 40, 0, 0, "2026-11-01T00:00:00+00:00", LABELS)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Iterator[str]:
    """The address of a gs:// emulator."""
    with gcs_emulator(tmp_path_factory.mktemp("bucket")) as address:
        yield address


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path, monkeypatch) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return Store(Folder(str(tmp_path / "store")))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("emulator"))
    return Store(Folder(f"gs://tests/{tmp_path.name}"))


@pytest.fixture(scope="module")
def rows(contract) -> pd.DataFrame:
    """Checked rows; the first two are predictions."""
    ids = pd.Series(["p0", "p1", *[None] * 38], dtype=object)
    return made_up_rows(contract, 40).assign(prediction_id=ids, predicted_at=[5.5, *[np.nan] * 39])


def test_a_batch_is_added_once_and_read_back_unchanged(store, rows):
    assert store.batches() == [] and store.find(BATCH.sha256) is None
    added = store.append(BATCH, rows)
    assert added == msgspec.structs.replace(BATCH, rows_sha256=added.rows_sha256)
    again = msgspec.structs.replace(BATCH, ingested_at="2026-12-01T00:00:00+00:00")
    assert store.append(again, rows.head(3)) is None
    assert store.batches() == [added] and store.find(BATCH.sha256) == added
    pd.testing.assert_frame_equal(store.rows(added), rows)
    assert store.prediction_ids(added) == {"p0", "p1"}


def test_of_many_concurrent_appends_of_one_file_one_succeeds(tmp_path, rows):
    store = Store(Folder(str(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: store.append(BATCH, rows), range(16)))
    assert sum(batch is not None for batch in added) == 1
    assert len(store.batches()) == 1 and len(store.rows(store.batches()[0])) == 40
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left


def test_an_interrupted_append_leaves_no_batch_and_can_be_repeated(tmp_path, rows):
    """The rows are written first: without an entry they do not count."""

    class Dies(Folder):
        """Stops before it writes an entry."""

        def create(self, name: str, content: bytes) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(Dies(str(tmp_path))).append(BATCH, rows)
    store = Store(Folder(str(tmp_path)))
    assert len(list(tmp_path.glob("*.parquet"))) == 1 and store.batches() == []
    assert store.append(BATCH, rows) and len(store.batches()) == 1


def test_changed_rows_are_rejected_with_both_checksums(tmp_path, rows):
    store = Store(Folder(str(tmp_path)))
    batch = store.append(BATCH, rows)
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"expected {batch.rows_sha256}. .*ingest feed.csv again"):
        store.rows(batch)
    with pytest.raises(StoreError, match="truncated or changed; .*ingest feed.csv again"):
        store.prediction_ids(batch)


def test_a_changed_entry_is_rejected_with_its_name(tmp_path, rows):
    store = Store(Folder(str(tmp_path)))
    store.append(BATCH, rows)
    (tmp_path / f"{BATCH.sha256}.json").write_text('{"sha256": 5}')
    with pytest.raises(StoreError, match=f"{BATCH.sha256}.json: Expected `str`"):
        store.batches()


def test_a_forgotten_prediction_is_in_no_file_of_the_store(store, rows):
    other = msgspec.structs.replace(BATCH, sha256="cd" * 32, period="2026-09", rows=5)
    store.append(BATCH, rows)
    store.append(other, rows.tail(5))
    assert store.forget("p1") == 1 and store.forget("p1") == 0
    batches = store.batches()
    assert [(one.period, one.rows) for one in batches] == [("2026-09", 5), ("2026-10", 39)]
    assert [len(store.rows(one)) for one in batches] == [5, 39]
    assert "p1" not in set().union(*map(store.prediction_ids, batches))
    assert len([name for name in store.folder.names() if name.endswith(".parquet")]) == 2


def test_a_removed_file_leaves_no_version_in_a_bucket(monkeypatch):
    """In a bucket with versioning the removed rows once stayed as an earlier version.

    The emulator has no versions, so the test serves their part of Cloud Storage's API.
    """
    other = ("store/a.parquet.old", "3")
    stored = [("store/a.parquet", "1"), ("store/a.parquet", "2"), other]

    @Request.application
    def bucket(request: Request) -> Response:
        if request.method == "DELETE":
            stored.remove((request.path.partition("/o/")[2], request.args["generation"]))
            return Response(status=204)
        names = stored if request.args.get("versions") == "true" else []
        items = [
            {"bucket": "tests", "name": name, "generation": generation, "size": "1"}
            for name, generation in names
            if name.startswith(request.args["prefix"])
        ]
        return Response(json.dumps({"items": items}), content_type="application/json")

    with served(bucket) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        Folder("gs://tests/store").remove("a.parquet")
    assert stored == [other]


def test_forgetting_completes_an_interrupted_forget(tmp_path, rows):
    """The entry names the new file, but the old one is still there."""
    store = Store(Folder(str(tmp_path)))
    store.append(BATCH, rows)
    (before,) = tmp_path.glob("*.parquet")
    content = before.read_bytes()
    store.forget("p0")
    before.write_bytes(content)
    store.forget("p0")
    assert not before.exists() and len(list(tmp_path.glob("*.parquet"))) == 1


def test_a_batch_is_removed_with_its_rows(store, rows):
    other = msgspec.structs.replace(BATCH, sha256="cd" * 32, source="gs://feed/2026-09.csv")
    same = msgspec.structs.replace(BATCH, sha256="ef" * 32, source="copy.csv")
    for batch in (BATCH, same):
        store.append(batch, rows)
    store.append(other, rows.tail(5))
    store.remove(store.named("ababab"))
    assert [one.sha256[:2] for one in store.batches()] == ["cd", "ef"]
    assert [len(store.rows(one)) for one in store.batches()] == [5, 40]  # the copy has its rows
    store.remove(store.named("2026-09.csv"))
    store.remove(store.named("copy.csv"))
    assert store.batches() == [] and store.folder.names() == []
    assert store.append(BATCH, rows)


def test_an_unknown_or_ambiguous_batch_name_is_rejected_with_the_candidates(tmp_path, rows):
    store = Store(Folder(str(tmp_path)))
    with pytest.raises(UnknownBatch, match="no such batch; got abc, .*: none"):
        store.named("abc")
    for number in range(3):
        sha256, source = f"abcdef{number}" + "0" * 57, f"{number}/feed.csv"
        store.append(msgspec.structs.replace(BATCH, sha256=sha256, source=source), rows)
    with pytest.raises(UnknownBatch, match="3 batches have this name; (.*\n){3}.*2/feed.csv"):
        store.named("abcdef")
    with pytest.raises(UnknownBatch, match="3 batches"):
        store.named("feed.csv")
    with pytest.raises(UnknownBatch, match="no such batch; got ab, "):
        store.named("ab")
    assert store.named("1/feed.csv") == store.named("ABCDEF1")
    assert store.named("abcdef2").source == "2/feed.csv"


def test_a_file_is_read_by_its_path_or_its_address(store):
    name = f"{store.folder.address}/rows.csv"
    store.folder.write("rows.csv", b"age\n")
    assert read_file(name) == b"age\n"
    with pytest.raises(FilesUnavailable, match=f"{store.folder.address}/none.csv: "):
        read_file(f"{store.folder.address}/none.csv")


def test_an_unavailable_bucket_is_named_with_its_settings(monkeypatch):
    async def at_once(_: float) -> None:
        """Do not wait between retries."""

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=at_once))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(FilesUnavailable, match="gs://tests/rows.csv: .*STORAGE_EMULATOR_HOST"):
        read_file("gs://tests/rows.csv")
    with pytest.raises(FilesUnavailable, match="expected gs://BUCKET/NAME"):
        read_file("gs://rows.csv")


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FilesUnavailable, match="file/a.json: .*may use"):
        Folder(str(Path(tmp_path) / "file")).create("a.json", b"")
