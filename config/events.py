"""The events that the prediction service sends to its sinks, as JSON.

Their way: journal -> relay -> MongoDB and the Evidently service. `prediction_id` identifies both
kinds, so a sink that receives an event twice stores it once. A prediction joined with its label is
a row for a later training.
"""

from collections.abc import Iterable

import msgspec

from config.feature import Value

API, PAGE = SOURCES = ("api", "page")  # of a prediction: a program, or a person at the page
OF_PROGRAMS = {"source": {"$in": [API, None]}}  # a query of MongoDB; None: absent
# Header of an empty list of predictions: the relay's heartbeat. JSON with the undelivered events of
# each instance; null for an instance whose last journal was removed.
BACKLOG_HEADER = "X-Relay-Backlog"
SAMPLE_HEADER = "X-Relay-Sample"  # beside it: the share of predictions that the relay sends


class Prediction(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True
):  # created by the thousand, never part of a reference cycle
    """One record with its prediction."""

    prediction_id: str
    predicted_at: float  # Unix time in seconds
    model_version: str
    features: dict[str, Value]  # raw values of the model's input columns
    probability: float  # of the positive label, in [0, 1]
    income_class: int  # 0 or 1: probability >= threshold
    threshold: float
    source: str = API  # monitoring and training use this one only


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """The true class of a prediction, which arrives later."""

    prediction_id: str
    labelled_at: float  # Unix time in seconds
    label: int  # 0 or 1
    labelled_by: str | None = None  # the name of the caller's API key; None: keys were off


class LabelledRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record and its true class: one line of a JSON Lines file.

    A row from the prediction log also has the prediction's id and time.
    """

    record: dict[str, Value]  # raw values, not yet checked
    label: int
    prediction_id: str | None = None
    predicted_at: float | None = None  # Unix time in seconds


def earliest(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Return each id once, in order of its first occurrence: its prediction with the earliest time.

    A retry with the same Idempotency-Key predicts again. Sinks may receive both in any order.
    """
    found: dict[str, Prediction] = {}
    for one in predictions:
        if one.predicted_at < found.setdefault(one.prediction_id, one).predicted_at:
            found[one.prediction_id] = one
    return list(found.values())


def labelled(prediction: Prediction, label: Label) -> LabelledRecord:
    """Return a prediction's record with its true class."""
    return LabelledRecord(
        {**prediction.features}, label.label, prediction.prediction_id, prediction.predicted_at
    )
