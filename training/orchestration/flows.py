"""The Prefect flows `train`, `score`, `promote`, `ingest` and `retain`; `watch` is in retraining.

The body of `train` is the whole process. Each step is a task, so Prefect shows its duration and
retries it after transient errors.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, State
from sklearn.pipeline import Pipeline

from config.contract import Contract, contract_path, load_contract
from config.model_registry import (
    ALIAS,
    CARD,
    CHALLENGER,
    LINEAGE,
    MODEL_NAME,
    REFERENCE,
    TRAFFIC,
    VERDICT,
)
from config.runtime.settings import read_settings
from training.batch_scoring.score import ScoringError, score_batch
from training.batch_scoring.spark import spark_session
from training.batch_scoring.spark_search import run_spark_search
from training.code_bundle import code_digest
from training.data.assemble import (
    SourceRows,
    TrainingRows,
    assemble_rows,
    data_digest,
    downsample_old_rows,
    from_feedback,
    from_store,
    reject_overlap,
)
from training.data.batches import FEED_RULE, BatchRejected, ingest_feed, intake_of
from training.data.dataset import Dataset, load_dataset, split_judge_traffic
from training.data.feedback import read_feedback
from training.data.rows import frame_digest, records_of, write_requests
from training.data.source import SYNTHETIC, check_data, load_source
from training.data.storage import Folder
from training.data.store import Store
from training.data.synthetic import synthesize
from training.data.trainable import check_trainable
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
from training.model.search_space import SEARCH_FILE, SearchSpace, load_search
from training.orchestration.promotion import alias_for, check_services, promote_version
from training.orchestration.tasks import io_step, notify_failure, promotion_turn, step
from training.registry.ledger import NONE, Promotion
from training.registry.mlflow_registry import InputFile, Registry
from training.registry.retention import find_expired, summary
from training.registry.shadow_test import challenge
from training.settings import (
    MAX_REJECTED,
    MAX_REJECTED_INGESTED,
    FoldCount,
    MaxEvals,
    Seed,
    Settings,
    Share,
    TimeoutS,
    Weight,
)

MAX_REFERENCE_ROWS = 5000
FAIRNESS = "evaluation/fairness.json"  # artifact of a run
# What becomes of a version, by the alias that it gets after the gate.
FATES = {
    ALIAS: "It was promoted at once.",
    CHALLENGER: "Labels decide first whether it is promoted: python -m training history.",
    "": "It was not promoted.",
}
NOTIFY: dict[str, Any] = {"on_failure": [notify_failure], "on_crashed": [notify_failure]}


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


# The parameters are a form on Prefect's page, and the body has the whole process.
# pylint: disable=too-many-arguments, too-many-positional-arguments, too-many-locals
@flow(name="train", result_serializer="json", **NOTIFY)
def train(
    data: str = "source",
    max_evals: MaxEvals | None = None,
    timeout_s: TimeoutS | None = None,
    n_folds: FoldCount = 5,
    seed: Seed = 0,
    trigger: str = "manual",
    force: bool = False,
    spark_master: str = "",
    with_store: bool = True,
    with_feedback: bool = False,
    recent_weight: Weight = 1.0,
    recent_since: float = 0.0,
) -> dict[str, Any]:
    """Train, register and evaluate one model; promote or challenge if the gate passes.

    data: `source` (the rows that SOURCE describes) or its name, `synthetic`, or `production`: the
        kind of rows that the production version was trained on.
    max_evals: trials of the search; unset: MAX_EVALS.
    trigger: manual, schedule or drift. After drift the newest labelled rows are the holdout set
        and the reference data.
    force: train even if a run with equal data, code and settings exists.
    spark_master: where trials run; unset: in this process.
    with_store: ingested batches join.
    with_feedback: labelled rows of MongoDB join. They also do for `data` production if they did for
        that version and MONGODB_ADDRESS is set.
    recent_weight: weight of the newest joined rows relative to other rows.
    recent_since: Unix time of the oldest recent row.

    Returns the run, the version, the metrics and the verdict.
    """
    settings = read_settings(Settings)
    contract = load_contract()
    options = SearchSettings(
        max_evals or settings.max_evals,
        timeout_s,
        n_folds,
        seed,
        spark_master,
        recent_weight,
        load_search(contract_path().with_name(SEARCH_FILE), contract, settings.search_start),
    )
    registry = Registry(settings.mlflow_tracking_uri)
    if trigger == "schedule" and (tested := registry.named(CHALLENGER)):
        # A newer challenger every few hours would end each test before its labels arrive.
        return skipped("version_tested", tested_version=str(tested.version))
    champion_tags = live.tags if (live := registry.production()) else {}
    if data == "production":
        data = SYNTHETIC if champion_tags.get("data_source") == SYNTHETIC else "source"
        had_feedback = champion_tags.get("with_feedback") == "True"
        with_feedback |= had_feedback and bool(settings.mongodb_address)
    dataset = read_dataset(data, seed, contract, settings)
    judge_rows, traffic_rows = split_judge_traffic(dataset.test, contract)
    sources = screen(
        read_sources(contract, settings, with_store, with_feedback), contract, registry
    )
    recent_judge = trigger == "drift" or champion_tags.get("judge") == RECENT
    rows = join(
        dataset, judge_rows, sources, contract, recent_since=recent_since, recent_judge=recent_judge
    )
    rows = downsample_old_rows(rows, recent_weight, seed)
    digests = {
        "data": data_digest(dataset, rows),
        "code": code_digest(),
        "settings": digest([options, contract.digest]),
    }
    same = {"inputs_digest": digest(digests)}
    if not force and (known := registry.finished_run(same)):
        return skipped("nothing_new", run_id=known)

    holdouts = choose_holdouts(rows, contract, recent_judge)
    test = unseen_test(dataset, rows)
    check_trainable(rows.frame, {one.name: one.frame for one in holdouts if one}, contract, n_folds)
    tags = {"data_source": dataset.source, "trigger": trigger, **same}
    params = msgspec.to_builtins(options) | row_counts(dataset, rows)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    with (
        registry.run(f"train {trigger} {today}", tags, params) as run_id,
        tempfile.TemporaryDirectory() as scratch,
    ):
        log_lineage(rows, holdouts, digests, registry, run_id)
        best = search(rows.frame, contract, registry, run_id, options)
        compared = rows.recent if holdouts[0].name == RECENT else np.ones(len(rows.frame), bool)
        if not compared.all():
            best = best.recalibrated(labels(rows.frame, contract), compared)
        model, pipeline = fit(rows.frame, contract, best, seed, compared)
        registry.log(params=best.params | {"threshold": model.threshold})
        metrics, intervals = evaluate(model, test, contract, registry)
        facts = {
            "data_source": dataset.source,
            "joined_rows": str(int(rows.joined.sum())),
            "run_id": run_id,
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": json.dumps(metrics),
            "metric_intervals": json.dumps(intervals),
        }
        package = export(Path(scratch), model, contract, dataset.test, facts)
        reference = make_reference(rows.frame, contract, best, model.threshold, compared)
        log_rows(Path(scratch) / "rows", registry, contract, reference, traffic_rows)
        version = register(package, pipeline, registry)
        plot(version, package, pipeline, test, registry)
        with promotion_turn():
            verdict, champion = judge(package, registry, holdouts)
            about = Facts(
                name=MODEL_NAME,
                version=version,
                champion=champion,
                run_id=run_id,
                trained_at=facts["trained_at"],
                data_source=dataset.source,
                train_rows=len(rows.frame),
                joined_rows=int(rows.joined.sum()),
                judge_uses=registry.judged_versions() + 1,
                search=best.metrics,
                intervals=intervals,
            )
            write_card(package, about, test, verdict)
            kept = {
                "data_source": dataset.source,
                "with_feedback": str(with_feedback),
                "trigger": trigger,
                **verdict.as_tags(),
            }
            alias, fate = fate_of(verdict, dataset.source, registry, settings)
            complete(version, package, f"Trained by the trigger {trigger}. {fate}", kept, registry)
            assign(registry, version, verdict, trigger, alias)
    report(version, metrics, verdict, fate)
    return {
        "run_id": run_id,
        "model_version": version,
        "test_metrics": metrics,
        "promoted": alias == ALIAS,
        "challenger": alias == CHALLENGER,
        "reason": verdict.reason,
        "nothing_new": False,
    }


# pylint: enable=too-many-arguments, too-many-positional-arguments, too-many-locals


@flow(name="score", result_serializer="json", **NOTIFY)
def score(
    source: str,
    output: str,
    version: str = "",
    spark_master: str = "",
    max_rejected: Share = MAX_REJECTED,
) -> dict[str, Any]:
    """Score Parquet files with a version (unset: production), here or on Spark.

    max_rejected: maximum share of rejected rows; with more, the run fails after its output is
        written.
    """
    registry = Registry(read_settings(Settings).mlflow_tracking_uri)
    done = score_batch(registry, source, output, version, spark_master)
    get_run_logger().info("batch_scored %s", key_values(done._asdict()))
    create_table_artifact([done._asdict()], key="scoring-results")
    if done.share_rejected > max_rejected:
        raise ScoringError(
            f"max_rejected: {done.share_rejected:.1%} of the rows were rejected, expected at most"
            f" {max_rejected:.1%}. They are in {done.rejected} with their problems."
        )
    return done._asdict()


@flow(name="promote", persist_result=False, log_prints=True, **NOTIFY)
def promote(version: str, why: str) -> None:
    """Promote a version, or make it the challenger, as `python -m training promote` does.

    version: its number in MLflow.
    why: the reason, for the history.
    """
    registry = Registry(read_settings(Settings).mlflow_tracking_uri)
    if promote_version(registry, version, Promotion("Prefect's page", why)):
        check_services(version)


@flow(name="ingest", persist_result=False, **NOTIFY)
def ingest(
    feed: str = "",
    max_rejected: Share = MAX_REJECTED_INGESTED,
    allow_one_class: bool = False,
) -> State | None:
    """Add new files of a folder or gs:// address (unset: FEED) to the training store.

    max_rejected: maximum share of invalid rows of a file; with more, the whole file is rejected.
    allow_one_class: accept a file whose valid rows all have the same label.

    Fails after all other files are ingested if a file was rejected. The final state names the files
    that were passed over because of their names.
    """
    settings, log = read_settings(Settings), get_run_logger()
    address = feed or settings.feed
    if not address:
        log.info("ingest_skipped reason=feed_not_set")
        return None
    found = ingest_feed(address, intake_of(settings, max_rejected, allow_one_class))
    new = [one for one in found.done if one.is_new]
    for one in new:
        log.info("file_ingested %s", key_values(one.counts()))
    log.info("feed_ingested feed=%s batches=%d new=%d", address, len(found.done), len(new))
    if new:
        create_table_artifact([one.counts() for one in new], key="ingested")
    ending = f"{len(new)} new batches of {len(found.done)}"
    if found.passed_over:
        names = ", ".join(found.passed_over)
        ending += f"; passed over {names}: expected names like {FEED_RULE}"
    if found.rejected:
        raise BatchRejected("\n".join([*found.rejected, ending]))
    return Completed(message=ending)


@flow(name="retain", persist_result=False, **NOTIFY)
def retain() -> None:
    """Remove the runs that are older than RUN_RETENTION_DAYS."""
    settings = read_settings(Settings)
    registry = Registry(settings.mlflow_tracking_uri)
    expired = find_expired(registry, settings)
    registry.remove(expired)
    get_run_logger().info("runs_removed removed=%r", summary(expired))


def skipped(reason: str, **facts: str) -> dict[str, Any]:
    """Log why no training is needed; return the flow's result."""
    get_run_logger().info("training_skipped reason=%s %s", reason, key_values(facts))
    return {**facts, "nothing_new": True}


