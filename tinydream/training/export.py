"""Writes a .tflite that LiteRT itself can train: for Linux devices that learn as boards do.

The file keeps the frozen part as it is, byte for byte, and puts signatures around it (docs/SPEC.md, "Trainable
.tflite"): `embed`, `train`, `infer`, `save`, `restore`. All are made of builtin operators; the gradient is a graph
like the rest. Weights live in resource variables, so they last as long as the interpreter.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from .._native import lib
from ..errors import FormatError, UnsupportedModelError
from ..models.graph import Graph
from .train import Trainer

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["SIGNATURES", "export_trainable"]

_ALIGNMENT = 16  # of constants in a .tflite
_OPEN = -1  # a dimension that the caller of a signature chooses
_VERSIONS = {"DEQUANTIZE": 2}  # of operators, where int8 needs more than 1

_Type = Literal["FLOAT32", "INT32", "INT8", "BOOL", "RESOURCE"]


def export_trainable(model: Model, tflite: bytes) -> bytes:
    """The .tflite that `model` was compiled from, as one that trains model.tail in LiteRT; bytes of a .tflite.

    tflite: the file that `model` was compiled from. Raises FormatError when it is another one, UnsupportedModelError
    for a model without a tail or with operators that LiteRT's builtin kernels lack.
    """
    if zlib.crc32(tflite) != model.hash:
        raise FormatError("export_trainable: these bytes are not the .tflite that the model was compiled from")
    if not model.tail:
        raise UnsupportedModelError("this model was compiled whole: nothing of it trains. Compile it with a cut")
    functions = {int(lib.TD_ACT_NONE), int(lib.TD_ACT_RELU)}
    if not model.is_dense or any(layer.activation not in functions for layer in model.tail):
        raise UnsupportedModelError(
            "only a chain of dense layers, with a RELU or nothing behind each, all of which learns, can be exported. "
            "Compile the model with a later cut; a board trains other tails too"
        )
    for operator in model.graph.operators:
        if operator.name.startswith("CUSTOM"):
            raise UnsupportedModelError(
                f"operator {operator.index} ({operator.name}) is not builtin; only builtin operators can be exported"
            )
    return _Exporter(model, tflite).file()


# ---------------------------------------------------------------------- flatbuffer


class _File:
    """A .tflite under construction. What the old file has is referred to where it lies, at the new file's end."""

    def __init__(self, old: bytes) -> None:
        import flatbuffers
        import tflite

        self.schema: Any = tflite
        self.old = tflite.Model.GetRootAs(old, 0)
        padded = old + bytes(-len(old) % _ALIGNMENT)
        self.builder: Any = flatbuffers.Builder(len(padded) + 65536)
        self.builder.Prep(_ALIGNMENT, len(padded))
        self.builder.CreateByteVector(padded)  # first of all, so it ends the file: offsets count from there
        self.old_end = len(padded)
        self.codes = [self.kept(self.old.OperatorCodes(i)) for i in range(self.old.OperatorCodesLength())]
        self.code_numbers: dict[str, int] = {}
        self.buffers = [self.kept(self.old.Buffers(i)) for i in range(self.old.BuffersLength())]
        self.empty_buffer = self.buffer(b"")

    def kept(self, table: Any) -> int:
        """The offset of a table of the old file."""
        return int(self.old_end - table._tab.Pos)

    def table(self, kind: str, **fields: float) -> int:
        """A new table of the schema. Fields are scalars, or offsets of what was made before."""
        getattr(self.schema, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            getattr(self.schema, f"{kind}Add{name}")(self.builder, value)
        return int(getattr(self.schema, f"{kind}End")(self.builder))

    def text(self, content: str) -> int:
        return int(self.builder.CreateString(content))

    def integers(self, values: Iterable[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.array([*values], "<i4")))

    def tables(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def buffer(self, content: bytes) -> int:
        """The number of a new buffer."""
        if content:
            self.builder.Prep(_ALIGNMENT, len(content))
            self.buffers.append(self.table("Buffer", Data=int(self.builder.CreateByteVector(content))))
        else:
            self.buffers.append(self.table("Buffer"))
        return len(self.buffers) - 1

    def code(self, name: str) -> int:
        """The number of a builtin operator's code."""
        if name not in self.code_numbers:
            code = getattr(self.schema.BuiltinOperator, name)
            self.code_numbers[name] = len(self.codes)
            self.codes.append(self.table(
                "OperatorCode", BuiltinCode=code, DeprecatedBuiltinCode=min(code, 127),
                Version=_VERSIONS.get(name, 1),
            ))  # fmt: skip
        return self.code_numbers[name]

    def finish(self, subgraphs: Sequence[int], signatures: Sequence[int]) -> bytes:
        root = self.table(
            "Model", Version=3, Description=self.text("Trainable; written by TinyDream"),
            OperatorCodes=self.tables(self.codes), Subgraphs=self.tables(subgraphs),
            Buffers=self.tables(self.buffers), SignatureDefs=self.tables(signatures),
        )  # fmt: skip
        self.builder.Finish(root, b"TFL3")
        return bytes(self.builder.Output())


# ----------------------------------------------------------------------- operators


@dataclass(frozen=True)
class _Value:
    """A tensor of a subgraph."""

    index: int
    shape: tuple[int, ...]  # _OPEN where the caller chooses
    type: _Type


class _Subgraph:
    """A subgraph under construction, operator by operator in the order in which they run."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.tensors: list[int] = []
        self.operators: list[int] = []

    def value(self, name: str, shape: tuple[int, ...], kind: _Type = "FLOAT32", content: bytes = b"") -> _Value:
        file = self.file
        fields = {
            "Name": file.text(name),
            "Shape": file.integers(1 if n == _OPEN else n for n in shape),
            "Type": getattr(file.schema.TensorType, kind),
            "Buffer": file.buffer(content) if content else file.empty_buffer,
        }
        if _OPEN in shape:
            fields["ShapeSignature"] = file.integers(shape)
        self.tensors.append(file.table("Tensor", **fields))
        return _Value(len(self.tensors) - 1, shape, kind)

    def constant(self, values: npt.ArrayLike, name: str = "constant") -> _Value:
        """A tensor of int32 or float32 numbers that come with the file."""
        array = np.asarray(values)
        kind: _Type = "FLOAT32" if array.dtype.kind == "f" else "INT32"
        content = array.astype("<f4" if kind == "FLOAT32" else "<i4").tobytes()
        return self.value(name, array.shape, kind, content)

    def run(
        self, name: str, inputs: Sequence[_Value], output: _Value | None, options: str = "", **fields: float
    ) -> None:
        """Adds a builtin operator; `options` is the schema's table of its options."""
        file = self.file
        parts = {
            "OpcodeIndex": file.code(name),
            "Inputs": file.integers(value.index for value in inputs),
            "Outputs": file.integers([] if output is None else [output.index]),
        }
        if options:
            parts["BuiltinOptions"] = file.table(options, **fields)
            parts["BuiltinOptionsType"] = getattr(file.schema.BuiltinOptions, options)
        self.operators.append(file.table("Operator", **parts))

    def apply(
        self, name: str, inputs: Sequence[_Value], shape: tuple[int, ...], options: str = "",
        kind: _Type = "FLOAT32", called: str | None = None, **fields: float,
    ) -> _Value:  # fmt: skip
        """As `run`, with a new tensor for the result."""
        output = self.value(called or name.lower(), shape, kind)
        self.run(name, inputs, output, options, **fields)
        return output

    def times(self, a: _Value, b: _Value) -> _Value:
        """Value by value, of two tensors of which `a` has the larger shape."""
        return self.apply("MUL", (a, b), a.shape, "MulOptions")

    def minus(self, a: _Value, b: _Value) -> _Value:
        return self.apply("SUB", (a, b), a.shape, "SubOptions")

    def over(self, a: _Value, b: _Value) -> _Value:
        return self.apply("DIV", (a, b), a.shape, "DivOptions")

    def total(self, a: _Value, *axes: int) -> _Value:
        left = tuple(n for axis, n in enumerate(a.shape) if axis not in axes)
        return self.apply("SUM", (a, self.constant(axes)), left, "ReducerOptions", KeepDims=0)

    def number(self, a: _Value) -> _Value:
        """As float32."""
        types = self.file.schema.TensorType
        return self.apply("CAST", (a,), a.shape, "CastOptions",
                          InDataType=getattr(types, a.type), OutDataType=types.FLOAT32)  # fmt: skip

    def reshaped(self, a: _Value, *shape: int) -> _Value:
        return self.apply("RESHAPE", (a, self.constant(shape)), shape)

    def product(self, a: _Value, b: _Value, shape: tuple[int, ...], transposed: bool = False) -> _Value:
        """The matrix product a b, or a^T b."""
        return self.apply("BATCH_MATMUL", (a, b), shape, "BatchMatMulOptions", AdjX=int(transposed), AdjY=0)

    def table(self, name: str, inputs: Sequence[_Value], outputs: Sequence[_Value]) -> int:
        file = self.file
        return file.table(
            "SubGraph", Name=file.text(name), Tensors=file.tables(self.tensors),
            Inputs=file.integers(value.index for value in inputs),
            Outputs=file.integers(value.index for value in outputs),
            Operators=file.tables(self.operators),
        )  # fmt: skip


# ---------------------------------------------------------------------- signatures


@dataclass(frozen=True)
class _Variable:
    """A weight matrix or a bias vector of the tail."""

    name: str
    initial: npt.NDArray[np.float32]


class _Exporter:
    """Builds one subgraph for each signature, and one that fills the variables."""

    def __init__(self, model: Model, tflite: bytes) -> None:
        self.model, self.graph = model, model.graph
        self.output = _File(tflite)
        self.variables = tuple(_variables(model))
        self.subgraphs: list[int] = []
        self.signatures: list[int] = []

    def file(self) -> bytes:
        for name in SIGNATURES:
            getattr(self, name)()
        self.fill_variables()
        return self.output.finish(self.subgraphs, self.signatures)

    def add(self, graph: _Subgraph, name: str, inputs: Mapping[str, _Value], outputs: Mapping[str, _Value]) -> None:
        """A signature and its subgraph."""
        file = self.output

        def maps(values: Mapping[str, _Value]) -> int:
            return file.tables([
                file.table("TensorMap", Name=file.text(key), TensorIndex=value.index) for key, value in values.items()
            ])  # fmt: skip

        self.signatures.append(file.table(
            "SignatureDef", SignatureKey=file.text(name), SubgraphIndex=len(self.subgraphs),
            Inputs=maps(inputs), Outputs=maps(outputs),
        ))  # fmt: skip
        self.subgraphs.append(graph.table(name, [*inputs.values()], [*outputs.values()]))

    # -- variables

    def start(self, graph: _Subgraph) -> None:
        """Fills the variables, unless another subgraph did so before in this interpreter."""
        graph.run("CALL_ONCE", (), None, "CallOnceOptions", InitSubgraphIndex=len(SIGNATURES))

    def handle(self, graph: _Subgraph, variable: _Variable) -> _Value:
        name, container = self.output.text(variable.name), self.output.text("")
        return graph.apply("VAR_HANDLE", (), (), "VarHandleOptions", "RESOURCE", SharedName=name, Container=container)

    def read(self, graph: _Subgraph, variable: _Variable) -> _Value:
        handle = self.handle(graph, variable)
        shape = variable.initial.shape
        return graph.apply("READ_VARIABLE", (handle,), shape, "ReadVariableOptions", called=variable.name)

    def assign(self, graph: _Subgraph, variable: _Variable, value: _Value) -> None:
        graph.run("ASSIGN_VARIABLE", (self.handle(graph, variable), value), None, "AssignVariableOptions")

    def fill_variables(self) -> None:
        graph = _Subgraph(self.output)
        for variable in self.variables:
            self.assign(graph, variable, graph.constant(variable.initial, variable.name))
        self.subgraphs.append(graph.table("fill_variables", (), ()))

    # -- the model

    def frozen(self, graph: _Subgraph) -> tuple[_Value, _Value]:
        """The frozen part with the old file's own operators: model input, and embedding (batch, n) in float32.

        Goes first: old operators call tensors by their old numbers.
        """
        kept = self.output
        old = kept.old.Subgraphs(0)
        graph.tensors = [kept.kept(old.Tensors(i)) for i in range(old.TensorsLength())]
        graph.operators = [kept.kept(old.Operators(i)) for i in _needed(self.graph, self.model.cut)]
        source = self.graph.tensors[self.graph.inputs[0]]
        cut = self.graph.tensors[self.model.cut]
        x = _Value(source.index, source.signature, _dtype(source.dtype))
        embedding = _Value(cut.index, cut.signature, _dtype(cut.dtype))
        batch = x.shape[0] if x.shape else 1
        if embedding.type != "FLOAT32":
            embedding = graph.apply("DEQUANTIZE", (embedding,), embedding.shape, "DequantizeOptions")
        return x, graph.reshaped(embedding, batch, self.model.embedding_size)

    def layers(self, graph: _Subgraph, x: _Value) -> tuple[list[_Value], list[_Value]]:
        """The inputs of the tail's layers with the logits behind them, and the layers' weights as they stand."""
        values, matrices = [x], []
        functions = self.output.schema.ActivationFunctionType
        for layer, (weights, biases) in zip(self.model.tail, self.pairs(), strict=True):
            matrices.append(self.read(graph, weights))
            values.append(graph.apply(
                "FULLY_CONNECTED", (values[-1], matrices[-1], self.read(graph, biases)), (x.shape[0], layer.n_out),
                "FullyConnectedOptions", FusedActivationFunction=functions.RELU if layer.relu else functions.NONE,
            ))  # fmt: skip
        return values, matrices

    def pairs(self) -> list[tuple[_Variable, _Variable]]:
        """Weights and biases of each layer."""
        return [*zip(self.variables[::2], self.variables[1::2], strict=True)]

    # -- what the signatures do

    def infer(self) -> None:
        graph = _Subgraph(self.output)
        x, embedding = self.frozen(graph)
        self.start(graph)
        logits = self.layers(graph, embedding)[0][-1]
        probabilities = graph.apply("SOFTMAX", (logits,), logits.shape, "SoftmaxOptions", Beta=1.0)
        self.add(graph, "infer", {"x": x}, {"probabilities": probabilities, "logits": logits})

    def embed(self) -> None:
        graph = _Subgraph(self.output)
        x, embedding = self.frozen(graph)
        self.add(graph, "embed", {"x": x}, {"embedding": embedding})

    def train(self) -> None:
        """One step down the gradient of the mean over the rows of weight * cross-entropy."""
        graph = _Subgraph(self.output)
        self.start(graph)
        x = graph.value("x", (_OPEN, self.model.embedding_size))
        labels = graph.value("y", (_OPEN,), "INT32")
        weights = graph.value("weight", (_OPEN,))
        rate = graph.value("learning_rate", ())
        values, matrices = self.layers(graph, x)
        logits = values[-1]
        probabilities = graph.apply("SOFTMAX", (logits,), logits.shape, "SoftmaxOptions", Beta=1.0)
        right = self.one_hot(graph, labels)
        loss = self.loss(graph, logits, right, weights)
        rows = graph.number(graph.apply("SHAPE", (labels,), (1,), "ShapeOptions", "INT32",
                                        OutType=self.output.schema.TensorType.INT32))  # fmt: skip
        step = graph.times(weights, graph.over(rate, rows))
        delta = graph.times(graph.minus(probabilities, right), graph.reshaped(step, _OPEN, 1))
        for number in reversed(range(len(matrices))):
            source, matrix = values[number], matrices[number]
            down = delta
            if number > 0:  # before the weights change
                down = graph.product(delta, matrix, source.shape)
                if self.model.tail[number - 1].relu:
                    down = graph.times(down, self.positive(graph, source))
            variables = self.pairs()[number]
            fall = graph.product(delta, source, matrix.shape, transposed=True)
            self.assign(graph, variables[0], graph.minus(matrix, fall))
            biases = self.read(graph, variables[1])
            self.assign(graph, variables[1], graph.minus(biases, graph.total(delta, 0)))
            delta = down
        self.add(graph, "train", {"x": x, "y": labels, "weight": weights, "learning_rate": rate}, {"loss": loss})

    def one_hot(self, graph: _Subgraph, labels: _Value) -> _Value:
        depth, on, off = (graph.constant(value) for value in (self.model.n_classes, 1.0, 0.0))
        shape = _OPEN, self.model.n_classes
        return graph.apply("ONE_HOT", (labels, depth, on, off), shape, "OneHotOptions", Axis=-1)

    def loss(self, graph: _Subgraph, logits: _Value, right: _Value, weights: _Value) -> _Value:
        """Mean cross-entropy of the rows by their weights, before the step."""
        logs = graph.apply("LOG_SOFTMAX", (logits,), logits.shape, "LogSoftmaxOptions")
        each = graph.times(graph.total(graph.times(logs, right), 1), weights)
        mean = graph.over(graph.total(each, 0), graph.total(weights, 0))
        return graph.apply("NEG", (mean,), (), "NegOptions", called="loss")

    def positive(self, graph: _Subgraph, a: _Value) -> _Value:
        """1 where a value is above 0, else 0."""
        zero = graph.constant(0.0)
        return graph.number(graph.apply("GREATER", (a, zero), a.shape, "GreaterOptions", "BOOL"))

    def save(self) -> None:
        graph = _Subgraph(self.output)
        self.start(graph)
        self.add(graph, "save", {}, {variable.name: self.read(graph, variable) for variable in self.variables})

    def restore(self) -> None:
        graph = _Subgraph(self.output)
        self.start(graph)  # or the next signature would fill the variables again
        values = {variable.name: graph.value(variable.name, variable.initial.shape) for variable in self.variables}
        for variable in self.variables:
            self.assign(graph, variable, values[variable.name])
        self.add(graph, "restore", values, {})


SIGNATURES = ("infer", "embed", "train", "save", "restore")  # infer is first: the file's default


def _variables(model: Model) -> list[_Variable]:
    """Weights, then biases of each layer, as the trainer starts from them."""
    made, values = [], Trainer(model, None).parameters
    for number, layer in enumerate(model.tail):
        weights, biases, values = np.split(values, [layer.n_in * layer.n_out, layer.n_parameters])
        made.append(_Variable(f"weights_{number}", weights.reshape(layer.n_out, layer.n_in)))
        made.append(_Variable(f"biases_{number}", biases))
    return made


def _needed(graph: Graph, end: int) -> list[int]:
    """Operators that tensor `end` depends on, in the order of the file; shapes that are computed included."""
    wanted, needed = {end}, []
    for operator in reversed(graph.operators):
        if wanted & set(operator.outputs):
            needed.append(operator.index)
            wanted |= set(operator.inputs)
    return needed[::-1]


def _dtype(name: str) -> _Type:
    if name not in get_args(_Type):
        raise UnsupportedModelError(f"a model with {name} values at its input or cut cannot be exported")
    return cast(_Type, name)
