"""The contract: one set of rules for files, frames and requests."""

import msgspec
import pytest
import yaml

from config.contract import CONTRACT_PATH, ContractError, load_contract


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


@pytest.mark.parametrize(
    ("column", "change", "wrong"),
    [
        ("sex", {"categories": []}, "sex: a nominal needs categories"),
        ("education", {"categories": []}, "education: a ordinal needs categories"),
        ("age", {"minimum": None}, "age: needs a minimum and a maximum"),
        ("hours_per_week", {"maximum": None}, "hours_per_week: needs a minimum and a maximum"),
        ("education_num", {"rank_of": "schooling"}, "education_num: rank_of names no column"),
    ],
)
def test_a_rule_that_a_column_cannot_have_is_named(tmp_path, column, change, wrong):
    """The project's own file with one rule changed."""
    rules = yaml.safe_load(CONTRACT_PATH.read_text("utf-8"))
    (feature,) = (one for one in rules["features"] if one["name"] == column)
    feature.update(change)
    path = tmp_path / "features.yaml"
    path.write_text(yaml.safe_dump(rules), "utf-8")
    with pytest.raises(ContractError, match=rf"features\.yaml: {wrong}"):
        load_contract(path)


def test_digest_changes_with_a_rule(contract):
    """A model made for people up to 90 does not answer for those up to 91."""
    age, *others = contract.features
    older = msgspec.structs.replace(age, maximum=age.maximum + 1)
    assert msgspec.structs.replace(contract, features=(age, *others)).digest == contract.digest
    assert msgspec.structs.replace(contract, features=(older, *others)).digest != contract.digest
