"""The files of code that a flow run or a Spark worker needs, and their digest."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".yaml", ".json", ".html"}


def code_files() -> list[Path]:
    """Return every file that a flow run reads, relative to `ROOT`, in a stable order.

    `config` itself is not searched recursively: its other folders belong to servers and developers.
    """
    found = {path for path in (ROOT / "config").iterdir() if path.suffix in KINDS}
    for folder in ("config/runtime", "training"):
        found |= {path for path in (ROOT / folder).rglob("*") if path.suffix in KINDS}
    return sorted(path.relative_to(ROOT) for path in found)


def code_digest() -> str:
    """Return a short sha256 of these files and their names."""
    content = b"".join(str(path).encode() + (ROOT / path).read_bytes() for path in code_files())
    return hashlib.sha256(content).hexdigest()[:16]
