"""Puts a trained tail back into its .tflite.

The layers are requantised and their bytes patched where they lie; nothing else of the file moves or
changes, so whatever read the old file reads the new one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, FormatError, UnsupportedModelError
from .compiler import Compiler
from .graph import Graph, Tensor, read_graph
from .model import Model, TailLayer
from .operators import VIEWS
from .tail import stored_filters

__all__ = ["write_back"]

FloatArray = npt.NDArray[np.float32]

# Requantised weights move the logits a little beyond the range that the f32 tail reached.
_MARGIN = 0.01
_MAX_BIAS = 2**30
# Layers whose kernels bring their result to any scale.
_RESCALE = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN"})


@dataclass(frozen=True)
class _Patch:
    """New bytes for one vector of one tensor."""

    at: int
    content: bytes
    tensor: int


def write_back(
    tflite: bytes,
    model: Model,
    parameters: npt.ArrayLike,
    logit_range: tuple[float, float],
    hidden_ranges: Sequence[tuple[float, float]] = (),
) -> bytes:
    """The .tflite with what learnt of its tail replaced.

    tflite: the file that `model` was compiled from. parameters: float32 (model.n_parameters,), layer by layer
    the filters that learn (channel, row, column, input channel), then the biases. logit_range: smallest and largest
    output of the last layer that training saw; its scale and zero point follow from it, where the model is int8 and
    the layer can rescale. hidden_ranges: the same for the outputs of the layers before the last in a chain of dense
    layers, to widen what the file has; without it they keep theirs. Channels that did not learn keep their bytes,
    unless their tensor has one scale for all channels and what learnt outgrew it.

    Raises DataError for parameters or a range that cannot be used, FormatError when the file is not the model's,
    UnsupportedModelError when the file has no room for a bias or shares a buffer with something that did not train.
    """
    if zlib.crc32(tflite) != model.hash:
        raise FormatError("write_back: these bytes are not the .tflite that the model was compiled from")
    values = _checked(parameters, model)
    is_chain = all(layer.name == "FULLY_CONNECTED" for layer in model.tail)
    if hidden_ranges and (len(hidden_ranges) != len(model.tail) - 1 or not is_chain):
        raise DataError(
            f"write_back: {len(hidden_ranges)} hidden ranges; they are for chains of dense layers, one for each "
            "but the last"
        )
    graph = model.graph
    patches: list[_Patch] = []
    scale = _scale(graph.tensors[model.tail[0].input])
    for number, layer in enumerate(model.tail):
        mine, values = np.split(values, [layer.n_parameters])
        scale = scale if hidden_ranges else _scale(graph.tensors[layer.input])
        if layer.filter_size and (layer.n_parameters or hidden_ranges):
            patches += _layer(Compiler(graph), layer, mine, scale)
        output = graph.tensors[layer.output]
        scale = _scale(output)
        is_last = number == len(model.tail) - 1
        if scale is None or layer.name not in _RESCALE:
            continue
        if is_last or hidden_ranges:
            limits = logit_range if is_last else _widened(output, hidden_ranges[number])
            scale, zero_point = _quantisation(*limits)
            patches += [patch for tensor in _views(graph, output) for patch in _output(tensor, scale, zero_point)]
    _check_sharing(graph, model, patches)
    return _patched(tflite, graph, patches)


def _checked(parameters: npt.ArrayLike, model: Model) -> FloatArray:
    values = np.asarray(parameters, np.float32)
    if values.shape != (model.n_parameters,):
        raise DataError(f"write_back: parameters of shape {values.shape}; the tail has {model.n_parameters}")
    if not np.isfinite(values).all():
        raise DataError("write_back: the parameters hold NaN or infinity: training diverged. Lower the learning rate")
    return values


def _quantisation(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of an int8 tensor that holds low..high; 0 is always exact."""
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise DataError(f"write_back: {low}..{high} is not a range of outputs")
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        raise DataError("write_back: the range of outputs is empty; run the tail on some samples first")
    margin = _MARGIN * (high - low)
    low, high = low - margin if low < 0 else low, high + margin if high > 0 else high
    scale = float(np.float32((high - low) / 255))
    return scale, min(127, max(-128, round(-128 - low / scale)))


