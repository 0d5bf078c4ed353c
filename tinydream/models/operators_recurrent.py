"""Rules of operators that remember: SVDF and LSTM on int8 activations, with an int16 state.

What a state holds is planned like an activation that lives from the first run on.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .fixedpoint import quantize_multiplier
from .graph import Operator, Tensor
from .model import Int8Array
from .operators import LSTM, SVDF, CheckedGraph, Record, Rule, channel_rows

__all__ = ["RULES_RECURRENT"]

_GATES = ("input", "forget", "cell", "output")


def _state(checked: CheckedGraph, operator: Operator, position: int, dtype: str, size: int) -> Tensor:
    """An input that the operator also writes; it persists from run to run."""
    tensor = checked.activation(checked.tensor(operator, position))
    if tensor.dtype != dtype or tensor.size != size or not tensor.variable:
        raise checked.refuse(operator, f"its input {position} must be a variable of {size} {dtype} values")
    return tensor


def _constant(checked: CheckedGraph, operator: Operator, position: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
    tensor = checked.tensor(operator, position)
    itemsize = {"INT8": 1, "INT16": 2, "INT32": 4}[dtype]
    if tensor.dtype != dtype or tensor.data is None or tensor.sparse:
        raise checked.refuse(operator, f"its input {position} must be constant {dtype} values, not {tensor.dtype}")
    if tensor.shape != shape or len(tensor.data) != itemsize * tensor.size:
        raise checked.damaged(operator, f"its input {position} has the shape {tensor.shape}, not {shape}")
    if dtype != "INT32" and (len(tensor.scales) != 1 or tensor.zero_points.any()):
        raise checked.refuse(operator, f"its input {position} needs one scale and the zero point 0")
    return tensor


def _values(tensor: Tensor, kind: str) -> npt.NDArray[np.int64]:
    return np.frombuffer(tensor.data or b"", kind).astype(np.int64).reshape(tensor.shape)


def _multiplier(checked: CheckedGraph, operator: Operator, real: float) -> tuple[int, int]:
    if not 0 < real <= 1 << 14:
        raise checked.refuse(operator, "the scales of its tensors differ too much")
    return quantize_multiplier(real)


def _scale(tensor: Tensor) -> np.float32:
    return np.float32(tensor.scales[0])


def _svdf(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view, out_view = checked.view(operator, source), checked.view(operator, output)
    rank, n_in, n_out = int(operator.options["Rank"]), view[2], out_view[2]
    if view[:2] != (1, 1) or out_view[:2] != (1, 1) or rank < 1:
        raise checked.refuse(operator, "it must map one vector to one vector")
    filters, memory = n_out * rank, checked.tensor(operator, 2).shape[-1:] or (0,)
    features = _constant(checked, operator, 1, "INT8", (filters, n_in))
    time = _constant(checked, operator, 2, "INT16", (filters, *memory))
    state = _state(checked, operator, 4, "INT16", filters * memory[0])
    if int(operator.options["FusedActivationFunction"]) not in (0, 1):
        raise checked.refuse(operator, "its fused activation is neither NONE nor RELU")
    biases = np.zeros(n_out, np.int64)
    if operator.inputs[3] >= 0:
        biases = _values(_constant(checked, operator, 3, "INT32", (n_out,)), "<i4")
    # The reference multiplies and divides in single precision.
    first = float(_scale(source) * _scale(features) / _scale(state))
    second = float(_scale(state) * _scale(time) / _scale(output))
    multipliers = [_multiplier(checked, operator, real) for real in (first, *[second] * n_out)]
    weights = (features.data or b"") + bytes(features.size % 2) + (time.data or b"")
    return [
        Record(
            kind=SVDF,
            inputs=(source.index, state.index),
            output=output.index,
            views=((1, 1, n_in), (1, filters, memory[0]), (1, 1, n_out)),
            weights=np.frombuffer(weights, np.int8),
            channels=channel_rows([0, *biases], multipliers),
            states=(state.index,),
            macs=filters * (n_in + memory[0]),
        )
    ]


def _lstm(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view, out_view = checked.view(operator, source), checked.view(operator, output)
    (_, steps, n_in), n = view, out_view[2]
    if bool(operator.options["TimeMajor"]):
        raise checked.refuse(operator, "its first dimension is time; convert it with time_major=False")
    if view[0] != 1 or out_view[:2] != (1, steps):
        raise checked.damaged(operator, "input and output differ in their time steps")
    present = [i for i in (*range(9, 12), *range(16, 18), *range(20, 24)) if _present(operator, i)]
    if present or not _present(operator, 1):
        raise checked.refuse(operator, "peepholes, projections, layer normalisation and coupled gates are not "
                             "supported; use the LSTM layer of Keras")  # fmt: skip
    last, cells = _state(checked, operator, 18, "INT8", n), _state(checked, operator, 19, "INT16", n)
    mantissa, exponent = math.frexp(float(cells.scales[0]))
    fraction = 1 - exponent
    if mantissa != 0.5 or not 9 <= fraction <= 15:
        raise checked.refuse(operator, "the scale of its cell state must be a power of two from 2^-15 to 2^-9")
    if (last.scales[0], last.zero_points[0]) != (output.scales[0], output.zero_points[0]):
        raise checked.refuse(operator, "its output and its output state differ in scale")
    weights, biases, multipliers = _gates(checked, operator, n_in, n, last)
    hidden_scale, hidden_zero_point = _hidden(checked, operator)
    if hidden_zero_point != output.zero_points[0]:
        raise checked.refuse(operator, "its hidden state and its output differ in their zero points")
    multipliers.append(_multiplier(checked, operator, 2.0**-15 / hidden_scale * 2.0**-15))
    limit = min(float(operator.options["CellClip"]) / float(cells.scales[0]), 32767)
    if not limit >= 0:
        raise checked.damaged(operator, f"it clips its cells at {operator.options['CellClip']}")
    tail = np.int8(fraction).tobytes() + int(limit).to_bytes(2, "little")
    return [
        Record(
            kind=LSTM,
            inputs=(source.index, cells.index),
            output=output.index,
            views=((1, steps, n_in), (1, 1, n), (1, steps, n)),
            weights=weights,
            channels=channel_rows(biases, []) + channel_rows([], multipliers) + tail,
            states=(cells.index, last.index),
            macs=4 * steps * n * (n_in + n),
        )
    ]


def _present(operator: Operator, position: int) -> bool:
    return position < len(operator.inputs) and operator.inputs[position] >= 0


def _hidden(checked: CheckedGraph, operator: Operator) -> tuple[float, int]:
    """Scale and zero point of what a step gives, from the fifth of the operator's intermediate tensors."""
    if len(operator.intermediates) != 5 or operator.intermediates[4] < 0:
        raise checked.refuse(operator, "it is not quantised to 8-bit activations with a 16-bit cell state")
    hidden = checked.graph.tensors[operator.intermediates[4]]
    if len(hidden.scales) != 1 or len(hidden.zero_points) != 1 or not 0 < hidden.scales[0] < math.inf:
        raise checked.damaged(operator, "its hidden state has no scale")
    return float(hidden.scales[0]), int(hidden.zero_points[0])


