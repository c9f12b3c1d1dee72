"""Run the examples of the documents against a running stack, as a reader would."""

import re
import subprocess
import sys
from collections.abc import Mapping

from tests.conftest import ROOT

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)
TIMEOUT_S = 180


def examples(document: str, heading: str = "") -> list[tuple[str, str]]:
    """Return (language, text) of each example in a document, or in one of its sections."""
    text = (ROOT / document).read_text("utf-8")
    if heading:
        level = heading.split()[0]
        text = text.split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]
    return BLOCK.findall(text)


def run(language: str, text: str, env: Mapping[str, str]) -> str:
    """Return the output of an example. Raises AssertionError if it fails."""
    command = [sys.executable, "-"] if language == "python" else ["bash", "-euo", "pipefail"]
    done = subprocess.run(
        command,
        input=text,
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}"
    assert "Traceback" not in done.stdout, f"{text}\n{done.stdout[-3000:]}"
    return done.stdout
