"""What the services say: whether they use the production version, and how a shadow test stands."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import requests

from training.settings import Settings

WAIT_S = 60.0  # the follower, the workers and the measure process take some seconds each
SILENT_S = 5.0  # a service that does not respond for so long is down
SAY_AFTER_S = 3.0
POLL_S = 0.5
TIMEOUT_S = 5.0
FETCH_TIMEOUT_S = 10.0


class Service(NamedTuple):
    """A service that follows the production version."""

    name: str
    setting: str  # of its address
    address: str
    route: str  # whose response has `model_version`
    reasons: str  # the route that says why not


def find_laggards(version: str, settings: Settings) -> list[str]:
    """Wait until both services use a version; return why those that do not, do not."""
    services = [
        Service(
            "the prediction service",
            "PREDICTION_ADDRESS",
            settings.prediction_address,
            "model",
            "health/ready",
        ),
        Service(
            "the monitoring", "EVIDENTLY_ADDRESS", settings.evidently_address, "drift", "drift"
        ),
    ]
    started, said = time.monotonic(), False
    while True:
        states = {one: get(one, one.route) for one in services}
        late = [one for one, state in states.items() if state.get("model_version") != version]
        waited_s = time.monotonic() - started
        is_over = waited_s > WAIT_S or (
            waited_s > SILENT_S and not all(states[one] for one in late)
        )
        if not late or is_over:
            return [reason(one, states[one], version) for one in late]
        if waited_s > SAY_AFTER_S and not said:
            said = True
            print(f"waiting for {' and '.join(one.name for one in late)}", flush=True)
        time.sleep(POLL_S)


def fetch(address: str, route: str) -> requests.Response:
    """Return a successful response. Raises requests' errors."""
    response = requests.get(f"{address}/{route}", timeout=FETCH_TIMEOUT_S)
    response.raise_for_status()
    return response


def reason(service: Service, state: Mapping[str, Any], version: str) -> str:
    """Return why a service does not use a version."""
    if not state:
        return f"{service.setting}: {service.name} does not respond; got {service.address}."
    facts = get(service, service.reasons)
    found = [f"{service.name} uses version {state.get('model_version', 'none')}, not {version}."]
    if (rejected := facts.get("rejected")) and rejected["version"] == version:
        found.append(f"It rejects the version: {rejected['reason']}")
    if (age_s := facts.get("follower_age_s")) and age_s > SILENT_S + TIMEOUT_S:
        found.append(f"Its follower is silent for {age_s:.0f} s: start it again.")
    elif facts.get("registry", "reached") != "reached":
        found.append(f"Its follower does not reach MLflow: {facts['registry']}")
    if error := facts.get("error"):
        found.append(f"Error: {error if isinstance(error, str) else error['message']}")
    return " ".join(found)


def get(service: Service, route: str) -> dict[str, Any]:
    """Return a service's response; empty if it does not respond."""
    try:
        return requests.get(f"{service.address}/{route}", timeout=TIMEOUT_S).json()
    except requests.RequestException:
        return {}
