"""Sends events to a sink once more: those it had refused, or all that the journals still hold.

For an operator, after what was wrong with the sink has been mended, or after it has lost rows: see
`python -m prediction_service.journal replay`. The relay may run meanwhile, for a sink keeps each
event once and no cursor moves.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from prediction_service.relay.progress import Cursors
from prediction_service.journal import StoredEvent, journal_paths, read_after
from prediction_service.relay.shipping import deliver, make_sinks
from prediction_service.settings import Settings
from prediction_service.sinks.base import Sink


class Resent(NamedTuple):
    """What became of the events for one sink."""

    sink: str
    sent: int
    refused: int


def resend(settings: Settings, everything: bool) -> Iterator[Resent]:
    """Sends to each configured sink in turn. Raises SinkUnavailable.

    `everything`: not only what the sink had refused.
    """
    with closing(Cursors(settings.journal_path)) as cursors:
        for sink in make_sinks(settings):
            with closing(sink):
                yield resend_all(settings, sink) if everything else resend_letters(sink, cursors)


def resend_letters(sink: Sink, cursors: Cursors) -> Resent:
    """Sends what the sink had refused; what it takes now is no dead letter any more."""
    letters = cursors.letters(sink.name)
    refused: list[StoredEvent] = []
    for journal, event in letters:
        n_refused = len(refused)
        deliver(sink, [event], lambda one, _: refused.append(one))
        if len(refused) == n_refused:
            cursors.drop_letter(sink.name, journal, event.seq)
    return Resent(sink.name, len(letters) - len(refused), len(refused))


def resend_all(settings: Settings, sink: Sink) -> Resent:
    """Sends every event of every journal."""
    n_sent, refused = 0, []
    for path in journal_paths(settings.journal_path):
        seq = 0
        while events := read_after(path, seq, settings.relay_batch_rows):
            deliver(sink, events, lambda one, _: refused.append(one))
            seq, n_sent = events[-1].seq, n_sent + len(events)
    return Resent(sink.name, n_sent - len(refused), len(refused))
