"""What a board trains with other settings than the default: the host's bits, in the bytes that were planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from board_kit import connect, firmware, model, packs, smaller, windows

from tinydream._native import lib
from tinydream.devices import boards, device
from tinydream.devices.emulator import Emulator
from tinydream.devices.planner import plan
from tinydream.errors import BoardError, BudgetError, DataError
from tinydream.training.train import TrainConfig, Trainer

SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "momentum", "batch": 5, "l2": 0.1, "mode": "full"},
    {"optimizer": "adam", "batch": 8, "clip_norm": 0.5, "learning_rate": 0.01, "schedule": "cosine"},
    {"clip_norm": 0.2},
    {"clip_value": 0.02, "l2": 0.1, "warmup": 1},
    {"precision": "fixed"},
    {"precision": "auto", "held_back": 0.25, "patience": 1, "learning_rate": 0.2, "epochs": 5},
]


@pytest.fixture(params=["host", "microbit", "an386"])
def board(request: pytest.FixtureRequest) -> Iterator[device.Device]:
    with Emulator(boards.board(request.param), firmware(request.param)) as running, connect(running.url) as connected:
        connected.push("model", model().tdm)
        connected.push("train", packs()[0].data)
        yield connected


@pytest.fixture
def host() -> Iterator[device.Device]:
    with Emulator(boards.board("host"), firmware("host")) as running, connect(running.url) as connected:
        connected.push("model", model().tdm)
        connected.push("train", packs()[0].data)
        yield connected


def test_every_setting_gives_the_host_s_bits_in_the_planned_bytes(board: device.Device) -> None:
    assert board.about is not None
    facts = boards.board(board.about.board_id)
    for options in SETTINGS:
        config = TrainConfig(**{"epochs": 2, "replay": 0.0, **options})
        decided = board.resolve(config)
        assert decided.precision == ("f32" if facts.has_fpu and config.precision == "auto" else decided.precision)
        trainer = Trainer(model(), packs()[0], None, decided)
        expected = list(trainer.epochs())
        got = [dataclasses.replace(epoch, instructions=0) for epoch in board.train(config)]
        assert got == expected, options
        saved = board.weights()
        assert np.array_equal(saved.parameters, trainer.parameters), options
        assert saved.logit_range == trainer.logit_range()
        embedded = model().embed(windows()[:6])
        assert np.array_equal(board.classify(windows()[:6]), trainer.predict(embedded))
        planned, stats = plan(model(), facts, train=packs()[0], config=config), board.stats()
        shares = {share.purpose: share.size for share in planned.ram}
        assert planned.config == decided
        assert -(-stats.arena_trainer // 16) * 16 == shares["trainer"] == sum(p.size for p in planned.trainer)
        assert stats.stack_used < stats.stack_reserve or facts.arch != "cortex-m"


def test_patience_ends_early_with_the_best_weights(host: device.Device) -> None:
    config = TrainConfig(epochs=30, replay=0.0, held_back=0.4, patience=2, learning_rate=0.6, schedule="constant")
    epochs = list(host.train(config))
    best = int(np.argmin([epoch.held_loss for epoch in epochs]))
    assert len(epochs) == best + 3 < 30
    shorter = dataclasses.replace(config, epochs=best + 1, patience=0)
    trainer = Trainer(model(), packs()[0], None, shorter)
    trainer.run()
    assert np.array_equal(host.weights().parameters, trainer.parameters)


def test_nothing_to_hold_back_is_told(host: device.Device) -> None:
    with pytest.raises(DataError, match="less than one sample"):
        list(host.train(TrainConfig(held_back=0.01, replay=0.0)))


def test_settings_for_which_ram_is_missing_are_refused_and_the_weights_stay() -> None:
    config = TrainConfig(optimizer="adam", batch=4, replay=0.0)
    facts = boards.board("microbit")
    needed = plan(model(), facts, config=config).ram_used - facts.reserve.statics - facts.reserve.stack
    small = smaller("microbit", needed - 16)
    with pytest.raises(BudgetError, match=r"16 of \d+ bytes of RAM are missing"):
        plan(model(), small, config=config)
    plan(model(), small)


def test_a_refused_training_leaves_the_weights(host: device.Device) -> None:
    list(host.train(TrainConfig(epochs=1, replay=0.0)))
    before = host.weights().parameters
    classes = host.classify(windows()[:4])
    good = [0.125, 0.0, 0.0, 0, 0, False, 0, 0, 0, 0, 1, 0.875, 0.5, 2.0**-20, 0.0, 0.0, 0.0]
    for place, wrong, status in (
        (0, -1.0, lib.TD_E_ARGUMENT), (6, 2, lib.TD_E_ARGUMENT), (6, 1, lib.TD_E_UNSUPPORTED),
        (7, 3, lib.TD_E_ARGUMENT), (7, 256, lib.TD_E_FORMAT), (8, 2, lib.TD_E_ARGUMENT), (9, 2, lib.TD_E_ARGUMENT),
        (10, 65536, lib.TD_E_ARGUMENT), (11, 1.0, lib.TD_E_ARGUMENT), (16, 1.0, lib.TD_E_ARGUMENT),
        (16, -0.5, lib.TD_E_ARGUMENT), (16, "x", lib.TD_E_FORMAT),
    ):  # fmt: skip
        arguments = [*good[:place], wrong, *good[place + 1 :]]
        with pytest.raises(BoardError) as caught:
            host._ask(device._Command.TRAIN_BEGIN, *arguments)
        assert caught.value.status == status, (place, wrong)
        assert np.array_equal(host.weights().parameters, before)
        assert np.array_equal(host.classify(windows()[:4]), classes)
    for command, arguments in ((device._Command.TRAIN_CHECK, []), (device._Command.TRAIN_KEEP, [False])):
        with pytest.raises(BoardError) as caught:
            host._ask(command, *arguments)
        assert caught.value.status == lib.TD_E_STATE
    host._ask(device._Command.TRAIN_BEGIN, *good)
    for command, arguments in ((device._Command.TRAIN_CHECK, []), (device._Command.TRAIN_KEEP, [True])):
        with pytest.raises(BoardError) as caught:
            host._ask(command, *arguments)
        assert caught.value.status == lib.TD_E_STATE
