"""The lines of a journal file: the version line, then one line for each event."""

from typing import Literal, NamedTuple

import msgspec

from config.events import Label, Prediction

Event = Prediction | Label
Kind = Literal["prediction", "label", "erased"]
Line = tuple[int, int, Kind, str, float, msgspec.Raw]

VERSION = 1
VERSION_LINE = msgspec.json.encode(("journal", VERSION)) + b"\n"

decode_line = msgspec.json.Decoder(Line).decode
decode_version = msgspec.json.Decoder(tuple[Literal["journal"], int]).decode
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)  # what both raise for an invalid line


class StoredEvent(NamedTuple):
    """One event of a journal."""

    seq: int  # rises within a file, from 1 on; numbers may be missing
    kind: Kind
    prediction_id: str
    at: float  # Unix time in seconds
    body: bytes  # the event as JSON


def to_line(seq: int, left: int, event: Event) -> tuple[int, int, Kind, str, float, Event]:
    """Return the fields of an event's line; `left` events of the same append follow it."""
    if isinstance(event, Prediction):
        return seq, left, "prediction", event.prediction_id, event.predicted_at, event
    return seq, left, "label", event.prediction_id, event.labelled_at, event
