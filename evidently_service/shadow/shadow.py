"""Score a shadow version on what production has answered, and judge the two by the labels.

Predictions and labels in the window -> scores and pairs in `store` -> the test of `sequential`. The
test is stored for /shadow; `watch` of the training acts on its verdict. Nothing here is on the way
of a request.
"""

import contextlib
import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import structlog

from config.contract import Contract
from config.events import Prediction
from config.model.model import Model
from config.model.package import ModelRejected
from config.model_registry import FALLBACK
from evidently_service.reference.monitoring_config import DAY_S, Monitoring
from evidently_service.reference.reference_data import read_reference
from evidently_service.reference.registry import Registry, RegistryError, Version
from evidently_service.shadow.sequential import (
    SEGMENT_MARGIN,
    Evidence,
    Rules,
    decide,
    evidence_of,
    loss_differences,
)
from evidently_service.shadow.store import ShadowStore, ShadowTest, Verdict
from evidently_service.store.window import KEY_BYTES, Window
from evidently_service.verdict.scores import score

log = structlog.get_logger(__name__)

BATCH_ROWS = 5000
SHOWN_ROWS = 5000  # newest ones, whose probabilities are compared without labels
BINS = 10
NO_LABELS = "no labels yet"
UNDECIDED = {False: "not clear yet", True: "not better so far"}  # by whether the shadow guards
VERDICTS: dict[tuple[bool, str], Verdict] = {  # by whether the shadow guards, and the outcome
    (False, "better"): "promote",
    (False, "worse"): "reject",
    (False, "undecided"): "reject",
    (True, "better"): "undo",
    (True, "undecided"): "keep",
}


