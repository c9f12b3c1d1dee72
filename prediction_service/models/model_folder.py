"""MODEL_DIR: the follower puts checked models there, and the request workers load them.

    <version>/     a model package
    current.json   the live version; replaced atomically
    status.json    the state of the registry as the follower last saw it, and a rejected version

Follower and workers share nothing else, so a worker needs neither registry nor network.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")
UNREADABLE = (OSError, ValueError)  # a file that is not readable, not JSON or not UTF-8


class Current(msgspec.Struct, frozen=True):
    """The live version, as in `current.json`."""

    version: str
    run_id: str
    folder: str  # name in MODEL_DIR
    sha256: str  # of model.onnx


class Rejection(msgspec.Struct, frozen=True):
    """A version that is not live although the registry or `current.json` names it."""

    version: str
    reason: str


REACHED = "reached"


class Status(msgspec.Struct, frozen=True):
    """The follower's report, as in `status.json`."""

    registry: str  # REACHED, or the error
    rejected: Rejection | None = None


class ModelFolder:
    """Access to MODEL_DIR. Every file is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def current(self) -> Current | None:
        """Return the live version; None before the first one. Raises UNREADABLE."""
        return self._read("current.json", Current)

    def status(self) -> Status | None:
        """Return the follower's last report; None if there is none or it cannot be read."""
        try:
            return self._read("status.json", Status)
        except UNREADABLE:
            return None  # the follower's next report replaces it

    def switch(self, current: Current) -> None:
        """Make `current` the live version."""
        self._write("current.json", current)

    def report(self, status: Status) -> None:
        """Replace the follower's report if it has changed; its file's time shows its age."""
        if status != self.status():
            self._write("status.json", status)
        else:
            os.utime(self.path / "status.json")

    def reported_at(self) -> float | None:
        """Return the Unix time of the follower's last report; None before the first one."""
        try:
            return (self.path / "status.json").stat().st_mtime
        except OSError:
            return None

    def package(self, current: Current) -> Path:
        """Return the folder of a version's package."""
        return self.path / current.folder

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """Return a temporary folder on the same file system, so that `adopt` is one rename."""
        self.path.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self.path, prefix=".download-")

    def adopt(self, package: Path, folder: str) -> None:
        """Move a checked package to its place."""
        shutil.rmtree(self.path / folder, ignore_errors=True)
        package.rename(self.path / folder)

    def remove_old(self, keep: int) -> None:
        """Remove all packages except the newest `keep` and the live one."""
        current = self.current()
        packages = sorted(
            (path.parent for path in self.path.glob("[!.]*/model.onnx")),
            key=lambda folder: folder.stat().st_mtime,
            reverse=True,
        )
        for folder in packages[keep:]:
            if current is None or folder.name != current.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: msgspec.Struct) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.path / f".{name}.new"
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(content))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / name)
