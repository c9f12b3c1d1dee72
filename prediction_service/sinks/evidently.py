"""The Evidently service as a sink: events as JSON lists over HTTP."""

import json
from collections.abc import Mapping

import requests

from config.events import BACKLOG_HEADER, SAMPLE_HEADER
from prediction_service.journal import Kind, StoredEvent
from prediction_service.settings import Settings
from prediction_service.sinks.base import EventsRejected, SinkMisconfigured, SinkUnavailable

REJECTED = (400, 413, 422)  # the batch itself is bad or too big: a part of it may pass
MISCONFIGURED = (301, 302, 303, 307, 308, 401, 403, 404, 405)  # no batch can pass
ROUTES: tuple[tuple[Kind, str], ...] = (("prediction", "iterate"), ("label", "labels"))


class EvidentlySink:
    """Client that posts predictions and labels to the Evidently service."""

    name = "evidently"
    is_record = False

    def __init__(self, settings: Settings) -> None:
        self.share = settings.evidently_sample
        self.address = settings.evidently_address.rstrip("/")
        self.timeout_s = settings.sink_timeout_s
        self._session = requests.Session()
        if key := settings.evidently_api_key.get_secret_value():
            self._session.headers["Authorization"] = f"Bearer {key}"

    def send(self, events: list[StoredEvent]) -> None:
        """Store the events durably. Raises SinkUnavailable or EventsRejected."""
        for kind, route in ROUTES:
            if bodies := [event.body for event in events if event.kind == kind]:
                self._post(f"{self.address}/{route}", b"[" + b",".join(bodies) + b"]")

    def report_backlog(self, waiting: Mapping[str, int | None]) -> None:
        """Report the sample's share, and the undelivered events of each instance.

        None stands for a removed instance. Raises SinkUnavailable or EventsRejected.
        """
        headers = {BACKLOG_HEADER: json.dumps(waiting), SAMPLE_HEADER: str(self.share)}
        self._post(f"{self.address}/iterate", b"[]", headers)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", **(headers or {})}
        try:
            response = self._session.post(
                url, data=body, headers=headers, timeout=self.timeout_s, allow_redirects=False
            )
        except requests.RequestException as err:
            raise SinkUnavailable(f"EVIDENTLY_ADDRESS: {url} does not respond: {err}") from err
        if response.status_code in REJECTED:
            raise EventsRejected(
                f"{url} rejects the batch with status {response.status_code}: {response.text[:500]}"
            )
        if response.status_code in MISCONFIGURED:
            raise SinkMisconfigured(
                f"EVIDENTLY_ADDRESS: {url} is not the Evidently service, or it rejects the relay;"
                f" got status {response.status_code}, expected 2xx. Correct the address or the"
                " permission."
            )
        if not 200 <= response.status_code < 300:
            raise SinkUnavailable(
                f"EVIDENTLY_ADDRESS: {url} failed; got status {response.status_code}, expected 2xx"
            )
