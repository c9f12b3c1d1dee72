"""Traffic rows drawn from the contract, and a prediction service to send them to."""

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
    """A running stand-in for the prediction service."""
    service = StandIn(contract)
    thread = threading.Thread(target=service.run)
    thread.start()
    yield service
    service.close()
    thread.join(10)


@pytest.fixture(scope="session")
def rows(contract: Contract) -> list[Row]:
    """200 different rows that keep the contract; every third has the label 1."""
    rng = random.Random(7)
    return [
        Row({feature.name: any_value(feature, rng) for feature in contract.inputs}, int(n % 3 == 0))
        for n in range(200)
    ]


@pytest.fixture
def traffic_file(rows: list[Row], tmp_path: Path) -> Path:
    """The rows as training writes them."""
    path = tmp_path / "traffic.jsonl"
    lines = (json.dumps({"record": row.record, "label": row.label}) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def any_value(feature: Feature, rng: random.Random) -> Any:
    """A value that keeps a feature's rules, the edges of its range among them."""
    if feature.is_categorical:
        return rng.choice([*feature.categories, *([None] if feature.optional else [])])
    assert feature.minimum is not None and feature.maximum is not None
    inside = rng.randint(feature.minimum, feature.maximum)
    return rng.choice([inside, inside, feature.minimum, feature.maximum])
