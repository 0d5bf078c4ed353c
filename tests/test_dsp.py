"""The kernels of cores with the DSP extension against the plain C ones: an emulated Cortex-M4 against the host.

The host's are held against LiteRT's reference kernels in test_model.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from board_kit import connect, firmware
from models import convert, random_network

from tinydream import boards, emulator
from tinydream.compiler import compile_model
from tinydream.device import Device
from tinydream.model import Model

BOARD = "an386"


@pytest.fixture(scope="module")
def board() -> Iterator[Device]:
    with (
        emulator.Emulator(boards.board(BOARD), firmware(BOARD)) as emulated,
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


def test_the_board_has_these_kernels() -> None:
    listing = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(firmware(BOARD).elf)]
    code = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert "smlad" in code and "smlatt" in code and "smmulr" in code


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(board: Device, seed: int) -> None:
    assert_same(board, compile_model(convert(random_network(seed), seed, seed % 2 == 0)), seed)


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
        ((37,), lambda layers: layers.Dense(11, activation="relu")),
        ((100,), lambda layers: layers.Dense(8)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_layers(board: Device, shape: tuple[int, ...], layer: Any) -> None:
    def network(keras: Any) -> Any:
        x = inputs = keras.Input(shape, batch_size=1)
        x = keras.layers.Flatten()(layer(keras.layers)(x))
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    assert_same(board, compile_model(convert(network, seed=sum(shape))), sum(shape))
