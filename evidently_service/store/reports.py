"""The HTML reports: the newest, and for a while those of the windows that alerts are about.

`measure` writes them, the web workers show them. A kept report is two files, `NAME.html` and what
the index says of it, `NAME.json`; the name is the time, so that names sort as times do.
"""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from config.events import Prediction

LATEST = "latest"
NAME = re.compile(r"latest|\d{8}T\d{6}Z")


class Kept(msgspec.Struct, frozen=True):
    """Which window a kept report shows. Times are Unix times in seconds."""

    name: str
    columns: tuple[str, ...]  # that this window was the first to call drifted
    model_version: str  # whose reference it was compared with
    rows: int
    first_event_at: float
    last_event_at: float

    @classmethod
    def of(
        cls, at: float, columns: Iterable[str], version: str, window: Iterable[Prediction]
    ) -> "Kept":
        """A report that is made at a time, of a window's rows."""
        times = [row.predicted_at for row in window]
        name = f"{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
        return cls(name, tuple(columns), version, len(times), min(times), max(times))


class Reports:
    """A folder of reports. Files are replaced whole, and an entry comes after its report."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most

    def write_latest(self, html: str) -> None:
        """Replaces the newest report."""
        self._write(f"{LATEST}.html", html.encode())

    def keep(self, html: str, kept: Kept) -> None:
        """Adds a report; the oldest beyond `most` go."""
        self._write(f"{kept.name}.html", html.encode())
        self._write(f"{kept.name}.json", msgspec.json.encode(kept))
        for old in self.kept()[self.most :]:
            for ending in ("json", "html"):
                (self.folder / f"{old.name}.{ending}").unlink(missing_ok=True)

    def kept(self) -> list[Kept]:
        """What is kept, newest first."""
        paths = sorted(self.folder.glob("*.json"), reverse=True)
        return [msgspec.json.decode(path.read_bytes(), type=Kept) for path in paths]

    def path(self, name: str) -> Path | None:
        """The file of a report, or None if there is none of that name."""
        path = self.folder / f"{name}.html"
        return path if NAME.fullmatch(name) and path.is_file() else None

    def _write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{name}.tmp"
        fresh.write_bytes(content)
        os.replace(fresh, self.folder / name)
