"""A compiled model: its .tdm, and what the host knows about it.

A model is cut in two. The part before the cut stays as it is and runs in int8, byte for byte like
LiteRT's reference kernels; the dense layers after it are what a board trains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import DataError
from ..progress import Progress
from .arena import Plan
from .graph import Graph

__all__ = ["Model", "OperatorRow", "TailLayer"]

Int8Array = npt.NDArray[np.int8]
# What a tensor of a .tdm can hold, by the schema's name: in the order of enum td_type.
DTYPES: dict[str, np.dtype[Any]] = {
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "FLOAT32": np.dtype(np.float32),
}


def integer_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest value of a signed integer type."""
    half = 1 << (8 * dtype.itemsize - 1)
    return -half, half - 1


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
    """A layer after the cut: where it lives in the .tflite, its geometry, and what of it learns.

    Shapes are (height, width, channels); pairs are (vertical, horizontal).
    """

    operator: int
    name: str
    kind: int  # enum td_op_kind
    inputs: tuple[int, ...]  # numbers of the layers it reads: 0 the embedding, n the n-th layer
    input: int  # tensor indices; -1: none
    weights: int
    bias: int
    output: int
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    taps: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    activation: int  # enum td_activation
    parameter: float  # slope of a LEAKY_RELU
    filter_size: int  # weights of one output channel; 0 for layers without
    first: int  # weights learn in the channels from this one on
    first_bias: int

    @property
    def n_in(self) -> int:
        """Number of values it reads."""
        return math.prod(self.in_shape)

    @property
    def n_out(self) -> int:
        """Number of values it computes."""
        return math.prod(self.out_shape)

    @property
    def n_weights(self) -> int:
        """Weights that learn."""
        return (self.out_shape[2] - self.first) * self.filter_size

    @property
    def n_biases(self) -> int:
        """Biases that learn."""
        return self.out_shape[2] - self.first_bias if self.filter_size else 0

    @property
    def n_parameters(self) -> int:
        """Weights and biases that learn."""
        return self.n_weights + self.n_biases

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass."""
        return self.out_shape[0] * self.out_shape[1] * self.out_shape[2] * self.filter_size

    @property
    def is_dense(self) -> bool:
        """A dense layer of which all learns."""
        return self.name == "FULLY_CONNECTED" and self.first == self.first_bias == 0

    @property
    def relu(self) -> bool:
        """A ReLU is fused into it."""
        return self.activation == 1

    def limited(self, first: int, first_bias: int) -> TailLayer:
        """The same with fewer channels that learn."""
        return replace(self, first=first, first_bias=first_bias)


@dataclass(frozen=True)
class Model:
    """A compiled model. `tdm` is what a board holds; the rest says what is in it.

    Shapes leave out the batch. Real values are scale * (value - zero point); a float32 input or output has the scale 1
    and the zero point 0. A model compiled whole has no tail: its embedding is the model's output.
    """

    tdm: bytes = field(repr=False)
    graph: Graph = field(repr=False)
    arena: Plan
    rows: tuple[OperatorRow, ...] = field(repr=False)
    tail: tuple[TailLayer, ...]
    softmax: bool  # the tail's last layer feeds a softmax
    cut: int  # tensor index
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[Any]
    input_scale: float
    input_zero_point: int
    embedding_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]  # of the embedding
    embedding_scale: float
    embedding_zero_point: int

    @property
    def arena_size(self) -> int:
        """Bytes of RAM that the frozen part needs for its activations."""
        return self.arena.size

    @property
    def input_size(self) -> int:
        """Number of values of one input."""
        return math.prod(self.input_shape)

    @property
    def embedding_size(self) -> int:
        """Number of values of the tensor at the cut."""
        return math.prod(self.embedding_shape)

    @property
    def n_classes(self) -> int:
        """Outputs of the last layer, or of a model that was compiled whole."""
        return self.tail[-1].n_out if self.tail else self.embedding_size

    @property
    def n_parameters(self) -> int:
        """Trained weights and biases."""
        return sum(layer.n_parameters for layer in self.tail)

    @property
    def is_dense(self) -> bool:
        """The tail is a chain of dense layers, all of which learns."""
        return all(layer.is_dense for layer in self.tail)

    @property
    def hash(self) -> int:
        """CRC-32 of the .tflite; binds tuned weights to the model they belong to."""
        return self.graph.hash

    @property
    def embedding_hash(self) -> int:
        """CRC-32 of the frozen part; binds packs to it. A tuned model keeps it."""
        return int(self.native.embedding_hash)

    @property
    def has_state(self) -> bool:
        """Whether a run depends on the runs before (SVDF, LSTM)."""
        return bool(self.native.has_state)

    @property
    def macs(self) -> int:
        """Multiply-adds of the frozen part for one input."""
        return sum(row.macs for row in self.rows if not row.trained)

    def describe(self) -> tuple[OperatorRow, ...]:
        """One row for each operator, in the order in which they run."""
        return self.rows

    def quantise(self, values: npt.ArrayLike, source: str = "the input") -> npt.NDArray[Any]:
        """Real inputs as Model.input_dtype: integers at the input's scale, any shape.

        Rounded half away from zero, as the QUANTIZE of LiteRT, and clamped.

        Raises DataError naming `source` for NaN or infinite values.
        """
        real = np.asarray(values, np.float32)
        if not np.isfinite(real).all():
            raise DataError(f"{source} holds NaN or infinite values; clean them before they are quantised")
        if self.input_dtype.kind == "f":
            return real
        steps = (real / np.float32(self.input_scale)).astype(np.float64)  # in which adding a half is exact
        scaled = np.trunc(steps + np.copysign(0.5, steps)) + self.input_zero_point
        quantised: npt.NDArray[Any] = np.clip(scaled, *integer_range(self.input_dtype)).astype(self.input_dtype)
        return quantised

    def dequantise(self, embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The real values, float32, of embeddings (or outputs of a whole model) of any shape."""
        steps = embeddings.astype(np.float32) - np.float32(self.embedding_zero_point)
        return (steps * np.float32(self.embedding_scale)).astype(np.float32)

    @cached_property
    def native(self) -> Any:
        """The opened td_model, for calls into the core; it borrows `tdm` and lives as long as this Model."""
        handle = _native.ffi.new("td_model *")
        data = _native.view(self.tdm)
        _native.check(_native.lib.td_model_open(handle, data, len(self.tdm)), "opening the compiled model")
        return handle

    def check_inputs(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Inputs (n, *input_shape) of input_dtype as rows (n, input_size); dimensions of 1 may be left out or added.

        DataError when the shape or the type differs.
        """
        inputs = np.asarray(x)
        if inputs.dtype != self.input_dtype or inputs.ndim == 0 or not _same_shape(inputs.shape[1:], self.input_shape):
            raise DataError(
                f"the model needs {self.input_dtype} inputs of shape (n, {', '.join(map(str, self.input_shape))}), "
                f"not {inputs.dtype} {inputs.shape}. Model.quantise makes {self.input_dtype} of real values"
            )
        return np.ascontiguousarray(inputs).reshape(len(inputs), self.input_size)

    def embed(self, x: npt.ArrayLike, progress: Progress | None = None) -> npt.NDArray[Any]:
        """Runs the frozen part.

        `x` is (n, *input_shape) of input_dtype, dimensions of 1 may be left out or added; the result is
        (n, embedding_size) of output_dtype, for integers the same bytes that LiteRT's reference kernels give for the
        tensor at the cut. A model with state (has_state) starts without a past, and each row is its next run. DataError
        when the shape or the type differs.
        """
        rows = self.check_inputs(x)
        embeddings = np.empty((len(rows), self.embedding_size), self.output_dtype)
        # int64 gives the alignment that the core asks for.
        arena = np.zeros(max(2, -(-self.arena_size // 8)), np.int64).view(np.int8)
        model, memory = self.native, _native.ffi.from_buffer("uint8_t[]", arena)
        source = arena[model.input_offset :][: model.input_bytes].view(self.input_dtype)
        result = arena[model.embedding_offset :][: model.embedding_bytes].view(self.output_dtype)
        _native.check(_native.lib.td_model_reset(model, memory, arena.size), "resetting the model")
        for done, row in enumerate(rows):
            source[:] = row
            _native.check(_native.lib.td_model_run(model, memory, arena.size), "running the model")
            embeddings[done] = result
            if progress is not None:
                progress(done + 1, len(rows))
        return embeddings


def _same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]
