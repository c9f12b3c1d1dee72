"""A short run of the drills, and the rules for their table."""

import re
from pathlib import Path

import pytest
import yaml

from config.alerts import ALERTS
from stream_generator.traffic.scenarios import SCENARIOS
from tests.conftest import ROOT
from tests.config.test_monitoring_files import RULES, debian
from tests.drills.drills import DRILLS, Drill, Outcome, described, perform, speed_up

SHORT = ("none", "sudden", "service down")


def test_the_table_names_existing_alerts_and_all_scenarios() -> None:
    known = {alert.name for alert in ALERTS}
    named = {
        pattern.split("(")[0] for drill in DRILLS for pattern in drill.expected + drill.allowed
    }
    assert named <= known
    assert {drill.scenario for drill in DRILLS} == set(SCENARIOS)


def test_every_alert_has_a_drill_or_is_listed_as_one_without() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    drilled = {pattern.split("(")[0] for drill in DRILLS for pattern in drill.expected}
    assert listed == {alert.name for alert in ALERTS} - drilled


def test_the_sped_up_rules_differ_in_durations_only() -> None:
    def rules(text: str) -> list[dict]:
        return yaml.safe_load(text)["groups"][0]["rules"]

    before, after = rules(RULES.read_text("utf-8")), rules(speed_up(RULES.read_text("utf-8")))
    assert [rule["alert"] for rule in after] == [rule["alert"] for rule in before]
    differ = [new["alert"] for old, new in zip(before, after) if old["expr"] != new["expr"]]
    assert differ == ["MonitoringStale", "TrafficStopped"]
    assert all(rule["for"].endswith("s") for rule in after)


@pytest.mark.parametrize(
    ("fired", "windows", "problem"),
    [
        ({"FeatureDrift(age)": 9.0}, 3, ""),
        ({}, 0, "FeatureDrift(*) did not fire"),
        ({"FeatureDrift(age)": 9.0, "Latency": 3.0}, 3, "Latency fired"),
        ({"FeatureDrift(age)": 1e4}, 3, "FeatureDrift(age) fired after 10000 s, expected 180"),
        ({"FeatureDrift(age)": 9.0}, 4, "4 windows until the last alert, expected 3"),
    ],
)
def test_an_outcome_reports_each_difference_from_the_expected_one(
    fired: dict[str, float], windows: float, problem: str
) -> None:
    drill = Drill("one", "something", ("FeatureDrift(*)",), ("TargetDrift(*)",))
    assert "; ".join(Outcome(drill, fired, windows).problems) == problem
    still = Outcome(drill, fired, windows, ("FeatureDrift(age)",)).problems
    assert "FeatureDrift(age) did not resolve" in still


def test_a_scenario_gives_a_drill_its_change_and_its_column() -> None:
    drill = Drill("unit", "", ("FeatureDrift(COLUMN)",), scenario="unit_change")
    found = described(drill, "tenure divided by 12")
    assert (found.change, found.expected) == ("tenure divided by 12", ("FeatureDrift(tenure)",))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_expected_alerts_fire_and_all_others_stay_silent(tmp_path: Path) -> None:
    debian("prometheus")
    chosen = tuple(drill for drill in DRILLS if drill.name in SHORT)
    outcomes = list(perform(chosen, tmp_path, max_evals=1))
    assert len(outcomes) == len(SHORT)
    for outcome in outcomes:
        assert outcome.problems == [], outcome
