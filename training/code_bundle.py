"""The files of code that a flow run or a Spark worker needs, and their digest."""

import hashlib
from pathlib import Path

from config.contract import contract_path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {".py", ".yaml", ".json", ".html", ".css"}


def code_files() -> list[Path]:
    """Return every file that a flow run reads, relative to `ROOT`, in a stable order.

    `config` itself is not searched recursively: its other folders belong to servers and developers.
    The folder of the contract is one of them if CONTRACT names it.
    """
    contract = contract_path().resolve().parent
    folders = [ROOT / "config"] + [contract] * contract.is_relative_to(ROOT)
    found = {path for one in folders for path in one.iterdir() if path.suffix in KINDS}
    for folder in ("config/runtime", "config/web", "training"):
        found |= {path for path in (ROOT / folder).rglob("*") if path.suffix in KINDS}
    return sorted(path.relative_to(ROOT) for path in found)


def code_digest() -> str:
    """Return a short sha256 of these files and their names, and of the contract."""
    content = contract_path().read_bytes()
    content += b"".join(str(path).encode() + (ROOT / path).read_bytes() for path in code_files())
    return hashlib.sha256(content).hexdigest()[:16]
