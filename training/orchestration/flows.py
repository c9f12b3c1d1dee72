"""The Prefect flows `train`, `score`, `promote`, `ingest` and `retain`; `watch` is in retraining.

The body of `train` is the whole process; `steps` has its steps.
"""

import hashlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, State

from config.contract import contract_path, load_contract
from config.model_registry import ALIAS, CHALLENGER
from config.runtime.settings import read_settings
from training.batch_scoring.score import ScoringError, score_batch
from training.code_bundle import code_digest
from training.data.assemble import data_digest, downsample_old_rows
from training.data.batches import FEED_RULE, BatchRejected, ingest_feed, intake_of
from training.data.dataset import split_judge_traffic
from training.data.source import SYNTHETIC
from training.data.trainable import check_trainable
from training.evaluation.gate import RECENT
from training.evaluation.model_card import Facts
from training.model.search_space import SEARCH_FILE, load_search
from training.orchestration.promotion import alias_for, check_services, promote_version
from training.orchestration.steps import (
    SearchSettings,
    assign,
    choose_holdouts,
    complete,
    evaluate,
    export,
    fit,
    join,
    judge,
    key_values,
    labels,
    log_lineage,
    log_rows,
    make_reference,
    plot,
    read_dataset,
    read_sources,
    register,
    report,
    screen,
    search,
    write_card,
)
from training.orchestration.tasks import notify_failure, promotion_turn
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry
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

# What becomes of a version, by the alias that it gets after the gate.
FATES = {
    ALIAS: "It was promoted at once.",
    CHALLENGER: "Labels decide first whether it is promoted: python -m training history.",
    "": "It was not promoted.",
}
NOTIFY: dict[str, Any] = {"on_failure": [notify_failure], "on_crashed": [notify_failure]}


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
    settings, contract = read_settings(Settings), load_contract()
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
    sources = read_sources(contract, settings, with_store, with_feedback)
    sources = screen(sources, contract, registry)
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
    # The traffic half of the test split may be among the joined rows.
    test = rows.test_holdout if rows.joined.any() else dataset.test
    check_trainable(rows.frame, {one.name: one.frame for one in holdouts if one}, contract, n_folds)
    tags = {"data_source": dataset.source, "trigger": trigger, **same}
    params = msgspec.to_builtins(options) | {
        "train_rows": len(rows.frame),
        "joined_rows": int(rows.joined.sum()),
        "recent_rows": int(rows.recent.sum()),
        "rejected_rows": dataset.rejected,
        "duplicate_rows": dataset.duplicates,
    }
    with (
        registry.run(f"train {trigger} {datetime.now(UTC):%Y-%m-%d}", tags, params) as run_id,
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
                version, champion, len(rows.frame), registry.judged_versions() + 1, best.metrics
            )
            write_card(package, about, test, verdict)
            kept = {
                "data_source": dataset.source,
                "with_feedback": str(with_feedback),
                "trigger": trigger,
                **verdict.as_tags(),
            }
            alias = alias_for(dataset.source, registry, settings) if verdict.promote else ""
            fate = f"The gate {verdict.outcome}: {verdict.reason}. {FATES[alias]}"
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
    expired = registry.expired(settings, datetime.now(UTC))
    registry.remove(expired)
    get_run_logger().info("runs_removed removed=%r", str(expired))


def skipped(reason: str, **facts: str) -> dict[str, Any]:
    """Log why no training is needed; return the flow's result."""
    get_run_logger().info("training_skipped reason=%s %s", reason, key_values(facts))
    return {**facts, "nothing_new": True}


def digest(content: Any) -> str:
    """Return a short sha256 of JSON."""
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]
