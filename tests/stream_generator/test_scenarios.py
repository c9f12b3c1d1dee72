"""The rows and columns that each scenario of the census's file changes, and the unchanged ones."""

from collections import Counter
from typing import Any

import pytest

from config.contract import CONTRACT_PATH, Contract
from stream_generator.traffic.changes import FILE, Changes
from stream_generator.traffic.rows import Row, TrafficError
from stream_generator.traffic.scenarios import SCENARIOS

PATH = CONTRACT_PATH.with_name(FILE)
N_ROWS = 2000


def run(
    name: str, rows: list[Row], contract: Contract, n_rows: int = N_ROWS, seed: int = 3
) -> list[Row]:
    """Return the rows that a scenario sends."""
    return list(SCENARIOS[name](Changes(rows, contract, PATH), n_rows, seed))


@pytest.mark.parametrize("name", SCENARIOS)
def test_records_are_valid_and_reproducible_and_the_given_rows_stay_unchanged(
    name: str, rows: list[Row], contract: Contract
) -> None:
    before = [Row(dict(row.record), row.label) for row in rows]
    sent, again, other = (run(name, rows, contract, 300, seed) for seed in (5, 5, 6))
    assert [contract.check(row.record) for row in sent] == [[]] * 300
    assert {row.label for row in sent} == {0, 1}
    assert sent == again != other
    assert rows == before


def test_sudden_changes_only_the_columns_of_the_file_and_enough_for_a_drift_verdict(
    rows: list[Row], contract: Contract
) -> None:
    sudden = Changes(rows, contract, PATH).sudden
    unchanged = set(contract.input_names) - {*sudden.shift, *sudden.resample}
    assert len(unchanged) / len(contract.input_names) <= 0.6
    unshifted, shifted = (run(name, rows, contract) for name in ("none", "sudden"))
    for name in unchanged:
        assert column(unshifted, name) == column(shifted, name)
    for name, shares in sudden.resample.items():
        assert sum(shares.values()) == pytest.approx(1)
        counts = Counter(column(shifted, name))
        found = {value: counts[value] / N_ROWS for value in shares}
        # four standard deviations of a share drawn 2,000 times are at most 0.045
        assert found == pytest.approx(shares, abs=0.045)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("age", 30, 42), ("age", 85, 90), ("hours_per_week", 40, 28)],
)
def test_a_number_is_shifted_within_its_range(
    name: str, before: int, after: int, record: dict[str, Any], contract: Contract
) -> None:
    row = Row(record | {name: before}, 1)
    assert run("sudden", [row], contract, n_rows=1)[0].record[name] == after


def test_an_invalid_number_stays_unchanged_for_the_service_to_reject(
    record: dict[str, Any], contract: Contract
) -> None:
    del record["hours_per_week"]
    sent = run("sudden", [Row(record | {"age": "old"}, 1)], contract, n_rows=1)[0].record
    assert sent["age"] == "old"
    assert "hours_per_week" not in sent


def test_gradual_begins_like_none_and_ends_like_sudden(rows: list[Row], contract: Contract) -> None:
    unshifted, grown = (run(name, rows, contract) for name in ("none", "gradual"))
    changed = [before != after for before, after in zip(unshifted, grown, strict=True)]
    quarters = [sum(changed[n : n + 500]) / 500 for n in range(0, N_ROWS, 500)]
    # four standard deviations of a share drawn 500 times are at most 0.09
    assert quarters == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.09)
    assert not changed[0]
    assert changed[-1]


def test_label_shift_sends_more_positives_and_changes_no_row(
    rows: list[Row], contract: Contract
) -> None:
    sent = run("label_shift", rows, contract)
    assert sum(row.label for row in sent) / N_ROWS == pytest.approx(0.6, abs=0.045)
    assert {str(row) for row in sent} <= {str(row) for row in rows}


def test_label_shift_needs_rows_of_both_labels(rows: list[Row], contract: Contract) -> None:
    with pytest.raises(TrafficError, match="all rows have the same label; expected both labels"):
        run("label_shift", [row for row in rows if row.label], contract)


def test_covariate_shift_sends_a_group_more_often_with_the_labels_of_its_rows(
    rows: list[Row], contract: Contract
) -> None:
    """The scenario once changed columns and kept labels, which is a concept shift."""
    sent = run("covariate_shift", rows, contract)
    managers = ("Exec-managerial", "Prof-specialty")
    share = sum(row.record["occupation"] in managers for row in sent) / N_ROWS
    assert share == pytest.approx(0.75, abs=0.04)  # four standard deviations
    assert {str(row) for row in sent} <= {str(row) for row in rows}
    others = [row for row in rows if row.record["occupation"] not in managers]
    with pytest.raises(TrafficError, match="occupation is Exec-managerial or .* all rows or for"):
        run("covariate_shift", others, contract)


def test_mixed_records_changes_one_column_and_keeps_its_values(
    rows: list[Row], contract: Contract
) -> None:
    sent, unshifted = run("mixed_records", rows, contract), run("none", rows, contract)
    for name in contract.input_names:
        before, after = ([row.record[name] for row in some] for some in (unshifted, sent))
        assert (before != after) == (name == "occupation")
        assert set(after) <= {row.record[name] for row in rows}
    assert [row.label for row in sent] == [row.label for row in unshifted]


def test_concept_shift_flips_the_labels_of_its_group_only(
    rows: list[Row], contract: Contract
) -> None:
    unshifted, flipped = (run(name, rows, contract) for name in ("none", "concept_shift"))
    groups: Counter[bool] = Counter()
    for before, after in zip(unshifted, flipped, strict=True):
        assert before.record == after.record
        in_group = before.record["occupation"] in ("Exec-managerial", "Prof-specialty")
        assert (before.label != after.label) == in_group
        groups[in_group] += 1
    assert groups[True] > 100 < groups[False]


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("unit_change", "hours_per_week", lambda hours: max(hours // 8, 1)),
        ("missing_field", "occupation", lambda _: None),
        ("unseen_category", "native_country", lambda _: "Atlantis"),
    ],
)
def test_a_data_quality_scenario_changes_one_field_only(
    name: str, field: str, expected: Any, rows: list[Row], contract: Contract
) -> None:
    unshifted, broken = (run(one, rows, contract) for one in ("none", name))
    for before, after in zip(unshifted, broken, strict=True):
        value = expected(before.record[field])
        assert after == Row(before.record | {field: value}, before.label)
    incomplete = Row({k: v for k, v in rows[0].record.items() if k != field}, 1)
    assert run(name, [incomplete], contract, n_rows=1) == [incomplete]


def column(rows: list[Row], name: str) -> list[Any]:
    """Return the values of one feature."""
    return [row.record[name] for row in rows]
