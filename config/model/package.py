"""A model package's files: their checksums against the registry's, and the golden rows.

Training writes a package. A package that this service cannot serve is rejected before use.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from config.model_registry import BOOSTER, CARD, FILE_SHA256, GOLDEN, GRAPH

MAX_TOLERANCE = 1e-3  # in probability; a package that asks for more proves nothing

Row = Sequence[Any]  # raw values of the contract's input columns, in contract order


class ModelRejected(Exception):
    """The package cannot be served. The message gives the reason."""


def reason_of(err: Exception) -> str:
    """Return why a version cannot be loaded, with the kind of an unexpected error."""
    return str(err) if isinstance(err, ModelRejected) else f"{type(err).__name__}: {err}"


class Golden(msgspec.Struct):
    """The content of `golden.json`: raw rows and the probabilities that any host must reproduce."""

    tolerance: float
    rows: list[dict[str, Any]]
    probabilities: list[float]


def read_golden(path: Path) -> Golden:
    """Return a package's golden rows. Raises ModelRejected if they could prove nothing."""
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except (OSError, ValueError) as err:  # not JSON, or not UTF-8
        raise ModelRejected(f"{GOLDEN} cannot be read: {err}. Train a new version.") from err
    if not golden.rows or len(golden.rows) != len(golden.probabilities):
        raise ModelRejected(
            f"{GOLDEN}: got {len(golden.rows)} rows and {len(golden.probabilities)} probabilities,"
            " expected the same number, at least 1. Train a new version."
        )
    if not 0 <= golden.tolerance <= MAX_TOLERANCE:
        raise ModelRejected(
            f"{GOLDEN}: tolerance: got {golden.tolerance}, expected 0 to {MAX_TOLERANCE}."
            " Train a new version."
        )
    return golden


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file. Raises ModelRejected if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise ModelRejected(f"{path.name} cannot be read: {err}") from err


def check_digest(path: Path, expected: str) -> None:
    """Raise ModelRejected if a file does not have the sha256 `expected`."""
    if (found := sha256_of(path)) != expected:
        raise ModelRejected(
            f"{path.name} was changed or damaged after its registration: got sha256 {found},"
            f" expected {expected}. Promote another version, or train a new one."
        )


def check_digests(package: Path, expected: dict[str, str]) -> None:
    """Compare a downloaded package with the checksums that the registry has, by file name.

    Raises ModelRejected for a different checksum, and for a file in use without a checksum.
    """
    if GRAPH not in expected:
        raise ModelRejected(
            f"The registry has no sha256 of {GRAPH}. Promote another version, or train a new one."
        )
    for name, digest in expected.items():
        check_digest(package / name, digest)
    for name in (GOLDEN, BOOSTER, CARD):
        if name not in expected and (package / name).exists():
            raise ModelRejected(
                f"{name} was added after the version was registered."
                " Promote another version, or train a new one."
            )


def digests_in(tags: dict[str, str]) -> dict[str, str]:
    """Return the checksums in a version's tags; none without a valid tag."""
    try:
        return msgspec.json.decode(tags.get(FILE_SHA256, "{}"), type=dict[str, str])
    except msgspec.DecodeError:
        return {}
