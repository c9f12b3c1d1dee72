"""What `/predict` answers: the body for one record, and why it is so, if that is asked."""

import math

import msgspec


class Calibration(msgspec.Struct, frozen=True):
    """How the margin becomes the probability: sigmoid(slope * margin + intercept)."""

    slope: float
    intercept: float

    def __call__(self, margin: float) -> float:
        """The probability, in [0, 1]."""
        return 1 / (1 + math.exp(-(self.slope * margin + self.intercept)))


class Explanation(msgspec.Struct, frozen=True):
    """What each feature did to one record's score, in log-odds."""

    base_value: float  # what the trees give on average
    contributions: dict[str, float]  # by feature; with the base value they sum to the margin
    margin: float
    calibration: Calibration
    reasons: list[str]


# gc=False: made by the thousand and in no cycle, so that looking for one costs a tenth of a list.
class Answer(msgspec.Struct, gc=False):
    """What `/predict` answers for one record."""

    prediction_id: str
    income_class: int  # 0 or 1: probability >= threshold
    label: str
    probability: float  # of the positive label, in [0, 1]
    threshold: float
    message: str
    model_version: str


class ExplainedAnswer(Answer, gc=False):
    """What `/predict?explain=true` answers for one record."""

    explanation: Explanation
