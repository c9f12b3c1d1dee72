"""The graph's nodes for dates: from days to year, month, day and weekday."""

from datetime import date
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from config.feature import Feature


class DateGraph:
    """Nodes from a column of days (n,) to each part of its dates (n,); NaN stays.

    Source: Hinnant (2013), chrono-compatible low-level date algorithms, `civil_from_days`.
    """

    def __init__(self, feature: Feature) -> None:
        self.name = feature.name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        if feature.parts == ("days",):
            self.outputs = [feature.name]
            return
        is_missing = self._node("IsNaN", feature.name)
        days = self._node("Where", is_missing, self._constant(np.float32(0)), feature.name)
        days = self._node("Cast", days, to=TensorProto.INT64)
        # Years start in March here: a leap day is the last of its year. 0 is 0000-03-01.
        days = self._node("Add", days, (feature.reference - date(1, 1, 1)).days + 306)
        parts = self._parts(days)
        nan = self._constant(np.float32("nan"))
        self.outputs = [
            (
                feature.name
                if part == "days"
                else self._node(
                    "Where", is_missing, nan, self._node("Cast", parts[part], to=TensorProto.FLOAT)
                )
            )
            for part in feature.parts
        ]

    def _parts(self, days: str) -> dict[str, str]:
        """Return the names of the parts, int64 (n,)."""
        era = self._node("Div", days, 146_097)  # days of 400 years
        of_era = self._node("Mod", days, 146_097)
        ordinary = self._node("Sub", of_era, self._node("Div", of_era, 1460))
        ordinary = self._node("Add", ordinary, self._node("Div", of_era, 36_524))
        ordinary = self._node("Sub", ordinary, self._node("Div", of_era, 146_096))
        year = self._node("Div", ordinary, 365)
        begin = self._node("Add", self._node("Mul", year, 365), self._node("Div", year, 4))
        begin = self._node("Sub", begin, self._node("Div", year, 100))
        of_year = self._node("Sub", of_era, begin)
        month = self._node("Div", self._node("Add", self._node("Mul", of_year, 5), 2), 153)
        begin = self._node("Div", self._node("Add", self._node("Mul", month, 153), 2), 5)
        day = self._node("Add", self._node("Sub", of_year, begin), 1)
        # Months 10 and 11 are January and February of the next year.
        year = self._node("Add", year, self._node("Mul", era, 400))
        year = self._node("Add", year, self._node("Div", month, 10))
        month = self._node("Add", self._node("Mod", self._node("Add", month, 2), 12), 1)
        weekday = self._node("Mod", self._node("Add", days, 2), 7)
        return {"year": year, "month": month, "day": day, "weekday": weekday}

    def _node(self, operation: str, *inputs: str | int, **attributes: Any) -> str:
        """Append a node; return the name of its output. A whole number becomes a constant."""
        names = [one if isinstance(one, str) else self._constant(np.int64(one)) for one in inputs]
        output = f"{self.name}.date.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, names, [output], **attributes))
        return output

    def _constant(self, value: np.generic) -> str:
        name = f"{self.name}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array([value]), name))
        return name
