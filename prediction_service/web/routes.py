"""The routes of both pages and of the OpenAPI document.

The pages load nothing from other hosts, and their policies let a browser run nothing else.
"""

from functools import partial
from pathlib import Path

import msgspec
from flask import Flask, Response, request

from config.web import STYLE
from prediction_service.predict.responses import IndexResponse
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings
from prediction_service.web.api_docs import make_docs_page
from prediction_service.web.form import make_form_page
from prediction_service.web.openapi import Json, make_document

TEMPLATES = Path(__file__).with_name("templates")
FILES = {
    "/style.css": (STYLE, "text/css"),
    "/docs.css": (TEMPLATES / "docs.css", "text/css"),
    "/form.css": (TEMPLATES / "form.css", "text/css"),
    "/form.js": (TEMPLATES / "form.js", "text/javascript"),
}
PATHS = ("/", "/docs", "/openapi.json", *FILES)
JSON = "application/json"
BASE_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
FORM_POLICY = f"{BASE_POLICY}; script-src 'self'; connect-src 'self'; form-action 'none'"


def add_web_routes(app: Flask, live_model: LiveModel, settings: Settings) -> None:
    """Add the routes of `PATHS`; `app` must have `TEMPLATES` as its template folder."""
    document = make_document(live_model.contract, settings)
    encoded = msgspec.json.encode(document)
    endpoints = IndexResponse("income prediction", list_endpoints(document))

    @app.get("/")
    def index() -> Response:
        if accepts_html():
            response = send_html(make_form_page(live_model, settings), FORM_POLICY)
        else:
            response = Response(msgspec.json.encode(endpoints), content_type=JSON)
        response.headers["Vary"] = "Accept"
        return response

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(encoded, content_type=JSON)

    @app.get("/docs")
    def docs() -> Response:
        return send_html(make_docs_page(document), BASE_POLICY)

    for url, (path, media_type) in FILES.items():
        app.add_url_rule(url, url, partial(send_file, path, media_type))


def accepts_html() -> bool:
    """Return whether the client prefers HTML to JSON, as browsers do."""
    media_types = ["application/json", "text/html"]  # JSON if the client has no preference
    return request.accept_mimetypes.best_match(media_types) == "text/html"


def list_endpoints(document: Json) -> dict[str, str]:
    """Return the summary of each operation by its method and path."""
    return {
        f"{method.upper()} {path}": operation["summary"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def send_html(page: str, policy: str) -> Response:
    """Return a page with its Content-Security-Policy."""
    headers = {"Content-Security-Policy": policy}
    return Response(page, headers=headers, content_type="text/html; charset=utf-8")


def send_file(path: Path, media_type: str) -> Response:
    """Return one of `FILES`."""
    return Response(path.read_bytes(), content_type=f"{media_type}; charset=utf-8")