def _gates(
    checked: CheckedGraph, operator: Operator, n_in: int, n: int, last: Tensor
) -> tuple[Int8Array, npt.NDArray[np.int64], list[tuple[int, int]]]:
    """Weights, biases and multipliers of the sums over the inputs and over the last outputs, gate by gate."""
    source, weights, biases, multipliers = checked.tensor(operator, 0), b"", [], []
    for i in range(len(_GATES)):
        bias = np.zeros(n, np.int64)
        if _present(operator, 12 + i):
            bias = _values(_constant(checked, operator, 12 + i, "INT32", (n,)), "<i4")
        for position, values, width, extra in ((1 + i, source, n_in, bias), (5 + i, last, n, 0)):
            tensor = _constant(checked, operator, position, "INT8", (n, width))
            weights += tensor.data or b""
            biases.append(extra - int(values.zero_points[0]) * _values(tensor, "i1").sum(axis=1))
            # Gates are in steps of 2^-12. The product of the scales is in single precision, as in the reference.
            real = float(_scale(tensor) * _scale(values) / np.float32(2.0**-12))
            multipliers.append(_multiplier(checked, operator, real))
    return np.frombuffer(weights, np.int8), np.concatenate(biases), multipliers


RULES_RECURRENT: dict[tuple[str, str], Rule] = {
    ("SVDF", "INT8"): _svdf,
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", "INT8"): _lstm,
}