class Shadow:
    """Scores and judges one shadow version after the other."""

    def __init__(
        self,
        window: Window,
        registry: Registry,
        monitoring: Monitoring,
        contract: Contract,
        *,
        anonymous: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With `anonymous`, labels of callers without an API key count too."""
        self.window = window
        self.store = ShadowStore(window)
        self.anonymous = anonymous
        self.registry = registry
        self.contract = contract
        self.clock = clock
        self.rules = Rules(
            monitoring.shadow_error_rate,
            monitoring.shadow_max_labels,
            monitoring.shadow_days * DAY_S,
        )
        self._loaded: tuple[str, Model, np.ndarray] | None = None  # version, with its reference

    def run_once(self) -> None:
        """Score and judge what is new. Log an error, and store it for /shadow."""
        try:
            test = self._current_test()
            if test.kind and not test.verdict:
                test = self._advance(test)
            self.store.store(msgspec.structs.replace(test, run_at=self.clock(), error=None))
        except Exception as err:  # pylint: disable=broad-exception-caught  # the next run may pass
            expected = isinstance(err, (RegistryError, ModelRejected))
            text = str(err) if expected else f"{type(err).__name__}: {err}"
            with contextlib.suppress(sqlite3.Error):  # the disk may be full: the log has the error
                test = self.store.test()
                if test.error != text:
                    log.warning("shadow_failed", error=text, exc_info=not expected)
                self.store.store(msgspec.structs.replace(test, error=text))

    def _current_test(self) -> ShadowTest:
        """Return the stored test, or a new one if the registry names other versions."""
        production, found = self.registry.production_version(), self.registry.shadow_version()
        test = self.store.test()
        # During a promotion both aliases name the same version for a moment.
        if production is None or found is None or found[1] == production:
            if test.kind:
                test = ShadowTest(last=test.ended)
                self.store.start(test)
            return test
        kind, version = found
        self._load(version)  # before the start: a version that cannot be loaded starts no test
        names = kind, version.number, production.number
        if (test.kind, test.version, test.production) == names:
            return test
        test = ShadowTest(
            last=test.ended,
            kind=kind,
            version=version.number,
            production=production.number,
            started_at=self.clock(),
            arrival=self.window.last_arrival(),
            label_arrival=self.store.last_label(),
        )
        self.store.start(test)
        log.info("shadow_started", kind=kind, version=test.version, production=test.production)
        return test

    def _load(self, version: Version) -> None:
        """Load a version's model and the probabilities of its reference data."""
        if self._loaded and self._loaded[0] == version.number:
            return
        with tempfile.TemporaryDirectory() as folder, self.registry.package(version) as package:
            path = self.registry.download_reference(version, Path(folder))
            reference = read_reference(path, version, self.contract).frame["probability"]
            model = Model(package, version.number, self.contract)
        self._loaded = version.number, model, reference.to_numpy()

    def _advance(self, test: ShadowTest) -> ShadowTest:
        """Score new predictions, pair new labels, and judge; return the test."""
        last_label, before = self.store.last_label(), test
        while rows := self.window.next_predictions(test.arrival, BATCH_ROWS):
            scores = self._scores([one for one in rows if self._counts(one[1], test)])
            test = msgspec.structs.replace(test, arrival=rows[-1][0])
            test = self.store.add_scores(scores, test)
        if last_label > test.label_arrival:  # their predictions came before, so they are scored
            test = self.store.pair(test, last_label, self.anonymous)
        if test.rows > before.rows:
            test = self._compared(test)
        test = self._judged(test, is_new=test.labels > before.labels)
        if test.verdict:
            log.info("shadow_decided", version=test.version, verdict=test.verdict, why=test.why)
        return test

    @staticmethod
    def _counts(prediction: Prediction, test: ShadowTest) -> bool:
        """Return whether production predicted the row after the start of the test.

        Labels of earlier rows may be among the training rows of the shadow version.
        """
        is_later = prediction.predicted_at >= test.started_at
        return is_later and prediction.model_version == test.production

    def _scores(self, rows: Sequence[tuple[int, Prediction]]) -> list[tuple[int, bytes, float]]:
        """Return arrival, digest of the record and the shadow's probability of each row."""
        assert self._loaded is not None
        model, encode = self._loaded[1], msgspec.json.Encoder().encode
        records = [
            [one.features.get(name) for name in self.contract.input_names] for _, one in rows
        ]
        try:
            scored = model.score(records) if records else np.empty(0)
        except Exception:  # pylint: disable=broad-exception-caught  # a record of another contract
            scored = model.score_stored([one for _, one in rows])
        return [
            (arrival, blake2b(encode(record), digest_size=KEY_BYTES).digest(), probability)
            for (arrival, _), record, probability in zip(rows, records, scored.tolist())
            if not math.isnan(probability)
        ]

    def _compared(self, test: ShadowTest) -> ShadowTest:
        """Return the test with the figures that need no label."""
        assert self._loaded is not None
        _, model, reference = self._loaded
        production, classes, shadow = self.store.newest(SHOWN_ROWS).T
        return msgspec.structs.replace(
            test,
            agreement=float(((shadow >= model.threshold) == classes).mean()),
            mean_probability=(float(production.mean()), float(shadow.mean())),
            score_shares=(bin_shares(production), bin_shares(shadow)),
            output_drift=score(pd.Series(reference), pd.Series(shadow), "wasserstein"),
        )

    def _judged(self, test: ShadowTest, is_new: bool) -> ShadowTest:
        """Return the test with its evidence, and its verdict if there is one.

        Labels after the one that decides do not count: the evidence is that of the decision.
        """
        age_s = self.clock() - test.started_at
        if not is_new and age_s < self.rules.max_s:
            return test if test.labels else msgspec.structs.replace(test, why=NO_LABELS)
        pairs, rate = self.store.pairs(self.rules.max_labels), self.rules.error_rate
        differences = loss_differences(pairs.y, pairs.production, pairs.shadow)
        guards = test.kind == FALLBACK
        decision = decide(differences, pairs.segments, self.rules, guards=guards, age_s=age_s)
        end = decision.labels if decision else len(differences)
        evidence = evidence_of(differences[:end], 0.0, rate)
        test = msgspec.structs.replace(
            test,
            labels=end,
            evidence=evidence,
            segments={
                name: evidence_of(differences[rows[rows < end]], SEGMENT_MARGIN, rate)
                for name, rows in pairs.segments.items()
            },
            why=describe(decision.why if decision else UNDECIDED[guards], evidence),
        )
        if decision is None:
            return test
        verdict = VERDICTS[guards, decision.outcome]
        return msgspec.structs.replace(test, verdict=verdict, decided_at=self.clock())


def bin_shares(probability: np.ndarray) -> tuple[float, ...]:
    """Return the share of rows in each of ten equal bins of the probability."""
    return tuple((np.histogram(probability, BINS, (0, 1))[0] / len(probability)).tolist())


def describe(what: str, evidence: Evidence) -> str:
    """Return the state of a test in words."""
    if not evidence.labels:
        return f"{what}: {NO_LABELS}"
    interval = f"{evidence.lower:.4f} to {evidence.upper:.4f}"
    return f"{what}: gain in log loss {evidence.gain:.4f} ({interval}), {evidence.labels} labels"
