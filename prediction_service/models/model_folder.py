"""MODEL_DIR, where the follower leaves checked models and the workers find them.

    <version>/     a model package
    current.json   which one to serve; replaced in one step
    status.json    what the follower last saw in the registry, and what it refused

Between them nothing else is shared, so a worker needs neither registry nor network.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Current(msgspec.Struct, frozen=True):
    """The model to serve."""

    version: str
    run_id: str
    folder: str  # name inside MODEL_DIR
    sha256: str  # of model.onnx


class Refusal(msgspec.Struct, frozen=True):
    """A version that is not served although the registry or the folder names it."""

    version: str
    reason: str


class Status(msgspec.Struct, frozen=True):
    """What the follower reports."""

    registry: str  # "reached", or why not
    refused: Refusal | None = None


class ModelFolder:
    """Reads and writes MODEL_DIR; every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def current(self) -> Current | None:
        """The model to serve, or None if there is none yet."""
        return self._read("current.json", Current)

    def status(self) -> Status | None:
        """The follower's last report, or None if it never ran."""
        return self._read("status.json", Status)

    def switch(self, current: Current) -> None:
        """Makes `current` the model to serve."""
        self._write("current.json", current)

    def report(self, status: Status) -> None:
        """Replaces the follower's report, if it says something new."""
        if status != self.status():
            self._write("status.json", status)

    def package(self, current: Current) -> Path:
        """The folder of a model's package."""
        return self.path / current.folder

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """A temporary folder on the same file system, so that `adopt` is one rename."""
        self.path.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self.path, prefix=".download-")

    def adopt(self, package: Path, folder: str) -> None:
        """Moves a checked package into its place."""
        shutil.rmtree(self.path / folder, ignore_errors=True)
        package.rename(self.path / folder)

    def remove_old(self, keep: int) -> None:
        """Removes all but the newest `keep` packages, the current one and what is no package."""
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
