"""Fine-tunes the head of a real model on an emulated board: what that takes of RAM beyond inference, and what it gives.

Classes are made up: each is a random input, and its samples are that input with noise and a shift that the model has
never seen. What counts is that the head learns them on the board, and in which bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tinydream as td

BOARD = "an386"
TRAIN, TEST, NOISE = 10, 5, 15.0  # samples a class, and the noise in units of the input
CONFIG = td.TrainConfig(epochs=20, mode="full", replay=0.0)


def made_up(model: Any, seed: int = 0) -> tuple[td.Table, td.Table]:
    """Training and test samples, int8 as the model takes them."""
    random = np.random.default_rng(seed)
    shape = (model.n_classes, *model.input_shape)
    prototypes = random.normal(size=shape, scale=60) + 20

    def draw(n: int) -> td.Table:
        labels = np.repeat(np.arange(model.n_classes), n)
        values = prototypes[labels] + random.normal(size=(len(labels), *model.input_shape), scale=NOISE)
        return td.table_from_arrays(np.clip(np.rint(values), -128, 127).astype(np.int8), labels)

    return draw(TRAIN), draw(TEST)


def fine_tune(content: bytes) -> dict[str, Any]:
    """Pushes the model, trains its head, and compares RAM with a board that only runs the same model."""
    model, whole = td.compile_model(content), td.compile_model(content, whole=True)
    train, test = made_up(model)
    with td.emulate(BOARD) as board:
        td.push(board, whole)
        board.infer(test.values[0])
        running = board.stats()
    with td.emulate(BOARD) as board:
        td.push(board, model, td.pack(train, through=model))
        before = td.evaluate(board, model, test)
        epochs = list(board.train(CONFIG))
        after, stats = td.evaluate(board, model, test), board.stats()
        tuned = td.pull(board, model, content)
        td.push(board, td.compile_model(tuned, whole=True))
        requantised = float(np.mean(board.classify(test.values) == test.labels))
    return {
        "instructions": epochs[-1].instructions // epochs[-1].steps,
        "ram": stats.ram_used - running.ram_used,
        "trainer": stats.arena_trainer,
        "rows": stats.arena_row,
        "code": stats.flash_firmware,
        "acc_before": before,
        "acc_after": after,
        "acc_requantised": requantised,
    }
