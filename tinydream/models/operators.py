"""One rule for each operator: how it becomes records of a .tdm, or why it cannot.

Everything that a board would have to work out (multipliers, folded biases, padding) is worked out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError, UnsupportedModelError
from . import fixedpoint
from .fixedpoint import quantize_multiplier
from .graph import Graph, Operator, Tensor
from .model import DTYPES, Int8Array, integer_range

__all__ = [
    "ACTIVATIONS",
    "ADD",
    "AVERAGE_POOL",
    "CONV",
    "CONVERSIONS",
    "COPY",
    "DENSE",
    "DEPTHWISE",
    "FILL",
    "LOGISTIC",
    "LSTM",
    "MAX_POOL",
    "MEAN",
    "MUL",
    "RESCALE",
    "RULES",
    "SOFTMAX",
    "SUB",
    "SVDF",
    "TABLE",
    "TANH",
    "TO_INT8",
    "VIEWS",
    "CheckedGraph",
    "Record",
    "Recorder",
    "Rule",
    "channel_rows",
    "combination",
    "conv_window",
    "dense_window",
    "depthwise_window",
    "mean_window",
    "pool",
    "ratios",
    "single",
]

# enum td_op_kind
CONV, DEPTHWISE, AVERAGE_POOL, MAX_POOL, ADD, MEAN, DENSE, TABLE, SOFTMAX = range(1, 10)
SUB, MUL, COPY, FILL, RESCALE, LOGISTIC, TANH, SVDF, LSTM, CONVERT = range(10, 20)
_SOFTMAX_CHANNELS = 4095  # TD_SOFTMAX_CHANNELS in kernels.h
RECORD_BYTES = 28
_SAME = 0  # the schema's Padding.SAME

# Kernels that read all that a value depends on before they write it, and never read its place again.
_IN_PLACE = frozenset({ADD, SUB, MUL, TABLE, SOFTMAX, RESCALE, LOGISTIC, TANH})

# Operators that only rename the shape: their output is their first input.
VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})

TO_INT8 = (
    "Convert with a representative dataset, TFLITE_BUILTINS_INT8, and inference_input_type = inference_output_type = "
    "tf.int8"
)

# Activations that may be fused into an operator, in the order of enum td_activation, and what they keep of a value.
RANGES = {"NONE": (-math.inf, math.inf), "RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}


@dataclass
class Record:
    """What becomes an operator record of the .tdm."""

    kind: int
    inputs: tuple[int, ...]  # tensor indices of the .tflite
    output: int
    views: tuple[tuple[int, int, int], ...]  # (h, w, c) of the inputs, then of the output
    taps: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    clamp: tuple[int, int] | None = None  # None: the whole range of the output's type
    activation: int = 0  # of float32: enum td_activation
    weights: Int8Array | None = None
    channels: bytes = b""  # channel rows, as the .tdm has them
    states: tuple[int, ...] = ()  # tensors that keep their values from run to run; the first is the second input
    macs: int = 0

    def lengthwise(self) -> Record:
        """The same work with a time axis of width 1 laid along the width, where the kernels have long inner loops."""
        if any(w != 1 for _, w, _ in self.views) or self.taps[1] != 1 or self.pad[1] != 0:
            return self
        turned = {name: getattr(self, name)[::-1] for name in ("taps", "stride", "dilation", "pad")}
        return replace(self, views=tuple((1, h, c) for h, _, c in self.views), **turned)

    @property
    def replaceable(self) -> tuple[int, ...]:
        """The inputs that the output may overwrite, where nothing else needs them afterwards."""
        if self.kind not in _IN_PLACE:
            return ()
        return tuple(i for i, view in zip(self.inputs, self.views, strict=False) if view == self.views[-1])

    @property
    def flash(self) -> int:
        """Bytes in the .tdm."""
        weights = 0 if self.weights is None else self.weights.size
        return RECORD_BYTES + weights + len(self.channels)


def channel_rows(biases: npt.ArrayLike, multipliers: Sequence[tuple[int, int]], bias: str = "<i4") -> bytes:
    """Biases (modulo their type), then multipliers, then shifts: how every integer kernel takes them."""
    values, shifts = np.array(multipliers, np.int64).reshape(-1, 2).T
    wrapped = np.asarray(biases, np.int64).astype("<i8").view("<u8").astype(bias.replace("i", "u"))
    return wrapped.tobytes() + values.astype("<i4").tobytes() + shifts.astype(np.int8).tobytes()


class CheckedGraph:
    """A graph that answers operator by operator, and refuses what no kernel could run."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise UnsupportedModelError(
                f"the model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
                "exactly one of each is supported. Convert a model with one input and one output"
            )
        self.producer: dict[int, Operator] = {}
        for operator in graph.operators:
            for index in operator.outputs:
                if index in self.producer or index in graph.inputs:
                    raise FormatError(f"tensor {index} is written twice; the .tflite is damaged")
                self.producer[index] = operator
        for operator in graph.operators:
            later = [i for i in operator.inputs if i in self.producer and self.producer[i].index >= operator.index]
            if later:  # a cycle would never end
                raise self.damaged(operator, f"it reads tensor {later[0]}, which is written later")

    def where(self, operator: Operator) -> str:
        """Which operator, for a message."""
        return f"operator {operator.index} ({operator.name}, {self.graph.shapes_of(operator)})"

    def refuse(self, operator: Operator, why: str) -> UnsupportedModelError:
        """The error for what is valid but not supported."""
        return UnsupportedModelError(f"{self.where(operator)}: {why}")

    def damaged(self, operator: Operator, why: str) -> FormatError:
        """The error for what no converter writes."""
        return FormatError(f"{self.where(operator)}: {why}; the .tflite is damaged")

    def tensor(self, operator: Operator, position: int) -> Tensor:
        """Input number `position`, which must be there."""
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            raise self.damaged(operator, f"input {position} is missing")
        return self.graph.tensors[operator.inputs[position]]

    def output(self, operator: Operator) -> Tensor:
        """The only output."""
        if len(operator.outputs) != 1:
            raise self.damaged(operator, f"{len(operator.outputs)} outputs instead of one")
        return self.graph.tensors[operator.outputs[0]]

    def activation(self, tensor: Tensor) -> Tensor:
        """The same tensor, once its type is known to be one of DTYPES, with one scale, and its shape to be fixed."""
        where = f"tensor {tensor.index} ({tensor.name})"
        if tensor.dtype not in DTYPES:
            raise UnsupportedModelError(f"{where} is {tensor.dtype}; supported are {', '.join(DTYPES)}. {TO_INT8}")
        if any(n <= 0 for n in tensor.shape) or any(n < 0 for n in tensor.signature[1:]):
            raise UnsupportedModelError(
                f"{where} has the dynamic shape {tensor.signature}; convert the model with a fixed input shape"
            )
        if tensor.dtype == "FLOAT32":
            return tensor
        if len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
            raise UnsupportedModelError(f"{where} needs one scale and one zero point, has {len(tensor.scales)}")
        scale, zero_point = float(tensor.scales[0]), int(tensor.zero_points[0])
        lowest, highest = integer_range(DTYPES[tensor.dtype])
        if not (0 < scale < math.inf) or not lowest <= zero_point <= highest:
            raise FormatError(f"{where}: scale {scale} and zero point {zero_point} are out of range")
        if tensor.dtype == "INT16" and zero_point != 0:
            raise UnsupportedModelError(f"{where}: int16 values need the zero point 0, not {zero_point}")
        return tensor

    def fixed_output(self, operator: Operator, scale: float, zero_point: int) -> None:
        """Refuses another output scale than the one that the reference takes."""
        output = self.output(operator)
        if abs(float(output.scales[0]) / scale - 1) > 1e-3 or output.zero_points[0] != zero_point:
            raise self.refuse(operator, f"its output must have the scale {scale} and the zero point {zero_point}")

    def same_type(self, operator: Operator, *tensors: Tensor) -> None:
        """Refuses an operator that mixes types."""
        if len({tensor.dtype for tensor in tensors}) > 1:
            raise self.refuse(operator, f"it mixes {' and '.join(tensor.dtype for tensor in tensors)}")

    def view(self, operator: Operator, tensor: Tensor) -> tuple[int, int, int]:
        """An activation as height, width, channels; the batch must be 1."""
        self.activation(tensor)
        shape = (1,) * (4 - len(tensor.shape)) + tensor.shape
        if len(shape) != 4 or shape[0] != 1:
            raise self.refuse(operator, f"shape {tensor.shape} is not one sample of at most 3 dimensions")
        if max(shape) > 0xFFFF:
            raise self.refuse(operator, f"shape {tensor.shape} has a dimension above 65535")
        return shape[1], shape[2], shape[3]

    def steps(self, tensor: Tensor, value: float) -> int:
        """A real value as the tensor's integer, halves away from zero; what lies far outside stays outside int8."""
        steps = float(np.float32(value) / np.float32(tensor.scales[0]))
        steps = max(-1e6, min(steps, 1e6))
        return int(tensor.zero_points[0]) + int(math.copysign(math.floor(abs(steps) + 0.5), steps))

    def fused(self, operator: Operator) -> int:
        """The fused activation: one of RANGES."""
        name = ACTIVATIONS.get(int(operator.options["FusedActivationFunction"]), "unknown")
        if name not in RANGES:
            raise self.refuse(operator, f"the fused activation {name} is not supported; use NONE, RELU or RELU6")
        return list(RANGES).index(name)

    def clamp(self, operator: Operator, output: Tensor) -> tuple[int, int] | None:
        """Output range of the fused activation, for integers."""
        if output.dtype == "FLOAT32":
            return None
        low, high = (self.steps(output, limit) for limit in list(RANGES.values())[self.fused(operator)])
        lowest, highest = integer_range(DTYPES[output.dtype])
        return max(lowest, min(low, highest)), max(lowest, min(high, highest))

    def weights(self, operator: Operator, axis: int) -> tuple[Int8Array, npt.NDArray[np.float32]]:
        """int8 weights and one scale for each output channel, which `axis` counts."""
        tensor = self.tensor(operator, 1)
        if tensor.dtype != "INT8":
            raise self.refuse(operator, f"its weights are {tensor.dtype}; only int8 weights are supported")
        if tensor.data is None or tensor.sparse:
            raise self.refuse(operator, "its weights are not constant and dense")
        if any(n <= 0 for n in tensor.shape) or len(tensor.data) != tensor.size:
            raise self.damaged(operator, f"{len(tensor.data)} bytes of weights for shape {tensor.shape}")
        n = tensor.shape[axis]
        if len(tensor.scales) not in (1, n) or (len(tensor.scales) > 1 and tensor.axis != axis):
            raise self.refuse(operator, f"{len(tensor.scales)} weight scales for {n} output channels")
        if not np.isfinite(tensor.scales).all() or (tensor.scales < 0).any() or tensor.zero_points.any():
            raise self.refuse(operator, "its weights are not symmetric (zero point 0, finite scales)")
        weights = np.frombuffer(tensor.data, np.int8).reshape(tensor.shape)
        return weights, np.broadcast_to(tensor.scales, (n,))

    def biases(self, operator: Operator, n: int) -> npt.NDArray[np.int64]:
        """n int32 biases (int64 where activations are int16), zeros where there are none."""
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return np.zeros(n, np.int64)
        tensor, wanted = self.tensor(operator, 2), "INT64" if self.output(operator).dtype == "INT16" else "INT32"
        kind = np.dtype(f"<{'i8' if wanted == 'INT64' else 'i4'}")
        if tensor.dtype != wanted or tensor.data is None or len(tensor.data) != kind.itemsize * n:
            raise self.refuse(operator, f"its bias must be {n} constant {kind.name} values, not {tensor.dtype}")
        return np.frombuffer(tensor.data, kind).astype(np.int64)

    def through_views(self, index: int) -> int:
        """The tensor that a chain of reshapes ending in `index` starts from."""
        while index in self.producer and self.producer[index].name in VIEWS:
            index = self.tensor(self.producer[index], 0).index
        return index

    def is_constant(self, tensor: int) -> bool:
        """Its values, or those that it is another shape of, come with the file."""
        root = self.through_views(tensor)
        return root not in self.producer and self.graph.tensors[root].data is not None and root not in self.graph.inputs

    def any_view(self, tensor: Tensor) -> tuple[int, int, int]:
        """Any shape of three dimensions that holds the tensor; its own where it has one."""
        self.activation(tensor)
        shape = (1,) * (4 - len(tensor.shape)) + tensor.shape
        if len(shape) == 4 and shape[0] == 1 and max(shape) <= 0xFFFF:
            return shape[1], shape[2], shape[3]
        rows = next(n for n in range(1, tensor.size + 1) if tensor.size % n == 0 and tensor.size // n <= 0xFFFF)
        if rows > 0xFFFF:
            raise UnsupportedModelError(f"tensor {tensor.index} ({tensor.name}) is too large: {tensor.size} values")
        return 1, rows, tensor.size // rows

    def integers(self, operator: Operator, position: int) -> list[int]:
        """Input number `position` as constant int32 values."""
        tensor = self.tensor(operator, position)
        if tensor.data is None or tensor.dtype != "INT32" or len(tensor.data) != 4 * tensor.size:
            raise self.refuse(operator, f"its input {position} must be constant int32 values")
        return [int(value) for value in np.frombuffer(tensor.data, "<i4")]

    def same_scale(self, operator: Operator, source: Tensor, output: Tensor) -> None:
        """Refuses an operator that would have to rescale, or to convert."""
        self.same_type(operator, source, output)
        if source.dtype == "FLOAT32":
            return
        if source.scales[0] != output.scales[0] or source.zero_points[0] != output.zero_points[0]:
            raise self.refuse(operator, "it changes the scale")

    def check_view(self, operator: Operator) -> None:
        """Refuses a reshape that changes the values."""
        source, output = self.activation(self.tensor(operator, 0)), self.activation(self.output(operator))
        if source.size != output.size:
            raise self.damaged(operator, "the shapes hold different numbers of values")
        self.same_scale(operator, source, output)


# ------------------------------------------------- one function for each operator


Recorder = Callable[[CheckedGraph, Operator], Record]
Rule = Callable[[CheckedGraph, Operator], list[Record]]


def _window(checked: CheckedGraph, operator: Operator, taps: tuple[int, int]) -> dict[str, Any]:
    """Strides, dilations, padding and the fused activation's range, checked against the output's shape."""
    options = operator.options
    source, output = checked.tensor(operator, 0), checked.output(operator)
    h, w, _ = checked.view(operator, source)
    out_h, out_w, _ = checked.view(operator, output)
    stride = int(options["StrideH"]), int(options["StrideW"])
    dilation = int(options.get("DilationHFactor", 1)), int(options.get("DilationWFactor", 1))
    if not all(1 <= n <= 255 for n in (*stride, *dilation)) or not all(1 <= n <= 0xFFFF for n in taps):
        raise checked.refuse(operator, f"kernel {taps}, stride {stride} or dilation {dilation} is out of range")
    pad = []
    for size, out, n, step, gap in zip((h, w), (out_h, out_w), taps, stride, dilation, strict=True):
        reach = (n - 1) * gap + 1
        expected = -(-size // step) if int(options["Padding"]) == _SAME else -(-(size - reach + 1) // step)
        if out != expected:
            raise checked.damaged(operator, f"its output should measure {expected}, not {out}")
        pad.append(max((out - 1) * step + reach - size, 0) // 2)
    if max(pad) > 0xFFFF:
        raise checked.refuse(operator, f"padding {pad} is out of range")
    return {
        "inputs": (source.index,),
        "output": output.index,
        "views": ((h, w, checked.view(operator, source)[2]), checked.view(operator, output)),
        "taps": taps,
        "stride": stride,
        "dilation": dilation,
        "pad": (pad[0], pad[1]),
        "clamp": checked.clamp(operator, output),
        "activation": checked.fused(operator),
    }


def _scaled(checked: CheckedGraph, operator: Operator, real: Sequence[float]) -> list[tuple[int, int]]:
    multipliers = [quantize_multiplier(value) for value in real]
    if any(shift > 30 for _, shift in multipliers):
        raise checked.refuse(operator, "the scales of its tensors differ by more than 2^30")
    return multipliers


def _channel_scales(source: Tensor, scales: npt.NDArray[np.float32], output: Tensor) -> list[float]:
    return [float(source.scales[0]) * float(scale) / float(output.scales[0]) for scale in scales]


def _layer_rows(checked: CheckedGraph, operator: Operator, weights: Int8Array, real: Sequence[float]) -> bytes:
    """The channel rows of a layer whose weights have the output channels first.

    Biases are less what the input's zero point adds. With int16 activations multipliers have 16 bits, but 32 in dense
    layers, and biases 64.
    """
    source, output = checked.tensor(operator, 0), checked.output(operator)
    biases, multipliers = checked.biases(operator, len(weights)), _scaled(checked, operator, real)
    if output.dtype == "INT16":
        if any(shift > 14 for _, shift in multipliers):
            raise checked.refuse(operator, "its output scale is too small for its inputs")
        if operator.name != "FULLY_CONNECTED":
            multipliers = [(fixedpoint.narrow(multiplier), shift) for multiplier, shift in multipliers]
        return channel_rows(biases, multipliers, "<i8")
    sums = weights.reshape(len(weights), -1).sum(axis=1, dtype=np.int64)
    return channel_rows(biases - int(source.zero_points[0]) * sums, multipliers)


def conv_window(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    """What the Record of a CONV_2D of any type says, but for its values."""
    shape = checked.tensor(operator, 1).shape
    if len(shape) != 4:
        raise checked.damaged(operator, f"weights of {len(shape)} dimensions")
    window = _window(checked, operator, (shape[1], shape[2]))
    (_, _, depth), (out_h, out_w, n) = window["views"]
    if shape[3] != depth:
        raise checked.refuse(operator, "a grouped convolution is not supported; use DEPTHWISE_CONV_2D and 1x1 CONV_2D")
    if shape[0] != n:
        raise checked.damaged(operator, f"{shape[0]} filters for {n} output channels")
    return {"kind": CONV, **window, "macs": out_h * out_w * math.prod(shape)}


def _conv(checked: CheckedGraph, operator: Operator) -> Record:
    weights, scales = checked.weights(operator, 0)
    window = conv_window(checked, operator)
    source, output = checked.tensor(operator, 0), checked.output(operator)
    return Record(
        **window,
        weights=weights,
        channels=_layer_rows(checked, operator, weights, _channel_scales(source, scales, output)),
    )


def depthwise_window(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    """What the Record of a DEPTHWISE_CONV_2D of any type says, but for its values."""
    shape = checked.tensor(operator, 1).shape
    if len(shape) != 4 or shape[0] != 1:
        raise checked.damaged(operator, f"weights of shape {shape}")
    window = _window(checked, operator, (shape[1], shape[2]))
    (_, _, depth), (out_h, out_w, n) = window["views"]
    if shape[3] != n or n % depth != 0:
        raise checked.damaged(operator, f"{shape[3]} filters from {depth} to {n} channels")
    return {"kind": DEPTHWISE, **window, "macs": out_h * out_w * math.prod(shape)}


def _depthwise(checked: CheckedGraph, operator: Operator) -> Record:
    weights, scales = checked.weights(operator, 3)
    window = depthwise_window(checked, operator)
    source, output = checked.tensor(operator, 0), checked.output(operator)
    by_channel = np.ascontiguousarray(weights[0].transpose(2, 0, 1))
    return Record(
        **window,
        weights=by_channel,
        channels=_layer_rows(checked, operator, by_channel, _channel_scales(source, scales, output)),
    )


def dense_window(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    """What the Record of a FULLY_CONNECTED of any type says, but for its values.

    A dense layer is a 1x1 convolution whose positions are the rows of its input (but it rounds differently).
    """
    if operator.options["WeightsFormat"] != 0:
        raise checked.refuse(operator, "its weights are in a shuffled format")
    shape = checked.tensor(operator, 1).shape
    source, output = checked.activation(checked.tensor(operator, 0)), checked.activation(checked.output(operator))
    if len(shape) != 2 or source.size % shape[1] != 0:
        raise checked.damaged(operator, f"weights of shape {shape} for {source.size} inputs")
    n, depth = shape
    rows = source.size // depth
    if output.size != rows * n:
        raise checked.damaged(operator, f"{output.size} outputs instead of {rows * n}")
    if max(rows, n, depth) > 0xFFFF:
        raise checked.refuse(operator, "it has more than 65535 rows, inputs or outputs")
    return {
        "kind": DENSE,
        "inputs": (source.index,),
        "output": output.index,
        "views": ((1, rows, depth), (1, rows, n)),
        "clamp": checked.clamp(operator, output),
        "activation": checked.fused(operator),
        "macs": rows * n * depth,
    }


def _fully_connected(checked: CheckedGraph, operator: Operator) -> Record:
    weights, scales = checked.weights(operator, 0)
    window = dense_window(checked, operator)
    source, output = checked.tensor(operator, 0), checked.output(operator)
    real = _channel_scales(source, scales, output)
    if len(checked.tensor(operator, 1).scales) == 1:  # then the reference multiplies in single precision
        real = [float(source.scales[0] * scales[0]) / float(output.scales[0])] * len(weights)
    return Record(
        **window,
        weights=weights,
        channels=_layer_rows(checked, operator, weights, real),
    )


def pool(kind: int) -> Recorder:
    """AVERAGE_POOL_2D or MAX_POOL_2D of any type."""

    def record(checked: CheckedGraph, operator: Operator) -> Record:
        options = operator.options
        window = _window(checked, operator, (int(options["FilterHeight"]), int(options["FilterWidth"])))
        source, output = checked.tensor(operator, 0), checked.output(operator)
        if window["views"][0][2] != window["views"][1][2]:
            raise checked.damaged(operator, "input and output differ in channels")
        checked.same_scale(operator, source, output)
        return Record(kind=kind, **window)

    return record


def combination(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    """What the Record of an operator of two inputs of any type says, but for its kind and its scales."""
    a, b, output = checked.tensor(operator, 0), checked.tensor(operator, 1), checked.output(operator)
    checked.same_type(operator, a, b, output)
    views = tuple(checked.view(operator, tensor) for tensor in (a, b, output))
    if any(n != max(m) or min(m) not in (1, n) for *m, n in zip(*views, strict=True)):
        raise checked.damaged(operator, "its shapes do not go together")
    return {
        "inputs": (a.index, b.index),
        "output": output.index,
        "views": views,
        "clamp": checked.clamp(operator, output),
        "activation": checked.fused(operator),
    }


def _powers_of_two(
    checked: CheckedGraph, operator: Operator, a: Tensor, b: Tensor, output: Tensor
) -> list[tuple[int, int]] | None:
    """The reference's own way with int16 sums when all scales are powers of two; None otherwise.

    One input has the output's scale and stays as it is, the other is shifted to the right. In our terms: a value is
    lifted by 15, and half of it is shifted by 14 more, which drops only zeros.
    """
    mantissas, exponents = np.frexp([tensor.scales[0] for tensor in (a, b, output)])
    if any(mantissas != 0.5) or not operator.options["PotScaleInt16"]:
        return None
    right = [int(exponents[2] - exponents[i]) for i in (0, 1)]
    if max(right) > 16 or min(right) < 0 or 0 not in right:
        raise checked.refuse(operator, "with scales that are powers of two, one input needs the output's and the other "
                             "a smaller one")  # fmt: skip
    if operator.name == "ADD" and a.shape != b.shape:
        raise checked.refuse(operator, "with scales that are powers of two, its inputs must have one shape")
    return [*((1 << 30, -14 - n) for n in right), (1 << 30, 1)]


def _combine(kind: int) -> Recorder:
    """ADD, SUB and MUL, of two activations or an activation and a constant, with broadcasting."""

    def record(checked: CheckedGraph, operator: Operator) -> Record:
        a, b, output = checked.tensor(operator, 0), checked.tensor(operator, 1), checked.output(operator)
        common = combination(checked, operator)
        scale_a, scale_b, scale = (float(tensor.scales[0]) for tensor in (a, b, output))
        widest, lift = 2 * max(scale_a, scale_b), 15 if output.dtype == "INT16" else 20
        real = [scale_a / widest, scale_b / widest, widest / (2**lift * scale)]
        if kind == MUL:
            real = [0.0, 0.0, float(a.scales[0] * b.scales[0] / output.scales[0])]  # in single precision
        if real[2] > (1 << 14 if kind == MUL else 1):
            raise checked.refuse(operator, "its output scale is too small for its inputs")
        multipliers = _scaled(checked, operator, real)
        if output.dtype == "INT16" and kind != MUL:
            multipliers = _powers_of_two(checked, operator, a, b, output) or multipliers
        rows = channel_rows([-int(a.zero_points[0]), -int(b.zero_points[0]), 0], multipliers)
        return Record(kind=kind, **common, channels=rows)

    return record


def mean_window(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    """What the Record of a MEAN over axes that lie side by side says in any type, but for its scales.

    The input is seen as rows x values x channels, of which the values are reduced.
    """
    source, output = checked.activation(checked.tensor(operator, 0)), checked.activation(checked.output(operator))
    rank = len(source.shape)
    reduced = {_axis(checked, operator, axis, rank) for axis in checked.integers(operator, 1)}
    long = [i for i in range(rank) if i in reduced and source.shape[i] > 1]
    first, end = (long[0], long[-1] + 1) if long else (rank, rank)
    if any(i not in reduced and source.shape[i] > 1 for i in range(first, end)):
        raise checked.refuse(operator, f"the mean over axes {sorted(reduced)}, which do not lie side by side, is not "
                             "supported; transpose the input before it")  # fmt: skip
    rows, n, channels = (
        math.prod(shape) for shape in (source.shape[:first], source.shape[first:end], source.shape[end:])
    )
    if output.size != rows * channels:
        raise checked.damaged(operator, f"its output should hold {rows * channels} values")
    if n == 1:
        rows, channels = 1, rows * channels
    if max(rows, n, channels) > 0xFFFF:
        raise checked.refuse(operator, f"the mean over {rows} x {n} x {channels} values has a dimension above 65535")
    views = (rows, n, channels), (rows, 1, channels)
    if rank == 4 and reduced == {1, 2}:  # as the other operators see them: one tensor record less
        views = checked.view(operator, source), (1, 1, channels)
    return {
        "kind": MEAN,
        "inputs": (source.index,),
        "output": output.index,
        "views": views,
    }


def _mean(checked: CheckedGraph, operator: Operator) -> Record:
    """The reference folds the division into the multiplier, cut off, not rounded."""
    common = mean_window(checked, operator)
    source, output = checked.tensor(operator, 0), checked.output(operator)
    n = source.size // output.size
    multiplier, shift = quantize_multiplier(float(source.scales[0]) / float(output.scales[0]))
    lift = min(n.bit_length() - 1, 32, 31 + shift)
    if lift < 0 or shift > 30:
        raise checked.refuse(operator, "the scales of its tensors differ too much")
    return Record(
        **common,
        channels=channel_rows([-int(source.zero_points[0]) * n], [((multiplier << lift) // n, shift - lift)]),
    )


def _unary(results: Callable[[CheckedGraph, Operator, npt.NDArray[np.int64]], npt.NDArray[np.int64]]) -> Recorder:
    """An operator of one input as the table of its 256 results, which are clamped to int8."""

    def record(checked: CheckedGraph, operator: Operator) -> Record:
        source, output = checked.tensor(operator, 0), checked.output(operator)
        view = checked.view(operator, source)
        if checked.view(operator, output) != view:
            raise checked.damaged(operator, "input and output differ in shape")
        x = np.arange(-128, 128, dtype=np.int64) - int(source.zero_points[0])
        table = np.clip(results(checked, operator, x), -128, 127).astype(np.int8)
        return Record(kind=TABLE, inputs=(source.index,), output=output.index, views=(view, view), weights=table)

    return record


def ratios(checked: CheckedGraph, operator: Operator, slope: float = 1.0) -> tuple[float, float]:
    """Input scale over output scale: for values from zero on, and for those below, which the slope multiplies.

    The reference divides in single precision, but in double for QUANTIZE: int16 values show the difference.
    """
    a, b = checked.tensor(operator, 0).scales[0], checked.output(operator).scales[0]
    with np.errstate(over="ignore"):
        positive, negative = float(a / b), float(a * np.float32(slope) / b)
    if operator.name == "QUANTIZE":
        positive = negative = float(a) / float(b)
    if not (0 <= positive <= 1 << 14 and 0 <= negative <= 1 << 14):
        raise checked.refuse(operator, f"the scales of its tensors differ by more than 2^14, or its slope {slope} is "
                             "negative")  # fmt: skip
    return positive, negative


def _rescaled(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    multiplier, shift = quantize_multiplier(ratios(checked, operator)[0])
    return fixedpoint.rescale(x, multiplier, shift) + int(checked.output(operator).zero_points[0])


def _rectified(low: float, high: float) -> Callable[..., npt.NDArray[np.int64]]:
    def results(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        output = checked.output(operator)
        limits = [checked.steps(output, limit) for limit in (low, high)]
        # One after the other, upper limit last: a zero point may lie outside the limits' order.
        return np.minimum(np.maximum(_rescaled(checked, operator, x), max(limits[0], -128)), min(limits[1], 127))

    return results


def _logistic(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    checked.fixed_output(operator, 1 / 256, -128)
    return fixedpoint.logistic(x, float(checked.tensor(operator, 0).scales[0]))


def _tanh(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    checked.fixed_output(operator, 1 / 128, 0)
    return fixedpoint.tanh(x, float(checked.tensor(operator, 0).scales[0]))


def _leaky_relu(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    identity, slope = ratios(checked, operator, float(operator.options["Alpha"]))
    return fixedpoint.leaky_relu(x, identity, slope) + int(checked.output(operator).zero_points[0])


def _hard_swish(checked: CheckedGraph, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    values = fixedpoint.hard_swish(x, np.float32(source.scales[0]), np.float32(output.scales[0]))
    if values is None:
        raise checked.refuse(operator, "the scales of its tensors differ too much")
    return values + int(output.zero_points[0])


def _softmax(checked: CheckedGraph, operator: Operator) -> Record:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view = checked.view(operator, source)
    if checked.view(operator, output) != view:
        raise checked.damaged(operator, "input and output differ in shape")
    checked.fixed_output(operator, 1 / 256, -128)
    beta = float(operator.options["Beta"])
    if not 0 < beta < 1e6 or float(source.scales[0]) * beta < 2**-26 or view[2] > _SOFTMAX_CHANNELS:
        raise checked.refuse(operator, f"beta {beta}, the input's scale or {view[2]} channels are out of range")
    terms = fixedpoint.softmax_terms(float(source.scales[0]), beta).astype("<i4")
    return Record(
        kind=SOFTMAX,
        inputs=(source.index,),
        output=output.index,
        views=(view, view),
        weights=np.frombuffer(terms.tobytes(), np.int8),
    )


_INT8: dict[str, Recorder] = {
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
    "RELU": _unary(_rectified(0, math.inf)),
    "RELU6": _unary(_rectified(0, 6)),
    "LEAKY_RELU": _unary(_leaky_relu),
    "LOGISTIC": _unary(_logistic),
    "TANH": _unary(_tanh),
    "HARD_SWISH": _unary(_hard_swish),
}


# ------------------------------------------- operators that only move values


@dataclass(frozen=True)
class _Path:
    """How a box of values is walked through a tensor: the first value, then one step for each dimension."""

    first: int
    steps: tuple[int, ...]


def _steps(shape: Sequence[int]) -> tuple[int, ...]:
    """From a value to the next in each dimension."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _copy(
    checked: CheckedGraph, operator: Operator, source: Tensor, output: Tensor, counts: Sequence[int],
    path_in: _Path, path_out: _Path,
) -> Record:  # fmt: skip
    """Copies a box; dimensions of 1 are dropped and those that continue each other are joined."""
    views = checked.any_view(source), checked.any_view(output)
    checked.same_scale(operator, source, output)
    box: list[tuple[int, int, int]] = []
    for n, step_in, step_out in zip(counts, path_in.steps, path_out.steps, strict=True):
        if n == 1:
            continue
        if box and box[-1][1] == step_in * n and box[-1][2] == step_out * n:
            n *= box.pop()[0]
        box.append((n, step_in, step_out))
    if len(box) > 4:
        raise checked.refuse(operator, "it moves values over more than 4 dimensions")
    ns, steps_in, steps_out = zip(*[(1, 0, 0)] * (4 - len(box)), *box, strict=True)
    fields = np.array([*ns, path_in.first, *steps_in, path_out.first, *steps_out], "<i4")
    return Record(
        kind=COPY,
        inputs=(source.index,),
        output=output.index,
        views=views,
        weights=np.frombuffer(fields.tobytes(), np.int8),
    )


def _axis(checked: CheckedGraph, operator: Operator, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise checked.damaged(operator, f"axis {axis} of {rank} dimensions")
    return axis % rank


def _concatenation(checked: CheckedGraph, operator: Operator) -> list[Record]:
    output = checked.output(operator)
    axis = _axis(checked, operator, int(operator.options["Axis"]), len(output.shape))
    if int(operator.options["FusedActivationFunction"]) != 0:
        raise checked.refuse(operator, "a fused activation is not supported here")
    records, at, steps = [], 0, _steps(output.shape)
    for position in range(len(operator.inputs)):
        source = checked.tensor(operator, position)
        at_end = source.shape[:axis] + output.shape[axis : axis + 1] + source.shape[axis + 1 :]
        if len(source.shape) != len(output.shape) or at_end != output.shape:
            raise checked.damaged(operator, "its shapes do not go together")
        paths = _Path(0, _steps(source.shape)), _Path(at * steps[axis], steps)
        records.append(_copy(checked, operator, source, output, source.shape, *paths))
        at += source.shape[axis]
    if at != output.shape[axis]:
        raise checked.damaged(operator, f"its inputs have {at} values along axis {axis}, not {output.shape[axis]}")
    return records


def _split(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, axes = checked.tensor(operator, 1), checked.integers(operator, 0)
    if len(axes) != 1:
        raise checked.damaged(operator, f"{len(axes)} axes")
    axis, steps = _axis(checked, operator, axes[0], len(source.shape)), _steps(source.shape)
    records, at = [], 0
    for index in operator.outputs:
        output = checked.graph.tensors[index]
        whole = output.shape[:axis] + source.shape[axis : axis + 1] + output.shape[axis + 1 :]
        if len(output.shape) != len(source.shape) or whole != source.shape:
            raise checked.damaged(operator, "its shapes do not go together")
        paths = _Path(at * steps[axis], steps), _Path(0, _steps(output.shape))
        records.append(_copy(checked, operator, source, output, output.shape, *paths))
        at += output.shape[axis]
    if at != source.shape[axis]:
        raise checked.damaged(operator, f"its outputs have {at} values along axis {axis}, not {source.shape[axis]}")
    return records


def _pad(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, output, pads = checked.tensor(operator, 0), checked.output(operator), checked.integers(operator, 1)
    before, after = pads[::2], pads[1::2]
    if min(pads, default=-1) < 0 or len(pads) != 2 * len(source.shape):
        raise checked.damaged(operator, f"padding {pads} of {len(source.shape)} dimensions")
    if tuple(map(sum, zip(source.shape, before, after, strict=True))) != output.shape:
        raise checked.damaged(operator, "its output has another shape than its input with the padding")
    steps = _steps(output.shape)
    first = sum(n * step for n, step in zip(before, steps, strict=True))
    paths = _Path(0, _steps(source.shape)), _Path(first, steps)
    copy = _copy(checked, operator, source, output, source.shape, *paths)
    fill = Record(kind=FILL, inputs=(output.index,), output=output.index, views=(copy.views[1], copy.views[1]))
    return [fill, copy]


def _transpose(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, output, order = checked.tensor(operator, 0), checked.output(operator), checked.integers(operator, 1)
    if sorted(order) != list(range(len(source.shape))) or tuple(source.shape[i] for i in order) != output.shape:
        raise checked.damaged(operator, f"its order {order} and its shapes do not go together")
    steps = _steps(source.shape)
    paths = _Path(0, tuple(steps[i] for i in order)), _Path(0, _steps(output.shape))
    return [_copy(checked, operator, source, output, output.shape, *paths)]


def _strided_slice(checked: CheckedGraph, operator: Operator) -> list[Record]:
    source, output, masks = checked.tensor(operator, 0), checked.output(operator), operator.options
    begin, end, stride = (checked.integers(operator, i) for i in (1, 2, 3))
    rank = len(source.shape)
    if int(masks["EllipsisMask"]) or int(masks["NewAxisMask"]):
        raise checked.refuse(operator, "an ellipsis or a new axis is not supported")
    if not len(begin) == len(end) == len(stride) <= rank or 0 in stride:
        raise checked.damaged(operator, f"begin {begin}, end {end} and strides {stride} of {rank} dimensions")
    first, counts, steps = 0, [], []
    for i, (size, step) in enumerate(zip(source.shape, _steps(source.shape), strict=True)):
        taken = range(size)
        if i < len(begin) and int(masks["ShrinkAxisMask"]) >> i & 1:
            taken = taken[begin[i] : begin[i] + 1 or None]
        elif i < len(begin):
            low = None if int(masks["BeginMask"]) >> i & 1 else begin[i]
            high = None if int(masks["EndMask"]) >> i & 1 else end[i]
            taken = taken[low : high : stride[i]]
        if not taken:
            raise checked.damaged(operator, "it takes nothing")
        first += taken[0] * step
        counts.append(len(taken))
        steps.append(taken.step * step)
    if math.prod(counts) != output.size:
        raise checked.damaged(operator, f"it takes {counts}, which is not its output's shape")
    return [_copy(checked, operator, source, output, counts, _Path(first, tuple(steps)), _Path(0, _steps(counts)))]


_MOVES: dict[str, Rule] = {
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "PAD": _pad,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
}


# ------------------------------------------------------------------- all of them


def single(recorder: Recorder) -> Rule:
    """The rule of an operator that is one record, laid out for long inner loops."""
    return lambda checked, operator: [recorder(checked, operator).lengthwise()]


# Those whose input and output may differ in type.
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


def _convert(checked: CheckedGraph, operator: Operator) -> Record:
    """Between integers and float32: DEQUANTIZE and QUANTIZE that lie inside the model."""
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view = checked.view(operator, source)
    if checked.view(operator, output) != view:
        raise checked.damaged(operator, "input and output differ in shape")
    integers = output if source.dtype == "FLOAT32" else source
    facts = np.float32(integers.scales[0]).tobytes() + int(integers.zero_points[0]).to_bytes(4, "little", signed=True)
    return Record(kind=CONVERT, inputs=(source.index,), output=output.index, views=(view, view),
                  weights=np.frombuffer(facts, np.int8))  # fmt: skip


# The same function for both.
_INTEGER = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "AVERAGE_POOL_2D", "MAX_POOL_2D", "ADD", "SUB", "MUL",
            "MEAN")  # fmt: skip

# By name and type: that of the output, or "input->output" for CONVERSIONS.
RULES: dict[tuple[str, str], Rule] = {
    **{(name, "INT8"): single(recorder) for name, recorder in _INT8.items()},
    **{(name, "INT16"): single(_INT8[name]) for name in _INTEGER},
    **{(name, dtype): rule for name, rule in _MOVES.items() for dtype in DTYPES},
    ("QUANTIZE", "INT8->INT8"): single(_unary(_rescaled)),
    **{("DEQUANTIZE", f"{dtype}->FLOAT32"): single(_convert) for dtype in ("INT8", "INT16")},
    **{("QUANTIZE", f"FLOAT32->{dtype}"): single(_convert) for dtype in ("INT8", "INT16")},
}
