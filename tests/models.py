"""Small random int8 .tflite models made with TensorFlow, and LiteRT's reference kernels to hold ours against."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("TINYDREAM_MODELS", PROJECT.parent / "shared" / "models"))


def real_model(name: str) -> bytes:
    path = MODELS / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {MODELS} (set TINYDREAM_MODELS)")
    return path.read_bytes()


def convert(
    build: Callable[[Any], Any], seed: int, per_channel_dense: bool = True, *, float_ends: bool = False
) -> bytes:
    """A fully int8 .tflite of the Keras model that build(keras) returns, with random weights and biases."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    model = build(keras)
    for weights in model.trainable_variables:
        if weights.name in ("bias", "beta"):
            weights.assign(random.normal(size=weights.shape, scale=0.3))
    shape = (1, *model.input_shape[1:])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([random.normal(size=shape).astype(np.float32)] for _ in range(16))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if not float_ends:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel_dense
    return bytes(converter.convert())


def ds_cnn(keras: Any, batch: int | None = 1) -> Any:
    """The shape of the demo's network."""
    layers = keras.layers
    x = inputs = keras.Input((100, 1, 6), batch_size=batch)
    x = layers.Conv2D(16, (5, 1), strides=(2, 1), padding="same", activation="relu")(x)
    for channels in (24, 32):
        x = layers.DepthwiseConv2D((3, 1), padding="same", activation="relu")(x)
        x = layers.Conv2D(channels, 1, activation="relu")(x)
    x = layers.AveragePooling2D((x.shape[1], 1))(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(7, activation="softmax")(x))


@cache
def demo_model(seed: int = 0, batch: int | None = 1) -> bytes:
    return convert(lambda keras: ds_cnn(keras, batch), seed)


def dense_chain(keras: Any) -> Any:
    layers = keras.layers
    x = inputs = keras.Input((24,), batch_size=1)
    for width in (20, 16):
        x = layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


@cache
def dense_model(per_channel: bool = True, seed: int = 0) -> bytes:
    return convert(dense_chain, seed, per_channel)


