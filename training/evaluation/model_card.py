"""The model card: purpose, quality and fairness of a model version, as one HTML page.

It is part of the package: MLflow keeps it beside the model, and the prediction service serves it at
`/model/card`. Quality is measured on the test split, after drift also on the newest labelled rows.
Source: Mitchell et al. (2019), Model cards for model reporting, doi:10.1145/3287560.3287596.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from config.contract import Contract
from config.model_registry import MODEL_NAME
from config.runtime.statistics import (
    ece_by_chance,
    expected_calibration_error,
    measure_calibration,
)
from config.web import STYLE
from training.evaluation.fairness import (
    MIN_ROWS,
    Scored,
    gap_table,
    group_table,
    population_words,
)
from training.evaluation.gate import Interval, Verdict
from training.evaluation.metrics import draw_calibration, measure
from training.model.onnx_export import Package

NO_LIMITS = (
    "The contract states no limits of the label: write them into the key limits of its target."
)
SYNTHETIC_WARNING = (
    '<p class="warning">Trained and measured on synthetic rows: no figure here is about real'
    " people.</p>"
)
PAGE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Facts:
    """Facts of the card that its package does not have."""

    version: str
    champion: str  # the production version that the gate compared, or `none`
    train_rows: int
    judge_uses: int
    search: Mapping[str, float]  # as `model.search.count_trials` returns it


def model_card(facts: Facts, package: Package, test: pd.DataFrame, verdict: Verdict) -> str:
    """Return the page of a package, measured on a test frame with its target."""
    contract, threshold, made = package.contract, package.threshold, package.metadata
    target, probability = contract.target, package.score(test)
    y, intervals = test[target.name].to_numpy(), json.loads(made["metric_intervals"])
    scored = Scored.of(y, probability, threshold)
    calibration, calibration_words = calibration_plot(y, probability, target.positive)
    words = vars(facts) | {name: made[name] for name in ("run_id", "trained_at", "data_source")}
    words |= {name: getattr(target, name) for name in ("description", "negative", "positive")}
    return PAGE.read_text("utf-8").format(
        **{name: escaped(value) for name, value in words.items()},
        name=MODEL_NAME,
        joined_rows=int(made["joined_rows"]),
        limits=escaped(target.limits or NO_LIMITS),
        warning=SYNTHETIC_WARNING if made["data_source"] == "synthetic" else "",
        trials=search_words(facts.search),
        threshold=threshold,
        groups=escaped(segment_words(contract)),
        test_rows=len(test),
        metrics=as_html(metrics_table(y, probability, threshold, intervals)),
        min_rows=MIN_ROWS,
        segments=as_html(group_table(test, contract.segments, scored)),
        gaps=as_html(gap_table(test, contract, scored)),
        population=population_words(test, contract, scored),
        features=as_html(features_table(contract)),
        decision=verdict.outcome,
        reason=escaped(verdict.reason),
        judge=verdict.judge,
        judge_rows=verdict.judge_rows,
        comparison=as_html(comparison_table(verdict)),
        calibration=calibration,
        calibration_figures=as_html(calibration_table(y, probability)),
        calibration_words=calibration_words,
        style=STYLE.read_text("utf-8"),
    )


def escaped(value: str | int) -> str | int:
    """Return text escaped for HTML, and numbers unchanged."""
    return html.escape(value) if isinstance(value, str) else value


def search_words(found: Mapping[str, float]) -> str:
    """Return how many settings the search scored, and whether it found more than the first."""
    tried, scored, best = (int(found[name]) for name in ("trials", "trials_scored", "best_trial"))
    text = f"Settings that the search tried: {tried}; scored on every fold: {scored}."
    if best == 1:
        return f"{text} None was better than the first one, which this version has."
    return f"{text} This version has setting {best}."


def segment_words(contract: Contract) -> str:
    """Return whether the model uses the columns of the contract's groups."""
    names = [segment.name for segment in contract.segments]
    if not names:
        return "The contract names no groups: no column has the key segment."
    unused = [name for name in names if name not in contract.input_names]
    used = [name for name in names if name not in unused]
    words = [f"The model uses {in_words(used)}."] if used else []
    words += [f"The model does not use {in_words(unused)}."] if unused else []
    return " ".join([*words, "The team that trains it decides that."])


