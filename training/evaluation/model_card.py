"""The model card: purpose, quality and fairness of a model version, as one HTML page.

It is part of the package: MLflow keeps it beside the model, and the prediction service serves it at
`/model/card`. Every figure is measured on the official test split.
Source: Mitchell et al. (2019), Model cards for model reporting, doi:10.1145/3287560.3287596.
"""

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from config.contract import Contract
from config.segments import PROTECTED
from training.evaluation.metrics import (
    bootstrap_intervals,
    draw_calibration,
    measure,
    segment_table,
)

RESAMPLES = 200
MIN_ROWS = 200  # of a segment

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model card: {name}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .6rem; text-align: right;
border-bottom: 1px solid #ccc; }} th:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }} img {{ max-width: 100%; }}
.warning {{ border: 2px solid #b00; padding: .5rem 1rem; }}
</style></head><body>
<h1>Model card: {name}</h1>
{warning}
<p>Run {run_id}, trained {trained_at} on {train_rows:,} rows. {joined_rows:,} of them joined the census
later; the run's data/lineage.json names their sources. Data source: <b>{data_source}</b>. Decision
threshold: {threshold:.3f}.</p>
<h2>Purpose and limits</h2>
<p>Estimates {description}, for planning over groups of people. The label is that of the 1994 US census
extract "Adult": whether a person's total income of the previous year exceeded 50,000 dollars. The
extract has people over 16 with some working hours. The model says nothing about today's incomes or
other countries. Never use it to decide about one person: neither credit, nor benefits, nor
employment.</p>
<h2>Protected traits</h2>
<p>{protected} To leave a column out, set <code>used: false</code> in config/features.yaml.
<code>make bench NAME=ablation</code> measures the effect on quality and on the gaps below. Other columns
(relationship, marital status, occupation) contain much of the same information.</p>
<h2>Quality</h2>
<p>Measured on {test_rows:,} rows of the official test split, which training never uses, with 95 %
bootstrap intervals.</p>
{metrics}
<h2>By group</h2>
<p>Groups with at least {min_rows} rows. The selection rate is the share predicted {positive}: of the
group, of its rows labelled {positive} (true positive rate), and of its rows labelled {negative} (false
positive rate).</p>
{segments}
<h3>Gaps between groups (maximum minus minimum)</h3>
{gaps}
<h2>Calibration</h2>
<p>Observed share of {positive} against the mean probability, in ten groups of equal size.</p>
<img alt="{calibration_words}" src="data:image/png;base64,{calibration}">
<h2>Promotion gate</h2>
<p>Half of the test split is the holdout set for candidates; it is never sent as traffic. Including this
version it was used {judge_uses} times. Each use makes it slightly less impartial. After drift the
holdout set is labelled production rows that no training uses, and this half is the floor set. The run's
artifact gate/verdict.json has the verdict.</p>
</body></html>
"""


@dataclass(frozen=True)
class Facts:
    """Facts of the card that are not measured."""

    name: str
    run_id: str
    trained_at: str
    data_source: str
    train_rows: int
    joined_rows: int
    judge_uses: int


def model_card(
    facts: Facts, contract: Contract, test: pd.DataFrame, probability: np.ndarray, threshold: float
) -> str:
    """Return the page for a test frame with its target and probabilities (n_samples,)."""
    y = test[contract.target.name].to_numpy()
    segments = segment_table(test, y, probability, threshold, MIN_ROWS)
    target = contract.target
    calibration, calibration_words = calibration_plot(y, probability, target.positive)
    words = {name: getattr(target, name) for name in ("description", "negative", "positive")}
    return PAGE.format(
        **{name: escaped(value) for name, value in (vars(facts) | words).items()},
        warning=synthetic_warning(facts),
        threshold=threshold,
        protected=protected_words(contract),
        test_rows=len(test),
        metrics=as_html(metrics_table(y, probability, threshold)),
        min_rows=MIN_ROWS,
        segments=as_html(segments),
        gaps=as_html(gaps(segments)),
        calibration=calibration,
        calibration_words=calibration_words,
    )


def escaped(value: str | int) -> str | int:
    """Return text escaped for HTML, and numbers unchanged."""
    return html.escape(value) if isinstance(value, str) else value


def synthetic_warning(facts: Facts) -> str:
    """Return the warning for a model that was trained on synthetic rows, else an empty text."""
    if facts.data_source != "synthetic":
        return ""
    text = "Trained and measured on synthetic rows: no figure here is about real people."
    return f'<p class="warning">{text}</p>'


def protected_words(contract: Contract) -> str:
    """Return a sentence on the protected columns that the model uses."""
    seen = [name for name in PROTECTED if name in contract.input_names]
    if not seen:
        return "The model uses neither sex nor race."
    return f"The model uses {' and '.join(seen)}; the team that trains it decides that."


def metrics_table(y: np.ndarray, probability: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return each metric with the ends of its interval."""
    intervals = bootstrap_intervals(y, probability, threshold, RESAMPLES, seed=0)
    rows = {
        name: {"value": value, "from": intervals[name][0], "to": intervals[name][1]}
        for name, value in measure(y, probability, threshold).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def gaps(segments: pd.DataFrame) -> pd.DataFrame:
    """Return the maximum difference between the groups of each protected column."""
    rates = ["selection_rate", "true_positive_rate", "false_positive_rate"]
    rows = {}
    for column in PROTECTED:
        of = segments[segments.index.str.startswith(f"{column} ")] if len(segments) else segments
        if len(of) > 1:
            rows[column] = of[rates].max() - of[rates].min()
    return pd.DataFrame.from_dict(rows, orient="index")


def as_html(table: pd.DataFrame) -> str:
    """Return a table as HTML, or a sentence if it is empty."""
    if table.empty:
        return "<p>Too few rows.</p>"
    return f'<div class="wide">{table.to_html(float_format="{:.4f}".format, border=0)}</div>'


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
