"""The dashboards, made of the contract, the monitoring file and the names of the metrics.

Every figure is of all processes of a service: `max by` leaves the scraped address out of the
series, and a counter is summed.
"""

from typing import Any

from grafana_foundation_sdk.builders import bargauge, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import dashboard as models

from config.contract import Contract, Feature
from config.grafana.alerts import ALERTS, PREDICTIONS, RUNBOOKS, in_general
from config.grafana.panels import (
    GREEN,
    RED,
    above,
    alerted,
    bars,
    called,
    dashboard,
    lines,
    names,
    number,
    row,
    timeline,
    words,
)

RATE = "$__rate_interval"  # Grafana's: at least four scrapes
VERDICT = called({"0": ("no drift", GREEN), "1": ("drift", RED)})
YES = called({"1": ("yes", GREEN)})

# Whether more or less of it is better does not matter here; the name is that of the metric.
QUALITY = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "log_loss": "Log loss",
}
QUANTILES = {"0.5": "50 %", "0.95": "95 %", "0.99": "99 %"}


def all_dashboards(contract: Contract, monitoring: dict[str, Any]) -> list[models.Dashboard]:
    """Every dashboard, its panels numbered; `monitoring` is the monitoring file as read."""
    made = [
        drift(monitoring),
        feature_drill_down(contract),
        target(contract),
        performance(monitoring),
        data_quality(),
        service(),
        retraining(),
        runbooks(),
    ]
    return [numbered(each.build()) for each in made]


def numbered(board: models.Dashboard) -> models.Dashboard:
    """The dashboard with an id for each panel: alerts and links name them."""
    for number_of, panel in enumerate(board.panels or [], start=1):
        panel.id_val = number_of
    return board


def drift(monitoring: dict[str, Any]) -> dashboards.Dashboard:
    """The home dashboard: is the data still what the model was made for?"""
    share = monitoring["share_drifted"]
    board = dashboard(
        "income-drift",
        "Drift overview",
        "Whether the newest predictions are still like the rows that the model was made for.",
    )
    for panel in (
        number(
            "Verdict",
            "Whether enough features have drifted. Empty: no verdict yet.",
            "max(income_drift_detected)",
            above(1),
        ).mappings(VERDICT),
        number(
            "Share of drifted features",
            f"Drifted features over all. From {share:.0%} the verdict is drift "
            "(share_drifted in config/monitoring.yaml).",
            "max(income_drift_share)",
            above(share),
        ).unit("percentunit"),
        number(
            "Rows in the window",
            "Predictions that the verdict rests on.",
            "max(income_window_rows)",
        ),
        number(
            "False alarms to expect",
            "A month, if nothing drifts: what the thresholds are made for.",
            "max(income_false_alarm_budget_per_month)",
        ),
        names(
            "Served model",
            "The version that predictions come from.",
            "max by (version) (income_model_info)",
            "{{version}}",
        ),
        number(
            "Age of the verdict",
            "Time since the window was last looked at.",
            "time() - max(income_measurement_timestamp_seconds)",
            alerted("MonitoringStale"),
        ).unit("s"),
        lines(
            "Drift by feature",
            "Distance from the reference over the feature's threshold: above 1 is drift.",
            ("max by (feature) (income_feature_drift_score)", "{{feature}}"),
            limits=above(1),
        )
        .min(0)
        .data_links([to_feature()]),
        lines(
            "Drift of the predictions",
            "Of the probability and the class, over its threshold: above 1 is drift.",
            ("max by (output) (income_prediction_drift_score)", "{{output}}"),
            limits=above(1),
        ).min(0),
        bars(
            "Features by drift",
            "As of now, the most drifted first. A click leads to the feature.",
            ("sort_desc(max by (feature) (income_feature_drift_score))", "{{feature}}"),
            limits=above(1),
        ).data_links([to_feature()]),
        bars(
            "Features by the effect of their drift on the score",
            "A feature may drift far and change no prediction. A click leads to the feature.",
            ("sort_desc(max by (feature) (income_feature_drift_effect))", "{{feature}}"),
        ).data_links([to_feature()]),
        timeline(
            "Features that have drifted",
            "Beyond the threshold in several windows in a row that share no rows.",
            ("max by (feature) (income_feature_drift_persistent)", "{{feature}}"),
        ).mappings(VERDICT),
        timeline(
            "Alerts that fire",
            "As Prometheus evaluates them; what each means is on the dashboard Runbooks.",
            (
                'max by (alertname) (ALERTS{alertstate="firing"})'
                ' or label_replace(vector(0), "alertname", "none", "", "")',
                "{{alertname}}",
            ),
        ).mappings(called({"0": ("silent", GREEN), "1": ("fires", RED)})),
    ):
        board.with_panel(panel)
    return board


