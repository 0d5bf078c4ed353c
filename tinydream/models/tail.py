"""The trainable tail: which operators lie behind the cut, what of them learns, and where a board keeps it.

A tail runs and trains in f32, whatever the type of the model. Its layers take each other's outputs by number, so
connections may branch and join again behind the cut, but none may pass by it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import UnsupportedModelError, UsageError
from .arena import Block, Plan, plan_arena
from .graph import Operator
from .model import TailLayer
from .operators import (
    ADD,
    AVERAGE_POOL,
    MAX_POOL,
    TABLE,
    VIEWS,
    CheckedGraph,
    Record,
    combination,
    conv_window,
    dense_window,
    depthwise_window,
    mean_window,
    pool,
)
from .operators_f32 import FUNCTIONS, real_biases, real_weights

__all__ = ["LAYER_RECORD_BYTES", "Learn", "Tail", "find_tail", "layer_records", "plan_training", "stored_filters"]

Learn = str | int | Mapping[int | str, str | int]

LAYER_RECORD_BYTES = 56
_NO_GRADIENT = 0xFFFFFFFF
_F32_WEIGHTS = 1  # flag of a layer record


@dataclass(frozen=True)
class Tail:
    """What lies behind the cut."""

    cut: int  # tensor
    layers: tuple[TailLayer, ...]
    softmax: Operator | None


# ------------------------------------------------------------------- the cut


def find_tail(checked: CheckedGraph, cut: str | int | None, learn: Learn | None) -> Tail:
    """The layers between the cut and the model's output, and what of them learns.

    Raises UsageError for a cut that does not exist or that connections pass by, and for a `learn` that does not fit;
    UnsupportedModelError for an operator that does not train.
    """
    end = checked.through_views(checked.graph.outputs[0])
    softmax = checked.producer.get(end)
    if softmax is not None and softmax.name == "SOFTMAX":
        end = checked.through_views(checked.tensor(softmax, 0).index)
    else:
        softmax = None
    last = checked.producer.get(end)
    if last is None or last.name not in _SHAPES:
        raise UnsupportedModelError(
            f"the model ends in {'its input' if last is None else checked.where(last)}; a trainable model ends in "
            "FULLY_CONNECTED or another layer that trains, with a SOFTMAX after it or none. Convert it with int8 input "
            f"and output. These train: {', '.join(sorted(_SHAPES))}"
        )
    roots = _roots(checked, end, cut)
    operators = _behind(checked, end, roots)
    if operators is None:
        raise UsageError(
            f"cut {cut!r}: a connection passes by it, or nothing behind it has weights. This model can be cut at "
            + ", ".join(repr(name) for name in _cuts(checked, end))
        )
    if len(operators) > _native.lib.TD_MAX_LAYERS:
        raise UsageError(f"cut {cut!r} leaves {len(operators)} layers to train, more than this core can")
    entries = {
        index for operator in operators for index in _activations(checked, operator)
        if checked.through_views(index) in roots
    }  # fmt: skip
    at = entries.pop() if len(entries) == 1 else min(roots)
    return Tail(at, _layers(checked, operators, roots, learn), softmax)


def _roots(checked: CheckedGraph, end: int, cut: str | int | None) -> set[int]:
    """The tensors, without reshapes, that the cut names."""
    if cut is None:
        cut = 1
    tensors = checked.graph.tensors
    names = [tensor.index for tensor in tensors if tensor.name == cut]
    if not names and isinstance(cut, str) and cut.isdecimal():
        cut = int(cut)
    if isinstance(cut, int):
        weighted = _weighted(checked, end)
        if not 1 <= cut <= len(weighted):
            raise UsageError(f"cut {cut}: between 1 and {len(weighted)} layers of this model can train")
        return {checked.through_views(checked.tensor(weighted[-cut], 0).index)}
    if not names and cut.startswith("#") and cut[1:].isdecimal() and int(cut[1:]) < len(tensors):
        names = [int(cut[1:])]
    if not names:
        raise UsageError(
            f'cut {cut!r}: no tensor has that name. Give a name, "#index", or the number of layers to train'
        )
    return {checked.through_views(index) for index in names}


def _activations(checked: CheckedGraph, operator: Operator) -> list[int]:
    """The tensors that it computes from, without constants; of a reshape the values only."""
    inputs = operator.inputs[:1] if operator.name in VIEWS else operator.inputs
    return [index for index in inputs if index >= 0 and not checked.is_constant(index)]


def _reach(checked: CheckedGraph, end: int, roots: set[int]) -> tuple[dict[int, Operator], bool]:
    """The operators from the roots to the end, by index, and whether all their ways start at the roots."""
    found: dict[int, Operator] = {}
    pending, whole = [end], True
    while pending:
        index = checked.through_views(pending.pop())
        operator = checked.producer.get(index)
        if index in roots:
            continue
        if operator is None or operator.name not in _SHAPES:
            whole = False
        elif operator.index not in found:
            found[operator.index] = operator
            pending += _activations(checked, operator)
    return dict(sorted(found.items())), whole


def _weighted(checked: CheckedGraph, end: int) -> list[Operator]:
    """Layers with weights that training could reach, in the order of the file."""
    return [operator for operator in _reach(checked, end, set())[0].values() if operator.name in _WEIGHTED]


def _behind(checked: CheckedGraph, end: int, roots: set[int]) -> list[Operator] | None:
    found, whole = _reach(checked, end, roots)
    usable = whole and any(operator.name in _WEIGHTED for operator in found.values())
    return list(found.values()) if usable else None


def _cuts(checked: CheckedGraph, end: int) -> Iterator[str]:
    """Names of the tensors in front of layers with weights where the model can be cut, last first."""
    for operator in reversed(_weighted(checked, end)):
        source = checked.tensor(operator, 0)
        if _behind(checked, end, {checked.through_views(source.index)}) is not None:
            yield source.name


# ---------------------------------------------------------------- the layers


def _function(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    source, output = checked.tensor(operator, 0), checked.output(operator)
    view = checked.view(operator, source)
    if checked.view(operator, output) != view:
        raise checked.damaged(operator, "input and output differ in shape")
    return {"kind": TABLE, "inputs": (source.index,), "output": output.index, "views": (view, view),
            "activation": FUNCTIONS[operator.name]}  # fmt: skip


def _sum(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    both = {"kind": ADD, **combination(checked, operator)}
    constant = any(checked.is_constant(index) for index in both["inputs"])
    if constant or len(set(both["views"])) > 1:
        raise checked.refuse(operator, "behind the cut both its inputs must be computed, and have its output's shape")
    return both


def _dense(checked: CheckedGraph, operator: Operator) -> dict[str, Any]:
    window = dense_window(checked, operator)
    if window["views"][0][1] != 1:
        raise checked.refuse(operator, "a trained layer must map one vector to one vector")
    return window


_SHAPES: dict[str, Callable[[CheckedGraph, Operator], Any]] = {
    "CONV_2D": conv_window,
    "DEPTHWISE_CONV_2D": depthwise_window,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": pool(AVERAGE_POOL),
    "MAX_POOL_2D": pool(MAX_POOL),
    "MEAN": mean_window,
    "ADD": _sum,
    **dict.fromkeys(FUNCTIONS, _function),
}
_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


def _layers(
    checked: CheckedGraph, operators: Sequence[Operator], roots: set[int], learn: Learn | None
) -> tuple[TailLayer, ...]:
    numbers = dict.fromkeys(roots, 0)
    learns = _Learns(learn)
    layers = []
    for operator in operators:
        for tensor in (checked.tensor(operator, 0), checked.output(operator)):
            if checked.activation(tensor).dtype not in ("INT8", "FLOAT32"):
                raise checked.refuse(operator, f"only int8 and float32 layers train, not {tensor.dtype}")
        shape = _SHAPES[operator.name](checked, operator)
        record = shape if isinstance(shape, Record) else Record(**shape)
        inputs = tuple(numbers[checked.through_views(index)] for index in record.inputs)
        layer = _layer(checked, operator, record, inputs)
        layers.append(learns.limit(checked, layer))
        numbers[record.output] = len(layers)
    learns.check(layers)
    return tuple(layers)


def _layer(checked: CheckedGraph, operator: Operator, record: Record, inputs: tuple[int, ...]) -> TailLayer:
    """With all of its weights learning, and its biases where the file has some."""
    has_weights = operator.name in _WEIGHTED
    bias = operator.inputs[2] if has_weights and len(operator.inputs) > 2 else -1
    filters, _, _ = stored_filters(checked, operator) if has_weights else (np.zeros((0, 0)), None, None)
    n = record.views[-1][2]
    # The bias of a dense layer always learns: write-back says where a file has no place for it.
    first_bias = 0 if bias >= 0 or operator.name == "FULLY_CONNECTED" else n
    return TailLayer(
        operator=operator.index, name=operator.name, kind=record.kind, inputs=inputs, input=record.inputs[0],
        weights=operator.inputs[1] if has_weights else -1, bias=bias, output=record.output,
        in_shape=record.views[0], out_shape=record.views[-1], taps=record.taps, stride=record.stride,
        dilation=record.dilation, pad=record.pad, activation=record.activation,
        parameter=float(operator.options["Alpha"]) if operator.name == "LEAKY_RELU" else 0.0,
        filter_size=filters.shape[1], first=0, first_bias=first_bias,
    )  # fmt: skip


def stored_filters(
    checked: CheckedGraph, operator: Operator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None, npt.NDArray[np.float32]]:
    """A layer's filters (n, values) as int8 or float32, the scales of int8 ones, and its biases as real numbers."""
    axis = 3 if operator.name == "DEPTHWISE_CONV_2D" else 0
    source = checked.tensor(operator, 0)
    scales = None
    weights: npt.NDArray[Any]
    if source.dtype == "FLOAT32":
        weights = real_weights(checked, operator)
    else:
        weights, scales = checked.weights(operator, axis)
    filters = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    n = len(filters)
    if scales is None:
        return filters, None, real_biases(checked, operator, n)
    steps = float(source.scales[0]) * scales.astype(np.float64)
    return filters, scales, (checked.biases(operator, n) * steps).astype(np.float32)


