"""Reads a .tflite into plain typed data.

The bytes may come from anywhere: whatever they hold, the result is a Graph whose indices and buffers
are in range, or a FormatError or UnsupportedModelError that says what is wrong. Operators are not
judged here; `tinydream.compiler` does that when it compiles them.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError, UnsupportedModelError

__all__ = ["Graph", "Operator", "Tensor", "read_bytes", "read_graph"]

_IDENTIFIER = b"TFL3"
_MAX_ITEMS = 4096  # tensors or operators; models for microcontrollers have tens
_MAX_RANK = 8

# The options that the compiler of an operator reads: the schema's class and its fields. Operators that
# are not listed are imported without options.
_WINDOW = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", (*_WINDOW, "DilationHFactor", "DilationWFactor")),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_WINDOW, "DilationHFactor", "DilationWFactor")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterHeight", "FilterWidth")),
    "MAX_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterHeight", "FilterWidth")),
    "ADD": ("AddOptions", ("FusedActivationFunction", "PotScaleInt16")),
    "SUB": ("SubOptions", ("FusedActivationFunction", "PotScaleInt16")),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask"),
    ),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "SVDF": ("SVDFOptions", ("Rank", "FusedActivationFunction")),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ("UnidirectionalSequenceLSTMOptions", ("CellClip", "TimeMajor")),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the graph. The *_at fields are byte offsets in the file, None when absent."""

    index: int
    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]  # like shape, -1 where the model leaves a dimension open
    dtype: str  # the schema's name, e.g. "INT8"
    scales: npt.NDArray[np.float32]  # empty when not quantised
    zero_points: npt.NDArray[np.int64]
    axis: int  # dimension of per-channel scales
    buffer: int
    data: bytes | None  # None for activations
    data_at: int | None
    scales_at: int | None
    zero_points_at: int | None
    sparse: bool
    variable: bool  # keeps its values from run to run

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """One operator; inputs and outputs are tensor indices, -1 for an optional input that is absent."""

    index: int
    name: str  # e.g. "CONV_2D"; a custom operator is "CUSTOM:its_code"
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, float]
    intermediates: tuple[int, ...] = ()  # tensors that only say how inner values are quantised


@dataclass(frozen=True)
class Graph:
    """The one subgraph of a .tflite. `hash` is the CRC-32 of the whole file."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    hash: int
    size: int  # bytes of the file

    def shapes_of(self, operator: Operator) -> str:
        """The operator's tensors in words, for messages."""

        def text(index: int) -> str:
            return "absent" if index < 0 else "x".join(map(str, self.tensors[index].shape)) or "scalar"

        return f"{', '.join(map(text, operator.inputs))} -> {', '.join(map(text, operator.outputs))}"