def _widened(output: Tensor, seen: tuple[float, float]) -> tuple[float, float]:
    scale, zero_point = float(output.scales[0]), int(output.zero_points[0])
    return min(seen[0], (-128 - zero_point) * scale), max(seen[1], (127 - zero_point) * scale)


def _scale(tensor: Tensor) -> float | None:
    """Of an activation; None: float32."""
    return None if tensor.dtype == "FLOAT32" else float(tensor.scales[0])


def _views(graph: Graph, tensor: Tensor) -> list[Tensor]:
    """The tensor and its other shapes, which share its scale."""
    found = [tensor]
    for operator in graph.operators:
        if operator.name in VIEWS and operator.inputs[0] in {each.index for each in found}:
            found.append(graph.tensors[operator.outputs[0]])
    return found


def _scales(weights: FloatArray, biases: FloatArray, tensor: Tensor, input_scale: float, first: int) -> FloatArray:
    """Symmetric scales, as many as the file has: the largest weight becomes 127 and the bias fits its int32.

    Channels before `first` keep theirs; where all share one, it changes only if it must.
    """
    wanted = np.maximum(np.abs(weights).max(axis=1) / 127, np.abs(biases) / (input_scale * _MAX_BIAS))
    # A row of zeros is exact at any scale.
    wanted = np.where(wanted > 0, wanted, tensor.scales).astype(np.float32)
    if len(tensor.scales) > 1:
        return np.where(np.arange(len(wanted)) < first, tensor.scales, wanted).astype(np.float32)
    largest: FloatArray = wanted[first:].max(keepdims=True, initial=0)
    return tensor.scales if first > 0 and largest[0] <= tensor.scales[0] else largest


def _layer(checked: Compiler, layer: TailLayer, values: FloatArray, input_scale: float | None) -> list[_Patch]:
    """New filters and biases: `values` from layer.first and layer.first_bias on, the file's before them."""
    graph = checked.graph
    stored, old_scales, biases = stored_filters(checked, graph.operators[layer.operator])
    weights, trained_biases = np.split(values, [layer.n_weights])
    real = stored.astype(np.float32) * (np.float32(1) if old_scales is None else old_scales[:, None])
    real[layer.first :] = weights.reshape(-1, layer.filter_size)
    biases = biases.copy()
    biases[layer.first_bias :] = trained_biases
    tensor = graph.tensors[layer.weights]
    if input_scale is None:
        patches = [_patch(tensor, tensor.data_at, _in_file(layer, real).astype("<f4").tobytes(), "weights")]
        bias = graph.tensors[layer.bias]
        return [*patches, *_real_bias(layer, bias, biases)]
    scales = _scales(real, biases, tensor, input_scale, layer.first)
    quantised = np.clip(np.rint(real / scales[:, None]), -127, 127).astype(np.int8)
    if len(scales) > 1 or np.array_equal(scales, tensor.scales):
        quantised[: layer.first] = stored[: layer.first]
    bias_scales = input_scale * np.broadcast_to(scales, (layer.out_shape[2],)).astype(np.float64)
    patches = []
    if layer.n_weights or not np.array_equal(scales, tensor.scales):
        patches += [
            _patch(tensor, tensor.data_at, _in_file(layer, quantised).tobytes(), "weights"),
            _patch(tensor, tensor.scales_at, scales.astype("<f4").tobytes(), "weight scales"),
        ]
    steps = np.rint(biases / bias_scales)
    if np.abs(steps).max() > np.iinfo(np.int32).max:
        raise DataError(f"write_back: a bias of operator {layer.operator} ({layer.name}) is too large for its int32")
    if layer.bias >= 0:
        patches += _bias(graph.tensors[layer.bias], steps.astype("<i4"), bias_scales)
    elif steps.any():
        raise _no_bias(layer)
    return patches


