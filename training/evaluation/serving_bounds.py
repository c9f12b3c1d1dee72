"""How much slower, or worse at serving, a version may be than the one that it replaces.

The gate asks before the promotion, `watch` after it with the metrics of the prediction service.
"""

from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# Other work on the machine slows both models, so a time alone rejects none. A ratio alone would
# reject a better model that takes 0.3 ms instead of 0.1.
MAX_LATENCY_RATIO, MIN_SLOW_MS = 3.0, 5.0
MAX_ERROR_RATIO, MIN_ERRORS = 2.0, 0.05  # of the share of responses with a server error
MIN_RESPONSES = 200
NO_VERSION = "none"  # in the metrics, before the first model


@dataclass
class Served:
    """What the prediction service counted for a version."""

    responses: float = 0  # to /predict
    errors: float = 0  # of them, with status 5xx
    timed: float = 0  # of them, with status 200
    seconds: float = 0  # for these

    @property
    def error_share(self) -> float:
        """The share of server errors, in [0, 1]; 0 without a response."""
        return self.errors / self.responses if self.responses else 0.0

    @property
    def latency_ms(self) -> float:
        """The mean time to a prediction; 0 without one."""
        return 1000 * self.seconds / self.timed if self.timed else 0.0


def is_slower(latency_ms: float, former_ms: float) -> bool:
    """Return whether a latency is beyond its bound."""
    return latency_ms > max(MIN_SLOW_MS, MAX_LATENCY_RATIO * former_ms)


def read_served(metrics: str) -> dict[str, Served]:
    """Return the counts of each version in the metrics of the prediction service."""
    served: dict[str, Served] = defaultdict(Served)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            one = served[labels.get("version", NO_VERSION)]
            match sample.name:
                case "income_requests_total" if labels["endpoint"] == "predict":
                    one.responses += value
                    one.errors += value if labels["status"].startswith("5") else 0
                case "income_prediction_latency_seconds_count":
                    one.timed += value
                case "income_prediction_latency_seconds_sum":
                    one.seconds += value
    served.pop(NO_VERSION, None)
    return dict(served)


def has_problem(served: dict[str, Served]) -> bool:
    """Return whether any version breaks a bound beside any other one, or beside none."""
    return any(
        serving_problem(new, former)
        for name, new in served.items()
        for other, former in (served | {"": Served()}).items()
        if name != other
    )


def serving_problem(new: Served, former: Served) -> str:
    """Return which bound a new version breaks beside the former one, or an empty text."""
    if new.responses < MIN_RESPONSES:
        return ""
    if new.error_share > max(MIN_ERRORS, MAX_ERROR_RATIO * former.error_share):
        return (
            f"server errors: {new.error_share:.1%} of {new.responses:.0f} predictions, before"
            f" {former.error_share:.1%}"
        )
    if former.timed and is_slower(new.latency_ms, former.latency_ms):
        return f"latency: {new.latency_ms:.1f} ms on average, before {former.latency_ms:.1f} ms"
    return ""
