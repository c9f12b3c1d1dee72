"""Compose file, Dockerfiles, `.env.example`, lock and Makefile agree with each other."""

import re
from pathlib import Path

import pytest
import yaml

from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from training.settings import Settings as TrainingSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
DOCKERFILES = sorted([*ROOT.glob("*/Dockerfile"), *ROOT.glob("config/*/Dockerfile")])
MAKE_VARIABLES = {"VERSION", "REVISION"}  # for the labels of images
SETTINGS = {
    "worker": TrainingSettings,
    "prediction": PredictionSettings,
    "follower": PredictionSettings,
    "relay": PredictionSettings,
    "evidently": EvidentlySettings,
    "measure": EvidentlySettings,
    "traffic": GeneratorSettings,
}
# Settings that a user cannot change in a container. The image sets folders and the bind address,
# the Compose file publishes ports of this machine, and the instance is the name of the container.
FIXED = {"BIND_ADDRESS", "PREDICTION_PORT", "EVIDENTLY_PORT", "INSTANCE"}
FIXED |= {"DATA_DIR", "MODEL_DIR", "JOURNAL_DIR", "WINDOW_DIR"}


def test_the_example_explains_every_variable_of_the_compose_file_with_its_default():
    used = dict(re.findall(r"\$\{([A-Z_]+)(?::?-([^}$]*))?", TEXT))
    explained = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.M))
    explained.pop("COMPOSE_PROFILES")  # Compose itself reads it
    assert used.keys() - MAKE_VARIABLES == explained.keys()
    # An empty default stands for the part's own default. These have a placeholder as default.
    placeholders = {"CENSUS_DATA_DIR", "GOOGLE_CREDENTIALS", "SMTP_PASSWORD_FILE"}
    placeholders |= {"ALERT_WEBHOOK_URL", "ALERT_EMAIL", "GRAFANA_URL", "MONITORING_FILE"}
    defaults = {n: d for n, d in used.items() if d and n not in placeholders}
    assert defaults.items() <= explained.items()


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_of_a_part_reaches_its_container(service):
    """MAX_RECORDS and a dozen others in `.env` were once ignored silently."""
    names = {name.upper() for name in SETTINGS[service].model_fields}
    passed = SERVICES[service]["environment"].keys()
    passed |= {name.removesuffix("_FILE") for name in passed}  # of a secret
    assert names - FIXED <= passed


def test_make_secrets_makes_every_secret_and_none_has_a_default():
    listed = (ROOT / "config/operate/secrets").read_text("utf-8").split("<<'NAMES'\n")[1]
    made = {line.split()[0] for line in listed.splitlines()[:-1]}
    assert {f"var/secrets/{name}" for name in made} == {
        secret["file"] for name, secret in COMPOSE["secrets"].items() if name in made
    }
    assert set(COMPOSE["secrets"]) - made == {"google_credentials", "smtp_password"}
    assert not re.search(r"(PASSWORD|TOKEN|AUTH_STRING|SECRET_KEY)\w*: *[\"'$]", TEXT)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_installs_hashed_packages_of_the_lock_and_does_not_run_as_root(path):
    text = path.read_text("utf-8")
    (categories,) = re.findall(r"/lock/install ([a-z -]+)\n", text)
    known = re.search(r"^DAILY := (.*)$", MAKEFILE, re.M)
    assert known and set(categories.split()) <= set(known[1].split())
    assert (ROOT / "config/lock/install").read_text("utf-8").count("--require-hashes") == 2
    assert "\nUSER income\n" in text
    assert text.count("FROM ${PYTHON_IMAGE}") == text.count("FROM ") == 2
    assert not re.search(r"apt-get|curl|# syntax", text)


def test_each_dockerfile_builds_the_image_of_a_service():
    built = {service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service}
    assert built == {str(path.relative_to(ROOT)) for path in DOCKERFILES}


def test_every_service_that_starts_with_the_stack_has_a_health_check():
    for name, service in SERVICES.items():
        if name not in ("traffic", "volumes"):
            assert service["healthcheck"]["test"], name


def test_services_with_a_mongodb_address_can_reach_an_external_one():
    """The relay once had no internet access and delivered nothing to an external MongoDB."""
    for name in ("relay", "worker", "jupyter"):
        assert "front" in SERVICES[name]["networks"], name


def test_the_generator_does_not_restart_after_its_last_row():
    assert SERVICES["traffic"]["restart"] == "on-failure"


def test_every_image_has_a_tag_other_than_latest():
    for name, service in SERVICES.items():
        image = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", service["image"])
        _, colon, tag = image.rpartition(":")
        assert colon and tag and "/" not in tag and tag != "latest", (name, image)
