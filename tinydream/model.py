"""Compiles a .tflite into a .tdm and runs its frozen part.

A model is cut in two. The part before the cut stays as it is and runs in int8, byte for byte like
LiteRT's reference kernels; the dense layers after it are what a board trains. Everything that a board
would have to work out (multipliers, folded biases, padding, arena offsets) is worked out here.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _native, fixedpoint
from .arena import Block, Plan, plan_arena
from .errors import DataError, FormatError, UnsupportedModelError, UsageError
from .files import write_sections
from .fixedpoint import quantize_multiplier
from .graph import Graph, Operator, Tensor, read_bytes, read_graph

__all__ = ["Model", "OperatorRow", "TailLayer", "compile_model"]

_SECTION_META, _SECTION_TENSORS, _SECTION_OPS, _SECTION_TAIL, _SECTION_DATA = 1, 2, 3, 4, 5
_CONV, _DEPTHWISE, _AVERAGE_POOL, _MAX_POOL, _ADD, _MEAN, _DENSE, _TABLE, _SOFTMAX = range(1, 10)
_SUB, _MUL, _COPY, _FILL = range(10, 14)
_CONSTANT = 1  # flag of a tensor record
_SOFTMAX_CHANNELS = 4095  # TD_SOFTMAX_CHANNELS in kernels.h
_RECORD_BYTES = 28
_TAIL_RECORD_BYTES = 20
_SAME = 0  # the schema's Padding.SAME

# Operators that only rename the shape: their output is their first input.
_VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})

_ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}

Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class OperatorRow:
    """One line of a model's description."""

    index: int  # in the .tflite
    name: str
    inputs: tuple[tuple[int, ...], ...]  # shapes of the activations it reads
    output: tuple[int, ...]
    macs: int
    flash: int  # bytes in the .tdm
    trained: bool


@dataclass(frozen=True)
class TailLayer:
    """A dense layer after the cut: where it lives in the .tflite, and its shape."""

    operator: int
    input: int  # tensor indices
    weights: int
    bias: int  # -1: none
    output: int
    n_in: int
    n_out: int
    relu: bool

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return self.n_out * (self.n_in + 1)


