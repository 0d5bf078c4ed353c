"""Random networks whose every operator trains, as float32 and as int8 .tflite, and their gradients by TensorFlow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from models import reference
from tflite_builder import NONE, RELU, RELU6, SAME, VALID, Builder

from tinydream.models.model import Model, TailLayer
from tinydream.models.tail import stored_filters

_FIXED = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "SOFTMAX": (1 / 256, -128)}
FUNCTIONS = ("RELU", "RELU6", "LEAKY_RELU", "HARD_SWISH", "LOGISTIC", "TANH")


@dataclass
class Network:
    """Draws the same network for the same seed; with `ranges` of its float32 tensors, as int8."""

    seed: int
    ranges: dict[int, tuple[float, float]] | None = None
    softmax: bool = True
    builder: Builder = field(default_factory=Builder)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.scales: dict[int, tuple[float, int]] = {}

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def pick(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices))]

    def fused(self) -> int:
        return int(self.pick(NONE, RELU, RELU6))

    def activation(self, shape: tuple[int, ...], fixed: tuple[float, int] | None = None) -> int:
        index = len(self.builder.tensors)
        if self.ranges is None:
            return self.builder.tensor(shape)
        low, high = min(0.0, self.ranges[index][0]), max(1e-3, self.ranges[index][1])
        scale = (high - low) / 255
        self.scales[index] = fixed or (scale, int(np.clip(round(-128 - low / scale), -128, 127)))
        return self.builder.tensor(shape, np.int8, *self.scales[index])

    def filters(self, x: int, shape: tuple[int, ...], axis: int) -> list[int]:
        """Weights and biases."""
        n = shape[axis]
        weights = self.random.normal(size=shape) / np.sqrt(np.prod(shape) / n)
        biases = self.random.normal(size=n, scale=0.3)
        if self.ranges is None:
            return [self.builder.constant(values, np.float32) for values in (weights, biases)]
        by_channel = np.abs(np.moveaxis(weights, axis, 0)).reshape(n, -1).max(1) / 127
        per = [n if i == axis else 1 for i in range(len(shape))]
        steps = self.scales[x][0] * by_channel
        return [
            self.builder.constant(np.rint(weights / by_channel.reshape(per)), np.int8, by_channel, axis=axis),
            self.builder.constant(np.rint(biases / steps), np.int32, steps),
        ]

    def geometry(self, x: int, most: int, dilates: bool) -> dict[str, Any]:
        size = self.builder.shape(x)[1:3]
        dilation = self.pick((1, 1), (1, 1), (2, 1), (2, 3)) if dilates else (1, 1)
        taps = self.number(1, most), self.number(1, most)
        reach = [(n - 1) * gap + 1 for n, gap in zip(taps, dilation, strict=True)]
        fits = all(r <= n for r, n in zip(reach, size, strict=True))
        stride = (self.number(1, 3), self.number(1, 3)) if dilation == (1, 1) else (1, 1)
        return {
            "taps": taps,
            "stride": stride,
            "dilation": dilation,
            "padding": self.pick(SAME, VALID) if fits else SAME,
        }

    def windowed(self, name: str, inputs: list[int], channels: int, where: dict[str, Any], **options: Any) -> int:
        size = self.builder.shape(inputs[0])[1:3]
        out = []
        for n, taps, gap, stride in zip(size, where["taps"], where["dilation"], where["stride"], strict=True):
            reach = (taps - 1) * gap + 1
            out.append(-(-n // stride) if where["padding"] == SAME else -(-(n - reach + 1) // stride))
        pools = name.endswith("POOL_2D")
        output = self.activation((1, *out, channels), self.scales.get(inputs[0]) if pools else None)
        return self.builder.window(name, inputs, channels=channels, output=output, **where, **options)

    def conv(self, x: int, n: int | None = None, **where: Any) -> int:
        n = n or self.number(1, 7)
        where = where or self.geometry(x, 4, True)
        inputs = [x, *self.filters(x, (n, *where["taps"], self.builder.shape(x)[3]), 0)]
        return self.windowed("CONV_2D", inputs, n, where, fusedActivationFunction=self.fused())

    def depthwise(self, x: int) -> int:
        times, where = self.number(1, 3), self.geometry(x, 4, True)
        n = times * self.builder.shape(x)[3]
        inputs = [x, *self.filters(x, (1, *where["taps"], n), 3)]
        return self.windowed("DEPTHWISE_CONV_2D", inputs, n, where, depthMultiplier=times,
                             fusedActivationFunction=self.fused())  # fmt: skip

    def pool(self, x: int) -> int:
        name = self.pick("AVERAGE_POOL_2D", "MAX_POOL_2D")
        return self.windowed(name, [x], self.builder.shape(x)[3], self.geometry(x, 4, False),
                             fusedActivationFunction=NONE)  # fmt: skip

    def function(self, x: int) -> int:
        name = self.pick(*FUNCTIONS)
        options = {"alpha": 0.3} if name == "LEAKY_RELU" else {}
        return self.builder.op(name, [x], self.activation(self.builder.shape(x), _FIXED.get(name)), **options)

    def add(self, x: int) -> int:
        """A residual connection, or two branches."""
        same = {"taps": (3, 2), "stride": (1, 1), "dilation": (1, 1), "padding": SAME}
        n = self.builder.shape(x)[3]
        y = self.conv(x, n, **same)
        z = self.pick(x, y) if self.number(0, 2) else self.conv(x, n, **same)
        return self.builder.op(
            "ADD", [y, z], self.activation(self.builder.shape(x)), fusedActivationFunction=self.fused()
        )

    def build(self, steps: int) -> bytes:
        x = source = self.activation((1, self.number(3, 8), self.number(2, 7), self.number(1, 5)))
        for _ in range(steps):
            x = self.pick(self.conv, self.depthwise, self.pool, self.function, self.add)(x)
        if self.number(0, 2):
            axes = self.builder.constant([1, 2], np.int32)
            x = self.builder.op("MEAN", [x, axes], self.activation((1, self.builder.shape(x)[3])))
        elif self.number(0, 2):
            shape = (1, int(np.prod(self.builder.shape(x))))
            flat = self.activation(shape, self.scales.get(x))
            x = self.builder.op("RESHAPE", [x, self.builder.constant(shape, np.int32)], flat, newShape=shape)
        size, n = int(np.prod(self.builder.shape(x))), self.number(2, 7)
        inputs = [x, *self.filters(x, (n, size), 0)]
        x = self.builder.op("FULLY_CONNECTED", inputs, self.activation((1, n)))
        if self.softmax:
            x = self.builder.op("SOFTMAX", [x], self.activation((1, n), _FIXED["SOFTMAX"]), beta=1.0)
        return self.builder.finish([source], [x])


def float_model(seed: int, steps: int = 4, **options: Any) -> bytes:
    return Network(seed, **options).build(steps)


def int8_model(seed: int, steps: int = 4, **options: Any) -> bytes:
    """The same, quantised by what random inputs give."""
    tflite = float_model(seed, steps, **options)
    interpreter = reference(tflite)
    shape, index = (interpreter.get_input_details()[0][key] for key in ("shape", "index"))
    ranges: dict[int, tuple[float, float]] = {}
    random = np.random.default_rng(seed)
    for _ in range(8):
        interpreter.set_tensor(index, random.normal(size=shape).astype(np.float32))
        interpreter.invoke()
        for details in interpreter.get_tensor_details():
            values = interpreter.get_tensor(details["index"])
            old = ranges.get(details["index"], (np.inf, -np.inf))
            ranges[details["index"]] = min(old[0], float(values.min())), max(old[1], float(values.max()))
    return Network(seed, ranges, **options).build(steps)


def kinds(model: Model) -> Counter[str]:
    return Counter(layer.name for layer in model.tail)


# ------------------------------------------------------------------ TensorFlow


def stored_parameters(model: Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Real filters (n, values) and biases of each layer with some, as the file has them."""
    from tinydream.models.compiler import Compiler

    checked = Compiler(model.graph)
    found = []
    for layer in model.tail:
        if layer.filter_size:
            filters, scales, biases = stored_filters(checked, model.graph.operators[layer.operator])
            real = filters.astype(np.float32) * (1 if scales is None else scales[:, None])
            found.append((real.astype(np.float64), biases.astype(np.float64)))
    return found


