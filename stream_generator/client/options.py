"""The options of a run."""

from typing import Annotated

from msgspec import Meta, Struct

MAX = 1e9  # a finite bound also rejects `inf`
Url = Annotated[str, Meta(pattern="^https?://")]


class Options(Struct, frozen=True, kw_only=True):
    """What to send and how. The command has a flag for each field with a title."""

    address: Annotated[Url, Meta(title="prediction service (PREDICTION_ADDRESS)")]
    api_key: str = ""
    rows: Annotated[int, Meta(ge=1, title="records; rows repeat if the file has fewer")] = 1000
    scenario: Annotated[str, Meta(title="drift to simulate, see below")] = "none"
    labels: Annotated[
        float, Meta(ge=0, le=1, title="share of the predictions whose true label is sent later")
    ] = 0.0
    label_delay_s: Annotated[
        float, Meta(ge=0, le=MAX, title="seconds from a prediction to its label")
    ] = 1.0
    seed: Annotated[int, Meta(ge=0, title="seed of the order, the drift and the labels")] = 1
    rate: Annotated[float, Meta(ge=0, le=MAX, title="requests per second, 0 for no limit")] = 0.0
    batch: Annotated[int, Meta(ge=1, title="records per request")] = 1
    concurrency: Annotated[
        int, Meta(ge=1, title="maximum number of prediction requests in flight")
    ] = 1
    timeout_s: Annotated[
        float, Meta(ge=0.001, le=MAX, title="timeout of one attempt in seconds")
    ] = 10.0
    attempts: Annotated[
        int, Meta(ge=1, title="attempts per request, all with the same Idempotency-Key")
    ] = 6
    deadline_s: Annotated[
        float, Meta(ge=0, le=MAX, title="end after so many seconds, 0 for no deadline")
    ] = 0.0