def read_bytes(source: bytes | bytearray | memoryview | str | Path) -> bytes:
    """The bytes themselves, or the content of the file at a path. FormatError when it cannot be read."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read the model {source}: {error.strerror or error}") from error


def read_graph(data: bytes, name: str = "the model") -> Graph:
    """Imports a .tflite; errors call it `name`.

    Raises FormatError when the bytes are not a whole .tflite, UnsupportedModelError when they hold
    several subgraphs or keep data outside the flatbuffer.
    """
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise FormatError(
            f"{name} is not a .tflite: the identifier TFL3 is missing. Give a model converted by TensorFlow Lite"
        )
    try:
        return _Reader(data).graph()
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, AssertionError) as error:
        # What the flatbuffers runtime raises when an offset leads out of the file.
        raise FormatError(f"{name}: the .tflite is truncated or damaged ({error}). Convert or copy it again") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        import tflite

        self.schema: Any = tflite
        self.data = data
        self.base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        self.model = tflite.Model.GetRootAs(data, 0)
        self.contents: dict[tuple[int | None, int], bytes] = {}  # tensors may share a buffer
        self.operator_names = _constants(tflite.BuiltinOperator)
        self.type_names = _constants(tflite.TensorType)
        self.option_types = _constants(tflite.BuiltinOptions)

    def graph(self) -> Graph:
        n = self.model.SubgraphsLength()
        if n == 0:
            raise FormatError("the .tflite holds no graph. It is truncated or damaged")
        if n > 1:
            raise UnsupportedModelError(f"the .tflite has {n} subgraphs; only models with one are supported")
        subgraph = self.model.Subgraphs(0)
        codes = self.items("operator codes", self.model.OperatorCodesLength(), self.model.OperatorCodes)
        names = [self.operator_name(code) for code in codes]
        raw_tensors = self.items("tensors", subgraph.TensorsLength(), subgraph.Tensors)
        tensors = tuple(self.tensor(i, raw) for i, raw in enumerate(raw_tensors))
        raw_operators = self.items("operators", subgraph.OperatorsLength(), subgraph.Operators)
        return Graph(
            tensors=tensors,
            operators=tuple(self.operator(i, raw, names, len(tensors)) for i, raw in enumerate(raw_operators)),
            inputs=self.indices(subgraph.InputsAsNumpy(), len(tensors), "graph inputs"),
            outputs=self.indices(subgraph.OutputsAsNumpy(), len(tensors), "graph outputs"),
            hash=zlib.crc32(self.data),
            size=len(self.data),
        )

    def items(self, what: str, n: int, get: Callable[[int], Any]) -> list[Any]:
        if n > _MAX_ITEMS:
            raise FormatError(f"the .tflite claims {n} {what}, more than the {_MAX_ITEMS} that are accepted")
        return [get(i) for i in range(n)]

    def indices(self, vector: Any, n_tensors: int, what: str, optional: bool = False) -> tuple[int, ...]:
        values = _vector(vector)
        if len(values) > _MAX_ITEMS:
            raise FormatError(f"{what}: {len(values)} entries are too many")
        if any(not (-1 if optional else 0) <= value < n_tensors for value in values):
            raise FormatError(f"{what} name a tensor that does not exist: {values.tolist()}")
        return tuple(int(value) for value in values)

    def operator_name(self, code: Any) -> str:
        # Files older than 2020 have the code in an int8 field only; newer ones have it in both or in the new one.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self.operator_names.get(number, f"BUILTIN_{number}")
        if name == "CUSTOM":
            name = f"CUSTOM:{_text(code.CustomCode())}"
        return name

    def at(self, view: Any) -> int | None:
        """Where in the file a vector's data lies."""
        if isinstance(view, int) or len(view) == 0:
            return None
        return int(view.__array_interface__["data"][0] - self.base)

    def constant(self, view: Any) -> bytes | None:
        """A buffer's bytes; overlapping buffers cannot make more of them than the file has."""
        if isinstance(view, int) or len(view) == 0:
            return None
        key = self.at(view), len(view)
        if key not in self.contents:
            self.contents[key] = view.tobytes()
            if sum(map(len, self.contents.values())) > len(self.data):
                raise FormatError("the buffers of the .tflite overlap; it is damaged")
        return self.contents[key]

    def tensor(self, index: int, raw: Any) -> Tensor:
        name = _text(raw.Name())
        where = f"tensor {index} ({name})"
        shape, signature = _vector(raw.ShapeAsNumpy()), _vector(raw.ShapeSignatureAsNumpy())
        if len(shape) > _MAX_RANK or len(signature) not in (0, len(shape)):
            raise FormatError(f"{where}: a shape of {len(shape)} dimensions")
        if raw.Buffer() >= self.model.BuffersLength():
            raise FormatError(f"{where}: buffer {raw.Buffer()} does not exist")
        buffer = self.model.Buffers(raw.Buffer())
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise UnsupportedModelError(f"{where}: its data lies outside the flatbuffer (a model above 2 GB)")
        content = buffer.DataAsNumpy()
        quantization = raw.Quantization()
        scales: Any = 0
        zero_points: Any = 0
        if quantization is not None:
            scales, zero_points = quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()
        return Tensor(
            index=index,
            name=name,
            shape=tuple(int(n) for n in shape),
            signature=tuple(int(n) for n in (signature if len(signature) else shape)),
            dtype=self.type_names.get(raw.Type(), f"TYPE_{raw.Type()}"),
            scales=_vector(scales).astype(np.float32),
            zero_points=_vector(zero_points).astype(np.int64),
            axis=0 if quantization is None else quantization.QuantizedDimension(),
            buffer=raw.Buffer(),
            data=self.constant(content),
            data_at=self.at(content),
            scales_at=self.at(scales),
            zero_points_at=self.at(zero_points),
            sparse=raw.Sparsity() is not None,
            variable=bool(raw.IsVariable()),
        )

    def operator(self, index: int, raw: Any, names: list[str], n_tensors: int) -> Operator:
        if raw.OpcodeIndex() >= len(names):
            raise FormatError(f"operator {index}: operator code {raw.OpcodeIndex()} does not exist")
        name = names[raw.OpcodeIndex()]
        where = f"operator {index} ({name})"
        return Operator(
            index=index,
            name=name,
            inputs=self.indices(raw.InputsAsNumpy(), n_tensors, f"{where}: inputs", optional=True),
            outputs=self.indices(raw.OutputsAsNumpy(), n_tensors, f"{where}: outputs"),
            options=self.options(raw, name, where),
            intermediates=self.indices(raw.IntermediatesAsNumpy(), n_tensors, f"{where}: intermediates", optional=True),
        )

    def options(self, raw: Any, name: str, where: str) -> dict[str, float]:
        if name not in _OPTIONS:
            return {}
        class_name, fields = _OPTIONS[name]
        union = raw.BuiltinOptions()
        if union is None or self.option_types.get(raw.BuiltinOptionsType()) != class_name:
            raise FormatError(f"{where}: its options are missing")
        options = getattr(self.schema, class_name)()
        options.Init(union.Bytes, union.Pos)
        return {field: getattr(options, field)() for field in fields}


def _constants(namespace: Any) -> dict[int, str]:
    return {value: name for name, value in vars(namespace).items() if isinstance(value, int)}


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "replace")


def _vector(values: Any) -> npt.NDArray[Any]:
    """The schema's accessors return the number 0 for an absent vector."""
    return np.zeros(0, np.int64) if isinstance(values, int) else values
