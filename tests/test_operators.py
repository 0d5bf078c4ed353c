"""Random models of every operator and type, written directly, against LiteRT's reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flat import Builder
from models import run_reference

from tinydream.compiler import compile_model
from tinydream.model import Model

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
