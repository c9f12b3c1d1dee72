"""A request's way: checked records -> model -> journal -> answer.

`Predictor._answer` is the hot path, to be read top to bottom. It knows nothing of HTTP: the route
of `/predict` comes here through `predict.batching`, with the questions of concurrent requests.
"""

import hashlib
import os
import time
from typing import Any

import msgspec

from config.contract import Target
from config.events import Prediction
from prediction_service.bodies import RecordReader
from prediction_service.errors import InvalidHeader, ModelUnavailable, ServiceError, TooManyRecords
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.models.package import Row
from prediction_service.predict.model import Model
from prediction_service.predict.native_thread import in_native_thread
from prediction_service.responses import PredictionResponse
from prediction_service.models.live_model import LiveModel

LONGEST_KEY = 200  # characters of an Idempotency-Key
MOST_EXPLAINED = 100  # records of a request; each takes milliseconds


class Question:
    """One request's body and what became of it."""

    __slots__ = ("body", "key", "explain", "rows", "is_list", "outcome")

    def __init__(self, body: bytes, key: str | None, explain: bool = False) -> None:
        """`key` is the Idempotency-Key, which makes a retry safe."""
        self.body = body
        self.key = key
        self.explain = explain
        self.rows: list[Row] = []
        self.is_list = False
        self.outcome: bytes | Exception | None = None  # the answer as JSON, or why there is none


class Predictor:
    """Answers the bodies of `/predict`; nothing in it talks to the network."""

    def __init__(
        self, served: LiveModel, journal: Journal, metrics: Metrics, max_records: int
    ) -> None:
        self.served = served
        self.journal = journal
        self.metrics = metrics
        self._target = served.contract.target
        # Written like a dict of the columns, and made in a tenth of the time.
        self._features = msgspec.defstruct("Features", served.contract.input_names, gc=False)
        self._read_records = RecordReader(served.contract, max_records).read
        self._encode = msgspec.json.Encoder().encode

    def answer(self, questions: list[Question]) -> None:
        """Sets the outcome of every question: one score and one commit for all of them.

        Where an error is not one question's own, each is answered by itself.
        """
        try:
            self._answer(questions)
        except Exception as err:  # pylint: disable=broad-exception-caught  # an outcome as well
            if len(questions) == 1:
                questions[0].outcome = err
                return
            for question in questions:
                if question.outcome is None:
                    self.answer([question])

    def _answer(self, questions: list[Question]) -> None:
        """Raises what keeps them all from being answered; then nothing is journalled."""
        started = time.perf_counter()
        model = required_model(self.served)
        valid = [question for question in questions if self._read(question)]
        if not valid:
            return
        rows = [row for question in valid for row in question.rows]
        probabilities = iter(model.score(rows).tolist())
        contents, events = [], []
        for question in valid:
            ids = prediction_ids(question.key, question.body, len(question.rows))
            answers = [answer(one, next(probabilities), model, self._target) for one in ids]
            if question.explain:
                add_explanations(answers, model, question.rows)
            contents.append(self._encode(answers if question.is_list else answers[0]))
            events += self._events(answers, question.rows)
        self.journal.append(events)
        for question, content in zip(valid, contents):
            question.outcome = content
        n_positive = sum(one.income_class for one in events)
        seconds = time.perf_counter() - started
        self.metrics.count_predictions(len(valid), n_positive, len(rows), seconds)

    def _events(self, answers: list[PredictionResponse], rows: list[Row]) -> list[Prediction]:
        """What is journalled of one question."""
        now, features = time.time(), self._features
        return [event(one, now, features(*row)) for one, row in zip(answers, rows)]

    def _read(self, question: Question) -> bool:
        """True if the body holds valid records; else its outcome says what is wrong."""
        try:
            question.rows, question.is_list = self._read_records(question.body)
            check_key(question.key)
        except ServiceError as err:
            question.outcome = err
        return question.outcome is None


def required_model(served: LiveModel) -> Model:
    """The model to answer with. Raises ModelUnavailable."""
    if served.model is None:
        raise ModelUnavailable("There is no model yet: /health/ready says what is missing.")
    return served.model


def answer(
    prediction_id: str, probability: float, model: Model, target: Target
) -> PredictionResponse:
    """The answer for one scored record."""
    income_class = int(probability >= model.threshold)
    return PredictionResponse(
        prediction_id=prediction_id,
        income_class=income_class,
        label=target.labels[income_class],
        probability=probability,
        threshold=model.threshold,
        message=target.message(income_class, probability),
        model_version=model.version,
    )


def add_explanations(answers: list[PredictionResponse], model: Model, rows: list[Row]) -> None:
    """Set the explanation of each prediction. Raises TooManyRecords or NotExplained."""
    if len(rows) > MOST_EXPLAINED:
        raise TooManyRecords(
            f"The list holds {len(rows)} records, at most {MOST_EXPLAINED} are explained at once:"
            " send it in parts."
        )
    explanations = in_native_thread(lambda: model.explainer.explain(rows))
    for one, explanation in zip(answers, explanations):
        one.explanation = explanation


def event(one: PredictionResponse, predicted_at: float, features: Any) -> Prediction:
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


def check_key(key: str | None) -> None:
    """Raises InvalidHeader for an Idempotency-Key that cannot be used."""
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise InvalidHeader(
            f"Idempotency-Key has {len(key)} characters, expected 1 to {LONGEST_KEY}."
        )


def prediction_ids(key: str | None, body: bytes, n_records: int) -> list[str]:
    """One identity per record: 32 hexadecimal digits, sorted by time.

    With an Idempotency-Key they follow from the key and the body, so that a request sent again,
    to whichever worker, is stored once.
    """
    if key is None:
        first = (time.time_ns() // 1_000_000 << 80) + (int.from_bytes(os.urandom(10)) >> 1)
        return [f"{first + index:032x}" for index in range(n_records)]
    seed = hashlib.sha256(key.encode() + b"\0" + body).digest()
    return [hashlib.sha256(seed + index.to_bytes(8)).hexdigest()[:32] for index in range(n_records)]
