"""Compose file, Dockerfiles, `.env.example`, lock and Makefile agree with each other."""

import re
import shutil

import pytest
import yaml

from config.runtime.api_keys import ENTRY, hash_of
from evidently_service.settings import Settings as EvidentlySettings
from prediction_service.settings import Settings as PredictionSettings
from stream_generator.settings import Settings as GeneratorSettings
from tests.conftest import ROOT, run
from training.settings import Settings as TrainingSettings

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
    "shadow": EvidentlySettings,
    "traffic": GeneratorSettings,
}
# Settings that a user cannot change in a container. The image sets folders and the bind address,
# the Compose file publishes ports of this machine, and the instance is the name of the container.
FIXED = {"BIND_ADDRESS", "PREDICTION_PORT", "EVIDENTLY_PORT", "INSTANCE"}
FIXED |= {"DATA_DIR", "MODEL_DIR", "JOURNAL_DIR", "WINDOW_DIR"}

# The secrets that each service can read. The others have none.
SECRETS: dict[str, set[str]] = {
    "mongo": {"mongo_root_password", "mongo_password"}
    | {"mongo_worker_password", "mongo_jupyter_password"},
    "postgres": {"postgres_password", "postgres_mlflow_password", "postgres_prefect_password"},
    "mlflow": {"mlflow_password", "mlflow_secret_key", "google_credentials"}
    | {"postgres_mlflow_password"}
    | {f"mlflow_{user}_password" for user in ("worker", "reader", "jupyter")},
    "prefect": {"prefect_auth", "postgres_prefect_password"},
    "worker": {"mlflow_worker_password", "mongo_worker_password", "prefect_auth"}
    | {"google_credentials"},
    "prediction": set(),
    "follower": {"mlflow_reader_password"},
    "relay": {"mongo_password", "relay_key"},
    "evidently": {"relay_key_hash"},
    "measure": {"mlflow_reader_password"},
    "shadow": {"mlflow_reader_password"},
    "grafana": {"grafana_password", "smtp_password"},
    "jupyter": {"jupyter_token", "mlflow_jupyter_password", "mongo_jupyter_password"},
    "traffic": {"mlflow_reader_password"},
}
OF_SECRETS = {  # a service without one of these secrets does not use the setting
    "MONGODB_PASSWORD": {"mongo_password", "mongo_worker_password"},
    "EVIDENTLY_API_KEY": {"relay_key"},
    "EVIDENTLY_KEY_HASHES": {"relay_key_hash"},
}


def test_each_service_has_only_the_secrets_that_it_needs():
    """The published web workers once held the administrator's password of MLflow, and MongoDB's."""
    for name, service in SERVICES.items():
        assert set(service.get("secrets", ())) == SECRETS.get(name, set()), name
        values = [str(value) for value in service.get("environment", {}).values()]
        read = {path for value in values for path in re.findall(r"/run/secrets/(\w+)", value)}
        assert read <= SECRETS.get(name, set()), name


def test_no_client_of_mlflow_is_its_administrator():
    users = {
        name: service["environment"]["MLFLOW_TRACKING_USERNAME"]
        for name, service in SERVICES.items()
        if "MLFLOW_TRACKING_USERNAME" in service.get("environment", {})
    }
    for name, user in users.items():
        secret = f"mlflow_{user}_password"
        assert secret in SECRETS[name] and user != "admin", name
        path = SERVICES[name]["environment"]["MLFLOW_TRACKING_PASSWORD_FILE"]
        assert path == f"/run/secrets/{secret}", name


def test_each_client_of_mongodb_has_a_user_with_the_rights_that_it_needs():
    """One user with all rights was once shared by the relay, the worker and the notebooks."""
    script = (ROOT / "config/mongo/users.js").read_text("utf-8")
    users = {
        user: (role, secret)
        for user, role, secret in re.findall(r'(\w+): \{ role: "(\w+)", secret: "(\w+)" \}', script)
    }
    clients = {}
    for name, service in SERVICES.items():
        environment = service.get("environment", {})
        if path := environment.get("MONGODB_PASSWORD_FILE"):
            (user,) = re.findall(r":-mongodb://(\w+)@mongo:", environment["MONGODB_ADDRESS"])
            role, secret = users.pop(user)
            assert path == f"/run/secrets/{secret}" and secret in SECRETS["mongo"], name
            clients[name] = role
    assert clients == {"relay": "readWrite", "worker": "read", "jupyter": "read"}
    assert not users


def test_the_secrets_of_a_stack_are_random_and_the_relays_hash_fits_its_key(tmp_path):
    """A replaced key gets a new hash; the other secrets stay."""
    script = tmp_path / "config/operate/secrets"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "config/operate/secrets", script)
    run(script)
    made = {path.name: path.read_text() for path in (tmp_path / "var/secrets").iterdir()}
    assert len(set(made.values())) == len(made) and all(len(one) >= 32 for one in made.values())
    assert made["relay_key_hash"] == f"relay={hash_of(made['relay_key'])}"
    assert re.fullmatch(rf"{ENTRY}", made["relay_key_hash"])
    (tmp_path / "var/secrets/relay_key").unlink()
    run(script)
    again = {path.name: path.read_text() for path in (tmp_path / "var/secrets").iterdir()}
    changed = {name for name in made if made[name] != again[name]}
    assert changed == {"relay_key", "relay_key_hash"}
    assert again["relay_key_hash"] == f"relay={hash_of(again['relay_key'])}"


def test_the_example_explains_every_variable_of_the_compose_file_with_its_default():
    found = re.findall(r"\$\{([A-Z_]+)(?::?-([^}$]*))?", TEXT)
    # The first default counts: each service has its own user in MONGODB_ADDRESS.
    used = dict(reversed(found))
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
    names -= {name for name, secrets in OF_SECRETS.items() if not secrets & SECRETS[service]}
    passed = SERVICES[service]["environment"].keys()
    passed |= {name.removesuffix("_FILE") for name in passed}  # of a secret
    assert names - FIXED <= passed


def test_make_secrets_makes_every_secret_and_none_has_a_default():
    listed = (ROOT / "config/operate/secrets").read_text("utf-8").split("NAMES'\n")[1]
    listed = listed.partition("\nNAMES\n")[0]
    made = {line.split()[0] for line in listed.splitlines()}
    assert {f"var/secrets/{name}" for name in made} == {
        secret["file"] for name, secret in COMPOSE["secrets"].items() if name in made
    }
    others = {"relay_key_hash", "google_credentials", "smtp_password"}
    assert set(COMPOSE["secrets"]) - made == others
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


def test_every_image_has_a_tag_other_than_latest():
    for name, service in SERVICES.items():
        image = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", service["image"])
        _, colon, tag = image.rpartition(":")
        assert colon and tag and "/" not in tag and tag != "latest", (name, image)
