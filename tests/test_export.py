"""Trainable .tflite files: LiteRT trains them as td.Trainer trains, from builtin operators only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import litert_steps
import numpy as np
import pytest
from models import demo_model, dense_model, real_model

import tinydream as td
from tinydream._native import check, ffi, lib
from tinydream.cli import commands as cli
from tinydream.errors import FormatError, UnsupportedModelError
from tinydream.models.compiler import compile_model
from tinydream.models.model import Model


@dataclasses.dataclass(frozen=True)
class Run:
    """What the core does, step by step."""

    model: Model
    tflite: bytes
    steps: dict[str, np.ndarray]  # as litert_steps.py reads them
    loss: np.ndarray
    weights: np.ndarray


@cache
def core_run(make: Callable[[], bytes], cut: int) -> Run:
    """Two epochs of the core on a pack's weighted samples."""
    tflite = make()
    model = compile_model(tflite, cut)
    random = np.random.default_rng(3)
    inputs = random.integers(-128, 128, (60, *model.input_shape), np.int8)
    labels = random.integers(0, model.n_classes, 60)
    pack = td.pack(td.table_from_arrays(inputs, labels), through=model, per_class=3)
    assert len(set(pack.condensed.weights)) > 1
    trainer = td.Trainer(model, pack, config=td.TrainConfig(epochs=2))
    x, loss = ffi.new("float[]", model.embedding_size), ffi.new("float *")
    row, label, weight = ffi.new("int32_t[]", model.embedding_size), ffi.new("uint32_t *"), ffi.new("float *")
    steps: dict[str, list[Any]] = {"x": [], "y": [], "weight": [], "rate": []}
    losses, weights = [], [trainer.parameters]
    for epoch, rate in enumerate(np.float32([0.1, 0.05])):
        trainer._trainer.learning_rate = rate
        for i in range(trainer.steps):
            check(lib.td_sampler_get(trainer._sampler, epoch, i, row, x, label, weight), "sample")
            values = np.array([*x], np.float32), np.int32(label[0]), np.float32(weight[0]), rate
            for key, value in zip(steps, values, strict=True):
                steps[key].append(value)
            check(lib.td_trainer_step(trainer._trainer, x, label[0], weight[0], loss), "step")
            losses.append(loss[0])
            weights.append(trainer.parameters)
    arrays = {key: np.array(values) for key, values in steps.items()}
    arrays["input"] = inputs[:1]
    return Run(model, tflite, arrays, np.array(losses), np.array(weights))


CASES = [(demo_model, 1), (dense_model, 1), (dense_model, 2), (dense_model, 3)]
NAMES = ["demo", "one layer", "two layers", "all layers"]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def assert_as_the_core(run: Run, result: Any) -> None:
    assert len(run.loss) > 20
    np.testing.assert_allclose(result["loss"], run.loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["weights"], run.weights, rtol=0, atol=1e-5)
    embedding = run.model.dequantise(run.model.embed(run.steps["input"]))
    np.testing.assert_array_equal(result["embedding"], embedding)
    before, after, restored, default = result["inferred"]
    for weights, got in ((run.weights[0], before), (run.weights[-1], after)):
        np.testing.assert_allclose(got, softmax(forward(run.model, weights, embedding)[-1]), atol=1e-5)
    assert np.abs(before - after).max() > 0.01
    np.testing.assert_array_equal(restored, before)
    np.testing.assert_allclose(default, before, atol=1e-6)  # XNNPACK or not


