"""Random models of every operator and type, written directly, against LiteRT's reference kernels."""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import PROJECT, run_reference
from test_model import sections_of, try_tdm
from tflite_builder import Builder

from tinydream._native import ffi, lib
from tinydream.devices import journey
from tinydream.errors import TinyDreamError, UnsupportedModelError
from tinydream.files import write_sections
from tinydream.models.compiler import compile_model
from tinydream.models.model import Model

Random = np.random.Generator


def values(random: Random, shape: Any, dtype: Any) -> np.ndarray:
    """Of the whole range, with its ends more often than they deserve."""
    if np.dtype(dtype).kind == "f":
        return random.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    spread = int(2 ** random.uniform(3, np.log2(limits.max) + 1))
    drawn = random.integers(-spread, spread + 1, shape)
    ends = random.random(shape) < 0.02
    return np.where(ends, random.choice([limits.min, limits.max], shape), drawn.clip(limits.min, limits.max)).astype(
        dtype
    )


def assert_exact(tflite: bytes, seed: int, n: int = 3) -> Model:
    print(f"seed {seed}")
    model = compile_model(tflite, whole=True)
    inputs = values(np.random.default_rng(seed), (n, *model.input_shape), model.input_dtype)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(model.embed(inputs), expected)
    return model


def quantisation(dtype: Any, random: Random) -> dict[str, Any]:
    """A random scale, and a zero point where the type may have one."""
    if np.dtype(dtype).kind == "f":
        return {}
    scale = np.float32(2 ** random.uniform(-8, -2) / (256 if dtype == np.int16 else 1))
    return {"scale": scale, "zero_point": int(random.integers(-128, 128)) if dtype == np.int8 else 0}


def moving_model(seed: int, dtype: Any) -> bytes:
    """Five operators that only move values, one after the other."""
    random = np.random.default_rng(seed)
    builder, facts = Builder(), quantisation(dtype, random)
    shape = tuple(int(n) for n in (1, *random.integers(2, 7, 3)))
    first = at = builder.tensor(shape, dtype, **facts)
    for _ in range(5):
        kind = random.choice(["PAD", "TRANSPOSE", "STRIDED_SLICE", "CONCATENATION", "SPLIT", "RESHAPE"])
        if kind == "PAD":
            pads = np.vstack([[0, 0], random.integers(0, 3, (3, 2))])
            shape = tuple(int(n) for n in np.array(shape) + pads.sum(axis=1))
            builder.operator(kind, [at, builder.constant(pads)], [out := builder.tensor(shape, dtype, **facts)])
        elif kind == "TRANSPOSE":
            order = [0, *(random.permutation(3) + 1)]
            shape = tuple(shape[i] for i in order)
            builder.operator(kind, [at, builder.constant(order)], [out := builder.tensor(shape, dtype, **facts)])
        elif kind == "STRIDED_SLICE":
            begin = [0, *(int(random.integers(0, n)) for n in shape[1:])]
            stride = [1, *(int(n) for n in random.integers(1, 3, 3))]
            shape = tuple(len(range(b, n, s)) for b, n, s in zip(begin, shape, stride, strict=True))
            bounds = [builder.constant(x) for x in (begin, [1, 99, 99, 99], stride)]
            builder.operator(kind, [at, *bounds], [out := builder.tensor(shape, dtype, **facts)])
        elif kind == "CONCATENATION":
            axis = int(random.integers(1, 4))
            other = (*shape[:axis], int(random.integers(1, 4)), *shape[axis + 1 :])
            constant = builder.constant(values(random, other, dtype), dtype, **facts)
            shape = (*shape[:axis], 2 * shape[axis] + other[axis], *shape[axis + 1 :])
            builder.operator(kind, [at, constant, at], [out := builder.tensor(shape, dtype, **facts)], axis=axis)
        elif kind == "SPLIT":
            axis = int(random.integers(1, 4))
            if shape[axis] % 2:
                continue
            shape = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
            outs = [builder.tensor(shape, dtype, **facts) for _ in range(2)]
            builder.operator(kind, [builder.constant(axis), at], outs, numSplits=2)
            out = outs[int(random.integers(2))]
        else:
            shape = (1, shape[1] * shape[2], 1, shape[3])
            builder.operator(kind, [at, builder.constant(shape)], [out := builder.tensor(shape, dtype, **facts)])
        at = out
        if np.prod(shape) > 1000:
            break
    if at == first:
        return moving_model(seed + 1000, dtype)
    return builder.finish([first], [at])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32])