def to_feature() -> dashboards.DashboardLink:
    """From a series of a feature to its drill down, over the same time."""
    link = dashboards.DashboardLink("${__field.labels.feature}: drill down")
    return link.url("/d/income-feature?var-feature=${__field.labels.feature}&${__url_time_range}")


def feature_drill_down(contract: Contract) -> dashboards.Dashboard:
    """One feature of the contract, chosen by the reader."""
    board = dashboard("income-feature", "Feature drill down", "Everything known of one feature.")
    listed = [feature.name for feature in contract.inputs]
    first = models.VariableOption(selected=True, text=listed[0], value=listed[0])
    options = [models.VariableOption(False, one, one) for one in listed[1:]]
    board.with_variable(
        dashboards.CustomVariable("feature")
        .label("Feature")
        .values(",".join(listed))
        .current(first)
        .options([first, *options])
    )
    of = '{feature="$feature"}'
    for panel in (
        number(
            "Drift now",
            "Distance from the reference over the feature's threshold: above 1 is drift.",
            f"max(income_feature_drift_score{of})",
            above(1),
        ).decimals(2),
        number(
            "Threshold",
            "The distance from which on it is drift.",
            'max(income_drift_threshold{column="$feature"})',
        ).decimals(3),
        number(
            "Effect on the score",
            "How much the feature's drift moves the predictions.",
            f"max(income_feature_drift_effect{of})",
        ).decimals(3),
        number(
            "Rank",
            "1: no feature has drifted further.",
            "count(max by (feature) (income_feature_drift_score)"
            f" >= scalar(max(income_feature_drift_score{of})))",
        ),
        number(
            "Faulty values",
            "Share of the window's rows with any problem in this feature; the worst problem.",
            f"max(income_data_quality_share{of})",
        ).unit("percentunit"),
        number("Rows in the window", "Predictions that were measured.", "max(income_window_rows)"),
        lines(
            "Drift of $feature",
            "Distance from the reference over the feature's threshold: above 1 is drift.",
            (f"max by (feature) (income_feature_drift_score{of})", "{{feature}}"),
            limits=above(1),
        ).min(0),
        lines(
            "Effect of the drift of $feature on the score",
            "How much the feature's drift moves the predictions.",
            (f"max by (feature) (income_feature_drift_effect{of})", "{{feature}}"),
        ),
        lines(
            "Problems of the values of $feature",
            "Share of the window's rows, by problem.",
            (f"max by (problem) (income_data_quality_share{of})", "{{problem}}"),
        )
        .unit("percentunit")
        .min(0)
        .span(24),
        words("The contract", contract_table(contract), 15),
    ):
        board.with_panel(panel)
    return board


def contract_table(contract: Contract) -> str:
    """What each feature may be, in Markdown."""
    head = "| feature | what it is | values | if missing |\n| --- | --- | --- | --- |\n"
    rows = [
        f"| {one.name} | {one.description} | {values(one)} | {one.missing} |"
        for one in contract.inputs
    ]
    return head + "\n".join(rows)


def values(feature: Feature) -> str:
    """A feature's range or categories, in short."""
    if feature.is_categorical:
        return f"{len(feature.categories)} categories, {feature.kind}"
    return f"{feature.minimum} to {feature.maximum} {feature.unit or ''}".strip()


