"""Small .tflite files made directly from the schema's objects: hundreds in the time of one conversion."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
_TYPES = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int16): 7, np.dtype(np.int8): 9}
_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "MEAN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions", "LEAKY_RELU": "LeakyReluOptions", "RESHAPE": "ReshapeOptions",
    "CONCATENATION": "ConcatenationOptions",
}  # fmt: skip


class Builder:
    """Tensors and operators in the order in which they are added."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}

    def tensor(self, shape: Any, values: Any = None, dtype: Any = np.float32, quantisation: Any = None) -> int:
        """An activation, or a constant of `values`. quantisation: scales, zero points, dimension."""
        made = schema.TensorT()
        made.shape = [int(n) for n in shape]
        made.type, made.buffer, made.name = _TYPES[np.dtype(dtype)], 0, f"t{len(self.tensors)}".encode()
        if values is not None:
            made.buffer = len(self.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values, dtype).tobytes(), np.uint8)
            self.buffers.append(buffer)
        if quantisation is not None:
            made.quantization = schema.QuantizationParametersT()
            scales, zero_points, made.quantization.quantizedDimension = quantisation
            made.quantization.scale = np.asarray(scales, np.float32).ravel()
            made.quantization.zeroPoint = np.asarray(zero_points, np.int64).ravel()
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, values: Any, dtype: Any = np.float32, quantisation: Any = None) -> int:
        return self.tensor(np.shape(values), values, dtype, quantisation)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.tensors[tensor].shape)

    def op(self, name: str, inputs: Any, output: Any, **options: Any) -> int:
        """Adds an operator; `output` is a shape (of a float32 tensor) or a tensor. Returns the output."""
        if isinstance(output, tuple):
            output = self.tensor(output)
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(name, len(self.codes))
        made.inputs, made.outputs = [int(i) for i in inputs], [output]
        if name in _OPTIONS:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[name])
            made.builtinOptions = getattr(schema, f"{_OPTIONS[name]}T")()
            for key, value in options.items():
                setattr(made.builtinOptions, key, value)
        self.operators.append(made)
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
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
