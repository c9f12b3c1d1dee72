"""The events that travel from the prediction service to its sinks, as JSON.

Journal -> relay -> MongoDB and the Evidently service. Both kinds are identified by
`prediction_id`, so that a sink may receive one twice and keep it once. Joined, they are what a
later training may learn from.
"""

import msgspec


class Prediction(msgspec.Struct, frozen=True, gc=False):  # made by the thousand, in no cycle
    """One answered record."""

    prediction_id: str
    predicted_at: float  # Unix time in seconds
    model_version: str
    features: dict[str, str | int | None]  # raw values of the model's input columns
    probability: float  # of the positive label, in [0, 1]
    income_class: int  # 0 or 1: probability >= threshold
    threshold: float


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """The true class of a prediction, known later."""

    prediction_id: str
    labelled_at: float  # Unix time in seconds
    label: int  # 0 or 1
    labelled_by: str | None = None  # the name of the caller's API key; None: keys were off


class LabelledRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record and its true class, as rows travel in files: one JSON object a line.

    Those that the service was asked about also say which prediction they are.
    """

    record: dict[str, str | int | float | bool | None]  # raw values; not held to the contract yet
    label: int
    prediction_id: str | None = None
    predicted_at: float | None = None  # Unix time in seconds


def labelled(prediction: Prediction, label: Label) -> LabelledRecord:
    """A prediction's record with its true class."""
    return LabelledRecord(
        {**prediction.features}, label.label, prediction.prediction_id, prediction.predicted_at
    )
