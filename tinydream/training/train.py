"""Fine-tuning through the core on the host: the same bits as on a board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib
from ..errors import CoreError, DataError, UsageError
from ..packs.pack import Pack

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["LOSSES", "MODES", "OPTIMIZERS", "PRECISIONS", "SCHEDULES", "EarlyStop", "Epoch", "TrainConfig", "Trainer",
           "for_board", "native_config", "rates"]  # fmt: skip

MODES = ("bases", "full", "stratified")  # each in the order of the core's enum, but for "auto"
LOSSES = ("cross-entropy", "mean-square")
OPTIMIZERS = ("sgd", "momentum", "adam")
PRECISIONS = ("f32", "fixed", "auto")
SCHEDULES = ("linear", "constant", "step", "cosine")
MONITORS = ("loss", "accuracy")
_CHOICES = {"mode": MODES, "loss": LOSSES, "optimizer": OPTIMIZERS, "precision": PRECISIONS, "schedule": SCHEDULES,
            "monitor": MONITORS}  # fmt: skip
STAGES = 3  # of schedule "step"


@dataclass(frozen=True)
class TrainConfig:
    """What a training run needs beside its data. The same object goes to `Trainer` and to a board.

    Raises UsageError for a value out of its bounds and for what does not go together.
    """

    epochs: int = 40
    mode: str = field(default="bases", metadata={"choices": MODES})
    learning_rate: float = 0.03  # of the first epoch (behind the warm-up)
    final_rate: float = 0.0015  # of the last, but for schedule "constant"
    l2: float = 0.0  # pulls weights towards their value before training
    replay: float = 1.0  # weight of the replay set as a whole against the training set's 1
    seed: int = 0
    loss: str = "cross-entropy"  # or "mean-square", for models that do not end in a softmax
    optimizer: str = "sgd"
    momentum: float = 0.9  # of "momentum", and beta 1 of "adam"
    beta_2: float = 0.999  # of "adam"
    epsilon: float = 1e-7  # of "adam"
    batch: int = 1  # samples that make one update; 1 with "sgd" needs no gradient buffer
    clip_norm: float = 0.0  # longest gradient, 0: any
    clip_value: float = 0.0  # largest value in a gradient, 0: any
    schedule: str = "linear"  # from learning_rate to final_rate: a line, 3 steps, half a cosine
    warmup: int = 0  # epochs in which the rate first rises to learning_rate
    held_back: float = 0.0  # share of the training set that is not trained on, but predicted after each epoch
    patience: int = 0  # epochs without a better `monitor` after which training ends with the best weights; 0: never
    monitor: str = "loss"  # of what is held back
    precision: str = "f32"  # "fixed": whole numbers, for cores without FPU; "auto": fixed where there is none

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"no {name} {getattr(self, name)!r}; there are {', '.join(choices)}")
        if self.epochs < 1:
            raise UsageError(f"{self.epochs} epochs; at least 1 is needed")
        for name in ("learning_rate", "final_rate", "l2", "replay", "clip_norm", "clip_value"):
            value = getattr(self, name)
            if not 0 <= value <= 1e6 or (name == "learning_rate" and value == 0):
                raise UsageError(f"{name} is {value}; it must be a finite number from 0 on (the learning rate above 0)")
        for name in ("momentum", "beta_2", "epsilon"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name, most in (("seed", 2**32 - 1), ("batch", 65535), ("warmup", self.epochs - 1), ("patience", 2**31)):
            if not (name == "batch") <= getattr(self, name) <= most:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {int(name == 'batch')} to {most}")
        if not 0 <= self.held_back < 1:
            raise UsageError(f"held_back is {self.held_back}; it must be from 0 to below 1")
        self._check_together()

    def _check_together(self) -> None:
        if self.clip_norm and self.clip_value:
            raise UsageError("clip_norm and clip_value do not go together: choose one")
        if self.patience and not self.held_back:
            raise UsageError("patience needs samples to judge by: set held_back, such as 0.2")
        if self.schedule == "step" and self.final_rate == 0:
            raise UsageError("schedule 'step' divides the rate: final_rate must be above 0")
        if self.precision == "fixed" and not self._can_be_fixed:
            raise UsageError("precision 'fixed' has batch 1 and optimizer 'sgd' only, without l2 and clipping")

    @property
    def _can_be_fixed(self) -> bool:
        plain = self.optimizer == "sgd" and self.batch == 1
        return plain and not (self.l2 or self.clip_norm or self.clip_value)


def for_board(config: TrainConfig, *, has_fpu: bool, has_layers: bool) -> TrainConfig:
    """`config` with "auto" decided: fixed point on a core without FPU, where the tail and the other settings allow it.

    has_layers: the tail is more than a chain of dense layers. Raises UsageError for "fixed" with such a tail.
    """
    if config.precision == "fixed" and has_layers:
        raise UsageError("precision 'fixed' trains chains of dense layers only; take 'f32', 'auto', or a later cut")
    if config.precision != "auto":
        return config
    fixed = not has_fpu and not has_layers and config._can_be_fixed
    return replace(config, precision="fixed" if fixed else "f32")


def native_config(config: TrainConfig) -> Any:
    """The core's td_train_config ("auto" counts as f32: this computer has an FPU)."""
    return ffi.new("td_train_config *", {
        "learning_rate": config.learning_rate, "l2": config.l2, "momentum": config.momentum, "beta_2": config.beta_2,
        "epsilon": config.epsilon, "clip_norm": config.clip_norm, "clip_value": config.clip_value,
        "batch": config.batch, "loss": LOSSES.index(config.loss), "optimizer": OPTIMIZERS.index(config.optimizer),
        "precision": int(config.precision == "fixed"), "keep_best": int(config.patience > 0),
    })  # fmt: skip


