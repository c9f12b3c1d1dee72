"""The contract: one set of rules for files, frames and requests."""

import msgspec
import pytest

from config.contract import ContractError, load_contract
from config.runtime.settings import SettingsError


def test_fast_and_slow_way_agree_on_valid_and_invalid_records(contract, record):
    cases = [record, record | {"age": 16}, record | {"sex": "male"}, record | {"occupation": None}]
    cases += [record | {"nonsense": 1}, {}, record | {"native_country": "Brazil"}]
    cases += [record | {"race": None}, record | {"hours_per_week": "40"}, record | {"age": True}]
    for case in cases:
        try:
            contract.decoder.decode(msgspec.json.encode(case))
            fast_accepts = True
        except msgspec.ValidationError:
            fast_accepts = False
        assert fast_accepts == (contract.check(case) == []), case


def test_every_problem_of_a_record_is_listed_with_value_and_expectation(contract, record):
    problems = contract.check(record | {"age": -3, "sex": "femal", "educaton": "Masters"})
    assert [str(problem) for problem in problems] == [
        "educaton: got 'Masters', expected no such field; did you mean 'education'?",
        "age: got -3, expected a whole number from 17 to 90",
        "sex: got 'femal', expected one of Female, Male; did you mean 'Female'?",
    ]


def test_a_missing_required_field_is_named(contract, record):
    del record["race"]
    (problem,) = contract.check(record)
    assert problem.field == "race" and "(the field is missing)" in problem.expected


def test_education_num_must_follow_from_education(contract, record):
    assert contract.check(record | {"education_num": 9}) == []
    (problem,) = contract.check(record | {"education_num": 13})
    assert problem.expected == "9, the rank of education 'HS-grad'"


def test_missing_and_unseen_categories_reach_the_encoder_as_a_question_mark(contract):
    assert contract["native_country"].known("Brazil") == "?"
    assert contract["occupation"].known(None) == "?"
    assert contract["sex"].known("Male") == "Male"


def test_survey_weight_and_education_rank_are_not_model_inputs(contract):
    unused = {f.name for f in contract.features} - {f.name for f in contract.inputs}
    assert unused == {"fnlwgt", "education_num"}


def test_a_broken_contract_file_is_named(tmp_path):
    path = tmp_path / "features.yaml"
    path.write_text("target: {}\nfeatures: []\n")
    with pytest.raises(ContractError, match=r"features\.yaml.*name"):
        load_contract(path)


TARGET = """\
target: {name: churn, negative: stays, positive: leaves, description: who leaves}
features:
- {name: plan, kind: nominal, description: it, categories: [basic, family], default: basic}
- {name: mood, kind: ordinal, description: it, categories: [poor, good], used: false}
"""
WRONG = [
    ("{kind: integer, description: it}", "feature 3: Object missing required field `name`"),
    ("{name: a, kind: real, description: it}", "a: Invalid enum value 'real' - at `$.kind`"),
    ("{name: a, kind: ordinal, description: it}", "a: categories: expected at least one"),
    (
        "{name: a, kind: nominal, description: it, categories: [b, b]}",
        "a: categories: expected at least one, each once, without '?'",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 1}",
        "a: minimum and maximum: expected both",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 3, maximum: 1}",
        "a: minimum: got 3, expected at most the maximum, 1",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 1, maximum: 3, missing: category}",
        "a: missing and unseen: expected reject, as for every integer column",
    ),
    (
        "{name: a, kind: ordinal, description: it, categories: [b], missing: category}",
        "a: missing and unseen: expected reject, as for every ordinal column",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 1, maximum: 3, default: 4}",
        "a: default: got 4, expected a whole number from 1 to 3",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 1, maximum: 2, rank_of: mood}",
        "a: rank_of: got mood, expected an ordinal column with",
    ),
    (
        "{name: a, kind: integer, description: it, minimum: 1, maximum: 2, rank_of: nobody}",
        "a: rank_of: got nobody, expected an ordinal column with",
    ),
    (
        "{name: plan, kind: nominal, description: it, categories: [b]}",
        "plan: named 2 times, expected once",
    ),
    (
        "{name: churn, kind: nominal, description: it, categories: [b]}",
        "target: name: got churn, which is also a feature",
    ),
    (
        "{name: probability, kind: nominal, description: it, categories: [b]}",
        "probability: name: the pipeline uses this name",
    ),
    (
        "{name: a b, kind: nominal, description: it, categories: [b]}",
        "a b: name: expected letters, digits and _",
    ),
]


@pytest.mark.parametrize(("feature", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_a_contract_that_would_fail_later_is_refused_at_the_start(tmp_path, feature, problem):
    """Such files were taken, and requests, trainings or the monitoring failed on them."""
    path = tmp_path / "features.yaml"
    path.write_text(TARGET)
    load_contract(path)
    path.write_text(f"{TARGET}- {feature}\n")
    with pytest.raises(SettingsError) as caught:
        load_contract(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_of_a_contract_is_named_at_once(tmp_path):
    path = tmp_path / "features.yaml"
    text = TARGET.replace("leaves,", "stays, positive_message: perhaps,")
    path.write_text("- ".join([text, *(f"{feature}\n" for feature, _ in WRONG[:3])]))
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    said = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    assert said == [
        "feature 3: Object missing required field `name`",
        "a: Invalid enum value 'real' - at `$.kind`",
        "a: named 2 times, expected once",
        "a: categories: expected at least one, each once, without '?'",
        "target: negative and positive: got 'stays' twice, expected two labels",
        "target: messages: got 'perhaps', expected {probability} in it, once",
    ]


def test_digest_changes_with_a_rule(contract):
    """A model made for people up to 90 does not answer for those up to 91."""
    age, *others = contract.features
    older = msgspec.structs.replace(age, maximum=age.maximum + 1)
    assert msgspec.structs.replace(contract, features=(age, *others)).digest == contract.digest
    assert msgspec.structs.replace(contract, features=(older, *others)).digest != contract.digest


def test_an_answers_sentence_may_change_under_a_trained_model(contract):
    for positive_message in ("Rich: {probability}", None):
        target = msgspec.structs.replace(contract.target, positive_message=positive_message)
        reworded = msgspec.structs.replace(contract, target=target)
        assert reworded.digest == contract.digest


def test_an_answer_says_its_class_and_the_probability_of_the_positive_one(contract):
    assert [contract.target.message(index, p) for index, p in ((0, 0.314), (1, 0.75))] == [
        "This person probably earns no more than 50,000 US dollars a year (1994); the probability"
        " of more is 31.4%.",
        "This person probably earns more than 50,000 US dollars a year (1994); the probability of"
        " more is 75.0%.",
    ]
