"""The contract: one set of rules for files, frames and requests."""

import msgspec
import pytest

from config.contract import ContractError, load_contract
from config.runtime.settings import SettingsError
from prediction_service.errors import InvalidRecords
from prediction_service.predict.parsing import RecordReader


def test_every_problem_of_a_record_is_listed_with_value_and_expectation(contract, record):
    problems = contract.check(record | {"age": -3, "sex": "femal", "educaton": "Masters"})
    assert [str(problem) for problem in problems] == [
        "educaton: got 'Masters', expected no such field; did you mean 'education'?",
        "age: got -3, expected a whole number from 17 to 90",
        "sex: got 'femal', expected one of Female, Male; did you mean 'Female'?",
    ]


def test_a_missing_required_field_is_reported(contract, record):
    del record["race"]
    (problem,) = contract.check(record)
    assert problem.field == "race" and "(the field is missing)" in problem.expected


def test_education_num_must_follow_from_education(contract, record):
    assert contract.check(record | {"education_num": 9}) == []
    (problem,) = contract.check(record | {"education_num": 13})
    assert problem.expected == "9, the rank of education 'HS-grad'"


TARGET = """\
target: {name: churn, negative: stays, positive: leaves, description: who leaves}
features:
- {name: plan, kind: nominal, description: it, categories: [basic, family], default: basic}
- {name: mood, kind: ordinal, description: it, categories: [poor, good], used: false}
- {name: scale, kind: ordinal, description: it, categories: [low, high], unseen: missing}
"""
# Kind and keys of a column `a`, and the start of its problem.
WRONG = """\
real => kind: got real, expected one of integer, number, boolean, nominal, ordinal, date
ordinal => categories: expected at least one
nominal, categories: [b, b] => categories: expected at least one, each once, without '?'
integer, minimum: 1 => minimum and maximum: expected both
integer, minimum: 3, maximum: 1 => minimum: got 3, expected at most the maximum, 1
integer, minimum: 1, maximum: 3, unseen: missing => unseen: got missing, expected reject, as for \
every integer column
nominal, categories: [b], missing: maybe => missing: got maybe, expected one of reject, allow
integer, minimum: 1, maximum: 9, segment: true => segment: got true, expected upper bounds of \
bands, as in [29, 44, 59]
nominal, categories: [b], segment: [3] => segment: got bands, expected true or false
integer, minimum: 1, maximum: 9, segment: [2.5] => segment: expected upper bounds of bands, which \
are whole numbers
number, minimum: 1, maximum: 9, segment: [] => segment: expected upper bounds of bands, which are \
numbers
integer, minimum: 1, maximum: 9, segment: [5, 3] => segment: expected upper bounds in ascending \
order, at least the minimum
integer, minimum: 1, maximum: 9, segment: [9] => segment: expected upper bounds in ascending \
order, at least the minimum and below the
integer, minimum: 1, maximum: 9, weight: true => weight: expected a number or integer with used: false
integer, minimum: 0, maximum: 9, used: false, weight: true => weight: expected a number or integer \
with used: false and a minimum above 0
integer, minimum: 1, maximum: 2.5 => maximum: got 2.5, expected a whole number
date, minimum: 2020-01-01, maximum: 7 => maximum: got 7, expected a date: YYYY-MM-DD
number, minimum: 0, maximum: 1.0e+39 => minimum and maximum: expected at most 3e+38
boolean, values: [1, No] => values: expected the false and the true value, as in [false, true]
nominal, categories: ['b', no] => categories: got false, expected text. YAML reads yes, no, on \
and off as booleans: write it in quotes, as in "no".
nominal, categories: ['b', 1] => categories: got 1, expected text. Write it in quotes: "1".
nominal, categories: MANY => categories: got 1001, expected at most 1000. List the commonest
nominal, categories: [b], aliases: [Plan] => aliases: got Plan, which names a column already
integer, minimum: 1, maximum: 3, default: 4 => default: got 4, expected a whole number from 1 to 3
integer, minimum: 1, maximum: 2, rank_of: mood => rank_of: got mood, expected an ordinal column with
integer, minimum: 1, maximum: 2, rank_of: nobody => rank_of: got nobody, expected an ordinal \
column with
integer, minimum: 1, maximum: 2, rank_of: scale => rank_of: got scale, expected an ordinal column \
with used: true, and missing and
"""
WRONG_NAMES = {
    "plan": "plan: named 2 times, expected once",
    "churn": "target: name: got churn, which is also a feature",
    "probability": "probability: name: the pipeline uses this name",
    "a b": "a b: name: expected letters, digits and _",
}


