"""The training store: every ingested batch of labelled rows, with what it was made from.

Comes after `ingest` and before a training. A batch is a Parquet file (typed, a tenth of the size
of JSON lines) named by its own sha256, and its entry in the manifest: `SHA256_OF_THE_SOURCE.json`.
The entry is written last and never over another, so an append happens wholly or not at all, and
once, whoever else appends meanwhile.
"""

import hashlib
import io

import msgspec
import pandas as pd

from training.data.storage import Folder

ENTRY, ROWS = ".json", ".parquet"


class StoreError(Exception):
    """The store holds something else than its manifest says, or a batch cannot be added."""


class Batch(msgspec.Struct, frozen=True):
    """One ingested file, as the manifest has it."""

    sha256: str  # of the ingested file
    source: str  # its path or address
    period: str  # the month that its rows are of: 2026-10
    rows: int
    rejected: int  # set aside: they broke the contract
    duplicates: int  # of the rows: equal to an earlier one of the same period
    ingested_at: str  # ISO 8601, UTC
    rows_sha256: str = ""  # of the Parquet file


class Store:
    """Batches of checked rows in a folder or a bucket. Methods raise FilesUnavailable."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def batches(self) -> list[Batch]:
        """The manifest, by period, then by time."""
        entries = [name for name in self.folder.names() if name.endswith(ENTRY)]
        return sorted(map(self._entry, entries), key=lambda b: (b.period, b.ingested_at, b.sha256))

    def find(self, sha256: str) -> Batch | None:
        """The batch that was made from the file with this sum, if there is one."""
        name = f"{sha256}{ENTRY}"
        return self._entry(name) if name in self.folder.names() else None

    def rows(self, batch: Batch) -> pd.DataFrame:
        """The rows of a batch. Raises StoreError if its file is not the one that was written.

        Contract columns (unused ones may be absent) and the target as 0/1, `prediction_id` and
        `predicted_at` (Unix time), which are null where the row was no prediction.
        """
        name = f"{batch.rows_sha256}{ROWS}"
        content = self.folder.read(name)
        if (found := _sum(content)) != batch.rows_sha256:
            raise StoreError(
                f"{self.folder.address}/{name}: has sha256 {found}, expected {batch.rows_sha256}:"
                f" it was changed or cut off; restore it, or remove it with {batch.sha256}{ENTRY}"
                f" and ingest {batch.source} again"
            )
        return _unpacked(content)

    def append(self, batch: Batch, rows: pd.DataFrame) -> Batch | None:
        """Adds a batch; its entry, or None if the same file is there already."""
        batch, content = _packed(batch, rows)
        self.folder.write(f"{batch.rows_sha256}{ROWS}", content)
        entry = msgspec.json.encode(batch)
        return batch if self.folder.create(f"{batch.sha256}{ENTRY}", entry) else None

    def forget(self, prediction_id: str) -> int:
        """Removes the rows of a prediction; how many. May be repeated if it was interrupted."""
        forgotten = 0
        for batch in self.batches():
            rows = self.rows(batch)
            kept = rows[rows["prediction_id"] != prediction_id]
            if len(kept) < len(rows):
                fewer = msgspec.structs.replace(batch, rows=len(kept))
                fewer, content = _packed(fewer, kept)
                self.folder.write(f"{fewer.rows_sha256}{ROWS}", content)
                self.folder.write(f"{fewer.sha256}{ENTRY}", msgspec.json.encode(fewer))
                forgotten += len(rows) - len(kept)
        self._remove_unlisted(prediction_id)
        return forgotten

    def _remove_unlisted(self, prediction_id: str) -> None:
        """Removes files with rows of a prediction that no entry names any more."""
        listed = {f"{batch.rows_sha256}{ROWS}" for batch in self.batches()}
        for name in self.folder.names():
            if name.endswith(ROWS) and name not in listed:
                rows = _unpacked(self.folder.read(name))
                if (rows["prediction_id"] == prediction_id).any():
                    self.folder.remove(name)

    def _entry(self, name: str) -> Batch:
        try:
            return msgspec.json.decode(self.folder.read(name), type=Batch)
        except msgspec.DecodeError as err:
            raise StoreError(
                f"{self.folder.address}/{name}: {err}; restore the file, or remove it and ingest"
                " its batch again"
            ) from err


def _packed(batch: Batch, rows: pd.DataFrame) -> tuple[Batch, bytes]:
    """The batch with the sum of its rows' file, and that file's content."""
    content = io.BytesIO()
    rows.to_parquet(content, engine="pyarrow", index=False)
    return msgspec.structs.replace(batch, rows_sha256=_sum(content.getvalue())), content.getvalue()


def _unpacked(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content), engine="pyarrow")


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
