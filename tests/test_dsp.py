"""The kernels of cores that do more than a Cortex-M0 against the plain C ones: emulated boards against the host.

The host's are held against LiteRT's reference kernels in test_model.py.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from board_kit import connect
from models import convert, random_network

from tinydream.devices import boards, build, emulator
from tinydream.devices.device import Device
from tinydream.models.compiler import compile_model
from tinydream.models.graph import read_graph
from tinydream.models.model import Model

AN386, AN547 = boards.board("an386"), boards.board("an547")
BOARDS = {
    "Cortex-M4F": AN386,
    "Cortex-M3": dataclasses.replace(AN386, flags=("-mcpu=cortex-m3", "-mthumb")),
    "Cortex-M55": AN547,
}
MARKS = {
    "Cortex-M4F": {"smlad", "smlatt", "smmulr"},
    "Cortex-M3": {"<conv_two_positions>:"},
    "Cortex-M55": {"dlstp.8", "letp", "vqrdmulh.s32", "vrshl.s32"},
}


@cache
def firmware(core: str) -> build.Firmware:
    return build.build(BOARDS[core])


@pytest.fixture(scope="module", params=[*BOARDS])
def board(request: pytest.FixtureRequest) -> Iterator[Device]:
    with (
        emulator.Emulator(BOARDS[request.param], firmware(request.param)) as emulated,
        connect(emulated.url) as device,
    ):
        yield device


def assert_same(board: Device, model: Model, seed: int) -> None:
    random = np.random.default_rng(seed)
    board.push("model", model.tdm)
    inputs = [random.integers(-128, 128, model.input_shape, np.int8) for _ in range(2)]
    inputs.append(np.full(model.input_shape, random.choice([-128, 127]), np.int8))
    for x, expected in zip(inputs, model.embed(np.stack(inputs)), strict=True):
        np.testing.assert_array_equal(board.embed(x), expected)


@pytest.mark.parametrize("core", [*BOARDS])
def test_the_board_has_these_kernels(core: str) -> None:
    listing = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(firmware(core).elf)]
    code = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert set(code.split()) >= MARKS[core]


@cache
def random_model(seed: int) -> Model:
    return compile_model(convert(random_network(seed), seed, seed % 2 == 0))


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(board: Device, seed: int) -> None:
    assert_same(board, random_model(seed), seed)


def conv(filters: int, kernel: Any, **options: Any) -> Any:
    return lambda layers: layers.Conv2D(filters, kernel, **options)


def depthwise(kernel: Any, **options: Any) -> Any:
    return lambda layers: layers.DepthwiseConv2D(kernel, **options)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((5, 3, 9), conv(7, 1)),  # an odd number of positions and channels, values left over after fours
        ((6, 5, 6), conv(5, (3, 2), padding="same")),
        ((9, 9, 3), conv(8, 3, strides=2, padding="same", activation="relu")),
        ((7, 8, 4), conv(3, 2, dilation_rate=(2, 3), padding="same")),
        ((49, 10, 1), conv(6, (10, 4), strides=2, padding="same")),
        ((5, 5, 72), conv(2, 3)),  # a window too large to gather
        ((7, 6, 8), depthwise(3, padding="same")),
        ((7, 6, 12), depthwise(3, strides=2, padding="same", activation="relu")),
        ((3, 2, 4), depthwise(5, padding="same")),
        ((9, 7, 4), depthwise((2, 4))),
        ((9, 9, 4), depthwise(3, padding="same", dilation_rate=2)),
        ((6, 6, 6), depthwise(3, padding="same")),  # channels that are no multiple of four
        ((4, 4, 4), depthwise(3, depth_multiplier=2)),
        ((9, 8, 19), depthwise((3, 2), padding="same")),  # eight channels, eight more and what is left
        ((9, 8, 8), depthwise((7, 3), padding="same", dilation_rate=2)),
        ((8, 8, 8), depthwise(8)),  # too many taps
        ((5, 6, 17), conv(9, 1, strides=2)),
        ((37,), lambda layers: layers.Dense(11, activation="relu")),
        ((100,), lambda layers: layers.Dense(8)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_layers(board: Device, shape: tuple[int, ...], layer: Any) -> None:
    assert_same(board, layer_model(shape, layer), sum(shape))


@cache
def layer_model(shape: tuple[int, ...], layer: Any) -> Model:
    def network(keras: Any) -> Any:
        x = inputs = keras.Input(shape, batch_size=1)
        x = keras.layers.Flatten()(layer(keras.layers)(x))
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    return compile_model(convert(network, seed=sum(shape)))


def test_a_weight_of_minus_128(board: Device) -> None:
    """No converter writes one; two products with it do not fit in 16 bits together."""
    tflite = bytearray(convert(depthwise_network, 2))
    graph = read_graph(bytes(tflite))
    (operator,) = [each for each in graph.operators if each.name == "DEPTHWISE_CONV_2D"]
    weights = graph.tensors[operator.inputs[1]]
    assert weights.data_at is not None
    for at in range(0, weights.size, 3):
        tflite[weights.data_at + at] = 0x80
    assert_same(board, compile_model(bytes(tflite)), 2)


def depthwise_network(keras: Any) -> Any:
    inputs = keras.Input((6, 5, 16), batch_size=1)
    x = keras.layers.Flatten()(keras.layers.DepthwiseConv2D(3, padding="same")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(x))
