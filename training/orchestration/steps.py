"""The steps of the flow `train`, in their order, as tasks of Prefect.

Prefect shows the duration of each, and retries an `io_step` after a transient error.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from sklearn.pipeline import Pipeline

from config.contract import Contract
from config.model_registry import ALIAS, CARD, CHALLENGER, LINEAGE, REFERENCE, TRAFFIC, VERDICT
from training.batch_scoring.spark import spark_session
from training.batch_scoring.spark_search import run_spark_search
from training.data.assemble import (
    SourceRows,
    TrainingRows,
    assemble_rows,
    from_feedback,
    from_store,
    reject_overlap,
)
from training.data.dataset import Dataset, load_dataset
from training.data.feedback import read_feedback
from training.data.rows import frame_digest, records_of, write_requests
from training.data.source import SYNTHETIC, check_data, load_source
from training.data.storage import Folder
from training.data.store import Store
from training.data.synthetic import synthesize
from training.evaluation.fairness import Scored, find_gaps
from training.evaluation.gate import (
    MIN_OF_EACH_CLASS,
    MIN_ROWS,
    RECENT,
    TEST_SPLIT,
    HoldoutSet,
    Verdict,
    gate,
)
from training.evaluation.label_screen import screen_labels
from training.evaluation.metrics import Scores, bootstrap_intervals, draw_plots, measure
from training.evaluation.model_card import Facts, comparison_table, model_card
from training.model.calibration import best_f1_threshold
from training.model.onnx_export import FittedModel, Package, write_package
from training.model.pipeline import Params, make_pipeline
from training.model.search import Folds, Trial, count_trials, run_search
from training.model.search_space import SearchSpace
from training.orchestration.tasks import io_step, step
from training.registry.ledger import NONE, Promotion
from training.registry.mlflow_registry import InputFile, Registry
from training.registry.shadow_test import challenge
from training.settings import Settings

MAX_REFERENCE_ROWS = 5000
FAIRNESS = "evaluation/fairness.json"  # artifact of a run

Holdouts = tuple[HoldoutSet, HoldoutSet | None]  # the holdout set and the floor set


@dataclass(frozen=True)
class SearchSettings:
    """Limits and space of a search, and the seed of all random steps of a training."""

    max_evals: int
    timeout_s: float | None
    n_folds: int
    seed: int
    spark_master: str  # where trials run; empty: in this process
    recent_weight: float
    space: SearchSpace


@io_step
def read_dataset(data: str, seed: int, contract: Contract, settings: Settings) -> Dataset:
    """Return the checked rows of the source, or synthetic rows, with their split."""
    if data == SYNTHETIC:
        return synthesize(contract, seed=seed)
    source = load_source(settings.source_path)
    check_data(data, source, "production")
    dataset, log = load_dataset(contract, settings, source), get_run_logger()
    counts = {"train": len(dataset.train), "test": len(dataset.test), "rejected": dataset.rejected}
    counts["duplicates"] = dataset.duplicates
    for file in dataset.files:
        log.info("file_read source=%s %s", source.name, key_values(vars(file)))
    for note in dataset.notes:
        log.info("file_noted source=%s note=%r", source.name, note)
    log.info("source_read source=%s %s", source.name, key_values(counts))
    return dataset


@io_step
def read_sources(
    contract: Contract, settings: Settings, with_store: bool, with_feedback: bool
) -> list[SourceRows]:
    """Return the labelled rows that may join the dataset."""
    sources: list[SourceRows] = []
    if with_store:
        sources += from_store(Store(Folder(settings.store_address)), contract)
    if with_feedback:
        sources.append(from_feedback(read_feedback(settings, contract), contract))
    return sources


@io_step
def screen(sources: list[SourceRows], contract: Contract, registry: Registry) -> list[SourceRows]:
    """Return the sources without the rows whose labels no drift explains."""
    production = registry.production()
    if production is None or not any(len(one.rows) for one in sources):
        return sources
    screened = []
    with registry.package_of(production) as folder:
        champion = Package(folder, contract)
        for source, rows in sources:
            probability = champion.score(rows) if len(rows) else np.empty(0)
            kept, left_out = screen_labels(rows, probability, contract)
            for one in left_out:  # no log line contains a value of a record
                where = source.name, one.rule, one.column, one.rows
                get_run_logger().warning(
                    "labels_left_out source=%s rule=%r column=%s rows=%d", *where
                )
            source = msgspec.structs.replace(source, left_out=left_out)
            screened.append(SourceRows(source, kept))
    return screened


@step
def join(
    dataset: Dataset,
    judge_rows: pd.DataFrame,
    sources: list[SourceRows],
    contract: Contract,
    *,
    recent_since: float,
    recent_judge: bool,
) -> TrainingRows:
    """Return the dataset's training split with the rows that join it, without holdout rows."""
    how: dict[str, Any] = {"recent_since": recent_since, "recent_judge": recent_judge}
    rows = assemble_rows(dataset, judge_rows, sources, contract, **how)
    reject_overlap(rows, contract)
    for source in rows.lineage:
        counts = msgspec.to_builtins(source) | {"left_out": sum(x.rows for x in source.left_out)}
        get_run_logger().info("source_joined %s", key_values(counts))
    return rows


