"""Each alert fires, stays silent and handles missing data as intended: `promtool test rules`.

Prometheus' own evaluator runs the committed rules on the series below. The clock starts at 0. With
one value a minute, `0.4x4 1.3x20` is 0.4 up to minute 4 and 1.3 from minute 5.
`_` is a missing sample. `stale` ends a series.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from config.alerts import ALERTS, Alert
from tests.config.test_monitoring_files import PROMETHEUS, alert_rules, debian
from tests.conftest import run

RULES = PROMETHEUS.with_name("alerts.yml")
ALERT = {alert.name: alert for alert in ALERTS}
NOTHING: list[str] = []
ONCE = [""]  # one alert without labels of its own


class Case(NamedTuple):
    """An alert, input series, and the labels of the firing alerts by minute."""

    alert: str
    series: dict[str, str]
    firing: dict[int, list[str]]
    step: int = 1  # minutes between two samples


AGE, SEX = (f'income_feature_drift_persistent{{feature="{name}"}}' for name in ("age", "sex"))
CLASS = 'income_prediction_drift_persistent{output="income_class"}'
RANKING, CALIBRATION = (
    f'income_concept_shift_score{{check="{check}"}}' for check in ("roc_auc", "calibration")
)
SEX_TPR, AGE_FPR = (
    f'income_fairness_gap_score{{segment="{segment}",rate="{rate}"}}'
    for segment, rate in (("sex", "tpr"), ("age", "fpr"))
)
FLOOR = "income_quality_roc_auc_floor"
UPPER, LOWER = (f'income_quality_bound{{metric="roc_auc",bound="{b}"}}' for b in ("upper", "lower"))
MONGODB, EVIDENTLY = (
    f'income_journal_backlog_rows{{sink="{s}"}}' for s in ("mongodb", "evidently")
)
LETTERS = 'income_journal_dead_letters{sink="mongodb"}'
DROPPED = 'income_journal_dropped_total{sink="evidently"}'
MISCONFIGURED = 'income_sink_misconfigured{sink="evidently"}'
JOURNAL, JOURNAL_MAX = "income_journal_bytes", "income_journal_max_bytes"
COVERAGE = "income_label_coverage_ratio"
MATCHED = "income_labels_matched_total"
LATE, UNKNOWN = (f'income_labels_unmatched_total{{reason="{r}"}}' for r in ("late", "unknown"))
SHADOW_RUN = "income_shadow_run_timestamp_seconds"
MEASURED = "income_measurement_timestamp_seconds"
FINE = 'income_requests_total{endpoint="predict",status="200",version="1"}'
FAILED = 'income_requests_total{endpoint="predict",status="503",version="none"}'
REJECTED_REQUESTS = 'income_requests_total{endpoint="predict",status="422"}'
REJECTED_LABELS = 'income_requests_total{endpoint="feedback",status="404"}'
AGE_RISE, SEX_RISE = (f'income_invalid_share_rise{{feature="{name}"}}' for name in ("age", "sex"))
SCRAPES_FAILED = 'income_requests_total{endpoint="prometheus",status="500"}'
WITHIN = {
    le: f'income_prediction_latency_seconds_bucket{{le="{le}"}}' for le in ("0.05", "0.5", "+Inf")
}
ON_1, ON_2 = (f'income_workers{{version="{v}"}}' for v in ("1", "2"))
OF_1, OF_2 = (f'income_reference_info{{model_version="{v}"}}' for v in ("1", "2"))
REJECTED_VERSION = 'income_model_version_rejected{version="2"}'
FOLLOWED = "income_follower_report_timestamp_seconds"
REACHED = "income_registry_reached"
UP = 'up{job="prediction_service"}'
WORKER_UP = 'up{job="training_worker"}'
FAILED_TRAINING = "income_training_failed"
UNDONE_AT = "income_promotion_undone_timestamp_seconds"
BLOCKED_BY = {r: f'income_retraining_blocked{{rule="{r}"}}' for r in ("labels", "cool-down")}
EVIDENTLY_UP = 'up{job="evidently_service"}'

CASES = [
    Case(
        "FeatureDrift",
        {AGE: "0x4 1x20", SEX: "0x30"},
        {5: NOTHING, 6: ['feature="age"'], 25: ['feature="age"']},
    ),
    Case("JointDrift", {"income_joint_drift_detected": "0x4 1x20"}, {5: NOTHING, 6: ONCE}),
    Case("DatasetDrift", {"income_drift_detected": "0x4 1x20"}, {6: NOTHING, 7: ONCE}),
    Case("TargetDrift", {CLASS: "0x4 1x20"}, {5: NOTHING, 6: ['output="income_class"']}),
    Case(
        "ConceptShift",
        {RANKING: "0.2x20", CALIBRATION: "0.4x4 1.2x20"},
        {9: NOTHING, 10: ['check="calibration"']},
    ),
    Case(
        "ConceptShift",  # a healthy model whose labels come for predicted positives alone
        {RANKING: "0.3x20", CALIBRATION: "0.1x20", "income_quality_roc_auc": "0.8x20"},
        {20: NOTHING},
    ),
    Case(
        "PerformanceBelowFloor",
        {"income_quality_roc_auc": "0.93x4 0.7x20", FLOOR: "0.85x30"},
        {9: NOTHING, 10: ONCE},
    ),
    Case(
        "PerformanceBelowFloor",
        {"income_quality_roc_auc": "0.75x20", UPPER: "0.84x20", LOWER: "0.66x20", FLOOR: "0.85x20"},
        {4: NOTHING, 5: ONCE},
    ),
    Case(
        "PerformanceBelowFloor",  # few labels: the interval reaches above the floor
        {"income_quality_roc_auc": "0.84x20", UPPER: "0.88x20", LOWER: "0.8x20", FLOOR: "0.85x20"},
        {20: NOTHING},
    ),
    Case(
        "PerformanceBelowFloor",  # a harder table than the census has a lower floor
        {"income_quality_roc_auc": "0.79x20", FLOOR: "0.7x20"},
        {20: NOTHING},
    ),
    Case(
        "FairnessGap",
        {SEX_TPR: "0.9x4 1.2x20", AGE_FPR: "-0.8x30"},
        {9: NOTHING, 10: ['rate="tpr",segment="sex"']},
    ),
    Case("LabelCoverage", {COVERAGE: "0.3x120 0x24"}, {620: NOTHING, 640: ONCE}, step=5),
    Case("LabelCoverage", {COVERAGE: "0.3x120 0.2x24"}, {720: NOTHING}, step=5),
    Case("LabelCoverage", {COVERAGE: "0x120"}, {600: NOTHING}, step=5),  # nobody sends labels
    Case(
        "LabelsUnmatched",
        {MATCHED: "0+90x120", LATE: "0x60 10+10x60", UNKNOWN: "0+1x120"},
        {80: NOTHING, 118: ['reason="late"']},
    ),
    Case(
        "LabelsUnmatched", {MATCHED: "0+90x120", LATE: "0x120", UNKNOWN: "0+1x120"}, {120: NOTHING}
    ),
    Case(
        "LabelsUnmatched",  # no labels arrive any more
        {MATCHED: "0x180", LATE: "0+10x90 900x90", UNKNOWN: "0x180"},
        {60: ['reason="late"'], 170: NOTHING},
    ),
    Case("MonitoringStale", {MEASURED: "0+60x5 300x30"}, {16: NOTHING, 17: ONCE, 30: ONCE}),
    Case("ShadowStale", {SHADOW_RUN: "0+60x5 300x30"}, {16: NOTHING, 17: ONCE, 30: ONCE}),
    Case(
        "SinkBacklog",
        {MONGODB: "1000x4 5000x20", EVIDENTLY: "12x30"},
        {9: NOTHING, 10: ['sink="mongodb"']},
    ),
    Case(
        "JournalFilling",
        {JOURNAL: "1300x4 1500x20", JOURNAL_MAX: "2000x30"},
        {9: NOTHING, 10: ONCE},
    ),
    Case(
        "JournalFilling",  # the replica with the smaller limit
        {
            f'{JOURNAL}{{instance="a"}}': "1000x30",
            f'{JOURNAL_MAX}{{instance="a"}}': "20000x30",
            f'{JOURNAL}{{instance="b"}}': "1000x4 1500x20",
            f'{JOURNAL_MAX}{{instance="b"}}': "2000x30",
        },
        {9: NOTHING, 10: ONCE},
    ),
    Case(
        "EventsDropped",
        {DROPPED: "0x5 500x20"},
        {6: NOTHING, 7: ['sink="evidently"'], 20: ['sink="evidently"']},
    ),
    Case("EventsDropped", {DROPPED: "500x30"}, {10: NOTHING, 30: NOTHING}),
    Case("DeadLetters", {LETTERS: "_x5 1x20"}, {5: NOTHING, 6: ['sink="mongodb"']}),
    Case("SinkMisconfigured", {MISCONFIGURED: "0x4 1x20"}, {6: NOTHING, 7: ['sink="evidently"']}),
    Case("ErrorRate", {FINE: "0+60x30", FAILED: "0x5 6+6x20"}, {5: NOTHING, 8: ONCE, 20: ONCE}),
    Case("ErrorRate", {FAILED: "0+6x30"}, {2: NOTHING, 3: ONCE}),  # no request succeeds
    Case(
        "ErrorRate",
        {
            FINE: "0+6000x30",
            FAILED: "0+6x30",
            REJECTED_REQUESTS: "0+6000x30",
            SCRAPES_FAILED: "0+6000x30",
        },
        {10: NOTHING, 30: NOTHING},
    ),
    Case("ErrorRate", {FAILED: "0+60x10 600x20"}, {10: ONCE, 16: NOTHING}),  # no traffic
    Case(
        "RejectedRequests",
        {FINE: "0+60x30", REJECTED_REQUESTS: "0x5 6+6x20", REJECTED_LABELS: "0x30"},
        {10: NOTHING, 13: ['endpoint="predict"'], 20: ['endpoint="predict"']},
    ),
    Case(
        "RejectedRequests",  # every record is rejected
        {REJECTED_REQUESTS: "0+6x30", REJECTED_LABELS: "0+6x30"},
        {5: NOTHING, 6: ['endpoint="feedback"', 'endpoint="predict"']},
    ),
    Case(
        "RejectedRequests",
        {
            FINE: "0+100x30",
            REJECTED_REQUESTS: "0+4x30",
            FAILED: "0+60x30",
            SCRAPES_FAILED: "0+6000x30",
        },
        {10: NOTHING, 30: NOTHING},
    ),
    Case("RejectedRequests", {FINE: "0x30", REJECTED_REQUESTS: "0x5 1x25"}, {11: NOTHING}),
    Case(
        "TrafficStopped",  # since minute 1,500
        {FINE: "0+60x1500 90000x100"},
        {1514: NOTHING, 1519: ONCE, 1590: ONCE},
    ),
    Case("TrafficStopped", {FINE: "0+60x1500 stale"}, {1514: NOTHING, 1520: ONCE}),
    Case(
        "TrafficStopped",  # a quiet night, as a day ago
        {FINE: "0+300x140 42000x146 42000+300x140 84000x150"},
        {900: NOTHING, 2200: NOTHING, 2870: NOTHING},
        step=5,
    ),
    Case(
        "TrafficStopped",  # a load test a day ago, and usual traffic a week ago
        {FINE: "0+10x1740 17400+30000x20 617400+10x300"},
        {10180: NOTHING, 10220: NOTHING},
        step=5,
    ),
    Case("TrafficStopped", {FINE: "0+60x100 6000x100"}, {180: NOTHING}),  # no history
    Case(
        "InvalidValues",
        {AGE_RISE: "0x4 0.4x20", SEX_RISE: "0.09x30"},
        {6: NOTHING, 7: ['feature="age"']},
    ),
    Case(
        "Latency",
        {WITHIN["0.05"]: "0+90x30", WITHIN["0.5"]: "0+100x30", WITHIN["+Inf"]: "0+100x30"},
        {5: NOTHING, 6: ONCE},
    ),
    Case(
        "Latency",
        {WITHIN["0.05"]: "0+1000x30", WITHIN["0.5"]: "0+1005x30", WITHIN["+Inf"]: "0+1005x30"},
        {30: NOTHING},
    ),
    Case(
        "ModelVersionSkew",  # one of two workers keeps the old one
        {ON_1: "2x4 1x20", ON_2: "0x4 1x20", OF_1: "1x4 stale", OF_2: "_x5 1x20"},
        {9: NOTHING, 10: ONCE},
    ),
    Case("ModelVersionSkew", {ON_1: "2x20", OF_2: "1x20"}, {4: NOTHING, 5: ONCE}),
    Case(
        "ModelVersionSkew",  # a promotion
        {ON_1: "2x4 1x2 0x20", ON_2: "0x4 1x2 2x20", OF_1: "1x6 stale", OF_2: "_x7 1x20"},
        {7: NOTHING, 20: NOTHING},
    ),
    Case("ModelVersionSkew", {ON_1: "2x20"}, {20: NOTHING}),
    Case("FollowerStale", {FOLLOWED: "0x20"}, {3: NOTHING, 5: ONCE}),
    Case(
        "FollowerStale",  # one of two replicas has no follower
        {f'{FOLLOWED}{{instance="a"}}': "0+60x20", f'{FOLLOWED}{{instance="b"}}': "0x20"},
        {3: NOTHING, 5: ONCE},
    ),
    Case("RegistryUnavailable", {REACHED: "1x4 0x20"}, {9: NOTHING, 10: ONCE}),
    Case("TrainingFailed", {FAILED_TRAINING: "0x4 1x20"}, {5: NOTHING, 6: ONCE}),
    Case("RetrainingBlocked", {BLOCKED_BY["labels"]: "1x60"}, {29: NOTHING, 30: ['rule="labels"']}),
    Case("RetrainingBlocked", {BLOCKED_BY["cool-down"]: "1x60"}, {60: NOTHING}),
    Case(
        "PromotionUndone",
        {UNDONE_AT: "_x10 600x100"},  # ten minutes after the start
        {9: NOTHING, 10: ONCE, 69: ONCE, 75: NOTHING},
    ),
    Case("WorkerDown", {WORKER_UP: "1x4 0x20"}, {9: NOTHING, 10: ONCE}),
    Case(
        "ModelVersionRejected",  # two workers are scraped in turn, and one of them rejects it
        {REJECTED_VERSION: "_x4 1 _ 1 _ 1 _ 1 _ 1"},
        {6: NOTHING, 7: ['version="2"'], 11: ['version="2"']},
    ),
    Case(
        "ModelVersionRejected",  # the fault passes before the second attempt
        {REJECTED_VERSION: "_x4 1 stale"},
        {n: NOTHING for n in range(5, 15)},
    ),
    Case(
        "ServiceDown",
        {UP: "1x4 0x20", EVIDENTLY_UP: "1x30"},
        {5: NOTHING, 6: ['job="prediction_service"']},
    ),
]

FIRST_CASES = {case.alert: case for case in reversed(CASES)}  # of each alert, also run without data
OTHER_CASES = [case for case in CASES if case not in FIRST_CASES.values()]


def fired(alert: Alert, own_labels: str) -> dict[str, Any]:
    """Return the sample that Prometheus writes for a firing alert."""
    labels = f'alertname="{alert.name}",alertstate="firing",severity="{alert.severity}"'
    return {"labels": f"ALERTS{{{labels},{own_labels}}}".replace(",}", "}"), "value": 1}


def expectation(case: Case, minute: int) -> dict[str, Any]:
    """Return the expected state of the alert at a minute."""
    return {
        "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
        "eval_time": f"{minute}m",
        "exp_samples": [fired(ALERT[case.alert], own) for own in case.firing[minute]],
    }


@cache
def rule_group() -> dict[str, Any]:
    """Return the committed group of rules."""
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return group


def check(folder: Path, alert: str, test: dict[str, Any], step: int = 1) -> None:
    """Run promtool on the committed rule of an alert; fail with its output.

    The rule is evaluated every `step` minutes, at the times of the samples. All rules together
    would take minutes for a case of a week.
    """
    group = rule_group()
    own = group | {"rules": [rule for rule in group["rules"] if rule["alert"] == alert]}
    rules, path = folder / "rules.yml", folder / "test.yml"
    rules.write_text(json.dumps({"groups": [own]}), "utf-8")
    content = {"rule_files": [str(rules)], "evaluation_interval": f"{step}m", "tests": [test]}
    path.write_text(json.dumps(content), "utf-8")
    run(debian("promtool"), "test", "rules", path)


def check_case(case: Case, folder: Path) -> None:
    """Compare the firing alerts of a case at each of its minutes."""
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    minutes = [expectation(case, minute) for minute in case.firing]
    test = {"interval": f"{case.step}m", "input_series": series, "promql_expr_test": minutes}
    check(folder, case.alert, test, case.step)


@pytest.mark.parametrize("case", OTHER_CASES, ids=lambda case: case.alert)
def test_an_alert_fires_at_the_expected_minutes_only(case, tmp_path):
    check_case(case, tmp_path)


def test_every_alert_fires_in_a_case():
    assert {case.alert for case in CASES if any(case.firing.values())} == ALERT.keys()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_and_resolves_without_data_unless_missing_data_is_the_fault(alert, tmp_path):
    case = FIRST_CASES[alert.name]
    late = max(case.firing) + 200  # longer than the hour of `increase`
    stays = alert.no_data == "Alerting" or alert.name == "TrafficStopped"
    ended = {name: f"{values} stale" for name, values in case.series.items()}
    check_case(case._replace(series=ended, firing=case.firing | {late: ONCE * stays}), tmp_path)


def test_grafana_compares_the_same_figure_with_the_same_threshold():
    for tested, rule in zip(rule_group()["rules"], alert_rules(), strict=True):
        figure, passed = (query["model"] for query in rule["data"])
        ((evaluator,),) = [[one["evaluator"] for one in passed["conditions"]]]
        sign, (threshold,) = {"gt": ">", "lt": "<"}[evaluator["type"]], evaluator["params"]
        missing = f" or absent({figure['expr']})" if rule["noDataState"] == "Alerting" else ""
        assert tested["expr"] == f"({figure['expr']}) {sign} {threshold:g}{missing}"
        assert (tested["alert"], tested["for"]) == (rule["title"], rule["for"])
        assert (rule["condition"], passed["expression"]) == (passed["refId"], figure["refId"])


def test_a_summary_names_its_subject(tmp_path):
    alert = ALERT["FeatureDrift"]
    expected = {
        "exp_labels": {"severity": "warning", "feature": "age"},
        "exp_annotations": {
            "summary": "The feature age has drifted.",
            "description": " ".join(alert.runbook.split()),
            "runbook": "config/grafana/runbooks.md#featuredrift",
        },
    }
    check(
        tmp_path,
        alert.name,
        {
            "interval": "1m",
            "input_series": [{"series": AGE, "values": "1x20"}],
            "alert_rule_test": [
                {"eval_time": "10m", "alertname": alert.name, "exp_alerts": [expected]}
            ],
        },
    )


def test_promtool_notices_an_alert_that_does_not_fire(tmp_path):
    """The tests above prove something only if promtool fails for this case."""
    case = Case("ServiceDown", {UP: "1x20", EVIDENTLY_UP: "1x20"}, {10: ONCE})
    with pytest.raises(AssertionError, match="FAILED"):
        check_case(case, tmp_path)