def target(contract: Contract) -> dashboards.Dashboard:
    """What the model answers, beside what turned out to be true."""
    positive = contract.target.positive
    board = dashboard("income-target", "Target drift", "Whether the model's answers have moved.")
    for panel in (
        lines(
            "Drift of the predictions",
            "Of the probability and the class, over its threshold: above 1 is drift.",
            ("max by (output) (income_prediction_drift_score)", "{{output}}"),
            limits=above(1),
        ).min(0),
        lines(
            f"Share of {positive}",
            "Of the answered records as they come, and of the labelled rows of the window: "
            "predicted, and true.",
            (
                f'sum(rate(income_predictions_total{{income_class="1"}}[{RATE}]))'
                f" / sum(rate(income_predictions_total[{RATE}]))",
                "predicted, all",
            ),
            (
                'sum(income_confusion_rows{income_class="1"}) / sum(income_confusion_rows)',
                "predicted, labelled",
            ),
            (
                'sum(income_confusion_rows{label="1"}) / sum(income_confusion_rows)',
                "true, labelled",
            ),
        )
        .unit("percentunit")
        .min(0),
        lines(
            "Predictions by class",
            f"Records answered a second; 1 is {positive}.",
            (f"sum by (income_class) (rate(income_predictions_total[{RATE}]))", "{{income_class}}"),
        )
        .unit("rowsps")
        .min(0),
        bars(
            "Thresholds of the outputs",
            "The distance from which on it is drift.",
            (
                'max by (column) (income_drift_threshold{column=~"probability|income_class"})',
                "{{column}}",
            ),
        ).decimals(3),
        timeline(
            "Outputs that have drifted",
            "Beyond the threshold in several windows in a row that share no rows.",
            ("max by (output) (income_prediction_drift_persistent)", "{{output}}"),
        ).mappings(VERDICT),
    ):
        board.with_panel(panel)
    return board


def performance(monitoring: dict[str, Any]) -> dashboards.Dashboard:
    """How right the predictions are: estimated at once, measured when labels come."""
    board = dashboard(
        "income-performance",
        "Classification performance",
        "Measured on labelled predictions, and estimated before their labels come.",
    )
    for panel in (
        number(
            "ROC AUC now",
            "Of the newest labelled predictions.",
            "max(income_quality_roc_auc)",
            alerted("PerformanceBelowFloor"),
        ).decimals(3),
        number(
            "Labelled rows",
            f"What quality is measured on; from {monitoring['min_labels']} on (min_labels in "
            "config/monitoring.yaml).",
            "max(income_quality_rows)",
        ),
        number(
            "Label coverage",
            "Share of the window's predictions whose true class is known.",
            "max(income_label_coverage_ratio)",
        ).unit("percentunit"),
        bars(
            "Label delay",
            "From a prediction to its label, by quantile.",
            ("max by (quantile) (income_label_delay_seconds)", "{{quantile}}"),
        )
        .unit("s")
        .height(4),
    ):
        board.with_panel(panel)
    board.with_row(row("Measured beside estimated"))
    for metric, title in QUALITY.items():
        board.with_panel(quality(metric, title))
    for chart in (
        lines(
            "Calibration error",
            "Mean distance between predicted probability and what came true, of labelled rows.",
            ("max(income_quality_calibration_error)", "measured"),
        ).min(0),
        lines(
            "Error of the estimate",
            "Once labels had come: how far the estimate was from what was measured.",
            ("max by (metric) (income_estimation_error)", "{{metric}}"),
        ),
    ):
        board.with_panel(chart)
    board.with_row(row("Confusion and groups"))
    for each in confusion_and_groups():
        board.with_panel(each)
    return board


def quality(metric: str, title: str) -> timeseries.Panel:
    """One metric: measured and estimated, each between the ends of its interval."""
    bound, estimated = "income_quality_bound", f'{{metric="{metric}"}}'
    panel = lines(
        title,
        "Of the newest labelled predictions, and as estimated for all of the window, each with its "
        "interval.",
        (f"max(income_quality_{metric})", "measured"),
        (f"min({bound}{estimated})", "measured, lower"),
        (f"max({bound}{estimated})", "measured, upper"),
        (f"max(income_estimated_quality{estimated})", "estimated"),
        (f"min(income_estimated_quality_bound{estimated})", "estimated, lower"),
        (f"max(income_estimated_quality_bound{estimated})", "estimated, upper"),
        limits=alerted("PerformanceBelowFloor") if metric == "roc_auc" else None,
    )
    return panel.span(8).decimals(3)


