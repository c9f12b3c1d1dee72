"""Quality and time of the whole training flow, compared with a usual search.

    make bench NAME=training

The flow runs as in `make train`, with servers of its own. The naive search runs for a few
evaluations; its total time is extrapolated from their mean.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from config.contract import load_contract
from tests.benchmarks.census import read_census
from tests.benchmarks.naive_search import naive_search
from tests.benchmarks.report import at_least, at_most, result, write

TIMEOUT_S = 1200
GOALS = {"roc_auc": 0.930, "f1": 0.73}
LIMITS = {"log_loss": 0.271, "ece": 0.01}


def train(max_evals: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds of the flow, without the start of its servers, and its metrics."""
    command = [sys.executable, "-m", "config.local_stack.demo", "--only-train"]
    command += ["--max-evals", str(max_evals), "--state-dir", str(folder / "var")]
    command += ["--out-dir", str(folder / "out")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S)
    (seconds,) = re.findall(r"^done in ([0-9.]+) s$", done.stdout, re.M)
    printed = dict(re.findall(r"^(\w+) +([0-9.]+)$", done.stdout, re.M))
    return float(seconds), {name: float(printed[name]) for name in (*GOALS, *LIMITS)}


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-evals", type=int, default=50)
    parser.add_argument(
        "--naive-evals", type=int, default=12, help="evaluations of the naive search (12)"
    )
    options = parser.parse_args()
    contract = load_contract()
    with tempfile.TemporaryDirectory() as scratch:
        seconds, metrics = train(options.max_evals, Path(scratch))
        census = read_census(contract)
        naive = naive_search(census, contract, options.naive_evals, Path(scratch))
    whole = naive / options.naive_evals * options.max_evals
    results = [
        at_most("whole flow", seconds, "s", 240),
        result("naive search, from its mean per evaluation", whole, "s"),
        at_most("flow / naive search", seconds / whole, "ratio", 0.2),
        *(at_least(f"test {name}", metrics[name], "", goal) for name, goal in GOALS.items()),
        *(at_most(f"test {name}", metrics[name], "", goal) for name, goal in LIMITS.items()),
    ]
    write("training", results)


if __name__ == "__main__":
    main()
