"""Whole models: every operator byte for byte as LiteRT's reference kernels, on the host and on boards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import board_kit
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    convert,
    demo_model,
    moving_model,
    moving_network,
    real_model,
    renamed_operator,
    requantised,
    run_reference,
)

import tinydream
from tinydream._native import lib
from tinydream.cli import commands as cli
from tinydream.devices import boards, journey
from tinydream.errors import (
    BoardError,
    BudgetError,
    DataError,
    FormatError,
    TinyDreamError,
    UnsupportedModelError,
    UsageError,
)
from tinydream.models.compiler import Compiler, compile_model
from tinydream.models.graph import read_graph
from tinydream.models.model import Model

RELU, QUANTIZE = 19, 114


def assert_exact(tflite: bytes, inputs: np.ndarray | None = None, n: int = 4, seed: int = 0) -> Model:
    print(f"seed {seed}")
    model = compile_model(tflite, whole=True)
    if inputs is None:
        inputs = np.random.default_rng(seed).integers(-128, 128, (n, *model.input_shape), np.int8)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(model.embed(inputs), expected)
    return model


NAMES = ["kws_ref_model", "ad01_int8", "vww_96_int8", "pretrainedResnet_quant", "hello_world_int8"]


@pytest.mark.parametrize("name", NAMES)
def test_real_models_to_their_output(name: str) -> None:
    assert_exact(real_model(f"{name}.tflite"), n=3)


# ------------------------------------------------------------- operators of one input

UNARY = {
    "RELU": lambda layers: layers.ReLU(),
    "RELU6": lambda layers: layers.ReLU(max_value=6),
    "LEAKY_RELU": lambda layers: layers.LeakyReLU(negative_slope=0.13),
    "LOGISTIC": lambda layers: layers.Activation("sigmoid"),
    "TANH": lambda layers: layers.Activation("tanh"),
    "HARD_SWISH": lambda layers: layers.Activation("hard_silu"),
}


@cache
def unary_model(name: str) -> bytes:
    if name == "QUANTIZE":
        return renamed_operator(unary_model("RELU"), RELU, QUANTIZE)

    def build(keras: Any) -> Any:
        inputs = keras.Input((16, 16, 1), batch_size=1)
        return keras.Model(inputs, UNARY[name](keras.layers)(inputs))

    return convert(build, 0)


@pytest.mark.parametrize("name", [*UNARY, "QUANTIZE"])
def test_unary_operators_for_all_inputs_and_many_scales(name: str) -> None:
    every = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    assert [operator.name for operator in compile_model(unary_model(name), whole=True).graph.operators] == [name]
    refused = 0
    for seed in range(60):
        tflite = requantised(unary_model(name), seed, outputs=name not in ("LOGISTIC", "TANH"))
        try:
            assert_exact(tflite, every, seed=seed)
        except UnsupportedModelError as error:
            # The reference itself takes only output scales above 1/128 of the input's.
            assert name == "HARD_SWISH" and "scales" in str(error)
            refused += 1
    assert refused < 30


@pytest.mark.parametrize(("shape", "seed"), [((10,), 0), ((2,), 1), ((300,), 2), ((5, 3, 7), 3), ((6, 1), 4)])
def test_softmax(shape: tuple[int, ...], seed: int) -> None:
    def build(keras: Any) -> Any:
        inputs = keras.Input(shape, batch_size=1)
        return keras.Model(inputs, keras.layers.Softmax()(inputs))

    tflite = convert(build, seed)
    for scaling in range(40):
        scaled = requantised(tflite, scaling, outputs=False)
        random = np.random.default_rng(scaling)
        spread = int(random.integers(1, 128))
        assert_exact(scaled, random.integers(-spread, spread, (8, *shape), np.int8), seed=scaling)


def test_an_operator_that_is_not_here_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"operator 0 \(L2_NORMALIZATION, 1x16x16x1 -> .*Supported.*TANH"):
        compile_model(renamed_operator(unary_model("RELU"), RELU, 11), whole=True)


def test_an_output_that_the_reference_refuses_is_refused() -> None:
    for name in ("LOGISTIC", "TANH"):
        with pytest.raises(UnsupportedModelError, match=rf"\({name}.*output must have the scale"):
            compile_model(requantised(unary_model(name), 0), whole=True)


# ------------------------------------------------------- two inputs, and moved values


MOVED: set[str] = set()


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_of_sums_products_and_moves(seed: int) -> None:
    model = assert_exact(convert(moving_network(seed), seed), seed=seed)
    MOVED.update(operator.name for operator in model.graph.operators)


def test_those_networks_had_every_operator() -> None:
    for seed in range(100, 130):
        wanted = {"ADD", "SUB", "MUL", "PAD", "CONCATENATION", "TRANSPOSE", "STRIDED_SLICE", "SPLIT"}
        if wanted <= MOVED:
            return
        test_random_networks_of_sums_products_and_moves(seed)
    raise AssertionError(f"never seen: {wanted - MOVED}")


def test_an_output_that_is_not_computed_is_refused() -> None:
    graph = read_graph(moving_model())
    found = next(t for t in graph.tensors if t.data is not None and t.dtype == "INT8" and len(t.scales) == 1)
    constant, tensors = found.index, list(graph.tensors)
    tensors[constant] = dataclasses.replace(found, shape=(1, found.size), signature=(1, found.size))
    graph = dataclasses.replace(graph, tensors=tuple(tensors), outputs=(constant,))
    with pytest.raises(FormatError, match=f"tensor {constant} is not computed"):
        Compiler(graph).compile_whole()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_give_an_error_or_a_model(data: st.DataObject) -> None:
    tflite = bytearray(moving_model())
    for _ in range(data.draw(st.integers(1, 3))):
        tflite[data.draw(st.integers(0, len(tflite) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = compile_model(bytes(tflite), whole=True)
    except TinyDreamError:
        return
    assert model.embed(np.zeros((1, *model.input_shape), np.int8)).shape == (1, model.embedding_size)


# ---------------------------------------------------------------- from file to file


def test_real_values_in_and_out_at_the_edges_of_the_model() -> None:
    """The converter's default keeps float32 at both ends."""

    def build(keras: Any) -> Any:
        inputs = keras.Input((6,), batch_size=1)
        return keras.Model(inputs, keras.layers.Dense(4)(inputs))

    tflite = convert(build, 3, float_ends=True)
    model = compile_model(tflite, whole=True)
    assert [operator.name for operator in model.graph.operators] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]
    inputs = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    np.testing.assert_array_equal(tinydream.run(model, inputs), run_reference(tflite, inputs, model.graph.outputs[0]))


