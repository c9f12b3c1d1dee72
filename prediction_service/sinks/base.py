"""The interface of a sink, which stores events outside this service."""

from typing import Protocol

from prediction_service.journal import StoredEvent


class SinkUnavailable(Exception):
    """The sink did not store the batch. The same batch may succeed later."""


class SinkMisconfigured(SinkUnavailable):
    """The sink rejects this service itself, until someone changes a setting or a permission."""


class EventsRejected(Exception):
    """The sink will never store at least one event of the batch. The message gives the reason."""


class Sink(Protocol):
    """A store of events. It may receive an event twice and must keep it once."""

    @property
    def name(self) -> str:
        """The sink's name in settings, `relay.db`, metrics and logs."""

    @property
    def is_record(self) -> bool:
        """Whether the sink is the log of record, which must get every event."""

    def send(self, events: list[StoredEvent]) -> None:
        """Store the events durably. Raises SinkUnavailable or EventsRejected."""

    def close(self) -> None:
        """Close the connections."""
