"""What a training depends on besides data and settings: the code and tables of two folders.

Their digest tells whether anything is new, and it is what the worker keeps in the bucket.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".yaml", ".json"}


def code_files() -> list[Path]:
    """Every file that a flow run reads, relative to `ROOT`, in a stable order."""
    folders = [ROOT / "config", ROOT / "training"]
    found = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in KINDS)
    return [path.relative_to(ROOT) for path in found]


def code_digest() -> str:
    """Short sha256 of these files and their names."""
    content = b"".join(str(path).encode() + (ROOT / path).read_bytes() for path in code_files())
    return hashlib.sha256(content).hexdigest()[:16]
