"""Every alert, in one table: Grafana's rules, Prometheus' rules and the runbooks are made of it.

Grafana notifies people (`provisioning/alerting/rules.yaml`); Prometheus evaluates the same figures
against the same thresholds (`config/prometheus/alerts.yml`), which `promtool` tests and which leave
the alerts' history behind as the series `ALERTS`.

A figure that is absent is a state of its own: `no_data` says for each alert whether it fires then.
Drift has no figure before there is a verdict, and one that is late must not look like "no drift":
MonitoringStale is there for that, and fires when it has no figure itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from config.contract import CONTRACT_PATH

MONITORING = yaml.safe_load(CONTRACT_PATH.with_name("monitoring.yaml").read_text("utf-8"))
FOLDER = "Income prediction"
DATASOURCE = "prometheus"
RUNBOOKS = "income-runbooks"  # the dashboard that shows the runbooks
PREDICTIONS = (
    'endpoint=~"predict|feedback"'  # what a client asks for, not scrapes and health checks
)


@dataclass(frozen=True)
class Alert:
    """A figure, the threshold that it must not pass, and what a person does about it.

    `value` is PromQL; each of its series is an alert of its own. `summary` may name the series'
    labels as `{{ .Labels.name }}`: that is how Prometheus and Grafana both read them, and Grafana
    takes a `$` in a provisioned file for a variable of its environment.
    """

    name: str
    summary: str
    value: str
    comparison: Literal[">", "<"]
    threshold: float
    lasting: str  # for how long, before anyone is told
    severity: Literal["warning", "critical"]
    panel: tuple[str, str]  # uid of a dashboard and title of the panel that shows the figure
    runbook: str
    no_data: Literal["OK", "Alerting"] = "OK"

    @property
    def slug(self) -> str:
        """The name in kebab-case."""
        return re.sub(r"(?<!^)([A-Z])", r"-\1", self.name).lower()

    @property
    def expression(self) -> str:
        """The condition as one PromQL expression, for Prometheus, which knows no `no_data`."""
        compared = f"({self.value}) {self.comparison} {self.threshold:g}"
        return compared if self.no_data == "OK" else f"{compared} or absent({self.value})"


ALERTS = (
    Alert(
        name="FeatureDrift",
        summary="The feature {{ .Labels.feature }} has drifted.",
        value="max by (feature) (income_feature_drift_persistent)",
        comparison=">",
        threshold=0,
        lasting="1m",  # it has lasted for persistent_windows of config/monitoring.yaml already
        severity="warning",
        panel=("income-drift", "Features that have drifted"),
        runbook="""\
One feature of the newest predictions differs from the reference by more than chance explains: its
score was above 1 in several windows in a row that share no rows. How many false alarms to expect is on
the drift overview, from false_alarms_per_month in config/monitoring.yaml. Open "Feature drill down"
for it. If a data quality problem of the same feature has grown, a field is broken upstream: mend it
there, for no training helps. If the values are right and the effect on the score is small, wait:
one feature starts no training. The distributions are in the report of the window with which it was
seen: port 3000, /report.""",
    ),
    Alert(
        name="DatasetDrift",
        summary="Enough features of the newest predictions differ from the reference.",
        value="max(income_drift_detected)",
        comparison=">",
        threshold=0,
        lasting="2m",
        severity="warning",
        panel=("income-drift", "Verdict"),
        runbook="""\
The share of drifted features has reached share_drifted in config/monitoring.yaml. A broken upstream
field looks like drift: look at "Data quality" and compare the newest records with the contract
first. If the world has changed, the deployment `watch` starts a training once it has enough fresh
labels (in Prefect: train, tag drift); python -m training decisions says why it has or has not, and
python -m training history whether its model was promoted. Once a version is promoted its own
reference is used, and the alert resolves with the next window that it fits.""",
    ),
    Alert(
        name="TargetDrift",
        summary="The model's {{ .Labels.output }} has drifted.",
        value="max by (output) (income_prediction_drift_persistent)",
        comparison=">",
        threshold=0,
        lasting="1m",
        severity="warning",
        panel=("income-target", "Outputs that have drifted"),
        runbook="""\
