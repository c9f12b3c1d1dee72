"""Send events to their sinks again: rejected ones, or all that the journals still hold.

For an operator, after a sink was fixed or has lost rows: `python -m prediction_service.journal
resend`. The relay may run at the same time, because a sink keeps each event once.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from prediction_service.journal import StoredEvent, check_exists, read_all
from prediction_service.relay.progress import Progress
from prediction_service.relay.shipping import ATTEMPTS, deliver, make_sinks
from prediction_service.settings import Settings
from prediction_service.sinks.base import Sink, SinkUnavailable, sample_of


class Resent(NamedTuple):
    """Number of events that a sink stored and rejected."""

    sink: str
    sent: int
    rejected: int


def resend(settings: Settings, everything: bool) -> Iterator[Resent]:
    """Send dead letters, or with `everything` all events, to each configured sink in turn.

    Raises SinkUnavailable or JournalUnavailable.
    """
    check_exists(settings.journal_path)  # else `Progress` would make it
    with closing(Progress(settings.journal_path)) as progress:
        for sink in make_sinks(settings):
            with closing(sink):
                if everything:
                    yield resend_all(settings, sink)
                else:
                    yield resend_dead_letters(sink, progress)


def resend_dead_letters(sink: Sink, progress: Progress) -> Resent:
    """Send the events that the sink rejected; what it stores now is no longer a dead letter."""
    letters = progress.dead_letters(sink.name)
    rejected = send_each(sink, [event for _, event in letters])
    still_dead = set(rejected)
    for journal, event in letters:
        if event not in still_dead:
            progress.remove_dead_letter(sink.name, journal, event.seq)
    return Resent(sink.name, len(letters) - len(rejected), len(rejected))


def resend_all(settings: Settings, sink: Sink) -> Resent:
    """Send every event of every journal that is in the sink's sample."""
    n_events = 0
    rejected: list[StoredEvent] = []
    for batch in read_all(settings.journal_path, settings.relay_batch_rows):
        events = sample_of(batch, sink.share)
        n_rejected = len(rejected)
        try:
            deliver(sink, events, lambda one, _: rejected.append(one))
        except SinkUnavailable:  # because of one event, or the sink is down
            del rejected[n_rejected:]
            rejected += send_each(sink, events)
        n_events += len(events)
    return Resent(sink.name, n_events - len(rejected), len(rejected))


def send_each(sink: Sink, events: list[StoredEvent]) -> list[StoredEvent]:
    """Send events one by one; return those that the sink does not store.

    Raises SinkUnavailable if several in a row fail, or all of them.
    """
    rejected: list[StoredEvent] = []
    n_failures = 0  # in a row
    for event in events:
        try:
            deliver(sink, [event], lambda one, _: rejected.append(one))
            n_failures = 0
        except SinkUnavailable:
            rejected.append(event)
            n_failures += 1
            if n_failures in (ATTEMPTS, len(events)):
                raise
    return rejected
