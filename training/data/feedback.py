"""Labelled production rows from MongoDB: predictions whose label has arrived.

The only module of this part that uses MongoDB. The prediction service's relay writes the documents,
`{_id, predicted_at, features: {...}, source?, label?, labelled_at?, labelled_by?, conflicts?}`.
This module reads those of programs and checks them against the contract.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd
import pymongo
import structlog
from pymongo.collection import Collection
from pymongo.errors import ConfigurationError, PyMongoError

from config.contract import Contract
from config.events import OF_PROGRAMS
from config.runtime import api_keys
from config.runtime.settings import MONGODB_ADDRESS_RULE, SettingsError
from training.data.validation import check_frame
from training.errors import ExpectedError
from training.settings import Settings

log = structlog.get_logger(__name__)

COLLECTION = "predictions"
CONNECT_S, READ_S = 10.0, 120.0
MAX_ROWS = 200_000  # bounds the memory
NO_ADDRESS = (
    "MONGODB_ADDRESS: not set; --with-feedback expects the address of the prediction log. Without"
    " MongoDB, export the journal: `python -m prediction_service.journal export --labelled"
    " >rows.jsonl`, then `python -m training ingest rows.jsonl`."
)


class FeedbackUnavailable(ExpectedError):
    """The labelled production rows cannot be read; the message names the setting."""


class Feedback(NamedTuple):
    """Labelled predictions for training, and the numbers of unusable ones."""

    rows: pd.DataFrame  # checked inputs and target, prediction_id and predicted_at (Unix time)
    disputed: int  # predictions with contradicting labels
    rejected: int  # predictions that break the contract


def read_feedback(
    settings: Settings, contract: Contract, limit: int = MAX_ROWS, connect_s: float = CONNECT_S
) -> Feedback:
    """Return the newest labelled predictions, oldest label first.

    Raises SettingsError without MONGODB_ADDRESS, FeedbackUnavailable if MongoDB does not respond.
    """
    if not settings.mongodb_address:
        raise SettingsError(NO_ADDRESS)
    with open_log(settings, connect_s) as collection:
        documents = newest_labelled(collection, trusted_label_query(settings), limit)[::-1]
    agreed = [document for document in documents if "conflicts" not in document]
    checked, rejected = check_documents(agreed, contract)
    found = Feedback(checked, len(documents) - len(agreed), len(rejected))
    if len(rejected):
        # No log line contains a value of a record.
        columns = {problem.field for row in rejected["problems"] for problem in row}
        log.warning("feedback_rejected", rows=len(rejected), columns=sorted(columns))
    log.info("feedback_read", rows=len(checked), disputed=found.disputed)
    return found


def count_labelled(
    settings: Settings, since: float, seen_until: float, limit: int = MAX_ROWS
) -> int:
    """Return the number of predictions since `since` with a label that came after `seen_until`.

    Both are Unix times. Disputed labels do not count. The result is at most `limit`.
    """
    query = trusted_label_query(settings) | {
        "predicted_at": {"$gte": datetime.fromtimestamp(since, UTC)},
        "labelled_at": {"$gt": datetime.fromtimestamp(seen_until, UTC)},
        "conflicts": {"$exists": False},
    }
    with open_log(settings) as collection:
        return collection.count_documents(query, limit=limit)


@contextmanager
def open_log(
    settings: Settings, connect_s: float = CONNECT_S
) -> Iterator[Collection[dict[str, Any]]]:
    """Open the prediction log.

    Raises SettingsError for an unusable address, FeedbackUnavailable for any error of MongoDB.
    """
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            settings.mongodb_address,
            password=settings.mongodb_password.get_secret_value() or None,
            tz_aware=True,
            appname="income-training",
        )
    except (ConfigurationError, ValueError) as err:
        raise SettingsError(MONGODB_ADDRESS_RULE) from err
    try:
        with client:
            with pymongo.timeout(connect_s):
                client.admin.command("ping")
            with pymongo.timeout(READ_S):
                yield client[settings.mongodb_database][COLLECTION]
    except PyMongoError as err:
        raise FeedbackUnavailable(
            f"MONGODB_ADDRESS: MongoDB is unavailable: {err}. Start it, or train without"
            " --with-feedback."
        ) from err


def trusted_label_query(settings: Settings) -> dict[str, Any]:
    """Return the query for the programs' labelled predictions.

    With API keys, only labels of current callers count.
    """
    query: dict[str, Any] = {
        "predicted_at": {"$exists": True},
        "label": {"$exists": True},
        **OF_PROGRAMS,
    }
    if callers := api_keys.names(settings.api_key_hashes):
        query["labelled_by"] = {"$in": callers}
    return query


def newest_labelled(
    collection: Collection[dict[str, Any]], query: dict[str, Any], limit: int
) -> list[dict[str, Any]]:
    """Return labelled predictions, newest label first, equal times ordered by id."""
    fields = ["features", "label", "predicted_at", "conflicts"]
    order = [("labelled_at", -1), ("_id", -1)]
    return list(collection.find(query, fields).sort(order).limit(limit))


def check_documents(
    documents: list[dict[str, Any]], contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows, and the rejected rows with their problems."""
    raw = pd.DataFrame(
        [[document["features"].get(n) for n in contract.input_names] for document in documents],
        columns=list(contract.input_names),
        dtype=object,
    )
    raw[contract.target.name] = pd.Series([document["label"] for document in documents], dtype=int)
    checked, rejected = check_frame(raw, contract, has_classes=True)
    kept = [documents[index] for index in checked.index]
    checked = checked.reset_index(drop=True).assign(
        prediction_id=pd.Series([document["_id"] for document in kept], dtype=object),
        predicted_at=pd.Series([d["predicted_at"].timestamp() for d in kept], dtype="float64"),
    )
    return checked, rejected