# -------------------------------------------------------------- what learns


class _Learns:
    """Which channels of which layer learn, as the user wrote it."""

    def __init__(self, learn: Learn | None) -> None:
        self.text = learn
        self.rules: dict[int | None, str | int] = {}  # by operator; None: all others
        pairs: Sequence[tuple[Any, Any]] = [(None, "all" if learn is None else learn)]
        if isinstance(learn, str):
            pairs = [self._pair(item) for item in learn.split(",")]
        elif isinstance(learn, Mapping):
            pairs = list(learn.items())
        for key, rule in pairs:
            self.rules[self._operator(key)] = self._rule(rule)

    def _pair(self, item: str) -> tuple[str | None, str]:
        key, equals, rule = item.rpartition("=")
        return (key if equals else None), rule

    def _operator(self, key: Any) -> int | None:
        if key is None or key == "*":
            return None
        if isinstance(key, str) and key.strip().isdecimal():
            key = int(key)
        if not isinstance(key, int):
            raise self._wrong(f"{key!r} is not the number of an operator")
        return key

    def _rule(self, rule: Any) -> str | int:
        text = str(rule).strip()
        if text in ("all", "bias", "none"):
            return text
        if not text.isdecimal() or int(text) == 0:
            raise self._wrong(f"{rule!r} is none of all, bias, none and a number of channels")
        return int(text)

    def _wrong(self, why: str) -> UsageError:
        return UsageError(
            f"learn {self.text!r}: {why}. Give all, bias, none or a number of last channels, for every layer or as "
            'OPERATOR=RULE, for example "none,12=8,14=all"'
        )

    def limit(self, checked: CheckedGraph, layer: TailLayer) -> TailLayer:
        """The layer with what its rule leaves."""
        if layer.filter_size == 0:
            if layer.operator in self.rules:
                raise self._wrong(f"operator {layer.operator} ({layer.name}) has no weights")
            return layer
        rule = self.rules.get(layer.operator, self.rules.get(None, "none"))
        n = layer.out_shape[2]
        if isinstance(rule, int) and rule > n:
            raise self._wrong(f"operator {layer.operator} ({layer.name}) has {n} channels, not {rule}")
        first = {"all": 0, "bias": n, "none": n}[rule] if isinstance(rule, str) else n - rule
        first_bias = {"all": 0, "bias": 0, "none": n}[rule] if isinstance(rule, str) else n - rule
        return layer.limited(first, max(first_bias, layer.first_bias))

    def check(self, layers: Sequence[TailLayer]) -> None:
        behind = {layer.operator for layer in layers}
        for unknown in (key for key in self.rules if key is not None and key not in behind):
            raise self._wrong(f"no operator {unknown} lies behind the cut")
        if not any(layer.n_parameters for layer in layers):
            raise self._wrong("nothing would learn")


