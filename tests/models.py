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


def convert(build: Callable[[Any], Any], seed: int, per_channel_dense: bool = True) -> bytes:
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
