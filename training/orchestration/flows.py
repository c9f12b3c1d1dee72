"""The training flow: read, check, split, search, fit, evaluate, export, register, gate, promote.

After the split, labelled rows of later than the census join. Prefect is known to this module,
`runs`, `watch` and `worker` alone. The body of `train` is the story; each step is a task, so that
Prefect shows how long it took.
"""

import hashlib
import itertools
import json
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from sklearn.pipeline import Pipeline

from config.contract import Contract, load_contract
from config.model_registry import CARD, LINEAGE, MODEL_NAME, REFERENCE, TRAFFIC, VERDICT
from config.runtime.settings import read_settings
from training.data import census as census_data
from training.model.calibration import best_f1_threshold
from training.evaluation.model_card import Facts, model_card
from training.data.census import Census
from training.evaluation.metrics import draw_plots, measure
from training.data.feedback import read_feedback
from training.data.storage import open_folder
from training.evaluation.gate import (
    CENSUS,
    MIN_OF_EACH_CLASS,
    MIN_ROWS,
    RECENT,
    Interval,
    Judge,
    Verdict,
    gate,
)
from training.data.batches import BatchRefused, ingest_feed
from training.model.onnx_export import FittedModel, Package, write_package
from training.model.pipeline import Params, make_pipeline
from training.registry.mlflow_registry import InputFile, Promotion, Registry
from training.registry.retention import find_expired, summary
from training.orchestration.tasks import io_step, promotion_turn, step, tell_of_failure
from training.batch_scoring.score import score_batch
from training.model.search import Folds, Trial, run_search
from training.settings import Settings
from training.code_bundle import code_digest
from training.data.assemble import (
    Joining,
    TrainingRows,
    data_digest,
    from_feedback,
    from_store,
    gather,
    refuse_overlap,
    thinned,
)
from training.batch_scoring.spark import spark_session
from training.batch_scoring.spark_search import run_spark_search
from training.data.store import Store
from training.data.synthetic import synthesize

REFERENCE_ROWS = 5000
TELL: dict[str, Any] = {"on_failure": [tell_of_failure], "on_crashed": [tell_of_failure]}


@dataclass(frozen=True)
class SearchSettings:
    """What a search is allowed, and the seed of all that is random in a training."""

    max_evals: int
    timeout_s: float | None
    n_folds: int
    seed: int
    spark_master: str  # where trials run; empty: here
    recent_weight: float


class Joins(NamedTuple):
    """What joins the census's rows, and how much the newest of it weighs."""

    store: bool
    feedback: bool
    recent_weight: float
    recent_since: float
    seed: int


