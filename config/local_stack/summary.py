"""The demo's summary: extracts of the monitoring's verdicts, and the table."""

from pathlib import Path
from typing import Any

from rich.table import Table

SHOWN_METRICS = ("roc_auc", "log_loss", "f1", "ece")


def brief(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a drift verdict for the summary."""
    drifted = [f["name"] for f in verdict.get("features", []) if f["persistent"]]
    return {
        "drifted": verdict["drifted"],
        "share_drifted": verdict["share_drifted"],
        "features": drifted,
        "window_rows": verdict["window"]["rows"],
    }


def is_resolved(after: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return True if there was drift and the judged windows of the new version have none."""
    return after["drifted"] and not now["drifted"] and now["judgement"]["windows"] > 0


def resulting(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the measured quality of the live version for the summary."""
    quality = verdict["quality"] or {}
    names = ("rows", "roc_auc", "log_loss", "f1")
    return {"model_version": verdict["model_version"]} | {n: quality.get(n) for n in names}


def summary_table(summary: dict[str, Any], calm: str, path: Path) -> Table:
    """Return the summary as a table; `calm` names the traffic for the throughput."""
    metrics, counts = summary["test_metrics"], summary["predictions"]
    traffic, drift, quality = summary["traffic"][calm], summary["drift"], summary["quality"]
    retraining = summary["retraining"]
    rows = {
        "data": f"{summary['data_source']}: {summary['rows']['train']:,} training rows,"
        f" {summary['rows']['test']:,} test rows",
        "test metrics": ", ".join(f"{n} {metrics[n]:.4f}" for n in SHOWN_METRICS),
        "model": f"version {summary['model_version']}, run {summary['run_id']}",
        "predictions": ", ".join(f"{value} {name}" for name, value in counts.items()),
        "throughput": f"{traffic['requests_per_s']:.0f} requests/s,"
        f" {traffic['latency_p50_ms']:.1f} ms median latency",
        "change": drift["change"],
        "drift before": drift_words(drift["before"]),
        "drift after": drift_words(drift["after"]),
        "retraining": f"flow run {retraining['flow_run']}, started by drift:"
        f" {trained_words(retraining)}",
        "promotion": f"version {summary['promotion']['model_version']} serves. Decided in"
        f" {summary['promotion']['seconds']} s: {summary['promotion']['why']}",
        "drift at the end": ("resolved, " if drift["resolved"] else "")
        + drift_words(drift["retrained"]),
        "quality before": quality_words(quality["before"]),
        "quality after": quality_words(quality["shifted"]),
        "quality at the end": quality_words(quality["retrained"]),
        "seconds": ", ".join(f"{name} {value}" for name, value in summary["seconds"].items()),
        **summary["addresses"],
        "details": str(path),
    }
    table = Table(show_header=False, title="From the first training to the end of the drift")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def trained_words(retraining: dict[str, Any]) -> str:
    """Return the version that passed the gate, or the gate's reason."""
    if reason := retraining.get("rejected"):
        return f"the gate rejected it: {reason}"
    return f"version {retraining['model_version']} passed the gate"


def drift_words(drift: dict[str, Any]) -> str:
    """Return a drift verdict as one line."""
    names = ", ".join(drift["features"]) or "none"
    found = "drift" if drift["drifted"] else "no drift"
    return f"{found}: {drift['share_drifted']:.0%} of the features ({names})"


def quality_words(quality: dict[str, Any]) -> str:
    """Return the measured quality of a version as one line."""
    if quality["roc_auc"] is None:
        return f"version {quality['model_version']}: not enough labels"
    return (
        f"version {quality['model_version']} on {quality['rows']} labelled rows:"
        f" ROC AUC {quality['roc_auc']:.3f}, log loss {quality['log_loss']:.3f}"
    )
