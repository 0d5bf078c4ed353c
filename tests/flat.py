"""Writes small .tflite files directly, without a converter: thousands of models in the time of one conversion."""

from __future__ import annotations

from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np

TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int16): schema.TensorType.INT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.float32): schema.TensorType.FLOAT32,
}


class Builder:
    """Tensors, then operators on them, then the bytes."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.buffers = [schema.BufferT()]

    def tensor(
        self, shape: Any, dtype: Any = np.int8, scale: Any = None, zero_point: Any = 0, *, axis: int = 0,
        data: np.ndarray | None = None, variable: bool = False,
    ) -> int:  # fmt: skip
        """An activation, or a constant with `data`; one scale, or one for each index along `axis`."""
        made = schema.TensorT()
        made.name = f"t{len(self.tensors)}"
        made.shape = [int(n) for n in shape]
        made.type = TYPES[np.dtype(dtype)]
        made.isVariable = variable
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape).copy()
            made.quantization.quantizedDimension = axis
        made.buffer = 0
        if data is not None:
            made.buffer = len(self.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.buffers.append(buffer)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(
        self, values: Any, dtype: Any = np.int32, scale: Any = None, zero_point: Any = 0, axis: int = 0
    ) -> int:
        values = np.asarray(values, dtype)
        return self.tensor(values.shape, dtype, scale, zero_point, axis=axis, data=values)

    def operator(self, name: str, inputs: list[int], outputs: list[int], **options: Any) -> None:
        """`options` are fields of the operator's options; `_class` names their class where the name does not."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.codes), inputs, outputs
        made.intermediates = options.pop("_intermediates", None)
        self.codes.append(code)
        kind = options.pop(
            "_class", "".join(part.capitalize() for part in name.replace("_2D", "2_D").split("_")) + "Options"
        )
        if options or hasattr(schema, kind + "T"):
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, kind + "T")()
            for field, value in options.items():
                assert hasattr(made.builtinOptions, field), (kind, field)
                setattr(made.builtinOptions, field, value)
        self.operators.append(made)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, self.codes, [graph], self.buffers
        writer = flatbuffers.Builder(1024)
        writer.Finish(model.Pack(writer), b"TFL3")
        return bytes(writer.Output())