@dataclass(frozen=True)
class Model:
    """A compiled model. `tdm` is what a board holds; the rest says what is in it.

    Shapes leave out the batch. Real values are scale * (int8 - zero point). A model compiled whole has no tail: its
    embedding is the model's output.
    """

    tdm: bytes = field(repr=False)
    graph: Graph = field(repr=False)
    arena: Plan
    rows: tuple[OperatorRow, ...] = field(repr=False)
    tail: tuple[TailLayer, ...]
    softmax: bool  # the tail's last layer feeds a softmax
    cut: int  # tensor index
    input_shape: tuple[int, ...]
    input_scale: float
    input_zero_point: int
    embedding_shape: tuple[int, ...]
    embedding_scale: float
    embedding_zero_point: int

    @property
    def arena_size(self) -> int:
        """Bytes of RAM that the frozen part needs for its activations."""
        return self.arena.size

    @property
    def input_size(self) -> int:
        """Number of int8 values of one input."""
        return math.prod(self.input_shape)

    @property
    def embedding_size(self) -> int:
        """Number of int8 values of the tensor at the cut."""
        return math.prod(self.embedding_shape)

    @property
    def n_classes(self) -> int:
        """Outputs of the last dense layer, or of a model that was compiled whole."""
        return self.tail[-1].n_out if self.tail else self.embedding_size

    @property
    def n_parameters(self) -> int:
        """Trained weights and biases."""
        return sum(layer.n_parameters for layer in self.tail)

    @property
    def hash(self) -> int:
        """CRC-32 of the .tflite; binds tuned weights to the model they belong to."""
        return self.graph.hash

    @property
    def embedding_hash(self) -> int:
        """CRC-32 of the frozen part; binds packs to it. A tuned model keeps it."""
        return int(self.native.embedding_hash)

    @property
    def macs(self) -> int:
        """Multiply-adds of the frozen part for one input."""
        return sum(row.macs for row in self.rows if not row.trained)

    def describe(self) -> tuple[OperatorRow, ...]:
        """One row for each operator, in the order in which they run."""
        return self.rows

    def quantise(self, values: npt.ArrayLike, source: str = "the input") -> Int8Array:
        """Real inputs as int8 at the model's input scale, rounded half to even and clamped; any shape.

        Raises DataError naming `source` for NaN or infinite values.
        """
        scaled = np.rint(np.asarray(values, np.float32) / np.float32(self.input_scale)) + self.input_zero_point
        if not np.isfinite(scaled).all():
            raise DataError(f"{source} holds NaN or infinite values; clean them before they are quantised")
        quantised: Int8Array = np.clip(scaled, -128, 127).astype(np.int8)
        return quantised

    def dequantise(self, embeddings: Int8Array) -> npt.NDArray[np.float32]:
        """The real values, float32, of int8 embeddings (or outputs of a whole model) of any shape."""
        steps = embeddings.astype(np.float32) - np.float32(self.embedding_zero_point)
        return (steps * np.float32(self.embedding_scale)).astype(np.float32)

    @cached_property
    def native(self) -> Any:
        """The opened td_model, for calls into the core; it borrows `tdm` and lives as long as this Model."""
        handle = _native.ffi.new("td_model *")
        data = _native.view(self.tdm)
        _native.check(_native.lib.td_model_open(handle, data, len(self.tdm)), "opening the compiled model")
        return handle

    def check_inputs(self, x: npt.ArrayLike) -> Int8Array:
        """int8 inputs (n, *input_shape) as rows (n, input_size); dimensions of 1 may be left out or added.

        DataError when the shape or the type differs.
        """
        inputs = np.asarray(x)
        if inputs.dtype != np.int8 or inputs.ndim == 0 or not _same_shape(inputs.shape[1:], self.input_shape):
            raise DataError(
                f"the model needs int8 inputs of shape (n, {', '.join(map(str, self.input_shape))}), "
                f"not {inputs.dtype} {inputs.shape}. Model.quantise makes int8 of real values"
            )
        return np.ascontiguousarray(inputs).reshape(len(inputs), self.input_size)

    def embed(self, x: npt.ArrayLike, progress: Callable[[int, int], None] | None = None) -> Int8Array:
        """Runs the frozen part on int8 inputs.

        `x` is (n, *input_shape) int8, dimensions of 1 may be left out or added; the result is
        (n, embedding_size) int8, the same bytes that LiteRT's reference kernels give for the tensor at the cut.
        DataError when the shape or the type differs.
        """
        rows = self.check_inputs(x)
        embeddings = np.empty((len(rows), self.embedding_size), np.int8)
        # int64 gives the alignment that the core asks for.
        arena = np.zeros(max(2, -(-self.arena_size // 8)), np.int64).view(np.int8)
        model, memory = self.native, _native.ffi.from_buffer("uint8_t[]", arena)
        source = arena[model.input_offset :][: self.input_size]
        result = arena[model.embedding_offset :][: self.embedding_size]
        for done, row in enumerate(rows):
            source[:] = row
            _native.check(_native.lib.td_model_run(model, memory, arena.size), "running the model")
            embeddings[done] = result
            if progress is not None:
                progress(done + 1, len(rows))
        return embeddings


def _same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def compile_model(tflite: bytes | str | Path, cut: str | int | None = None, *, whole: bool = False) -> Model:
    """Compiles a .tflite (its bytes, or a path) for training after `cut`, or to run `whole`, without training.

    `cut` is the tensor at which the frozen part ends: its name, "#12" for tensor 12, or the number of dense
    layers to train (an int or digits). Default: the last dense layer trains. With `whole`, nothing trains, and the
    host does a QUANTIZE right after the input and a DEQUANTIZE right before the output.

    Raises FormatError for bytes that are not a .tflite, UnsupportedModelError for a model that cannot be run
    or trained (naming the operator or the tensor), UsageError for a cut that does not exist.
    """
    if whole and cut is not None:
        raise UsageError("a model that is compiled whole has no cut; give one of the two")
    name = str(tflite) if isinstance(tflite, (str, Path)) else "the model"
    compiler = _Compiler(read_graph(read_bytes(tflite), name))
    return compiler.compile_whole() if whole else compiler.compile(cut)


# ----------------------------------------------------------------------- records


@dataclass
class _Record:
    """What becomes an operator record of the .tdm."""

    kind: int
    inputs: tuple[int, ...]  # tensor indices of the .tflite
    output: int
    views: tuple[tuple[int, int, int], ...]  # (h, w, c) of the inputs, then of the output
    taps: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    clamp: tuple[int, int] = (-128, 127)
    weights: Int8Array | None = None
    biases: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    multipliers: Sequence[tuple[int, int]] = ()
    macs: int = 0

    def lengthwise(self) -> _Record:
        """The same work with a time axis of width 1 laid along the width, where the kernels have long inner loops."""
        if any(w != 1 for _, w, _ in self.views) or self.taps[1] != 1 or self.pad[1] != 0:
            return self
        turned = {name: getattr(self, name)[::-1] for name in ("taps", "stride", "dilation", "pad")}
        return replace(self, views=tuple((1, h, c) for h, _, c in self.views), **turned)

    @property
    def flash(self) -> int:
        weights = 0 if self.weights is None else self.weights.size
        return _RECORD_BYTES + weights + 9 * len(self.multipliers)


# ---------------------------------------------------------------------- compiler


class _Compiler:
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

    # -- what both halves need

    def where(self, operator: Operator) -> str:
        return f"operator {operator.index} ({operator.name}, {self.graph.shapes_of(operator)})"

    def refuse(self, operator: Operator, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.where(operator)}: {why}")

    def damaged(self, operator: Operator, why: str) -> FormatError:
        return FormatError(f"{self.where(operator)}: {why}; the .tflite is damaged")

    def tensor(self, operator: Operator, position: int) -> Tensor:
        """Input number `position`, which must be there."""
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            raise self.damaged(operator, f"input {position} is missing")
        return self.graph.tensors[operator.inputs[position]]

    def output(self, operator: Operator) -> Tensor:
        if len(operator.outputs) != 1:
            raise self.damaged(operator, f"{len(operator.outputs)} outputs instead of one")
        return self.graph.tensors[operator.outputs[0]]

    def activation(self, tensor: Tensor) -> Tensor:
        """The same tensor, once it is known to be int8 with one scale and a fixed shape."""
        where = f"tensor {tensor.index} ({tensor.name})"
        if tensor.dtype != "INT8":
            raise UnsupportedModelError(
                f"{where} is {tensor.dtype}; only fully int8 models are supported. Convert with a representative "
                "dataset, TFLITE_BUILTINS_INT8, and inference_input_type = inference_output_type = tf.int8"
            )
        if any(n <= 0 for n in tensor.shape) or any(n < 0 for n in tensor.signature[1:]):
            raise UnsupportedModelError(
                f"{where} has the dynamic shape {tensor.signature}; convert the model with a fixed input shape"
            )
        if len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
            raise UnsupportedModelError(f"{where} needs one scale and one zero point, has {len(tensor.scales)}")
        scale, zero_point = float(tensor.scales[0]), int(tensor.zero_points[0])
        if not (0 < scale < math.inf) or not -128 <= zero_point <= 127:
            raise FormatError(f"{where}: scale {scale} and zero point {zero_point} are out of range")
        return tensor

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

    def clamp(self, operator: Operator, output: Tensor) -> tuple[int, int]:
        """Output range of the fused activation."""
        name = _ACTIVATIONS.get(int(operator.options["FusedActivationFunction"]), "unknown")
        ranges = {"NONE": (-math.inf, math.inf), "RELU": (0, math.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}
        if name not in ranges:
            raise self.refuse(operator, f"the fused activation {name} is not supported; use NONE, RELU or RELU6")
        low, high = (self.steps(output, limit) for limit in ranges[name])
        return max(-128, min(low, 127)), max(-128, min(high, 127))

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
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return np.zeros(n, np.int64)
        tensor = self.tensor(operator, 2)
        if tensor.dtype != "INT32" or tensor.data is None or len(tensor.data) != 4 * n:
            raise self.refuse(operator, f"its bias must be {n} constant int32 values")
        return np.frombuffer(tensor.data, "<i4").astype(np.int64)

    # -- the tail

    def through_views(self, index: int) -> int:
        """The tensor that a chain of reshapes ending in `index` starts from."""
        while index in self.producer and self.producer[index].name in _VIEWS:
            index = self.tensor(self.producer[index], 0).index
        return index

    def dense_chain(self) -> tuple[list[Operator], Operator | None]:
        """The dense layers that end the model, first to last, and the softmax after them."""
        index = self.through_views(self.graph.outputs[0])
        softmax = self.producer.get(index)
        if softmax is not None and softmax.name == "SOFTMAX":
            index = self.through_views(self.tensor(softmax, 0).index)
        else:
            softmax = None
        chain: list[Operator] = []
        while index in self.producer and self.producer[index].name == "FULLY_CONNECTED":
            chain.insert(0, self.producer[index])
            index = self.through_views(self.tensor(chain[0], 0).index)
        if not chain:
            last = self.producer.get(index)
            raise UnsupportedModelError(
                f"the model ends in {'its input' if last is None else self.where(last)}; a trainable model ends in "
                "FULLY_CONNECTED layers, with a SOFTMAX after them or none. Convert it with int8 input and output"
            )
        return chain, softmax

    def find_cut(self, cut: str | int | None, chain: list[Operator]) -> tuple[int, list[Operator]]:
        """The tensor at the cut, and the trained layers."""
        if cut is None:
            cut = 1
        names = [t.index for t in self.graph.tensors if t.name == cut]
        if not names and isinstance(cut, str) and cut.isdecimal():
            cut = int(cut)
        if isinstance(cut, int):
            limit = min(len(chain), _native.lib.TD_MAX_TAIL)
            if not 1 <= cut <= limit:
                raise UsageError(f"cut {cut}: between 1 and {limit} dense layers of this model can train")
            trained = chain[-cut:]
            return self.tensor(trained[0], 0).index, trained
        if not names and cut.startswith("#") and cut[1:].isdecimal() and int(cut[1:]) < len(self.graph.tensors):
            names = [int(cut[1:])]
        if not names:
            raise UsageError(
                f'cut {cut!r}: no tensor has that name. Give a name, "#index", or the number of layers to train'
            )
        roots = {self.through_views(index) for index in names}
        for n, operator in enumerate(chain):
            if self.through_views(self.tensor(operator, 0).index) in roots:
                if len(chain) - n > _native.lib.TD_MAX_TAIL:
                    raise UsageError(f"cut {cut!r} leaves {len(chain) - n} layers to train, more than this core can")
                return self.tensor(operator, 0).index, chain[n:]
        raise UsageError(
            f"cut {cut!r}: after the cut there may be only FULLY_CONNECTED layers and a SOFTMAX. This model can be "
            f"cut at {', '.join(repr(self.tensor(operator, 0).name) for operator in chain)}"
        )

    def tail_layer(self, operator: Operator) -> TailLayer:
        source, output = self.activation(self.tensor(operator, 0)), self.activation(self.output(operator))
        weights, _ = self.weights(operator, 0)
        if weights.ndim != 2 or source.size != weights.shape[1] or output.size != weights.shape[0]:
            raise self.refuse(operator, "a trained layer must map one vector to one vector")
        activation = _ACTIVATIONS.get(int(operator.options["FusedActivationFunction"]))
        if activation not in ("NONE", "RELU"):
            raise self.refuse(operator, f"a trained layer may have the activation NONE or RELU, not {activation}")
        n_out, n_in = weights.shape
        if max(n_in, n_out) > 0xFFFF:
            raise self.refuse(operator, "a trained layer has at most 65535 inputs and outputs")
        self.biases(operator, n_out)
        bias = operator.inputs[2] if len(operator.inputs) > 2 else -1
        return TailLayer(operator.index, source.index, operator.inputs[1], bias, output.index, n_in, n_out,
                         activation == "RELU")  # fmt: skip

    # -- the frozen part

    def frozen_operators(self, start: int, cut: int) -> list[Operator]:
        """What the tensor at the cut depends on from `start` on, in the order of the file."""
        needed: set[int] = set()
        pending = [cut]
        while pending:
            index = pending.pop()
            operator = self.producer.get(index)
            if index == start or operator is None or operator.index in needed:
                continue
            needed.add(operator.index)
            # The shape operand of a reshape may be computed; the output's own shape says the same.
            inputs = operator.inputs[:1] if operator.name in _VIEWS else operator.inputs
            pending += [index for index in inputs if index >= 0 and self.graph.tensors[index].data is None]
        ready = {start}
        for index in sorted(needed):
            operator = self.graph.operators[index]
            first = operator.inputs[:1] if operator.name in _VIEWS else operator.inputs
            if any(i >= 0 and self.graph.tensors[i].data is None and i not in ready for i in first):
                raise self.damaged(operator, "it reads a tensor that nothing wrote before")
            ready.update(operator.outputs)
        return [self.graph.operators[index] for index in sorted(needed)]

    def records(self, operator: Operator) -> list[_Record]:
        """What the operator becomes; nothing for one that only renames the shape."""
        if operator.name in _VIEWS:
            self.check_view(operator)
            return []
        if operator.name in _COPIERS:
            return _COPIERS[operator.name](self, operator)
        if operator.name not in _RECORDERS:
            known = ", ".join(sorted([*_RECORDERS, *_VIEWS, *_COPIERS]))
            raise self.refuse(operator, f"not supported. Supported before the cut: {known}. Rebuild the model with "
                              "these, or choose an earlier cut")  # fmt: skip
        return [_RECORDERS[operator.name](self, operator).lengthwise()]

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
        if source.scales[0] != output.scales[0] or source.zero_points[0] != output.zero_points[0]:
            raise self.refuse(operator, "it changes the scale")

    def check_view(self, operator: Operator) -> None:
        source, output = self.activation(self.tensor(operator, 0)), self.activation(self.output(operator))
        if source.size != output.size:
            raise self.damaged(operator, "the shapes hold different numbers of values")
        self.same_scale(operator, source, output)

    def compile(self, cut: str | int | None) -> Model:
        chain, softmax = self.dense_chain()
        at_cut, trained = self.find_cut(cut, chain)
        return self.assemble(self.graph.inputs[0], at_cut, trained, softmax)

    def compile_whole(self) -> Model:
        """From the first int8 tensor to the last: converters put a QUANTIZE and a DEQUANTIZE around them."""
        source, result = self.graph.inputs[0], self.graph.outputs[0]
        readers = [operator for operator in self.graph.operators if source in operator.inputs]
        if len(readers) == 1 and readers[0].name == "QUANTIZE" and self.graph.tensors[source].dtype == "FLOAT32":
            source = self.output(readers[0]).index
        last = self.producer.get(result)
        if last is not None and last.name == "DEQUANTIZE":
            result = self.tensor(last, 0).index
        return self.assemble(source, result, [], None)

    def assemble(self, at_start: int, at_cut: int, trained: list[Operator], softmax: Operator | None) -> Model:
        tail = tuple(self.tail_layer(operator) for operator in trained)
        source = self.activation(self.graph.tensors[at_start])
        embedding = self.activation(self.graph.tensors[at_cut])
        frozen = self.frozen_operators(at_start, at_cut)
        records: list[_Record] = []
        rows: list[OperatorRow] = []
        for operator in frozen:
            made = self.records(operator)
            records += made
            rows.append(self.row(operator, made))
        rows += [self.tail_row(operator, layer) for operator, layer in zip(trained, tail, strict=True)]
        if softmax is not None:
            rows.append(OperatorRow(softmax.index, softmax.name, (self.tensor(softmax, 0).shape,),
                                    self.output(softmax).shape, 0, 0, True))  # fmt: skip
        writer = _Writer(self, records, source, embedding)
        return Model(
            tdm=writer.tdm(tail, softmax is not None),
            graph=self.graph,
            arena=writer.plan,
            rows=tuple(rows),
            tail=tail,
            softmax=softmax is not None,
            cut=at_cut,
            input_shape=source.shape[1:],
            input_scale=float(source.scales[0]),
            input_zero_point=int(source.zero_points[0]),
            embedding_shape=embedding.shape[1:],
            embedding_scale=float(embedding.scales[0]),
            embedding_zero_point=int(embedding.zero_points[0]),
        )

    def row(self, operator: Operator, records: list[_Record]) -> OperatorRow:
        sources = {i for record in records for i in record.inputs if i not in operator.outputs}
        inputs = tuple(self.graph.tensors[i].shape for i in operator.inputs if i in (sources or operator.inputs[:1]))
        macs, flash = sum(record.macs for record in records), sum(record.flash for record in records)
        output = self.graph.tensors[operator.outputs[0]].shape
        return OperatorRow(operator.index, operator.name, inputs, output, macs, flash, False)

    def tail_row(self, operator: Operator, layer: TailLayer) -> OperatorRow:
        flash = _TAIL_RECORD_BYTES + layer.n_in * layer.n_out + 8 * layer.n_out
        shapes = (self.graph.tensors[layer.input].shape,), self.graph.tensors[layer.output].shape
        return OperatorRow(operator.index, operator.name, *shapes, layer.n_in * layer.n_out, flash, True)


# ------------------------------------------------- one function for each operator


_Recorder = Callable[[_Compiler, Operator], _Record]


def _window(compiler: _Compiler, operator: Operator, taps: tuple[int, int]) -> dict[str, Any]:
    """Strides, dilations, padding and the fused activation's range, checked against the output's shape."""
    options = operator.options
    source, output = compiler.tensor(operator, 0), compiler.output(operator)
    h, w, _ = compiler.view(operator, source)
    out_h, out_w, _ = compiler.view(operator, output)
    stride = int(options["StrideH"]), int(options["StrideW"])
    dilation = int(options.get("DilationHFactor", 1)), int(options.get("DilationWFactor", 1))
    if not all(1 <= n <= 255 for n in (*stride, *dilation)) or not all(1 <= n <= 0xFFFF for n in taps):
        raise compiler.refuse(operator, f"kernel {taps}, stride {stride} or dilation {dilation} is out of range")
    pad = []
    for size, out, n, step, gap in zip((h, w), (out_h, out_w), taps, stride, dilation, strict=True):
        reach = (n - 1) * gap + 1
        expected = -(-size // step) if int(options["Padding"]) == _SAME else -(-(size - reach + 1) // step)
        if out != expected:
            raise compiler.damaged(operator, f"its output should measure {expected}, not {out}")
        pad.append(max((out - 1) * step + reach - size, 0) // 2)
    if max(pad) > 0xFFFF:
        raise compiler.refuse(operator, f"padding {pad} is out of range")
    return {
        "inputs": (source.index,),
        "output": output.index,
        "views": ((h, w, compiler.view(operator, source)[2]), compiler.view(operator, output)),
        "taps": taps,
        "stride": stride,
        "dilation": dilation,
        "pad": (pad[0], pad[1]),
        "clamp": compiler.clamp(operator, output),
    }


def _scaled(compiler: _Compiler, operator: Operator, real: Sequence[float]) -> list[tuple[int, int]]:
    multipliers = [quantize_multiplier(value) for value in real]
    if any(shift > 30 for _, shift in multipliers):
        raise compiler.refuse(operator, "the scales of its tensors differ by more than 2^30")
    return multipliers


def _channel_scales(source: Tensor, scales: npt.NDArray[np.float32], output: Tensor) -> list[float]:
    return [float(source.scales[0]) * float(scale) / float(output.scales[0]) for scale in scales]


def _folded(biases: npt.NDArray[np.int64], weights: Int8Array, source: Tensor) -> npt.NDArray[np.int64]:
    """Biases less what the input's zero point adds; `weights` has the output channels first."""
    sums = weights.reshape(len(weights), -1).sum(axis=1, dtype=np.int64)
    folded: npt.NDArray[np.int64] = biases - int(source.zero_points[0]) * sums
    return folded


def _conv(compiler: _Compiler, operator: Operator) -> _Record:
    weights, scales = compiler.weights(operator, 0)
    if weights.ndim != 4:
        raise compiler.damaged(operator, f"weights of {weights.ndim} dimensions")
    window = _window(compiler, operator, (weights.shape[1], weights.shape[2]))
    (_, _, depth), (out_h, out_w, n) = window["views"]
    if weights.shape[3] != depth:
        raise compiler.refuse(operator, "a grouped convolution is not supported; use DEPTHWISE_CONV_2D and 1x1 CONV_2D")
    if weights.shape[0] != n:
        raise compiler.damaged(operator, f"{weights.shape[0]} filters for {n} output channels")
    source, output = compiler.tensor(operator, 0), compiler.output(operator)
    return _Record(
        kind=_CONV,
        **window,
        weights=weights,
        biases=_folded(compiler.biases(operator, n), weights, source),
        multipliers=_scaled(compiler, operator, _channel_scales(source, scales, output)),
        macs=out_h * out_w * weights.size,
    )


def _depthwise(compiler: _Compiler, operator: Operator) -> _Record:
    weights, scales = compiler.weights(operator, 3)
    if weights.ndim != 4 or weights.shape[0] != 1:
        raise compiler.damaged(operator, f"weights of shape {weights.shape}")
    window = _window(compiler, operator, (weights.shape[1], weights.shape[2]))
    (_, _, depth), (out_h, out_w, n) = window["views"]
    if weights.shape[3] != n or n % depth != 0:
        raise compiler.damaged(operator, f"{weights.shape[3]} filters from {depth} to {n} channels")
    source, output = compiler.tensor(operator, 0), compiler.output(operator)
    by_channel = np.ascontiguousarray(weights[0].transpose(2, 0, 1))
    return _Record(
        kind=_DEPTHWISE,
        **window,
        weights=by_channel,
        biases=_folded(compiler.biases(operator, n), by_channel, source),
        multipliers=_scaled(compiler, operator, _channel_scales(source, scales, output)),
        macs=out_h * out_w * weights.size,
    )


def _fully_connected(compiler: _Compiler, operator: Operator) -> _Record:
    """A dense layer is a 1x1 convolution whose positions are the rows of its input (but it rounds differently)."""
    if operator.options["WeightsFormat"] != 0:
        raise compiler.refuse(operator, "its weights are in a shuffled format")
    weights, scales = compiler.weights(operator, 0)
    source, output = compiler.activation(compiler.tensor(operator, 0)), compiler.activation(compiler.output(operator))
    if weights.ndim != 2 or source.size % weights.shape[1] != 0:
        raise compiler.damaged(operator, f"weights of shape {weights.shape} for {source.size} inputs")
    n, depth = weights.shape
    rows = source.size // depth
    if output.size != rows * n:
        raise compiler.damaged(operator, f"{output.size} outputs instead of {rows * n}")
    if max(rows, n, depth) > 0xFFFF:
        raise compiler.refuse(operator, "it has more than 65535 rows, inputs or outputs")
    return _Record(
        kind=_DENSE,
        inputs=(source.index,),
        output=output.index,
        views=((1, rows, depth), (1, rows, n)),
        clamp=compiler.clamp(operator, output),
        weights=weights,
        biases=_folded(compiler.biases(operator, n), weights, source),
        multipliers=_scaled(compiler, operator, _channel_scales(source, scales, output)),
        macs=rows * weights.size,
    )


def _pool(kind: int) -> Callable[[_Compiler, Operator], _Record]:
    def record(compiler: _Compiler, operator: Operator) -> _Record:
        options = operator.options
        window = _window(compiler, operator, (int(options["FilterHeight"]), int(options["FilterWidth"])))
        source, output = compiler.tensor(operator, 0), compiler.output(operator)
        if window["views"][0][2] != window["views"][1][2]:
            raise compiler.damaged(operator, "input and output differ in channels")
        compiler.same_scale(operator, source, output)
        return _Record(kind=kind, **window)

    return record


def _combine(kind: int) -> _Recorder:
    """ADD, SUB and MUL, of two activations or an activation and a constant, with broadcasting."""

    def record(compiler: _Compiler, operator: Operator) -> _Record:
        a, b, output = compiler.tensor(operator, 0), compiler.tensor(operator, 1), compiler.output(operator)
        views = tuple(compiler.view(operator, tensor) for tensor in (a, b, output))
        if any(n != max(m) or min(m) not in (1, n) for *m, n in zip(*views, strict=True)):
            raise compiler.damaged(operator, "its shapes do not go together")
        scale_a, scale_b, scale = (float(tensor.scales[0]) for tensor in (a, b, output))
        widest = 2 * max(scale_a, scale_b)
        real = [scale_a / widest, scale_b / widest, widest / (2**20 * scale)]
        if kind == _MUL:
            real = [0.0, 0.0, scale_a * scale_b / scale]
        if real[2] > (1 << 14 if kind == _MUL else 1):
            raise compiler.refuse(operator, "its output scale is too small for its inputs")
        return _Record(
            kind=kind,
            inputs=(a.index, b.index),
            output=output.index,
            views=views,
            clamp=compiler.clamp(operator, output),
            biases=np.array([-int(a.zero_points[0]), -int(b.zero_points[0]), 0], np.int64),
            multipliers=_scaled(compiler, operator, real),
        )

    return record


def _mean(compiler: _Compiler, operator: Operator) -> _Record:
    """Over height and width; the reference folds the division into the multiplier, cut off, not rounded."""
    source, output, axes = compiler.tensor(operator, 0), compiler.output(operator), compiler.tensor(operator, 1)
    h, w, depth = compiler.view(operator, source)
    compiler.activation(output)
    if axes.data is None or axes.dtype != "INT32" or len(axes.data) % 4 != 0:
        raise compiler.refuse(operator, "its axes must be constant int32 values")
    reduced = {int(axis) % len(source.shape) for axis in np.frombuffer(axes.data, "<i4")}
    if len(source.shape) != 4 or reduced != {1, 2} or output.size != depth:
        raise compiler.refuse(operator, f"only the mean over height and width is supported, not over {reduced}")
    n = h * w
    multiplier, shift = quantize_multiplier(float(source.scales[0]) / float(output.scales[0]))
    lift = min(n.bit_length() - 1, 32, 31 + shift)
    if lift < 0 or shift > 30:
        raise compiler.refuse(operator, "the scales of its tensors differ too much")
    return _Record(
        kind=_MEAN,
        inputs=(source.index,),
        output=output.index,
        views=((h, w, depth), (1, 1, depth)),
        biases=np.array([-int(source.zero_points[0]) * n], np.int64),
        multipliers=[((multiplier << lift) // n, shift - lift)],
    )


def _unary(results: Callable[[_Compiler, Operator, npt.NDArray[np.int64]], npt.NDArray[np.int64]]) -> _Recorder:
    """An operator of one input as the table of its 256 results, which are clamped to int8."""

    def record(compiler: _Compiler, operator: Operator) -> _Record:
        source, output = compiler.tensor(operator, 0), compiler.output(operator)
        view = compiler.view(operator, source)
        if compiler.view(operator, output) != view:
            raise compiler.damaged(operator, "input and output differ in shape")
        x = np.arange(-128, 128, dtype=np.int64) - int(source.zero_points[0])
        table = np.clip(results(compiler, operator, x), -128, 127).astype(np.int8)
        return _Record(kind=_TABLE, inputs=(source.index,), output=output.index, views=(view, view), weights=table)

    return record


def _ratio(compiler: _Compiler, operator: Operator) -> float:
    """Input scale over output scale."""
    ratio = float(compiler.tensor(operator, 0).scales[0]) / float(compiler.output(operator).scales[0])
    if ratio > 1 << 20:
        raise compiler.refuse(operator, "the scales of its tensors differ by more than 2^20")
    return ratio


def _rescaled(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    multiplier, shift = quantize_multiplier(_ratio(compiler, operator))
    return fixedpoint.rescale(x, multiplier, shift) + int(compiler.output(operator).zero_points[0])


def _rectified(low: float, high: float) -> Callable[..., npt.NDArray[np.int64]]:
    def results(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        output = compiler.output(operator)
        limits = [compiler.steps(output, limit) for limit in (low, high)]
        # One after the other, upper limit last: a zero point may lie outside the limits' order.
        return np.minimum(np.maximum(_rescaled(compiler, operator, x), max(limits[0], -128)), min(limits[1], 127))

    return results


def _fixed_output(compiler: _Compiler, operator: Operator, scale: float, zero_point: int) -> None:
    output = compiler.output(operator)
    if abs(float(output.scales[0]) / scale - 1) > 1e-3 or output.zero_points[0] != zero_point:
        raise compiler.refuse(operator, f"its output must have the scale {scale} and the zero point {zero_point}")


def _logistic(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _fixed_output(compiler, operator, 1 / 256, -128)
    return fixedpoint.logistic(x, float(compiler.tensor(operator, 0).scales[0]))


def _tanh(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _fixed_output(compiler, operator, 1 / 128, 0)
    return fixedpoint.tanh(x, float(compiler.tensor(operator, 0).scales[0]))


def _leaky_relu(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    source, output, slope = compiler.tensor(operator, 0), compiler.output(operator), float(operator.options["Alpha"])
    real = float(source.scales[0]) * slope / float(output.scales[0])
    if not 0 <= real <= 1 << 20:
        raise compiler.refuse(operator, f"its slope {slope} is negative or too large")
    return fixedpoint.leaky_relu(x, _ratio(compiler, operator), real) + int(output.zero_points[0])


def _hard_swish(compiler: _Compiler, operator: Operator, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    source, output = compiler.tensor(operator, 0), compiler.output(operator)
    values = fixedpoint.hard_swish(x, np.float32(source.scales[0]), np.float32(output.scales[0]))
    if values is None:
        raise compiler.refuse(operator, "the scales of its tensors differ too much")
    return values + int(output.zero_points[0])


def _softmax(compiler: _Compiler, operator: Operator) -> _Record:
    source, output = compiler.tensor(operator, 0), compiler.output(operator)
    view = compiler.view(operator, source)
    if compiler.view(operator, output) != view:
        raise compiler.damaged(operator, "input and output differ in shape")
    _fixed_output(compiler, operator, 1 / 256, -128)
    beta = float(operator.options["Beta"])
    if not 0 < beta < 1e6 or float(source.scales[0]) * beta < 2**-26 or view[2] > _SOFTMAX_CHANNELS:
        raise compiler.refuse(operator, f"beta {beta}, the input's scale or {view[2]} channels are out of range")
    terms = fixedpoint.softmax_terms(float(source.scales[0]), beta).astype("<i4")
    return _Record(
        kind=_SOFTMAX,
        inputs=(source.index,),
        output=output.index,
        views=(view, view),
        weights=np.frombuffer(terms.tobytes(), np.int8),
    )


_RECORDERS: dict[str, _Recorder] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": _pool(_AVERAGE_POOL),
    "MAX_POOL_2D": _pool(_MAX_POOL),
    "ADD": _combine(_ADD),
    "SUB": _combine(_SUB),
    "MUL": _combine(_MUL),
    "MEAN": _mean,
    "SOFTMAX": _softmax,
    "QUANTIZE": _unary(_rescaled),
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
    compiler: _Compiler, operator: Operator, source: Tensor, output: Tensor, counts: Sequence[int],
    path_in: _Path, path_out: _Path,
) -> _Record:  # fmt: skip
    """Copies a box; dimensions of 1 are dropped and those that continue each other are joined."""
    views = compiler.any_view(source), compiler.any_view(output)
    compiler.same_scale(operator, source, output)
    box: list[tuple[int, int, int]] = []
    for n, step_in, step_out in zip(counts, path_in.steps, path_out.steps, strict=True):
        if n == 1:
            continue
        if box and box[-1][1] == step_in * n and box[-1][2] == step_out * n:
            n *= box.pop()[0]
        box.append((n, step_in, step_out))
    if len(box) > 4:
        raise compiler.refuse(operator, "it moves values over more than 4 dimensions")
    ns, steps_in, steps_out = zip(*[(1, 0, 0)] * (4 - len(box)), *box, strict=True)
    fields = np.array([*ns, path_in.first, *steps_in, path_out.first, *steps_out], "<i4")
    return _Record(
        kind=_COPY,
        inputs=(source.index,),
        output=output.index,
        views=views,
        weights=np.frombuffer(fields.tobytes(), np.int8),
    )


def _axis(compiler: _Compiler, operator: Operator, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise compiler.damaged(operator, f"axis {axis} of {rank} dimensions")
    return axis % rank


def _concatenation(compiler: _Compiler, operator: Operator) -> list[_Record]:
    output = compiler.output(operator)
    axis = _axis(compiler, operator, int(operator.options["Axis"]), len(output.shape))
    if int(operator.options["FusedActivationFunction"]) != 0:
        raise compiler.refuse(operator, "a fused activation is not supported here")
    records, at, steps = [], 0, _steps(output.shape)
    for position in range(len(operator.inputs)):
        source = compiler.tensor(operator, position)
        at_end = source.shape[:axis] + output.shape[axis : axis + 1] + source.shape[axis + 1 :]
        if len(source.shape) != len(output.shape) or at_end != output.shape:
            raise compiler.damaged(operator, "its shapes do not go together")
        paths = _Path(0, _steps(source.shape)), _Path(at * steps[axis], steps)
        records.append(_copy(compiler, operator, source, output, source.shape, *paths))
        at += source.shape[axis]
    if at != output.shape[axis]:
        raise compiler.damaged(operator, f"its inputs have {at} values along axis {axis}, not {output.shape[axis]}")
    return records


def _split(compiler: _Compiler, operator: Operator) -> list[_Record]:
    source, axes = compiler.tensor(operator, 1), compiler.integers(operator, 0)
    if len(axes) != 1:
        raise compiler.damaged(operator, f"{len(axes)} axes")
    axis, steps = _axis(compiler, operator, axes[0], len(source.shape)), _steps(source.shape)
    records, at = [], 0
    for index in operator.outputs:
        output = compiler.graph.tensors[index]
        whole = output.shape[:axis] + source.shape[axis : axis + 1] + output.shape[axis + 1 :]
        if len(output.shape) != len(source.shape) or whole != source.shape:
            raise compiler.damaged(operator, "its shapes do not go together")
        paths = _Path(at * steps[axis], steps), _Path(0, _steps(output.shape))
        records.append(_copy(compiler, operator, source, output, output.shape, *paths))
        at += output.shape[axis]
    if at != source.shape[axis]:
        raise compiler.damaged(operator, f"its outputs have {at} values along axis {axis}, not {source.shape[axis]}")
    return records


def _pad(compiler: _Compiler, operator: Operator) -> list[_Record]:
    source, output, pads = compiler.tensor(operator, 0), compiler.output(operator), compiler.integers(operator, 1)
    before, after = pads[::2], pads[1::2]
    if min(pads, default=-1) < 0 or len(pads) != 2 * len(source.shape):
        raise compiler.damaged(operator, f"padding {pads} of {len(source.shape)} dimensions")
    if tuple(map(sum, zip(source.shape, before, after, strict=True))) != output.shape:
        raise compiler.damaged(operator, "its output has another shape than its input with the padding")
    steps = _steps(output.shape)
    first = sum(n * step for n, step in zip(before, steps, strict=True))
    paths = _Path(0, _steps(source.shape)), _Path(first, steps)
    copy = _copy(compiler, operator, source, output, source.shape, *paths)
    fill = _Record(kind=_FILL, inputs=(output.index,), output=output.index, views=(copy.views[1], copy.views[1]))
    return [fill, copy]


def _transpose(compiler: _Compiler, operator: Operator) -> list[_Record]:
    source, output, order = compiler.tensor(operator, 0), compiler.output(operator), compiler.integers(operator, 1)
    if sorted(order) != list(range(len(source.shape))) or tuple(source.shape[i] for i in order) != output.shape:
        raise compiler.damaged(operator, f"its order {order} and its shapes do not go together")
    steps = _steps(source.shape)
    paths = _Path(0, tuple(steps[i] for i in order)), _Path(0, _steps(output.shape))
    return [_copy(compiler, operator, source, output, output.shape, *paths)]


def _strided_slice(compiler: _Compiler, operator: Operator) -> list[_Record]:
    source, output, masks = compiler.tensor(operator, 0), compiler.output(operator), operator.options
    begin, end, stride = (compiler.integers(operator, i) for i in (1, 2, 3))
    rank = len(source.shape)
    if int(masks["EllipsisMask"]) or int(masks["NewAxisMask"]):
        raise compiler.refuse(operator, "an ellipsis or a new axis is not supported")
    if not len(begin) == len(end) == len(stride) <= rank or 0 in stride:
        raise compiler.damaged(operator, f"begin {begin}, end {end} and strides {stride} of {rank} dimensions")
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
            raise compiler.damaged(operator, "it takes nothing")
        first += taken[0] * step
        counts.append(len(taken))
        steps.append(taken.step * step)
    if math.prod(counts) != output.size:
        raise compiler.damaged(operator, f"it takes {counts}, which is not its output's shape")
    return [_copy(compiler, operator, source, output, counts, _Path(first, tuple(steps)), _Path(0, _steps(counts)))]


_COPIERS: dict[str, Callable[[_Compiler, Operator], list[_Record]]] = {
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "PAD": _pad,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
}


# ------------------------------------------------------------------------ writer


class _Writer:
    """Plans the arena and lays the sections of the .tdm out (docs/SPEC.md, ".tdm")."""

    def __init__(self, compiler: _Compiler, records: list[_Record], source: Tensor, embedding: Tensor) -> None:
        self.compiler = compiler
        self.records = records
        self.source = source
        self.embedding = embedding
        self.data = bytearray()
        self.views: dict[tuple[int, int, int, int], int] = {}  # (root tensor, h, w, c) -> index
        self.constants: set[int] = set()
        self.plan = self.plan_activations()

    def root(self, tensor: int) -> int:
        return self.compiler.through_views(tensor)

    def plan_activations(self) -> Plan:
        """Step 0 is the arrival of the input; the record i runs at step i + 1."""
        first = {self.root(self.source.index): 0}
        last = dict(first)
        for step, record in enumerate(self.records, 1):
            first.setdefault(self.root(record.output), step)
            for tensor in (*record.inputs, record.output):
                if not self.compiler.is_constant(tensor):
                    last[self.root(tensor)] = step
        last[self.root(self.embedding.index)] = len(self.records) + 1
        roots = list(first)
        blocks = [Block(self.compiler.graph.tensors[root].size, first[root], last[root]) for root in roots]
        plan = plan_arena(blocks)
        self.offsets = dict(zip(roots, plan.offsets, strict=True))
        return plan

    def view(self, tensor: int, shape: tuple[int, int, int]) -> int:
        return self.views.setdefault((self.root(tensor), *shape), len(self.views))

    def constant(self, tensor: int) -> None:
        """Puts the values of a constant input into the data section, once."""
        root = self.root(tensor)
        content = self.compiler.graph.tensors[root]
        if not self.compiler.is_constant(tensor) or root in self.offsets:
            return
        if content.data is None or len(content.data) != content.size or content.sparse:
            raise FormatError(f"tensor {root} ({content.name}) does not hold {content.size} values")
        self.constants.add(root)
        self.offsets[root] = self.append(content.data)

    def append(self, content: bytes) -> int:
        """Puts bytes into the data section, 4-byte aligned; returns their offset."""
        at = len(self.data)
        self.data += content + bytes(-len(content) % 4)
        return at

    def vector(self, tensor: Tensor) -> int:
        """The tensor as it enters or leaves the frozen part, in any shape that holds it."""
        known = [i for (root, *_), i in self.views.items() if root == self.root(tensor.index)]
        if known:
            return known[0]
        return self.view(tensor.index, self.compiler.any_view(tensor))

    def op(self, record: _Record) -> bytes:
        tensors = self.compiler.graph.tensors
        indices = [self.view(t, s) for t, s in zip((*record.inputs, record.output), record.views, strict=True)]
        second = indices[1] if len(record.inputs) == 2 else 0
        for tensor in record.inputs:
            self.constant(tensor)
        weights = channels = 0
        if record.weights is not None:
            weights = self.append(record.weights.tobytes())
        if record.multipliers:
            multipliers, shifts = zip(*record.multipliers, strict=True)
            biases = (record.biases & 0xFFFFFFFF).astype("<u4").tobytes()
            shifts_bytes = np.array(shifts, np.int8).tobytes()
            channels = self.append(biases + np.array(multipliers, "<i4").tobytes() + shifts_bytes)
        return struct.pack(
            "<4B2H4B2H4bII",
            record.kind, indices[0], second, indices[-1],
            *record.taps, *record.stride, *record.dilation, *record.pad,
            int(tensors[record.inputs[0]].zero_points[0]), int(tensors[record.output].zero_points[0]), *record.clamp,
            weights, channels,
        )  # fmt: skip

    def tail_record(self, layer: TailLayer) -> bytes:
        operator = self.compiler.graph.operators[layer.operator]
        weights, scales = self.compiler.weights(operator, 0)
        source = float(self.compiler.graph.tensors[layer.input].scales[0])
        biases = self.compiler.biases(operator, layer.n_out) * (source * scales.astype(np.float64))
        return struct.pack(
            "<HHBxxxIII",
            layer.n_in, layer.n_out, int(layer.relu),
            self.append(weights.tobytes()),
            self.append(scales.astype("<f4").tobytes()),
            self.append(biases.astype("<f4").tobytes()),
        )  # fmt: skip

    def tdm(self, tail: Sequence[TailLayer], softmax: bool) -> bytes:
        ops = b"".join(self.op(record) for record in self.records)
        frozen_data = bytes(self.data)
        tail_records = b"".join(self.tail_record(layer) for layer in tail)
        ends = self.vector(self.source), self.vector(self.embedding)  # may add a view
        quantisation = struct.pack(
            "<fifi",
            float(self.embedding.scales[0]), int(self.embedding.zero_points[0]),
            float(self.source.scales[0]), int(self.source.zero_points[0]),
        )  # fmt: skip
        flags = {root: _CONSTANT if root in self.constants else 0 for root, *_ in self.views}
        shapes = b"".join(struct.pack("<HHHH", *shape, flags[root]) for root, *shape in self.views)
        # Arena offsets stay out: a better plan computes the same embedding.
        embedding_hash = zlib.crc32(ops + frozen_data + shapes + struct.pack("<HH", *ends) + quantisation) or 1
        meta = struct.pack("<IIHHHH", self.compiler.graph.hash, self.plan.size, *ends, int(softmax), 0)
        meta += quantisation + struct.pack("<I", embedding_hash)
        tensors = b"".join(
            struct.pack("<IHHHH", self.offsets[root], *shape, flags[root]) for root, *shape in self.views
        )
        if self.plan.size > _native.lib.TD_MAX_ARENA:
            raise UnsupportedModelError(
                f"the activations need {self.plan.size} bytes; this core takes at most {_native.lib.TD_MAX_ARENA}"
            )
        limits = _native.lib.TD_MAX_OPS, _native.lib.TD_MAX_TENSORS
        if len(self.records) > limits[0] or len(self.views) > limits[1]:
            raise UnsupportedModelError(
                f"the part before the cut has {len(self.records)} operators and {len(self.views)} tensors; "
                f"this core takes at most {limits[0]} and {limits[1]}"
            )
        sections = {
            _SECTION_META: meta,
            _SECTION_TENSORS: tensors,
            _SECTION_OPS: ops,
            _SECTION_TAIL: tail_records,
            _SECTION_DATA: bytes(self.data),
        }
        return write_sections(_native.lib.TD_MAGIC_MODEL, sections)
