"""The events that travel from the prediction service to its sinks, as JSON.

Journal -> relay -> MongoDB and the Evidently service. Both kinds are identified by
`prediction_id`, so that a sink may receive one twice and keep it once.
"""

import msgspec


class Prediction(msgspec.Struct, frozen=True):
    """One answered record."""

    prediction_id: str
    predicted_at: float  # Unix time in seconds
    model_version: str
    features: dict[str, str | int | None]  # raw values of the model's input columns
    probability: float  # of the positive label, in [0, 1]
    income_class: int  # 0 or 1: probability >= threshold
    threshold: float


class Label(msgspec.Struct, frozen=True):
    """The true class of a prediction, known later."""

    prediction_id: str
    labelled_at: float  # Unix time in seconds
    label: int  # 0 or 1
