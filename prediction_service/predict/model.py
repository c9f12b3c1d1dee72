"""The model of a version with its explainer, as the workers use it.

Comes after the follower, which leaves packages in the model folder.
"""

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from config.model import model
from prediction_service.errors import NotExplained

if TYPE_CHECKING:
    from prediction_service.predict.explanations import Explainer


class Model(model.Model):
    """One version, ready to score and to explain."""

    @cached_property
    def explainer(self) -> "Explainer":
        """The explainer of this version, loaded on first use. Raises NotExplained."""
        try:
            explanations = import_module("prediction_service.predict.explanations")
        except ImportError as err:
            raise NotExplained(f"This installation cannot explain predictions: {err}") from err
        return explanations.Explainer(self.folder, self.facts, self.contract)