def forward(model: Model, parameters: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Input and outputs of every layer of the tail, in f64."""
    values, at = [x.astype(np.float64)], 0
    for layer in model.tail:
        matrix = parameters[at : at + layer.n_in * layer.n_out].reshape(layer.n_out, layer.n_in)
        z = values[-1] @ matrix.T + parameters[at + matrix.size : at + layer.n_parameters]
        values.append(np.maximum(z, 0) if layer.relu else z)
        at += layer.n_parameters
    return values


def interpreter(tflite: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=tflite)


@pytest.mark.parametrize(("make", "cut"), CASES, ids=NAMES)
def test_litert_takes_the_steps_of_the_core(make: Callable[[], bytes], cut: int) -> None:
    run = core_run(make, cut)
    exported = td.export_trainable(run.model, run.tflite)
    assert_as_the_core(run, litert_steps.run(lambda: interpreter(exported), run.steps))


def old_python() -> str:
    """A Python that tflite-runtime 2.14 has wheels for."""
    if sys.version_info < (3, 12):
        return sys.executable
    for name in ("python3.11", "python3.10"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return path
    pytest.skip("tflite-runtime 2.14 has no wheel for this Python, and there is no Python 3.10 or 3.11 beside it")


@pytest.fixture(scope="module")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with tflite-runtime 2.14, which needs numpy 1."""
    folder = tmp_path_factory.mktemp("runtime")
    subprocess.run([old_python(), "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-qq", "tflite-runtime==2.14.0", "numpy<2"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"tflite-runtime 2.14 could not be installed: {done.stderr.strip()[-500:]}"
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    return python


@pytest.mark.parametrize(("make", "cut"), [CASES[0], CASES[2]], ids=[NAMES[0], NAMES[2]])
def test_so_does_an_old_runtime(old_runtime: Path, tmp_path: Path, make: Callable[[], bytes], cut: int) -> None:
    run = core_run(make, cut)
    model, steps, out = (tmp_path / name for name in ("model.tflite", "steps.npz", "out.npz"))
    model.write_bytes(td.export_trainable(run.model, run.tflite))
    np.savez(steps, **run.steps)
    subprocess.run([old_runtime, litert_steps.__file__, model, steps, out], check=True, capture_output=True)
    assert_as_the_core(run, np.load(out))


def batch_gradient(model: Model, parameters: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Of the mean over the rows of weight * cross-entropy, in f64."""
    values, end, parts = forward(model, parameters, x), model.n_parameters, []
    delta = (softmax(values[-1]) - np.eye(model.n_classes)[y]) * w[:, None] / len(y)
    for number, layer in reversed([*enumerate(model.tail)]):
        parts = [(delta.T @ values[number]).ravel(), delta.sum(0), *parts]
        end -= layer.n_parameters
        matrix = parameters[end : end + layer.n_in * layer.n_out].reshape(layer.n_out, layer.n_in)
        delta = delta @ matrix * (values[number] > 0)
    return np.concatenate(parts)


def test_a_batch_takes_the_mean_gradient_and_the_loss_falls() -> None:
    run = core_run(dense_model, 3)
    made = interpreter(td.export_trainable(run.model, run.tflite))
    train, save = made.get_signature_runner("train"), made.get_signature_runner("save")
    batch = {"x": run.steps["x"], "y": run.steps["y"], "weight": run.steps["weight"]}
    losses = [float(train(**batch, learning_rate=np.float32(0.2))["loss"])]
    saved = save()
    got = np.concatenate([saved[f"{kind}_{i}"].ravel() for i in range(3) for kind in ("weights", "biases")])
    fall = batch_gradient(run.model, run.weights[0].astype(np.float64), *batch.values())
    np.testing.assert_allclose(got, run.weights[0] - 0.2 * fall, atol=1e-5)
    losses += [float(train(**batch, learning_rate=np.float32(0.2))["loss"]) for _ in range(19)]
    assert all(after < before for before, after in pairwise(losses)), losses
    assert losses[-1] < 0.8 * losses[0]


def test_weights_go_to_another_interpreter() -> None:
    run = core_run(demo_model, 1)
    exported = td.export_trainable(run.model, run.tflite)
    first, second = interpreter(exported), interpreter(exported)
    first.get_signature_runner("train")(
        x=run.steps["x"], y=run.steps["y"], weight=run.steps["weight"], learning_rate=np.float32(0.5)
    )
    saved = first.get_signature_runner("save")()
    second.get_signature_runner("restore")(**saved)  # before anything else ran
    for key, values in second.get_signature_runner("save")().items():
        np.testing.assert_array_equal(values, saved[key])
    results = [each.get_signature_runner("infer")(x=run.steps["input"])["logits"] for each in (first, second)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["kws_ref_model", "vww_96_int8", "pretrainedResnet_quant", "ad01_int8"])
def test_mlperf_tiny(name: str) -> None:
    tflite = real_model(f"{name}.tflite")
    model = compile_model(tflite)
    made = interpreter(td.export_trainable(model, tflite))
    inputs = np.random.default_rng(0).integers(-128, 128, (1, *model.input_shape), np.int8)
    shape = made.get_signature_runner("embed").get_input_details()["x"]["shape"]
    # LiteRT's default kernels round some values differently.
    embedding = made.get_signature_runner("embed")(x=inputs.reshape(shape))["embedding"]
    np.testing.assert_allclose(embedding, model.dequantise(model.embed(inputs)), atol=1.01 * model.embedding_scale)
    sample = {"x": embedding, "y": np.int32([0]), "weight": np.float32([1]), "learning_rate": np.float32(1e-4)}
    train = made.get_signature_runner("train")
    assert train(**sample)["loss"] > train(**sample)["loss"]


def float_chain(activation: str) -> bytes:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    inputs = keras.Input((12,), batch_size=1)
    x = keras.layers.Dense(9, activation=activation)(keras.layers.Dense(10, activation="tanh")(inputs))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, keras.layers.Dense(4)(x)))
    return bytes(converter.convert())


def test_a_float_model_trains_too() -> None:
    tflite = float_chain("relu")
    model = compile_model(tflite, 2)
    made = interpreter(td.export_trainable(model, tflite))
    first, random = td.Trainer(model, None).parameters, np.random.default_rng(0)
    x, y, weight = random.normal(size=(6, 12)).astype(np.float32), random.integers(0, 4, 6), np.full(6, 2, np.float32)
    embed, save = made.get_signature_runner("embed"), made.get_signature_runner("save")
    embeddings = np.concatenate([embed(x=row[None])["embedding"] for row in x])
    np.testing.assert_allclose(embeddings, model.dequantise(model.embed(x)), atol=1e-6)
    logits = made.get_signature_runner("infer")(x=x[:1])["logits"]
    np.testing.assert_allclose(logits, forward(model, first, embeddings[:1])[-1], atol=1e-5)
    made.get_signature_runner("train")(x=embeddings, y=y.astype(np.int32), weight=weight, learning_rate=np.float32(0.3))
    saved = save()
    got = np.concatenate([saved[f"{kind}_{i}"].ravel() for i in range(2) for kind in ("weights", "biases")])
    fall = batch_gradient(model, first.astype(np.float64), embeddings, y, weight)
    assert np.abs(fall).max() > 0.05
    np.testing.assert_allclose(got, first - 0.3 * fall, atol=1e-5)


def test_batches_where_the_source_takes_them() -> None:
    """The shapes of its reshapes are then computed, by operators that are none of ours."""
    tflite = demo_model(batch=None)
    model = compile_model(tflite)
    made = interpreter(td.export_trainable(model, tflite))
    inputs = np.random.default_rng(0).integers(-128, 128, (5, *model.input_shape), np.int8)
    embeddings = made.get_signature_runner("embed")(x=inputs)["embedding"]
    np.testing.assert_array_equal(embeddings, model.dequantise(model.embed(inputs)))
    assert made.get_signature_runner("infer")(x=inputs)["probabilities"].shape == (5, model.n_classes)


def test_only_builtin_operators_around_the_same_frozen_part() -> None:
    import tflite as schema

    run = core_run(demo_model, 1)
    exported = td.export_trainable(run.model, run.tflite)
    assert run.tflite in exported
    parsed = schema.Model.GetRootAs(exported, 0)
    codes = [parsed.OperatorCodes(i) for i in range(parsed.OperatorCodesLength())]
    numbers = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    assert not {schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.DELEGATE} & set(numbers)
    assert all(code.CustomCode() is None for code in codes)
    assert schema.BuiltinOperator.CALL_ONCE in numbers
    assert len(exported) < len(run.tflite) + 4 * run.model.n_parameters + 12288


def test_refusals() -> None:
    run = core_run(demo_model, 1)
    with pytest.raises(FormatError, match="not the"):
        td.export_trainable(run.model, run.tflite + b"x")
    with pytest.raises(UnsupportedModelError, match="nothing of it trains"):
        td.export_trainable(compile_model(run.tflite, whole=True), run.tflite)
    for make, cut in ((demo_model, 2), (lambda: float_chain("tanh"), 2)):
        tflite = make()
        with pytest.raises(UnsupportedModelError, match="chain of dense layers"):
            td.export_trainable(compile_model(tflite, cut), tflite)
    graph = run.model.graph
    custom = dataclasses.replace(graph.operators[0], name="CUSTOM:FlexAdd")
    changed = dataclasses.replace(graph, operators=(custom, *graph.operators[1:]))
    with pytest.raises(UnsupportedModelError, match="FlexAdd"):
        td.export_trainable(dataclasses.replace(run.model, graph=changed), run.tflite)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "dense.tflite", tmp_path / "out.tflite"
    source.write_bytes(dense_model())
    command = ["export", str(source), "--trainable", "--cut", "2", "-o", str(target), "--json"]
    assert cli.main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["signatures"] == ["infer", "embed", "train", "save", "restore"]
    assert facts["bytes"] == target.stat().st_size
    assert target.read_bytes() == td.export_trainable(compile_model(source, 2), source.read_bytes())
    assert set(interpreter(target.read_bytes()).get_signature_list()) == set(facts["signatures"])
    with pytest.raises(SystemExit):
        cli.main(["export", str(source), "-o", str(target)])
