"""The service's contract as OpenAPI 3.1: what `GET /openapi.json` answers and `/docs` shows.

What a record holds is made from `config/features.yaml`; limits and keys are those of this service.
Whether the rest is what the service does is tested by requests that are made from the document.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from config.contract import Contract, Feature, Target
from prediction_service.bodies import ID_RULE, LABEL_RULE
from prediction_service.http.middleware import CROSS_SITE, REQUEST_ID_RULE
from prediction_service.predictor import LONGEST_KEY, MOST_EXPLAINED
from prediction_service.settings import Settings

Json = dict[str, Any]

API_VERSION = "1"  # goes up when something is taken away or means something else
EXAMPLE_ID = "0000019aafc8d2f05b6c1de24a7f9083"
EXAMPLE_TIME = "2026-11-01T00:00:00+00:00"


class Refusal(NamedTuple):
    """What an error status means, and the `code`s it comes with; the first is the example's."""

    meaning: str
    codes: tuple[str, ...]
    message: str  # of the example


REFUSALS = {
    400: Refusal(
        "The body is not JSON, or a header or the query cannot be used.",
        ("not_json", "invalid_header", "invalid_query", "bad_request"),
        "The body is not JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    401: Refusal(
        "The caller has no API key that is known.",
        ("not_authorized",),
        "This needs an API key: send one as `Authorization: Bearer KEY`.",
    ),
    403: Refusal(
        "A browser sends it for a page of another site (`Sec-Fetch-Site: cross-site`).",
        ("cross_site",),
        CROSS_SITE,
    ),
    404: Refusal("There is none.", ("not_found",), "Version 3 has no model card: train a new one."),
    413: Refusal(
        "More bytes or records than are taken at once; nothing was stored.",
        ("too_many_records", "request_entity_too_large"),
        "The list holds 1001 records, at most 1000 are taken (MAX_RECORDS): send it in parts.",
    ),
    422: Refusal(
        "Records break the contract: every problem of every record is listed.",
        ("invalid_records",),
        "1 record is not valid: 1 problem.",
    ),
    500: Refusal(
        "The service failed; its log says why, under the request's id.",
        ("internal_error",),
        "The service failed; its log says why.",
    ),
    501: Refusal(
        "The version that is served cannot explain its answers.",
        ("not_explained",),
        "This version's answers cannot be explained: it came without its booster.",
    ),
    503: Refusal(
        "Not now: there is no model yet, or nothing more can be stored. Nothing was; try again.",
        ("model_unavailable", "not_ready", "journal_full", "journal_unavailable"),
        "There is no model yet: /health/ready says what is missing.",
    ),
}


