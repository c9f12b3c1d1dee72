"""The workflows of GitHub: valid, with few rights, and complete for every image."""

import re
import shutil

import pytest
import yaml

from tests.conftest import ROOT, run

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
PUBLISH = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text("utf-8"))


def test_every_published_image_gets_a_provenance_and_an_sbom():
    images = set(re.findall(r"\$\{DOCKER_REPOSITORY:-income\}/([a-z-]+):", COMPOSE))
    attest = PUBLISH["jobs"]["attest"]
    assert attest["needs"] == "images"
    assert set(attest["strategy"]["matrix"]["image"]) == images
    used = {step["uses"].partition("@")[0] for step in attest["steps"] if "uses" in step}
    assert {"actions/attest-build-provenance", "anchore/sbom-action", "actions/attest-sbom"} <= used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_write_only_what_its_job_states(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"]["contents"] == "read"
    assert "write-all" not in path.read_text("utf-8")


def test_actionlint_finds_no_problem():
    if not (actionlint := shutil.which("actionlint")):
        pytest.skip("actionlint is not installed")
    run(actionlint)