def _patches(tf: Any, layer: TailLayer, x: Any, padding: float) -> Any:
    """(taps, h, w, channels): the input under each tap."""
    (top, left), (h, w, _), span = layer.pad, layer.out_shape, []
    below = [
        max(0, (n - 1) * s + (t - 1) * d + 1 - size - p)
        for n, s, t, d, size, p in zip(
            (h, w), layer.stride, layer.taps, layer.dilation, layer.in_shape[:2], layer.pad, strict=True
        )
    ]
    x = tf.pad(x, [[top, below[0]], [left, below[1]], [0, 0]], constant_values=padding)
    for ty in range(layer.taps[0]):
        for tx in range(layer.taps[1]):
            y0, x0 = ty * layer.dilation[0], tx * layer.dilation[1]
            rows = x[y0 : y0 + (h - 1) * layer.stride[0] + 1 : layer.stride[0]]
            span.append(rows[:, x0 : x0 + (w - 1) * layer.stride[1] + 1 : layer.stride[1]])
    return tf.stack(span)


def _activated(tf: Any, layer: TailLayer, x: Any) -> Any:
    return [
        lambda: x, lambda: tf.nn.relu(x), lambda: tf.nn.relu6(x), lambda: tf.clip_by_value(x, -1, 1),
        lambda: tf.where(x > 0, x, layer.parameter * x), lambda: x * tf.nn.relu6(x + 3) / 6,
        lambda: tf.sigmoid(x), lambda: tf.tanh(x),
    ][layer.activation]()  # fmt: skip