# The flow's parameters are a form in Prefect's page, and its body tells the whole story.
# pylint: disable=too-many-arguments, too-many-positional-arguments, too-many-locals
@flow(name="train", result_serializer="json", **TELL)
def train(
    data: str = "uci",
    max_evals: int | None = None,
    timeout_s: float | None = None,
    n_folds: int = 5,
    seed: int = 0,
    trigger: str = "manual",
    force: bool = False,
    spark_master: str = "",
    with_store: bool = True,
    with_feedback: bool = False,
    recent_weight: float = 1.0,
    recent_since: float = 0.0,
) -> dict[str, Any]:
    """Trains, registers, judges and, if the gate agrees, promotes one model.

    `data` is `uci`, `synthetic` or `production` (what the production version was trained on, so
    that a machine without the real files can retrain as well); `max_evals` unset is MAX_EVALS;
    `trigger` says who asked: manual, schedule or drift; after drift the newest labelled rows judge,
    and are what the version's traffic is compared with. Ingested batches join (`with_store`), and
    labelled rows of the prediction log in MongoDB (`with_feedback`; also where `data` is
    production, that version had them and MongoDB is configured); the newest weigh `recent_weight`
    times as much, and of before the Unix time `recent_since` none is new. Without `force`, a run
    whose data, code and settings were all seen before ends as "nothing new". Returns the run, the
    version, the metrics and the verdict. `spark_master` names the Spark on which the trials of the
    search run; unset, they run here.
    """
    settings = read_settings(Settings)
    wanted = SearchSettings(
        max_evals or settings.max_evals, timeout_s, n_folds, seed, spark_master, recent_weight
    )
    contract = load_contract()
    registry = Registry(settings.mlflow_tracking_uri)

    production = registry.production_tags()
    source = production.get("data_source", "uci") if data == "production" else data
    if data == "production" and production.get("with_feedback") == "True":
        with_feedback |= bool(settings.mongodb_address)
    census = read(source, seed, contract, settings)
    judge_rows, traffic_rows = split(census.test, contract)
    joining = Joins(with_store, with_feedback, recent_weight, recent_since, seed)
    rows = join(census, judge_rows, contract, settings, joining)
    digests = {
        "data_digest": data_digest(census, rows),
        "code_digest": code_digest(),
        "settings_digest": digest(json.dumps(asdict(wanted)).encode()),
    }
    if not force and (known := registry.finished_run(digests)):
        get_run_logger().info("nothing new: run %s had the same data, code and settings", known)
        return {"run_id": known, "nothing_new": True}

    judges = choose_judges(rows, contract, trigger, production)
    test = unseen_test(census, rows)
    tags = {**digests, "data_source": census.source, "trigger": trigger}
    params = asdict(wanted) | data_facts(census) | joined_facts(rows)
    with registry.run(tags, params) as run_id, tempfile.TemporaryDirectory() as scratch:
        log_lineage(rows, judges, registry, run_id)
        best = search(rows.frame, contract, registry, run_id, wanted)
        model, pipeline = fit(rows.frame, contract, best, seed)
        metrics = evaluate(model, pipeline, test, contract, registry)
        facts = {
            "data_source": census.source,
            "run_id": run_id,
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": json.dumps(metrics),
        }
        package = export(Path(scratch), model, contract, census.test, facts)
        write_card(package, rows, test, facts, registry)
        compared = rows.recent if judges[0].name == RECENT else np.ones(len(rows.frame), bool)
        reference = make_reference(rows.frame, contract, best, model.threshold, compared)
        log_rows(Path(scratch) / "rows", registry, contract, reference, traffic_rows)
        kept = {"data_source": census.source, "with_feedback": str(with_feedback)}
        version = register(package, pipeline, registry, kept)
        with promotion_turn():
            verdict = judge(package, registry, judges, version)
            promote(registry, version, verdict, trigger)
    report(version, metrics, verdict)
    return {
        "run_id": run_id,
        "model_version": version,
        "test_metrics": metrics,
        "promoted": verdict.promote,
        "reason": verdict.reason,
        "nothing_new": False,
    }


# pylint: enable=too-many-arguments, too-many-positional-arguments, too-many-locals


@flow(name="score", result_serializer="json", **TELL)
def score(
    source: str,
    output: str,
    version: str = "",
    spark_master: str = "",
) -> dict[str, Any]:
    """Scores Parquet files with a version, unset the production one, here or on Spark."""
    registry = Registry(read_settings(Settings).mlflow_tracking_uri)
    done = score_batch(registry, source, output, version, spark_master)
    get_run_logger().info("scored %s", done)
    create_table_artifact([done._asdict()], key="scoring-results")
    return done._asdict()


@flow(name="ingest", persist_result=False, **TELL)
def ingest(feed: str = "") -> None:
    """Adds what has arrived at a folder or gs:// address, unset FEED, to the training store.

    Fails after the others are in if a file was refused.
    """
    settings, log = read_settings(Settings), get_run_logger()
    address = feed or settings.feed
    if not address:
        log.info("nothing to ingest: FEED names no folder")
        return
    store = Store(open_folder(settings.store_address))
    done, refused = ingest_feed(address, store, load_contract(), settings.batch_quarantine)
    new = [one.batch for one in done if one.is_new]
    log.info("%d batches in %s, %d of them new", len(done), address, len(new))
    if new:
        create_table_artifact([msgspec.to_builtins(batch) for batch in new], key="ingested")
    if refused:
        raise BatchRefused("\n".join(refused))