def confusion_and_groups() -> list[bargauge.Panel]:
    """Who is predicted right, and how often whom, by group."""
    group = "{{segment}}: {{group}}"
    return [
        bars(
            "Confusion",
            "Labelled rows by true and predicted class; 1 is above 50,000 dollars a year.",
            (
                "max by (label, income_class) (income_confusion_rows)",
                "{{label}} as {{income_class}}",
            ),
        ),
        bars(
            "Accuracy by group",
            "Of labelled rows; only groups with enough of them.",
            ('max by (segment, group) (income_segment_quality{metric="accuracy"})', group),
        )
        .unit("percentunit")
        .max(1),
        bars(
            "Selection rate by group",
            "Share of the group that is predicted above 50,000 dollars a year.",
            ("max by (segment, group) (income_segment_selection_rate)", group),
        )
        .unit("percentunit")
        .max(1),
        bars(
            "Rows by group",
            "Predictions in the window.",
            ("max by (segment, group) (income_segment_rows)", group),
        ),
    ]


def data_quality() -> dashboards.Dashboard:
    """Whether the values are what the contract says, before anything is made of them."""
    board = dashboard(
        "income-data-quality",
        "Data quality",
        "Missing, out of range and unseen values, refused records, labels that fit nothing.",
    )
    for panel in (
        lines(
            "Faulty values",
            "Share of the window's rows, by feature and problem.",
            (
                "max by (feature, problem) (income_data_quality_share)",
                "{{feature}}: {{problem}}",
            ),
        )
        .unit("percentunit")
        .min(0),
        bars(
            "Worst now",
            "The ten largest shares of the window's rows.",
            (
                "sort_desc(topk(10, max by (feature, problem) (income_data_quality_share)))",
                "{{feature}}: {{problem}}",
            ),
        ).unit("percentunit"),
        lines(
            "Refused records",
            "Records a second that break the contract or are no JSON: they get status 422 or 400.",
            (f"sum(rate(income_invalid_records_total[{RATE}]))", "refused"),
        )
        .unit("rowsps")
        .min(0),
        lines(
            "Duplicates",
            "Predictions a second that came to the window again and were not stored twice.",
            (f"sum(rate(income_window_duplicates_total[{RATE}]))", "duplicates"),
        )
        .unit("rowsps")
        .min(0),
        lines(
            "Labels",
            "Kept labels: matched to a prediction, still without one, or contradicting an earlier.",
            ("max by (state) (income_labels)", "{{state}}"),
        ).min(0),
        lines(
            "Label coverage",
            "Share of the window's predictions whose true class is known.",
            ("max(income_label_coverage_ratio)", "labelled"),
        )
        .unit("percentunit")
        .min(0),
    ):
        board.with_panel(panel)
    return board


