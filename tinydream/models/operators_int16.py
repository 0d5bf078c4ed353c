"""Rules of operators on int16 activations that differ from those on int8, and of conversions between the two.

int16 values have the zero point 0. What an operator of one input does to them is no table any more: it is a rescaling
with a slope for each sign, or a curve of some points with straight lines between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from . import fixedpoint
from .fixedpoint import quantize_multiplier
from .graph import Operator
from .model import DTYPES, integer_range
from .operators import (
    LOGISTIC,
    RESCALE,
    SOFTMAX,
    TANH,
    CheckedGraph,
    Record,
    Recorder,
    Rule,
    channel_rows,
    ratios,
    single,
)

__all__ = ["RULES_INT16"]


def _rescale(low: float, high: float, slope: Callable[[Operator], float]) -> Recorder:
    """What lies below zero is multiplied by the slope; results are cut off at the real values low and high."""

    def record(checked: CheckedGraph, operator: Operator) -> Record:
        source, output, below = checked.tensor(operator, 0), checked.output(operator), slope(operator)
        view = checked.view(operator, source)
        if checked.view(operator, output) != view:
            raise checked.damaged(operator, "input and output differ in shape")
        lowest, highest = integer_range(DTYPES[output.dtype])
        if low > -math.inf:
            lowest = max(lowest, checked.steps(output, low))
        if high < math.inf:
            highest = min(highest, checked.steps(output, high))
        if lowest > highest:
            raise checked.refuse(operator, f"the range of its output, {lowest} to {highest}, is empty")
        multipliers = [quantize_multiplier(real) for real in ratios(checked, operator, below)]
        return Record(
            kind=RESCALE,
            inputs=(source.index,),
            output=output.index,
            views=(view, view),
            clamp=(lowest, highest),
            channels=channel_rows([-int(source.zero_points[0]), 0], multipliers),
        )

    return record


def _straight(operator: Operator) -> float:
    return 1.0


def _leak(operator: Operator) -> float:
    return float(operator.options["Alpha"])


def _curve(kind: int) -> Recorder:
    """LOGISTIC and TANH: |x| comes onto the scale of one table of the sigmoid."""

    def record(checked: CheckedGraph, operator: Operator) -> Record:
        source, output = checked.tensor(operator, 0), checked.output(operator)
        view = checked.view(operator, source)
        if checked.view(operator, output) != view:
            raise checked.damaged(operator, "input and output differ in shape")
        checked.fixed_output(operator, 1 / 32768, 0)
        scaling = fixedpoint.curve_scaling(float(source.scales[0]))
        if scaling is None:
            raise checked.refuse(operator, f"its input scale {source.scales[0]} is out of range")
        table = fixedpoint.sigmoid_table().astype("<u2")
        return Record(
            kind=kind,
            inputs=(source.index,),
            output=output.index,
            views=(view, view),
            weights=np.frombuffer(table.tobytes(), np.int8),
            channels=channel_rows([0], [scaling]),
        )

    return record


def _softmax(checked: CheckedGraph, operator: Operator) -> Record:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view = checked.view(operator, source)
    if checked.view(operator, output) != view:
        raise checked.damaged(operator, "input and output differ in shape")
    checked.fixed_output(operator, 1 / 32768, 0)
    beta = float(operator.options["Beta"])
    real = float(source.scales[0] * np.float32(beta)) / (10.0 / 65535.0)  # the product in single precision
    if not 0 < beta < 1e6 or not 0 < real <= 1 << 14:
        raise checked.refuse(operator, f"beta {beta} or the input's scale is out of range")
    curves = np.concatenate([fixedpoint.exponential_curve(), fixedpoint.reciprocal_curve()]).astype("<i2")
    return Record(
        kind=SOFTMAX,
        inputs=(source.index,),
        output=output.index,
        views=(view, view),
        weights=np.frombuffer(curves.tobytes(), np.int8),
        channels=channel_rows([0], [quantize_multiplier(real)]),
    )


_QUANTIZE = single(_rescale(-math.inf, math.inf, _straight))

RULES_INT16: dict[tuple[str, str], Rule] = {
    ("RELU", "INT16"): single(_rescale(0, math.inf, _straight)),
    ("RELU6", "INT16"): single(_rescale(0, 6, _straight)),
    ("LEAKY_RELU", "INT16"): single(_rescale(-math.inf, math.inf, _leak)),
    ("LOGISTIC", "INT16"): single(_curve(LOGISTIC)),
    ("TANH", "INT16"): single(_curve(TANH)),
    ("SOFTMAX", "INT16"): single(_softmax),
    ("QUANTIZE", "INT8->INT16"): _QUANTIZE,
    ("QUANTIZE", "INT16->INT8"): _QUANTIZE,
    ("QUANTIZE", "INT16->INT16"): _QUANTIZE,
}
