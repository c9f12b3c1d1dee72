"""Labelled production rows from MongoDB: predictions whose label has arrived.

The only module of this part that uses MongoDB. The prediction service's relay writes the documents,
`{_id, predicted_at, features: {...}, source?, label?, labelled_at?, labelled_by?, conflicts?}`.
This module reads those of programs that known callers labelled, and checks them against the
contract.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
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
FIELDS = ["features", "label", "predicted_at", "conflicts", "labelled_at", "labelled_by"]
NEWEST_FIRST = [("labelled_at", -1), ("_id", -1)]
NO_ADDRESS = (
    "MONGODB_ADDRESS: not set; --with-feedback expects the address of the prediction log. Without"
    " MongoDB, export the journal: `python -m prediction_service.journal export --labelled"
    " >rows.jsonl`, then `python -m training ingest rows.jsonl`."
)


class FeedbackUnavailable(ExpectedError):
    """The labelled production rows cannot be read; the message names the setting."""


class Feedback(NamedTuple):
    """Labelled predictions for training, and the numbers of unusable ones."""

    # Checked inputs and target, prediction_id, predicted_at (Unix time), and caller: who labelled.
    rows: pd.DataFrame
    disputed: int  # predictions with contradicting labels
    rejected: int  # predictions that break the contract
    capped: int = 0  # labels beyond LABELS_PER_CALLER_DAY


def read_feedback(settings: Settings, contract: Contract) -> Feedback:
    """Return the newest labelled predictions, oldest label first.

    Raises SettingsError without MONGODB_ADDRESS, FeedbackUnavailable if MongoDB does not respond.
    """
    if not settings.mongodb_address:
        raise SettingsError(NO_ADDRESS)
    with open_log(settings) as collection:
        newest = collection.find(trusted_label_query(settings), FIELDS).sort(NEWEST_FIRST)
        documents = list(newest.limit(MAX_ROWS))[::-1]
    agreed = [document for document in documents if "conflicts" not in document]
    kept = list(first_of_each_day(agreed, settings.labels_per_caller_day))
    checked, rejected = check_documents(kept, contract)
    disputed, capped = len(documents) - len(agreed), len(agreed) - len(kept)
    found = Feedback(checked, disputed, len(rejected), capped)
    if len(rejected):
        # No log line contains a value of a record.
        columns = {problem.field for row in rejected["problems"] for problem in row}
        log.warning("feedback_rejected", rows=len(rejected), columns=sorted(columns))
    log.info("feedback_read", rows=len(checked), disputed=disputed, capped=capped)
    return found


def count_labelled(settings: Settings, since: float, seen_until: float) -> int:
    """Return the number of predictions since `since` with a label that came after `seen_until`.

    Both are Unix times. Disputed labels do not count. The result is at most MAX_ROWS.
    """
    query = trusted_label_query(settings) | {
        "predicted_at": {"$gte": datetime.fromtimestamp(since, UTC)},
        "labelled_at": {"$gt": datetime.fromtimestamp(seen_until, UTC)},
        "conflicts": {"$exists": False},
    }
    with open_log(settings) as collection:
        return collection.count_documents(query, limit=MAX_ROWS)


@contextmanager
def open_log(settings: Settings) -> Iterator[Collection[dict[str, Any]]]:
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
            with pymongo.timeout(CONNECT_S):
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

    Only labels of current callers with an API key count, unless LEARN_ANONYMOUS_LABELS is set and
    no keys are.
    """
    query: dict[str, Any] = {
        "predicted_at": {"$exists": True},
        "label": {"$exists": True},
        **OF_PROGRAMS,
    }
    callers = api_keys.names(settings.api_key_hashes)
    if callers or not settings.learn_anonymous_labels:
        query["labelled_by"] = {"$in": callers}
    return query


def first_of_each_day(documents: list[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    """Yield the first `limit` labels of each caller's day (UTC), and all labels without a caller.

    documents: oldest label first.
    """
    seen: Counter[tuple[str, date]] = Counter()
    for one in documents:
        if caller := one.get("labelled_by"):
            seen[caller, one["labelled_at"].date()] += 1
            if seen[caller, one["labelled_at"].date()] > limit:
                continue
        yield one


def check_documents(
    documents: list[dict[str, Any]], contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows, and the rejected rows with their problems."""
    raw = pd.DataFrame(
        [[document["features"].get(n) for n in contract.input_names] for document in documents],
        columns=list(contract.input_names),
        dtype=object,
    )
    label_of = dict(enumerate(contract.target.labels))
    raw[contract.target.name] = [label_of.get(document["label"]) for document in documents]
    checked, rejected = check_frame(raw, contract)
    kept = [documents[index] for index in checked.index]
    checked = checked.reset_index(drop=True).assign(
        prediction_id=pd.Series([document["_id"] for document in kept], dtype=object),
        predicted_at=pd.Series([d["predicted_at"].timestamp() for d in kept], dtype="float64"),
        caller=pd.Series([document.get("labelled_by") for document in kept], dtype=object),
    )
    return checked, rejected