def column(keys: str, name: str = "a") -> str:
    """Return a column as YAML."""
    return f"- {{name: {name}, description: it, kind: {keys}}}\n"


PAIRS = [line.split(" => ") for line in WRONG.splitlines()]
MANY = str([f"c{n}" for n in range(1001)])
CASES = [(column(keys.replace("MANY", MANY)), f"a: {problem}") for keys, problem in PAIRS]
CASES += [(column("nominal, categories: [b]", name), text) for name, text in WRONG_NAMES.items()]
CASES += [
    ("- {kind: integer, description: x}\n", "feature 4: Object missing required field `name`")
]


@pytest.mark.parametrize(("feature", "problem"), CASES, ids=[problem for _, problem in CASES])
def test_an_invalid_contract_is_rejected_when_it_is_loaded(tmp_path, feature, problem):
    """Such files were accepted, and requests, trainings or the monitoring failed later."""
    path = tmp_path / "features.yaml"
    path.write_text(TARGET)
    load_contract(path)
    path.write_text(TARGET + feature)
    with pytest.raises(SettingsError) as caught:
        load_contract(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert len(str(caught.value).splitlines()) == 1


def test_all_problems_of_a_contract_are_reported_at_once(tmp_path):
    path = tmp_path / "features.yaml"
    text = TARGET.replace("leaves,", "stays, positive_message: perhaps,")
    path.write_text(text + CASES[-1][0] + CASES[0][0] + CASES[1][0])
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    problems = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    assert problems == [
        "feature 4: Object missing required field `name`",
        "a: kind: got real, expected one of integer, number, boolean, nominal, ordinal, date",
        "a: named 2 times, expected once",
        "a: categories: expected at least one, each once, without '?'",
        "target: negative and positive: got 'stays' twice, expected two labels",
        "target: messages: got 'perhaps', expected {probability} in it, once",
    ]


def test_the_digest_changes_with_a_rule_and_not_with_a_message(contract):
    """A model that was trained for people up to 90 is not valid for people of 91."""
    age, *others = contract.features
    older = msgspec.structs.replace(age, maximum=age.maximum + 1)
    assert msgspec.structs.replace(contract, features=(age, *others)).digest == contract.digest
    assert msgspec.structs.replace(contract, features=(older, *others)).digest != contract.digest
    target = msgspec.structs.replace(contract.target, positive_message="Rich: {probability}")
    assert msgspec.structs.replace(contract, target=target).digest == contract.digest


def test_a_message_has_the_predicted_class_and_the_probability_of_the_positive_class(contract):
    assert [contract.target.message(index, p) for index, p in ((0, 0.314), (1, 0.75))] == [
        "The model calls this person <=50K; the probability of more than 50,000 US dollars a year"
        " (1994) is 31.4%.",
        "The model calls this person >50K; the probability of more than 50,000 US dollars a year"
        " (1994) is 75.0%.",
    ]


KINDS = """\
target: {name: paid, negative: "1", positive: "0", description: whether the loan was not repaid}
features:
- {name: amount, kind: number, description: it, minimum: 0, maximum: 1000, missing: allow}
- {name: months, kind: integer, description: it, minimum: 1, maximum: 60, missing: allow}
- {name: home, kind: boolean, description: it, missing: allow}
- {name: phone, kind: boolean, description: it, values: [0, 1]}
- {name: car, kind: boolean, description: it, values: ["No", "Yes"]}
- {name: since, kind: date, description: it, minimum: 2000-01-01, maximum: 2030-12-31,
   parts: [month, weekday], reference: 2020-01-01}
- {name: grade, kind: ordinal, description: it, categories: [low, high], unseen: missing}
"""
LOAN = {
    "amount": 12.5,
    "months": 12,
    "home": True,
    "phone": 0,
    "car": "Yes",
    "since": "2024-02-29",
    "grade": "high",
}


@pytest.fixture
def loans(tmp_path):
    """Return a contract with columns of every kind."""
    path = tmp_path / "loans.yaml"
    path.write_text(KINDS)
    return load_contract(path)


VALID = [
    {"amount": 3, "months": None, "home": None, "since": "2000-01-01", "grade": "middling"},
    {"amount": None, "phone": 1, "home": False, "since": "2030-12-31"},
]
INVALID = [
    {"amount": "12.5"},
    {"amount": -0.0},
    {"amount": 1000.5},
    {"amount": True},
    {"months": 1.5},
    {"home": "true"},
    {"home": 1},
    {"phone": True},
    {"phone": 2},
    {"car": "yes"},
    {"car": True},
    {"since": None},
    {"since": "2023-02-29"},
    {"since": "29.02.2024"},
    {"since": "1999-12-31"},
    {"since": "2024-02-29T00:00"},
    {"since": 20240229},
    {"grade": "HIGH"},
    {"grade": 1},
]


@pytest.mark.parametrize("change", [{}, *VALID, *INVALID], ids=str)
def test_the_request_reader_and_the_contract_find_the_same_problems_for_every_kind(loans, change):
    record = LOAN | change
    problems = loans.check(record)
    assert [problem.field for problem in problems] == (list(change) if change in INVALID else [])
    body = msgspec.json.encode(record)
    if problems:
        with pytest.raises(InvalidRecords) as caught:
            RecordReader(loans, 10).read(body)
        assert [one.field for one in caught.value.problems] == list(change)
    else:
        assert RecordReader(loans, 10).read(body)[0] == [tuple(record.values())]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1e400", "amount: got 'inf', expected a number from 0 to 1000, or null"),
        ('"1,234"', "amount: got '1,234', expected a number from 0 to 1000, or null"),
        ('"NaN"', "amount: got 'NaN', expected a number from 0 to 1000, or null"),
        ("-0.0", "amount: got -0.0, expected a number from 0 to 1000, or null"),
    ],
)
def test_an_invalid_number_is_reported(loans, text, problem):
    body = msgspec.json.encode(LOAN).replace(b"12.5", text.encode())
    with pytest.raises(InvalidRecords) as caught:
        RecordReader(loans, 10).read(body)
    found = caught.value.problems[0]
    assert f"{found.field}: got {found.value!r}, expected {found.expected}" == problem


