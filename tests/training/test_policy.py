"""Whether drift starts a training, and the reason if it does not."""

import pytest

from config.runtime.settings import SettingsError, read_settings
from training.retraining.policy import Cause, Facts, cause_of, decide
from training.evaluation.gate import MIN_ROWS
from training.settings import Settings
from training.data.assemble import HOLDOUT_ONE_IN

SETTINGS = Settings(watch_cooldown_s=100.0, watch_min_labels=1000, watch_budget=3)
CAUSE = Cause("half of the features have drifted", "2", since=50.0)
READY = Facts(production="2", fresh_labels=1000)
NOW = 1000.0

CALM = {
    "verdict": "calm",
    "drifted": False,
    "concept_shift": False,
    "broken_features": [],
    "model_version": "2",
    "judgement": {"persistent": [], "changed_by": 7.0, "drifted_from": None},
}
DRIFTED = CALM | {
    "drifted": True,
    "share_drifted": 0.25,
    "judgement": {"persistent": ["age", "sex", "race"], "changed_by": 7.0, "drifted_from": "2"},
}
SHIFTED = CALM | {
    "concept_shift": True,
    "concept_shift_scores": {"calibration": 1.25, "roc_auc": 0.5},
    "quality": {"rows": 600, "since": 9.0},
}


def test_a_minimum_of_labels_below_that_of_the_gate_is_rejected(monkeypatch):
    """With 1,000 labels every other training had fewer than 200 holdout rows. Then the census was
    the holdout set, nothing was promoted, and the next training was delayed.
    """
    minimum = HOLDOUT_ONE_IN * MIN_ROWS
    monkeypatch.setenv("WATCH_MIN_LABELS", str(minimum))
    assert read_settings(Settings).watch_min_labels == minimum
    monkeypatch.setenv("WATCH_MIN_LABELS", str(minimum - 1))
    with pytest.raises(SettingsError, match="WATCH_MIN_LABELS: got 999, .*1000"):
        read_settings(Settings)
    monkeypatch.delenv("WATCH_MIN_LABELS")
    assert Settings().watch_min_labels == 1.5 * minimum


def test_enough_fresh_labels_and_no_objection_lead_to_a_training():
    decision = decide(CAUSE, READY, SETTINGS, NOW)
    assert decision.train and decision.why == "1000 fresh labelled rows"


@pytest.mark.parametrize(
    ("rule", "cause", "facts", "why"),
    [
        ("upstream", {"broken": ("age", "sex")}, {}, "(age, sex); fix upstream first"),
        ("running", {}, {"running": "red-fox"}, "red-fox"),
        ("version", {}, {"production": "3"}, "production is 3, the monitoring observes 2"),
        ("version", {"version": None}, {"production": None}, "production is none"),
        ("not judged", {"is_judged": False}, {}, "since version 2 was promoted"),
        ("tested", {}, {"tested": "3"}, "version 3 is tested beside production first"),
        ("cool-down", {}, {"started": (901.0,)}, "99 s ago, the next may at 1970-01-01 00:16 UTC"),
        ("budget", {}, {"started": (1.0, 2.0, 3.0)}, "WATCH_BUDGET=3"),
        (
            "labels",
            {},
            {"fresh_labels": 999},
            "999 fresh labelled rows, expected at least WATCH_MIN_LABELS",
        ),
    ],
)
def test_each_rule_objects_with_its_reason(rule, cause, facts, why):
    decision = decide(CAUSE._replace(**cause), READY._replace(**facts), SETTINGS, NOW)
    assert (decision.train, decision.rule) == (False, rule)
    assert why in decision.why


@pytest.mark.parametrize(("unpromoted", "pause_s"), [(0, 100), (3, 800), (99, 102_400)])
def test_each_candidate_without_a_promotion_doubles_the_cool_down(unpromoted, pause_s):
    now = 1e6
    for waited, is_over in ((pause_s - 1.0, False), (pause_s + 1.0, True)):
        facts = READY._replace(started=(now - waited,), unpromoted=unpromoted)
        decision = decide(CAUSE, facts, SETTINGS, now)
        assert decision.train == is_over
        assert is_over or decision.rule == ("back-off" if unpromoted else "cool-down")


DRIFT = "25% of the features have drifted; columns and outputs: age, sex, race"
CONTRADICTED = (
    "600 labels contradict the probabilities"
    " (calibration 1.2 times its limit, roc_auc 0.5 times its limit)"
)

BROKEN = {"broken_features": ["occupation"]}


@pytest.mark.parametrize(
    ("verdict", "cause"),
    [
        (CALM, None),
        (DRIFTED, Cause(DRIFT, "2", since=7.0)),
        (DRIFTED | {"model_version": "3"}, Cause(DRIFT, "3", since=7.0, is_judged=False)),
        (SHIFTED, Cause(CONTRADICTED, "2", since=9.0)),
        (DRIFTED | BROKEN, Cause(DRIFT, "2", since=7.0, broken=("occupation",))),
        (SHIFTED | BROKEN, Cause(CONTRADICTED, "2", since=9.0, broken=("occupation",))),
        (CALM | {"below_floor": True}, None),
    ],
    ids=["calm", "drift", "former version", "concept shift", "broken", "broken too", "ROC AUC"],
)
def test_drift_or_concept_shift_is_a_cause_from_its_first_change_on(verdict, cause):
    """A ROC AUC below its floor once was a cause: a healthy model whose labels came for predicted
    positives alone was trained again for ever. Drift of a broken upstream field once started
    trainings on the broken values.
    """
    assert cause_of(verdict) == cause