def test_what_run_takes() -> None:
    model = compile_model(demo_model(), whole=True)
    assert (model.tail, model.n_classes, model.embedding_shape) == ((), 7, (7,))
    raw = np.random.default_rng(0).integers(-128, 128, (3, *model.input_shape), np.int8)
    outputs = journey.run(model, raw, raw=True)
    assert (outputs.shape, outputs.dtype) == ((3, 7), np.int8)
    real = (raw.astype(np.float32) - model.input_zero_point) * np.float32(model.input_scale)
    np.testing.assert_array_equal(journey.run(model, real), (outputs + np.float32(128)) / 256)
    for bad, options in ((real, {"raw": True}), (real[0], {}), (real[:, :50], {}), (real * np.nan, {}), ("x", {})):
        with pytest.raises(DataError):
            journey.run(model, bad, **options)
    with pytest.raises(UsageError, match="no cut"):
        compile_model(demo_model(), 1, whole=True)


@pytest.mark.parametrize("board_id", ["host", "microbit", "an386"])
def test_a_board_runs_a_whole_model(board_id: str) -> None:
    model = compile_model(demo_model(), whole=True)
    planned = tinydream.plan(model, boards.board(board_id))
    inputs = board_kit.windows()[:4]
    with journey.emulate(board_id) as device:
        outputs = journey.run(model, inputs, device, raw=True)
        np.testing.assert_array_equal(outputs, model.embed(inputs))
        assert device.infer(inputs[0]).label == int(outputs[0].argmax())
        stats = device.stats()
        assert stats.arena_tensors + stats.arena_trainer + stats.arena_row == planned.arena_used == model.arena_size
        device.push("train", board_kit.packs()[0].data)
        with pytest.raises(BoardError, match="nothing to train") as refusal:
            list(device.train())
        assert refusal.value.status == lib.TD_E_UNSUPPORTED
        device.push("model", board_kit.model().tdm)
        assert np.array_equal(device.embed(inputs[0]), board_kit.embeddings()[0])