def in_words(names: list[str]) -> str:
    """Return names as an enumeration: "age, race and sex"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def metrics_table(
    y: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    intervals: Mapping[str, Sequence[float]],
) -> pd.DataFrame:
    """Return each metric with the ends of its interval, and its value without a model.

    Without a model, every row's probability is the share of the positive label.
    """
    baseline = measure(y, np.full(len(y), y.mean()), threshold)
    rows = {
        name: {
            "value": value,
            "from": intervals[name][0],
            "to": intervals[name][1],
            "without a model": baseline[name],
        }
        for name, value in measure(y, probability, threshold).items()
        if name in intervals
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def calibration_table(y: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Return each figure of the calibration, and its value for a calibrated model."""
    rows = {
        name: {"value": value, "from": low, "to": high, "calibrated": float(name == "slope")}
        for name, (value, low, high) in measure_calibration(y, probability).items()
    }
    error = expected_calibration_error(y, probability)
    rows["ece"] = {"value": error, "calibrated": ece_by_chance(probability)}
    return pd.DataFrame.from_dict(rows, orient="index")


def comparison_table(verdict: Verdict) -> pd.DataFrame:
    """Return the gate's figures: this version's, the champion's, and the gain with its interval.

    Groups have the gain alone.
    """
    ours = verdict.candidate.metrics
    theirs = verdict.champion.metrics if verdict.champion else {}
    gains = {"roc_auc": verdict.roc_auc_gain, "log_loss": verdict.log_loss_gain}
    where = f"{verdict.judge}, {verdict.judge_rows:,} rows"
    rows = {
        f"{where}: {name}": compared(ours[name], theirs.get(name), gain)
        for name, gain in gains.items()
    }
    if floor := verdict.floor:
        ours, theirs, gain = floor.candidate, floor.champion, floor.roc_auc_gain
        where = f"{floor.judge}, {floor.judge_rows:,} rows"
        rows[f"{where}: roc_auc"] = compared(ours["roc_auc"], theirs["roc_auc"], gain)
    for segment in verdict.segments:
        if rise := segment.log_loss_rise:
            gain = Interval(-rise.estimate, -rise.high, -rise.low)
            rows[f"{segment.name}, {segment.rows:,} rows: log_loss"] = compared(None, None, gain)
    return pd.DataFrame.from_dict(rows, orient="index").dropna(axis="columns", how="all")


def compared(
    ours: float | None, theirs: float | None, gain: Interval | None
) -> dict[str, float | None]:
    """Return a row of the comparison."""
    ends = dict(zip(("gain", "from", "to"), gain)) if gain else {}
    return {"this version": ours, "production before": theirs, **ends}


def features_table(contract: Contract) -> pd.DataFrame:
    """Return kind, unit and meaning of each column that the model uses."""
    rows = {
        one.name: {"kind": one.kind, "unit": one.unit or "", "meaning": one.description}
        for one in contract.inputs
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def as_html(table: pd.DataFrame) -> str:
    """Return a table as HTML, or a sentence if it is empty."""
    if table.empty:
        return "<p>Too few rows.</p>"
    page = table.to_html(float_format="{:.4f}".format, na_rep="", border=0)
    return f'<div class="wide">{page}</div>'


def calibration_plot(y: np.ndarray, probability: np.ndarray, positive: str) -> tuple[str, str]:
    """Return the calibration plot as base64 PNG, and its text alternative."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    draw_calibration(axes, y, probability, positive)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    points = np.asarray(axes.lines[-1].get_xydata())
    groups = "; ".join(f"{mean:.3f} and {share:.3f}" for mean, share in points)
    words = f"Calibration plot. Mean probability and observed share, by group: {groups}."
    return base64.b64encode(content.getvalue()).decode(), words
