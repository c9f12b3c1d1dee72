"""The interface of a sink, which stores events outside this service."""

from hashlib import blake2b
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

    @property
    def share(self) -> float:
        """The share of prediction ids whose events the sink gets, in (0, 1]."""

    def send(self, events: list[StoredEvent]) -> None:
        """Store the events durably. Raises SinkUnavailable or EventsRejected."""

    def close(self) -> None:
        """Close the connections."""


def is_in_sample(prediction_id: str, share: float) -> bool:
    """Return whether an id belongs to the sample of a share.

    The id alone decides, so a label is sampled as its prediction. A smaller share is a part of a
    larger one.
    """
    digest = blake2b(prediction_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def sample_of(events: list[StoredEvent], share: float) -> list[StoredEvent]:
    """Return the events whose ids are in the sample."""
    return events if share == 1 else [e for e in events if is_in_sample(e.prediction_id, share)]