The predicted classes or probabilities are distributed otherwise than on the reference. If features
have drifted too, go on with the alert DatasetDrift. If none has, compare with the share of true
labels above 50K, where there are labels. Only answers of the version that the reference belongs to
are compared.""",
    ),
    Alert(
        name="PerformanceBelowFloor",
        summary="ROC AUC on labelled predictions is below its floor, its whole interval included.",
        # The upper end of the interval, where one is measured: what chance explains is silent.
        value='max(income_quality_bound{metric="roc_auc"}) or max(income_quality_roc_auc)',
        comparison="<",
        threshold=MONITORING["roc_auc_floor"],  # where `watch` sees cause for a training too
        lasting="5m",
        severity="critical",
        panel=("income-performance", "ROC AUC"),
        runbook="""\
The newest labelled predictions are ranked much worse than in training. Look at the segments: if one
group alone is worse, its labels or fields may be broken. If the features have not drifted, the
relation between features and income has: only newer labels help. The deployment `watch` starts a
training once there are enough of them, and python -m training decisions says why it has or has not.
Until then go back if an older version was better: python -m training rollback.""",
    ),
    Alert(
        name="MonitoringStale",
        summary="The Evidently service has measured nothing for ten minutes.",
        value="time() - max(income_measurement_timestamp_seconds)",
        comparison=">",
        threshold=600,  # 120 times the period in config/monitoring.yaml
        lasting="1m",
        severity="critical",
        panel=("income-drift", "Age of the verdict"),
        no_data="Alerting",  # no measurement at all is worse than an old one
        runbook="""\
Until it measures again no drift can be seen, and every drift alert is silent. Look at the process
`measure` (make ps, make logs S=measure) and at GET /drift on port 3000, whose "error" says why the
last run failed. If Prometheus itself does not answer, this alert fires too: make ps.""",
    ),
    Alert(
        name="SinkBacklog",
        summary="{{ .Labels.sink }} lags behind the journal.",
        value="max by (sink) (income_journal_backlog_rows)",
        comparison=">",
        threshold=1000,  # two full batches of the relay (RELAY_BATCH_ROWS)
        lasting="5m",
        severity="warning",
        panel=("income-service", "Waiting to be stored"),
        runbook="""\
Answered predictions are safe in the journal, but the sink has not confirmed them. Look at the relay
(make logs S=relay) and at the sink: MongoDB, or the Evidently service. Nothing has to be sent again
by hand: the relay goes on where it stopped. If the journals reach JOURNAL_MAX_MB first, predictions
are refused with status 503, so make room or raise it in time.""",
    ),
    Alert(
        name="ErrorRate",
        summary="More than 1 % of predictions and labels are answered with a server error.",
        value=(
            f'(sum(rate(income_requests_total{{{PREDICTIONS},status=~"5.."}}[5m])) or vector(0))'
            f" / (sum(rate(income_requests_total{{{PREDICTIONS}}}[5m])) > 0)"
        ),
        comparison=">",
        threshold=0.01,
        lasting="2m",
        severity="critical",
        panel=("income-service", "Share of server errors"),
        runbook="""\
GET /health/ready on port 9696 says what is missing. 503: there is no model yet (make logs
S=follower), or the journals are full (see the alert SinkBacklog). 500: the log of the service has
the traceback (make logs S=prediction). Clients may send the same request again: an Idempotency-Key
keeps it from being counted twice.""",
    ),
    Alert(
        name="Latency",
        summary="One prediction request in a hundred takes more than 100 ms.",
        value=(
            "histogram_quantile(0.99,"
            " sum by (le) (rate(income_prediction_latency_seconds_bucket[5m])))"
        ),
        comparison=">",
        threshold=0.1,
        lasting="5m",
        severity="warning",
        panel=("income-service", "Time to answer"),
        runbook="""\
A single record takes about a millisecond, a list of 1,000 some tens. Look at the rate of requests:
beyond what WORKERS can do, they queue. If it is as ever, the machine is busy with something else (a
training has the lowest share of the processor, but not of the disk), or the disk of the journal is
slow: JOURNAL_SYNC=full pays a flush per request.""",
    ),
    Alert(
        name="ModelVersionSkew",
        summary="Workers and monitoring are not of the same model version.",
        value=(
            "count((sum by (version) (income_workers) > 0) or max by (version) (label_replace("
            'income_reference_info, "version", "$1", "model_version", "(.*)")))'
        ),
        comparison=">",
        threshold=1,
        lasting="5m",  # a promotion reaches everyone within seconds
        severity="warning",
        panel=("income-service", "Workers by model version"),
        runbook="""\
