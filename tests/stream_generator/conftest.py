"""Random traffic rows that are valid by the contract, and a stand-in for the service."""

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.contract import Contract, Feature
from stream_generator.traffic.rows import Row
from tests.stream_generator.stand_in import StandIn


@pytest.fixture
def stand_in(contract: Contract) -> Iterator[StandIn]:
    """Yield a running stand-in for the prediction service."""
    service = StandIn(contract)
    thread = threading.Thread(target=service.run)
    thread.start()
    yield service
    service.close()
    thread.join(10)


@pytest.fixture(scope="session")
def rows(contract: Contract) -> list[Row]:
    """Return 200 different valid rows; every third has the label 1."""
    return random_rows(contract, 200)


@pytest.fixture
def traffic_file(rows: list[Row], tmp_path: Path) -> Path:
    """Return a file with the rows, as training writes it."""
    path = tmp_path / "traffic.jsonl"
    lines = (json.dumps({"record": row.record, "label": row.label}) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def random_rows(contract: Contract, n_rows: int) -> list[Row]:
    """Return random valid rows with the columns of the model; every third has the label 1."""
    rng = random.Random(7)
    return [
        Row(
            {feature.name: random_value(feature, rng) for feature in contract.inputs},
            int(n % 3 == 0),
        )
        for n in range(n_rows)
    ]


def random_value(feature: Feature, rng: random.Random) -> Any:
    """Return a random valid value of a feature, often a bound of its range or a missing value."""
    if feature.is_categorical:
        missing = [None] if feature.optional else []
        return feature.show(rng.choice([*feature.categories, *missing]))
    if feature.missing == "allow" and rng.random() < 0.3:
        return None
    low, high = map(int, feature.bounds)
    inside = rng.randint(low, high)
    return feature.show(rng.choice([inside, inside, low, high]))