# ------------------------------------------------------------ training arena


@dataclass(frozen=True)
class Places:
    """Where each layer's output lies in the training arena, and the gradient at it (None: not wanted)."""

    outputs: tuple[int, ...]
    gradients: tuple[int | None, ...]
    plan: Plan


def plan_training(layers: Sequence[TailLayer]) -> Places:
    """Step l is layer l forwards, step n the loss, and step 2n - l layer l backwards.

    An output lives until its last reader: layers whose weights do not learn, and sums and averages, do not need their
    inputs on the way back.
    """
    n = len(layers)
    readers: list[list[int]] = [[] for _ in layers]
    wanted: list[bool] = []
    for index, layer in enumerate(layers):
        for number in filter(None, layer.inputs):
            readers[number - 1].append(index)
        wanted.append(layer.n_parameters > 0 or any(number and wanted[number - 1] for number in layer.inputs))
    blocks, keys = [], []
    for index, layer in enumerate(layers):
        is_last = index == n - 1
        uses = [index, *readers[index]]
        if is_last or (wanted[index] and layer.activation):
            uses.append(2 * n - index)
        for reader in readers[index]:
            looks_back = layers[reader].n_weights or (wanted[index] and layers[reader].kind in (MAX_POOL, TABLE))
            if wanted[reader] and looks_back:
                uses.append(2 * n - reader)
        blocks.append(Block(4 * layer.n_out, index, max(uses)))
        keys.append((index, False))
        if wanted[index]:
            blocks.append(Block(4 * layer.n_out, n if is_last else 2 * n - max(readers[index]), 2 * n - index))
            keys.append((index, True))
    plan = plan_arena(blocks)
    at = dict(zip(keys, plan.offsets, strict=True))
    return Places(tuple(at[i, False] for i in range(n)), tuple(at.get((i, True)) for i in range(n)), plan)


