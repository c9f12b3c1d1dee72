"""Explanations: XGBoost's own contributions by feature, and versions without an explanation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from flask.testing import FlaskClient
from scipy.special import expit

from config.contract import Contract
from config.feature import Feature, Value
from config.model_registry import BOOSTER
from prediction_service.predict.model import Model
from prediction_service.predict.predictor import MAX_EXPLAINED, PredictionRequest, Predictor
from prediction_service.models.live_model import LiveModel
from tests.conftest import made_up_rows
from tests.prediction_service.conftest import install, with_metadata
from training.model.pipeline import make_encoder

Record = dict[str, Any]


UNUSUAL = {
    "rows": 16281,
    "pairs": [[[["age", 17.0, 19.0], ["relationship", "Husband", "Husband"]], 7, 341.8]],
}


def explain(client: FlaskClient, body: Any) -> Any:
    """Return the decoded response to a request for an explanation."""
    response = client.post("/predict?explain=true", json=body)
    assert response.status_code == 200, response.text
    return response.get_json()


def test_contributions_sum_to_the_margin_and_the_calibrated_margin_is_the_probability(
    client: FlaskClient, record: Record
) -> None:
    ages = (20, 44, 45, 70)
    for one in explain(client, [record | {"age": age, "workclass": None} for age in ages]):
        why = one["explanation"]
        assert why["base_value"] + sum(why["contributions"].values()) == pytest.approx(
            why["margin"], abs=1e-9
        )
        scaled = why["calibration"]["slope"] * why["margin"] + why["calibration"]["intercept"]
        assert expit(scaled) == pytest.approx(one["probability"], abs=1e-5)


def test_an_unusual_record_is_reported_with_its_rare_pair_of_values(
    package: Path, contract: Contract, record: Record, tmp_path: Path
) -> None:
    """The page once showed a confident prediction for a husband of 17 years."""
    folder = with_metadata(package, tmp_path / "unusual", rare_pairs=json.dumps(UNUSUAL))
    records = [record | {"age": age, "relationship": "Husband"} for age in (17, 20)]
    rows = [[one[name] for name in contract.input_names] for one in records]
    found = [one.unusual for one in Model(folder, "1", contract).explainer.explain(rows)]
    words = "age 17 to 19 years with relationship Husband: 7 of 16,281 test rows, 342 if the two"
    assert found == [[f"{words} were unrelated"], []]


def test_contributions_equal_those_of_xgboost_for_rows_encoded_by_training(
    package: Path, contract: Contract
) -> None:
    rows = made_up_rows(contract, 50, seed=3)[list(contract.input_names)]
    rows.loc[:9, "occupation"] = "?"
    encoder = make_encoder(contract)
    booster = xgboost.Booster(model_file=package / BOOSTER)
    encoded = xgboost.DMatrix(encoder.fit_transform(rows), feature_names=booster.feature_names)
    expected = pd.DataFrame(booster.predict(encoded, pred_contribs=True)[:, :-1])
    expected.columns = pd.Index([name.partition("=")[0] for name in booster.feature_names or ()])
    by_feature = expected.T.groupby(level=0).sum().T[list(contract.input_names)]
    raw = rows.replace("?", None).to_numpy().tolist()
    explained = Model(package, "1", contract).explainer.explain(raw)
    found = [list(one.contributions.values()) for one in explained]
    assert np.array(found) == pytest.approx(by_feature.to_numpy(), abs=1e-5)
    margins = booster.predict(encoded, output_margin=True)
    assert np.array([one.margin for one in explained]) == pytest.approx(margins, abs=1e-5)


def test_the_reasons_name_the_strongest_features(client: FlaskClient, record: Record) -> None:
    """The model of these tests uses only age: it predicts a high income from 45 years on."""
    old, young = explain(client, [record | {"age": age} for age in (70, 20)])
    assert old["explanation"]["reasons"][0].startswith("age: 70 years raises the odds of >50K ")
    assert young["explanation"]["reasons"][0].startswith("age: 20 years lowers the odds of >50K ")
    assert len(old["explanation"]["reasons"]) == 3
    factor = float(old["explanation"]["reasons"][0].split()[-2])
    contribution = old["explanation"]["contributions"]["age"]
    assert factor == pytest.approx(np.exp(contribution), abs=0.01)  # the slope is 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tenure", 3, "3 months"),
        ("charges", 29.900000000000002, "29.9 euros a month"),
        ("charges", 0.000125, "0.000125 euros a month"),
        ("charges", None, "not given"),
        ("senior", 0, "0"),
        ("joined", "2020-02-29", "2020-02-29"),
    ],
)
def test_a_value_is_shown_as_people_write_it(
    churn: Contract, name: str, value: Value, words: str
) -> None:
    assert churn[name].words(value) == words


def test_booleans_and_unlisted_categories_are_shown_as_sent(contract: Contract) -> None:
    assert Feature("own", "boolean", "own").words(True) == "true"
    assert contract["native_country"].words("Cuba") == "Cuba"
    assert contract["native_country"].words("Atlantis") == "Atlantis (read as not given)"


def test_reasons_name_columns_of_every_kind(churn_client: FlaskClient) -> None:
    record = {"tenure": 3, "senior": 1, "autopay": "No", "joined": "2020-02-29", "charges": 1e-3}
    one = explain(churn_client, record)
    assert one["explanation"]["reasons"][0].startswith("tenure: 3 months lowers the odds of leaves")
    assert set(one["explanation"]["contributions"]) == {*record, "plan", "contentment"}


def test_an_explanation_changes_no_other_field_of_the_response(
    client: FlaskClient, record: Record
) -> None:
    plain = client.post("/predict", json=record).get_json()
    one = explain(client, record)
    assert list(one) == [*plain, "explanation"]
    assert one["probability"] == plain["probability"]
    assert client.post("/predict?explain=false", json=record).get_json().keys() == plain.keys()


def test_more_records_than_can_be_explained_at_once_are_rejected(
    live_model: LiveModel, journal: Any, record: Record
) -> None:
    predictor = Predictor(live_model, journal, metrics=None, max_records=1000)  # type: ignore[arg-type]
    body = json.dumps([record] * (MAX_EXPLAINED + 1)).encode()
    request = PredictionRequest(body, None, explain=True)
    predictor.predict([request])
    assert "at most 100 with explain=true" in str(request.outcome)


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_a_version_without_its_own_booster_predicts_but_does_not_explain(
    client: FlaskClient, live_model: LiveModel, package: Path, record: Record, damage: str
) -> None:
    install(live_model.folder, package, "2")
    booster = live_model.folder.path / "2" / BOOSTER
    if damage == "missing":
        booster.unlink()
    else:
        booster.write_bytes(booster.read_bytes() + b" ")
    live_model.refresh()
    response = client.post("/predict?explain=true", json=record)
    assert (response.status_code, response.get_json()["error"]["code"]) == (501, "not_explained")
    assert BOOSTER in response.get_json()["error"]["message"]
    assert client.post("/predict", json=record).get_json()["model_version"] == "2"


def test_an_explanation_by_a_version_of_an_earlier_release_fails_with_the_remedy(
    package: Path, tmp_path: Path, contract: Contract
) -> None:
    model = Model(with_metadata(package, tmp_path, platt_slope="2.0"), "1", contract)
    with pytest.raises(Exception, match="booster.ubj: wrong golden row"):
        assert model.explainer
    del model.facts["booster_sha256"]
    with pytest.raises(Exception, match="The package has no booster.ubj. Train a new version"):
        assert model.explainer
