"""A model package in memory: raw columns in, probabilities out.

ONNX Runtime and numpy only; nothing is unpickled.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from config.contract import Contract
from config.events import Prediction
from config.feature import MISSING, Feature
from config.model.package import ModelRejected, Row, read_golden
from config.model_registry import CARD, GOLDEN, GRAPH


class Model:
    """One version, ready to score. Safe to use from several threads."""

    def __init__(self, folder: Path, version: str, contract: Contract) -> None:
        """Load a package. Raises ModelRejected for another contract or wrong golden rows."""
        self.version = version
        self.contract = contract
        self.folder = folder
        self.card_path = folder / CARD
        self.session = open_session(folder / GRAPH)
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self._check_contract()
        self.threshold = self._read_threshold()
        self._to_tensors = [(f.name, to_tensor(f)) for f in contract.inputs]
        self._check_golden()

    def score(self, rows: Iterable[Row]) -> np.ndarray:
        """Return the probability of the positive label, float32 (n_rows,), each in [0, 1]."""
        columns = zip(*rows)
        feeds = {name: tensor(column) for (name, tensor), column in zip(self._to_tensors, columns)}
        return self.session.run(["probability"], feeds)[0]

    def score_stored(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """Return the probability of each stored prediction's record, float32 (n_rows,).

        It is nan for a record that breaks the contract, as one of a former contract may.
        """
        names, check = self.contract.input_names, self.contract.check
        scored = np.full(len(predictions), np.nan, np.float32)
        valid = [number for number, one in enumerate(predictions) if not check(one.features)]
        if valid:
            records = (predictions[number].features for number in valid)
            scored[valid] = self.score([[record.get(name) for name in names] for record in records])
        return scored

    def _check_contract(self) -> None:
        digest = self.facts.get("contract_digest")
        if digest != self.contract.digest:
            raise ModelRejected(
                f"contract_digest: the model was made for another contract; got {digest}, expected"
                f" {self.contract.digest} (config/features.yaml). Train a version for this"
                " contract, or deploy the code of the other contract."
            )
        found = {tensor.name for tensor in self.session.get_inputs()}
        expected = {feature.name for feature in self.contract.inputs}
        if found != expected:
            raise ModelRejected(
                f"{GRAPH}: wrong inputs; got {sorted(found)}, expected {sorted(expected)}."
                " Train a new version."
            )

    def _read_threshold(self) -> float:
        text = self.facts.get("threshold", "")
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1.0
        if not 0 <= threshold <= 1:
            raise ModelRejected(
                f"{GRAPH}: threshold: got {text!r}, expected 0 to 1. Train a new version."
            )
        return threshold

    def _check_golden(self) -> None:
        golden = read_golden(self.folder / GOLDEN)
        names = self.contract.input_names
        try:
            scored = self.score([[row.get(name) for name in names] for row in golden.rows])
        except Exception as err:  # ONNX Runtime's own exceptions share no other base
            raise ModelRejected(f"{GOLDEN}: the rows cannot be scored: {err}") from err
        differences = np.abs(scored - np.array(golden.probabilities))
        worst = int(differences.argmax())
        if not differences[worst] <= golden.tolerance:  # in this form NaN is rejected too
            raise ModelRejected(
                f"{GOLDEN}: row {worst}: got probability {scored[worst]:.6f}, expected"
                f" {golden.probabilities[worst]:.6f} within {golden.tolerance}. Compare the"
                " versions of ONNX Runtime of training and service."
            )


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session on one thread: the workers are the parallelism. Raises ModelRejected."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime's own exceptions share no other base
        raise ModelRejected(f"{path.name} cannot be opened by ONNX Runtime: {err}") from err


def to_tensor(feature: Feature) -> Callable[[Row], np.ndarray]:
    """Return a function from a column of raw values to the graph's input: float32 or str (n,).

    It gives the same as `Feature.known` for each value, with one dictionary look-up each.
    """
    if feature.kind == "date":
        return lambda column: np.array([*map(feature.known, column)], np.float32)
    if not feature.is_categorical:  # numpy reads None as NaN
        return lambda column: np.array(column, dtype=np.float32)
    texts = feature.values if feature.kind == "boolean" else feature.categories
    known: Callable[..., str] = dict(zip(texts, feature.categories)).get

    def strings(column: Row) -> np.ndarray:
        return np.array([known(value, MISSING) for value in column], dtype=object)

    return strings
