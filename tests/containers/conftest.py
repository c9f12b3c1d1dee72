"""The stack of `docker-compose.yml` in real containers, brought up once as a user would: `make up`.

It is a project of its own beside whatever runs here: other ports, volumes and image tags. A part
whose image cannot be had (Grafana where no registry is reached) is left out, and its tests skip.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests
import yaml
from pymongo.collection import Collection

from tests.conftest import free_port, wait_until

ROOT = Path(__file__).parents[2]
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
}
COMMAND_TIMEOUT_S = 120
UP_TIMEOUT_S = 1500  # with every image to be built, on a slow network


@dataclass
class Stack:
    """The running stack, from outside: make, docker compose, HTTP."""

    env: dict[str, str]
    has_grafana: bool
    has_mongodb_users: bool

    def run(self, *command: str, timeout_s: float = COMMAND_TIMEOUT_S, status: int = 0) -> str:
        """What a command prints, in the project's folder; it must end with `status`."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, f"{command} ended with {done.returncode}\n{said[-4000:]}"
        return said if status else done.stdout

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """What a command of docker compose prints."""
        return self.run("docker", "compose", *arguments, timeout_s=timeout_s)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        ids = self.compose("ps", "--all", "--quiet").split()
        found = json.loads(self.run("docker", "inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def url(self, service: str, path: str = "") -> str:
        """An address on the published port of a service."""
        return f"http://127.0.0.1:{self.env[PORTS[service]]}{path}"

    def secret(self, name: str) -> str:
        """A password or token."""
        return (ROOT / "var" / "secrets" / name).read_text("utf-8")

    def predict(self, record: dict[str, Any]) -> dict[str, Any]:
        """The answer of the prediction service."""
        answer = requests.post(self.url("prediction", "/predict"), json=record, timeout=10)
        answer.raise_for_status()
        return answer.json()

    @contextmanager
    def predictions(self) -> Iterator[Collection[dict[str, Any]]]:
        """The collection in MongoDB, by its published port."""
        login = f"income:{self.secret('mongo_password')}@" if self.has_mongodb_users else ""
        with pymongo.MongoClient[dict[str, Any]](
            f"mongodb://{login}127.0.0.1:{self.env['MONGO_PORT']}/?authSource=income",
            serverSelectionTimeoutMS=10_000,
        ) as client:
            yield client["income"]["predictions"]

    def stored(self, *prediction_ids: str) -> int:
        """How many of these predictions MongoDB has."""
        wanted = {"_id": {"$in": prediction_ids}, "predicted_at": {"$exists": True}}
        with self.predictions() as predictions:
            return predictions.count_documents(wanted)

    def wait_healthy(self, timeout_s: float = 180) -> None:
        """Returns when every container is healthy."""
        wait_until(lambda: not self.unhealthy(), timeout_s, "every container to be healthy")

    def unhealthy(self) -> dict[str, str]:
        """The services that are not healthy, with what they are."""
        states = {name: one["State"] for name, one in self.containers().items()}
        return {
            name: state.get("Health", {}).get("Status", state["Status"])
            for name, state in states.items()
            if state.get("Health", {}).get("Status") != "healthy" or not state["Running"]
        }


def answers(*command: str) -> bool:
    """True if a command ends well."""
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def image_of(service: str) -> str:
    """The image that the Compose file names, unless the environment does."""
    variable, default = COMPOSE["services"][service]["image"].strip("${}").split(":-")
    return os.environ.get(variable, default)


def can_be_had(image: str) -> bool:
    """True if the image is here or can be pulled."""
    return answers("docker", "image", "inspect", image) or answers("docker", "pull", "-q", image)


# Leaves a service out, whatever profile is asked for.
WITHOUT_GRAFANA = """\
  grafana:
    profiles: !override [unavailable]
"""
# For a server that speaks MongoDB's protocol and knows neither users nor MongoDB's shell.
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
    """The stack, up and with a first model; taken down with its volumes at the end."""
    if not answers("docker", "info"):
        pytest.skip("no Docker engine answers (docker info)")
    has_grafana = can_be_had(image_of("grafana"))
    mongo = image_of("mongo")
    assert can_be_had(mongo), f"{mongo} cannot be pulled"
    shell = ["docker", "run", "--rm", "--entrypoint", "sh", mongo, "-c", "command -v mongosh"]
    has_mongodb_users = answers(*shell)
    override = tmp_path_factory.mktemp("compose") / "override.yml"
    missing = ["" if has_grafana else WITHOUT_GRAFANA, "" if has_mongodb_users else WITHOUT_USERS]
    override.write_text("services:\n" + ("".join(missing) or "  {}\n"), "utf-8")
    # The targets are called as from a shell, also where make itself runs the tests.
    env = {n: value for n, value in os.environ.items() if not n.startswith(("MAKE", "MFLAGS"))}
    env |= {name: str(free_port()) for name in PORTS.values()}
    env |= {
        "WATCH_BUDGET": "0",  # the drift that a test makes would start a training beside the others
        "COMPOSE_PROJECT_NAME": f"income-test-{os.getpid()}",
        "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}:{override}",
        "COMPOSE_ENV_FILES": str(ROOT / ".env.example"),  # not the .env of whoever runs this
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