def reference(tflite: bytes) -> Any:
    """LiteRT with its reference kernels and every tensor readable."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=tflite,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter


def run_reference(tflite: bytes, inputs: np.ndarray, tensor: int) -> np.ndarray:
    """What LiteRT leaves in a tensor for each input, flattened: (n, size) int8."""
    interpreter = reference(tflite)
    index = interpreter.get_input_details()[0]["index"]
    rows = []
    for row in inputs:
        interpreter.set_tensor(index, row[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(tensor).ravel())
    return np.array(rows)


def random_network(seed: int) -> Callable[[Any], Any]:
    """A network drawn from the seed: every supported operator, stride, padding, dilation and activation turns up."""
    random = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    def build(keras: Any) -> Any:
        layers = keras.layers

        def convolution(x: Any) -> Any:
            dilation = pick((1, 1), (1, 1), (2, 1), (2, 3))
            strides = pick(1, 2, (2, 1), (1, 3)) if dilation == (1, 1) else 1
            kernel, padding = (int(random.integers(1, 5)), int(random.integers(1, 5))), pick("same", "valid")
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            if padding == "valid" and (reach[0] > x.shape[1] or reach[1] > x.shape[2]):
                padding = "same"
            options = {"strides": strides, "padding": padding, "dilation_rate": dilation}
            if pick(True, False):
                return layers.Conv2D(int(random.integers(1, 20)), kernel, **options)(x)
            if isinstance(strides, tuple):  # TensorFlow takes one stride for both directions here
                options["strides"] = strides[0]
            return layers.DepthwiseConv2D(kernel, depth_multiplier=pick(1, 1, 2, 3), **options)(x)

        def pool(x: Any) -> Any:
            kind = pick(layers.AveragePooling2D, layers.MaxPooling2D)
            return kind((min(3, x.shape[1]), min(2, x.shape[2])), strides=pick(1, 2), padding=pick("same", "valid"))(x)

        def activation(x: Any) -> Any:
            kind = pick("none", "relu", "relu6")
            return x if kind == "none" else layers.ReLU(max_value=6 if kind == "relu6" else None)(x)

        x = inputs = keras.Input(
            (int(random.integers(4, 20)), int(random.integers(1, 14)), int(random.integers(1, 9))), batch_size=1
        )
        for _ in range(int(random.integers(2, 5))):
            x = activation(convolution(x))
            if pick(True, False, False):
                x = pool(x)
            # (At one position the converter turns this into the sum with a constant.)
            if x.shape[1] * x.shape[2] > 1 and pick(True, False, False):
                side = layers.Conv2D(x.shape[3], 3, padding="same")(x)
                x = activation(layers.Add()([x, side]))
        end = pick("mean", "pool", "flatten")
        if end == "mean":
            x = layers.GlobalAveragePooling2D(keepdims=pick(True, False))(x)
        elif end == "pool":
            x = layers.AveragePooling2D((x.shape[1], x.shape[2]))(x)
        x = layers.Flatten()(x)
        if pick(True, False):
            x = layers.Dense(int(random.integers(1, 30)), activation="relu")(x)
        return keras.Model(inputs, layers.Dense(3, activation=pick("softmax", None))(x))

    return build


def requantised(tflite: bytes, seed: int, outputs: bool = True) -> bytes:
    """The same file with random scales and zero points of its activations (of inputs only: keeps the outputs')."""
    from tinydream.models.graph import read_graph

    random, content, graph = np.random.default_rng(seed), bytearray(tflite), read_graph(tflite)
    for tensor in graph.tensors:
        if tensor.data is None and tensor.scales_at is not None and (outputs or tensor.index in graph.inputs):
            scale = np.float32(10 ** random.uniform(-2.5, 0))
            content[tensor.scales_at : tensor.scales_at + 4] = scale.tobytes()
            zero_point = np.int64(random.integers(-128, 128))
            content[tensor.zero_points_at : tensor.zero_points_at + 8] = zero_point.tobytes()
    return bytes(content)


def renamed_operator(tflite: bytes, number: int, replacement: int) -> bytes:
    """The same file with operator code `number` turned into another one, in both of its fields."""
    import tflite as schema

    content = bytearray(tflite)
    model = schema.Model.GetRootAs(tflite, 0)
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == number:
            for slot in (4, 10):
                offset = code._tab.Offset(slot)
                if offset:
                    content[code._tab.Pos + offset] = replacement
    return bytes(content)


def moving_network(seed: int) -> Callable[[Any], Any]:
    """A network drawn from the seed, of sums and products of all shapes and of operators that only move values."""
    random = np.random.default_rng(seed)

    def number(low: int, high: int) -> int:
        return int(random.integers(low, high))

    def build(keras: Any) -> Any:
        layers, ops = keras.layers, keras.ops

        def side(x: Any) -> Any:
            return layers.Conv2D(x.shape[3], 2, padding="same")(x)

        def constant(x: Any) -> Any:
            shapes = ((x.shape[3],), (1,), (x.shape[1], 1, 1), x.shape[1:], (1, x.shape[2], x.shape[3]))
            return random.normal(size=shapes[number(0, len(shapes))]).astype(np.float32)

        def window(x: Any) -> Any:
            top, left = number(0, max(1, x.shape[1] - 1)), number(0, max(1, x.shape[2] - 1))
            return x[:, top :: number(1, 3), left:, number(-3, 0) :] if x.shape[3] > 2 else x[:, top:, :, ::-1]

        moves: list[Callable[[Any], Any]] = [
            lambda x: layers.ZeroPadding2D(((number(0, 3), number(0, 3)), (number(0, 3), number(1, 3))))(x),
            lambda x: layers.Permute([int(i) + 1 for i in random.permutation(3)])(x),
            lambda x: layers.Concatenate(axis=number(1, 4))([x, side(x), x]),
            window,
            lambda x: ops.subtract(*(layers.Concatenate(axis=2)([x, side(x)])[:, :, i::2][:, :, :1] for i in (0, 1))),
            lambda x: ops.multiply(*ops.split(layers.Concatenate(axis=3)([side(x), x]), 2, axis=3)),
            lambda x: ops.add(x, constant(x)),
            lambda x: ops.subtract(constant(x), x),
            lambda x: ops.relu(ops.multiply(x, constant(x))),
            lambda x: ops.multiply(x, ops.sigmoid(side(x)[:, :1, :1])),
            lambda x: ops.relu6(ops.subtract(x, side(x))),
            lambda x: layers.LeakyReLU()(x),
        ]
        x = inputs = keras.Input((number(3, 9), number(2, 8), number(2, 7)), batch_size=1)
        x = side(x)
        for _ in range(4):
            x = moves[number(0, len(moves))](x)
        return keras.Model(inputs, x)

    return build


@cache
def moving_model() -> bytes:
    """With a TABLE, a SUB, a MUL and copies."""
    return convert(moving_network(3), 3)
