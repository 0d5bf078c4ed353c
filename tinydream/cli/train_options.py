"""Settings of a training run on the command line."""

from __future__ import annotations

import argparse

from ..training.train import LOSSES, MODES, MONITORS, OPTIMIZERS, PRECISIONS, SCHEDULES, TrainConfig

__all__ = ["add_settings", "add_training", "training_config"]

_DEFAULT = TrainConfig()


def add_training(made: argparse.ArgumentParser) -> None:
    """What a run of epochs needs."""
    made.add_argument("--epochs", type=int, default=_DEFAULT.epochs)
    made.add_argument("--mode", choices=MODES, default=_DEFAULT.mode,
                      help="condensed samples, all rows, or a row drawn anew from each sample")  # fmt: skip
    made.add_argument("--seed", type=int, default=_DEFAULT.seed)
    made.add_argument("--rate", type=float, default=_DEFAULT.learning_rate, help="learning rate of the first epoch")
    made.add_argument("--final-rate", type=float, help="of the last epoch; default: a 20th of the first")
    made.add_argument("--schedule", choices=SCHEDULES, default=_DEFAULT.schedule, help="from the first to the last")
    made.add_argument("--warmup", type=int, default=_DEFAULT.warmup, metavar="EPOCHS",
                      help="epochs in which the rate first rises")  # fmt: skip
    made.add_argument("--held-back", type=float, default=_DEFAULT.held_back, metavar="SHARE",
                      help="share of the training set that only tells how good an epoch was")  # fmt: skip
    made.add_argument("--monitor", choices=MONITORS, default=_DEFAULT.monitor, help="of what is held back")
    add_settings(made)


def add_settings(made: argparse.ArgumentParser) -> None:
    """What decides the trainer's memory."""
    made.add_argument("--optimizer", choices=OPTIMIZERS, default=_DEFAULT.optimizer)
    made.add_argument("--momentum", type=float, default=_DEFAULT.momentum, help="of momentum; beta 1 of adam")
    made.add_argument("--batch", type=int, default=_DEFAULT.batch, help="samples an update")
    made.add_argument("--l2", type=float, default=_DEFAULT.l2, help="pull towards the weights before training")
    made.add_argument("--clip", type=float, default=_DEFAULT.clip_norm, metavar="NORM", help="longest gradient")
    made.add_argument("--clip-value", type=float, default=_DEFAULT.clip_value, help="largest value of a gradient")
    made.add_argument("--loss", choices=LOSSES, default=_DEFAULT.loss)
    made.add_argument("--precision", choices=PRECISIONS, default=_DEFAULT.precision,
                      help="fixed: whole numbers, much faster on cores without FPU; auto: fixed there")  # fmt: skip
    made.add_argument("--patience", type=int, default=_DEFAULT.patience, metavar="EPOCHS",
                      help="stop when what is held back got no better for so long; the best weights stay")  # fmt: skip


def training_config(options: argparse.Namespace) -> TrainConfig:
    """The TrainConfig of parsed options; those of `add_training` that a command lacks keep their defaults."""
    rate = getattr(options, "rate", _DEFAULT.learning_rate)
    final = getattr(options, "final_rate", None)
    # Only a share that is held back tells a plan nothing: patience alone decides its memory.
    held_back = getattr(options, "held_back", 0.2 if options.patience else 0.0)
    return TrainConfig(
        epochs=getattr(options, "epochs", _DEFAULT.epochs), mode=getattr(options, "mode", _DEFAULT.mode),
        learning_rate=rate, final_rate=rate / 20 if final is None else final, l2=options.l2,
        replay=getattr(options, "replay_weight", _DEFAULT.replay), seed=getattr(options, "seed", _DEFAULT.seed),
        loss=options.loss, optimizer=options.optimizer, momentum=options.momentum, batch=options.batch,
        clip_norm=options.clip, clip_value=options.clip_value,
        schedule=getattr(options, "schedule", _DEFAULT.schedule), warmup=getattr(options, "warmup", _DEFAULT.warmup),
        held_back=held_back, monitor=getattr(options, "monitor", _DEFAULT.monitor), patience=options.patience,
        precision=options.precision,
    )  # fmt: skip
