"""The simulated workers agree with known results of queueing theory, the plan with its costs."""

import math

import numpy as np
import pytest

from tests.benchmarks.capacity_model import (
    by_rate,
    by_rows,
    fit_service,
    markdown,
    max_rate,
    simulate,
)

SERVICE_S = 0.001
N = 100_000


def batched(n_requests: int) -> float:
    """Return a service time with a part for the batch and a part for each request."""
    return SERVICE_S * (1 + 0.25 * n_requests)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_constant_service_one_by_one_waits_as_in_m_d_1(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait is load * service / (2 (1 - load))."""
    waits = simulate(load / SERVICE_S, N, 1, lambda _: SERVICE_S, max_batch=1, seed=0)
    expected = load * SERVICE_S / (2 * (1 - load))
    assert waits.wait_s.mean() == pytest.approx(expected, rel=0.05)
    assert waits.response_s - waits.wait_s == pytest.approx(np.full(N, SERVICE_S))


def test_exponential_service_has_the_percentile_of_m_m_1() -> None:
    """The response time is exponential, with the rate of service minus that of arrivals."""
    draw = np.random.default_rng(1)

    def service(_: int) -> float:
        return float(draw.exponential(SERVICE_S))

    waits = simulate(0.5 / SERVICE_S, N, 1, service, max_batch=1, seed=0)
    expected = math.log(100) / (1 / SERVICE_S - 0.5 / SERVICE_S)
    assert np.percentile(waits.response_s, 99) == pytest.approx(expected, rel=0.05)


def test_workers_with_a_queue_each_share_poisson_arrivals() -> None:
    """Each of four has a quarter of the arrivals, which are again Poisson: M/D/1 four times."""
    waits = simulate(4 * 0.6 / SERVICE_S, N, 4, lambda _: SERVICE_S, max_batch=1, seed=0)
    assert waits.wait_s.mean() == pytest.approx(0.6 * SERVICE_S / (2 * 0.4), rel=0.05)


def test_overloaded_workers_reach_the_maximum_rate() -> None:
    maximum = max_rate(2, batched, 8)
    assert maximum == pytest.approx(2 * 8 / 0.003)
    waits = simulate(3 * maximum, N, 2, batched, max_batch=8, seed=0)
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / (3 * maximum), N))
    assert N / (arrivals + waits.response_s).max() == pytest.approx(maximum, rel=0.02)


def test_what_arrives_together_is_scored_together() -> None:
    """At a rate that single requests cannot reach, batches keep the wait below two of them."""
    rate = 1.5 / batched(1)
    waits = simulate(rate, N, 1, batched, max_batch=100, seed=0)
    assert waits.wait_s.max() < 2 * batched(10)
    alone = simulate(rate, N, 1, batched, max_batch=1, seed=0)
    assert alone.wait_s.max() > 1000 * batched(1)


def test_the_client_takes_its_part_of_the_processors() -> None:
    assert max_rate(2, lambda _: 0.001, 1, client_s=0.00025, processors=2) == pytest.approx(1600)
    assert max_rate(1, lambda _: 0.001, 1, client_s=0.00025, processors=2) == pytest.approx(1000)


COST = {"p": 200e-6, "l": 300e-6, "m": 15e-6, "e": 5e-6, "v": 20e-6, "c": 0.5, "g": 0.5}
COST |= {"jp": 500, "jl": 200, "d": 400, "i": 100, "w": 80, "f": 800, "x": 9e-6}


def test_the_plan_follows_from_its_costs() -> None:
    """Worked out by hand for 1,000 predictions and 1,000 labels a second, and 10^9 rows."""
    found = {name: figure(1000) for name, _, figure in by_rate(COST)}
    assert found == pytest.approx(
        {
            "processors of the web workers": 1.0,
            "processors of the relays": 0.08,
            "prediction pods": 1,
            "memory of the pods, GB": 0.5,
            "share for the monitoring": 1e7 / (1000 * 30 * 86_400),
            "processors of the monitoring": 0.2 + 0.04 / 0.5 * 1e7 / (1000 * 30 * 86_400),
            "processors in all": 1.28 + 0.08 * 1e7 / (1000 * 30 * 86_400),
            "journals, GB": 5.04,
            "full without MongoDB after hours": 2e9 / 7e5 / 3600,
            "MongoDB: operations a second": 4000,
            "MongoDB: processors of label counts": 0.02,
            "MongoDB: growth a day, GB": 43.2,
        }
    )
    kept = {name: figure(10**9) for name, _, figure in by_rows(COST)}
    assert kept["MongoDB: documents, GB"] == pytest.approx(400)
    assert kept["`window.db`, GB"] == pytest.approx(0.84)
    assert kept["batch scoring, processor hours"] == pytest.approx(2.5)
    assert kept["days at 1,000 predictions a second"] == pytest.approx(11.574, rel=1e-4)


def test_what_was_not_measured_is_a_dash() -> None:
    table = markdown("a second", by_rate(COST | {"m": math.nan}), (10,))
    assert "| processors of the relays | `R = 2 r (m + e) / 0.5` | - |" in table
    assert "| prediction pods | `n = max(P / 2, R)` | 1 |" in table


def test_a_batch_costs_what_one_and_eight_requests_show() -> None:
    batch_s, each_s = fit_service(alone_s=0.003, each_of_8_s=0.00125)
    assert (batch_s, each_s) == pytest.approx((0.002, 0.001))