# --- data ---------------------------------------------------------------------------------------


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


def row_counts(dataset: Dataset, rows: TrainingRows) -> dict[str, int]:
    """Return the numbers of rows, as parameters of the run."""
    return {
        "train_rows": len(rows.frame),
        "joined_rows": int(rows.joined.sum()),
        "recent_rows": int(rows.recent.sum()),
        "rejected_rows": dataset.rejected,
        "duplicate_rows": dataset.duplicates,
    }


def choose_holdouts(
    rows: TrainingRows, contract: Contract, recent_judge: bool
) -> tuple[HoldoutSet, HoldoutSet | None]:
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


def unseen_test(dataset: Dataset, rows: TrainingRows) -> pd.DataFrame:
    """Return the rows to report on: the test split, or its judge half if rows joined.

    The traffic half may be among the joined rows, as labelled production rows.
    """
    return rows.test_holdout if rows.joined.any() else dataset.test


@step
def log_lineage(
    rows: TrainingRows,
    holdouts: tuple[HoldoutSet, HoldoutSet | None],
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


# --- model --------------------------------------------------------------------------------------


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
    gaps = [gap._asdict() for gap in find_gaps(test, contract.segments, scored)]
    registry.log_json(FAIRNESS, gaps)
    names = [f"test_gap {one['rate']} {one['columns']}" for one in gaps]
    registry.log(metrics={name: one["gap"].estimate for name, one in zip(names, gaps)})
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


# --- registration and promotion -----------------------------------------------------------------


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
def judge(
    package: Package, registry: Registry, holdouts: tuple[HoldoutSet, HoldoutSet | None]
) -> tuple[Verdict, str]:
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
    probability = package.score(test)
    card = model_card(facts, package.contract, test, probability, package.threshold, verdict)
    (package.folder / CARD).write_text(card, encoding="utf-8")


@io_step
def complete(
    version: str, package: Package, text: str, tags: dict[str, str], registry: Registry
) -> None:
    """Add the package's files, a description and tags to a version."""
    registry.complete(version, package.folder, text, tags)


def fate_of(
    verdict: Verdict, data_source: str, registry: Registry, settings: Settings
) -> tuple[str, str]:
    """Return the alias that a judged version gets, if any, and what becomes of it in words."""
    alias = alias_for(data_source, registry, settings) if verdict.promote else ""
    return alias, f"The gate {verdict.outcome}: {verdict.reason}. {FATES[alias]}"


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


def digest(content: Any) -> str:
    """Return a short sha256 of JSON."""
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]


def key_values(fields: dict[str, Any]) -> str:
    """Return fields as `name=value` text for a log line."""
    return " ".join(f"{name}={value!r}" for name, value in fields.items())
