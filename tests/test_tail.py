"""Tails of any layers: gradients and runs as TensorFlow's, what learns and what stays, on the host and on boards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from models import run_reference
from tail_networks import float_model, int8_model, kinds, learnt, replaced, stored_parameters, tf_gradient

import tinydream as td
from tinydream._native import ffi, lib
from tinydream.devices import boards, journey
from tinydream.errors import DataError, UsageError
from tinydream.models.compiler import compile_model
from tinydream.models.graph import read_graph
from tinydream.models.model import DTYPES, Model, TailLayer
from tinydream.models.tail import plan_training
from tinydream.models.writeback import write_back
from tinydream.training.train import TrainConfig, Trainer


class Steps:
    """td_trainer on the tail of a model, with guards behind its memory."""

    def __init__(self, model: Model, **options: Any) -> None:
        config = ffi.new("td_train_config *", {"learning_rate": 0.1, **options})
        self.model, self.native = model, ffi.new("td_trainer *")
        size = lib.td_trainer_size(model.native, config, ffi.NULL)
        self.memory = ffi.new("uint8_t[]", size + 16)
        ffi.memmove(self.memory + size, b"\x5a" * 16, 16)
        assert lib.td_trainer_init(self.native, model.native, config, self.memory, size) == 0
        self.guard = ffi.buffer(self.memory + size, 16)

    @property
    def parameters(self) -> np.ndarray:
        values = np.empty(self.native.n_parameters, np.float32)
        lib.td_trainer_get(self.native, 0, len(values), ffi.from_buffer("float[]", values))
        return values

    def step(self, x: np.ndarray, label: int, weight: float = 1.0) -> float:
        loss = ffi.new("float *")
        view = ffi.from_buffer("float[]", np.ascontiguousarray(x, np.float32))
        assert lib.td_trainer_step(self.native, view, label, weight, loss) >= 0
        assert bytes(self.guard) == b"\x5a" * 16
        return float(loss[0])


def sample(model: Model, seed: int) -> tuple[np.ndarray, int]:
    random = np.random.default_rng(seed)
    return random.normal(size=model.embedding_size).astype(np.float32), int(random.integers(model.n_classes))


def assert_gradient(model: Model, seed: int) -> None:
    """One step in place, and the sums of a batch of two, against GradientTape."""
    x, label = sample(model, seed)
    stored = stored_parameters(model)
    expected_loss, gradient = tf_gradient(model, stored, x, label)
    ours = Steps(model)
    before = ours.parameters
    np.testing.assert_allclose(before, learnt(model, stored), rtol=1e-6, atol=1e-9)
    assert ours.step(x, label) == pytest.approx(expected_loss, rel=1e-4, abs=1e-5)
    size = max(1e-3, float(np.abs(gradient).max()))
    np.testing.assert_allclose(
        (before - ours.parameters) / np.float32(0.1), gradient, rtol=1e-3, atol=1e-4 * size + 2e-6
    )
    batch = Steps(model, batch=2)
    for _ in range(2):
        batch.step(x, label, 0.5)
    np.testing.assert_allclose(
        (before - batch.parameters) / np.float32(0.05), gradient, rtol=1e-3, atol=1e-4 * size + 2e-6
    )


def test_gradients_of_every_layer() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        print(f"seed {seed}")
        model = compile_model((float_model if seed % 2 else int8_model)(seed), "#0")
        assert_gradient(model, seed)
        seen += kinds(model)
    assert len(seen) == 13 and min(seen.values()) >= 2, seen


@pytest.mark.parametrize(("seed", "options"), [(1, {}), (6, {}), (17, {"batch": 3, "optimizer": 1}), (20, {"l2": 0.1})])
def test_a_run_is_tensorflow_s_step_by_step(seed: int, options: dict[str, Any]) -> None:
    """Parameters after each update: SGD in place, momentum over batches, and the pull of l2 towards the start."""
    model = compile_model((float_model if seed % 2 else int8_model)(seed), "#0")
    ours, stored = Steps(model, **options), stored_parameters(model)
    expected = start = learnt(model, stored)
    moment, total, batch = np.zeros_like(expected), np.zeros_like(expected), options.get("batch", 1)
    weights = learnt(model, [(np.ones_like(w), np.zeros_like(b)) for w, b in stored])
    for number in range(30):
        x, label = sample(model, number)
        total += tf_gradient(model, replaced(model, stored, expected), x, label)[1]
        ours.step(x, label)
        if (number + 1) % batch == 0:
            gradient = total / batch + options.get("l2", 0.0) * weights * (expected - start)
            moment = (0.9 * moment if "optimizer" in options else 0) - np.float64(np.float32(0.1)) * gradient
            expected, total = expected + moment, np.zeros_like(expected)
        np.testing.assert_allclose(ours.parameters, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - start).max() > 0.05


# ------------------------------------------------------------------ what learns


def weighted(model: Model) -> list[TailLayer]:
    return [layer for layer in model.tail if layer.filter_size]


@pytest.mark.parametrize("seed", range(6))
def test_only_what_should_learn_does(seed: int) -> None:
    tflite = (float_model if seed % 2 else int8_model)(seed, 5)
    whole = compile_model(tflite, "#0")
    layers = weighted(whole)
    middle, last = layers[len(layers) // 2], layers[-1]
    n = layers[0].out_shape[2]
    sizes = [whole.native.embedding_hash]
    for learn, count in (
        ("bias", sum(layer.n_biases for layer in layers)),
        (1, sum(layer.filter_size + (layer.n_biases > 0) for layer in layers)),
        (f"none,{middle.operator}=1", middle.filter_size + (middle.n_biases > 0)),
        ({"*": "none", layers[0].operator: n}, layers[0].n_parameters),
        ({"*": "bias", str(last.operator): "all"}, sum(each.n_biases for each in layers) + last.n_weights),
    ):
        model = compile_model(tflite, "#0", learn)
        assert model.n_parameters == count == Steps(model).native.n_parameters, learn
        assert_gradient(model, seed)
        sizes.append(model.native.embedding_hash)
    assert len(set(sizes)) == 1  # packs stay valid


def test_what_does_not_learn_costs_no_ram() -> None:
    """Biases need no activations kept for them, and layers in front of all that learns no gradient."""
    tflite = int8_model(7, 6)
    arenas = {learn: int(lib.td_trainer_size(compile_model(tflite, "#0", learn).native, ffi.NULL, ffi.NULL))
              for learn in (None, "bias", 1)}  # fmt: skip
    assert arenas["bias"] < arenas[None] and arenas[1] < arenas[None]
    last = weighted(compile_model(tflite, "#0"))[-1].operator
    only_last = compile_model(tflite, "#0", f"none,{last}=all")
    assert sum(place is not None for place in plan_training(only_last.tail).gradients) == 1


@pytest.mark.parametrize("learn", ["", "most", 0, "0", 99, "none", "12345=all", {"x": 1}, "0=none,bias=", {1.5: "all"}])
def test_a_wrong_learn_says_what_is_right(learn: Any) -> None:
    with pytest.raises(UsageError, match=r"learn .*OPERATOR=RULE"):
        compile_model(float_model(7), "#0", learn)


def test_a_connection_that_passes_by_a_cut_is_refused_with_the_cuts_there_are() -> None:
    for seed in range(40):
        model = compile_model(float_model(seed, 5), "#0")
        adds = [layer for layer in model.tail if layer.name == "ADD" and min(layer.inputs) != max(layer.inputs)]
        for layer in adds:
            inside = model.tail[max(layer.inputs) - 1].output
            if layer.inputs[1] != layer.inputs[0] and model.tail[layer.inputs[0] - 1].output == inside:
                with pytest.raises(UsageError, match=r"passes by it.*can be cut at '"):
                    compile_model(float_model(seed, 5), f"#{inside}")
                return
    raise AssertionError("no network had a residual connection")


# -------------------------------------------------------------------- write-back


def trained_and_written(tflite: bytes, cut: str, learn: Any, seed: int) -> tuple[Model, bytes, np.ndarray, np.ndarray]:
    """The model, the tuned file, inputs, and the outputs of the trained f32 tail."""
    model = compile_model(tflite, cut, learn)
    random = np.random.default_rng(seed)
    inputs = model.quantise(random.normal(size=(24, *model.input_shape)).astype(np.float32))
    real = model.dequantise(model.embed(inputs))
    ours = Steps(model, learning_rate=0.01)
    for number in range(60):
        ours.step(real[number % len(real)], int(random.integers(model.n_classes)))
    lib.td_trainer_reset_range(ours.native)
    outputs = []
    for row in real:
        view = ffi.from_buffer("float[]", np.ascontiguousarray(row))
        lib.td_trainer_predict(ours.native, view, 0, ffi.NULL)
        found = lib.td_trainer_outputs(ours.native)
        outputs.append(np.frombuffer(ffi.buffer(found, 4 * model.n_classes), np.float32).copy())
    limits = float(ours.native.logit_min), float(ours.native.logit_max)
    return model, write_back(tflite, model, ours.parameters, limits), inputs, np.array(outputs)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("learn", [None, "bias", 1])
def test_litert_runs_what_was_written_back(seed: int, learn: Any) -> None:
    tflite = (float_model if seed % 2 else int8_model)(seed, 4, softmax=False)
    model, tuned, inputs, outputs = trained_and_written(tflite, "#0", learn, seed)
    graph = read_graph(tuned)
    raw = run_reference(tuned, inputs, graph.outputs[0])
    own = compile_model(tuned, whole=True)
    if seed % 2:
        np.testing.assert_allclose(raw, outputs, rtol=1e-4, atol=1e-4 * np.abs(outputs).max())
    else:
        np.testing.assert_array_equal(own.embed(inputs), raw)  # what a board computes
        logits = own.dequantise(raw)
        assert np.corrcoef(logits.ravel(), outputs.ravel())[0, 1] > 0.97
    allowed: set[int] = set()
    for layer in model.tail:
        for index in (layer.weights, layer.bias, layer.output):
            tensor = model.graph.tensors[index]
            if index < 0 or (index == layer.output and layer is not model.tail[-1]):
                continue
            sizes = len(tensor.data or b""), 4 * len(tensor.scales), 8 * len(tensor.zero_points)
            for at, size in zip((tensor.data_at, tensor.scales_at, tensor.zero_points_at), sizes, strict=True):
                allowed |= set(range(at or 0, (at or 0) + size))
        if layer.filter_size:
            before, after = model.graph.tensors[layer.weights], graph.tensors[layer.weights]
            axis = 3 if layer.name == "DEPTHWISE_CONV_2D" else 0
            kept = [
                np.moveaxis(np.frombuffer(t.data or b"", DTYPES[t.dtype]).reshape(t.shape), axis, 0)[: layer.first]
                for t in (before, after)
            ]
            np.testing.assert_array_equal(*kept)
            np.testing.assert_array_equal(before.scales[: layer.first], after.scales[: layer.first])
    changed = {i for i, (a, b) in enumerate(zip(tflite, tuned, strict=True)) if a != b}
    assert changed and changed <= allowed


# ------------------------------------------------------------------------ boards


@pytest.mark.parametrize(("board_id", "is_float"), [("host", False), ("microbit", False), ("an386", False),
                                                    ("host", True), ("an386", True)])  # fmt: skip
def test_boards_train_to_the_host_s_bits(board_id: str, is_float: bool) -> None:
    tflite = (float_model if is_float else int8_model)(7, 3)
    model = compile_model(tflite, "#0", "all" if board_id != "microbit" else "bias")
    random = np.random.default_rng(0)
    rows = model.quantise(random.normal(size=(30, *model.input_shape)).astype(np.float32))
    pack = td.pack(td.table_from_arrays(rows, np.arange(30) % model.n_classes), through=model, per_class=4,
                   resolution=0.01 if is_float else None)  # fmt: skip
    config = TrainConfig(epochs=3, learning_rate=0.05, precision="auto")  # f32 also where there is no FPU
    planned = td.plan(model, boards.board(board_id), train=pack, config=config)
    trainer = Trainer(model, pack, config=config)
    before = trainer.parameters
    epochs = list(trainer.epochs())
    with journey.emulate(board_id) as device:
        journey.push(device, model, pack)
        assert device.resolve(config) == planned.config and planned.config.precision == "f32"
        for ours, theirs in zip(device.train(config), epochs, strict=True):
            assert (ours.loss, ours.accuracy) == (theirs.loss, theirs.accuracy)
        np.testing.assert_array_equal(device.weights().parameters.view(np.uint32), trainer.parameters.view(np.uint32))
        stats = device.stats()
        parts = stats.arena_tensors, stats.arena_trainer, stats.arena_row // 2, stats.arena_row // 2
        assert sum(-(-part // 16) * 16 for part in parts) == planned.arena_used
        tuned = journey.pull(device, model, tflite)
    assert not np.array_equal(trainer.parameters, before)
    assert tuned == write_back(tflite, model, trainer.parameters, trainer.logit_range())


def test_float_embeddings_are_packed_in_steps_that_somebody_chose() -> None:
    model = compile_model(float_model(3), 1)
    rows = np.random.default_rng(0).normal(size=(40, *model.input_shape)).astype(np.float32)
    table = td.table_from_arrays(rows, np.arange(40) % model.n_classes)
    with pytest.raises(DataError, match=r"float32; packed rows are integers.*resolution"):
        td.pack(table, through=model)
    with pytest.raises(DataError, match="take a larger resolution"):
        td.pack(table, through=model, resolution=1e-9)
    pack = td.pack(table, through=model, resolution=0.01, keep_order=True)
    real, step = model.embed(rows), np.float64(np.float32(0.01))
    assert (pack.scale, pack.zero_point) == (step, 0)
    found = pack[:] * step - real
    assert pack.embedding_error == (np.abs(found).max(), np.sqrt((found**2).mean()))
    assert pack.embedding_error[0] <= 0.00501
    replay = td.pack(table, through=model, resolution=0.01, replay=10)
    Trainer(model, pack, replay).run()
    with pytest.raises(DataError, match=r"steps of 0.02.*one resolution"):
        Trainer(model, pack, td.pack(table, through=model, resolution=0.02, replay=10))