# ------------------------------------------------------------------ the records


def layer_records(
    checked: CheckedGraph, layers: Sequence[TailLayer], append: Callable[[bytes], int]
) -> tuple[bytes, list[int]]:
    """The tail section of a .tdm, and the bytes of flash of each layer; `append` puts bytes into the data section."""
    if not layers:
        return struct.pack("<I", 0), []
    places = plan_training(layers)
    records, flash = [], []
    for layer, output, gradient in zip(layers, places.outputs, places.gradients, strict=True):
        sizes = [0]

        def put(content: bytes, sizes: list[int] = sizes) -> int:
            sizes[0] += len(content)
            return append(content)

        flags, fields = 0, struct.pack("<fII", layer.parameter, 0, 0)
        if layer.filter_size:
            filters, scales, biases = stored_filters(checked, checked.graph.operators[layer.operator])
            flags = _F32_WEIGHTS if scales is None else 0
            content = np.ascontiguousarray(filters, "<f4" if scales is None else np.int8).tobytes()
            of_scales = put(scales.astype("<f4").tobytes()) if scales is not None else 0
            fields = struct.pack("<III", put(content), of_scales, put(biases.astype("<f4").tobytes()))
        inputs = (*layer.inputs, 0)[:2]
        records.append(struct.pack(
            "<4B6H2H4B2H2HBxxxII",
            layer.kind, layer.activation, *inputs, *layer.in_shape, *layer.out_shape, *layer.taps, *layer.stride,
            *layer.dilation, *layer.pad, *((layer.first, layer.first_bias) if layer.filter_size else (0, 0)), flags,
            output, _NO_GRADIENT if gradient is None else gradient,
        ) + fields)  # fmt: skip
        flash.append(LAYER_RECORD_BYTES + sizes[0])
    return struct.pack("<I", places.plan.size) + b"".join(records), flash