def _in_file(layer: TailLayer, filters: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Filters (channel, values) in the order of the file."""
    return filters.T if layer.name == "DEPTHWISE_CONV_2D" else filters


def _no_bias(layer: TailLayer) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"operator {layer.operator} ({layer.name}) has no bias in this .tflite, so its trained bias has no "
        "place. Convert the model from a network whose last layer has a bias that is not all zero"
    )


def _real_bias(layer: TailLayer, tensor: Tensor, biases: FloatArray) -> list[_Patch]:
    if layer.bias >= 0:
        return [_patch(tensor, tensor.data_at, biases.astype("<f4").tobytes(), "biases")]
    if biases.any():
        raise _no_bias(layer)
    return []


def _bias(tensor: Tensor, biases: npt.NDArray[np.int32], scales: npt.NDArray[np.float64]) -> list[_Patch]:
    patches = [_patch(tensor, tensor.data_at, biases.tobytes(), "biases")]
    if len(tensor.scales) == 0:
        return patches
    if len(tensor.scales) not in (1, len(scales)) or len(tensor.scales) < len(np.unique(scales)):
        raise UnsupportedModelError(f"tensor {tensor.index} ({tensor.name}): {len(tensor.scales)} scales of its biases")
    content = scales[: len(tensor.scales)].astype("<f4").tobytes()
    return [*patches, _patch(tensor, tensor.scales_at, content, "bias scales")]


def _output(tensor: Tensor, scale: float, zero_point: int) -> list[_Patch]:
    return [
        _patch(tensor, tensor.scales_at, np.float32(scale).astype("<f4").tobytes(), "scale"),
        _patch(tensor, tensor.zero_points_at, np.int64(zero_point).astype("<i8").tobytes(), "zero point"),
    ]


def _patch(tensor: Tensor, at: int | None, content: bytes, what: str) -> _Patch:
    if at is None:
        raise UnsupportedModelError(f"tensor {tensor.index} ({tensor.name}) has no {what} in this .tflite to replace")
    return _Patch(at, content, tensor.index)


def _check_sharing(graph: Graph, model: Model, patches: list[_Patch]) -> None:
    """A vector that something else uses too must not change under it."""
    for tensor in graph.tensors:
        sizes = (len(tensor.data or b""), 4 * len(tensor.scales), 8 * len(tensor.zero_points))
        for at, size in zip((tensor.data_at, tensor.scales_at, tensor.zero_points_at), sizes, strict=True):
            for patch in patches:
                own = (patch.tensor, patch.at) == (tensor.index, at)
                if at is None or own or patch.at >= at + size or at >= patch.at + len(patch.content):
                    continue
                raise UnsupportedModelError(
                    f"tensors {patch.tensor} ({graph.tensors[patch.tensor].name}) and {tensor.index} ({tensor.name}) "
                    "share bytes of the .tflite, so one cannot train alone. Convert the model with separate buffers"
                )
    learning = [layer for layer in model.tail if layer.n_parameters]
    trained = {layer.operator for layer in learning}
    constants = {index for layer in learning for index in (layer.weights, layer.bias) if index >= 0}
    for operator in graph.operators:
        if operator.index not in trained and constants & set(operator.inputs):
            raise UnsupportedModelError(
                f"operator {operator.index} ({operator.name}) uses the weights of a trained layer too; "
                "they cannot be replaced"
            )


def _patched(tflite: bytes, graph: Graph, patches: list[_Patch]) -> bytes:
    content = bytearray(tflite)
    for patch in patches:
        content[patch.at : patch.at + len(patch.content)] = patch.content
    result = bytes(content)

    def outline(of: Graph) -> object:
        tensors = tuple((t.name, t.shape, t.dtype, t.buffer, t.data_at, t.scales_at) for t in of.tensors)
        return tensors, of.operators, of.inputs, of.outputs

    # A crafted file can let a weight buffer overlap the structure around it.
    if outline(read_graph(result)) != outline(graph):
        raise FormatError("write_back: the weights overlap the structure of the .tflite, which is damaged")
    return result