def service() -> dashboards.Dashboard:
    """Whether predictions are answered, stored and measured."""
    board = dashboard(
        "income-service",
        "Service health",
        "Requests, errors, latency, what waits to be stored, and which version each worker serves.",
    )
    requests = f"sum(rate(income_requests_total{{{PREDICTIONS}}}[{RATE}]))"
    errors = f'sum(rate(income_requests_total{{{PREDICTIONS},status=~"5.."}}[{RATE}]))'
    for panel in (
        number("Requests", "Predictions and labels.", requests).unit("reqps"),
        number(
            "Refused version",
            "Versions that the registry names and the service refuses to serve.",
            "count(max by (version) (income_model_version_refused)) or vector(0)",
            above(1),
        ),
        number(
            "Dead letters",
            "Events that a sink refused for good; they are in the journal's relay.db.",
            "sum(income_journal_dead_letters) or vector(0)",
            above(1),
        ),
        number(
            "Journals",
            "Disk used; bounded by JOURNAL_MAX_MB, beyond which predictions are refused.",
            "max(income_journal_bytes)",
        ).unit("bytes"),
        number(
            "Last measurement",
            "Whether the last run of the Evidently service had an error.",
            "max(income_measurement_failed)",
            above(1),
        ).mappings(called({"0": ("fine", GREEN), "1": ("failed", RED)})),
        number(
            "Time to measure",
            "What the latest measurement took.",
            "max(income_measurement_duration_seconds)",
        ).unit("s"),
        lines(
            "Requests by status",
            "A second, by endpoint and HTTP status.",
            (
                f"sum by (endpoint, status) (rate(income_requests_total[{RATE}]))",
                "{{endpoint}} {{status}}",
            ),
        )
        .unit("reqps")
        .min(0),
        lines(
            "Share of server errors",
            "Of predictions and labels: answers with a status from 500 on.",
            (f"({errors} or vector(0)) / {requests}", "errors"),
            limits=alerted("ErrorRate"),
        )
        .unit("percentunit")
        .min(0),
        lines(
            "Time to answer",
            "Of /predict, from the body to the committed answer, by quantile.",
            *[
                (
                    f"histogram_quantile({quantile}, sum by (le)"
                    f" (rate(income_prediction_latency_seconds_bucket[{RATE}])))",
                    shown,
                )
                for quantile, shown in QUANTILES.items()
            ],
            limits=alerted("Latency"),
        )
        .unit("s")
        .min(0),
        lines(
            "Waiting to be stored",
            "Journalled events that a sink has not confirmed.",
            ("max by (sink) (income_journal_backlog_rows)", "{{sink}}"),
            limits=alerted("SinkBacklog"),
        ).min(0),
        lines(
            "Workers by model version",
            "Living workers by the version that they serve, beside the version that monitoring "
            "compares with. One colour: no skew.",
            ("sum by (version) (income_workers) > 0", "workers on {{version}}"),
            ("max by (model_version) (income_reference_info)", "reference of {{model_version}}"),
        ).min(0),
        lines(
            "From the answer to the window",
            "Records a second that were answered, and that arrived at the Evidently service.",
            (f"sum(rate(income_predictions_total[{RATE}]))", "answered"),
            (f"sum(rate(income_window_ingested_total[{RATE}]))", "arrived"),
        )
        .unit("rowsps")
        .min(0),
        timeline(
            "Answers Prometheus",
            "Whether each service could be scraped.",
            ('min by (job) (up{job=~"prediction_service|evidently_service"})', "{{job}}"),
        ).mappings(called({"0": ("down", RED), "1": ("up", GREEN)})),
    ):
        board.with_panel(panel)
    return board


def retraining() -> dashboards.Dashboard:
    """What drift led to: versions and verdicts over the last days."""
    board = dashboard(
        "income-retraining",
        "Retraining history",
        "Which version was in production when, and what was seen of the data meanwhile.",
    ).time("now-7d", "now")
    for panel in (
        timeline(
            "Versions that were served",
            "By the prediction service.",
            ("max by (version) (income_model_info)", "version {{version}}"),
        ).mappings(YES),
        timeline(
            "Versions that monitoring compared with",
            "The reference of the version in production.",
            ("max by (model_version) (income_reference_info)", "version {{model_version}}"),
        ).mappings(YES),
        timeline(
            "Verdict",
            "Whether enough features had drifted. Empty: no verdict.",
            ("max(income_drift_detected)", "drift"),
        )
        .mappings(VERDICT)
        .height(4),
        timeline(
            "State of the measurement",
            "ok: there is a verdict; otherwise why there is none.",
            ("max by (state) (income_measurement_state) == 1", "{{state}}"),
        ).mappings(YES),
        lines(
            "Share of drifted features",
            "Rises with drift, and falls when a version made for the new data is promoted.",
            ("max(income_drift_share)", "drifted"),
        )
        .unit("percentunit")
        .min(0),
        lines(
            "ROC AUC",
            "Of the newest labelled predictions, across versions.",
            ("max(income_quality_roc_auc)", "measured"),
            limits=alerted("PerformanceBelowFloor"),
        ).decimals(3),
        words("Where the rest is", ELSEWHERE, 7),
    ):
        board.with_panel(panel)
    return board


ELSEWHERE = """\
Prefect and MLflow export no metrics, so the trainings themselves are not on this page:

- **Runs**: Prefect, port 4200. Those that drift started have the tag `drift`.
- **Verdicts of the gate, figures, model cards**: MLflow, port 5000, on the version's page.
- **Who promoted what, when and why**: `python -m training history`.
"""


def runbooks() -> dashboards.Dashboard:
    """The runbooks: alerts link to their panel here."""
    board = dashboard(RUNBOOKS, "Runbooks", "What each alert means and what to do.")
    for alert in ALERTS:
        text = f"**{in_general(alert.summary)}** ({alert.severity})\n\n{alert.runbook}\n"
        board.with_panel(words(alert.name, text, 6))
    return board
