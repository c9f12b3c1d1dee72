"""Made-up events: rows drawn from the contract, shifted if a test asks for it."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from config.contract import Contract
from config.events import Label, Prediction
from config.feature import Feature, Value
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring
from evidently_service.reference.reference_data import Reference, monitored_frame
from evidently_service.reference.registry import Version

Shift = Callable[[dict[str, Any]], dict[str, Any]]


def unshifted(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row unchanged."""
    return row


def older(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with 30 years added to the age, at most 90."""
    return row | {"age": min(90, row["age"] + 30)}


def value_of(feature: Feature, draw: random.Random) -> Value:
    """Return a value of a column, each equally likely."""
    if feature.kind == "boolean":
        return draw.choice(feature.values)
    if feature.is_categorical:
        return draw.choice(feature.categories)
    low, high = feature.bounds
    if feature.kind == "number":
        return feature.show(draw.uniform(low, high))
    return feature.show(draw.randint(int(low), int(high)))


def made_up_rows(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted, missing: float = 0.0
) -> list[dict[str, Any]]:
    """Return rows with each value of the contract equally likely.

    The outputs follow from the first column, a number. missing: share in columns that allow it.
    """
    draw, found = random.Random(seed), []
    scale = max(100, contract.inputs[0].bounds[1])
    for _ in range(rows):
        row: dict[str, Any] = {one.name: value_of(one, draw) for one in contract.inputs}
        if missing:
            optional = [one.name for one in contract.inputs if one.missing == "allow"]
            row |= {name: None for name in optional if draw.random() < missing}
        row = shift(row)
        probability = row[contract.input_names[0]] / scale
        outputs = {"probability": probability, "income_class": int(probability >= 0.5)}
        found.append(row | outputs | {"label": int(draw.random() < probability)})
    return found


def made_up_predictions(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted, version: str = "1"
) -> list[Prediction]:
    """Return predictions of made-up rows by a version, with ids SEED-NUMBER."""
    return predictions_of(contract, made_up_rows(contract, rows, seed, shift), str(seed), version)


def predictions_of(
    contract: Contract, rows: list[dict[str, Any]], prefix: str, version: str = "1"
) -> list[Prediction]:
    """Return rows as predictions of a version a second apart, with ids PREFIX-NUMBER."""
    return [
        Prediction(
            prediction_id=f"{prefix}-{number}",
            predicted_at=1_700_000_000.0 + number,
            model_version=version,
            features={name: row[name] for name in contract.input_names},
            probability=row["probability"],
            income_class=row["income_class"],
            threshold=0.5,
        )
        for number, row in enumerate(rows)
    ]


def with_thresholds(monitoring: Monitoring, own: dict[str, float]) -> Monitoring:
    """Return a monitoring in which these columns have a threshold of their own."""
    tests = monitoring.tests
    return monitoring.with_tests({n: ColumnTest(tests[n].test, limit) for n, limit in own.items()})


def reference_of(contract: Contract, rows: Sequence[dict[str, Any]]) -> Reference:
    """Return rows as the reference data of version 1."""
    label = np.array([row["label"] for row in rows])
    return Reference(Version("1", "run-1"), monitored_frame(rows, contract), label)


def soon_ready(measure: Measure) -> Measure:
    """Return the measure process with a rougher joint threshold, which is found sooner."""
    assert measure.judge.joint is not None
    measure.judge.joint.splits = 2
    return measure


def labels_of(predictions: list[Prediction], wrong_every: int) -> list[Label]:
    """Return labels that contradict every `wrong_every`-th prediction, beginning with the first."""
    return [
        Label(p.prediction_id, 1_700_100_000.0, p.income_class ^ (number % wrong_every == 0))
        for number, p in enumerate(predictions)
    ]
