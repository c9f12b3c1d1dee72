"""The command `score`."""

import sys
from argparse import Namespace

from training.batch_scoring.score import score_batch
from training.commands.ledger import open_registry
from training.data.rows import counted


def run_score(options: Namespace) -> None:
    """Score a batch; exit with status 1 if too many rows were rejected."""
    spark_master = options.spark_master if options.engine == "spark" else ""
    done = score_batch(
        open_registry(), options.source, options.output, options.version, spark_master
    )
    print(f"{counted(done.rows_scored)} scored by version {done.version}: {done.output}")
    for note in done.notes:
        print(note, file=sys.stderr)
    for name, count in done.unseen.items():
        print(
            f"{name}: {counted(count, 'value')} not in the contract, read as missing",
            file=sys.stderr,
        )
    if done.rows_rejected:
        invalid = counted(done.rows_rejected, "invalid row")
        print(f"rejected {invalid}: {done.rejected}", file=sys.stderr)
    if done.share_rejected > options.max_rejected:
        sys.exit(
            f"--max-rejected: {done.share_rejected:.1%} of the rows were rejected, expected at most"
            f" {options.max_rejected:.1%}"
        )
