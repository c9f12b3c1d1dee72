"""The command `shadow`."""

import math
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from config.runtime.settings import read_settings
from training.registry.serving import fetch
from training.settings import Settings


def run_shadow(_: Namespace) -> None:
    """Print how the test of a version beside production stands."""
    address = read_settings(Settings).evidently_address
    try:
        state = fetch(address, "shadow").json()
    except requests.RequestException as err:
        sys.exit(f"EVIDENTLY_ADDRESS: the monitoring does not respond; got {address}. {err}")
    print("\n".join(describe(state, time.time())))


def describe(state: Mapping[str, Any], now: float) -> Iterator[str]:
    """Yield the lines about a response of `GET /shadow`; `now` is a Unix time."""
    if not state["kind"]:
        yield "no version is tested beside production; a new challenger appears within a minute"
        return
    role = "the challenger" if state["kind"] == "challenger" else "the former production version"
    yield f"version {state['version']}, {role}, beside production version {state['production']}"
    yield f"verdict: {state['verdict'] or 'none yet'}: {state['why']}"
    hours = (now - state["started_at"]) / 3600
    yield f"since {hours:.1f} h: {state['rows']} predictions, {state['labels']} with labels"
    if error := state["error"]:
        yield f"error: {error}"
    if evidence := state["evidence"]:
        yield f"gain in log loss: {interval(evidence)}"
        enough = 1 / state["error_rate"]  # the e-value that decides
        yield (
            f"evidence, {enough:g} decides: {e_value(evidence['log_e_better'])} for better,"
            f" {e_value(evidence['log_e_worse'])} for worse{outlook(evidence, enough)}"
        )
    if (agreement := state["agreement"]) is not None:
        yield f"same class for {agreement:.1%} of the predictions"
    for name, one in state["segments"].items():
        yield f"  {name}: {interval(one)}, {one['labels']} labels"


def interval(evidence: Mapping[str, float]) -> str:
    """Return a gain with the ends of its interval."""
    return f"{evidence['gain']:.4f} ({evidence['lower']:.4f} to {evidence['upper']:.4f})"


def e_value(logarithm: float) -> str:
    """Return an e-value for reading; far beyond the limit its size says nothing more."""
    return f"{math.exp(logarithm):.2g}" if logarithm < math.log(1000) else "over 1000"


def outlook(evidence: Mapping[str, float], enough: float) -> str:
    """Return how many more labels would decide the test if its evidence grew as so far."""
    found = max(evidence["log_e_better"], evidence["log_e_worse"])
    if not 0 < found < math.log(enough):
        return ""
    more = evidence["labels"] * (math.log(enough) / found - 1)
    return f"; at this rate about {more:.0f} more labels decide"