def make_document(contract: Contract, settings: Settings) -> Json:
    """The whole document, as it is encoded to JSON."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Income prediction",
            "version": API_VERSION,
            "summary": f"Predicts {contract.target.description}.",
            "description": "Every answered prediction is stored before its answer leaves. The model"
            " is that of a census of 1994 and no ground for a decision about a person.",
        },
        "tags": [
            {"name": "predictions", "description": "Ask, and tell what turned out to be true."},
            {"name": "model", "description": "The version that answers."},
            {"name": "operation", "description": "For balancers, dashboards and programs."},
        ],
        "paths": {
            "/predict": {"post": predict_operation(contract, settings)},
            "/feedback": {"post": feedback_operation(settings)},
            **get_operations(),
        },
        "components": {
            "schemas": make_schemas(contract, settings),
            "responses": {f"Error{status}": error_response(status) for status in REFUSALS},
            "headers": {"X-Request-ID": request_id_header()},
            "parameters": {"RequestId": request_id_parameter()},
        },
    }
    if settings.api_key_hashes:
        document["components"]["securitySchemes"] = {"key": key_scheme()}
    return document


# --- operations -----------------------------------------------------------------------------------


def predict_operation(contract: Contract, settings: Settings) -> Json:
    """`POST /predict`."""
    record, answer = example_record(contract), example_answer(contract.target)
    explained = answer | {"explanation": example_explanation(contract)}
    return {
        "operationId": "predict",
        "tags": ["predictions"],
        "summary": "Predicts one record or a list",
        "description": f"At most {settings.max_records} records and {settings.max_body_bytes:,}"
        f" bytes; with `explain=true` at most {MOST_EXPLAINED} records.",
        "parameters": [explain_parameter(), idempotency_parameter(), ref("parameters/RequestId")],
        "requestBody": json_body("PredictRequest", record, [record, record]),
        "responses": responses(
            200,
            json_answer(
                "An answer for each record, in their order; with `explain=true` explained.",
                ref("schemas/PredictAnswer"),
                answer,
                explained,
                [answer, answer],
            ),
            *errors_of(settings, 400, 403, 413, 422, 500, 501, 503),
        ),
        **security(settings),
    }


def feedback_operation(settings: Settings) -> Json:
    """`POST /feedback`."""
    one = {"prediction_id": EXAMPLE_ID, "label": 1}
    return {
        "operationId": "feedback",
        "tags": ["predictions"],
        "summary": "Tells the true class of predictions",
        "description": "Known later, they measure the model and teach the next one. The first label"
        " of a prediction stands; if another says otherwise, it is disputed and teaches nothing.",
        "parameters": [ref("parameters/RequestId")],
        "requestBody": json_body("FeedbackRequest", one, [one]),
        "responses": responses(
            202,
            json_answer("All labels are stored.", ref("schemas/Accepted"), {"accepted": 1}),
            *errors_of(settings, 400, 403, 413, 422, 500, 503),
        ),
        **security(settings),
    }


def get_operations() -> Json:
    """What is read: path -> operation."""
    model, ready = ref("schemas/Model"), ref("schemas/Ready")
    index, live = ref("schemas/Index"), ref("schemas/Live")
    return {
        "/model": get(
            "model", "The version that is served", json_answer("It.", model, example_model()), 503
        ),
        "/model/card": get(
            "model_card",
            "What the model is for, how good it is and for whom",
            page("A page."),
            404,
            503,
        ),
        "/health/live": get(
            "live", "Whether the process answers", json_answer("It does.", live, {"live": True})
        ),
        "/health/ready": get(
            "ready",
            "Whether predictions can be made; the problems say what is missing",
            json_answer("They can.", ready, example_ready()),
            503,
        ),
        "/metrics": get(
            "metrics",
            "Metrics of all workers, for Prometheus",
            answer_of("Prometheus' text format.", "text/plain", {"type": "string"}),
        ),
        "/": get(
            "index",
            "What there is; for a browser, a page to ask on",
            json_answer("Endpoints.", index, example_index()),
        ),
        "/openapi.json": get(
            "openapi", "This document", json_answer("OpenAPI 3.1.", {"type": "object"})
        ),
        "/docs": get("docs", "This document for people", page("A page.")),
    }


def get(name: str, summary: str, answer: Json, *errors: int) -> Json:
    """A path that is read, and needs no key."""
    return {
        "get": {
            "operationId": name,
            "tags": ["model" if name.startswith("model") else "operation"],
            "summary": summary,
            "parameters": [ref("parameters/RequestId")],
            "responses": responses(200, answer, *errors, 500),
            "security": [],
        }
    }


def explain_parameter() -> Json:
    """`?explain=true`."""
    return {
        "name": "explain",
        "in": "query",
        "description": "Whether each answer says what each feature did to it (exact TreeSHAP).",
        "schema": {"type": "boolean", "default": False},
        "example": True,
    }


def idempotency_parameter() -> Json:
    """The header that makes a retry safe."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes a retry safe: the same key with the same body gets the same ids, and"
        " is stored once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
        "example": "order-7731",
    }


def request_id_parameter() -> Json:
    """The caller's own name for a request."""
    return {
        "name": "X-Request-ID",
        "in": "header",
        "description": f"The caller's own name for the request: {REQUEST_ID_RULE}. Anything else is"
        " replaced.",
        "schema": {"type": "string"},
        "example": "web-4f1c",
    }


