"""Files that training keeps or is given: in a folder of this machine, or in a bucket (gs://).

By Cloud Storage's own client, which writes a file only if there is none yet and says soon what is
wrong with an address; it follows STORAGE_EMULATOR_HOST. Tables are scored through `bucket`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import requests
from google.api_core.exceptions import GoogleAPIError, PreconditionFailed
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from training.data.census import write_atomically

SCHEME = "gs://"
TIMEOUT_S = 30.0  # of one request to the bucket, and of all attempts at it
RETRY = DEFAULT_RETRY.with_timeout(TIMEOUT_S)


class FilesUnavailable(Exception):
    """A file or a folder cannot be reached; the message names it and the remedy."""


class Folder(Protocol):
    """Files by their names. Every method raises FilesUnavailable."""

    address: str

    def names(self) -> list[str]:
        """The names of all files, sorted; none if there is no such folder."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file; a reader finds the old content or all of the new."""

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there yet; false, and nothing is written, if it is."""

    def remove(self, name: str) -> None:
        """Removes a file."""


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = str(path)

    def names(self) -> list[str]:
        """As in `Folder`."""
        with _reaching(self.address):
            return sorted(os.listdir(self.path)) if self.path.exists() else []

    def read(self, name: str) -> bytes:
        """As in `Folder`."""
        with _reaching(str(self.path / name)):
            return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """As in `Folder`."""
        with _reaching(str(self.path / name)):
            write_atomically(self.path / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """As in `Folder`."""
        with _reaching(str(self.path / name)):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path, prefix=".") as scratch:
                whole = Path(scratch) / name
                whole.write_bytes(content)
                try:
                    os.link(whole, self.path / name)  # unlike a rename, never replaces
                except FileExistsError:
                    return False
        return True

    def remove(self, name: str) -> None:
        """As in `Folder`."""
        with _reaching(str(self.path / name)):
            (self.path / name).unlink(missing_ok=True)


class BucketFolder:
    """The objects of a bucket under a prefix."""

    def __init__(self, address: str) -> None:
        """`address` is gs://BUCKET or gs://BUCKET/PREFIX."""
        self.address = address.rstrip("/")
        bucket, _, prefix = self.address.removeprefix(SCHEME).partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        with _reaching(self.address):
            self.bucket = storage.Client().bucket(bucket)

    def names(self) -> list[str]:
        """As in `Folder`."""
        with _reaching(self.address):
            found = self.bucket.list_blobs(prefix=self.prefix, timeout=TIMEOUT_S, retry=RETRY)
            return sorted(blob.name.removeprefix(self.prefix) for blob in found)

    def read(self, name: str) -> bytes:
        """As in `Folder`."""
        with _reaching(f"{self.address}/{name}"):
            return self._blob(name).download_as_bytes(timeout=TIMEOUT_S, retry=RETRY)

    def write(self, name: str, content: bytes) -> None:
        """As in `Folder`."""
        with _reaching(f"{self.address}/{name}"):
            self._blob(name).upload_from_string(content, timeout=TIMEOUT_S, retry=RETRY)

    def create(self, name: str, content: bytes) -> bool:
        """As in `Folder`."""
        with _reaching(f"{self.address}/{name}"):
            blob = self._blob(name)
            # Asked first as well: the emulator takes no heed of the condition.
            if blob.exists(timeout=TIMEOUT_S, retry=RETRY):
                return False
            try:
                blob.upload_from_string(
                    content, if_generation_match=0, timeout=TIMEOUT_S, retry=RETRY
                )
            except PreconditionFailed:
                return False
        return True

    def remove(self, name: str) -> None:
        """As in `Folder`."""
        with _reaching(f"{self.address}/{name}"):
            self._blob(name).delete(timeout=TIMEOUT_S, retry=RETRY)

    def _blob(self, name: str) -> storage.Blob:
        return self.bucket.blob(f"{self.prefix}{name}")


def open_folder(address: str) -> Folder:
    """The folder of an address. Raises FilesUnavailable."""
    return BucketFolder(address) if address.startswith(SCHEME) else LocalFolder(Path(address))


def read_file(address: str) -> bytes:
    """The content of one file, by its path or its gs:// address. Raises FilesUnavailable."""
    if not address.startswith(SCHEME):
        path = Path(address)
        return LocalFolder(path.parent).read(path.name)
    folder, _, name = address.rpartition("/")
    if folder in ("gs:/", "gs:"):
        raise FilesUnavailable(f"{address}: expected gs://BUCKET/NAME")
    return BucketFolder(folder).read(name)


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Raises FilesUnavailable, naming the address, where the body cannot reach it."""
    try:
        yield
    except OSError as err:  # requests' own errors are of this kind too
        if isinstance(err, requests.RequestException):
            raise _no_bucket(address, err) from err
        raise FilesUnavailable(
            f"{address}: {err.strerror or err}; name a file or a folder that this user may use"
        ) from err
    except (GoogleAPIError, GoogleAuthError, ValueError) as err:
        raise _no_bucket(address, err) from err


def _no_bucket(address: str, err: Exception) -> FilesUnavailable:
    reason = getattr(err, "message", "") or str(err)
    return FilesUnavailable(
        f"{address}: {reason}; is the name right, and are GOOGLE_APPLICATION_CREDENTIALS (a"
        " service account's key file), or STORAGE_EMULATOR_HOST for an emulator, set?"
    )
