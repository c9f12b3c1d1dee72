"""What the relay asks of a sink, and what a sink may answer."""

from typing import Protocol

from prediction_service.journal import StoredEvent


class SinkUnavailable(Exception):
    """The sink did not store the batch; the same batch may succeed later."""


class EventsRefused(Exception):
    """The sink will never store at least one event of the batch; the message says why."""


class Sink(Protocol):
    """Where events go. It may receive an event twice and must keep it once."""

    @property
    def name(self) -> str:
        """The sink's name in cursors, gauges and logs."""

    def send(self, events: list[StoredEvent]) -> None:
        """Stores the events durably. Raises SinkUnavailable or EventsRefused."""

    def close(self) -> None:
        """Closes the connections."""
