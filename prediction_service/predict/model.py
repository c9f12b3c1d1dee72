"""A model package in memory: raw columns in, probabilities out.

Comes after the follower, which leaves packages in the model folder. ONNX Runtime and numpy
only; nothing is unpickled. A package that does not suit this service is refused before use.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnxruntime

from config.contract import MISSING, Contract, Feature
from config.model_registry import BOOSTER, CARD, GOLDEN, GRAPH
from prediction_service.errors import NotExplained

if TYPE_CHECKING:
    from prediction_service.predict.explanations import Explainer

WIDEST_TOLERANCE = 1e-3  # in probability; a package that asks for more proves nothing

Row = Sequence[Any]  # raw values of the contract's input columns, in contract order


class ModelRefused(Exception):
    """The package cannot be served; the message says why."""


class Golden(msgspec.Struct):
    """`golden.json`: raw rows and the probabilities that any host must reproduce."""

    tolerance: float
    rows: list[dict[str, Any]]
    probabilities: list[float]


class Model:
    """One version, ready to score. Safe to call from several threads."""

    def __init__(self, folder: Path, version: str, contract: Contract) -> None:
        """Raises ModelRefused unless it is made for `contract` and its golden rows agree."""
        self.version = version
        self.contract = contract
        self.folder = folder
        self.card_path = folder / CARD
        self.session = open_session(folder / "model.onnx")
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self._check_contract()
        self.threshold = self._read_threshold()
        ranks = {tensor.name: len(tensor.shape) for tensor in self.session.get_inputs()}
        self._to_tensors = [(f.name, to_tensor(f, ranks[f.name])) for f in contract.inputs]
        self._check_golden(folder / "golden.json")

    def score(self, rows: Iterable[Row]) -> np.ndarray:
        """Probability of the positive label, float32 (n_rows,), each in [0, 1]."""
        columns = zip(*rows)
        feeds = {name: tensor(column) for (name, tensor), column in zip(self._to_tensors, columns)}
        return self.session.run(["probability"], feeds)[0]

    @cached_property
    def explainer(self) -> "Explainer":
        """What explains the answers, made with the first question. Raises NotExplained."""
        try:
            explanations = import_module("prediction_service.predict.explanations")
        except ImportError as err:
            raise NotExplained(f"This installation cannot explain answers: {err}") from err
        return explanations.Explainer(self.folder, self.facts, self.contract)

    def _check_contract(self) -> None:
        digest = self.facts.get("contract_digest")
        if digest != self.contract.digest:
            raise ModelRefused(
                f"made for the contract {digest}, this service has {self.contract.digest}"
                " (config/features.yaml): train a version for this contract, or deploy its code"
            )
        taken = {tensor.name for tensor in self.session.get_inputs()}
        known = {feature.name for feature in self.contract.inputs}
        if taken != known:
            raise ModelRefused(f"model.onnx takes {sorted(taken)}, expected {sorted(known)}")

    def _read_threshold(self) -> float:
        text = self.facts.get("threshold", "")
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1.0
        if not 0 <= threshold <= 1:
            raise ModelRefused(f"model.onnx has the threshold {text!r}, expected 0 to 1")
        return threshold

    def _check_golden(self, path: Path) -> None:
        golden = read_golden(path)
        names = self.contract.input_names
        try:
            scored = self.score([[row.get(name) for name in names] for row in golden.rows])
        except Exception as err:  # ONNX Runtime's own exceptions share no other base
            raise ModelRefused(f"the golden rows cannot be scored: {err}") from err
        differences = np.abs(scored - np.array(golden.probabilities))
        worst = int(differences.argmax())
        if not differences[worst] <= golden.tolerance:  # written so that NaN is refused too
            raise ModelRefused(
                f"golden row {worst} scores {scored[worst]:.6f} here, expected"
                f" {golden.probabilities[worst]:.6f} within {golden.tolerance}"
            )


def read_golden(path: Path) -> Golden:
    """The golden rows of a package. Raises ModelRefused if they could prove nothing."""
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except (OSError, msgspec.DecodeError) as err:
        raise ModelRefused(f"golden.json cannot be read: {err}") from err
    if not golden.rows or len(golden.rows) != len(golden.probabilities):
        raise ModelRefused("golden.json needs as many probabilities as rows, at least one")
    if not 0 <= golden.tolerance <= WIDEST_TOLERANCE:
        raise ModelRefused(
            f"golden.json has the tolerance {golden.tolerance}, expected 0 to"
            f" {WIDEST_TOLERANCE}"
        )
    return golden


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session on one thread: the workers are the parallelism. Raises ModelRefused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime's own exceptions share no other base
        raise ModelRefused(f"{path.name} is no model that ONNX Runtime opens: {err}") from err


def to_tensor(feature: Feature, rank: int = 1) -> Callable[[Row], np.ndarray]:
    """Turns a column of raw values into what the graph takes: (n,), float32 or strings.

    The same as `Feature.known` per value, with one dictionary look-up each. Graphs of earlier
    releases have inputs of rank 2, (n, 1).
    """
    shape = (-1, 1)[:rank]
    if not feature.is_categorical:
        return lambda column: np.array(column, dtype=np.float32).reshape(shape)
    known = {category: category for category in feature.categories}.get

    def strings(column: Row) -> np.ndarray:
        values = [known(value, MISSING) for value in column]
        return np.array(values, dtype=object).reshape(shape)

    return strings


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file. Raises ModelRefused if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise ModelRefused(f"{path.name} cannot be read: {err}") from err


def check_digest(path: Path, expected: str) -> None:
    """Raises ModelRefused if a file has another sha256."""
    if (found := sha256_of(path)) != expected:
        raise ModelRefused(
            f"{path.name} has the sha256 {found}, at its registration it had {expected}:"
            " it was changed or damaged; promote another version, or train one"
        )


def check_digests(package: Path, expected: dict[str, str]) -> None:
    """Holds a package that was downloaded against the sums that the registry has of its files.

    Raises ModelRefused, also for a file that would be used and has no sum.
    """
    if GRAPH not in expected:
        raise ModelRefused(f"the registry has no sha256 of {GRAPH}: promote or train a new version")
    for name, digest in expected.items():
        check_digest(package / name, digest)
    is_earlier = set(expected) == {GRAPH}  # the graph has the booster's sum in it
    for name in (GOLDEN, BOOSTER, CARD):
        if not is_earlier and name not in expected and (package / name).exists():
            raise ModelRefused(f"{name} was not there when the version was registered")
