"""Write-back: LiteRT runs the tuned file, its tail is the trained one, and nothing else of the file changed."""

from __future__ import annotations

import numpy as np
import pytest
from models import demo_model, dense_model, real_model, reference, run_reference

from tinydream import _native
from tinydream.errors import DataError, FormatError, UnsupportedModelError
from tinydream.models.compiler import compile_model
from tinydream.models.graph import read_graph
from tinydream.models.model import Model
from tinydream.models.writeback import write_back


def stored_parameters(model: Model) -> np.ndarray:
    """The tail as the core dequantises it."""
    lib, ffi = _native.lib, _native.ffi
    size = lib.td_trainer_size(model.native, ffi.NULL, ffi.NULL)
    memory = np.zeros(size // 8 + 1, np.int64)
    trainer, config = ffi.new("td_trainer *"), ffi.new("td_train_config *")
    view = ffi.from_buffer("uint8_t[]", memory)
    _native.check(lib.td_trainer_init(trainer, model.native, config, view, size), "trainer")
    return np.frombuffer(ffi.buffer(trainer.parameters, 4 * trainer.n_parameters), np.float32).copy()


def forward(model: Model, parameters: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of every layer of the f32 tail."""
    outputs, at = [], 0
    for layer in model.tail:
        weights = parameters[at : at + layer.n_in * layer.n_out].reshape(layer.n_out, layer.n_in)
        biases = parameters[at + weights.size :][: layer.n_out]
        at += layer.n_parameters
        x = x @ weights.T + biases
        if layer.relu:
            x = np.maximum(x, 0)
        outputs.append(x)
    return outputs


def embeddings(model: Model, n: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and their real-valued embeddings."""
    inputs = np.random.default_rng(seed).integers(-128, 128, (n, *model.input_shape), np.int8)
    return inputs, (model.embed(inputs).astype(np.float32) - model.embedding_zero_point) * model.embedding_scale


def trained(model: Model, seed: int = 1) -> np.ndarray:
    parameters = stored_parameters(model)
    noise = np.random.default_rng(seed).normal(size=parameters.shape, scale=0.5)
    return (parameters * 1.5 + noise).astype(np.float32)


CASES = [(demo_model, 1), (dense_model, 1), (dense_model, 2), (lambda: dense_model(per_channel=False), 2)]


@pytest.mark.parametrize(("make", "cut"), CASES, ids=["demo", "dense", "two layers", "per tensor"])
def test_litert_gives_the_trained_outputs(make, cut) -> None:
    tflite = make()
    model = compile_model(tflite, cut)
    parameters = trained(model)
    inputs, x = embeddings(model)
    outputs = forward(model, parameters, x)
    ranges = [(float(y.min()), float(y.max())) for y in outputs]
    tuned = write_back(tflite, model, parameters, ranges[-1], ranges[:-1])
    output = read_graph(tuned).tensors[model.tail[-1].output]
    raw = run_reference(tuned, inputs, output.index)
    logits = (raw.astype(np.float32) - output.zero_points[0]) * output.scales[0]
    span = ranges[-1][1] - ranges[-1][0]
    assert np.abs(logits - outputs[-1]).max() < 0.03 * span
    assert raw.min() > -128 and raw.max() < 127  # nothing saturates
    picked = np.take_along_axis(outputs[-1], logits.argmax(1)[:, None], 1)[:, 0]
    assert (outputs[-1].max(1) - picked).max() < 0.06 * span


def test_the_frozen_part_and_every_other_byte_stay() -> None:
    tflite = demo_model()
    model = compile_model(tflite)
    tuned = write_back(tflite, model, trained(model), (-3.0, 5.0))
    assert len(tuned) == len(tflite)
    before, after = read_graph(tflite), read_graph(tuned)
    layer = model.tail[0]
    allowed: set[int] = set()
    for index in (layer.weights, layer.bias, layer.output):
        tensor = before.tensors[index]
        sizes = (len(tensor.data or b""), 4 * len(tensor.scales), 8 * len(tensor.zero_points))
        for at, size in zip((tensor.data_at, tensor.scales_at, tensor.zero_points_at), sizes, strict=True):
            allowed |= set(range(at or 0, (at or 0) + size))
    changed = {i for i, (a, b) in enumerate(zip(tflite, tuned, strict=True)) if a != b}
    assert changed and changed <= allowed
    assert before.operators == after.operators
    inputs, _ = embeddings(model)
    again = compile_model(tuned)
    np.testing.assert_array_equal(model.embed(inputs), again.embed(inputs))
    assert (again.hash != model.hash, again.embedding_hash) == (True, model.embedding_hash)


def test_unchanged_parameters_come_back_as_they_were() -> None:
    tflite = demo_model()
    model = compile_model(tflite)
    output = model.graph.tensors[model.tail[0].output]
    tuned = compile_model(write_back(tflite, model, stored_parameters(model), (-1.0, 1.0)))
    for index in (model.tail[0].weights, model.tail[0].bias):
        assert tuned.graph.tensors[index].data == model.graph.tensors[index].data
        np.testing.assert_allclose(tuned.graph.tensors[index].scales, model.graph.tensors[index].scales, rtol=1e-6)
    assert tuned.graph.tensors[output.index].scales != output.scales
    np.testing.assert_allclose(stored_parameters(tuned), stored_parameters(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["kws_ref_model", "vww_96_int8", "pretrainedResnet_quant", "ad01_int8"])
def test_mlperf_tiny(name: str) -> None:
    tflite = real_model(f"{name}.tflite")
    model = compile_model(tflite)
    inputs, x = embeddings(model, 2)
    parameters = stored_parameters(model)
    logits = forward(model, parameters, x)[-1]
    tuned = write_back(tflite, model, parameters, (float(logits.min()), float(logits.max())))
    output = read_graph(tuned).tensors[model.tail[-1].output]
    got = run_reference(tuned, inputs, output.index).astype(np.float32) - output.zero_points[0]
    np.testing.assert_allclose(got * output.scales[0], logits, atol=0.02 * np.ptp(logits))


def test_a_constant_tail_is_exact() -> None:
    tflite = demo_model()
    model = compile_model(tflite)
    parameters = np.zeros(model.n_parameters, np.float32)
    parameters[-7:] = np.arange(7)
    tuned = write_back(tflite, model, parameters, (0.0, 6.0))
    inputs, _ = embeddings(model, 3)
    interpreter = reference(tuned)
    output = read_graph(tuned).tensors[model.tail[-1].output]
    raw = run_reference(tuned, inputs, output.index).astype(np.float32)
    np.testing.assert_allclose(
        (raw - output.zero_points[0]) * output.scales[0], np.tile(np.arange(7), (3, 1)), atol=0.02
    )
    assert interpreter.get_output_details()[0]["quantization"] == (1 / 256, -128)  # the softmax's own


def test_refusals() -> None:
    tflite = demo_model()
    model = compile_model(tflite)
    good = stored_parameters(model)
    with pytest.raises(FormatError, match="not the"):
        write_back(tflite + b"x", model, good, (-1, 1))
    with pytest.raises(DataError, match="shape"):
        write_back(tflite, model, good[:-1], (-1, 1))
    with pytest.raises(DataError, match="NaN"):
        write_back(tflite, model, np.full_like(good, np.nan), (-1, 1))
    for bad in ((0.0, 0.0), (1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(DataError, match="range"):
            write_back(tflite, model, good, bad)
    with pytest.raises(DataError, match="hidden"):
        write_back(tflite, model, good, (-1, 1), [(0, 1)])


def test_shared_and_missing_buffers_are_refused() -> None:
    import dataclasses

    tflite = demo_model()
    model = compile_model(tflite)
    layer = model.tail[0]
    tensors = list(model.graph.tensors)
    twin = next(t.index for t in tensors if t.data is not None and t.index not in (layer.weights, layer.bias))
    tensors[twin] = dataclasses.replace(tensors[twin], data_at=tensors[layer.weights].data_at)
    shared = dataclasses.replace(model, graph=dataclasses.replace(model.graph, tensors=tuple(tensors)))
    with pytest.raises(UnsupportedModelError, match="share"):
        write_back(tflite, shared, stored_parameters(model), (-1, 1))
    missing = dataclasses.replace(model, tail=(dataclasses.replace(layer, bias=-1),))
    with pytest.raises(UnsupportedModelError, match="no bias"):
        write_back(tflite, missing, stored_parameters(model), (-1, 1))
