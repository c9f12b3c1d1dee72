"""The lock: one hashed version of each package, and no address of a package index."""

import json
import re

from tests.conftest import ROOT

LOCK = json.loads((ROOT / "Pipfile.lock").read_text("utf-8"))
CATEGORIES = {name: packages for name, packages in LOCK.items() if name != "_meta"}


def test_no_package_has_two_versions_across_the_categories():
    versions = {}
    for packages in CATEGORIES.values():
        for name, entry in packages.items():
            versions.setdefault(name, set()).add(entry["version"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_every_package_is_hashed():
    unhashed = [
        n for packages in CATEGORIES.values() for n, e in packages.items() if not e["hashes"]
    ]
    assert unhashed == []


def test_the_lock_and_the_pipfile_name_no_index():
    assert LOCK["_meta"]["sources"] == []
    assert not any("index" in e for packages in CATEGORIES.values() for e in packages.values())
    assert not re.search(r"\[\[source\]\]|https?://", (ROOT / "Pipfile").read_text("utf-8"))
