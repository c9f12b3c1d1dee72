"""The options of a run."""

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to send and how. The command has a flag for each field, except the API key."""

    address: str
    api_key: str = ""
    rows: int = 1000
    batch: int = 1  # records per request
    rate: float = 0.0  # requests per second; 0: no limit
    concurrency: int = 1  # prediction requests in flight; label requests have one more
    scenario: str = "none"
    labels: float = 0.0  # share of the predictions, 0-1
    label_delay_s: float = 1.0
    timeout_s: float = 10.0  # of one attempt
    attempts: int = 6
    deadline_s: float = 0.0  # 0: none
    seed: int = 1
