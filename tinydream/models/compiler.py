"""Compiles a .tflite into a .tdm: finds the cut, gathers the operators' records, plans the arena.

Everything that a board would have to work out is worked out here and in `operators`.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from .. import _native
from ..errors import FormatError, UnsupportedModelError, UsageError
from ..files import write_sections
from .arena import Block, Plan, plan_arena
from .graph import Operator, Tensor, read_bytes, read_graph
from .model import DTYPES, Model, OperatorRow, TailLayer, integer_range
from .operators import CONVERSIONS, RULES, TO_INT8, VIEWS, CheckedGraph, Record, Rule
from .operators_f32 import RULES_F32
from .operators_int16 import RULES_INT16
from .operators_recurrent import RULES_RECURRENT
from .tail import Learn, Tail, find_tail, layer_records

__all__ = ["Compiler", "compile_model"]

_SECTION_META, _SECTION_TENSORS, _SECTION_OPS, _SECTION_TAIL, _SECTION_DATA = 1, 2, 3, 4, 5
_CONSTANT, _STATE = 1, 2  # flags of a tensor record
_RULES = {**RULES, **RULES_INT16, **RULES_F32, **RULES_RECURRENT}


def compile_model(
    tflite: bytes | str | Path, cut: str | int | None = None, learn: Learn | None = None, *, whole: bool = False
) -> Model:
    """Compiles a .tflite (its bytes, or a path) for training after `cut`, or to run `whole`, without training.

    `cut` is the tensor at which the frozen part ends: its name, "#12" for tensor 12, or the number of layers with
    weights to train (an int or digits), counted from the end. Default: the last one trains. `learn` says what of the
    layers behind the cut learns: "all" (the default), "bias", "none" or a number of last output channels, for every
    layer, or by operator, "none,12=8,14=all" or {12: 8, 14: "all"}. What does not learn stays as it is, and its
    activations are not kept for it. With `whole`, nothing trains, and the
    host does a QUANTIZE right after the input and a DEQUANTIZE right before the output.

    Raises FormatError for bytes that are not a .tflite, UnsupportedModelError for a model that cannot be run
    or trained (naming the operator or the tensor), UsageError for a cut or a `learn` that does not exist.
    """
    if whole and (cut is not None or learn is not None):
        raise UsageError("a model that is compiled whole has no cut, and nothing of it learns; give one of the two")
    name = str(tflite) if isinstance(tflite, (str, Path)) else "the model"
    compiler = Compiler(read_graph(read_bytes(tflite), name))
    return compiler.compile_whole() if whole else compiler.compile(cut, learn)


class Compiler(CheckedGraph):
    """Cuts a graph in two and turns both halves into a Model."""

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
            inputs = operator.inputs[:1] if operator.name in VIEWS else operator.inputs
            pending += [index for index in inputs if index >= 0 and self.graph.tensors[index].data is None]
        ready = {start}
        for index in sorted(needed):
            operator = self.graph.operators[index]
            first = operator.inputs[:1] if operator.name in VIEWS else operator.inputs
            unready = (i for i in first if i >= 0 and i not in ready and self.graph.tensors[i].data is None)
            if any(not self.is_state(i) for i in unready):
                raise self.damaged(operator, "it reads a tensor that nothing wrote before")
            ready.update(operator.outputs)
        if cut not in ready or self.is_constant(cut):
            raise FormatError(f"tensor {cut} is not computed from the model's input; the .tflite is damaged")
        return [self.graph.operators[index] for index in sorted(needed)]

    def is_state(self, index: int) -> bool:
        """Whether its operator alone writes the tensor, for its next run."""
        return self.graph.tensors[index].variable and index not in self.producer and index not in self.graph.inputs

    def records(self, operator: Operator) -> list[Record]:
        """What the operator becomes; nothing for one that only renames the shape."""
        if operator.name in VIEWS:
            self.check_view(operator)
            return []
        return self.rule(operator)(self, operator)

    def rule(self, operator: Operator) -> Rule:
        """The operator's rule for the type of its tensors; refuses what there is none for."""
        if not operator.outputs:
            raise self.damaged(operator, "it has no output")
        output = self.graph.tensors[operator.outputs[0]]
        read = [i for i in operator.inputs if i >= 0 and not self.is_constant(i) and not self.is_state(i)]
        sources = [self.graph.tensors[i] for i in read]
        kind = output.dtype
        if operator.name in CONVERSIONS:
            kind = f"{self.tensor(operator, 0).dtype}->{kind}"
        else:
            self.same_type(operator, *(tensor for tensor in sources if tensor.dtype in DTYPES), output)
        if (operator.name, kind) in _RULES:
            return _RULES[operator.name, kind]
        types = sorted(known for name, known in _RULES if name == operator.name)
        if types:
            raise self.refuse(operator, f"not supported in {kind}, only in {', '.join(types)}. Convert the model to "
                              f"one of these types, or choose an earlier cut. {TO_INT8}")  # fmt: skip
        known = ", ".join(sorted({name for name, _ in _RULES} | VIEWS))
        raise self.refuse(operator, f"not supported. Supported before the cut: {known}. Rebuild the model with "
                          "these, or choose an earlier cut")  # fmt: skip

    def compile(self, cut: str | int | None, learn: Learn | None) -> Model:
        """With the layers after the cut as the trainable tail."""
        return self.assemble(self.graph.inputs[0], find_tail(self, cut, learn))

    def compile_whole(self) -> Model:
        """From the first integer to the last: converters put a QUANTIZE and a DEQUANTIZE around them."""
        source, result = self.graph.inputs[0], self.graph.outputs[0]
        readers = [operator for operator in self.graph.operators if source in operator.inputs]
        if len(readers) == 1 and readers[0].name == "QUANTIZE" and self.graph.tensors[source].dtype == "FLOAT32":
            source = self.output(readers[0]).index
        last = self.producer.get(result)
        if last is not None and last.name == "DEQUANTIZE":
            result = self.tensor(last, 0).index
        return self.assemble(source, Tail(result, (), None))

    def assemble(self, at_start: int, tail: Tail) -> Model:
        """The model whose frozen part lies between a tensor and the cut."""
        at_cut, softmax = tail.cut, tail.softmax
        source = self.activation(self.graph.tensors[at_start])
        embedding = self.activation(self.graph.tensors[at_cut])
        for end in (source, embedding):
            if end.shape[:1] != (1,):
                raise UnsupportedModelError(
                    f"tensor {end.index} ({end.name}) has the shape {end.shape}; inputs and outputs need a first "
                    "dimension of 1, the batch. Convert the model with batch size 1"
                )
        input_scale, input_zero_point = _quantisation(source)
        scale, zero_point = _quantisation(embedding)
        frozen = self.frozen_operators(at_start, at_cut)
        records: list[Record] = []
        rows: list[OperatorRow] = []
        for operator in frozen:
            made = self.records(operator)
            records += made
            rows.append(self.row(operator, made))
        writer = _Writer(self, records, source, embedding)
        tdm, flash = writer.tdm(tail)
        rows += [self.tail_row(layer, size) for layer, size in zip(tail.layers, flash, strict=True)]
        if softmax is not None:
            rows.append(OperatorRow(softmax.index, softmax.name, (self.tensor(softmax, 0).shape,),
                                    self.output(softmax).shape, 0, 0, True))  # fmt: skip
        return Model(
            tdm=tdm,
            graph=self.graph,
            arena=writer.plan,
            rows=tuple(rows),
            tail=tail.layers,
            softmax=softmax is not None,
            cut=at_cut,
            input_shape=source.shape[1:],
            input_dtype=DTYPES[source.dtype],
            input_scale=input_scale,
            input_zero_point=input_zero_point,
            embedding_shape=embedding.shape[1:],
            output_dtype=DTYPES[embedding.dtype],
            embedding_scale=scale,
            embedding_zero_point=zero_point,
        )

    def row(self, operator: Operator, records: list[Record]) -> OperatorRow:
        """The operator's line of the description."""
        sources = {i for record in records for i in record.inputs if i not in operator.outputs}
        inputs = tuple(self.graph.tensors[i].shape for i in operator.inputs if i in (sources or operator.inputs[:1]))
        macs, flash = sum(record.macs for record in records), sum(record.flash for record in records)
        output = self.graph.tensors[operator.outputs[0]].shape
        return OperatorRow(operator.index, operator.name, inputs, output, macs, flash, False)

    def tail_row(self, layer: TailLayer, flash: int) -> OperatorRow:
        """The same for a layer behind the cut."""
        operator = self.graph.operators[layer.operator]
        shapes = tuple(self.graph.tensors[i].shape for i in operator.inputs[: len(layer.inputs)])
        return OperatorRow(operator.index, operator.name, shapes, self.graph.tensors[layer.output].shape, layer.macs,
                           flash, True)  # fmt: skip


