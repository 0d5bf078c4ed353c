"""The compiled model: bit-exact with LiteRT's reference kernels, safe with any bytes, planned within its arena."""

from __future__ import annotations

import numpy as np
import pytest
from models import demo_model, dense_model, real_model, run_reference

from tinydream.model import Model, compile_model


def random_inputs(model: Model, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (n, *model.input_shape), np.int8)


def assert_exact(tflite: bytes, cut: str | int | None = None, n: int = 4, seed: int = 0) -> Model:
    print(f"seed {seed}")
    model = compile_model(tflite, cut)
    inputs = random_inputs(model, n, seed)
    expected = run_reference(tflite, inputs, model.cut)
    np.testing.assert_array_equal(model.embed(inputs), expected)
    return model


@pytest.mark.parametrize("batch", [1, None])
def test_demo_network(batch: int | None) -> None:
    model = assert_exact(demo_model(batch=batch), n=16)
    assert (model.input_shape, model.embedding_size, model.n_classes) == ((100, 1, 6), 32, 7)
    assert model.softmax and model.native.ends_in_softmax


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_dense_network(per_channel: bool, cut: int) -> None:
    model = assert_exact(dense_model(per_channel), cut, n=64)
    assert len(model.tail) == cut


@pytest.mark.parametrize("name", ["kws_ref_model", "ad01_int8", "vww_96_int8", "pretrainedResnet_quant"])
def test_mlperf_tiny(name: str) -> None:
    model = assert_exact(real_model(f"{name}.tflite"), n=3)
    assert model.softmax == (name != "ad01_int8")
