"""The changes that are derived from any table, and the file that describes other ones."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.contract import Contract, load_contract
from config.runtime.settings import SettingsError
from stream_generator.send_data import main
from stream_generator.traffic.changes import FILE, Changes, Group, load_changes, read_file
from stream_generator.traffic.rows import Row, TrafficError
from stream_generator.traffic.scenarios import SCENARIOS
from tests.conftest import ROOT
from tests.stream_generator.conftest import random_rows
from tests.stream_generator.stand_in import StandIn

CHURN = ROOT / "tests/end_to_end/churn.yaml"
N_ROWS = 2000
# A table of the other extreme: few columns, none of which may be missing.
STRICT = """
target: {name: sold, negative: "no", positive: "yes", description: whether it was sold}
features:
  - {name: price, kind: number, minimum: -1, maximum: 1, description: price}
  - {name: shape, kind: ordinal, categories: [flat, round], description: shape}
  - {name: shape_rank, kind: integer, rank_of: shape, minimum: 1, maximum: 2, description: rank}
"""


@pytest.fixture(scope="module")
def churn_rows(churn: Contract) -> list[Row]:
    """Return rows of `churn`: short tenures leave, and three plans in four are `family`."""
    rng = random.Random(1)
    rows = random_rows(churn, 600)
    return [
        Row(
            row.record | {"plan": "family" if rng.random() < 0.75 else row.record["plan"]},
            int(row.record["tenure"] < 40),
        )
        for row in rows
    ]


@pytest.fixture
def strict(tmp_path: Path) -> Contract:
    """Return the contract of STRICT."""
    path = tmp_path / "features.yaml"
    path.write_text(STRICT, "utf-8")
    return load_contract(path)


STRICT_ROWS = [
    Row({"price": n / 100, "shape": shape, "shape_rank": rank}, n % 2)
    for n in range(100)
    for shape, rank in (("flat", 1), ("round", 2))
]


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"unseen_category"}))
def test_every_record_of_another_table_is_valid(
    name: str, churn: Contract, churn_rows: list[Row]
) -> None:
    sent = list(SCENARIOS[name](Changes(churn_rows, churn), 300, 3))
    assert [problem for row in sent for problem in churn.check(row.record)] == []
    assert len(sent) == 300 and {row.label for row in sent} == {0, 1}


def test_the_scenario_sudden_changes_every_second_column_and_the_most_separating_one(
    churn: Contract, churn_rows: list[Row]
) -> None:
    changes = Changes(churn_rows, churn)
    before, after = (list(SCENARIOS[n](changes, N_ROWS, 3)) for n in ("none", "sudden"))
    differing = {
        name
        for one, two in zip(before, after, strict=True)
        for name in one.record
        if one.record[name] != two.record[name]
    }
    named = {*changes.sudden.shift, *changes.sudden.resample}
    assert differing == named
    assert len(named) == 4 and "tenure" in named
    for name in named:
        assert share(before, name, None) == pytest.approx(share(after, name, None), abs=0.045)


def test_a_number_and_a_date_move_by_a_standard_deviation_to_the_rarer_label_within_the_range(
    churn: Contract,
) -> None:
    values = [
        ({"tenure": 10, "joined": "2001-01-01"}, 0),
        ({"tenure": 30, "joined": "2001-01-21"}, 1),
    ]
    rows = [Row(one | {"senior": 0}, label) for one, label in values for _ in range(10)]

    def steps(more: int, label: int) -> dict[str, float]:
        moved = [Row(r.record | {"tenure": r.record["tenure"] + more}, r.label) for r in rows]
        moved += [Row(r.record, label) for r in moved if r.label == label]
        return changes_of(moved, churn, "tenure").sudden.shift

    assert steps(40, label=0) == {"tenure": 9} and steps(40, label=1) == {"tenure": -9}
    at_the_end = [Row({"tenure": 120}, n % 2) for n in range(6)] + [Row({"tenure": 100}, 0)] * 4
    assert changes_of(at_the_end, churn, "tenure").sudden.shift == {"tenure": -10}
    assert changes_of(rows, churn, "joined").sudden.shift == {"joined": -10}
    sent = list(SCENARIOS["sudden"](changes_of(rows, churn, "joined"), 20, 0))
    assert {row.record["joined"] for row in sent} == {"2000-12-22", "2001-01-11"}


def test_labels_follow_from_the_changed_columns_and_are_drawn_for_each_row(
    churn: Contract,
) -> None:
    """The demo once sent changed rows with their old labels, several times each.

    A model that had memorised the rows got a ROC AUC of 0.997. A model that had learnt from them
    was worse on all other rows.
    """
    rows = [
        Row({"plan": plan, "tenure": tenure}, label)
        for plan, tenure, labels in (("basic", 1, [1] * 9 + [0]), ("family", 99, [1] + [0] * 9))
        for label in labels
    ]
    changes = changes_of(rows, churn, "plan", "tenure")
    odds_of_plan = (9 + 0.5) / (1 + 0.5)  # prior odds of 1, and one row more
    rule = changes.label_rule
    assert rule.probability({"plan": "basic"}) == pytest.approx(odds_of_plan / (1 + odds_of_plan))
    assert rule.probability({"plan": "student"}) == rule.probability({"plan": None}) == 0.5
    both = odds_of_plan**2
    assert rule.probability({"plan": "basic", "tenure": 1}) == pytest.approx(both / (1 + both))
    sent = [row for row in SCENARIOS["sudden"](changes, N_ROWS, 0) if row.record["plan"] == "basic"]
    expected = sum(rule.probability(row.record) for row in sent) / len(sent)
    assert sum(row.label for row in sent) / len(sent) == pytest.approx(expected, abs=0.045)
    labels = {
        str(row.record): {one.label for one in sent if one.record == row.record} for row in sent
    }
    assert {0, 1} in labels.values()


def changes_of(rows: list[Row], contract: Contract, *names: str) -> Changes:
    """Return the changes for a contract that has only the named columns."""
    features = tuple(feature for feature in contract.features if feature.name in names)
    return Changes(rows, msgspec.structs.replace(contract, features=features))


def test_the_rarest_category_becomes_the_most_common_and_missing_values_keep_their_share(
    churn: Contract,
) -> None:
    plans = ["basic"] * 50 + ["family"] * 20 + ["student"] * 10 + [None] * 20
    rows = [Row({"plan": plan}, n % 2) for n, plan in enumerate(plans)]
    changes = changes_of(rows, churn, "plan")
    shares = {"student": 0.8 * 4 / 7, "family": 0.8 * 2 / 7, "basic": 0.8 / 7, None: 0.2}
    assert changes.sudden.resample["plan"] == pytest.approx(shares)
    sent = list(SCENARIOS["sudden"](changes, N_ROWS, 0))
    assert {plan: share(sent, "plan", plan) for plan in shares} == pytest.approx(shares, abs=0.045)


def test_a_boolean_keeps_the_values_of_its_records(churn: Contract) -> None:
    rows = [Row({"senior": int(n < 30)}, n % 2) for n in range(100)]
    sent = list(SCENARIOS["sudden"](changes_of(rows, churn, "senior"), N_ROWS, 0))
    assert {type(row.record["senior"]) for row in sent} == {int}
    assert share(sent, "senior", 1) == pytest.approx(2 / 3, abs=0.045)


def test_concept_shift_has_the_group_that_separates_the_labels_most(
    churn: Contract, churn_rows: list[Row]
) -> None:
    group = Changes(churn_rows, churn).concept_shift
    assert group.column == "tenure" and isinstance(group.minimum, int) and group.minimum > 40
    assert changes_of(churn_rows, churn, "plan").concept_shift == Group("plan", ("family",))


@pytest.mark.parametrize(("positive", "expected"), [(0.2, 0.55), (0.9, 0.55)])
def test_label_shift_sends_more_of_the_rarer_label(
    positive: float, expected: float, churn: Contract
) -> None:
    rows = [Row({"tenure": n}, int(n < 100 * positive)) for n in range(100)]
    sent = list(SCENARIOS["label_shift"](Changes(rows, churn), N_ROWS, 3))
    assert sum(row.label for row in sent) / N_ROWS == pytest.approx(expected, abs=0.045)


def test_unit_change_and_missing_field_choose_a_column_that_shows_them(
    churn: Contract, churn_rows: list[Row]
) -> None:
    changes = Changes(churn_rows, churn)
    assert changes.unit_change.column in ("tenure", "charges")
    assert changes.missing_field == max(
        ("plan", "charges", "autopay", "joined", "contentment"),
        key=lambda name: 1 - share(churn_rows, name, None),
    )
    sent = list(SCENARIOS["missing_field"](changes, 10, 3))
    assert {row.record[changes.missing_field] for row in sent} == {None}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("missing_field", "expected a column with used: true and missing: allow in the contract"),
        ("unseen_category", "expected a column with used: true and unseen: missing"),
    ],
)
def test_a_scenario_that_is_impossible_for_a_table_is_an_error_with_its_reason(
    name: str, wrong: str, strict: Contract
) -> None:
    with pytest.raises(TrafficError, match=f"--scenario {name}: not possible .* {wrong}"):
        next(SCENARIOS[name](Changes(STRICT_ROWS, strict), 10, 0))


def test_columns_with_one_value_cannot_be_changed(strict: Contract) -> None:
    rows = [Row({"price": 0.5, "shape": "flat"}, label) for label in (0, 1)]
    for name in ("sudden", "concept_shift", "unit_change"):
        with pytest.raises(TrafficError, match=f"--scenario {name}: not possible for this table"):
            next(SCENARIOS[name](Changes(rows, strict), 10, 0))


def test_a_rank_changes_with_its_column(strict: Contract, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("sudden: {resample: {shape: {round: 1}}}", "utf-8")
    sent = list(SCENARIOS["sudden"](Changes(STRICT_ROWS, strict, path), 50, 0))
    assert [strict.check(row.record) for row in sent] == [[]] * 50
    assert {row.record["shape_rank"] for row in sent} == {2}


def test_a_file_beside_the_contract_describes_some_scenarios_and_the_others_are_derived(
    tmp_path: Path, churn_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features.yaml").write_text(CHURN.read_text("utf-8"), "utf-8")
    file = """
    sudden: {resample: {senior: {1: 1}}}
    concept_shift: {column: joined, minimum: 2020-01-01}
    unit_change: {column: charges, divisor: 2}
    """
    (tmp_path / FILE).write_text(file, "utf-8")
    monkeypatch.setenv("CONTRACT", str(tmp_path / "features.yaml"))
    changes = load_changes(churn_rows)
    assert {row.record["senior"] for row in SCENARIOS["sudden"](changes, 50, 0)} == {1}
    before, after = (list(SCENARIOS[n](changes, 200, 0)) for n in ("none", "concept_shift"))
    for one, two in zip(before, after, strict=True):
        assert (one.label != two.label) == ((one.record["joined"] or "") >= "2020-01-01")
    assert changes.text("unit_change") == "charges divided by 2"
    assert changes.text("missing_field").endswith(" is null")


def test_every_problem_of_a_file_is_listed_with_its_remedy(tmp_path: Path, churn: Contract) -> None:
    path = tmp_path / FILE
    path.write_text(
        """
        sudden:
          shift: {age: 12, plan: 1}
          resample: {autopay: {No: 1}, contentment: {splendid: 1}}
        concept_shift: {column: joined, minimum: 1990-01-01}
        unit_change: {column: joined, divisor: 2}
        missing_field: tenure
        unseen_category: {column: plan, value: basic}
        """,
        "utf-8",
    )
    with pytest.raises(SettingsError) as caught:
        read_file(path, churn)
    *problems, remedy = str(caught.value).splitlines()
    expected = [
        "sudden.shift: got age, expected one of tenure, plan, charges, autopay, senior, joined,"
        " contentment",
        "sudden.shift: got plan of kind nominal, expected integer or number or date",
        "sudden.resample: autopay: got False, expected No or Yes, or null. YAML reads yes, no, on"
        ' and off as booleans: write it in quotes, as in "no".',
        "sudden.resample: contentment: got 'splendid', expected one of poor, fair, good, or null",
        "concept_shift: joined: got '1990-01-01', expected a date from 2000-01-01 to 2030-12-31, as"
        " YYYY-MM-DD, or null",
        "unit_change: got joined of kind date, expected integer or number",
        "missing_field: tenure: got None, expected a whole number from 0 to 120",
        "unseen_category: got basic, expected a value that no category has",
    ]
    assert problems == [f"{path}: {one}" for one in expected]
    assert remedy.startswith(f"Fix {path}, or delete it")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("sudden: {shift: {tenure: far}}", r"Expected `float`, got `str` - at `\$.sudden.shift"),
        ("suden: {}", "unknown field `suden`"),
        ("sudden: {shift: [", "expected the node content"),
    ],
)
def test_an_invalid_file_is_reported_with_its_path(
    text: str, wrong: str, tmp_path: Path, churn: Contract
) -> None:
    path = tmp_path / FILE
    path.write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=f"(?s){path}: .*{wrong}"):
        read_file(path, churn)


@pytest.fixture
def churn_flags(
    churn: Contract,
    churn_rows: list[Row],
    stand_in: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """Return flags that send the rows of CHURN to a stand-in with its contract."""
    stand_in.contract = churn
    monkeypatch.setenv("CONTRACT", str(CHURN))
    traffic = tmp_path / "traffic.jsonl"
    lines = (json.dumps({"record": row.record, "label": row.label}) for row in churn_rows)
    traffic.write_text("\n".join(lines), "utf-8")
    return ["--traffic", str(traffic), "--address", stand_in.address, "--quiet", "--batch", "50"]


def test_the_command_sends_another_tables_scenarios(
    churn_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scenario once sent `capital_gain` for every table. The service rejected each record."""
    summary = tmp_path / "summary.json"
    flags = [*churn_flags, "--rows", "500", "--summary", str(summary)]
    assert main([*flags, "--scenario", "sudden"]) == 0
    found = json.loads(summary.read_text("utf-8"))
    assert (found["sent"], found["answered"]) == (500, 500)
    assert found["change"].startswith("tenure ") and "new shares of " in found["change"]
    assert main([*flags, "--scenario", "unseen_category"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("send_data: --scenario unseen_category: not possible for this table;")
    assert err.count("\n") == 1


def share(rows: list[Row], name: str, value: Any) -> float:
    """Return the share of the rows with a value."""
    return Counter(row.record[name] for row in rows)[value] / len(rows)
