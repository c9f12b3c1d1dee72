"""The training store: all ingested batches of labelled rows. `batches` writes, `assemble` reads.

A batch is a Parquet file named by its own sha256, and a manifest entry `SHA256_OF_THE_SOURCE.json`.
The entry is written last and never replaces another. So an append is atomic, and one of several
concurrent appends of the same file succeeds.
"""

import hashlib
import io
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow

from training.data.rows import counted
from training.data.storage import Folder
from training.errors import ExpectedError

ENTRY, ROWS = ".json", ".parquet"
MIN_PREFIX = 6  # characters of a checksum that may name a batch


class StoreError(ExpectedError):
    """A file of the store does not match the manifest."""


class UnknownBatch(ExpectedError):
    """A name stands for no batch, or for several; the message lists the candidates."""


class Batch(msgspec.Struct, frozen=True):
    """Manifest entry of one ingested file."""

    sha256: str  # of the ingested file
    source: str  # its path or address
    period: str  # month of its rows: 2026-10
    rows: int
    rejected: int  # quarantined rows
    duplicates: int  # rows that equal an earlier one of the same period
    ingested_at: str  # ISO 8601, UTC
    labels: tuple[str, ...]  # of the contract, by class
    rows_sha256: str = ""  # of the Parquet file

    def described(self) -> str:
        """Return one line for the list of batches."""
        return (
            f"{self.period}  {self.sha256[:12]}  {counted(self.rows)}, {self.rejected} rejected,"
            f" ingested at {self.ingested_at} from {self.source}"
        )


class Store:
    """Batches of checked rows in a folder or a bucket. Methods raise FilesUnavailable."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def batches(self) -> list[Batch]:
        """Return the manifest, ordered by period, then time."""
        entries = [name for name in self.folder.names() if name.endswith(ENTRY)]
        return sorted(map(self._entry, entries), key=lambda b: (b.period, b.ingested_at, b.sha256))

    def find(self, sha256: str) -> Batch | None:
        """Return the batch of the file with this checksum, if any."""
        name = f"{sha256}{ENTRY}"
        return self._entry(name) if name in self.folder.names() else None

    def rows(self, batch: Batch) -> pd.DataFrame:
        """Return the rows of a batch. Raises StoreError for another checksum.

        Columns: the contract's (unused ones may be absent), the target as 0/1, `prediction_id` and
        `predicted_at` (Unix time). The last two are null for rows without a prediction.
        """
        name = f"{batch.rows_sha256}{ROWS}"
        content = self.folder.read(name)
        if (found := _checksum(content)) != batch.rows_sha256:
            raise self._damaged(batch, f"got sha256 {found}, expected {batch.rows_sha256}")
        return _unpacked(content)

    def prediction_ids(self, batch: Batch) -> set[str]:
        """Return the ids of the predictions in a batch; only their column is read."""
        name = f"{batch.rows_sha256}{ROWS}"
        try:
            with self.folder.open(name) as file:
                ids = pd.read_parquet(file, engine="pyarrow", columns=["prediction_id"])
        except pyarrow.ArrowInvalid as err:
            raise self._damaged(batch, str(err)) from err
        return set(ids["prediction_id"].dropna())

    def append(self, batch: Batch, rows: pd.DataFrame) -> Batch | None:
        """Add a batch; return its entry, or None if the store has the file."""
        batch, content = _packed(batch, rows)
        self.folder.write(f"{batch.rows_sha256}{ROWS}", content)
        entry = msgspec.json.encode(batch)
        return batch if self.folder.create(f"{batch.sha256}{ENTRY}", entry) else None

    def named(self, name: str) -> Batch:
        """Return the batch with this checksum, start of a checksum, source or name of a file.

        Raises UnknownBatch.
        """
        batches = self.batches()
        found = [one for one in batches if name in (one.sha256, one.source, Path(one.source).name)]
        if not found and len(name) >= MIN_PREFIX:
            found = [one for one in batches if one.sha256.startswith(name.lower())]
        if len(found) == 1:
            return found[0]
        candidates = found or batches
        listed = "".join(f"\n{one.described()}" for one in candidates) or " none"
        problem = f"{len(found)} batches have this name" if found else "no such batch"
        raise UnknownBatch(
            f"--undo: {problem}; got {name}, expected a source or at least {MIN_PREFIX} characters"
            f" of the sha256 of one batch in {self.folder.address}:{listed}"
        )

    def remove(self, batch: Batch) -> None:
        """Remove a batch. Without its entry, which goes first, the rows do not count."""
        self.folder.remove(f"{batch.sha256}{ENTRY}")
        if all(one.rows_sha256 != batch.rows_sha256 for one in self.batches()):
            self.folder.remove(f"{batch.rows_sha256}{ROWS}")

    def forget(self, prediction_id: str) -> int:
        """Remove the rows of a prediction; return their number. Repeat it after an interruption."""
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
        """Remove files that have rows of a prediction and no entry."""
        listed = {f"{batch.rows_sha256}{ROWS}" for batch in self.batches()}
        for name in self.folder.names():
            if name.endswith(ROWS) and name not in listed:
                rows = _unpacked(self.folder.read(name))
                if (rows["prediction_id"] == prediction_id).any():
                    self.folder.remove(name)

    def _damaged(self, batch: Batch, problem: str) -> StoreError:
        return StoreError(
            f"{self.folder.address}/{batch.rows_sha256}{ROWS}: truncated or changed; {problem}."
            f" Restore the file, or remove it with {batch.sha256}{ENTRY} and ingest {batch.source}"
            " again."
        )

    def _entry(self, name: str) -> Batch:
        try:
            return msgspec.json.decode(self.folder.read(name), type=Batch)
        except msgspec.DecodeError as err:
            raise StoreError(
                f"{self.folder.address}/{name}: {err}. Restore the file, or remove it and ingest"
                " its batch again."
            ) from err


def _packed(batch: Batch, rows: pd.DataFrame) -> tuple[Batch, bytes]:
    """Return the batch with the checksum of its Parquet file, and the content of this file."""
    content = io.BytesIO()
    rows.to_parquet(content, engine="pyarrow", index=False)
    checksum = _checksum(content.getvalue())
    return msgspec.structs.replace(batch, rows_sha256=checksum), content.getvalue()


def _unpacked(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content), engine="pyarrow")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
