"""Small .tflite files made directly from the schema's objects: thousands in the time of one conversion."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
_TYPES = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int64): 4, np.dtype(np.int16): 7,
          np.dtype(np.int8): 9}  # fmt: skip
# Options whose names do not follow from the operator's.
_OPTIONS = {"AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "MEAN": "Reducer", "SVDF": "SVDF",
            "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM"}  # fmt: skip


class Builder:
    """Tensors and operators in the order in which they are added, then the bytes."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}

    def tensor(
        self, shape: Any, dtype: Any = np.float32, scale: Any = None, zero_point: Any = 0, *, axis: int = 0,
        data: Any = None, variable: bool = False,
    ) -> int:  # fmt: skip
        """An activation, or a constant with `data`; one scale, or one for each index along `axis`."""
        made = schema.TensorT()
        made.name = f"t{len(self.tensors)}"
        made.shape = [int(n) for n in shape]
        made.type, made.buffer, made.isVariable = _TYPES[np.dtype(dtype)], 0, variable
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape).copy()
            made.quantization.quantizedDimension = axis
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
        return self.tensor(np.shape(values), dtype, scale, zero_point, axis=axis, data=values)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.tensors[tensor].shape)

    def operator(self, name: str, inputs: Any, outputs: Any, **options: Any) -> None:
        """`options` are fields of the operator's options; the others have their defaults."""
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(name, len(self.codes))
        made.inputs, made.outputs = [int(i) for i in inputs], list(outputs)
        made.intermediates = options.pop("_intermediates", None)
        kind = _OPTIONS.get(name, "".join(part.capitalize() for part in name.replace("_2D", "2_D").split("_")))
        found = getattr(schema, f"{kind}OptionsT", None)
        filled = found() if found else None
        for field, value in options.items():
            assert hasattr(filled, field), (kind, field)
            setattr(filled, field, value)
        if filled is not None and vars(filled):
            made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
            made.builtinOptions = filled
        self.operators.append(made)

    def op(self, name: str, inputs: Any, output: Any, **options: Any) -> int:
        """An operator whose one output is a tensor, or of this shape (then float32). Returns the output."""
        if isinstance(output, tuple):
            output = self.tensor(output)
        self.operator(name, inputs, [output], **options)
        return int(output)

    def window(self, name: str, inputs: Any, taps: Any, channels: int, *, stride: Any = (1, 1),
               dilation: Any = (1, 1), padding: int = SAME, output: Any = None, **options: Any) -> int:  # fmt: skip
        """A convolution or a pool of the first of `inputs`."""
        size = self.shape(inputs[0])[1:3]
        reach = [(n - 1) * gap + 1 for n, gap in zip(taps, dilation, strict=True)]
        out = [
            -(-n // s) if padding == SAME else -(-(n - r + 1) // s) for n, r, s in zip(size, reach, stride, strict=True)
        ]
        options |= {"padding": padding, "strideH": stride[0], "strideW": stride[1]}
        if name.endswith("POOL_2D"):
            options |= {"filterHeight": taps[0], "filterWidth": taps[1]}
        else:
            options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
        return self.op(name, inputs, (1, *out, channels) if output is None else output, **options)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], self.buffers, []
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = 1
            model.operatorCodes.append(code)
        writer = flatbuffers.Builder(1024)
        writer.Finish(model.Pack(writer), b"TFL3")
        return bytes(writer.Output())
