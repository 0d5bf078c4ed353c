"""Emulate, push, evaluate, pull: the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator

import board_kit
import numpy as np
import pytest
from models import demo_model

from tinydream.devices import device, journey
from tinydream.errors import BoardError, DataError
from tinydream.models import litert
from tinydream.models.compiler import compile_model
from tinydream.tables.table import Table, table_from_arrays
from tinydream.training.train import TrainConfig, Trainer


@pytest.fixture(scope="module")
def host() -> Iterator[device.Device]:
    with journey.emulate("host") as board:
        yield board


def test_from_push_to_pull(host: device.Device) -> None:
    model, (train, replay) = board_kit.model(), board_kit.packs()
    seen: list[tuple[int, int]] = []
    journey.push(host, model, train, replay, progress=lambda done, total: seen.append((done, total)))
    total = len(model.tdm) + len(train.data) + len(replay.data)
    assert seen[-1] == (total, total) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(BoardError, match="tinydream train"):
        journey.pull(host, model, demo_model())
    config = TrainConfig(epochs=3, learning_rate=0.01)
    assert [epoch.number for epoch in host.train(config)] == [1, 2, 3]
    tuned = journey.pull(host, model, demo_model())

    trainer = Trainer(model, train, replay, config)
    trainer.run()
    windows = board_kit.windows()
    table = table_from_arrays(windows, trainer.predict(model.embed(windows)), classes=model.n_classes)
    assert journey.evaluate(host, model, table) == 1.0
    assert (litert.classify(tuned, windows) == table.labels).mean() > 0.9  # int8 against f32


def test_weights_of_another_model_are_not_pulled(host: device.Device) -> None:
    """Also when the board has saved weights before: they were of that other model."""
    model, (train, _) = board_kit.model(), board_kit.packs()
    journey.push(host, model, train)
    for _ in host.train(TrainConfig(epochs=1, replay=0.0)):
        pass
    tuned = journey.pull(host, model, demo_model())
    other = compile_model(tuned)
    assert other.hash != model.hash and other.embedding_hash == model.embedding_hash
    with pytest.raises(BoardError, match="another model"):
        journey.pull(host, other, tuned)
    journey.push(host, other)
    with pytest.raises(BoardError, match="tinydream train"):
        journey.pull(host, other, tuned)


def test_a_table_that_is_not_the_model_s(host: device.Device) -> None:
    model = board_kit.model()
    journey.push(host, model)
    labels = np.zeros(len(board_kit.windows()), dtype=np.int64)
    names = tuple("abcdefg"[: model.n_classes])
    with pytest.raises(DataError, match="classes=a,b,c"):
        journey.evaluate(host, model, Table(board_kit.windows(), labels, names, ordered=False))
    with pytest.raises(DataError, match="values a row"):
        journey.evaluate(host, model, Table(board_kit.windows()[:, :3], labels, names))
    with pytest.raises(DataError, match="classes, but the model"):
        journey.evaluate(host, model, table_from_arrays(board_kit.windows(), labels, classes=model.n_classes + 1))