After a promotion the follower, every worker and the monitoring change over within seconds; they
have not. Look for a refused version: GET /health/ready on port 9696 says which and why, and the
last good one is served on. Otherwise look at the follower (make logs S=follower) and at measure
(make logs S=measure): one of them does not reach MLflow. With MODEL_RUN_ID set the skew is meant:
silence the alert.""",
    ),
    Alert(
        name="ServiceDown",
        summary="{{ .Labels.job }} does not answer Prometheus.",
        value='min by (job) (up{job=~"prediction_service|evidently_service"})',
        comparison="<",
        threshold=1,
        lasting="1m",
        severity="critical",
        panel=("income-service", "Answers Prometheus"),
        no_data="Alerting",  # neither is known to Prometheus: it scrapes nothing
        runbook="""\
A service that is down counts no errors, so this alert speaks for it. Look at the container (make
ps, make logs S=prediction or S=evidently). Without the prediction service there are no answers;
without the Evidently service predictions go on and wait in the journal.""",
    ),
)


def in_general(summary: str) -> str:
    """A summary without a subject: its templates as the names of their labels."""
    return re.sub(r"\{\{ \.Labels\.(\w+) \}\}", r"*\1*", summary)


def one_line(text: str) -> str:
    """A runbook as one paragraph."""
    return " ".join(text.split())


def prometheus_rules() -> dict[str, Any]:
    """The rules file of Prometheus."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": one_line(alert.runbook),
                "runbook": f"config/grafana/runbooks.md#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "income", "rules": rules}]}


def grafana_rules(panel_ids: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """The provisioning file of Grafana's rules; `panel_ids` by dashboard uid and panel title."""
    rules = [grafana_rule(alert, panel_ids) for alert in ALERTS]
    group = {"orgId": 1, "name": "income", "folder": FOLDER, "interval": "30s", "rules": rules}
    return {"apiVersion": 1, "groups": [group]}


def grafana_rule(alert: Alert, panel_ids: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """One rule: the figure is asked of Prometheus, the threshold is compared by Grafana."""
    dashboard, panel_id = alert.panel[0], panel_ids[alert.panel]
    runbook = f"d/{RUNBOOKS}?viewPanel={panel_ids[RUNBOOKS, alert.name]}"
    evaluator = {"type": {">": "gt", "<": "lt"}[alert.comparison], "params": [alert.threshold]}
    return {
        "uid": f"income-{alert.slug}",
        "title": alert.name,
        "condition": "passed",
        "data": [
            step(DATASOURCE, refId="value", expr=alert.value, instant=True, range=False),
            step(
                "__expr__",
                refId="passed",
                type="threshold",
                expression="value",
                conditions=[{"evaluator": evaluator}],
            ),
        ],
        "for": alert.lasting,
        "noDataState": alert.no_data,
        # Where Prometheus does not answer at all, what watches for silence says so, not every rule.
        "execErrState": alert.no_data,
        "dashboardUid": dashboard,
        "panelId": panel_id,
        "labels": {"severity": alert.severity},
        "annotations": {
            "__dashboardUid__": dashboard,
            "__panelId__": str(panel_id),
            "summary": alert.summary,
            "description": one_line(alert.runbook),
            "runbook_url": "{{ externalURL }}" + runbook,
        },
    }


def step(source: str, **model: Any) -> dict[str, Any]:
    """A step of a rule's evaluation, by a datasource's uid."""
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": 300, "to": 0},
        "datasourceUid": source,
        "model": model,
    }


def runbooks() -> str:
    """The page of all runbooks, in Markdown."""
    head = ["| alert | severity | fires | without a figure |", "| --- | --- | --- | --- |"]
    texts = [f"## {one.name}\n\n{in_general(one.summary)}\n\n{one.runbook}\n" for one in ALERTS]
    table = [*head, *map(runbook_row, ALERTS), ""]
    return "\n".join(["# Runbooks\n", RUNBOOKS_INTRODUCTION, *table, *texts])


def runbook_row(alert: Alert) -> str:
    """An alert's line in the table of all."""
    link = f"[{alert.name}](#{alert.name.lower()})"
    fires = f"`{alert.comparison} {alert.threshold:g}` for {alert.lasting}"
    absent = "fires" if alert.no_data == "Alerting" else "silent"
    return f"| {link} | {alert.severity} | {fires} | {absent} |"


RUNBOOKS_INTRODUCTION = """\
What each alert means and what to do. The text is part of every notification, and on Grafana's
dashboard "Runbooks". Made by `make dashboards` from `config/grafana/alerts.py`.
"""
