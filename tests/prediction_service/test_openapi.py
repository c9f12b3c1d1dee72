"""The OpenAPI document: valid, with valid examples, and in agreement with the service."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from flask.testing import FlaskClient

from config.runtime.api_keys import hash_of, make_key
from config.contract import Contract
from config.feature import Feature
from config.model_registry import CARD
from prediction_service.errors import ServiceError
from prediction_service.models.model_folder import ModelFolder
from prediction_service.settings import Settings
from prediction_service.web import routes
from prediction_service.web.openapi import make_document
from tests.prediction_service.conftest import Start, gunicorn

Json = dict[str, Any]
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="session")
def document(contract: Contract) -> Json:
    """Return the document of a service with API keys, which has additional parts."""
    return make_document(contract, Settings(api_key_hashes=f"a={'0' * 64}"))


def validator(document: Json, schema: Json) -> jsonschema_rs.Draft202012Validator:
    """Return a validator for a schema of the document."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


def examples(item: Any) -> Iterator[tuple[Json, Any]]:
    """Yield every example inside an item, with its schema."""
    if isinstance(item, list):
        for one in item:
            yield from examples(one)
    if isinstance(item, dict):
        if "schema" in item:
            given = [one["value"] for one in item.get("examples", {}).values()]
            given += [item["example"]] if "example" in item else []
            yield from ((item["schema"], value) for value in given)
        for one in item.values():
            yield from examples(one)


def test_the_document_is_valid_openapi(document: Json) -> None:
    schemathesis.openapi.from_dict(document).validate()
    broken = document | {"paths": {"/x": {"get": {"responses": 3}}}}
    with pytest.raises(Exception, match="3 is not"):
        schemathesis.openapi.from_dict(broken).validate()


def check_examples(document: Json) -> None:
    """Raise an error for an invalid example."""
    found = list(examples(document))
    assert len(found) > 15
    for schema, value in found:
        validator(document, schema).validate(value)


def test_every_example_is_valid(document: Json) -> None:
    check_examples(document)


def test_columns_without_a_default_have_valid_examples(churn: Contract) -> None:
    """Each example once was null, and the service rejected the first example of /docs."""
    features = tuple(msgspec.structs.replace(one, default=None) for one in churn.features)
    rank = Feature("rank", "integer", "rank of the answer", minimum=1, maximum=3)
    answer = Feature("answer", "ordinal", "an answer", categories=("low", "high"), default="high")
    bare = Contract(
        churn.target, (*features, answer, msgspec.structs.replace(rank, rank_of="answer"))
    )
    assert bare.example == {
        "tenure": 60,
        "plan": "basic",
        "charges": 100.0,
        "autopay": "No",
        "senior": 0,
        "joined": "2015-07-02",
        "contentment": "poor",
        "account": 500000,
        "answer": "high",
        "rank": 2,
    }
    assert bare.check(bare.example) == []
    check_examples(make_document(bare, Settings()))
    low = Feature("share", "number", "a share", minimum=0.1234567, maximum=0.1234568)
    assert low.check(low.example) is None