@flow(name="retain", persist_result=False, **TELL)
def retain() -> None:
    """Removes what RUN_RETENTION_DAYS lets go of."""
    settings = read_settings(Settings)
    registry = Registry(settings.mlflow_tracking_uri)
    expired = find_expired(registry, settings)
    registry.remove(expired)
    get_run_logger().info("removed %s", summary(expired))


@io_step
def read(data: str, seed: int, contract: Contract, settings: Settings) -> Census:
    """The checked census, real or synthetic, with its official split."""
    if data == "synthetic":
        return synthesize(contract, seed=seed)
    if data != "uci":
        raise ValueError(f"data: got {data!r}, expected 'uci', 'synthetic' or 'production'")
    census = census_data.load_census(
        contract, settings.raw_dir, settings.census_folder, settings.quarantine
    )
    get_run_logger().info("census: %s, set aside in %s", data_facts(census), settings.quarantine)
    return census


def data_facts(census: Census) -> dict[str, int]:
    """Counts of rows, for the record of the run."""
    return {
        "train_rows": len(census.train),
        "test_rows": len(census.test),
        "rejected_rows": census.rejected,
        "duplicate_rows": census.duplicates,
    }


@step
def split(test: pd.DataFrame, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that judge and the rows that are sent as traffic; training sees neither."""
    return census_data.split_judge_traffic(test, contract)


@io_step
def join(
    census: Census,
    judge_rows: pd.DataFrame,
    contract: Contract,
    settings: Settings,
    wanted: Joins,
) -> TrainingRows:
    """The census's training split with what joins it; none of it looks like a row that judges."""
    joinings: list[Joining] = []
    if wanted.store:
        joinings += from_store(Store(open_folder(settings.store_address)), contract)
    if wanted.feedback:
        joinings.append(from_feedback(read_feedback(settings, contract), contract))
    rows = gather(census, judge_rows, joinings, contract, wanted.recent_since)
    refuse_overlap(rows, contract)
    for part in rows.lineage:
        get_run_logger().info("rows: %s", msgspec.to_builtins(part))
    return thinned(rows, wanted.recent_weight, wanted.seed)


def joined_facts(rows: TrainingRows) -> dict[str, int]:
    """Counts of the rows that are trained on, for the record of the run."""
    return {
        "train_rows": len(rows.frame),
        "joined_rows": int(rows.joined.sum()),
        "recent_rows": int(rows.recent.sum()),
    }


def choose_judges(
    rows: TrainingRows, contract: Contract, trigger: str, production: dict[str, str]
) -> tuple[Judge, Judge | None]:
    """Who judges, and the floor: after drift the newest labelled rows, over the census as floor.

    So it stays while production is a version that they have judged, else the next training would
    bring 1994 back. Where they are too few to say anything the census judges.
    """
    census = as_judge(CENSUS, rows.census_judges, contract)
    if trigger != "drift" and production.get("judge") != RECENT:
        return census, None
    recent = as_judge(RECENT, rows.recent_judges, contract)
    counts = np.bincount(recent.y, minlength=2)
    if counts.sum() >= MIN_ROWS and counts.min() >= MIN_OF_EACH_CLASS:
        return recent, census
    get_run_logger().warning(
        "the census judges: %d held-out labelled rows, %d of the rarer class; %d and %d are needed",
        *(counts.sum(), counts.min(), MIN_ROWS, MIN_OF_EACH_CLASS),
    )
    return census, None


def as_judge(name: str, frame: pd.DataFrame, contract: Contract) -> Judge:
    """Rows as the gate takes them."""
    texts = "\n".join(census_data.row_texts(frame))
    y = labels(frame, contract).astype("int64")
    return Judge(frame, y, digest(texts.encode()), name)


def unseen_test(census: Census, rows: TrainingRows) -> pd.DataFrame:
    """The rows to report on: the official test split, or its judging half once others joined.

    The other half is sent as traffic, and may come back as labelled production rows.
    """
    return rows.census_judges if rows.joined.any() else census.test


@step
def log_lineage(
    rows: TrainingRows, judges: tuple[Judge, Judge | None], registry: Registry, run_id: str
) -> None:
    """Which files the run learns from and is judged by, with their sums, periods and counts."""
    files = [InputFile(p.name, p.source, p.sha256, p.rows, "training") for p in rows.lineage]
    files += [InputFile(j.name, "held out", j.digest, len(j.y), "judging") for j in judges if j]
    judging = [file._asdict() for file in files if file.use == "judging"]
    registry.log_json(LINEAGE, {"training": msgspec.to_builtins(rows.lineage), "judging": judging})
    registry.log_inputs(run_id, files)


@step
def search(
    frame: pd.DataFrame,
    contract: Contract,
    registry: Registry,
    run_id: str,
    wanted: SearchSettings,
) -> Trial:
    """The best trial of the hyperopt search; each trial becomes a child run."""
    folds = Folds.of(frame, contract, wanted.n_folds, wanted.seed)
    numbers = itertools.count(1)

    def on_trial(params: Params, metrics: dict[str, float]) -> None:
        registry.log_trial(run_id, next(numbers), params, metrics)

    limits = wanted.max_evals, wanted.timeout_s
    if wanted.spark_master:
        with spark_session(wanted.spark_master) as spark:
            best = run_spark_search(spark, folds, *limits, seed=wanted.seed, on_trial=on_trial)
    else:
        best = run_search(folds, *limits, wanted.seed, on_trial)
    registry.log_metrics(best.metrics)
    return best


@step
def fit(
    frame: pd.DataFrame, contract: Contract, best: Trial, seed: int
) -> tuple[FittedModel, Pipeline]:
    """The best setting fitted on every training row; calibration and threshold out of fold."""
    pipeline = make_pipeline(contract, best.params, seed)
    pipeline.fit(inputs(frame, contract), labels(frame, contract))
    parts = [(name, pipeline.named_steps[name]) for name in ("encoder", "classifier")]
    threshold = best_f1_threshold(best.probability, labels(frame, contract))
    return FittedModel(Pipeline(parts), best.platt, threshold), pipeline


@step
def evaluate(
    model: FittedModel,
    pipeline: Pipeline,
    test: pd.DataFrame,
    contract: Contract,
    registry: Registry,
) -> dict[str, float]:
    """Metrics and plots on the official test split, read once and for no choice."""
    y, probability = labels(test, contract), model.score(inputs(test, contract))
    metrics = measure(y, probability, model.threshold)
    registry.log_metrics({f"test_{name}": value for name, value in metrics.items()})
    names = pipeline.named_steps["encoder"].get_feature_names_out()
    gains = pipeline.named_steps["classifier"].feature_importances_
    importances = pd.Series(gains, index=names).nlargest(20)
    for name, figure in draw_plots(
        y, probability, model.threshold, importances, contract.target.labels
    ):
        registry.log_figure(name, figure)
    return metrics


@step
def export(
    folder: Path,
    model: FittedModel,
    contract: Contract,
    test: pd.DataFrame,
    facts: dict[str, str],
) -> Package:
    """The package, proved to agree with the pipeline on every test row."""
    return write_package(folder / "package", model, contract, inputs(test, contract), facts)


@step
def write_card(
    package: Package,
    rows: TrainingRows,
    test: pd.DataFrame,
    facts: dict[str, str],
    registry: Registry,
) -> None:
    """The model card, beside the graph that its figures are of."""
    card = model_card(
        Facts(
            name=MODEL_NAME,
            run_id=facts["run_id"],
            trained_at=facts["trained_at"],
            data_source=facts["data_source"],
            train_rows=len(rows.frame),
            joined_rows=int(rows.joined.sum()),
            judge_uses=registry.judged_versions() + 1,
        ),
        package.contract,
        test,
        package.score(test),
        package.threshold,
    )
    (package.folder / CARD).write_text(card, encoding="utf-8")


def make_reference(
    frame: pd.DataFrame, contract: Contract, best: Trial, threshold: float, compared: np.ndarray
) -> pd.DataFrame:
    """What monitoring compares with: a sample of the `compared` training rows, with predictions.

    The predictions are out of fold, as those on new rows will be; a fitted model is too sure of
    the rows that it was fitted on.
    """
    rows = inputs(frame, contract).assign(
        probability=best.probability,
        income_class=(best.probability >= threshold).astype(int),
        label=labels(frame, contract),
    )[compared]
    return rows.sample(min(REFERENCE_ROWS, len(rows)), random_state=0)


@io_step
def log_rows(
    folder: Path,
    registry: Registry,
    contract: Contract,
    reference: pd.DataFrame,
    traffic: pd.DataFrame,
) -> None:
    """The monitoring reference and the traffic rows, as files of the run."""
    (folder / REFERENCE).parent.mkdir(parents=True, exist_ok=True)
    reference.to_json(folder / REFERENCE, orient="records", lines=True)
    census_data.write_traffic(traffic, contract, folder / TRAFFIC)
    registry.log_files(folder)


@io_step
def register(package: Package, pipeline: Pipeline, registry: Registry, tags: dict[str, str]) -> str:
    """The new version's number."""
    registry.log_pipeline(pipeline)
    return str(registry.register(package.folder, package.contract, tags).version)


@io_step
def judge(
    package: Package, registry: Registry, judges: tuple[Judge, Judge | None], version: str
) -> Verdict:
    """The gate's verdict against the production version, written on the version as tags."""
    production = registry.production()
    if production is None:
        verdict = gate(package, None, *judges)
    else:
        with registry.package_of(production) as folder:
            verdict = gate(package, Package(folder, package.contract), *judges)
    registry.tag_version(version, verdict.as_tags())
    registry.log_json(VERDICT, msgspec.to_builtins(verdict))
    return verdict


@io_step
def promote(registry: Registry, version: str, verdict: Verdict, trigger: str) -> None:
    """Points the alias `production` at the version if the gate agrees."""
    if verdict.promote:
        registry.promote(version, Promotion("training flow", f"{trigger}: {verdict.reason}"))
    log = get_run_logger()
    log.info("promoted=%s version=%s reason=%s", verdict.promote, version, verdict.reason)


def report(version: str, metrics: dict[str, float], verdict: Verdict) -> None:
    """The table of results on the flow run's page."""
    rows = [{"metric": name, "test split": f"{value:.4f}"} for name, value in metrics.items()]
    text = f"Version {version}: {'promoted' if verdict.promote else 'kept back'}, {verdict.reason}"
    create_table_artifact(rows, key="training-results", description=text)
    if verdict.champion:
        create_table_artifact(gate_rows(verdict), key="gate", description=verdict.reason)


def gate_rows(verdict: Verdict) -> list[dict[str, str]]:
    """The gate's evidence for people: gains of the candidate, and the rise in each segment."""

    def words(interval: Interval | None) -> str:
        if interval is None:
            return "too few rows"
        return f"{interval.estimate:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"

    rows = [
        {"compared": "log loss, gain", "95 % interval": words(verdict.log_loss_gain)},
        {"compared": "ROC AUC, gain", "95 % interval": words(verdict.roc_auc_gain)},
    ]
    if verdict.floor:
        name = f"ROC AUC, gain on the floor: {verdict.floor.judge}"
        rows.append({"compared": name, "95 % interval": words(verdict.floor.roc_auc_gain)})
    for segment in verdict.segments:
        name = f"log loss, rise for {segment.name}, {segment.rows} rows"
        rows.append({"compared": name, "95 % interval": words(segment.log_loss_rise)})
    return rows


def inputs(frame: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """The model's input columns, in contract order."""
    return frame[list(contract.input_names)]


def labels(frame: pd.DataFrame, contract: Contract) -> np.ndarray:
    """The target (n_samples,), 1 for the positive label."""
    return frame[contract.target.name].to_numpy()


def digest(content: bytes) -> str:
    """Short sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