def tf_outputs(tf: Any, model: Model, variables: list[tuple[Any, Any]], x: Any) -> Any:
    """The tail's outputs in f64, from plain sums over taps."""
    values, left = [x], list(variables)
    for layer in model.tail:
        a = tf.reshape(values[layer.inputs[0]], layer.in_shape)
        if layer.filter_size:
            weights, biases = left.pop(0)
            taps = _patches(tf, layer, a, 0)
            if layer.name == "DEPTHWISE_CONV_2D":
                times = layer.out_shape[2] // layer.in_shape[2]
                y = tf.einsum("thwc,ct->hwc", tf.repeat(taps, times, axis=3), weights)
            else:
                kernel = tf.reshape(weights, (layer.out_shape[2], len(taps), layer.in_shape[2]))
                y = tf.einsum("thwc,otc->hwo", taps, kernel)
            y += biases
        elif layer.name == "MAX_POOL_2D":
            y = tf.reduce_max(_patches(tf, layer, a, -np.inf), axis=0)
        elif layer.name == "AVERAGE_POOL_2D":
            inside = _patches(tf, layer, tf.ones_like(a), 0)
            y = tf.reduce_sum(_patches(tf, layer, a, 0), axis=0) / tf.reduce_sum(inside, axis=0)
        elif layer.name == "MEAN":
            y = tf.reduce_mean(a, axis=(0, 1), keepdims=True)
        elif layer.name == "ADD":
            y = a + tf.reshape(values[layer.inputs[1]], layer.in_shape)
        else:
            y = a
        values.append(_activated(tf, layer, y))
    return tf.reshape(values[-1], (-1,))


def tf_gradient(
    model: Model, variables: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, label: int
) -> tuple[float, np.ndarray]:
    """Cross-entropy of a sample and its gradient, of what learns, in the order of the trainer's parameters."""
    import tensorflow as tf

    trained = [(tf.Variable(w), tf.Variable(b)) for w, b in variables]
    with tf.GradientTape() as tape:
        outputs = tf_outputs(tf, model, trained, tf.constant(x, tf.float64))
        loss = tf.reduce_logsumexp(outputs) - outputs[label]
    gradients = tape.gradient(loss, [v for pair in trained for v in pair])
    values = [np.zeros(v.shape) if g is None else np.asarray(g) for g, v in
              zip(gradients, [v for pair in trained for v in pair], strict=True)]  # fmt: skip
    return float(loss), learnt(model, list(zip(values[::2], values[1::2], strict=True)))


def learnt(model: Model, variables: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """What learns of all filters and biases, as the trainer orders it."""
    layers = [layer for layer in model.tail if layer.filter_size]
    parts = [
        part
        for layer, (weights, biases) in zip(layers, variables, strict=True)
        for part in (weights[layer.first :].ravel(), biases[layer.first_bias :])
    ]
    return np.concatenate(parts)


def replaced(
    model: Model, variables: list[tuple[np.ndarray, np.ndarray]], values: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The inverse of `learnt`: all filters and biases, with those that learn taken from `values`."""
    made = []
    for layer, (weights, biases) in zip([layer for layer in model.tail if layer.filter_size], variables, strict=True):
        weights, biases = weights.copy(), biases.copy()
        part, values = np.split(values, [layer.n_weights])
        weights[layer.first :] = part.reshape(-1, layer.filter_size)
        biases[layer.first_bias :], values = np.split(values, [layer.n_biases])
        made.append((weights, biases))
    return made
