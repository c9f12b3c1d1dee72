"""Labelled production rows from MongoDB: what the service was asked and what turned out true.

The one module of this part that knows MongoDB. The prediction service's relay writes the
documents, `{_id, predicted_at, features: {...}, label?, labelled_at?, labelled_by?, conflicts?}`;
here they are only read, and held against the contract as every other row is.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd
import pymongo
from pymongo.collection import Collection
from pymongo.errors import ConfigurationError, PyMongoError

from config.runtime import api_keys
from config.contract import Contract
from config.runtime.settings import MONGODB_ADDRESS_RULE, SettingsError
from training.data.census import check_frame
from training.settings import Settings

log = logging.getLogger(__name__)

COLLECTION = "predictions"
CONNECT_S, READ_S = 10.0, 120.0
NEWEST_ROWS = 200_000  # so that a log of years does not fill the memory
LABELLED = {"predicted_at": {"$exists": True}, "label": {"$exists": True}}
NO_ADDRESS = (
    "--with-feedback: MONGODB_ADDRESS is not set; without MongoDB the journal is the log of record:"
    " `python -m prediction_service.journal export --labelled >rows.jsonl`, then"
    " `python -m training ingest rows.jsonl`"
)


class FeedbackUnavailable(Exception):
    """The labelled production rows cannot be read; the message names the setting."""


class Feedback(NamedTuple):
    """Labelled predictions that may be used, and how many may not."""

    rows: pd.DataFrame  # checked inputs and target, prediction_id and predicted_at (Unix time)
    disputed: int  # another label says otherwise
    rejected: int  # break the contract


def read_feedback(settings: Settings, contract: Contract, limit: int = NEWEST_ROWS) -> Feedback:
    """The newest labelled predictions, oldest label first.

    Raises SettingsError without MONGODB_ADDRESS, FeedbackUnavailable if MongoDB does not answer.
    """
    if not settings.mongodb_address:
        raise SettingsError(NO_ADDRESS)
    documents = read_documents(settings, limit)
    agreed = [document for document in documents if "conflicts" not in document]
    checked, rejected = check_documents(agreed, contract)
    found = Feedback(checked, len(documents) - len(agreed), len(rejected))
    if len(rejected):
        # No log line holds a value of a record.
        columns = {problem.field for row in rejected["problems"] for problem in row}
        log.warning("feedback rejected count=%d columns=%s", len(rejected), sorted(columns))
    log.info("feedback rows=%d disputed=%d", len(checked), found.disputed)
    return found


def count_labelled(
    settings: Settings, since: float, seen_until: float, limit: int = NEWEST_ROWS
) -> int:
    """Predictions of since a Unix time with an undisputed label that came after another, up to
    a limit.
    """
    wanted = believed(settings) | {
        "predicted_at": {"$gte": datetime.fromtimestamp(since, UTC)},
        "labelled_at": {"$gt": datetime.fromtimestamp(seen_until, UTC)},
        "conflicts": {"$exists": False},
    }
    with opened(settings) as collection:
        return collection.count_documents(wanted, limit=limit)


def read_documents(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest documents with a prediction and its label, oldest label first."""
    with opened(settings) as collection:
        return newest_labelled(collection, believed(settings), limit)[::-1]


@contextmanager
def opened(settings: Settings) -> Iterator[Collection[dict[str, Any]]]:
    """The prediction log. Raises SettingsError for an address that cannot be used, and
    FeedbackUnavailable, also for what the body asks of it.
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
            with pymongo.timeout(CONNECT_S):
                client.admin.command("ping")
            with pymongo.timeout(READ_S):
                yield client[settings.mongodb_database][COLLECTION]
    except PyMongoError as err:
        raise FeedbackUnavailable(
            f"MongoDB does not give its labelled predictions (MONGODB_ADDRESS): {err}; start it, or"
            " train without --with-feedback"
        ) from err


def believed(settings: Settings) -> dict[str, Any]:
    """The query for predictions with a label; where API keys are on, one of a caller with a key."""
    callers = api_keys.names(settings.api_key_hashes)
    return LABELLED | ({"labelled_by": {"$in": callers}} if callers else {})


def newest_labelled(
    collection: Collection[dict[str, Any]], wanted: dict[str, Any], limit: int
) -> list[dict[str, Any]]:
    """Documents with a prediction and its label, newest label first.

    By id among equal times, so that the same log gives the same rows in the same order.
    """
    fields = ["features", "label", "predicted_at", "conflicts"]
    order = [("labelled_at", -1), ("_id", -1)]
    return list(collection.find(wanted, fields).sort(order).limit(limit))


def check_documents(
    documents: list[dict[str, Any]], contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that keep the contract, and the others with their problems."""
    raw = pd.DataFrame(
        [[document["features"].get(n) for n in contract.input_names] for document in documents],
        columns=list(contract.input_names),
        dtype=object,
    )
    raw[contract.target.name] = pd.Series([document["label"] for document in documents], dtype=int)
    checked, rejected = check_frame(raw, contract)
    kept = [documents[index] for index in checked.index]
    checked = checked.reset_index(drop=True).assign(
        prediction_id=pd.Series([document["_id"] for document in kept], dtype=object),
        predicted_at=pd.Series([d["predicted_at"].timestamp() for d in kept], dtype="float64"),
    )
    return checked, rejected