def choose_holdouts(rows: TrainingRows, contract: Contract, recent_judge: bool) -> Holdouts:
    """Return the holdout set and the floor set.

    After drift (`recent_judge`) these are the newest labelled rows and the test split. The same
    holds while the production version was judged on such rows. Otherwise the next training would
    prefer models of the time before drift. With too few such rows, to judge or to calibrate on, the
    test split is the holdout set.
    """
    own = make_holdout(TEST_SPLIT, rows.test_holdout, contract)
    if not recent_judge:
        return own, None
    recent = make_holdout(RECENT, rows.recent_holdout, contract)
    for name, y in (
        ("holdout", recent.y),
        ("training", labels(rows.frame, contract)[rows.recent].astype("int64")),
    ):
        counts = np.bincount(y, minlength=2)
        if counts.sum() < MIN_ROWS or counts.min() < MIN_OF_EACH_CLASS:
            get_run_logger().warning(
                "recent_rows_too_few of=%s rows=%d of_rarer_class=%d min_rows=%d"
                " min_of_each_class=%d",
                *(name, counts.sum(), counts.min(), MIN_ROWS, MIN_OF_EACH_CLASS),
            )
            return own, None
    return recent, own


def make_holdout(name: str, frame: pd.DataFrame, contract: Contract) -> HoldoutSet:
    """Return rows as a holdout set."""
    y = labels(frame, contract).astype("int64")
    return HoldoutSet(frame, y, frame_digest(frame)[:16], name, contract.segments)


@step
def log_lineage(
    rows: TrainingRows,
    holdouts: Holdouts,
    digests: dict[str, str],
    registry: Registry,
    run_id: str,
) -> None:
    """Log the sources of training and holdout rows, with their checksums, periods and counts.

    digests: those of data, code and settings, which tell whether a training is new.
    """
    files = [InputFile(s.name, s.source, s.sha256, s.rows, "training") for s in rows.lineage]
    judging = [
        InputFile(one.name, "held out", one.digest, len(one.y), "judging")
        for one in holdouts
        if one
    ]
    lineage = {
        "training": msgspec.to_builtins(rows.lineage),
        "judging": [file._asdict() for file in judging],
        "digests": digests,
    }
    registry.log_json(LINEAGE, lineage)
    registry.log_inputs(run_id, files + judging)


@step
def search(
    frame: pd.DataFrame,
    contract: Contract,
    registry: Registry,
    run_id: str,
    options: SearchSettings,
) -> Trial:
    """Return the best trial of the hyperopt search; each trial becomes a child run."""
    folds = Folds.of(frame, contract, options.n_folds, options.seed)
    done: list[dict[str, float]] = []

    def on_trial(params: Params, metrics: dict[str, float]) -> None:
        done.append(metrics)
        registry.log_trial(run_id, len(done), params, metrics)

    limits = options.max_evals, options.timeout_s
    how: dict[str, Any] = {"seed": options.seed, "space": options.space, "on_trial": on_trial}
    if options.spark_master:
        with spark_session(options.spark_master) as spark:
            best = run_spark_search(spark, folds, *limits, **how)
    else:
        best = run_search(folds, *limits, **how)
    best = replace(best, metrics=best.metrics | count_trials(done))
    registry.log(metrics=best.metrics)
    return best


@step
def fit(
    frame: pd.DataFrame, contract: Contract, best: Trial, seed: int, compared: np.ndarray
) -> tuple[FittedModel, Pipeline]:
    """Fit the best setting on every training row; calibration and threshold are out of fold.

    The threshold is that of the `compared` rows.
    """
    pipeline = make_pipeline(contract, best.params, seed)
    pipeline.fit(inputs(frame, contract), labels(frame, contract))
    parts = [(name, pipeline.named_steps[name]) for name in ("encoder", "classifier")]
    threshold = best_f1_threshold(best.probability[compared], labels(frame, contract)[compared])
    return FittedModel(Pipeline(parts), best.platt, threshold), pipeline


