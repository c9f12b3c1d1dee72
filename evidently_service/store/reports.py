"""Keep the HTML reports: the latest, and those of newly drifted windows.

`measure` writes them, the web workers show them. A saved report is two files: the page `NAME.html`
and its description `NAME.json`. NAME is the time, so names sort by time. Reports of the same second
get the next free seconds.
"""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from config.events import Prediction

log = structlog.get_logger(__name__)

LATEST = "latest"
NAME = re.compile(r"latest|\d{8}T\d{6}Z")


class SavedReport(msgspec.Struct, frozen=True):
    """The description of a saved report. Times are Unix times in seconds."""

    name: str
    columns: tuple[str, ...]  # that became drifted with this window
    model_version: str  # the version of the reference data
    rows: int
    first_event_at: float
    last_event_at: float


class Reports:
    """A folder of reports. Files are replaced whole; a description is written after its page."""

    def __init__(self, folder: Path, max_saved: int) -> None:
        self.folder = folder
        self.max_saved = max_saved

    def write_latest(self, html: str) -> None:
        """Replace the latest report."""
        self._write(f"{LATEST}.html", html.encode())

    def save(
        self, html: str, at: float, *, columns: list[str], version: str, rows: list[Prediction]
    ) -> None:
        """Add the report of a window, written at a Unix time; delete the oldest beyond `max_saved`.

        columns: that became drifted. version: of the reference data. rows: of the window.
        """
        while self.path(name := f"{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"):
            at += 1
        times = [row.predicted_at for row in rows]
        saved = SavedReport(name, tuple(columns), version, len(rows), min(times), max(times))
        self._write(f"{name}.html", html.encode())
        self._write(f"{name}.json", msgspec.json.encode(saved))
        pages = sorted(path.stem for path in self.folder.glob("*.html") if path.stem != LATEST)
        for name in pages[: -self.max_saved]:
            for ending in ("json", "html"):
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def saved(self) -> list[SavedReport]:
        """Return the descriptions, newest first, without damaged ones."""
        paths = sorted(self.folder.glob("*.json"), reverse=True)
        return [one for path in paths if (one := read_description(path))]

    def path(self, name: str) -> Path | None:
        """Return the path of a report's page, or None if there is no such report."""
        path = self.folder / f"{name}.html"
        return path if NAME.fullmatch(name) and path.is_file() else None

    def _write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, self.folder / name)


def read_description(path: Path) -> SavedReport | None:
    """Return the description in a file, or None if the file is damaged or missing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SavedReport)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as err:  # a power cut may leave an empty file
        log.warning("report_description_damaged", file=str(path), error=str(err))
        return None
