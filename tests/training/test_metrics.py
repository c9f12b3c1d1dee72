"""Metrics against values worked out by hand; plots that are drawn."""

import numpy as np
import pandas as pd
import pytest

from training.evaluation.metrics import Scores, draw_plots, measure

y = np.array([0, 0, 1, 1])
PROBABILITY = np.array([0.1, 0.4, 0.35, 0.8])


def test_metrics_of_four_rows():
    metrics = measure(y, PROBABILITY, threshold=0.4)
    assert metrics["roc_auc"] == 0.75  # three of four pairs in order
    assert metrics["precision"] == 0.5 and metrics["recall"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.35, 0.8])), abs=1e-12)


def test_the_five_plots_are_drawn(tmp_path):
    importances = pd.Series([0.2, 0.8], index=["age", "sex_Male"])
    names = []
    scores = Scores("7", y, PROBABILITY, 0.4, ("stays", "leaves"))
    for name, figure in draw_plots(scores, importances):
        figure.savefig(tmp_path / name)
        names.append(name)
        axes = figure.axes[0]
        assert "version 7 on 4 test rows" in axes.get_title()
        assert "base rate of leaves 0.500, threshold 0.400" in axes.get_title()
        assert axes.get_xlabel() and (axes.get_ylabel() or name == "importances")
        if name in ("roc", "precision_recall"):  # of each class, one of two is predicted positive
            (marked,) = [line for line in axes.lines if line.get_marker() == "o"]
            assert marked.get_xydata().tolist() == [[0.5, 0.5]]
        if name == "confusion":
            shown = [one.get_text() for one in figure.axes[0].get_xticklabels()]
            assert shown == ["stays", "leaves"]
    assert names == ["roc", "precision_recall", "calibration", "confusion", "importances"]