def _quantisation(tensor: Tensor) -> tuple[float, int]:
    """Scale and zero point; what stands for them in a float32 tensor."""
    return (float(tensor.scales[0]), int(tensor.zero_points[0])) if tensor.dtype != "FLOAT32" else (1.0, 0)


def _bytes(tensor: Tensor) -> int:
    return tensor.size * DTYPES[tensor.dtype].itemsize


# ------------------------------------------------------------------------ writer


class _Writer:
    """Plans the arena and lays the sections of the .tdm out (docs/SPEC.md, ".tdm")."""

    def __init__(self, compiler: Compiler, records: list[Record], source: Tensor, embedding: Tensor) -> None:
        self.compiler = compiler
        self.records = records
        self.source = source
        self.embedding = embedding
        self.data = bytearray()
        self.views: dict[tuple[int, int, int, int], int] = {}  # (root tensor, h, w, c) -> index
        self.constants: set[int] = set()
        self.states: set[int] = set()
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
        for state in (state for record in self.records for state in record.states):
            first[state], last[state] = 0, len(self.records) + 1
        roots = list(first)
        sizes = {root: _bytes(self.compiler.graph.tensors[root]) for root in roots}
        onto: dict[int, int] = {}
        for step, record in enumerate(self.records, 1):
            output = self.root(record.output)
            dying = [root for root in map(self.root, record.replaceable) if last.get(root) == step]
            if dying and first[output] == step and sizes[dying[0]] == sizes[output]:
                onto[output] = roots.index(dying[0])
        blocks = [Block(sizes[root], first[root], last[root], onto.get(root)) for root in roots]
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
        if content.data is None or len(content.data) != _bytes(content) or content.sparse:
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

    def type_of(self, root: int) -> int:
        """enum td_type."""
        return list(DTYPES).index(self.compiler.graph.tensors[root].dtype)

    def op(self, record: Record) -> bytes:
        indices = [self.view(t, s) for t, s in zip((*record.inputs, record.output), record.views, strict=True)]
        # A second state is named where other operators have the height of their kernel.
        taps = (self.view(record.states[1], record.views[1]), 1) if len(record.states) > 1 else record.taps
        self.states.update(record.states)
        second = indices[1] if len(record.inputs) == 2 else 0
        for tensor in record.inputs:
            self.constant(tensor)
        weights = channels = 0
        if record.weights is not None:
            weights = self.append(record.weights.tobytes())
        if record.channels:
            channels = self.append(record.channels)
        return struct.pack(
            "<4B2H4B2H4sII",
            record.kind, indices[0], second, indices[-1],
            *taps, *record.stride, *record.dilation, *record.pad,
            self.range(record), weights, channels,
        )  # fmt: skip

    def range(self, record: Record) -> bytes:
        """Zero points and the range of the output, in the form of the output's type."""
        source, output = (self.compiler.graph.tensors[i] for i in (record.inputs[0], record.output))
        if output.dtype == "FLOAT32":
            return struct.pack("<I", record.activation)
        low, high = map(int, record.clamp or integer_range(DTYPES[output.dtype]))
        if output.dtype == "INT16":
            return struct.pack("<hh", low, high)
        zero_points = (int(tensor.zero_points[0]) if tensor.dtype == "INT8" else 0 for tensor in (source, output))
        return struct.pack("<4b", *zero_points, low, high)

    def tdm(self, tail: Tail) -> tuple[bytes, list[int]]:
        """The file, and the bytes that each layer behind the cut takes of it."""
        ops = b"".join(self.op(record) for record in self.records)
        frozen_data = bytes(self.data)
        tail_records, flash = layer_records(self.compiler, tail.layers, self.append)
        ends = self.vector(self.source), self.vector(self.embedding)  # may add a view
        quantisation = struct.pack("<fifi", *_quantisation(self.embedding), *_quantisation(self.source))
        flags = {
            root: _CONSTANT * (root in self.constants) + _STATE * (root in self.states) + (self.type_of(root) << 8)
            for root, *_ in self.views
        }
        shapes = b"".join(struct.pack("<HHHH", *shape, flags[root]) for root, *shape in self.views)
        # Arena offsets stay out: a better plan computes the same embedding.
        embedding_hash = zlib.crc32(ops + frozen_data + shapes + struct.pack("<HH", *ends) + quantisation) or 1
        meta = struct.pack("<IIHHHH", self.compiler.graph.hash, self.plan.size, *ends, int(tail.softmax is not None), 0)
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
        return write_sections(_native.lib.TD_MAGIC_MODEL, sections), flash
