"""The census files: read from a folder or the cache, else downloaded, and checked by checksum.

The files are those of the UCI "Adult" data set (Becker & Kohavi, 1996, doi:10.24432/C5XW20).
`parsing` reads their text.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
import structlog
from tqdm import tqdm

from training.data.errors import SourceError, SourceUnavailable
from training.data.storage import write_atomically

log = structlog.get_logger(__name__)

TRAIN_FILE, TEST_FILE = "adult.data", "adult.test"
REMEDY = (
    "Put adult.data and adult.test into a folder and name it in CENSUS_DATA_DIR,"
    " or train on synthetic rows with `--data synthetic`."
)


@dataclass(frozen=True)
class Origin:
    """Address of the zip file, and the sha256 of each file in it."""

    url: str
    checksums: Mapping[str, str]
    attempts: int = 4
    backoff_s: float = 1.0  # before the second attempt; doubled before each further one
    timeout_s: float = 15.0  # to connect, and between two bytes


UCI = Origin(
    url="https://archive.ics.uci.edu/static/public/2/adult.zip",
    checksums={
        TRAIN_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    },
)


def read_files(folder: Path | None, cache_dir: Path, origin: Origin) -> dict[str, bytes]:
    """Return the content of each file by name, from `folder`, else the cache, else the origin.

    Raises SourceUnavailable without a cache or a download, SourceError for a wrong file.
    """
    if folder is not None:
        return read_folder(folder, origin.checksums)
    if all((cache_dir / name).exists() for name in origin.checksums):
        try:
            return read_folder(cache_dir, origin.checksums)
        except SourceError as err:
            log.warning("cache_invalid", error=str(err))
    contents = fetch(origin)
    for name, content in contents.items():
        write_atomically(cache_dir / name, content)
    return contents


def read_folder(folder: Path, checksums: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of a folder. Raises SourceError for a missing or a wrong file."""
    contents = {}
    for name, expected in checksums.items():
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except OSError as err:
            raise SourceError(f"{path}: {err.strerror}. {REMEDY}") from err
        check_checksum(str(path), contents[name], expected)
    return contents


def check_checksum(name: str, content: bytes, expected: str) -> None:
    """Raise SourceError, naming both checksums, if they differ."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SourceError(
            f"{name}: truncated or changed; got {len(content)} bytes with sha256 {found},"
            f" expected {expected}. {REMEDY}"
        )


def fetch(origin: Origin) -> dict[str, bytes]:
    """Return the files of the downloaded zip, once every checksum is right."""
    files = {}
    with zipfile.ZipFile(io.BytesIO(download(origin))) as archive:
        for name, expected in origin.checksums.items():
            label = f"{name} of {origin.url}"
            try:
                files[name] = archive.read(name)
            except (KeyError, zipfile.BadZipFile) as err:
                raise SourceError(f"{label}: unreadable in the zip file: {err}. {REMEDY}") from err
            check_checksum(label, files[name], expected)
    return files


def download(origin: Origin) -> bytes:
    """Return the zip file; retry transient failures with exponential back-off."""
    reason = ""
    for attempt in range(origin.attempts):
        if attempt:
            pause_s = origin.backoff_s * 2 ** (attempt - 1)
            log.warning("download_retried", in_s=pause_s, reason=reason)
            time.sleep(pause_s)
        try:
            content = download_once(origin)
            if zipfile.is_zipfile(io.BytesIO(content)):
                return content
            reason = f"the response is not a zip file; it starts with {content[:40]!r}"
        except requests.HTTPError as err:
            reason = str(err)
            if err.response.status_code < 500 and err.response.status_code != 429:
                break
        except requests.RequestException as err:
            reason = str(err)
    raise SourceUnavailable(
        f"{origin.url}: could not be downloaded in {attempt + 1} attempt(s): {reason}. {REMEDY}"
    )


def download_once(origin: Origin) -> bytes:
    """Return the body of one GET, with a progress bar on a terminal. Raises requests' errors."""
    content = io.BytesIO()
    with requests.get(origin.url, stream=True, timeout=origin.timeout_s) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        name = origin.url.rsplit("/", 1)[-1]
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as progress:
            for chunk in response.iter_content(64 * 1024):
                content.write(chunk)
                progress.update(len(chunk))
    return content.getvalue()
