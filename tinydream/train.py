"""Fine-tuning through the core on the host: the same bits as on a board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._native import check, ffi, lib
from .errors import CoreError, DataError, UsageError
from .packs import Pack

if TYPE_CHECKING:
    from .model import Model

__all__ = ["MODES", "Epoch", "TrainConfig", "Trainer", "rates"]

MODES = ("bases", "full", "stratified")


@dataclass(frozen=True)
class TrainConfig:
    """What a training run needs beside its data. The same object goes to `Trainer` and to a board."""

    epochs: int = 40
    mode: str = field(default="bases", metadata={"choices": MODES})
    learning_rate: float = 0.03  # of the first epoch
    final_rate: float = 0.0015  # of the last; in between it falls by the same amount each epoch
    l2: float = 0.0  # pulls weights towards their value before training
    replay: float = 1.0  # weight of the replay set as a whole against the training set's 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"no mode {self.mode!r}; there are {', '.join(MODES)}")
        if self.epochs < 1:
            raise UsageError(f"{self.epochs} epochs; at least 1 is needed")
        for name in ("learning_rate", "final_rate", "l2", "replay"):
            value = getattr(self, name)
            if not 0 <= value <= 1e6 or (name == "learning_rate" and value == 0):
                raise UsageError(f"{name} is {value}; it must be a finite number from 0 on (the learning rate above 0)")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it must fit in 32 bits")


@dataclass(frozen=True)
class Epoch:
    """One epoch as it ended. Loss and accuracy are means over its steps, before each step's update."""

    number: int  # from 1
    loss: float
    accuracy: float
    steps: int
    instructions: int = 0  # of all its steps, as the board counted; 0 on the host


def rates(config: TrainConfig) -> npt.NDArray[np.float32]:
    """The learning rate of each epoch, (epochs,) float32: a line from learning_rate to final_rate."""
    return np.linspace(config.learning_rate, config.final_rate, config.epochs).astype(np.float32)


class Trainer:
    """The tail of `model` in f32, trained in place on `train` mixed with `replay`."""

    def __init__(self, model: Model, train: Pack | None, replay: Pack | None = None,
                 config: TrainConfig | None = None) -> None:  # fmt: skip
        """`train` may be None for a Trainer that only predicts. Raises DataError when a pack does not fit the model."""
        self.model, self.config = model, config or TrainConfig()
        self._packs = (train, replay)
        for pack in self._packs:
            if pack is not None:
                check_pack(model, pack)
        native = ffi.new("td_train_config *", {"learning_rate": self.config.learning_rate, "l2": self.config.l2})
        size = lib.td_trainer_size(model.native, native, ffi.NULL)
        self._memory = ffi.new("uint64_t[]", size // 8 + 1)
        self._trainer = ffi.new("td_trainer *")
        check(lib.td_trainer_init(self._trainer, model.native, native, self._memory, size), "preparing the trainer")
        self._row = ffi.new("int32_t[]", model.embedding_size)
        self._x = ffi.new("float[]", model.embedding_size)
        self._sampler: Any = None
        if train is not None:
            self._sampler = ffi.new("td_sampler *")
            choice = ffi.new("td_sampler_config *", {
                "mode": MODES.index(self.config.mode), "seed": self.config.seed, "replay": self.config.replay,
            })  # fmt: skip
            second = replay.native if replay is not None else ffi.NULL
            check(lib.td_sampler_init(self._sampler, train.native, second, choice), "preparing the sampler")

    @property
    def parameters(self) -> npt.NDArray[np.float32]:
        """A copy of the tail: per layer its weights row by row, then its biases."""
        values = np.empty(self._trainer.n_parameters, np.float32)
        lib.td_trainer_get(self._trainer, 0, len(values), ffi.from_buffer("float[]", values, require_writable=True))
        return values

    @parameters.setter
    def parameters(self, values: npt.ArrayLike) -> None:
        array = np.ascontiguousarray(values, dtype=np.float32)
        if array.shape != (self._trainer.n_parameters,):
            raise DataError(f"the tail has {self._trainer.n_parameters} parameters, not {array.shape}")
        lib.td_trainer_set(self._trainer, 0, len(array), ffi.from_buffer("float[]", array))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return int(lib.td_sampler_size(self._sampler)) if self._sampler else 0

    def epochs(self) -> Iterator[Epoch]:
        """Trains; yields each epoch as it ends."""
        for number, rate in enumerate(rates(self.config)):
            self._trainer.learning_rate = rate
            yield self._pass(number, train=True)

    def run(self) -> Epoch:
        """Trains to the end; returns the last epoch."""
        *_, last = self.epochs()
        return last

    def logit_range(self) -> tuple[float, float]:
        """Smallest and largest logit over the training data as the tail stands, for its requantisation."""
        lib.td_trainer_reset_range(self._trainer)
        self._pass(self.config.epochs - 1, train=False)
        return float(self._trainer.logit_min), float(self._trainer.logit_max)

    def predict(self, embeddings: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Classes (n,) of int8 embeddings (n, embedding_size). Raises DataError for rows of another size."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.model.embedding_size:
            raise DataError(f"embeddings are (n, {self.model.embedding_size}) for this model, not {embeddings.shape}")
        scale, zero_point = np.float32(self.model.embedding_scale), np.float32(self.model.embedding_zero_point)
        real = np.ascontiguousarray(scale * (embeddings.astype(np.float32) - zero_point), dtype=np.float32)
        classes = np.empty(len(real), dtype=np.int64)
        for i, x in enumerate(real):
            classes[i] = lib.td_trainer_predict(self._trainer, ffi.from_buffer("float[]", x), 0, ffi.NULL)
        return classes

    def _pass(self, epoch: int, *, train: bool) -> Epoch:
        label, weight, loss = ffi.new("uint32_t *"), ffi.new("float *"), ffi.new("float *")
        total, right, steps = np.float32(0), 0, self.steps
        if steps == 0:
            raise UsageError("this Trainer was made without a training set: it can only predict")
        for i in range(steps):
            status = lib.td_sampler_get(self._sampler, epoch, i, self._row, self._x, label, weight)
            check(status, f"sample {i} of epoch {epoch + 1}")
            if train:
                predicted = lib.td_trainer_step(self._trainer, self._x, label[0], weight[0], loss)
            else:
                predicted = lib.td_trainer_predict(self._trainer, self._x, label[0], loss)
            right += check(predicted, f"step {i} of epoch {epoch + 1}") == label[0]
            total += np.float32(loss[0])
        if not (np.isfinite(total) and np.isfinite(self.parameters).all()):
            raise CoreError(
                f"epoch {epoch + 1}: the weights have left the range of f32; lower the learning rate or l2",
                status=int(lib.TD_E_RANGE),
            )
        return Epoch(epoch + 1, float(total) / steps, right / steps, steps)


def check_pack(model: Model, pack: Pack) -> None:
    """Raises DataError when the pack's rows are not embeddings of this model or its labels are not its classes."""
    if pack.n_features != model.embedding_size:
        raise DataError(
            f"{pack.source}: {pack.n_features} values a row, but the model has {model.embedding_size} at its cut; "
            "pack it through this model"
        )
    if int(pack.native.model_hash) != model.embedding_hash:
        raise DataError(f"{pack.source}: packed through another model; pack it through this one")
    if pack.n_classes > model.n_classes:
        raise DataError(f"{pack.source}: {pack.n_classes} classes, but the model tells {model.n_classes} apart")