def request_id_header() -> Json:
    """What every answer has."""
    return {
        "description": "The request's name in the service's log.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 100},
    }


def key_scheme() -> Json:
    """How callers say who they are."""
    return {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `python -m prediction_service.keys new NAME` makes it.",
    }


def security(settings: Settings) -> Json:
    """What an operation asks for, where keys are on."""
    return {"security": [{"key": []}] if settings.api_key_hashes else []}


# --- answers --------------------------------------------------------------------------------------


def errors_of(settings: Settings, *statuses: int) -> tuple[int, ...]:
    """The errors of an operation that needs a key where keys are on."""
    return (*statuses, 401) if settings.api_key_hashes else statuses


def responses(status: int, answer: Json, *errors: int) -> Json:
    """All answers of an operation, by status."""
    return {str(status): answer} | {str(e): ref(f"responses/Error{e}") for e in sorted(errors)}


def error_response(status: int) -> Json:
    """The one error body with a status."""
    refusal = REFUSALS[status]
    problem = {"field": "age", "value": -3, "expected": "a whole number from 17 to 90"}
    problems = [problem] if status == 422 else []
    error = {"code": refusal.codes[0], "message": refusal.message, "problems": problems}
    answer = json_answer(
        f"{refusal.meaning} `code`: {', '.join(refusal.codes)}.",
        ref("schemas/Error"),
        {"error": error},
    )
    if status == 401:
        answer["headers"]["WWW-Authenticate"] = {
            "description": "How to send a key.",
            "required": True,
            "schema": {"const": "Bearer"},
        }
    return answer


def answer_of(description: str, content_type: str, schema: Json) -> Json:
    """An answer with a body."""
    return {
        "description": description,
        "headers": {"X-Request-ID": ref("headers/X-Request-ID")},
        "content": {content_type: {"schema": schema}},
    }


def json_answer(description: str, schema: Json, *examples: Any) -> Json:
    """An answer in JSON."""
    answer = answer_of(description, "application/json", schema)
    if examples:
        answer["content"]["application/json"]["examples"] = named(examples)
    return answer


def named(values: Iterable[Any]) -> Json:
    """Examples, as OpenAPI wants several."""
    return {f"example{number}": {"value": value} for number, value in enumerate(values, start=1)}


def page(description: str) -> Json:
    """An answer in HTML."""
    return answer_of(description, "text/html", {"type": "string"})


def json_body(schema: str, *examples: Any) -> Json:
    """What a request must carry."""
    content = {"schema": ref(f"schemas/{schema}"), "examples": named(examples)}
    return {"required": True, "content": {"application/json": content}}


def ref(name: str) -> Json:
    """A component of this document."""
    return {"$ref": f"#/components/{name}"}


# --- schemas --------------------------------------------------------------------------------------


