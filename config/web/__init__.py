"""What all pages share: the style, which each model card contains, and links between services."""

import re
from pathlib import Path
from typing import Annotated

from config.runtime.settings import matching

STYLE = Path(__file__).with_name("style.css")

PageLinks = Annotated[
    str,
    matching(r"(\w+=\d+[\w./-]*(,|$))*", "NAME=PORT or NAME=PORT/PATH, separated by commas"),
]
LINKS = "Predict=9696,MLflow=5000,Prefect=4200,Drift=3000"
LINKS_DESCRIPTION = (
    "Links of the page at `/`, `NAME=PORT` or `NAME=PORT/PATH`, on the host of the page."
)


def absolute_links(page_links: str, host_url: str, own: str) -> dict[str, str]:
    """Return the URL of each linked page by its name, on the host of `host_url`.

    `own` is the name of the page itself, which is left out.
    """
    host = re.sub(r":\d+$", "", host_url.rstrip("/"))
    named = (one.partition("=") for one in page_links.split(",") if one)
    return {name: f"{host}:{port_and_path}" for name, _, port_and_path in named if name != own}