def test_operators_that_move_values(dtype: Any) -> None:
    for seed in range(30):
        model = assert_exact(moving_model(seed, dtype), seed)
        assert model.input_dtype == model.output_dtype == dtype


# ------------------------------------------------------------- operators that compute

INTEGERS = [np.int8, np.int16]
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def number(random: Random, low: int, high: int) -> int:
    """From low to high, both included."""
    return int(random.integers(low, high + 1))


def activation(random: Random) -> int:
    return int(random.choice([0, 0, 1, 2, 3]))


def image(random: Random) -> tuple[int, ...]:
    return (1, number(random, 1, 9), number(random, 1, 9), number(random, 1, 9))


def window(random: Random, shape: tuple[int, ...], dilated: bool) -> tuple[dict[str, int], list[int], tuple[int, int]]:
    """Options, taps and the output's height and width."""
    padding, taps, sizes = number(random, 0, 1), [], []
    options = {"padding": padding}
    for axis, name in ((1, "H"), (2, "W")):
        n, gap, step = number(random, 1, 4), number(random, 1, 3) if dilated else 1, number(random, 1, 3)
        if padding and (n - 1) * gap + 1 > shape[axis]:
            n = gap = 1
        taps.append(n)
        sizes.append(-(-(shape[axis] - (n - 1) * gap if padding else shape[axis]) // step))
        options[f"stride{name}"] = step
        if dilated:
            options[f"dilation{name}Factor"] = gap
    return options, taps, (sizes[0], sizes[1])


def layer_scales(random: Random, source: Any, n: int, reach: int) -> tuple[np.ndarray, np.float32]:
    """Scales of the weights (one, or one a channel) and of an output that their sums fill about."""
    weights = np.float32(2) ** random.uniform(-9, -5, n if random.random() < 0.7 else 1).astype(np.float32)
    return weights, np.float32(source * weights.mean() * 40 * reach**0.5 * 2 ** random.uniform(-2, 2))


def layer_model(kind: str, dtype: Any, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    builder, facts = Builder(), quantisation(dtype, random)
    shape = image(random)
    depth, factor = shape[3], number(random, 1, 3) if kind == "DEPTHWISE_CONV_2D" else 1
    n = depth * factor if kind == "DEPTHWISE_CONV_2D" else number(random, 1, 9)
    options, taps, size = window(random, shape, dilated=True)
    if kind == "FULLY_CONNECTED":
        shape, size, options, filters, axis = (1, number(random, 1, 1500)), (), {}, (n, 0), 0
        filters = (n, shape[1])
    else:
        axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
        filters = (1, *taps, n) if axis else (n, *taps, depth)
    reach = int(np.prod(filters)) // n
    scales, out = layer_scales(random, facts["scale"], n, reach)
    source = builder.tensor(shape, dtype, **facts)
    weights = builder.constant(random.integers(-127, 128, filters), np.int8, scales, axis=axis)
    output = builder.tensor((1, *size, n), dtype, out, int(random.integers(-128, 128)) if dtype == np.int8 else 0)
    bias_type = np.int64 if dtype == np.int16 else np.int32
    biases = random.normal(size=n, scale=100 * reach**0.5 * (256 if dtype == np.int16 else 1))
    inputs = [source, weights, builder.constant(biases.astype(int), bias_type, facts["scale"] * scales)]
    if random.random() < 0.1 and kind == "FULLY_CONNECTED":
        inputs.pop()
    if factor > 1 or kind == "DEPTHWISE_CONV_2D":
        options["depthMultiplier"] = factor
    builder.operator(kind, inputs, [output], fusedActivationFunction=activation(random), **options)
    return builder.finish([source], [output])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_layers(kind: str, dtype: Any) -> None:
    for seed in range(60):
        assert_exact(layer_model(kind, dtype, seed), seed)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pools(kind: str, dtype: Any) -> None:
    for seed in range(40):
        random = np.random.default_rng(seed)
        builder, facts, shape = Builder(), quantisation(dtype, random), image(random)
        options, taps, size = window(random, shape, dilated=False)
        source, output = (builder.tensor(s, dtype, **facts) for s in (shape, (1, *size, shape[3])))
        options |= {"filterHeight": taps[0], "filterWidth": taps[1], "fusedActivationFunction": activation(random)}
        builder.operator(kind, [source], [output], **options)
        assert_exact(builder.finish([source], [output]), seed)


def combining_model(kind: str, dtype: Any, seed: int) -> bytes:
    """Two inputs of all shapes that go together; the second is a constant or a part of the first."""
    random = np.random.default_rng(seed)
    builder, shape = Builder(), image(random)
    a, b, out = (quantisation(dtype, random) for _ in range(3))
    if kind == "MUL":
        out["scale"] = np.float32(a["scale"] * b["scale"] * 2 ** random.uniform(3, 9 if dtype == np.int8 else 16))
    powers = dtype == np.int16 and random.random() < 0.4
    if powers:  # a case of their own in the reference
        power = number(random, -13, -9)
        shifts = [0, number(random, -4, 0)]
        random.shuffle(shifts)
        a["scale"], b["scale"], out["scale"] = (np.float32(2.0) ** (power + s) for s in (*shifts, 0))
    small = tuple(1 if random.random() < 0.3 else n for n in shape)
    # The reference aborts when it should spread one of two int16 inputs with such scales.
    own_way = random.random() < 0.7
    shapes = [shape, shape if powers and own_way and kind == "ADD" else small]
    random.shuffle(shapes)
    ends = [builder.tensor(shapes[0], dtype, **a), builder.constant(values(random, shapes[1], dtype), dtype, **b)]
    inputs = ends if random.random() < 0.5 else ends[::-1]
    options = {"fusedActivationFunction": activation(random)} | ({} if kind == "MUL" else {"potScaleInt16": own_way})
    builder.operator(kind, inputs, [output := builder.tensor(shape, dtype, **out)], **options)
    return builder.finish([ends[0]], [output])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_sums_and_products(kind: str, dtype: Any) -> None:
    for seed in range(60):
        assert_exact(combining_model(kind, dtype, seed), seed)


def every(dtype: Any) -> np.ndarray:
    return np.arange(-32768, 32768, dtype=np.int16) if dtype == np.int16 else np.arange(-128, 128, dtype=np.int8)


def unary_model(kind: str, dtype: Any, seed: int, to: Any = None) -> bytes:
    random = np.random.default_rng(seed)
    builder, facts, out = Builder(), quantisation(dtype, random), quantisation(to or dtype, random)
    if kind in ("LOGISTIC", "TANH"):
        facts["scale"] = np.float32(
            2.0 ** number(random, -16, -9) if random.random() < 0.3 else 2 ** random.uniform(-16, -8)
        )
        out = {"scale": np.float32(1 / 32768), "zero_point": 0}
    shape = (1, 256, len(every(dtype)) // 256, 1)
    source, output = builder.tensor(shape, dtype, **facts), builder.tensor(shape, to or dtype, **out)
    options = {"alpha": float(random.uniform(0, 1.5))} if kind == "LEAKY_RELU" else {}
    builder.operator(kind, [source], [output], **options)
    return builder.finish([source], [output])


def assert_exact_everywhere(tflite: bytes, seed: int) -> None:
    print(f"seed {seed}")
    model = compile_model(tflite, whole=True)
    inputs = every(model.input_dtype).reshape(1, *model.input_shape)
    np.testing.assert_array_equal(model.embed(inputs), run_reference(tflite, inputs, model.graph.outputs[0]))


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH"])
def test_int16_operators_of_one_input_for_all_values(kind: str) -> None:
    for seed in range(30):
        assert_exact_everywhere(unary_model(kind, np.int16, seed), seed)


def mixed_model(dtype: Any, to: Any, seed: int) -> bytes:
    """Integers become real and integers again, all inside of moves that keep the conversions from the edges."""
    random = np.random.default_rng(seed)
    builder, shape = Builder(), (1, 256, len(every(dtype)) // 256, 1)
    facts, out = quantisation(dtype, random), quantisation(to, random)

    def reshaped(tensor: int, result: int, shape: Any) -> int:
        builder.operator("TRANSPOSE", [tensor, builder.constant(range(len(shape)))], [result])
        return result

    source = builder.tensor(shape, dtype, **facts)
    inner = reshaped(source, builder.tensor(shape, dtype, **facts), shape)
    builder.operator("DEQUANTIZE", [inner], [real := builder.tensor(shape, np.float32)])
    half = builder.constant(np.float32([0.25]), np.float32)
    builder.operator("MUL", [real, half], [scaled := builder.tensor(shape, np.float32)])
    builder.operator("QUANTIZE", [scaled], [back := builder.tensor(shape, to, **out)])
    result = reshaped(back, builder.tensor(shape, to, **out), shape)
    return builder.finish([source], [result])


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_real_numbers_inside_a_model(dtype: Any, to: Any) -> None:
    for seed in range(20):
        assert_exact_everywhere(mixed_model(dtype, to, seed), seed)


@pytest.mark.parametrize(("dtype", "to"), [(np.int8, np.int16), (np.int16, np.int8), (np.int16, np.int16)])
def test_conversions_for_all_values(dtype: Any, to: Any) -> None:
    for seed in range(30):
        assert_exact_everywhere(unary_model("QUANTIZE", dtype, seed, to), seed)


def softmax_model(shape: tuple[int, ...], scale: float, beta: float) -> bytes:
    builder = Builder()
    source = builder.tensor(shape, np.int16, np.float32(scale), 0)
    output = builder.tensor(shape, np.int16, np.float32(1 / 32768), 0)
    builder.operator("SOFTMAX", [source], [output], beta=beta)
    return builder.finish([source], [output])


def test_every_point_of_the_curves_of_a_softmax() -> None:
    tflite = softmax_model((1, 65535, 2), 10 / 65535, 1.0)
    inputs = np.stack([np.full(65535, 32767), np.arange(-32768, 32767)], axis=1)[None, None].astype(np.int16)
    model = compile_model(tflite, whole=True)
    np.testing.assert_array_equal(model.embed(inputs[0]), run_reference(tflite, inputs[0], model.graph.outputs[0]))


def test_softmax_of_int16() -> None:
    for seed in range(60):
        random = np.random.default_rng(seed)
        shape = (1, number(random, 1, 4), number(random, 1, 300))
        assert_exact(softmax_model(shape, 2 ** random.uniform(-16, -9), float(random.uniform(0.1, 2))), seed)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_means_over_axes_side_by_side(dtype: Any) -> None:
    for seed in range(100):
        random = np.random.default_rng(seed)
        builder, facts, shape = Builder(), quantisation(dtype, random), image(random)
        keep, first = random.random() < 0.5, number(random, 1, 3)
        axes = list(range(first, number(random, first, 3) + 1))
        kept = [1 if i in axes else n for i, n in enumerate(shape)]
        source = builder.tensor(shape, dtype, **facts)
        out = facts if random.random() < 0.2 else quantisation(dtype, random)
        result = kept if keep else [n for i, n in enumerate(shape) if i not in axes]
        output = builder.tensor(result, dtype, **out)
        spelled = builder.constant([axis - 4 * int(random.integers(2)) for axis in axes])
        builder.operator("MEAN", [source, spelled], [output], keepDims=keep)
        assert_exact(builder.finish([source], [output]), seed)


def test_means_over_axes_apart_are_refused() -> None:
    builder, facts = Builder(), {"scale": 0.1, "zero_point": 0}
    ends = [builder.tensor(shape, np.int8, **facts) for shape in ((1, 2, 3, 4), (1, 3))]
    builder.operator("MEAN", [ends[0], builder.constant([1, 3])], [ends[1]])
    with pytest.raises(UnsupportedModelError, match=r"MEAN.*axes \[1, 3\].*side by side"):
        compile_model(builder.finish(ends[:1], ends[1:]), whole=True)


# ---------------------------------------------------------------- whole int16 models


def int16_network(seed: int = 0) -> bytes:
    """int8 in and out, in between every kind of int16 operator."""
    random = np.random.default_rng(seed)
    builder = Builder()

    def activation_of(shape: Any, scale: float = 2**-10) -> int:
        return builder.tensor(shape, np.int16, scale, 0)

    def layer(kind: str, at: int, filters: Any, out: int, **options: Any) -> int:
        axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
        weights = builder.constant(random.integers(-127, 128, filters), np.int8, 2**-9, axis=axis)
        n = filters[axis]
        bias = builder.constant(random.integers(-4000, 4000, n), np.int64, 2**-19)
        builder.operator(kind, [at, weights, bias], [out], **options)
        return out

    same = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    source = builder.tensor((1, 8, 6, 3), np.int8, 2**-4, 5)
    builder.operator("QUANTIZE", [source], [x := activation_of((1, 8, 6, 3))])
    x = layer("CONV_2D", x, (4, 3, 3, 3), activation_of((1, 8, 6, 4), 0.0021), **same, fusedActivationFunction=1)
    y = layer("DEPTHWISE_CONV_2D", x, (1, 3, 2, 4), activation_of((1, 8, 6, 4), 0.003), **same, depthMultiplier=1)
    builder.operator("LEAKY_RELU", [y], [z := activation_of((1, 8, 6, 4))], alpha=0.2)
    builder.operator("ADD", [x, z], [x := activation_of((1, 8, 6, 4), 0.0041)])
    pool = {"padding": 1, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    builder.operator("MAX_POOL_2D", [x], [x := activation_of((1, 4, 3, 4), 0.0041)], **pool)
    builder.operator("TANH", [x], [y := activation_of((1, 4, 3, 4), 2**-15)])
    builder.operator("LOGISTIC", [x], [z := activation_of((1, 4, 3, 4), 2**-15)])
    builder.operator("MUL", [y, z], [x := activation_of((1, 4, 3, 4), 2**-15)])
    builder.operator("AVERAGE_POOL_2D", [x], [y := activation_of((1, 2, 1, 4), 2**-15)], **pool)
    mean = activation_of((1, 4), 0.0001)
    builder.operator("MEAN", [x, builder.constant([1, 2])], [mean])
    builder.operator("RESHAPE", [y, builder.constant([1, 8])], [y := activation_of((1, 8), 2**-15)])
    builder.operator("QUANTIZE", [mean], [z := activation_of((1, 4), 2**-15)])
    builder.operator("CONCATENATION", [y, z], [x := activation_of((1, 12), 2**-15)], axis=1)
    x = layer("FULLY_CONNECTED", x, (5, 12), activation_of((1, 5), 2**-13))
    builder.operator("SOFTMAX", [x], [x := activation_of((1, 5), 2**-15)], beta=1.0)
    builder.operator("QUANTIZE", [x], [out := builder.tensor((1, 5), np.int8, 1 / 256, -128)])
    return builder.finish([source], [out])


@cache
def compiled_network() -> Model:
    return compile_model(int16_network(), whole=True)


@pytest.mark.parametrize("board_id", ["host", "microbit", "an386"])
def test_a_board_runs_an_int16_model(board_id: str) -> None:
    for seed in range(4):
        model = assert_exact(int16_network(seed), seed)
    inputs = values(np.random.default_rng(1), (3, *model.input_shape), model.input_dtype)
    with journey.emulate(board_id) as device:
        outputs = journey.run(model, inputs, device, raw=True)
    assert len(np.unique(outputs)) > 5
    np.testing.assert_array_equal(outputs, model.embed(inputs))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_int16_sections_with_good_checksums_stay_inside(data: st.DataObject) -> None:
    sections = {kind: bytearray(content) for kind, content in sections_of(compiled_network().tdm).items()}
    for _ in range(data.draw(st.integers(1, 4))):
        content = sections[data.draw(st.sampled_from([1, 2, 3, 3, 5]))]
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.sampled_from([0, 1, 2, 7, 0x7F, 0x80, 0xFF]))
    try_tdm(write_sections(lib.TD_MAGIC_MODEL, {kind: bytes(content) for kind, content in sections.items()}))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_of_an_int16_model_give_an_error_or_a_model(data: st.DataObject) -> None:
    tflite = bytearray(int16_network())
    for _ in range(data.draw(st.integers(1, 3))):
        tflite[data.draw(st.integers(0, len(tflite) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = compile_model(bytes(tflite), whole=True)
    except TinyDreamError:
        return
    inputs = np.zeros((1, *model.input_shape), model.input_dtype)
    assert model.embed(inputs).shape == (1, model.embedding_size)


def test_what_int16_cannot_do_is_refused_by_name() -> None:
    builder = Builder()
    ends = [builder.tensor((1, 4), np.int16, 2**-10, 0) for _ in range(2)]
    builder.operator("HARD_SWISH", ends[:1], ends[1:])
    with pytest.raises(UnsupportedModelError, match=r"operator 0 \(HARD_SWISH, 1x4 -> 1x4\): not supported in INT16"):
        compile_model(builder.finish(ends[:1], ends[1:]), whole=True)
    builder = Builder()
    a, b = builder.tensor((1, 4), np.int16, 2**-10, 0), builder.tensor((1, 4), np.int8, 2**-10, 0)
    builder.operator("RELU", [a], [b])
    with pytest.raises(UnsupportedModelError, match=r"operator 0 \(RELU.*mixes INT16 and INT8"):
        compile_model(builder.finish([a], [b]), whole=True)
    builder = Builder()
    a, b = (builder.tensor((1, 4), np.int16, 2**-10, zero_point) for zero_point in (3, 0))
    builder.operator("RELU", [a], [b])
    with pytest.raises(UnsupportedModelError, match="int16 values need the zero point 0, not 3"):
        compile_model(builder.finish([a], [b]), whole=True)
    builder = Builder()
    a, b = (builder.tensor((1, 4), np.int16, 2**-10, 0) for _ in range(2))
    weights = builder.constant(np.ones((4, 4)), np.int8, 2**-9)
    builder.operator("FULLY_CONNECTED", [a, weights, builder.constant(np.ones(4), np.int32, 2**-19)], [b])
    with pytest.raises(UnsupportedModelError, match="its bias must be 4 constant int64 values, not INT32"):
        compile_model(builder.finish([a], [b]), whole=True)


def test_a_core_without_int16_refuses_such_a_model(tmp_path: Path) -> None:
    library = tmp_path / "small.so"
    sources = sorted((PROJECT / "c_src").glob("*.c"))
    flags = ["-std=c99", "-fPIC", "-shared", "-DTD_HAVE_INT16=0"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *map(str, sources), "-o", str(library)], check=True)
    small, handle = ctypes.CDLL(str(library)), ctypes.create_string_buffer(ffi.sizeof("td_model"))
    for tflite, status in ((int16_network(), lib.TD_E_UNSUPPORTED), (moving_model(1, np.int8), lib.TD_OK)):
        tdm = compile_model(tflite, whole=True).tdm
        assert small.td_model_open(handle, tdm, len(tdm)) == status


def test_more_than_one_sample_at_once_is_refused() -> None:
    builder, facts = Builder(), {"scale": 0.1, "zero_point": 0}
    ends = [builder.tensor(shape, np.int8, **facts) for shape in ((2, 3, 4), (2, 3))]
    builder.operator("MEAN", [ends[0], builder.constant([2])], [ends[1]])
    with pytest.raises(UnsupportedModelError, match=r"shape \(2, 3, 4\).*batch"):
        compile_model(builder.finish(ends[:1], ends[1:]), whole=True)
