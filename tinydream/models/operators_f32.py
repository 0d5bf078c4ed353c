"""The rules of float32 operators: their values go into the .tdm as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .graph import Operator
from .operators import (
    ADD,
    AVERAGE_POOL,
    MAX_POOL,
    MUL,
    SOFTMAX,
    SUB,
    TABLE,
    CheckedGraph,
    Record,
    Recorder,
    Rule,
    combination,
    conv_window,
    dense_window,
    depthwise_window,
    mean_window,
    pool,
    single,
)

__all__ = ["FUNCTIONS", "RULES_F32", "real_biases", "real_weights"]

FloatArray = npt.NDArray[np.float32]

# Operators of one input, by their number in enum td_activation.
FUNCTIONS = {
    "RELU": 1,
    "RELU6": 2,
    "RELU_N1_TO_1": 3,
    "LEAKY_RELU": 4,
    "HARD_SWISH": 5,
    "LOGISTIC": 6,
    "TANH": 7,
}


def real_weights(checked: CheckedGraph, operator: Operator) -> FloatArray:
    """Constant float32 weights in the shape of their tensor."""
    tensor = checked.tensor(operator, 1)
    if tensor.dtype != "FLOAT32":
        raise checked.refuse(
            operator,
            f"its weights are {tensor.dtype} and its activations float32 (dynamic range or float16 quantisation), "
            "which no kernel here computes. Convert the model without optimizations, or fully int8 with a "
            "representative dataset",
        )
    if tensor.data is None or tensor.sparse:
        raise checked.refuse(operator, "its weights are not constant and dense")
    if any(n <= 0 for n in tensor.shape) or len(tensor.data) != 4 * tensor.size:
        raise checked.damaged(operator, f"{len(tensor.data)} bytes of weights for shape {tensor.shape}")
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def real_biases(checked: CheckedGraph, operator: Operator, n: int) -> FloatArray:
    """n float32 biases, zeros where there are none."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return np.zeros(n, np.float32)
    tensor = checked.tensor(operator, 2)
    if tensor.dtype != "FLOAT32" or tensor.data is None or len(tensor.data) != 4 * n:
        raise checked.refuse(operator, f"its bias must be {n} constant float32 values")
    return np.frombuffer(tensor.data, "<f4")


def _bytes(values: npt.ArrayLike) -> npt.NDArray[np.int8]:
    return np.frombuffer(np.asarray(values, "<f4").tobytes(), np.int8)


def _conv(checked: CheckedGraph, operator: Operator) -> Record:
    weights = real_weights(checked, operator)
    window = conv_window(checked, operator)
    return Record(**window, weights=_bytes(weights), channels=real_biases(checked, operator, len(weights)).tobytes())


def _depthwise(checked: CheckedGraph, operator: Operator) -> Record:
    weights = real_weights(checked, operator)
    window = depthwise_window(checked, operator)
    by_channel = weights[0].transpose(2, 0, 1)
    return Record(
        **window, weights=_bytes(by_channel), channels=real_biases(checked, operator, len(by_channel)).tobytes()
    )


def _fully_connected(checked: CheckedGraph, operator: Operator) -> Record:
    weights = real_weights(checked, operator)
    window = dense_window(checked, operator)
    return Record(**window, weights=_bytes(weights), channels=real_biases(checked, operator, len(weights)).tobytes())


def _combine(kind: int) -> Recorder:
    return lambda checked, operator: Record(kind=kind, **combination(checked, operator))


def _mean(checked: CheckedGraph, operator: Operator) -> Record:
    return Record(**mean_window(checked, operator))


def _same_shape(checked: CheckedGraph, operator: Operator, kind: int, activation: int, parameter: float) -> Record:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view = checked.view(operator, source)
    if checked.view(operator, output) != view:
        raise checked.damaged(operator, "input and output differ in shape")
    return Record(
        kind=kind, inputs=(source.index,), output=output.index, views=(view, view), activation=activation,
        weights=_bytes([parameter]),
    )  # fmt: skip


def _function(name: str) -> Recorder:
    def record(checked: CheckedGraph, operator: Operator) -> Record:
        slope = float(operator.options["Alpha"]) if name == "LEAKY_RELU" else 0.0
        return _same_shape(checked, operator, TABLE, FUNCTIONS[name], slope)

    return record


def _softmax(checked: CheckedGraph, operator: Operator) -> Record:
    return _same_shape(checked, operator, SOFTMAX, 0, float(operator.options["Beta"]))


_RECORDERS: dict[str, Callable[[CheckedGraph, Operator], Record]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": pool(AVERAGE_POOL),
    "MAX_POOL_2D": pool(MAX_POOL),
    "ADD": _combine(ADD),
    "SUB": _combine(SUB),
    "MUL": _combine(MUL),
    "MEAN": _mean,
    "SOFTMAX": _softmax,
    **{name: _function(name) for name in FUNCTIONS},
}

RULES_F32: dict[tuple[str, str], Rule] = {(name, "FLOAT32"): single(record) for name, record in _RECORDERS.items()}
