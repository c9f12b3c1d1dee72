"""Remove the package index from Pipfile.lock; pip's own configuration names it."""

import json
from pathlib import Path

LOCK = Path(__file__).parent.parent / "Pipfile.lock"

lock = json.loads(LOCK.read_text("utf-8"))
lock["_meta"]["sources"] = []
for category, packages in lock.items():
    if category != "_meta":
        for package in packages.values():
            package.pop("index", None)
LOCK.write_text(json.dumps(lock, indent=4, sort_keys=True) + "\n", encoding="utf-8")
