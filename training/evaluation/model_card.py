"""The model card: what a version is for, how good it is and for whom, as one HTML page.

Written into the package before it is registered, so that it is found in MLflow beside the model
and served by the prediction service at `/model/card`. Every figure is of the official test split.
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
<p>Run {run_id}, trained {trained_at} on {train_rows:,} rows, of which {joined_rows:,} joined the
census later (data/lineage.json of the run says from where); data source <b>{data_source}</b>;
decision threshold {threshold:.3f}.</p>
<h2>What it is for</h2>
<p>Estimates {description}, for planning over groups of people.
The label is that of the 1994 US census extract "Adult": a person's total income of the year before, above 50,000 dollars of that time, for people over 16 with some
working hours. It says nothing about incomes of today, about other countries, or about one person
well enough to decide anything about them: neither credit, nor benefits, nor employment.</p>
<h2>Protected traits</h2>
<p>{protected} Leaving a column out is one line in config/features.yaml (used: false);
<code>make bench NAME=ablation</code> shows what it does to quality and to the gaps below. Other columns
(relationship, marital status, occupation) carry much of the same information.</p>
<h2>Quality</h2>
<p>On {test_rows:,} rows of the official test split, none of them trained on, with 95 % bootstrap
intervals.</p>
{metrics}
<h2>By group</h2>
<p>Of groups with at least {min_rows} rows. Rates are shares of the group: selected (predicted
{positive}), of those truly {positive} (true positive), of those truly {negative} (false positive).</p>
{segments}
<h3>Gaps between groups (largest less smallest)</h3>
{gaps}
<h2>Calibration</h2>
<p>Observed share of {positive} against the mean probability, in ten groups of equal size.</p>
<img alt="{calibration_words}" src="data:image/png;base64,{calibration}">
<h2>How it is judged</h2>
<p>Half of the test split judges candidates and is never sent as traffic. With this version it
has been asked {judge_uses} times; each further question makes it a little less impartial. After
drift, labelled production rows that are held out of every training judge instead, and this half is
the floor. What the gate found is in the run's artifact gate/verdict.json.</p>
</body></html>
"""


@dataclass(frozen=True)
class Facts:
    """What the card says besides what it measures."""

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
    """The page, for the probabilities (n_samples,) of a test frame with its target."""
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
    """Text as it may stand in the page; numbers as they are."""
    return html.escape(value) if isinstance(value, str) else value


def synthetic_warning(facts: Facts) -> str:
    """What must be said first of a model that has seen no real person."""
    if facts.data_source != "synthetic":
        return ""
    text = "Trained and measured on synthetic rows: no figure here is about real people."
    return f'<p class="warning">{text}</p>'


def protected_words(contract: Contract) -> str:
    """Whether the model sees the protected columns."""
    seen = [name for name in PROTECTED if name in contract.input_names]
    if not seen:
        return "The model sees neither sex nor race."
    return f"The model sees {' and '.join(seen)}: a decision of whoever trains it."


def metrics_table(y: np.ndarray, probability: np.ndarray, threshold: float) -> pd.DataFrame:
    """Each metric with the ends of its interval."""
    intervals = bootstrap_intervals(y, probability, threshold, RESAMPLES, seed=0)
    rows = {
        name: {"value": value, "from": intervals[name][0], "to": intervals[name][1]}
        for name, value in measure(y, probability, threshold).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def gaps(segments: pd.DataFrame) -> pd.DataFrame:
    """The largest difference between the groups of each protected column."""
    rates = ["selection_rate", "true_positive_rate", "false_positive_rate"]
    rows = {}
    for column in PROTECTED:
        of = segments[segments.index.str.startswith(f"{column} ")] if len(segments) else segments
        if len(of) > 1:
            rows[column] = of[rates].max() - of[rates].min()
    return pd.DataFrame.from_dict(rows, orient="index")


def as_html(table: pd.DataFrame) -> str:
    """A table of figures, or a word where there is none."""
    if table.empty:
        return "<p>Too few rows to say.</p>"
    return f'<div class="wide">{table.to_html(float_format="{:.4f}".format, border=0)}</div>'


def calibration_plot(y: np.ndarray, probability: np.ndarray, positive: str) -> tuple[str, str]:
    """The calibration plot, as text that an img element takes, and what it shows in words."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    draw_calibration(axes, y, probability, positive)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    points = np.asarray(axes.lines[-1].get_xydata())
    groups = "; ".join(f"{mean:.3f} and {share:.3f}" for mean, share in points)
    words = f"Calibration plot. Mean probability and observed share, by group: {groups}."
    return base64.b64encode(content.getvalue()).decode(), words