def make_schemas(contract: Contract, settings: Settings) -> Json:
    """Every type by its name."""
    answers = {"anyOf": [ref("schemas/Answer"), ref("schemas/ExplainedAnswer")]}
    return {
        "Record": record_schema(contract),
        "PredictRequest": one_or_list(ref("schemas/Record"), settings.max_records),
        "Answer": closed(answer_properties(contract.target)),
        "ExplainedAnswer": closed(
            answer_properties(contract.target) | {"explanation": ref("schemas/Explanation")}
        ),
        "PredictAnswer": one_or_list(answers, settings.max_records),
        "Explanation": explanation_schema(contract),
        "Label": closed({"prediction_id": id_schema(), "label": label_schema()}),
        "FeedbackRequest": one_or_list(ref("schemas/Label"), settings.max_records),
        "Accepted": closed({"accepted": {"type": "integer", "minimum": 1}}),
        "Model": closed(model_properties()),
        "Live": closed({"live": {"const": True}}),
        "Ready": closed(ready_properties()),
        "Index": closed(
            {
                "service": {"type": "string"},
                "endpoints": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ),
        "Problem": problem_schema(),
        "Error": error_schema(),
    }


def closed(properties: Json, optional: tuple[str, ...] = ()) -> Json:
    """An object with these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def one_or_list(schema: Json, most: int) -> Json:
    """One of something, or a list of it."""
    return {"oneOf": [schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": most}]}


def record_schema(contract: Contract) -> Json:
    """A record, as `Contract.check` wants it."""
    properties = {feature.name: feature_schema(feature) for feature in contract.features}
    schema = closed(properties, tuple(f.name for f in contract.features if f.optional))
    ranks = [rank_schema(f, contract[f.rank_of]) for f in contract.features if f.rank_of]
    return schema | ({"allOf": ranks} if ranks else {})


def feature_schema(feature: Feature) -> Json:
    """One column of a record."""
    return {
        **value_schema(feature),
        "description": describe(feature),
        **({"examples": [feature.default]} if feature.default is not None else {}),
    }


def value_schema(feature: Feature) -> Json:
    """What a column's value may be; null where the column may be left out."""
    null = [None] if feature.optional else []
    kind = "string" if feature.is_categorical else "integer"
    typed: Json = {"type": [kind, "null"] if null else kind}
    if not feature.is_categorical:
        return typed | {"minimum": feature.minimum, "maximum": feature.maximum}
    if feature.unseen == "missing":
        return typed | {"maxLength": 100}
    return typed | {"enum": [*feature.categories, *null]}


def rank_schema(rank: Feature, source: Feature) -> Json:
    """Each category of `source` with its rank, or with none."""
    return {
        "anyOf": [
            {
                "properties": {
                    source.name: {"const": category},
                    rank.name: {"enum": [position, None]},
                }
            }
            for position, category in enumerate(source.categories, start=1)
        ]
    }


def describe(feature: Feature) -> str:
    """A column in words."""
    words = [f"{feature.description[0].upper()}{feature.description[1:]}."]
    if feature.unit:
        words.append(f"Unit: {feature.unit}.")
    if not feature.used:
        words.append("The model does not see it.")
    elif feature.missing == "category":
        words.append("Not known: null, or left out.")
    if feature.rank_of:
        words.append(f"If given, it must agree with {feature.rank_of}.")
    if feature.unseen == "missing":
        words.append(
            f"Any other value counts as not known. Known: {', '.join(feature.categories)}."
        )
    return " ".join(words)


def id_schema() -> Json:
    """A prediction's identity."""
    rule = {"type": "string", "pattern": "^[0-9a-f]{32}$", "minLength": 32, "maxLength": 32}
    return rule | {"description": f"{ID_RULE}."}


def label_schema() -> Json:
    """A true class."""
    return {"type": "integer", "enum": [0, 1], "description": f"The true class, {LABEL_RULE}."}


def share(description: str) -> Json:
    """A number from 0 to 1."""
    return {"type": "number", "minimum": 0, "maximum": 1, "description": description}


def text(description: str) -> Json:
    """A string."""
    return {"type": "string", "description": description}


def number(description: str) -> Json:
    """A number."""
    return {"type": "number", "description": description}


def answer_properties(target: Target) -> Json:
    """What `/predict` says of one record."""
    known = f"0: {target.negative}, 1: {target.positive}"
    return {
        "prediction_id": id_schema() | {"description": "Its identity, for /feedback."},
        "income_class": {"type": "integer", "enum": [0, 1], "description": f"{known}."},
        "label": {
            "type": "string",
            "enum": list(target.labels),
            "description": "The same in words.",
        },
        "probability": share(f"Of {target.positive}."),
        "threshold": share("From this probability on the class is 1."),
        "message": text("The answer as a sentence."),
        "model_version": text("Who answered."),
    }


def explanation_schema(contract: Contract) -> Json:
    """What each feature did to one answer."""
    calibration = {name: {"type": "number"} for name in ("slope", "intercept")}
    return closed(
        {
            "base_value": number("What the trees give on average, in log-odds."),
            "contributions": closed({name: {"type": "number"} for name in contract.input_names})
            | {"description": "By feature; with the base value they sum to the margin."},
            "margin": number("The raw score, in log-odds."),
            "calibration": closed(calibration)
            | {"description": "probability = sigmoid(slope * margin + intercept)."},
            "reasons": {
                "type": "array",
                "items": {"type": "string"},
                "description": "The strongest, in words.",
            },
        }
    )


def model_properties() -> Json:
    """What `/model` says."""
    maybe = {"type": ["string", "null"]}
    return {
        "model_version": text("The version in the registry, or `run-` and a run's id."),
        "run_id": maybe | {"description": "The training run that made it."},
        "data_source": maybe | {"description": "What it was trained on: uci or synthetic."},
        "trained_at": maybe | {"description": "When, as ISO 8601."},
        "threshold": share("From this probability on the class is 1."),
        "contract_digest": maybe | {"description": "Of the rules that records are held to."},
        "metrics": {
            "type": "object",
            "additionalProperties": {"type": ["number", "null"]},
            "description": "On the official test split.",
        },
    }


def ready_properties() -> Json:
    """What `/health/ready` says."""
    refusal = closed({"version": {"type": "string"}, "reason": {"type": "string"}})
    return {
        "ready": {"const": True},
        "model_version": text("The version that is served."),
        "refused": {
            "anyOf": [refusal, {"type": "null"}],
            "description": "A version that the registry names and this service does not serve.",
        },
        "registry": text("What the follower last saw of it."),
    }


def problem_schema() -> Json:
    """One problem of one record."""
    properties = {
        "field": text("Which field; `record` for the record as a whole."),
        "value": {
            "type": ["string", "number", "boolean", "null"],
            "description": "What was given, shortened.",
        },
        "expected": text("What it must be."),
        "nearest": text("The category or field that was perhaps meant."),
        "record": {"type": "integer", "minimum": 0, "description": "Which of the list, from 0."},
    }
    return closed(properties, optional=("nearest", "record"))


def error_schema() -> Json:
    """The one error body."""
    codes = sorted({code for one in REFUSALS.values() for code in one.codes})
    codes.append("method_not_allowed")
    error = {
        "code": {"type": "string", "enum": codes, "description": "For programs."},
        "message": text("For people, with the remedy."),
        "problems": {"type": "array", "items": ref("schemas/Problem")},
    }
    return closed({"error": closed(error)})


# --- examples -------------------------------------------------------------------------------------


def example_record(contract: Contract) -> Json:
    """The contract's defaults."""
    return {feature.name: feature.default for feature in contract.inputs}


def example_answer(target: Target) -> Json:
    """An answer for one record."""
    return {
        "prediction_id": EXAMPLE_ID,
        "income_class": 0,
        "label": target.negative,
        "probability": 0.31,
        "threshold": 0.46,
        "message": target.message(0, 0.31),
        "model_version": "3",
    }


def example_explanation(contract: Contract) -> Json:
    """Why, by the first two features."""
    first, second, *others = contract.input_names
    return {
        "base_value": -1.5,
        "contributions": {first: 1.0, second: -0.3} | dict.fromkeys(others, 0.0),
        "margin": -0.8,
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "reasons": [f"{first}: 38 years raises the odds of {contract.target.positive} 2.72 times"],
    }


def example_model() -> Json:
    """A version's facts."""
    return {
        "model_version": "3",
        "run_id": "8d0c5bb0b1e94bb7a6f0c9d5a3c1d2e4",
        "data_source": "uci",
        "trained_at": EXAMPLE_TIME,
        "threshold": 0.46,
        "contract_digest": "9c1d5a7e3b2f4068",
        "metrics": {"roc_auc": 0.929},
    }


def example_ready() -> Json:
    """A service that can predict."""
    return {"ready": True, "model_version": "3", "refused": None, "registry": "reached"}


def example_index() -> Json:
    """What `/` says, in short."""
    return {"service": "income prediction", "endpoints": {"GET /docs": "this service, explained"}}