@step
def evaluate(
    model: FittedModel, test: pd.DataFrame, contract: Contract, registry: Registry
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Log metrics on the rows of the test split that no choice depends on, and their number.

    Returns the metrics and the ends of their intervals.
    """
    y, probability = labels(test, contract), model.score(inputs(test, contract))
    metrics = measure(y, probability, model.threshold)
    registry.log(
        params={"test_rows": len(test)},
        metrics={f"test_{name}": value for name, value in metrics.items()},
    )
    scored = Scored.of(y, probability, model.threshold)
    gaps = list(find_gaps(test, contract.segments, scored))
    registry.log_json(FAIRNESS, [gap._asdict() for gap in gaps])
    registry.log(metrics={f"test_gap {g.rate} {g.columns}": g.gap.estimate for g in gaps})
    return metrics, bootstrap_intervals(y, probability, model.threshold)


@step
def export(
    folder: Path,
    model: FittedModel,
    contract: Contract,
    test: pd.DataFrame,
    facts: dict[str, str],
) -> Package:
    """Write the package and compare it with the pipeline on every test row."""
    return write_package(folder / "package", model, contract, inputs(test, contract), facts)


def make_reference(
    frame: pd.DataFrame,
    contract: Contract,
    best: Trial,
    threshold: float,
    compared: np.ndarray,
    *,
    max_rows: int = MAX_REFERENCE_ROWS,
) -> pd.DataFrame:
    """Return the reference data: a sample of the `compared` training rows, with predictions.

    The predictions are out of fold, because a fitted model is overconfident on its own rows.
    """
    rows = inputs(frame, contract).assign(
        probability=best.probability,
        income_class=(best.probability >= threshold).astype(int),
        label=labels(frame, contract),
    )[compared]
    return rows.sample(min(max_rows, len(rows)), random_state=0)


@io_step
def log_rows(
    folder: Path,
    registry: Registry,
    contract: Contract,
    reference: pd.DataFrame,
    traffic: pd.DataFrame,
) -> None:
    """Log the reference data and the traffic rows as files of the run."""
    (folder / REFERENCE).parent.mkdir(parents=True, exist_ok=True)
    outputs = reference[["probability", "income_class", "label"]].to_dict("records")
    lines = [one | more for one, more in zip(records_of(reference, contract), outputs)]
    (folder / REFERENCE).write_bytes(msgspec.json.Encoder().encode_lines(lines))
    write_requests(traffic, contract, folder / TRAFFIC)
    registry.log_files(folder)


@io_step
def register(package: Package, pipeline: Pipeline, registry: Registry) -> str:
    """Register the package's graph as a new version; return its number."""
    registry.log_pipeline(pipeline)
    return registry.register(package.folder, package.contract)


@step
def plot(
    version: str, package: Package, pipeline: Pipeline, test: pd.DataFrame, registry: Registry
) -> None:
    """Log the plots of a version on the official test split."""
    names = pipeline.named_steps["encoder"].get_feature_names_out()
    gains = pipeline.named_steps["classifier"].feature_importances_
    importances = pd.Series(gains, index=names).nlargest(20)
    y, target = labels(test, package.contract), package.contract.target
    scores = Scores(version, y, package.score(test), package.threshold, target.labels)
    for name, figure in draw_plots(scores, importances):
        registry.log_figure(name, figure)


@io_step
def judge(package: Package, registry: Registry, holdouts: Holdouts) -> tuple[Verdict, str]:
    """Return the gate's verdict against the production version, and that version's number."""
    production = registry.production()
    if production is None:
        verdict = gate(package, None, *holdouts)
    else:
        with registry.package_of(production) as folder:
            verdict = gate(package, Package(folder, package.contract), *holdouts)
    registry.log_json(VERDICT, msgspec.to_builtins(verdict))
    registry.log(params={"judge": verdict.judge, "judge_rows": verdict.judge_rows})
    return verdict, str(production.version) if production else NONE


@step
def write_card(package: Package, facts: Facts, test: pd.DataFrame, verdict: Verdict) -> None:
    """Write the model card into the package."""
    card = model_card(facts, package, test, verdict)
    (package.folder / CARD).write_text(card, encoding="utf-8")


@io_step
def complete(
    version: str, package: Package, text: str, tags: dict[str, str], registry: Registry
) -> None:
    """Add the package's files, a description and tags to a version."""
    registry.complete(version, package.folder, text, tags)


@io_step
def assign(registry: Registry, version: str, verdict: Verdict, trigger: str, alias: str) -> None:
    """Point an alias at the version, `production` or `challenger`; none if the gate failed."""
    if alias == ALIAS:
        registry.promote(version, Promotion("training flow", f"{trigger}: {verdict.reason}"))
    elif alias == CHALLENGER:
        challenge(registry, version)
    facts = verdict.as_tags() | {"alias": alias or NONE}
    get_run_logger().info("version_judged version=%s %s", version, key_values(facts))


def report(version: str, metrics: dict[str, float], verdict: Verdict, fate: str) -> None:
    """Add the results and the gate's figures to the flow run's page."""
    rows = [{"metric": name, "test split": f"{value:.4f}"} for name, value in metrics.items()]
    text = f"Version {version}: {fate}"
    create_table_artifact(rows, key="training-results", description=text)
    table = comparison_table(verdict).rename_axis("rows and metric").reset_index()
    compared = json.loads(table.to_json(orient="records", double_precision=4))
    create_table_artifact(compared, key="gate", description=verdict.reason)


def inputs(frame: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Return the input columns, in contract order."""
    return frame[list(contract.input_names)]


def labels(frame: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Return the target (n_samples,), 1 for the positive label."""
    return frame[contract.target.name].to_numpy()


def key_values(fields: dict[str, Any]) -> str:
    """Return fields as `name=value` text for a log line."""
    return " ".join(f"{name}={value!r}" for name, value in fields.items())
