"""The alerts: figure, threshold and runbook of each, in one table.

`make alerts` writes Grafana's rules, Prometheus' rules and the runbooks from it
(`config/grafana/build.py`). The monitoring's page shows the runbook of an alert that fits.
Grafana notifies people. Prometheus evaluates the same expressions: `promtool` tests its rules, and
the series `ALERTS` is the alerts' history.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

MONITORING = yaml.safe_load(Path(__file__).with_name("monitoring.yaml").read_text("utf-8"))
PREDICTIONS = 'endpoint=~"predict|feedback"'  # client requests, without scrapes and health checks
# Predictions a second in a quarter of an hour: now, at the same time a day ago, a week ago.
NOW, DAY_AGO, WEEK_AGO = (
    f'sum(rate(income_requests_total{{endpoint="predict"}}[15m]{offset}))'
    for offset in ("", " offset 1d", " offset 1w")
)

# Commands of the runbooks. Containers have the default ports.
ADDRESSES = {
    "EVIDENTLY_ADDRESS": "http://127.0.0.1:3000",
    "PREDICTION_ADDRESS": "http://127.0.0.1:9696",
}
DRIFT = 'curl -sS "$EVIDENTLY_ADDRESS/drift"'
READY = 'curl -sS "$PREDICTION_ADDRESS/health/ready"'
SHADOW = 'curl -sS "$EVIDENTLY_ADDRESS/shadow"'
REQUESTS, FAILED = "prediction", "grep -v status=2"  # its log has a line for each request
DECISIONS, HISTORY = "python -m training decisions", "python -m training history"


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A figure, its threshold, and what to do about it. By default an alert fires above 0.

    `value` is PromQL. Each of its series is an alert of its own. `summary` may contain the labels
    of the series as `{{ .Labels.name }}`. Prometheus and Grafana both read this form. Grafana would
    replace a `$` in a provisioned file by an environment variable.

    `no_data` is the state of the alert while the figure is absent. Drift has no figure before the
    first verdict, so a drift alert is silent then. MonitoringStale fires instead.
    """

    name: str
    summary: str
    value: str
    comparison: Literal[">", "<"] = ">"
    threshold: float = 0
    lasting: str  # time beyond the threshold before the alert fires
    severity: Literal["warning", "critical"] = "warning"
    panel: tuple[str, str]  # the panel that shows the figure: uid of its dashboard, title
    runbook: str
    logs: str = ""  # processes whose logs help; a service of Compose has the same name
    commands: tuple[str, ...] = ()  # that help; the worker's container runs those of Python
    no_data: Literal["OK", "Alerting"] = "OK"

    @property
    def slug(self) -> str:
        """The name in kebab-case."""
        return re.sub(r"(?<!^)([A-Z])", r"-\1", self.name).lower()

    @property
    def quiet_logs(self) -> list[str]:
        """The processes of `logs` that do not log each request."""
        return [name for name in self.logs.split() if name != REQUESTS]

    @property
    def for_processes(self) -> str:
        """The commands for a stack that `make demo KEEP=1` started."""
        lines = [". var/demo/settings"]
        if self.logs:
            files = [f"build/demo/logs/{name}.log" for name in ("supervisord", *self.quiet_logs)]
            lines.append(" ".join(["tail -n 50", *files]))
        if REQUESTS in self.logs:
            lines.append(f"{FAILED} build/demo/logs/{REQUESTS}.log | tail -n 50")
        return "\n".join([*lines, *self.commands])

    @property
    def for_containers(self) -> str:
        """The commands for a stack that `make up` started."""
        logs = ["make ps"] if self.logs else []
        if self.quiet_logs:
            logs.append(f"docker compose logs --tail 50 {' '.join(self.quiet_logs)}")
        if REQUESTS in self.logs:
            logs.append(f"docker compose logs {REQUESTS} | {FAILED} | tail -n 50")
        lines = "\n".join([*logs, *self.commands])
        for setting, address in ADDRESSES.items():
            lines = lines.replace(f"${setting}", address)
        return lines.replace("python -m", "docker compose exec worker python -m")

    @property
    def expression(self) -> str:
        """The condition as one PromQL expression. Prometheus has no `no_data`."""
        compared = f"({self.value}) {self.comparison} {self.threshold:g}"
        return compared if self.no_data == "OK" else f"{compared} or absent({self.value})"