def test_every_json_body_has_examples(document: Json) -> None:
    for path, methods in document["paths"].items():
        for facts in methods.values():
            for body in (facts.get("requestBody", {}), *facts["responses"].values()):
                content = body.get("content", {})
                if "application/json" in content and path != "/openapi.json":
                    assert content["application/json"]["examples"], path
    for name, response in document["components"]["responses"].items():
        assert response["content"]["application/json"]["examples"], name


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"workclass": None, "occupation": None, "native_country": "Atlantis"}, True),
        ({"fnlwgt": 1000, "education_num": 9}, True),
        ({"education_num": None}, True),
        ({"education_num": 10}, False),
        ({"age": 16}, False),
        ({"age": "38"}, False),
        ({"sex": None}, False),
        ({"sex": "male"}, False),
        ({"native_country": "x" * 101}, False),
        ({"colour": "red"}, False),
    ],
)
def test_document_and_service_accept_the_same_records(
    client: FlaskClient, document: Json, record: Json, change: Json, is_valid: bool
) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    check = validator(document, content["application/json"]["schema"])
    for body in (record | change, [record, record | change]):
        assert check.is_valid(body) is is_valid
        assert client.post("/predict", json=body).status_code == (200 if is_valid else 422)


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"charges": 29, "tenure": 3.0, "senior": 1.0}, True),
        (dict.fromkeys(["plan", "charges", "autopay", "joined", "contentment"]), True),
        ({"account": 5}, True),
        ({"tenure": None}, False),
        ({"tenure": 3.5}, False),
        ({"charges": 200.01}, False),
        ({"charges": "29.5"}, False),
        ({"charges": True}, False),
        ({"autopay": "yes"}, False),
        ({"autopay": True}, False),
        ({"senior": None}, False),
        ({"senior": True}, False),
        ({"senior": "1"}, False),
        ({"joined": "29.2.2020"}, False),
        ({"joined": "2020-02-29T00:00:00"}, False),
        ({"joined": 18321}, False),
        ({"contentment": "Good"}, False),
    ],
)
def test_document_and_service_accept_the_same_records_of_every_kind(
    churn_client: FlaskClient, churn: Contract, change: Json, is_valid: bool
) -> None:
    record = {name: churn.example[name] for name in churn.input_names} | change
    document = churn_client.get("/openapi.json").get_json()
    check = validator(document, {"$ref": "#/components/schemas/Record"})
    assert check.is_valid(record) is is_valid
    for body in (record, [record]):
        assert churn_client.post("/predict", json=body).status_code == (200 if is_valid else 422)


def test_the_document_shows_every_kind_in_the_contracts_order(churn_client: FlaskClient) -> None:
    text = churn_client.get("/docs").text
    for words in (
        "integer, 0 to 120<",
        "number, 0 to 200 or null<",
        "No, Yes or null<",
        "0, 1<",
        "date, YYYY-MM-DD or null<",
        "A date from 2000-01-01 to 2030-12-31.",
        "poor, fair, good or null<",
        "Unit: euros a month.",
    ):
        assert words in text, words
    for word in ("age", "50,000", "person", "census"):
        assert not re.search(rf"\b{word}\b", text), word


def test_the_document_lists_every_route(
    client: FlaskClient, settings: Settings, contract: Contract
) -> None:
    document = client.get("/openapi.json").get_json()
    assert document == make_document(contract, settings)
    paths = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert set(document["paths"]) == paths - set(routes.FILES)
    assert "securitySchemes" not in document["components"]


def test_every_error_code_is_documented_with_its_status(document: Json) -> None:
    responses = document["components"]["responses"]
    codes = document["components"]["schemas"]["Error"]["properties"]["code"]["enum"]
    errors: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    for error in errors:
        assert error.code in codes
        assert error.code in responses[f"Error{error.status}"]["description"]


def test_docs_shows_every_operation_schema_and_field_and_loads_only_its_own_style(
    client: FlaskClient, contract: Contract
) -> None:
    response = client.get("/docs")
    assert response.content_type == "text/html; charset=utf-8"
    for word in (
        "/predict",
        "/feedback",
        "/health/ready",
        "422",
        "PredictionResponse",
        "threshold",
        *(f.name for f in contract.features),
    ):
        assert f"<code>{word}</code>" in response.text or f">{word}<" in response.text, word
    for forbidden in ("<script", "style=", "http://", "https://", "onclick"):
        assert forbidden not in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "style-src 'self'" in policy and "unsafe" not in policy
    style = client.get("/style.css")
    assert style.content_type == "text/css; charset=utf-8"
    assert "url(" not in style.text and "@import" not in style.text


@pytest.mark.slow
def test_schemathesis_finds_no_disagreement_of_document_and_service(
    settings: Settings, model_folder: ModelFolder, start: Start, tmp_path: Path
) -> None:
    """Send valid and invalid requests to the service under gunicorn, with API keys on."""
    (model_folder.path / "1" / CARD).write_text("<h1>Card</h1>", "utf-8")
    key, defaults = make_key(), Settings()
    own = settings.model_copy(
        update={
            "api_key_hashes": f"tests={hash_of(key)}",
            "max_records": defaults.max_records,
            "max_body_bytes": defaults.max_body_bytes,
        }
    )
    with gunicorn(start, own) as address:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += [f"{address}/openapi.json", "--header", f"Authorization: Bearer {key}"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
        )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