@dataclass(frozen=True)
class Epoch:
    """One epoch as it ended. Loss and accuracy are means over its steps, before each step's update.

    `held_loss` and `held_accuracy` are means over the samples held back, after the epoch; None without any.
    """

    number: int  # from 1
    loss: float
    accuracy: float
    steps: int
    instructions: int = 0  # of all its steps, as the board counted; 0 on the host
    held_loss: float | None = None
    held_accuracy: float | None = None


def rates(config: TrainConfig) -> npt.NDArray[np.float32]:
    """The learning rate of each epoch, (epochs,) float32."""
    rise = config.learning_rate * np.arange(1, config.warmup + 1) / (config.warmup + 1)
    first, last, n = config.learning_rate, config.final_rate, config.epochs - config.warmup
    part = np.arange(n) / max(1, n - 1)  # of the way
    if config.schedule == "constant":
        fall = np.full(n, first)
    elif config.schedule == "step":
        stage = np.arange(n) * STAGES // n
        fall = first * (last / first) ** (stage / (STAGES - 1))
    elif config.schedule == "cosine":
        fall = last + (first - last) * (1 + np.cos(np.pi * part)) / 2
    else:
        fall = np.linspace(first, last, n)
    return np.concatenate([rise, fall]).astype(np.float32)


class EarlyStop:
    """Tells when the samples held back get no better, and which epoch was the best."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._best = np.inf
        self._waited = 0

    def is_best(self, epoch: Epoch) -> bool:
        """Whether `epoch` is better than all before it."""
        assert epoch.held_loss is not None and epoch.held_accuracy is not None
        value = epoch.held_loss if self._config.monitor == "loss" else -epoch.held_accuracy
        self._waited += 1
        if not value < self._best:
            return False
        self._best, self._waited = value, 0
        return True

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self._waited >= self._config.patience


class Trainer:
    """The tail of `model` in f32, trained in place on `train` mixed with `replay`."""

    def __init__(self, model: Model, train: Pack | None, replay: Pack | None = None,
                 config: TrainConfig | None = None) -> None:  # fmt: skip
        """`train` may be None for a Trainer that only predicts. Raises DataError when a pack does not fit the model."""
        self.model, self.config = model, config or TrainConfig()
        check_packs(model, train, replay)
        # Opened anew, as the core remembers in a pack where it reads: others may read the same packs meanwhile.
        train, replay = (None if pack is None else Pack(pack.data, source=pack.source) for pack in (train, replay))
        self._packs = (train, replay)
        native = native_config(for_board(self.config, has_fpu=True, has_layers=bool(model.native.has_layers)))
        size = lib.td_trainer_size(model.native, native, ffi.NULL)
        self._memory = ffi.new("uint64_t[]", size // 8 + 1)
        self._trainer = ffi.new("td_trainer *")
        check(lib.td_trainer_init(self._trainer, model.native, native, self._memory, size), "preparing the trainer")
        self._row = ffi.new("int32_t[]", model.embedding_size)
        self._x = ffi.new("float[]", model.embedding_size)
        self._sampler: Any = None
        self._last = self.config.epochs - 1  # the epoch whose order a further pass takes
        if train is not None:
            self._sampler = ffi.new("td_sampler *")
            choice = ffi.new("td_sampler_config *", {
                "mode": MODES.index(self.config.mode), "seed": self.config.seed, "replay": self.config.replay,
                "held_back": self.config.held_back,
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
        """Trains; yields each epoch as it ends. With patience, the best epoch's weights stay.

        Raises DataError when nothing can be held back of a small set.
        """
        check_held(self.config, self._sampler.n_held if self._sampler else 1)
        stop = EarlyStop(self.config)
        for number, rate in enumerate(rates(self.config)):
            self._trainer.learning_rate = rate
            epoch = self._pass(number, train=True)
            if self._sampler.n_held:
                held = self._pass(number, held=True)
                epoch = replace(epoch, held_loss=held.loss, held_accuracy=held.accuracy)
            if self.config.patience and stop.is_best(epoch):
                check(lib.td_trainer_keep(self._trainer), "keeping the best weights")
            yield epoch
            if self.config.patience and stop.is_over:
                break
        if self.config.patience:
            check(lib.td_trainer_restore(self._trainer), "taking the best weights")

    def run(self) -> Epoch:
        """Trains to the end; returns the last epoch."""
        *_, last = self.epochs()
        return last

    def logit_range(self, embeddings: npt.NDArray[np.integer[Any]] | None = None) -> tuple[float, float]:
        """Smallest and largest output over the training data, or these rows, as the tail stands; 0 counts as seen.

        For its requantisation (`write_back`).
        """
        lib.td_trainer_reset_range(self._trainer)
        if embeddings is None:
            self._pass(self._last)
        else:
            self.predict(embeddings)
        return float(self._trainer.logit_min), float(self._trainer.logit_max)

    def predict(self, embeddings: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Classes (n,) of int8 embeddings (n, embedding_size). Raises DataError for rows of another size."""
        real = self._real(embeddings)
        classes = np.empty(len(real), dtype=np.int64)
        for i, x in enumerate(real):
            classes[i] = lib.td_trainer_predict(self._trainer, ffi.from_buffer("float[]", x), 0, ffi.NULL)
        return classes

    def outputs(self, embeddings: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """What the tail gives, before any softmax: float32 (n, outputs). Raises DataError as `predict`."""
        real = self._real(embeddings)
        found = np.empty((len(real), self._n_outputs), np.float32)
        for x, y in zip(real, found, strict=True):
            lib.td_trainer_predict(self._trainer, ffi.from_buffer("float[]", x), 0, ffi.NULL)
            y[:] = np.frombuffer(ffi.buffer(lib.td_trainer_outputs(self._trainer), y.nbytes), np.float32)
        return found

    def fit(
        self, embeddings: npt.NDArray[np.integer[Any]], targets: npt.ArrayLike, weights: npt.ArrayLike | None = None,
        *, rate: float | None = None,
    ) -> float:  # fmt: skip
        """One pass over the rows as they stand, towards real targets (n, outputs): a regression, or shares of classes.

        `weights` (n,): of each row's loss, all 1 by default; `rate`: the learning rate from here on. Returns the mean
        loss before each step. Raises DataError for arrays of other shapes, CoreError when f32 was left.
        """
        real, wanted = self._real(embeddings), np.ascontiguousarray(targets, np.float32)
        shares = np.ones(len(real), np.float32) if weights is None else np.asarray(weights, np.float32)
        if wanted.shape != (len(real), self._n_outputs) or shares.shape != (len(real),) or not len(real):
            raise DataError(
                f"{len(real)} rows need targets ({len(real)}, {self._n_outputs}) and weights ({len(real)},), not "
                f"{wanted.shape} and {shares.shape}"
            )
        if rate is not None:
            self._trainer.learning_rate = rate
        total, loss = np.float32(0), ffi.new("float *")
        for x, y, weight in zip(real, wanted, shares, strict=True):
            pair = ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", y)
            lib.td_trainer_step_to(self._trainer, *pair, weight, loss)
            total += np.float32(loss[0])
        lib.td_trainer_flush(self._trainer)
        self._check_finite(total, "this pass")
        return float(total) / len(real)

    @property
    def _n_outputs(self) -> int:
        native = self.model.native
        return int(native.tail[native.n_tail - 1].n_out)

    def _real(self, embeddings: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.model.embedding_size:
            raise DataError(f"embeddings are (n, {self.model.embedding_size}) for this model, not {embeddings.shape}")
        scale, zero_point = np.float32(self.model.embedding_scale), np.float32(self.model.embedding_zero_point)
        return np.ascontiguousarray(scale * (embeddings.astype(np.float32) - zero_point), dtype=np.float32)

    def _check_finite(self, total: np.float32, what: str) -> None:
        if not (np.isfinite(total) and np.isfinite(self.parameters).all()):
            raise CoreError(
                f"{what}: the weights have left the range of f32; lower the learning rate or l2",
                status=int(lib.TD_E_RANGE),
            )

    def _pass(self, epoch: int, *, train: bool = False, held: bool = False) -> Epoch:
        label, weight, loss = ffi.new("uint32_t *"), ffi.new("float *"), ffi.new("float *")
        total, right, steps = np.float32(0), 0, self.steps
        if steps == 0:
            raise UsageError("this Trainer was made without a training set: it can only predict")
        if held:
            steps = self._sampler.n_held
        for i in range(steps):
            if held:
                status = lib.td_sampler_held(self._sampler, i, self._row, self._x, label, weight)
            else:
                status = lib.td_sampler_get(self._sampler, epoch, i, self._row, self._x, label, weight)
            check(status, f"sample {i} of epoch {epoch + 1}")
            if train:
                predicted = lib.td_trainer_step(self._trainer, self._x, label[0], weight[0], loss)
            else:
                predicted = lib.td_trainer_predict(self._trainer, self._x, label[0], loss)
            right += check(predicted, f"step {i} of epoch {epoch + 1}") == label[0]
            total += np.float32(loss[0])
        if train:
            lib.td_trainer_flush(self._trainer)
            self._last = epoch
        self._check_finite(total, f"epoch {epoch + 1}")
        return Epoch(epoch + 1, float(total) / steps, right / steps, steps)


def check_held(config: TrainConfig, n_held: int) -> None:
    """Raises DataError when a share was to be held back and the set is too small for it."""
    if config.held_back and n_held == 0:
        raise DataError(f"held_back {config.held_back} of this training set is less than one sample: hold back more")


def check_packs(model: Model, train: Pack | None, replay: Pack | None) -> None:
    """Raises DataError when a pack does not fit the model, or the two do not go together."""
    for pack in (train, replay):
        if pack is not None:
            check_pack(model, pack)
    if train is not None and replay is not None and train.scale != replay.scale:
        raise DataError(
            f"{replay.source}: packed in steps of {replay.scale:g}, and {train.source} in steps of {train.scale:g}; "
            "pack both with one resolution"
        )


def check_pack(model: Model, pack: Pack) -> None:
    """Raises DataError when the pack's rows are not embeddings of this model or its labels are not its classes."""
    if pack.schema.labels:
        raise DataError(
            f"{pack.source}: its labels are no classes, and this trains classes only. On a computer, "
            'Trainer(model, None, config=TrainConfig(loss="mean-square")).fit(pack[:], pack.labels) trains on them'
        )
    if pack.n_features != model.embedding_size:
        raise DataError(
            f"{pack.source}: {pack.n_features} values a row, but the model has {model.embedding_size} at its cut; "
            "pack it through this model"
        )
    if int(pack.native.model_hash) != model.embedding_hash:
        raise DataError(f"{pack.source}: packed through another model; pack it through this one")
    if pack.n_classes > model.n_classes:
        raise DataError(f"{pack.source}: {pack.n_classes} classes, but the model tells {model.n_classes} apart")
