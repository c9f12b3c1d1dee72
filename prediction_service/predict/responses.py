"""The JSON bodies of successful responses.

The routes encode these structs, and `web/openapi.py` makes the schemas of the API document from
them. Their docstrings and descriptions are texts of that document.
"""

import math
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from prediction_service.models.model_folder import Rejection

Threshold = Annotated[
    float, Meta(ge=0, le=1, description="Minimum probability for `income_class` 1.")
]
ModelVersion = Annotated[
    str, Meta(description="Version in the model registry, or `run-` and the id of a pinned run.")
]
PREDICTION_ID = "^[0-9a-f]{32}$"
PredictionId = Annotated[
    str,
    Meta(
        pattern=PREDICTION_ID,
        min_length=32,
        max_length=32,
        description="Id of one prediction: 32 hexadecimal digits. `/feedback` needs it.",
    ),
]
BinaryClass = Annotated[int, Meta(extra_json_schema={"enum": [0, 1]})]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Platt scaling: probability = sigmoid(slope * margin + intercept)."""

    slope: float
    intercept: float

    def __call__(self, margin: float) -> float:
        """Return the probability, in [0, 1], of a margin in log-odds."""
        return 1 / (1 + math.exp(-(self.slope * margin + self.intercept)))


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exact TreeSHAP contributions of the features to one prediction."""

    base_value: Annotated[float, Meta(description="Mean score of the trees, in log-odds.")]
    contributions: Annotated[
        dict[str, float],
        Meta(description="Log-odds by feature. With `base_value` they sum to `margin`."),
    ]
    margin: Annotated[float, Meta(description="Score before calibration, in log-odds.")]
    calibration: Annotated[Calibration, Meta(description="Maps `margin` to `probability`.")]
    reasons: Annotated[
        list[str],
        Meta(description="The strongest contributions in words, against the average record."),
    ]
    unusual: Annotated[
        list[str],
        Meta(
            description="Pairs of its values that are far rarer together than alone: at most one"
            " test row in 1,000 has such a pair."
        ),
    ]


# gc=False: a request creates up to a thousand of them, without cycles. Scanning them for cycles
# costs a tenth of the time of a list.
class PredictionResponse(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    """The prediction for one record, with an id if it is stored."""

    prediction_id: PredictionId | UnsetType = UNSET
    income_class: Annotated[
        BinaryClass, Meta(description="Predicted class: 1 if probability >= threshold, else 0.")
    ]
    label: Annotated[str, Meta(description="Name of the predicted class.")]
    probability: Annotated[float, Meta(ge=0, le=1, description="Probability of class 1.")]
    threshold: Threshold
    message: Annotated[str, Meta(description="The prediction as a sentence.")]
    model_version: ModelVersion
    notes: Annotated[
        list[str] | UnsetType,
        Meta(description="Values that the model reads as missing. Absent if there are none."),
    ] = UNSET
    explanation: Annotated[
        Explanation | UnsetType, Meta(description="Present with `explain=true` only.")
    ] = UNSET


class FeedbackResponse(msgspec.Struct, forbid_unknown_fields=True):
    """Confirmation that all labels are stored."""

    accepted: Annotated[int, Meta(ge=1, description="Number of stored labels.")]


class ModelResponse(msgspec.Struct, forbid_unknown_fields=True):
    """The live model, as recorded in its own file."""

    model_version: ModelVersion
    run_id: Annotated[str | None, Meta(description="MLflow run that trained the model.")]
    data_source: Annotated[str | None, Meta(description="Source of the training data.")]
    trained_at: Annotated[str | None, Meta(description="Training time, ISO 8601.")]
    threshold: Threshold
    contract_digest: Annotated[
        str | None, Meta(description="Digest of the feature contract that the model needs.")
    ]
    metrics: Annotated[dict[str, float | None], Meta(description="Metrics on the test split.")]


class LivenessResponse(msgspec.Struct, forbid_unknown_fields=True):
    """The process handles requests."""

    live: Yes


class ReadinessResponse(msgspec.Struct, forbid_unknown_fields=True):
    """The service can make predictions."""

    ready: Yes
    model_version: ModelVersion
    rejected: Annotated[
        Rejection | None, Meta(description="Rejected model version, and the reason; null if none.")
    ]
    registry: Annotated[str, Meta(description="The follower's last report about the registry.")]
    follower_age_s: Annotated[
        float | None, Meta(description="Seconds since that report; null before the first one.")
    ]


class IndexResponse(msgspec.Struct, forbid_unknown_fields=True):
    """The service's name and endpoints."""

    service: str
    endpoints: Annotated[
        dict[str, str], Meta(description="Summary by method and path, such as `GET /docs`.")
    ]
