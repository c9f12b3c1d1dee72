"""The files of a source: read from its address, the cache or a given folder, checked by checksum.

Files from the web are cached. `table_files` reads their rows.
"""

import hashlib
import io
import time
import zipfile
from pathlib import Path

import requests
import structlog
from tqdm import tqdm

from training.data.errors import SourceError, SourceUnavailable
from training.data.source import CENSUS, Source
from training.data.storage import read_file, write_atomically
from training.settings import Settings

log = structlog.get_logger(__name__)


ATTEMPTS = 4
BACKOFF_S = 1.0  # before the second attempt; doubled before each further one
TIMEOUT_S = 15.0  # to connect, and between two bytes


def read_files(source: Source, settings: Settings) -> dict[str, bytes]:
    """Return the content of each file of a source by name.

    CENSUS_DATA_DIR replaces the census's address. Raises SourceUnavailable for a failed download,
    FilesUnavailable for one from a bucket, SourceError for a missing file or another checksum.
    """
    if source.name == CENSUS and settings.census_folder is not None:
        return read_all(source, str(settings.census_folder))
    if not source.is_web:
        return read_all(source, source.address)
    cache = settings.raw_dir / source.name
    if all((cache / name).exists() for name in source.files):
        try:
            return read_all(source, str(cache))
        except SourceError as err:
            log.warning("cache_invalid", error=str(err))
    contents = read_all(source, source.address)
    for name, content in contents.items():
        write_atomically(cache / name, content)
    return contents


def read_all(source: Source, address: str) -> dict[str, bytes]:
    """Return the files at an address, once every checksum is right."""
    names = list(source.files)
    if address.endswith(".zip"):
        contents = unzip(read(address, source), address, source)
    elif len(names) == 1 and address.rpartition("/")[2] == names[0]:
        contents = {names[0]: read(address, source)}
    else:
        contents = {name: read(f"{address.rstrip('/')}/{name}", source) for name in names}
    for name, content in contents.items():
        check_checksum(f"{name} of {address}", content, source, source.files[name])
    return contents


def unzip(content: bytes, address: str, source: Source) -> dict[str, bytes]:
    """Return the source's files of a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in source.files}
    except (KeyError, zipfile.BadZipFile) as err:
        raise SourceError(f"{address}: unreadable zip file: {err}. {source.remedy}") from err


def check_checksum(where: str, content: bytes, source: Source, expected: str) -> None:
    """Raise SourceError, naming both checksums, if they differ."""
    found = hashlib.sha256(content).hexdigest()
    if not expected and source.is_web:
        raise SourceError(
            f"{where}: no sha256 in the description of the source, expected one for a file from the"
            f" web. Check the file, and add its sha256: {found}"
        )
    if expected and found != expected:
        raise SourceError(
            f"{where}: truncated or changed; got {len(content)} bytes with sha256 {found}, expected"
            f" {expected}. {source.remedy}"
        )


def read(address: str, source: Source) -> bytes:
    """Return the content at a web address, a gs:// address or a path."""
    if address.startswith(("https://", "http://")):
        return download(address, source)
    if "://" in address:
        return read_file(address)
    try:
        return Path(address).read_bytes()
    except OSError as err:
        raise SourceError(f"{address}: {err.strerror}. {source.remedy}") from err


def download(address: str, source: Source) -> bytes:
    """Return the file at a web address; retry transient failures with exponential back-off."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause_s = BACKOFF_S * 2 ** (attempt - 1)
            log.warning("download_retried", in_s=pause_s, reason=reason)
            time.sleep(pause_s)
        try:
            content = download_once(address)
            if not address.endswith(".zip") or zipfile.is_zipfile(io.BytesIO(content)):
                return content
            reason = f"the response is not a zip file; it starts with {content[:40]!r}"
        except requests.HTTPError as err:
            reason = str(err)
            if err.response.status_code < 500 and err.response.status_code != 429:
                break
        except requests.RequestException as err:
            reason = str(err)
    raise SourceUnavailable(
        f"{address}: could not be downloaded in {attempt + 1} attempt(s): {reason}. {source.remedy}"
    )


def download_once(address: str) -> bytes:
    """Return the body of one GET, with a progress bar on a terminal. Raises requests' errors."""
    content = io.BytesIO()
    with requests.get(address, stream=True, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        name = address.rsplit("/", 1)[-1]
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as progress:
            for chunk in response.iter_content(64 * 1024):
                content.write(chunk)
                progress.update(len(chunk))
    return content.getvalue()