def test_a_number_may_have_a_decimal_point(loans):
    body = msgspec.json.encode(LOAN | {"amount": 12, "months": 12.0, "phone": 1.0})
    assert RecordReader(loans, 10).read(body)[0][0][:4] == (12.0, 12, True, 1)


def test_values_keep_their_meaning_from_text_to_frame_and_back(loans):
    texts = {
        "amount": "12.50",
        "months": "12.0",
        "home": "TRUE",
        "phone": "0.0",
        "car": "Yes",
        "since": "2024-02-29",
        "grade": "high",
    }
    assert {name: loans[name].parse(text) for name, text in texts.items()} == LOAN
    known = {name: loans[name].known(value) for name, value in LOAN.items()}
    assert known == {
        "amount": 12.5,
        "months": 12,
        "home": "true",
        "phone": "0",
        "car": "Yes",
        "since": 1520,
        "grade": "high",
    }
    assert {name: loans[name].show(value) for name, value in known.items()} == LOAN
    for name in ("amount", "months", "home"):
        assert loans[name].show(loans[name].known(None)) is None
    assert loans["since"].date_part(1520, "month") == 2
    assert loans["since"].date_part(1520, "weekday") == 3  # a Thursday


def test_an_invalid_text_is_returned_unchanged(loans):
    """The error then shows the text of the file."""
    texts = {"amount": "1,234", "months": "1e3", "home": "yes", "phone": "2", "since": "29.2.2024"}
    assert {name: loans[name].parse(text) for name, text in texts.items()} == texts


@pytest.mark.parametrize("country", ["United States", " United-States", "united-states"])
def test_a_misspelt_category_is_not_read_as_an_unlisted_one(contract, record, country):
    """Such a country once was read as missing, and the probability fell from 0.81 to 0.73."""
    (problem,) = contract.check(record | {"native_country": country})
    assert (problem.field, problem.nearest) == ("native_country", "United-States")
    with pytest.raises(InvalidRecords):
        RecordReader(contract, 10).read(msgspec.json.encode(record | {"native_country": country}))
    for unlisted in ("Brazil", "Niger", "Iraq", "Austria"):
        assert contract.check(record | {"native_country": unlisted}) == []


def test_labels_are_compared_as_the_contract_writes_them(loans, contract):
    """The labels "1" and "0" once were read as the classes 1 and 0, so each label was inverted."""
    assert [loans.target.class_of(label) for label in ("1", "0", 1, 0, 1.0)] == [0, 1, 0, 1, 0]
    assert [contract.target.class_of(label) for label in ("<=50K", ">50K", 0, "1")] == [0, 1, 0, 1]
    assert loans.target.class_of(2) is None and contract.target.class_of("50K") is None
    assert str(contract.target.check(">50K.")) == (
        "income: got '>50K.', expected one of <=50K, >50K, or 0 or 1; did you mean '>50K'?"
    )
