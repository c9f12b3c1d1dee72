"""The page at `/docs`: the OpenAPI document for a reader, in plain HTML without scripts."""

import json
import re

from flask import render_template
from markupsafe import Markup, escape

from config.feature import json_text
from prediction_service.web.openapi import Json

REQUEST_ID = "X-Request-ID"
CODE = re.compile("`([^`]+)`")


def make_docs_page(document: Json) -> str:
    """Return the page's HTML."""

    def own_parameters(operation: Json) -> list[Json]:
        """Return the parameters that only some operations have."""
        names = [one["$ref"].split("/")[-1] for one in operation["parameters"]]
        return [document["components"]["parameters"][one] for one in names if one != REQUEST_ID]

    return render_template(
        "api_docs.html",
        document=document,
        own_parameters=own_parameters,
        examples_of=examples_of,
        values_of=values_of,
        with_code=with_code,
    )


def examples_of(body: Json) -> list[str]:
    """Return the examples of a request or response as indented JSON."""
    examples = body["content"].get("application/json", {}).get("examples", {})
    return [json.dumps(one["value"], indent=2) for one in examples.values()]


def values_of(schema: Json) -> Markup:
    """Return the valid values of a schema in words, with links to other schemas."""
    match schema:
        case {"$ref": reference}:
            words = Markup('<a href="#{0}">{0}</a>').format(reference.split("/")[-1])
        case {"anyOf": choices}:
            words = Markup(" or ").join(values_of(one) for one in choices)
        case {"enum": values}:
            words = Markup(", ").join(map(json_text, values))
        case {"type": "array", "items": items}:
            words = Markup("list of ") + values_of(items)
        case {"additionalProperties": dict() as value}:
            words = Markup("object; each value: ") + values_of(value)
        case {"format": "date"}:
            words = escape("date, YYYY-MM-DD")
        case {"pattern": pattern}:
            words = Markup("<code>{}</code>").format(pattern)
        case {"minimum": minimum, "maximum": maximum}:
            words = escape(f"{schema['type']}, {minimum:.10g} to {maximum:.10g}")
        case {"maxLength": length}:
            words = escape(f"up to {length} characters")
        case {"const": value}:
            words = escape(json.dumps(value))
        case _:
            words = escape(schema["type"])
    return words


def with_code(text: str) -> Markup:
    """Return a text with the parts between backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))
