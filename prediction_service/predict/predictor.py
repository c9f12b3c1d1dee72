"""Make the predictions of `/predict`: checked records -> model -> journal -> response bodies.

`Predictor._predict` is the hot path. It knows nothing of HTTP: `predict.batching` calls it with the
concurrent requests of one worker.
"""

import hashlib
import os
import time
from typing import Any

import msgspec
from msgspec import UNSET

from config.contract import Target
from config.events import API, Prediction
from config.model.package import Row
from prediction_service.predict.parsing import Notes, RecordReader
from prediction_service.errors import InvalidHeader, ModelUnavailable, ServiceError, TooManyRecords
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.predict.model import Model
from prediction_service.predict.native_thread import in_native_thread
from prediction_service.predict.responses import PredictionResponse
from prediction_service.models.live_model import LiveModel

MAX_KEY_LENGTH = 200  # characters of an Idempotency-Key
MAX_EXPLAINED = 100  # records of a request; each takes milliseconds


class PredictionRequest:
    """The body of one request and its outcome."""

    __slots__ = (
        "body",
        "key",
        "explain",
        "source",
        "rows",
        "is_list",
        "notes",
        "stored_id",
        "outcome",
    )

    def __init__(
        self, body: bytes, key: str | None, explain: bool = False, source: str | None = API
    ) -> None:
        """`key` is the Idempotency-Key, which makes a retry safe.

        Predictions are stored with their `source`, or not at all if it is None.
        """
        self.body = body
        self.key = key
        self.explain = explain
        self.source = source
        self.rows: list[Row] = []
        self.is_list = False
        self.notes: Notes = {}
        self.stored_id: str | None = None  # of the first prediction
        self.outcome: bytes | Exception | None = None  # JSON of the response, or the error


class Predictor:
    """Predicts for request bodies. Nothing in it uses the network."""

    def __init__(
        self, live: LiveModel, journal: Journal, metrics: Metrics, max_records: int
    ) -> None:
        self.live = live
        self.journal = journal
        self.metrics = metrics
        self._target = live.contract.target
        # Encoded like a dict of the columns, and made in a tenth of the time.
        self._features: Any = msgspec.defstruct("Features", live.contract.input_names, gc=False)
        self._read_records = RecordReader(live.contract, max_records).read
        self._encode = msgspec.json.Encoder().encode

    def predict(self, requests: list[PredictionRequest]) -> None:
        """Set the outcome of every request: one score and one journal append for all of them.

        After an error that is not one request's own, each request is handled alone.
        """
        try:
            self._predict(requests)
        except Exception as err:  # pylint: disable=broad-exception-caught  # it is an outcome
            if len(requests) == 1:
                requests[0].outcome = err
                return
            for request in requests:
                if request.outcome is None:
                    self.predict([request])

    def _predict(self, requests: list[PredictionRequest]) -> None:
        """Raise an error that concerns all requests; then nothing is in the journal."""
        model = required_model(self.live)
        valid = [request for request in requests if self._read(request)]
        if not valid:
            return
        rows = [row for request in valid for row in request.rows]
        probabilities = iter(model.score(rows).tolist())
        contents, events = [], []
        for request in valid:
            ids = prediction_ids(request.key, request.body, len(request.rows))
            predictions = [
                make_prediction(one, next(probabilities), model, self._target) for one in ids
            ]
            for index, texts in request.notes.items():
                predictions[index].notes = texts
            if request.explain:
                add_explanations(predictions, model, request.rows)
            if request.source:
                request.stored_id = ids[0] if ids else None
                events += self._make_events(request.source, request.rows, ids, predictions)
            else:
                for prediction in predictions:
                    prediction.prediction_id = UNSET
            contents.append(self._encode(predictions if request.is_list else predictions[0]))
        if events:
            self.journal.append(events)
        for request, content in zip(valid, contents):
            request.outcome = content
        self.metrics.count_predictions(sum(one.income_class for one in events), len(events))

    def _make_events(
        self, source: str, rows: list[Row], ids: list[str], predictions: list[PredictionResponse]
    ) -> list[Prediction]:
        now, features = time.time(), self._features
        return [
            Prediction(
                prediction_id=key,
                predicted_at=now,
                model_version=one.model_version,
                features=features(*row),
                probability=one.probability,
                income_class=one.income_class,
                threshold=one.threshold,
                source=source,
            )
            for row, key, one in zip(rows, ids, predictions)
        ]

    def _read(self, request: PredictionRequest) -> bool:
        """Return whether the body holds valid records; if not, its outcome is the error."""
        try:
            request.rows, request.is_list, request.notes = self._read_records(request.body)
            check_key(request.key)
        except ServiceError as err:
            request.outcome = err
        return request.outcome is None


def required_model(live: LiveModel) -> Model:
    """Return the live model. Raises ModelUnavailable."""
    if live.model is None:
        raise ModelUnavailable("No model is loaded. /health/ready has the reason.")
    return live.model


def make_prediction(
    prediction_id: str, probability: float, model: Model, target: Target
) -> PredictionResponse:
    """Return the prediction for one scored record."""
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


def add_explanations(predictions: list[PredictionResponse], model: Model, rows: list[Row]) -> None:
    """Set the explanation of each prediction. Raises TooManyRecords or NotExplained."""
    if len(rows) > MAX_EXPLAINED:
        raise TooManyRecords(
            f"The list has {len(rows)} records, expected at most {MAX_EXPLAINED} with explain=true."
            " Send it in parts."
        )
    explanations = in_native_thread(lambda: model.explainer.explain(rows))
    for one, explanation in zip(predictions, explanations):
        one.explanation = explanation


def check_key(key: str | None) -> None:
    """Raise InvalidHeader for an Idempotency-Key of the wrong length."""
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidHeader(
            f"Idempotency-Key: got {len(key)} characters, expected 1 to {MAX_KEY_LENGTH}."
        )


def prediction_ids(key: str | None, body: bytes, n_records: int) -> list[str]:
    """Return one id for each record: 32 hexadecimal digits, sorted by time.

    With an Idempotency-Key the ids follow from the key and the body. A retry gets the same ids from
    every worker, so its predictions are stored once.
    """
    if key is None:
        first = (time.time_ns() // 1_000_000 << 80) + (int.from_bytes(os.urandom(10)) >> 1)
        return [f"{first + index:032x}" for index in range(n_records)]
    seed = hashlib.sha256(key.encode() + b"\0" + body).digest()
    return [hashlib.sha256(seed + index.to_bytes(8)).hexdigest()[:32] for index in range(n_records)]
