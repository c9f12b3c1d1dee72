"""The Evidently service as a sink: events as JSON lists over HTTP."""

import requests

from prediction_service.journal import Kind, StoredEvent
from prediction_service.sinks.base import EventsRefused, SinkUnavailable

DATASET = "income"
REFUSALS = (400, 413, 422)  # the batch itself is bad, or too big: a part of it may pass
ROUTES: tuple[tuple[Kind, str], ...] = (("prediction", "iterate"), ("label", "labels"))


class EvidentlySink:
    """Posts predictions and labels to the Evidently service."""

    name = "evidently"

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()

    def send(self, events: list[StoredEvent]) -> None:
        """Stores the events durably. Raises SinkUnavailable or EventsRefused."""
        for kind, route in ROUTES:
            if bodies := [event.body for event in events if event.kind == kind]:
                self._post(f"{self.address}/{route}/{DATASET}", b"[" + b",".join(bodies) + b"]")

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _post(self, url: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            answer = self._session.post(
                url, data=body, headers=headers, timeout=self.timeout_s, allow_redirects=False
            )
        except requests.RequestException as err:
            raise SinkUnavailable(f"{url} does not answer (EVIDENTLY_ADDRESS): {err}") from err
        if answer.status_code in REFUSALS:
            raise EventsRefused(f"{url} answers {answer.status_code}: {answer.text[:500]}")
        if not 200 <= answer.status_code < 300:
            raise SinkUnavailable(f"{url} answers {answer.status_code}, expected 2xx")
