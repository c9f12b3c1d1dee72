"""Spark sessions, for searches and batches that are too large for one machine.

The only module that imports pyspark. Pyspark is in the category [spark] of the Pipfile and needs
Java 17.
"""

import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.code_bundle import ROOT, code_files
from training.errors import ExpectedError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession  # pylint: disable=import-error

ATTEMPTS = 4  # of a task, as on a cluster; the default of a local master is 1
REMEDY = "Install it with `make spark`, and Java 17 (Debian: default-jre-headless)."


class SparkUnavailable(ExpectedError):
    """Spark cannot start; the message has the reason."""


@contextmanager
def spark_session(master: str) -> Iterator["SparkSession"]:
    """Open a session on `master` whose workers have this project's code.

    Raises SparkUnavailable if pyspark or Java is missing, or the master does not respond.
    """
    try:
        # pylint: disable=import-outside-toplevel, import-error  # may not be installed
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as err:
        raise SparkUnavailable(f"Spark: pyspark is not installed. {REMEDY}") from err
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # pylint: disable-next=no-member  # `builder` is made at access
    builder = SparkSession.builder.master(with_attempts(master)).appName("income")
    builder = builder.config("spark.ui.enabled", "false").config("spark.task.maxFailures", ATTEMPTS)
    builder = builder.config("spark.log.level", "ERROR")
    if master.startswith("local"):
        builder = builder.config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
    try:
        session = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as err:
        raise SparkUnavailable(f"Spark: no session on {master}. {REMEDY} {err}") from err
    with tempfile.TemporaryDirectory() as folder:
        session.sparkContext.addPyFile(str(zipped_code(Path(folder))))
        try:
            yield session
        finally:
            session.stop()


def with_attempts(master: str) -> str:
    """Return a local master with the attempts of a cluster: local[2] -> local[2,4]."""
    if master == "local":
        return f"local[1,{ATTEMPTS}]"
    return re.sub(r"^local\[(\*|\d+)\]$", rf"local[\1,{ATTEMPTS}]", master)


def zipped_code(folder: Path) -> Path:
    """Write the code that workers import; return the path of the zip file."""
    path = folder / "income.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in code_files():
            archive.write(ROOT / name, name)
    return path
