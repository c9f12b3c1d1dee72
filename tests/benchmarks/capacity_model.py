"""The capacity plan: a simulation of the web workers, and tables that follow from unit costs.

`benchmark_capacity.py` measures the costs, and docs/scaling.md shows the tables. `r` is predictions
a second, each with one label later. `N` is labelled predictions kept.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

RATES, KEPT = (10, 1000, 100_000), (10**6, 10**8, 10**9)
BUSY = 0.5  # the share of its processors that a part may use
COUNTING = 0.02  # MAX_COUNTING_SHARE of a relay, which counts the labels in MongoDB
POD_WORKERS, POD_JOURNAL_MB = 2, 2000  # WORKERS, JOURNAL_MAX_MB
DAY_S, RETENTION_S = 86_400, 3600  # JOURNAL_RETENTION_S
LABEL_ROWS, LABEL_DAYS, RETENTION_ROWS, PERIOD_S = 10**7, 30, 50_000, 5  # config/monitoring.yaml

Service = Callable[[int], float]  # returns the seconds for a batch of so many requests
Figure = tuple[str, str, Callable[[float], float]]  # name, formula, function of r or N


class Waits(NamedTuple):
    """Times of simulated requests, each (n_requests,)."""

    wait_s: np.ndarray  # from the arrival until the batch begins
    response_s: np.ndarray  # from the arrival until the batch ends


def simulate(
    rate: float, n_requests: int, n_workers: int, service: Service, *, max_batch: int, seed: int
) -> Waits:
    """Return the times of Poisson arrivals at workers that have a queue each.

    A request goes to a random worker, as its connection does. A free worker takes all requests that
    wait, up to `max_batch`. `rate` is in requests a second, of all workers together.
    """
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate, n_requests))
    worker, times = rng.integers(n_workers, size=n_requests), np.empty((2, n_requests))
    for number in range(n_workers):
        own = worker == number
        times[:, own] = serve(arrival_s[own], service, max_batch)
    return Waits(*(times - arrival_s))


def serve(arrival_s: np.ndarray, service: Service, max_batch: int) -> np.ndarray:
    """Return when one worker begins and ends the batch of each request (2, n_requests)."""
    at, times = arrival_s.tolist(), np.empty((2, len(arrival_s)))
    first, free_s = 0, 0.0
    while first < len(at):
        begin_s = max(free_s, at[first])
        last = min(first + max_batch, bisect_right(at, begin_s, first))
        free_s = begin_s + service(last - first)
        times[0, first:last], times[1, first:last] = begin_s, free_s
        first = last
    return times


def max_rate(
    n_workers: int, service: Service, batch: int, client_s: float = 0, processors: float = math.inf
) -> float:
    """Return the maximum rate of workers with full batches, in requests a second.

    They share `processors` with a client that needs `client_s` of processor time for each request.
    """
    request_s = service(batch) / batch
    return min(n_workers / request_s, processors / (request_s + client_s))


def fit_service(alone_s: float, each_of_8_s: float) -> tuple[float, float]:
    """Return the seconds of a batch and of each request in it.

    They follow from a request alone in its batch and from one of eight.
    """
    batch_s = (alone_s - each_of_8_s) * 8 / 7
    return batch_s, alone_s - batch_s


def by_rate(cost: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the figures that follow from predictions a second; `cost` in s, bytes and GB."""
    event_bytes = cost["jp"] + cost["jl"]

    def share(r: float) -> float:
        stored = BUSY / (2 * r * cost["v"])  # by one processor: SQLite has one writer
        return min(1.0, stored, LABEL_ROWS / (r * LABEL_DAYS * DAY_S))

    def workers(r: float) -> float:
        return r * (cost["p"] + cost["l"]) / BUSY

    def relays(r: float) -> float:
        return 2 * r * (cost["m"] + cost["e"]) / BUSY

    def pods(r: float) -> int:
        return math.ceil(max(workers(r) / POD_WORKERS, relays(r)))

    def monitoring(r: float) -> float:
        return (2 * r * share(r) * cost["v"] + cost["c"] / PERIOD_S) / BUSY

    def full_after_h(r: float) -> float:
        return pods(r) * POD_JOURNAL_MB * 1e6 / (r * event_bytes) / 3600

    def growth_gb(r: float) -> float:
        return r * (cost["d"] + cost["i"]) * DAY_S / 1e9

    yield "processors of the web workers", "P = r (p + l) / 0.5", workers
    yield "processors of the relays", "R = 2 r (m + e) / 0.5", relays
    yield "prediction pods", "n = max(P / 2, R)", pods
    yield "memory of the pods, GB", "n g", lambda r: pods(r) * cost["g"]
    yield "share for the monitoring", "s = min(1, 0.5 / 2 r v, 10^7 / r 30 days)", share
    yield "processors of the monitoring", "M = (2 r s v + c / 5 seconds) / 0.5", monitoring
    yield "processors in all", "P + R + M", lambda r: workers(r) + relays(r) + monitoring(r)
    yield "journals, GB", "r (jp + jl) 2 hours", lambda r: r * event_bytes * 2 * RETENTION_S / 1e9
    yield "full without MongoDB after hours", "n 2,000 MB / r (jp + jl)", full_after_h
    yield "MongoDB: operations a second", "4 r", lambda r: 4 * r
    yield "MongoDB: processors of label counts", "0.02 n", lambda r: COUNTING * pods(r)
    yield "MongoDB: growth a day, GB", "r (d + i) 1 day", growth_gb


def by_rows(cost: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the figures that follow from the labelled predictions kept; `cost` as in `by_rate`."""

    def window_gb(n: float) -> float:
        return (min(n, LABEL_ROWS) * cost["w"] + min(n, RETENTION_ROWS) * cost["f"]) / 1e9

    yield "MongoDB: documents, GB", "N d", lambda n: n * cost["d"] / 1e9
    yield "MongoDB: indexes, GB", "N i", lambda n: n * cost["i"] / 1e9
    yield "`window.db`, GB", "min(N, 10^7) w + min(N, 50,000) f", window_gb
    yield "batch scoring, processor hours", "N x", lambda n: n * cost["x"] / 3600
    yield "days at 1,000 predictions a second", "N / r", lambda n: n / 1000 / DAY_S


def costs_of(results: list[dict[str, Any]]) -> dict[str, float]:
    """Return the costs of results `symbol: text`, in seconds, bytes and gigabytes."""
    scale = {"us": 1e-6, "ms": 1e-3, "MB": 1e-3}
    found = {
        one["name"].partition(":")[0]: one["value"] * scale.get(one["unit"], 1) for one in results
    }
    pod_gb = POD_WORKERS * found["web worker"] + found["follower"] + found["relay"]
    return {"m": math.nan, **found, "g": pod_gb}


def markdown(title: str, figures: Iterable[Figure], sizes: tuple[int, ...]) -> str:
    """Return a table of the figures with a column for each size."""
    lines = [["figure", "formula", *(f"{size:,} {title}" for size in sizes)], ["---"] * 5]
    for name, formula, figure in figures:
        lines.append([name, f"`{formula}`", *(rounded(figure(size)) for size in sizes)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rounded(value: float, digits: int = 2) -> str:
    """Return so many significant digits, more of a large or whole number; a dash for NaN."""
    if math.isnan(value):
        return "-"
    if value == int(value):
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"
