"""Files in a folder of this machine or in a bucket (`gs://NAME/...`), through fsspec.

STORAGE_EMULATOR_HOST replaces Cloud Storage by an emulator.
"""

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fsspec import AbstractFileSystem as FileSystem
from fsspec import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from training.errors import ExpectedError

__all__ = ["FileSystem"]

SCHEME = "gs://"
# Without it, gcsfs asks over gRPC for the kind of each bucket. An emulator has no such service, and
# gcsfs waits a minute for it in each process.
GCSFS = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
# Its errors are raised as well.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class FilesUnavailable(ExpectedError):
    """A file or a folder cannot be read or written; the message names it and the remedy."""


def storage_options() -> dict[str, Any]:
    """Return the options for gcsfs: an emulator needs no credentials."""
    return {"token": "anon"} if os.environ.get("STORAGE_EMULATOR_HOST") else {}


def open_address(address: str, *, with_versions: bool = False) -> tuple[FileSystem, str]:
    """Return the file system of a path or a gs:// address, and the path inside it.

    `with_versions`: paths in a bucket may name a version of an object, as `PATH#GENERATION`.
    """
    os.environ.update(GCSFS)
    options: dict[str, Any] = {"auto_mkdir": True}
    if address.startswith(SCHEME):
        options = {"use_listings_cache": False, **storage_options()}
        options["version_aware"] = with_versions
    filesystem, path = url_to_fs(address, **options)
    return filesystem, path.rstrip("/")


class Folder:
    """Files of one folder by their names. Every method raises FilesUnavailable."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.is_bucket = address.startswith(SCHEME)
        with _translated_errors(self.address):
            self.filesystem, self.path = open_address(self.address)

    def names(self) -> list[str]:
        """Return the names of all files, sorted; an empty list if the folder does not exist."""
        with _translated_errors(self.address):
            try:
                paths = self.filesystem.ls(self.path, detail=False)
            except FileNotFoundError:
                if self.is_bucket:  # raise for a bucket that does not exist
                    self.filesystem.ls(self.path.partition("/")[0])
                return []
        return sorted(Path(path).name for path in paths)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        with _translated_errors(f"{self.address}/{name}"):
            return self.filesystem.cat_file(f"{self.path}/{name}")

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file, to read parts of it; the caller's own errors are not translated."""
        with _translated_errors(f"{self.address}/{name}"):
            file = self.filesystem.open(f"{self.path}/{name}", "rb")
        with file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically: a reader gets the old content or the new."""
        with _translated_errors(f"{self.address}/{name}"):
            with atomic_writer(self.filesystem, f"{self.path}/{name}") as file:
                file.write(content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file atomically; return False, without writing, if it exists."""
        path = f"{self.path}/{name}"
        with _translated_errors(f"{self.address}/{name}"):
            try:
                if not self.is_bucket:
                    _link_atomically(Path(path), content)
                # An emulator ignores the condition of mode="create".
                elif self.filesystem.exists(path):
                    return False
                else:
                    self.filesystem.pipe_file(path, content, mode="create")
            except FileExistsError:
                if self.is_bucket or Path(path).exists():
                    return False
                raise  # a folder of the path is a file
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it exists; in a bucket with versioning all its versions."""
        path = f"{self.path}/{name}"
        with _translated_errors(f"{self.address}/{name}"), suppress(FileNotFoundError):
            if not self.is_bucket:
                self.filesystem.rm_file(path)
                return
            versions, _ = open_address(self.address, with_versions=True)
            for version in versions.find(self.path, prefix=name, versions=True):
                if version.rpartition("#")[0] == path:
                    versions.rm_file(version)


def visible_files(address: str) -> list[str]:
    """Return the names of all files below an address, sorted; of a file, an empty name.

    Names that start with _ or . are left out, as Spark does: _temporary, _SUCCESS, .crc files.
    Raises FilesUnavailable if there is nothing.
    """
    with _translated_errors(address):
        filesystem, path = open_address(address)
        found = [PurePosixPath(name[len(path) :].lstrip("/")) for name in filesystem.find(path)]
        if not found and not filesystem.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    visible = [name for name in found if not any(map(_is_hidden, name.parts))]
    return sorted("" if not name.parts else str(name) for name in visible)


def delta_notes(address: str) -> list[str]:
    """Return a sentence about a folder that is a Delta table."""
    filesystem, path = open_address(address)
    if not filesystem.exists(f"{path}/_delta_log"):
        return []
    return [
        f"{address} is a Delta table. Every file is read, also files that its log has removed."
        " VACUUM deletes these."
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def read_file(address: str) -> bytes:
    """Return the content of a file by its path or gs:// address. Raises FilesUnavailable."""
    folder, _, name = address.rpartition("/")
    if folder in ("gs:/", "gs:"):
        raise FilesUnavailable(f"{address}: incomplete address, expected gs://BUCKET/NAME.")
    if not address.startswith(SCHEME):
        folder, name = str(Path(address).parent), Path(address).name
    return Folder(folder).read(name)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a local file so that a reader gets the old content or the new."""
    with atomic_writer(LocalFileSystem(), str(path)) as file:
        file.write(content)


def _link_atomically(path: Path, content: bytes) -> None:
    """Write a new local file atomically. Raises FileExistsError: a link never replaces a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
        whole = Path(scratch) / path.name
        whole.write_bytes(content)
        os.link(whole, path)


@contextmanager
def atomic_writer(filesystem: FileSystem, path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing; it appears, or is replaced, if the body succeeds."""
    if "file" not in filesystem.protocol:  # a bucket, where an object appears once it is complete
        remote = filesystem.open(path, "wb")
        try:
            yield remote
        except BaseException:
            remote.discard()
            remote.closed = True  # closing would upload a truncated object
            raise
        remote.close()
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=Path(path).parent, prefix=".", delete=False) as file:
        try:
            yield file
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


@contextmanager
def _translated_errors(address: str) -> Iterator[None]:
    """Raise FilesUnavailable, naming the address, for any error of the body."""
    try:
        yield
    except Exception as err:  # each kind of storage has errors of its own
        reason = getattr(err, "strerror", None) or f"{type(err).__name__} {err}".strip()
        remedy = "Name a file or a folder that this user may use."
        if address.startswith(SCHEME):
            remedy = (
                "Check the name, and GOOGLE_APPLICATION_CREDENTIALS (a service account's key file)"
                " or STORAGE_EMULATOR_HOST (an emulator)."
            )
        raise FilesUnavailable(f"{address}: {reason}. {remedy}") from err
