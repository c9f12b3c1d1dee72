"""Take the pictures of docs/tour.md from a running demo. This causes drift in the demo.

make demo KEEP=1       # in one shell
. var/demo/settings    # in another shell
make screenshots
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from config.contract import load_contract
from config.local_stack.observe import drift_runs
from tests.conftest import CHROMIUM
from training.data.synthetic import synthesize

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SIZE = ViewportSize(width=1000, height=760)
TIMEOUT_MS = 60_000
N_ROWS = 500


def ask(page: Page) -> None:
    """Show the form, a prediction and its reasons."""
    page.goto(os.environ["PREDICTION_ADDRESS"])
    page.get_by_label("age in years").fill("52")
    page.get_by_label("education").select_option("Masters")
    page.get_by_label("occupation").select_option("Exec-managerial")
    page.get_by_role("button", name="Predict").click()
    page.locator("#prediction .verdict").wait_for()
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#prediction").bounding_box()
    assert box
    page.set_viewport_size(SIZE | {"height": int(box["y"] + box["height"])})


def file(page: Page) -> None:
    """Show the histogram and the table of a file."""
    rows = synthesize(load_contract(), N_ROWS, 0).train
    rows.loc[17, "age"] = 7
    page.goto(os.environ["PREDICTION_ADDRESS"])
    content = rows.to_csv(index=False).encode()
    page.locator("#file").set_input_files(
        {"name": "people.csv", "mimeType": "text/csv", "buffer": content}
    )
    page.locator(".counts").wait_for()
    page.locator("#file-title").evaluate("title => title.scrollIntoView()")


def prefect(page: Page) -> None:
    """Show the training that drift has started."""
    run, *_ = drift_runs(dict(os.environ))
    server = os.environ["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{server}/runs/flow-run/{run['id']}")
    page.get_by_text("promote").first.wait_for()


def drift(page: Page) -> None:
    """Show the drift verdict after the traffic has changed back."""
    command = [sys.executable, "-m", "stream_generator.send_data", "--scenario", "none"]
    command += ["--rows", "2500", "--concurrency", "4", "--labels", "0.5", "--quiet"]
    subprocess.run(command, check=True, timeout=120)
    page.goto(os.environ["EVIDENTLY_ADDRESS"])  # the page refreshes itself
    page.locator(".verdict.bad").wait_for()


def main() -> None:
    """Take every picture."""
    if not CHROMIUM or "PREDICTION_ADDRESS" not in os.environ:
        sys.exit(f"{__doc__}\nThis needs Chromium (apt-get install chromium) and a running demo.")
    PICTURES.mkdir(exist_ok=True)
    takes: tuple[Callable[[Page], None], ...] = (ask, file, prefect, drift)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for take in takes:
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(TIMEOUT_MS)
            take(page)
            path = PICTURES / f"{take.__name__}.png"
            page.screenshot(path=path)
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