@pytest.mark.parametrize(
    ("name", "board_id"),
    [("kws_ref_model", "an386"), ("pretrainedResnet_quant", "an386"), ("ad01_int8", "an547"),
     ("vww_96_int8", "an547"), ("hello_world_int8", "microbit"),
     ("moving", "an386"), ("moving", "microbit")],
)  # fmt: skip
def test_boards_give_the_reference_s_outputs(name: str, board_id: str) -> None:
    tflite = moving_model() if name == "moving" else real_model(f"{name}.tflite")
    model = compile_model(tflite, whole=True)
    tinydream.plan(model, boards.board(board_id))
    inputs = np.random.default_rng(1).integers(-128, 128, (2, *model.input_shape), np.int8)
    with journey.emulate(board_id) as device:
        outputs = journey.run(model, inputs, device, raw=True)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(outputs.reshape(expected.shape), expected)


@pytest.mark.parametrize("options", [[], ["--board", "host"]])
def test_the_command(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = compile_model(demo_model(), whole=True)
    (tmp_path / "model.tflite").write_bytes(demo_model())
    inputs = board_kit.windows()[:5]

    def command(x: np.ndarray, *more: str) -> np.ndarray:
        np.save(tmp_path / "x.npy", x)
        ends = ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
        assert cli.main(["run", str(tmp_path / "model.tflite"), *ends, "--json", *options, *more]) == 0
        facts = json.loads(capsys.readouterr().out)
        y: np.ndarray = np.load(tmp_path / "y.npy")
        assert (facts["shape"], facts["dtype"]) == (list(y.shape), str(y.dtype))
        return y

    expected = run_reference(demo_model(), inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(command(inputs, "--raw"), expected)
    real = (inputs.astype(np.float64) - model.input_zero_point) * model.input_scale
    np.testing.assert_array_equal(command(real), (expected + np.float32(128)) / 256)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tflite, array, output = tmp_path / "m.tflite", tmp_path / "x.npy", tmp_path / "y.npy"
    tflite.write_bytes(demo_model())
    arguments = ["run", str(tflite), "--input", str(array), "--output", str(output)]

    def fails(code: int, *words: str, change: Callable[[], object] | None = None) -> None:
        if change is not None:
            change()
        assert cli.main(arguments) == code
        message = capsys.readouterr().err
        assert all(word in message for word in words), message
        assert not output.exists()

    fails(1, "x.npy", "No such file")
    fails(1, "x.npy", "cannot be read", change=lambda: array.write_bytes(b"nothing"))
    fails(1, "100, 1, 6", change=lambda: np.save(array, np.zeros((100, 6))))
    fails(1, "NaN", change=lambda: np.save(array, np.full((1, 100, 6), np.nan)))
    fails(1, "m.tflite is not a .tflite", change=lambda: tflite.write_bytes(b"no model"))


def test_a_model_that_does_not_fit_a_board_is_refused_before_it_starts() -> None:
    model = compile_model(real_model("vww_96_int8.tflite"), whole=True)
    with pytest.raises(BudgetError, match="the model takes 235128 bytes of flash"):
        tinydream.plan(model, boards.board("microbit"))
