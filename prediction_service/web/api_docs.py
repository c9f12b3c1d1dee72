"""The contract, for programs and for people: `/openapi.json`, and the page `/docs` made from it.

The page is plain HTML with one style sheet, both from here: it loads nothing from elsewhere and
runs nothing.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from flask import Flask, Response, render_template
from markupsafe import Markup, escape

from prediction_service.web.openapi import Json

STYLE = Path(__file__).with_name("templates") / "web.css"
PATHS = ("/openapi.json", "/docs", "/web.css")
# Beyond what every answer has: its own style sheet.
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"

CODE = re.compile("`([^`]+)`")


class Operation(NamedTuple):
    """One method of one path, as the page shows it."""

    method: str
    path: str
    facts: Json
    needs_key: bool
    parameters: list[Json]
    bodies: list[str]  # examples, as JSON text
    answers: list["Answer"]

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return str(self.facts["operationId"])


class Answer(NamedTuple):
    """One status that an operation may answer with."""

    status: str
    description: str
    examples: list[str]


class Field(NamedTuple):
    """One field of a record."""

    name: str
    required: bool
    values: str
    description: str


def add_docs_routes(app: Flask, document: Json) -> None:
    """What says how to use the service."""
    encoded = msgspec.json.encode(document)
    style = STYLE.read_bytes()
    app.add_template_filter(with_code)

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(encoded, content_type="application/json")

    @app.get("/docs")
    def docs() -> Response:
        page = render_template(
            "api_docs.html",
            document=document,
            operations=list(operations(document)),
            fields=list(fields(document["components"]["schemas"]["Record"])),
            example=examples_of(document["paths"]["/predict"]["post"]["requestBody"])[0],
        )
        response = Response(page, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.get("/web.css")
    def stylesheet() -> Response:
        return Response(style, content_type="text/css; charset=utf-8")


def with_code(text: str) -> Markup:
    """A description of the document, what stands between backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def operations(document: Json) -> Iterator[Operation]:
    """Every operation, in the document's order."""
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            answers = [
                Answer(status, one["description"], examples_of(one))
                for status, one in (
                    (status, resolved(document, answer))
                    for status, answer in facts["responses"].items()
                )
            ]
            yield Operation(
                method.upper(),
                path,
                facts,
                bool(facts["security"]),
                [resolved(document, one) for one in facts["parameters"]],
                examples_of(facts.get("requestBody", {})),
                answers,
            )


def resolved(document: Json, item: Json) -> Json:
    """An item, or the component that it refers to."""
    if "$ref" not in item:
        return item
    found: Any = document
    for name in item["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def examples_of(item: Json) -> list[str]:
    """The examples of a body or an answer, as JSON text."""
    content = item.get("content", {}).get("application/json", {})
    return [json.dumps(one["value"], indent=2) for one in content.get("examples", {}).values()]


def fields(record: Json) -> Iterator[Field]:
    """A record's fields."""
    for name, schema in record["properties"].items():
        yield Field(name, name in record["required"], values_of(schema), schema["description"])


def values_of(schema: Json) -> str:
    """What a field's value may be, in words."""
    if "enum" in schema:
        return ", ".join("null" if one is None else one for one in schema["enum"])
    null = " or null" if "null" in schema["type"] else ""
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}{null}"
    return f"up to {schema['maxLength']} characters{null}"
