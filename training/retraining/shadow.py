"""What `watch` asks about versions: the state of the shadow test, and the figures of serving.

The test is that of `GET /shadow` of the Evidently service, the figures are the prediction service's
metrics. Most runs end here, so the slow imports of `verdicts` are local.
"""

from typing import Any

import requests

from training.evaluation.serving_bounds import has_problem, read_served
from training.registry.serving import TIMEOUT_S, fetch_shadow
from training.settings import Settings


def follow_shadow(settings: Settings, log: Any) -> None:
    """Carry out the verdict of the shadow test, if there is one; `log` is a logger."""
    try:
        state = fetch_shadow(settings.evidently_address)
    except requests.RequestException as err:
        log.warning("shadow_unavailable error=%r", str(err))
        return
    if state["kind"] and state["verdict"]:
        # pylint: disable-next=import-outside-toplevel
        from training.retraining.verdicts import carry_out

        if outcome := carry_out(state, settings):
            log.warning("shadow_test_ended outcome=%r", outcome)


def guard_serving(settings: Settings, log: Any) -> None:
    """Undo a promotion if the new version has too many errors or is too slow."""
    try:
        response = requests.get(f"{settings.prediction_address}/metrics", timeout=TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as err:
        log.warning("metrics_unavailable error=%r", str(err))
        return
    served = read_served(response.text)
    if has_problem(served):
        # pylint: disable-next=import-outside-toplevel
        from training.retraining.verdicts import undo_by_figures

        if outcome := undo_by_figures(served, settings):
            log.warning("shadow_test_ended outcome=%r", outcome)
