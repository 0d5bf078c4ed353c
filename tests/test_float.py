"""float32 models: within 1e-5 of LiteRT's reference kernels on the host, the same bits on a board."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import real_model, run_reference
from tflite_builder import NONE, RELU, RELU6, RELU_N1_TO_1, SAME, VALID, Builder

from tinydream.cli import commands as cli
from tinydream.devices import boards, journey
from tinydream.devices.planner import plan
from tinydream.errors import FormatError, UnsupportedModelError
from tinydream.models.compiler import compile_model

TOLERANCE = 1e-5  # of the largest magnitude in the tensor: sums cancel, in any order


def assert_close(tflite: bytes, inputs: np.ndarray) -> np.ndarray:
    """Ours against the reference; returns ours."""
    model = compile_model(tflite, whole=True)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    got = model.embed(inputs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE * float(scale))
    return got


class Network:
    """A float model drawn from a seed, operator by operator."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = Builder()
        self.used: Counter[str] = Counter()

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def pick(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices))]

    def constant(self, *shape: int) -> int:
        return self.builder.constant(self.random.normal(size=shape), np.float32)

    def fused(self) -> int:
        return int(self.pick(NONE, NONE, RELU, RELU6, RELU_N1_TO_1))

    def geometry(self, x: int, most: int) -> dict[str, Any]:
        size = self.builder.shape(x)[1:3]
        dilation = self.pick((1, 1), (1, 1), (2, 1), (2, 3)) if most > 3 else (1, 1)
        taps = self.number(1, most), self.number(1, most)
        reach = [(n - 1) * gap + 1 for n, gap in zip(taps, dilation, strict=True)]
        fits = all(r <= n for r, n in zip(reach, size, strict=True))
        stride = (self.number(1, 4), self.number(1, 3)) if dilation == (1, 1) else (1, 1)
        extra = {"dilation": dilation} if most > 3 else {}
        return {"taps": taps, "stride": stride, "padding": self.pick(SAME, VALID) if fits else SAME, **extra}

    def conv(self, x: int) -> int:
        depth, n, where = self.builder.shape(x)[3], self.number(1, 9), self.geometry(x, 5)
        inputs = [x, self.constant(n, *where["taps"], depth), self.constant(n)]
        return self.builder.window("CONV_2D", inputs, channels=n, fusedActivationFunction=self.fused(), **where)

    def depthwise(self, x: int) -> int:
        depth, times, where = self.builder.shape(x)[3], self.number(1, 4), self.geometry(x, 5)
        n = depth * times
        inputs = [x, self.constant(1, *where["taps"], n), self.constant(n)]
        return self.builder.window("DEPTHWISE_CONV_2D", inputs, channels=n, depthMultiplier=times,
                                   fusedActivationFunction=self.fused(), **where)  # fmt: skip

    def pool(self, x: int) -> int:
        name = self.pick("AVERAGE_POOL_2D", "MAX_POOL_2D")
        channels = self.builder.shape(x)[3]
        where = self.geometry(x, 4) | {}
        where.pop("dilation", None)
        where["stride"] = tuple(where["stride"])
        return self.builder.window(name, [x], channels=channels, fusedActivationFunction=self.fused(), **where)

    def combine(self, x: int) -> int:
        _, h, w, c = shape = self.builder.shape(x)
        other = self.pick((c,), (1, h, 1, 1), (1, 1, w, c), shape, (1,), None)
        y = self.builder.op(self.pick("LOGISTIC", "TANH"), [x], shape) if other is None else self.constant(*other)
        pair = [x, y] if self.number(0, 2) else [y, x]
        return self.builder.op(self.pick("ADD", "SUB", "MUL"), pair, shape, fusedActivationFunction=self.fused())

    def unary(self, x: int) -> int:
        name = self.pick("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "HARD_SWISH", "LOGISTIC", "TANH", "SOFTMAX")
        options = {"LEAKY_RELU": {"alpha": 0.3}, "SOFTMAX": {"beta": float(self.random.uniform(0.2, 2))}}.get(name, {})
        return self.builder.op(name, [x], self.builder.shape(x), **options)

    def move(self, x: int) -> int:
        _, h, w, c = self.builder.shape(x)
        kind = self.pick("PAD", "TRANSPOSE", "CONCATENATION", "RESHAPE")
        if kind == "PAD":
            pads = self.builder.constant([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32)
            return self.builder.op(kind, [x, pads], (1, h + 1, w + 2, c))
        if kind == "TRANSPOSE":
            order = self.builder.constant([0, 2, 1, 3], np.int32)
            return self.builder.op(kind, [x, order], (1, w, h, c))
        if kind == "RESHAPE":
            shape = self.builder.constant([1, w, h, c], np.int32)
            return self.builder.op(kind, [x, shape], (1, w, h, c), newShape=[1, w, h, c])
        return self.builder.op(kind, [x, x], (1, h, 2 * w, c), axis=2)

    def build(self) -> tuple[bytes, tuple[int, ...]]:
        shape = 1, self.number(3, 12), self.number(1, 10), self.number(1, 6)
        x = source = self.builder.tensor(shape)
        for _ in range(self.number(2, 7)):
            step = self.pick(self.conv, self.conv, self.depthwise, self.pool, self.combine, self.unary, self.move)
            x = step(x)
        if self.number(0, 2):
            axes = self.builder.constant([1, 2], np.int32)
            x = self.builder.op("MEAN", [x, axes], (1, self.builder.shape(x)[3]))
        size = int(np.prod(self.builder.shape(x)))
        n = self.number(1, 9)
        x = self.builder.op("FULLY_CONNECTED", [x, self.constant(n, size), self.pick(self.constant(n), -1)], (1, n),
                            fusedActivationFunction=self.fused())  # fmt: skip
        if self.number(0, 2):
            x = self.builder.op("SOFTMAX", [x], (1, n), beta=1.0)
        self.used.update(self.builder.codes.keys())
        return self.builder.finish([source], [x]), shape


def network(seed: int) -> tuple[bytes, np.ndarray, Counter[str]]:
    made = Network(seed)
    tflite, shape = made.build()
    inputs = np.random.default_rng(seed).normal(size=(3, *shape[1:]), scale=2).astype(np.float32)
    return tflite, inputs, made.used


def test_random_float_networks() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        print(f"seed {seed}")
        tflite, inputs, used = network(seed)
        assert_close(tflite, inputs)
        seen += used
    assert len(seen) == 21 and min(seen.values()) > 10, seen


@pytest.mark.parametrize("name", ["LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "SOFTMAX"])
def test_functions_over_their_whole_range(name: str) -> None:
    """Each value by itself, relative to itself."""
    builder = Builder()
    values = np.concatenate([np.linspace(-30, 30, 60_001), np.geomspace(1e-30, 1, 5_535), [0, -0.0, 1e4, -1e4]])
    x = builder.tensor((1, 4, 4, 4097))
    inputs = np.resize(values.astype(np.float32), (1, 4, 4, 4097))
    options = {"LEAKY_RELU": {"alpha": 0.3}, "SOFTMAX": {"beta": 0.7}}.get(name, {})
    tflite = builder.finish([x], [builder.op(name, [x], builder.shape(x), **options)])
    model = compile_model(tflite, whole=True)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_allclose(model.embed(inputs), expected, rtol=TOLERANCE, atol=1e-36)


def test_a_real_float_model() -> None:
    inputs = np.random.default_rng(0).uniform(0, 6.3, (50, 1)).astype(np.float32)
    assert_close(real_model("hello_world_float.tflite"), inputs)


def test_dynamic_range_models_are_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"operator 0 \(CONV_2D.*weights are INT8.*Convert the model without"
    ):
        compile_model(real_model("kws_ref_model_float32.tflite"), whole=True)


@pytest.mark.parametrize("board_id", ["host", "microbit", "an386"])
def test_boards_compute_the_host_s_bits(board_id: str) -> None:
    compared = 0
    with journey.emulate(board_id) as device:
        for seed in range(40):
            tflite, inputs, _ = network(seed)
            model = compile_model(tflite, whole=True)
            if model.macs > 20_000 or model.arena_size > 3000:
                continue
            planned = plan(model, boards.board(board_id))
            outputs = journey.run(model, inputs[:1], device)
            np.testing.assert_array_equal(
                outputs.ravel().view(np.uint32), model.embed(inputs[:1]).ravel().view(np.uint32)
            )
            stats = device.stats()
            assert stats.arena_tensors == planned.arena_used
            compared += 1
    assert compared >= 8


def test_the_command_takes_and_gives_real_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tflite, inputs, _ = network(1)
    (tmp_path / "m.tflite").write_bytes(tflite)
    np.save(tmp_path / "x.npy", inputs)
    ends = ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    for options in ([], ["--raw"]):
        assert cli.main(["run", str(tmp_path / "m.tflite"), *ends, *options]) == 0
        assert "float32" in capsys.readouterr().out
        model = compile_model(tflite, whole=True)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy").reshape(3, -1), model.embed(inputs))


def test_damaged_float_models_are_refused() -> None:
    """Every operator, with each of its constants cut short or of another type."""
    refused = 0
    for seed in range(60):
        made = Network(seed)
        made.build()
        for operator in made.builder.operators:
            for position in range(1, len(operator.inputs)):
                made = Network(seed)
                made.build()
                index = operator.inputs[position]
                if index < 0 or made.builder.tensors[index].buffer == 0 or made.builder.tensors[index].type != 0:
                    continue
                made.builder.buffers[made.builder.tensors[index].buffer].data = np.zeros(2, np.uint8)
                tflite = made.builder.finish([0], [len(made.builder.tensors) - 1])
                with pytest.raises((FormatError, UnsupportedModelError)):
                    compile_model(tflite, whole=True)
                refused += 1
    assert refused > 100
