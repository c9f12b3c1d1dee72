"""Made-up events: rows drawn from the contract, shifted if a test asks for it."""

import random
from collections.abc import Callable
from typing import Any

from config.contract import Contract
from config.events import Label, Prediction
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring

Shift = Callable[[dict[str, Any]], dict[str, Any]]


def unshifted(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row unchanged."""
    return row


def older(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with 30 years added to the age, at most 90."""
    return row | {"age": min(90, row["age"] + 30)}


def made_up_rows(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted
) -> list[dict[str, Any]]:
    """Return rows with each value of the contract equally likely; outputs follow from age."""
    draw = random.Random(seed)
    found = []
    for _ in range(rows):
        row: dict[str, Any] = {}
        for feature in contract.inputs:
            if feature.is_categorical:
                row[feature.name] = draw.choice(feature.categories)
            else:
                row[feature.name] = draw.randint(*map(int, feature.bounds))
        row = shift(row)
        probability = row["age"] / 100
        outputs = {"probability": probability, "income_class": int(probability >= 0.5)}
        found.append(row | outputs | {"label": int(draw.random() < probability)})
    return found


def made_up_predictions(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted, version: str = "1"
) -> list[Prediction]:
    """Return predictions of made-up rows by a version, with ids SEED-NUMBER."""
    names = [feature.name for feature in contract.inputs]
    return [
        Prediction(
            prediction_id=f"{seed}-{number}",
            predicted_at=1_700_000_000.0 + number,
            model_version=version,
            features={name: row[name] for name in names},
            probability=row["probability"],
            income_class=row["income_class"],
            threshold=0.5,
        )
        for number, row in enumerate(made_up_rows(contract, rows, seed, shift))
    ]


def with_thresholds(monitoring: Monitoring, own: dict[str, float]) -> Monitoring:
    """Return a monitoring in which these columns have a threshold of their own."""
    tests = monitoring.tests
    return monitoring.with_tests({n: ColumnTest(tests[n].test, limit) for n, limit in own.items()})


def soon_ready(measure: Measure) -> Measure:
    """Return the measure process with a rougher joint threshold, which takes no seconds."""
    assert measure.judge.joint is not None
    measure.judge.joint.splits = 2
    return measure


def labels_of(predictions: list[Prediction], wrong_every: int) -> list[Label]:
    """Return labels that contradict every `wrong_every`-th prediction, beginning with the first."""
    return [
        Label(p.prediction_id, 1_700_100_000.0, p.income_class ^ (number % wrong_every == 0))
        for number, p in enumerate(predictions)
    ]
