"""The page at `/`: ask about one person or a CSV file, see the answers and the reasons.

The form is made from the contract. `page.js` sends what is entered to `/predict` of this very
service, so the page is answered as any other caller is; it loads nothing from elsewhere.
"""

import re
from pathlib import Path

import msgspec
from flask import Response, render_template, request

from config.contract import Contract
from prediction_service.models.live_model import LiveModel as ServedModel
from prediction_service.settings import Settings

TEMPLATES = Path(__file__).with_name("templates")
FILES = {"/page.js": "text/javascript", "/page.css": "text/css"}
# Beyond what every answer has: its own script and style sheet, and questions to this service.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def wants_page() -> bool:
    """Whether the request comes from a browser; programs are answered in JSON."""
    kinds = ["application/json", "text/html"]  # the first one where both are as welcome
    return request.accept_mimetypes.best_match(kinds) == "text/html"


def make_page(served: ServedModel, settings: Settings) -> Response:
    """The page, with the version that is served."""
    page = render_template(
        "page.html",
        target=served.contract.target,
        inputs=served.contract.inputs,
        rules=msgspec.json.encode(rules(served.contract)).decode(),
        model=served.model,
        metrics=(
            msgspec.json.decode(served.model.facts.get("metrics") or "{}") if served.model else {}
        ),
        links=links(settings.page_links),
        max_records=settings.max_records,
        max_body_bytes=settings.max_body_bytes,
        needs_key=bool(settings.api_key_hashes),
    )
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Vary"] = "Accept"
    return response


def rules(contract: Contract) -> list[dict[str, object]]:
    """What the script has to know of each column, so that it can read a CSV file."""
    return [
        {
            "name": one.name,
            "number": not one.is_categorical,
            "used": one.used,
            "optional": one.optional,
        }
        for one in contract.features
    ]


def links(pages: str) -> dict[str, str]:
    """The address of each of the stack's other pages, by name, on the host that was asked."""
    host = re.sub(r":\d+$", "", request.host)
    named = (one.partition("=") for one in pages.split(",") if one)
    return {name: f"{request.scheme}://{host}:{where}" for name, _, where in named}


def file(path: str) -> Response:
    """One of the files that the page loads."""
    kind = f"{FILES[path]}; charset=utf-8"
    return Response((TEMPLATES / path[1:]).read_bytes(), content_type=kind)
