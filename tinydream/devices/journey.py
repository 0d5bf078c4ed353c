"""What a person does with a board, in the words of the command line: emulate, push, evaluate, pull."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BoardError, DataError
from ..models import litert
from ..models.compiler import compile_model
from ..models.model import Model
from ..models.writeback import write_back
from ..packs.embeddings import check_classes, model_inputs
from ..packs.pack import Pack
from ..progress import Progress
from ..tables.table import Table
from .boards import board as load_board
from .build import build
from .device import Device, Pushed, connect
from .emulator import Emulator

__all__ = ["Accuracies", "compare", "emulate", "evaluate", "pull", "push", "run"]


@dataclass(frozen=True)
class Accuracies:
    """Of a tuned model on the same rows: its tail as trained, and requantised on the board and in LiteRT."""

    trained: float
    int8_board: float
    int8_litert: float


@contextmanager
def emulate(board_id: str = "microbit") -> Iterator[Device]:
    """A freshly started emulated board with this TinyDream's firmware; ended when the block is left.

    Raises UsageError when the cross compiler or the emulator is missing, naming the package to install.
    """
    chosen = load_board(board_id)
    with Emulator(chosen, build(chosen)) as emulator, connect(emulator.url, board=board_id) as device:
        yield device


def push(
    device: Device, model: Model, train: Pack | None = None, replay: Pack | None = None,
    *, progress: Progress | None = None,
) -> list[Pushed]:  # fmt: skip
    """Pushes a model and its packs; what the board has already is not sent again. `progress` counts all bytes."""
    parts = [("model", model.tdm)]
    parts += [(kind, pack.data) for kind, pack in (("train", train), ("replay", replay)) if pack is not None]
    total, before, pushed = sum(len(data) for _, data in parts), 0, []
    for kind, data in parts:

        def shifted(done: int, _total: int, base: int = before) -> None:
            if progress is not None:
                progress(base + done, total)

        pushed.append(device.push(kind, data, shifted))
        before += len(data)
    return pushed


def evaluate(device: Device, model: Model, table: Table, *, progress: Progress | None = None) -> float:
    """Share of the table's rows that the board, with the weights it has now, puts into their class."""
    check_classes(table.classes, table.ordered, model, table.source)
    predicted: npt.NDArray[np.int64] = device.classify(model_inputs(table, model), progress)
    return float((predicted == table.labels).mean())


def pull(device: Device, model: Model, tflite: bytes) -> bytes:
    """The .tflite with the tail that the board has trained. Raises BoardError when it trained another model."""
    weights = device.weights()
    if weights.model_hash != model.hash:
        raise BoardError(
            "the weights on the board belong to another model; name the .tflite that was pushed, or push this one first"
        )
    # A board counts saves over all models; without a range of logits these weights are the model's own.
    if weights.sequence == 0 or weights.logit_range == (0.0, 0.0):
        raise BoardError("the board has not saved any trained weights for this model; run `tinydream train` first")
    return write_back(tflite, model, weights.parameters, weights.logit_range)


def compare(
    device: Device, model: Model, tuned: bytes, table: Table, *, progress: Progress | None = None
) -> Accuracies:
    """What requantising cost: `table` classified by the board with its trained tail, by the board with `tuned` (what
    `pull` gave, pushed for that time instead of `model`), and by LiteRT.
    """
    trained, windows = evaluate(device, model, table, progress=progress), model_inputs(table, model)
    try:
        push(device, compile_model(tuned, whole=True))
        on_board = device.classify(windows, progress)
    finally:
        push(device, model)
    by_litert = litert.classify(tuned, windows, progress)
    return Accuracies(trained, *(float((found == table.labels).mean()) for found in (on_board, by_litert)))


def run(
    model: Model, inputs: npt.ArrayLike, device: Device | None = None, *, raw: bool = False,
    progress: Progress | None = None,
) -> npt.NDArray[Any]:  # fmt: skip
    """What `model` (compiled whole; else: its frozen part) makes of inputs (n, *model.input_shape).

    On the host, or on `device`, to which the model is pushed. Real values in and float32 out; with `raw`, values of the
    model's own types (Model.input_dtype, Model.output_dtype) in and out. The result is (n, *model.embedding_shape).
    Raises DataError for another shape or type, or NaN.
    """
    values = np.asarray(inputs)
    if values.ndim == 0 or values.dtype.kind not in "fiub":
        raise DataError(f"run needs an array of numbers, one row a sample, not {values.dtype} {values.shape}")
    quantised = values if raw else model.quantise(values)
    if device is None:
        outputs = model.embed(quantised, progress)
    else:
        rows = model.check_inputs(quantised)
        push(device, model)
        if model.has_state:
            device.forget()
        outputs = np.empty((len(rows), model.embedding_size), model.output_dtype)
        for done, row in enumerate(rows):
            outputs[done] = device.embed(row, model.output_dtype)
            if progress is not None:
                progress(done + 1, len(rows))
    shaped = outputs.reshape(len(outputs), *model.embedding_shape)
    return shaped if raw else model.dequantise(shaped)
