"""The OpenAPI 3.1 document of this service, for `/openapi.json` and `/docs`.

Operations and texts come from `openapi.yaml`, schemas from the structs that the routes decode and
encode. The struct of a record comes from `config/features.yaml`.
"""

from pathlib import Path
from string import Template
from typing import Any

import msgspec
import yaml

from config.contract import Contract
from config.feature import Feature
from prediction_service.errors import ErrorResponse
from prediction_service.predict import responses
from prediction_service.predict.parsing import Feedback
from prediction_service.predict.predictor import MAX_EXPLAINED, MAX_KEY_LENGTH
from prediction_service.settings import Settings

Json = dict[str, Any]

API = Path(__file__).with_name("openapi.yaml")
STRUCTS = (
    Feedback,
    responses.PredictionResponse,
    responses.FeedbackResponse,
    responses.ModelResponse,
    responses.LivenessResponse,
    responses.ReadinessResponse,
    responses.IndexResponse,
    ErrorResponse,
)


def make_document(contract: Contract, settings: Settings) -> Json:
    """Return the OpenAPI document."""
    document = read_api(contract, settings)
    operations, errors = document.pop("operations"), document.pop("errors")
    del document["examples"]  # loading the file has resolved their anchors
    has_keys = bool(settings.api_key_hashes)
    document["paths"] = {}
    for method_and_path, facts in operations.items():
        method, path = method_and_path.lower().split()
        document["paths"][path] = {method: make_operation(facts, settings.max_records, has_keys)}
    components = document["components"]
    components["schemas"] = make_schemas(contract, errors)
    components["responses"] = {f"Error{status}": make_error(errors[status]) for status in errors}
    if not has_keys:
        del components["securitySchemes"]
    return document


def read_api(contract: Contract, settings: Settings) -> Json:
    """Return `openapi.yaml`, filled in with the contract and the settings."""
    target, (first, *others) = contract.target, contract.input_names
    record = {name: contract.example[name] for name in contract.input_names}
    unlisted = next((one.name for one in contract.inputs if one.unseen == "missing"), first)
    values = {
        "title": f"{target.name.replace('_', ' ').capitalize()} prediction",
        "summary": f"Predicts {target.description}.",
        "max_records": settings.max_records,
        "max_body_bytes": settings.max_body_bytes,
        "max_explained": MAX_EXPLAINED,
        "max_key_length": MAX_KEY_LENGTH,
        "record": record,
        "negative": target.negative,
        "message": target.message(0, 0.31),
        "problem": contract[first].check(-3) or contract[first].check("many"),
        "note": f"{unlisted}: 'elsewhere' is not listed; the model reads it as missing",
        "contributions": {first: 0.7} | dict.fromkeys(others, 0.0),
        "reason": f"{first.replace('_', ' ')}: {contract[first].words(record[first])}"
        f" raises the odds of {target.positive} 2.01 times",
    }
    encoded = {name: msgspec.json.encode(value).decode() for name, value in values.items()}
    return yaml.safe_load(Template(API.read_text("utf-8")).substitute(encoded))


def make_operation(facts: Json, max_records: int, has_keys: bool) -> Json:
    """Return an operation object of OpenAPI; `facts` is an operation of `openapi.yaml`."""
    needs_key = has_keys and "request" in facts
    parameters = [*facts.get("parameters", []), "X-Request-ID"]
    errors = sorted([*facts.get("errors", []), 500] + [401] * needs_key)
    operation = {
        "operationId": facts["id"],
        "tags": [facts.get("tag", "operation")],
        "summary": facts["summary"],
        "description": facts.get("description", ""),
        "parameters": [ref("parameters", name) for name in parameters],
        "responses": {
            str(facts.get("status", 200)): make_response(facts, max_records),
            **{str(status): ref("responses", f"Error{status}") for status in errors},
        },
        "security": [{"key": []}] if needs_key else [],
    }
    if "request" in facts:
        content = make_content(facts["request"], facts["request_examples"], max_records)
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def make_error(facts: Json) -> Json:
    """Return the response object of an error status."""
    error = {
        "code": facts["codes"][0],
        "message": facts["message"],
        "problems": facts.get("problems", []),
    }
    meaning = f"{facts['meaning']} `code`: {', '.join(facts['codes'])}."
    response = make_response(
        {"meaning": meaning, "response": "ErrorResponse", "examples": [{"error": error}]}
    )
    response["headers"] |= facts.get("headers", {})
    return response


def make_response(facts: Json, max_records: int = 1) -> Json:
    """Return a response object with a body."""
    return {
        "description": facts["meaning"],
        "headers": {"X-Request-ID": ref("headers", "X-Request-ID")},
        "content": make_content(facts["response"], facts.get("examples", []), max_records),
    }


def make_content(kind: str | list[str], examples: list[Any], max_records: int) -> Json:
    """Return a body by media type; `kind` is a media type, or a struct of `openapi.yaml`."""
    if isinstance(kind, str) and "/" in kind:
        return {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    if isinstance(kind, list):
        one = ref("schemas", kind[0])
        many = {"type": "array", "items": one, "minItems": 1, "maxItems": max_records}
        schema: Json = {"anyOf": [one, many]}
    else:
        schema = ref("schemas", kind)
    named = {f"example{number}": {"value": one} for number, one in enumerate(examples, start=1)}
    return {"application/json": {"schema": schema, "examples": named}}


def ref(kind: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def make_schemas(contract: Contract, errors: Json) -> Json:
    """Return every schema by its name, with the rules that its struct cannot express."""
    _, schemas = msgspec.json.schema_components(
        [contract.record_type, *STRUCTS], ref_template="#/components/schemas/{name}"
    )
    record = schemas["Record"]
    for feature in contract.features:
        sort_categories(record["properties"][feature.name], feature)
        if feature.rank_of:
            record.setdefault("allOf", []).append(rank_rule(feature, contract[feature.rank_of]))
    schemas["PredictionResponse"]["properties"]["label"]["enum"] = list(contract.target.labels)
    contributions = schemas["Explanation"]["properties"]["contributions"]
    contributions["propertyNames"] = {"enum": list(contract.input_names)}
    codes = {code for facts in errors.values() for code in facts["codes"]} | {"method_not_allowed"}
    schemas["Error"]["properties"]["code"]["enum"] = sorted(codes)
    return schemas


def sort_categories(schema: Json, feature: Feature) -> None:
    """Put the values of a column into the contract's order; msgspec sorts them."""
    order = [*(feature.values if feature.kind == "boolean" else feature.categories), None]
    for part in (schema, *schema.get("anyOf", [])):
        if "enum" in part:
            part["enum"].sort(key=order.index)


def rank_rule(rank: Feature, source: Feature) -> Json:
    """Return the schema that pairs each category of `source` with its rank, or with none."""
    pairs = [
        {source.name: {"const": category}, rank.name: {"enum": [position, None]}}
        for position, category in enumerate(source.categories, start=1)
    ]
    return {"anyOf": [{"properties": pair} for pair in pairs]}
