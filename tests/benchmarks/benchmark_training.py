"""Quality and time of the whole training flow, compared with a usual search.

    make bench NAME=training

The flow runs as in `make train`, with servers of its own. The naive search runs for a few
evaluations; its total time is extrapolated from their mean. Both run twice: without a first trial,
and with that of config/search.yaml. The quality of both is that of the test split;
`make bench NAME=seeds` compares it with the goals.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.contract import load_contract
from tests.benchmarks.census import read_census, read_space
from tests.benchmarks.naive_search import naive_search
from tests.benchmarks.report import at_most, result, write

TIMEOUT_S = 1200
METRICS = ("log_loss", "roc_auc")


def train(max_evals: int, with_start: bool, folder: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds of the flow, without the start of its servers, and its metrics."""
    command = [sys.executable, "-m", "config.local_stack.demo", "--only-train"]
    command += ["--max-evals", str(max_evals), "--state-dir", str(folder / "var")]
    command += ["--out-dir", str(folder / "out")]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
        env=os.environ | {"SEARCH_START": str(with_start)},
    )
    (seconds,) = re.findall(r"^done in ([0-9.]+) s$", done.stdout, re.M)
    printed = dict(re.findall(r"^(\w+) +([0-9.]+)$", done.stdout, re.M))
    return float(seconds), {name: float(printed[name]) for name in METRICS}


def compare(max_evals: int, naive_evals: int, with_start: bool) -> Iterator[dict[str, Any]]:
    """Yield the figures of a flow and of a naive search that both know the first trial, or not."""
    contract = load_contract()
    with tempfile.TemporaryDirectory() as scratch:
        seconds, metrics = train(max_evals, with_start, Path(scratch))
        space, census = read_space(contract, with_start), read_census(contract)
        naive = naive_search(census, contract, space, naive_evals, Path(scratch))
    whole = naive.seconds / naive_evals * max_evals
    known = "with the first trial" if with_start else "without a first trial"
    yield at_most(f"{known}: whole flow", seconds, "s", 240)
    yield result(f"{known}: naive search, from its mean per evaluation", whole, "s")
    yield at_most(f"{known}: flow / naive search", seconds / whole, "ratio", 0.2)
    for name in METRICS:
        title = f"{known}: test {name}"
        yield result(title, metrics[name], "")
        yield result(f"{title} of the naive search", getattr(naive, name), "")
    yield result(f"{known}: log loss of the naive search, cross-validated", naive.cv_log_loss, "")


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-evals", type=int, default=50)
    parser.add_argument(
        "--naive-evals", type=int, default=12, help="evaluations of the naive search (12)"
    )
    options = parser.parse_args()
    results = [
        *compare(options.max_evals, options.naive_evals, with_start=False),
        *compare(options.max_evals, options.naive_evals, with_start=True),
    ]
    write("training", results)


if __name__ == "__main__":
    main()
