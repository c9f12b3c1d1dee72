"""One request's way: checked records -> model -> journal -> answer.

`Predictor.predict` is the hot path, to be read top to bottom. It knows nothing of HTTP: Flask's
route and the short way around Flask (`hot_route`) both call it.
"""

import hashlib
import os
import time

import msgspec

from config.contract import Target
from config.events import Prediction
from prediction_service.bodies import RecordReader
from prediction_service.errors import InvalidHeader, ModelUnavailable
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.model import Model
from prediction_service.served import ServedModel

LONGEST_KEY = 200  # characters of an Idempotency-Key


class Answer(msgspec.Struct):
    """What `/predict` answers for one record."""

    prediction_id: str
    income_class: int  # 0 or 1: probability >= threshold
    label: str
    probability: float  # of the positive label, in [0, 1]
    threshold: float
    message: str
    model_version: str


class Predictor:
    """Answers the bodies of `/predict`; nothing in it talks to the network."""

    def __init__(
        self, served: ServedModel, journal: Journal, metrics: Metrics, max_records: int
    ) -> None:
        self.served = served
        self.journal = journal
        self.metrics = metrics
        self._target = served.contract.target
        self._names = served.contract.input_names
        self._read_records = RecordReader(served.contract, max_records).read
        self._encode = msgspec.json.Encoder().encode

    def predict(self, body: bytes, key: str | None) -> bytes:
        """The answer to a body, as JSON, once it is in the journal; `key` makes a retry safe.

        Raises ServiceError, JournalFull or JournalUnavailable, and then nothing is journalled.
        """
        started = time.perf_counter()
        model = required_model(self.served)
        rows, is_list = self._read_records(body)
        probabilities = model.score(rows).tolist()
        ids = prediction_ids(key, body, len(rows))
        answers = [answer(*pair, model, self._target) for pair in zip(ids, probabilities)]
        content = self._encode(answers if is_list else answers[0])
        now, names = time.time(), self._names
        events = [event(one, now, dict(zip(names, row))) for one, row in zip(answers, rows)]
        self.journal.append(events)
        n_positive = sum(one.income_class for one in answers)
        self.metrics.count_answers(n_positive, len(rows), time.perf_counter() - started)
        return content


def required_model(served: ServedModel) -> Model:
    """The model to answer with. Raises ModelUnavailable."""
    if served.model is None:
        raise ModelUnavailable("There is no model yet: /health/ready says what is missing.")
    return served.model


def answer(prediction_id: str, probability: float, model: Model, target: Target) -> Answer:
    """The answer for one scored record."""
    income_class = int(probability >= model.threshold)
    likely = "more" if income_class else "no more"
    return Answer(
        prediction_id=prediction_id,
        income_class=income_class,
        label=target.labels[income_class],
        probability=probability,
        threshold=model.threshold,
        message=f"This person probably earns {likely} than 50,000 US dollars a year (1994);"
        f" the probability of more is {probability:.1%}.",
        model_version=model.version,
    )


def event(one: Answer, predicted_at: float, features: dict[str, str | int | None]) -> Prediction:
    """The journal's event of an answer; `predicted_at` is Unix time."""
    return Prediction(
        prediction_id=one.prediction_id,
        predicted_at=predicted_at,
        model_version=one.model_version,
        features=features,
        probability=one.probability,
        income_class=one.income_class,
        threshold=one.threshold,
    )


def prediction_ids(key: str | None, body: bytes, n_records: int) -> list[str]:
    """One identity per record: 32 hexadecimal digits, sorted by time.

    With an Idempotency-Key they follow from the key and the body, so that a request sent again,
    to whichever worker, is stored once. Raises InvalidHeader.
    """
    if key is None:
        first = (time.time_ns() // 1_000_000 << 80) + (int.from_bytes(os.urandom(10)) >> 1)
        return [f"{first + index:032x}" for index in range(n_records)]
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidHeader(
            f"Idempotency-Key has {len(key)} characters, expected 1 to {LONGEST_KEY}."
        )
    seed = hashlib.sha256(key.encode() + b"\0" + body).digest()
    return [hashlib.sha256(seed + index.to_bytes(8)).hexdigest()[:32] for index in range(n_records)]
