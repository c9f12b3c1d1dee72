"""The stack of `docker-compose.yml` in real containers, started once with `make up`.

It is a Compose project of its own, with other ports, volumes and image tags. MLflow and Prefect use
PostgreSQL; tests with processes have SQLite. On a machine without a registry Grafana is left out,
its tests skip, and PostgreSQL is that of Debian.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pymongo
import pytest
import requests
import yaml
from pymongo.collection import Collection

from tests.conftest import ROOT, free_port, run, wait_until

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
PORTS = {
    "prediction": "PREDICTION_PORT",
    "evidently": "EVIDENTLY_PORT",
    "mlflow": "MLFLOW_PORT",
    "prefect": "PREFECT_PORT",
    "jupyter": "JUPYTER_PORT",
    "grafana": "GRAFANA_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "mongo": "MONGO_PORT",
    "postgres": "POSTGRES_PORT",
}
POSTGRESQL = {
    "COMPOSE_PROFILES": "gcs,prefect,monitoring,jupyter,postgres",
    "MLFLOW_DATABASE": "postgresql+psycopg://mlflow@postgres/mlflow",
    "PREFECT_DATABASE": "postgresql+asyncpg://prefect@postgres/prefect",
}
COMMAND_TIMEOUT_S = 120
UP_TIMEOUT_S = 1500  # includes building every image on a slow network


@dataclass
class Stack:
    """The running stack as a user sees it: make, docker compose, HTTP."""

    env: dict[str, str]
    has_grafana: bool
    has_mongodb_users: bool

    def run(self, *command: str, timeout_s: float = COMMAND_TIMEOUT_S, status: int = 0) -> str:
        """Run a command in the project's folder and return its output.

        Raises AssertionError if it does not exit with `status`.
        """
        return run(*command, env=self.env, timeout_s=timeout_s, status=status)

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Return the output of a docker compose command."""
        return self.run("docker", "compose", *arguments, timeout_s=timeout_s)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the result of `docker inspect` by service."""
        ids = self.compose("ps", "--all", "--quiet").split()
        found = json.loads(self.run("docker", "inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def url(self, service: str, path: str = "") -> str:
        """Return an address on the published port of a service."""
        return f"http://127.0.0.1:{self.env[PORTS[service]]}{path}"

    def secret(self, name: str) -> str:
        """Return a password or token."""
        return (ROOT / "var" / "secrets" / name).read_text("utf-8")

    def predict(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a prediction. Raises HTTPError."""
        response = requests.post(self.url("prediction", "/predict"), json=record, timeout=10)
        response.raise_for_status()
        return response.json()

    @contextmanager
    def predictions(
        self, user: str = "income", secret: str = "mongo_password"
    ) -> Iterator[Collection[dict[str, Any]]]:
        """Open the collection in MongoDB on its published port."""
        login = f"{user}:{self.secret(secret)}@" if self.has_mongodb_users else ""
        with pymongo.MongoClient[dict[str, Any]](
            f"mongodb://{login}127.0.0.1:{self.env['MONGO_PORT']}/?authSource=income",
            serverSelectionTimeoutMS=10_000,
        ) as client:
            yield client["income"]["predictions"]

    def stored(self, *prediction_ids: str) -> int:
        """Return the number of these predictions in MongoDB."""
        wanted = {"_id": {"$in": prediction_ids}, "predicted_at": {"$exists": True}}
        with self.predictions() as predictions:
            return predictions.count_documents(wanted)

    def wait_healthy(self, timeout_s: float = 180) -> None:
        """Return as soon as every container is healthy."""
        wait_until(
            lambda: not self.unhealthy(), "every container to be healthy", timeout_s=timeout_s
        )

    def unhealthy(self) -> dict[str, str]:
        """Return the state of each service that is not healthy."""
        states = {name: one["State"] for name, one in self.containers().items()}
        return {
            name: state.get("Health", {}).get("Status", state["Status"])
            for name, state in states.items()
            if state.get("Health", {}).get("Status") != "healthy" or not state["Running"]
        }


def succeeds(*command: str) -> bool:
    """Return True if a command exits with status 0."""
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def from_environment(text: str) -> str:
    """Return the value of a text `${VARIABLE:-default}` of the Compose file."""
    variable, default = text.strip("${}").split(":-")
    return os.environ.get(variable, default)


def image_of(service: str) -> str:
    """Return the image of a service, from the environment or the Compose file."""
    return from_environment(COMPOSE["services"][service]["image"])


def is_available(image: str) -> bool:
    """Return True if the image is present or can be pulled."""
    return succeeds("docker", "image", "inspect", image) or succeeds("docker", "pull", "-q", image)


def postgres_image() -> str:
    """Return the image of PostgreSQL, or that of Debian's server, which this builds."""
    if is_available(image_of("postgres")):
        return image_of("postgres")
    image, folder = "income-test/postgres:local", ROOT / "tests/containers/postgres"
    argument = f"PYTHON_IMAGE={from_environment(COMPOSE['x-build']['args']['PYTHON_IMAGE'])}"
    run("docker", "build", "--tag", image, "--build-arg", argument, folder, timeout_s=600)
    return image


# Leaves the service out of every profile.
WITHOUT_GRAFANA = """\
  grafana:
    profiles: !override [unavailable]
"""
# For a server with MongoDB's protocol, but without users and without MongoDB's shell.
WITHOUT_USERS = """\
  mongo:
    command: !reset null
    healthcheck:
      test: ["CMD", "bash", "-c", "</dev/tcp/127.0.0.1/27017"]
  prediction: &open
    environment:
      MONGODB_ADDRESS: mongodb://mongo:27017
  follower: *open
  relay: *open
  jupyter: *open
  worker: *open
"""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start the stack with a first model; remove it with its volumes at the end."""
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine: docker info failed")
    has_grafana = is_available(image_of("grafana"))
    mongo = image_of("mongo")
    assert is_available(mongo), f"{mongo} cannot be pulled"
    shell = ["docker", "run", "--rm", "--entrypoint", "sh", mongo, "-c", "command -v mongosh"]
    has_mongodb_users = succeeds(*shell)
    override = tmp_path_factory.mktemp("compose") / "override.yml"
    missing = ["" if has_grafana else WITHOUT_GRAFANA, "" if has_mongodb_users else WITHOUT_USERS]
    override.write_text("services:\n" + ("".join(missing) or "  {}\n"), "utf-8")
    # Without the variables of make, which may run these tests itself.
    env = {n: value for n, value in os.environ.items() if not n.startswith(("MAKE", "MFLAGS"))}
    env |= {name: str(free_port()) for name in PORTS.values()}
    env |= POSTGRESQL | {
        "POSTGRES_IMAGE": postgres_image(),
        "WATCH_BUDGET": "0",  # otherwise drift in a test starts a training during the others
        "COMPOSE_PROJECT_NAME": f"income-test-{os.getpid()}",
        "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}:{override}",
        "COMPOSE_ENV_FILES": str(ROOT / ".env.example"),  # not the user's .env
        "DOCKER_REPOSITORY": "income-test",
        "MEASURE_PERIOD_S": "5",
        "JUDGE_PERIOD_S": "0",
        "MAX_EVALS": "1",
    }
    running = Stack(env, has_grafana, has_mongodb_users)
    try:
        printed = running.run("make", "up", timeout_s=UP_TIMEOUT_S)
        assert running.url("prediction") in printed
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--timeout", "20")