ALERTS = (
    Alert(
        name="FeatureDrift",
        summary="The feature {{ .Labels.feature }} has drifted.",
        value="max by (feature) (income_feature_drift_persistent)",
        lasting="1m",  # drift has already lasted for persistent_windows of config/monitoring.yaml
        panel=("income-drift", "Drifted features"),
        runbook="""\
The feature's drift score was above 1 in several windows in a row that share no rows. Chance
explains this rarely: the drift overview shows the false-alarm budget (false_alarms_per_month
in the monitoring file). Open the feature on the dashboard "Feature drill-down". If its
invalid values have increased, an upstream field is broken. Fix it there: no training helps. If
the values are right and the drift effect is small, wait: one feature starts no training. The
distributions are in the report of the window that triggered the alert: port 3000, /report.""",
        commands=(DRIFT,),
    ),
    Alert(
        name="JointDrift",
        summary="The features have drifted together, and no column alone.",
        value="max(income_joint_drift_detected)",
        lasting="1m",  # drift has already lasted for persistent_windows
        panel=("income-drift", "Joint drift"),
        runbook="""\
In several windows in a row, a classifier could tell predictions and reference data apart. Yet
each column has its usual values. So columns go together in a new way: an upstream join may mix the
fields of different records, or the people have changed. GET /drift names the columns under
judgement, joint. Compare some new records with their source. If they are right, wait for labels:
joint drift starts no training. Batches of similar records can cause it too.""",
        commands=(DRIFT,),
    ),
    Alert(
        name="DatasetDrift",
        summary="Enough features have drifted for a drift verdict.",
        value="max(income_drift_detected)",
        lasting="2m",
        panel=("income-drift", "Drift verdict"),
        runbook="""\
The share of drifted features has reached share_drifted in the monitoring file. A broken
upstream field looks like drift: first check "Data quality" on the drift overview, and compare
the newest records with the contract. If the world has changed, the deployment `watch` starts a
training once it has enough new labels (in Prefect: train, tag drift). python -m training
decisions gives the reason for each decision, python -m training history the promotions. A
promoted version brings its own reference data. The alert then resolves with the next window
that fits them.""",
        commands=(DECISIONS, HISTORY),
    ),
    Alert(
        name="TargetDrift",
        summary="The model's {{ .Labels.output }} has drifted.",
        value="max by (output) (income_prediction_drift_persistent)",
        lasting="1m",
        panel=("income-drift", "Drifted outputs"),
        runbook="""\
The distribution of predicted classes or probabilities differs from the reference data. If
features have drifted too, continue with the alert DatasetDrift. If no feature has drifted,
compare the prediction with the labels: "Share of the positive class" on the drift overview.
Only predictions of the reference data's own version are compared.""",
        commands=(DRIFT,),
    ),
    Alert(
        name="InvalidValues",
        summary="Far more values of {{ .Labels.feature }} are invalid than in training.",
        value="max by (feature) (income_invalid_share_rise)",
        threshold=MONITORING["max_invalid_share_rise"],
        lasting="2m",
        severity="critical",
        panel=("income-drift", "Rise of invalid values"),
        runbook="""\
The feature's share of missing, out-of-range and unseen values is far above that of the reference
data (max_invalid_share_rise in the monitoring file). The panel "Invalid values" shows which of
the three it is. Fix the upstream field. Until then drift starts no training: the rule "upstream"
in python -m training decisions. If the new values are right, add them to the contract and start a
training by hand.""",
        commands=(DECISIONS, DRIFT),
    ),
    Alert(
        name="ConceptShift",
        summary="Labels contradict the probabilities of the same rows. Check: {{ .Labels.check }}.",
        value="max by (check) (income_concept_shift_score)",
        threshold=1,  # `watch` starts a training above the same limit
        lasting="5m",
        severity="critical",
        panel=("income-performance", "Labels against probabilities"),
        runbook="""\
The labels do not follow from the features as in training. Check roc_auc: the model ranks the
labelled rows worse than its probabilities promise. Check calibration: more or fewer labels are 1
than the sum of the probabilities. Chance explains this less often than false_alarms_per_month of
the monitoring file. Which rows have labels does not matter. First look for broken labels: the
sender of POST /feedback, one group alone on the dashboard "Classification performance", yes-labels
that come sooner than no-labels. If the labels are right, only newer labels help. The deployment
`watch` starts a training once it has enough of them, and python -m training decisions gives the
reason for each decision. If an older version was better, return to it: python -m training
rollback.""",
        commands=(DECISIONS, HISTORY),
    ),
    Alert(
        name="PerformanceBelowFloor",
        summary="ROC AUC of labelled predictions is below the floor, with its whole interval.",
        # The upper end of the interval, if there is one: chance alone fires no alert.
        value=(
            '(max(income_quality_bound{metric="roc_auc"}) or max(income_quality_roc_auc))'
            " - max(income_quality_roc_auc_floor)"
        ),
        comparison="<",
        threshold=0,
        lasting="5m",
        severity="warning",  # it starts no training
        panel=("income-performance", "ROC AUC"),
        runbook="""\
The model ranks the newest labelled predictions much worse than its own reference data, from which
the floor follows (roc_auc_floor in the monitoring file replaces it). This starts no training: it
may be right for the labelled rows. If labels come for predicted positives alone, their ROC AUC is
low with a healthy model. Compare the measured with the estimated ROC AUC, and the labelled rows
with the others. If the alert ConceptShift fires too, continue there. If the labelled rows are
harder than the reference data, set roc_auc_floor.""",
        commands=(DRIFT,),
    ),
    Alert(
        name="FairnessGap",
        summary="A gap between groups of {{ .Labels.segment }} has grown: {{ .Labels.rate }}.",
        value="max by (segment, rate) (income_fairness_gap_score)",
        threshold=1,
        lasting="5m",
        severity="warning",  # it starts no training
        panel=("income-performance", "Gaps against the reference data"),
        runbook="""\
Two groups of the column are treated more differently than in the reference data of the version.
Chance explains this less often than false_alarms_per_month of the monitoring file. GET /drift names
both groups, the gap and that of the reference data (fairness_gaps). Rate selection_rate: the share
of positive predictions. If features have drifted too, other people ask, and the model may treat them
as before: continue with FeatureDrift. Rate tpr or fpr: the share of positive predictions among
people whose label is positive or negative. First check the labels: how they are chosen and whether
one group's come from another sender. If predicted positives get a label more often than others, tpr
and fpr are those of the labelled rows alone. If the labels are right, do not use the predictions of
these groups until the cause is known. A training on newer labels or python -m training rollback may
help; compare the gaps on the two model cards first.""",
        commands=(DRIFT, HISTORY),
    ),
    Alert(
        name="LabelCoverage",
        summary="Much fewer predictions than usual get a label.",
        # The median of a week. It is 0, and so the alert silent, where no labels are sent.
        value=(
            "max(income_label_coverage_ratio)"
            " / (quantile_over_time(0.5, max(income_label_coverage_ratio)[7d:10m]) > 0)"
        ),
        comparison="<",
        threshold=0.5,
        lasting="30m",
        panel=("income-performance", "Label coverage by the week's median"),
        runbook="""\
Among predictions that are old enough for a label, less than half of the usual share has one.
Without labels the measured quality gets old, ConceptShift stays silent and no training
follows from it. First check what sends the labels: POST /feedback on port 9696, and its status
in the request log. If labels are sent, look at income_labels_unmatched_total (alert
LabelsUnmatched) and at the relay: labels reach the monitoring through it.""",
        logs="prediction relay",
        commands=(DRIFT,),
    ),
    Alert(
        name="LabelsUnmatched",
        summary="More than 5 % of the labels join no prediction. Reason: {{ .Labels.reason }}.",
        value=(
            "sum by (reason) (increase(income_labels_unmatched_total[1h]))"
            " / on () group_left () (sum(increase(income_labels_matched_total[1h]))"
            " + sum(increase(income_labels_unmatched_total[1h])) > 0)"
        ),
        threshold=0.05,
        lasting="10m",
        panel=("income-performance", "Labels without a prediction"),
        runbook="""\
Quality is measured without these labels. Reason late: the label came more than label_days of the
monitoring file after its prediction. Raise label_days, and label_rows with it. Reason unknown: no
prediction with the label's id was stored within an hour. A label can join a prediction that is at
most income_label_horizon_seconds old. If labels take longer, raise label_rows. Otherwise the
sender uses wrong ids, or the predictions did not reach the monitoring (alert SinkBacklog).""",
        logs="relay",
        commands=(DRIFT,),
    ),
    Alert(
        name="MonitoringStale",
        summary="The Evidently service has measured nothing for ten minutes.",
        value="time() - max(income_measurement_timestamp_seconds)",
        threshold=600,  # 120 times measure_period_s in config/monitoring.yaml
        lasting="1m",
        severity="critical",
        panel=("income-drift", "Last measurement"),
        no_data="Alerting",  # no measurement at all is worse than an old one
        runbook="""\
Without measurements every drift alert is silent. Look at the process `measure` and at GET /drift
on port 3000. Its field "error" gives the reason why the last measurement failed. This alert also
fires if Prometheus is down.""",
        logs="measure",
        commands=(DRIFT,),
    ),
    Alert(
        name="ShadowStale",
        summary="The shadow process has tested nothing for ten minutes.",
        value="time() - max(income_shadow_run_timestamp_seconds)",
        threshold=600,
        lasting="1m",
        panel=("income-retraining", "Last run of the shadow"),
        runbook="""\
Without the shadow no challenger is promoted, and a worse new version is not undone. Look at the
process `shadow` and at GET /shadow on port 3000. Its field "error" gives the reason: MLflow is
unavailable, or the version's package is damaged or made for another contract.""",
        logs="shadow",
        commands=(SHADOW,),
    ),
    Alert(
        name="SinkBacklog",
        summary="{{ .Labels.sink }} lags behind the journal.",
        value="max by (sink) (income_journal_backlog_rows)",
        threshold=1000,  # two full batches of the relay (RELAY_BATCH_ROWS)
        lasting="5m",
        panel=("income-service", "Sink backlog"),
        runbook="""\
The journal keeps all predictions, but the sink has not confirmed them. Look at the relay and at
the sink: MongoDB or the Evidently service. Do not resend anything by hand: the relay continues
where it stopped. What follows depends on the sink. Rows for MongoDB fill the journals: see the
alert JournalFilling. Rows for the Evidently service are dropped before that: see the alert
EventsDropped.""",
        logs="relay evidently",
    ),
    Alert(
        name="JournalFilling",
        summary="The journals have reached 70 % of JOURNAL_MAX_MB.",
        value="max(income_journal_bytes / income_journal_max_bytes)",
        threshold=0.7,  # from half on, the relay deletes all that MongoDB has stored
        lasting="5m",
        severity="critical",
        panel=("income-service", "Journal size"),
        runbook="""\
At 100 % the service rejects predictions with status 503. The relay deletes rows that MongoDB has
stored, so MongoDB does not store them or the relay does not run. Start them: the relay delivers
the backlog and makes room. Until then raise JOURNAL_MAX_MB if the disk has room. Without MongoDB
the journals are the only store, and nothing is deleted: raise JOURNAL_MAX_MB, or set
MONGODB_ADDRESS.""",
        logs="relay",
    ),
    Alert(
        name="EventsDropped",
        summary="Events were removed before {{ .Labels.sink }} had stored them.",
        value="max by (sink) (increase(income_journal_dropped_total[1h]))",
        lasting="1m",
        panel=("income-service", "Dropped events"),
        runbook="""\
The sink lagged until the journals were half full, or it rejected more than 10,000 events. MongoDB
has every prediction, and predictions continue. Drift and quality are measured without the dropped
events. Look at the sink and at the relay. Nobody sends the dropped events again. The alert
resolves an hour after the last one.""",
        logs="relay evidently",
    ),
    Alert(
        name="DeadLetters",
        summary="{{ .Labels.sink }} rejects journalled events.",
        value="max by (sink) (income_journal_dead_letters)",
        lasting="1m",
        panel=("income-service", "Dead letters"),
        runbook="""\
The sink will not store these events, so the relay keeps them in relay.db of JOURNAL_DIR, with the
sink's reason in the table dead_letter. Usual causes: the services have different versions or
contracts, or an event is too large for MongoDB. Fix the cause, then send the events again: python
-m prediction_service.journal resend. An event that the sink stores is no longer a dead letter.""",
        logs="relay",
    ),
    Alert(
        name="SinkMisconfigured",
        summary="{{ .Labels.sink }} rejects the relay itself.",
        value="max by (sink) (income_sink_misconfigured)",
        lasting="2m",
        severity="critical",
        panel=("income-service", "Misconfigured sinks"),
        runbook="""\
No event can pass until someone changes the configuration. The relay's log has the response.
Evidently service: EVIDENTLY_ADDRESS leads to another server, to a redirect, or to a proxy that
asks for credentials. MongoDB: the user in MONGODB_ADDRESS or its password is wrong, or the user
may not write to MONGODB_DATABASE. Afterwards restart the relay: it delivers the backlog.""",
        logs="relay",
    ),
    Alert(
        name="ErrorRate",
        summary="More than 1 % of predictions and labels get a server error.",
        value=(
            f'(sum(rate(income_requests_total{{{PREDICTIONS},status=~"5.."}}[5m])) or vector(0))'
            f" / (sum(rate(income_requests_total{{{PREDICTIONS}}}[5m])) > 0)"
        ),
        threshold=0.01,
        lasting="2m",
        severity="critical",
        panel=("income-service", "Server errors"),
        runbook="""\
GET /health/ready on port 9696 gives the reason. 503: no model is loaded, or the journals are full
(see the alert SinkBacklog). 500: the service's log has the traceback. Clients may send the same
request again. An Idempotency-Key prevents a duplicate.""",
        logs="prediction follower",
        commands=(READY,),
    ),
    Alert(
        name="RejectedRequests",
        summary="More than 5 % of the requests to {{ .Labels.endpoint }} are rejected.",
        value=(
            f'sum by (endpoint) (rate(income_requests_total{{{PREDICTIONS},status=~"4.."}}[5m]))'
            f" / (sum by (endpoint) (rate(income_requests_total{{{PREDICTIONS}}}[5m])) > 0)"
        ),
        threshold=0.05,
        lasting="5m",  # one bad request among few is forgotten by then
        severity="critical",
        panel=("income-service", "Rejected requests"),
        runbook="""\
A rejected request is stored nowhere, so no window and no drift score contains it. The status
gives the cause. 422 or 400: an upstream field is broken, or a client sends another format; the
client's error response names the field and the rule. 401: an API key is wrong or revoked. 413: a
list is too long (MAX_RECORDS, MAX_BODY_BYTES). Fix the client, then let it send the rejected
records again.""",
        logs="prediction",
    ),
    Alert(
        name="TrafficStopped",
        summary="Predictions are below a tenth of their usual rate.",
        # The smaller one of both days, so one busy day is not the usual rate. Below one request a
        # minute, chance alone gives such gaps.
        value=(
            f"({NOW} or vector(0))"
            f" / ((({DAY_AGO} <= {WEEK_AGO}) or {WEEK_AGO} or {DAY_AGO}) > 0.02)"
        ),
        comparison="<",
        threshold=0.1,
        lasting="5m",
        panel=("income-service", "Usual traffic"),
        runbook="""\
Requests of the last quarter of an hour are compared with the same time of day, a day and a week
ago. Without requests no other alert can fire. Look at the clients first, then at the way to port
9696 (reverse proxy, firewall, BIND_ADDRESS). If no more traffic is expected, silence the alert: it
resolves within a week.""",
        logs="prediction",
        commands=(READY,),
    ),
    Alert(
        name="Latency",
        summary="One prediction request in a hundred takes more than 100 ms.",
        value=(
            "histogram_quantile(0.99,"
            " sum by (le) (rate(income_prediction_latency_seconds_bucket[5m])))"
        ),
        threshold=0.1,
        lasting="5m",
        panel=("income-service", "Request latency"),
        runbook="""\
A single record takes about a millisecond, a list of 1,000 records some tens. The time includes
the wait for the worker and for the request's body, so clients with a slow connection count too.
Look at the request rate: beyond the capacity of WORKERS, requests queue. If the rate is normal, another
process uses the machine (a training has the lowest processor priority, but not the lowest disk
priority), or the journal's disk is slow: JOURNAL_SYNC=full flushes the disk for every request.""",
        logs="prediction worker",
    ),
    Alert(
        name="ModelVersionSkew",
        summary="Workers and monitoring use different model versions.",
        value=(
            "count((sum by (version) (income_workers) > 0) or max by (version) (label_replace("
            'income_reference_info, "version", "$1", "model_version", "(.*)")))'
        ),
        threshold=1,
        lasting="5m",  # a promotion reaches every process within seconds
        panel=("income-service", "Workers by model version"),
        runbook="""\
After a promotion the follower, every worker and the monitoring change over within seconds. Here
they did not. Look for a rejected version: GET /health/ready on port 9696 gives its number and the
reason, and the last good version stays live. Otherwise look at the follower and at measure: one
of them cannot reach MLflow. With MODEL_RUN_ID set the skew is intended: silence the alert.""",
        logs="follower measure",
        commands=(READY,),
    ),
    Alert(
        name="ModelVersionRejected",
        summary="The promoted model version {{ .Labels.version }} is rejected.",
        # A worker reports its own rejection, and each scrape reaches one of the workers.
        value="max by (version) (max_over_time(income_model_version_rejected[2m]))",
        lasting="3m",  # the first retry is after 30 seconds
        panel=("income-service", "Rejected versions"),
        runbook="""\
The last good version stays live, and predictions continue. GET /health/ready on port 9696 gives
the reason under "rejected". A failed download, a full disk or a lack of memory may pass: the
version is tried again after 30 seconds, then at growing intervals of up to 10 minutes. A wrong
checksum, contract or golden row does not pass: train a new version, or return to an older one
with python -m training rollback. The attempts are in the follower's log and in the service's, as
model_rejected.""",
        logs="follower prediction",
        commands=(READY, HISTORY),
    ),
    Alert(
        name="FollowerStale",
        summary="A follower has reported nothing for two minutes.",
        value="time() - min(income_follower_report_timestamp_seconds)",
        threshold=120,  # 24 times FOLLOW_PERIOD_S; a download of a large model takes less
        lasting="2m",
        panel=("income-service", "Follower"),
        runbook="""\
No promotion and no rollback reaches the service while the follower is down; predictions continue
with the live version. Look at the process follower and start it again.""",
        logs="follower",
        commands=(READY,),
    ),
    Alert(
        name="RegistryUnavailable",
        summary="The follower cannot reach MLflow.",
        value="min(income_registry_reached)",
        comparison="<",
        threshold=1,
        lasting="5m",
        panel=("income-service", "MLflow"),
        runbook="""\
Nothing can be promoted, rolled back or trained; predictions and monitoring continue with what
they have. GET /health/ready on port 9696 gives the error under "registry". Look at MLflow, then
at MLFLOW_TRACKING_URI and the password of the follower.""",
        logs="mlflow follower",
        commands=(READY,),
    ),
    Alert(
        name="TrainingFailed",
        summary="The last training failed or crashed.",
        value="max(income_training_failed)",
        lasting="1m",
        panel=("income-retraining", "Last training"),
        runbook="""\
The flow run's page in Prefect (port 4200) has the error. Crashed: its process, container or
machine died. "No heartbeat" means that nobody could report it; look at the memory limit of the
worker. The live model stays. After the fix start a training: prefect deployment run train/train.
The alert resolves with the next training that ends well.""",
        logs="worker",
    ),
    Alert(
        name="RetrainingBlocked",
        summary="Drift starts no training: rule {{ .Labels.rule }}.",
        # The other rules end by themselves, a shadow test (rule "tested") at its limit.
        value='max by (rule) (income_retraining_blocked{rule=~"upstream|version|budget|labels"})',
        lasting="30m",
        panel=("income-retraining", "Blocked trainings"),
        runbook="""\
python -m training decisions gives the reason in full. upstream: a field is broken (see the alert
InvalidValues). labels: too few new labels arrive at /feedback (WATCH_MIN_LABELS), or they
came without an API key. budget: too many trainings in 30 days (WATCH_BUDGET); find out why the
drift returns. version: the monitoring and the registry name different versions (see the alert
ModelVersionSkew).""",
        commands=(DECISIONS,),
    ),
    Alert(
        name="PromotionUndone",
        summary="A promotion was undone: the former version is production again.",
        value="time() - max(income_promotion_undone_timestamp_seconds)",
        comparison="<",
        threshold=3600,
        lasting="0m",
        severity="critical",
        panel=("income-retraining", "Promotions undone"),
        runbook="""\
A promoted version was worse than the one before it: by its labels, its server errors or its
latency. python -m training history gives the figures. Predictions continue with the former version,
so nothing is urgent. Find out what the gate did not see: compare the lineage and the model cards of
both versions in MLflow (port 5000). For server errors look at the service's log. The undone version
is not tried again without python -m training promote VERSION --force. The alert resolves an hour
after the move.""",
        logs="prediction worker",
        commands=(HISTORY,),
    ),
    Alert(
        name="WorkerDown",
        summary="Prometheus cannot scrape the training worker.",
        value='min(up{job="training_worker"})',
        comparison="<",
        threshold=1,
        lasting="5m",
        panel=("income-service", "Services"),
        runbook="""\
Nothing watches the drift and nothing trains while the worker is down; predictions continue. Look
at the container. The scrape also fails while Prefect's server or MLflow is unavailable, because
the figures come from there.""",
        logs="worker prefect mlflow",
    ),
    Alert(
        name="ServiceDown",
        summary="Prometheus cannot scrape {{ .Labels.job }}.",
        value='min by (job) (up{job=~"prediction_service|evidently_service"})',
        comparison="<",
        threshold=1,
        lasting="1m",
        severity="critical",
        panel=("income-service", "Services"),
        no_data="Alerting",  # Prometheus has no target: it scrapes nothing
        runbook="""\
A service that is down counts no errors, so this alert reports it. Look at the container. Without
the prediction service there are no predictions. Without the Evidently service predictions
continue and wait in the journal.""",
        logs="prediction evidently",
    ),
)
