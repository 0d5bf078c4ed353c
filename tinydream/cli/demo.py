"""The main job: personalise an activity recogniser for a new wearer, on a board.

Ten wearers did seven exercises. A small DS-CNN has learnt from the first halves of nine of them; the board adapts
its head to the tenth wearer's first halves, and second halves tell how well, for that wearer and for the others.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..devices import boards, build, device, emulator, journey
from ..devices.device import Device, Stats
from ..devices.planner import Plan, plan
from ..errors import UsageError
from ..files import atomic_write
from ..models.compiler import compile_model
from ..models.model import Model
from ..packs.embeddings import model_inputs
from ..packs.pack import Pack
from ..packs.packing import pack
from ..tables.table import Table
from ..training.train import Epoch, TrainConfig, Trainer
from . import plots, wearables

__all__ = ["DemoOptions", "Reporter", "Wearer", "prepare", "run", "run_on_board"]


class Reporter(Protocol):
    """How the demo tells what it does; the command line draws it."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def note(self, text: str) -> None:
        """A line of result."""

    def progress(self, done: int, total: int) -> None:
        """Of the stage at hand."""


@dataclass(frozen=True)
class DemoOptions:
    """What can be chosen. `replay`: samples of the other wearers, 0 for none. `port`: a board that runs already."""

    wearer: int = 2
    board: str = "microbit"
    per_class: int = 16
    replay: int = 224
    train: TrainConfig = field(default_factory=TrainConfig)
    port: str | None = None


@dataclass(frozen=True)
class Wearer:
    """Everything on the host side of one wearer's run. Windows are int8, as the board takes them."""

    number: int
    tflite: bytes
    model: Model
    train: Table
    test: Table
    others_train: Table
    others_test: Table
    pack: Pack
    replay: Pack | None


def prepare(options: DemoOptions, report: Reporter) -> Wearer:
    """Trains the base model without the wearer, and packs both sets."""
    report.stage("reading the recordings")
    split = wearables.split_wearer(wearables.load_recordings(), options.wearer)
    report.stage(f"training a DS-CNN on the other {len(wearables.WEARERS) - 1} wearers (TensorFlow)")
    tflite = wearables.train_base_model(split.others_train, seed=options.train.seed)
    model = compile_model(tflite)

    def windows(table: Table) -> Table:
        return Table(model_inputs(table, model), table.labels, tuple(map(str, range(table.n_classes))), table.source)

    report.stage("packing the wearer's first half")
    train = windows(split.wearer_train)
    training_set = pack(train, through=model, per_class=options.per_class, progress=report.progress)
    others, replay = windows(split.others_train), None
    if options.replay:
        report.stage("packing a replay set of the others")
        replay = pack(
            others, through=model, replay=options.replay, seed=options.train.seed, progress=report.progress
        )  # fmt: skip
    return Wearer(
        options.wearer, tflite, model, train, windows(split.wearer_test), others, windows(split.others_test),
        training_set, replay,
    )  # fmt: skip


def run(options: DemoOptions, folder: Path, report: Reporter) -> dict[str, Any]:
    """The whole demo. Leaves model, data, packs, firmware, tuned model, demo.json and demo.png in `folder`.

    Returns the content of demo.json. Raises BudgetError when it does not fit the board.
    """
    _check_options(options)
    started = time.monotonic()
    wearer = prepare(options, report)
    chosen = boards.board(options.board)
    report.stage(f"planning {chosen.title}")
    planned = plan(wearer.model, chosen, train=wearer.pack, replay=wearer.replay, config=options.train)
    _save_inputs(wearer, folder)
    for line in planned.lines():
        report.note(line)
    report.stage("building the firmware")
    firmware = build.build(chosen, folder)
    with _board(options, chosen, firmware) as board:
        result, tuned = run_on_board(options, wearer, planned, board, report)
    result["wall_seconds"] = round(time.monotonic() - started, 2)
    atomic_write(folder / "tuned.tflite", tuned)
    atomic_write(folder / "demo.json", (json.dumps(result, indent=2) + "\n").encode())
    report.stage("drawing")
    plots.draw_demo(result, folder / "demo.png")
    return result


def run_on_board(
    options: DemoOptions, wearer: Wearer, planned: Plan, board: Device, report: Reporter
) -> tuple[dict[str, Any], bytes]:
    """Push, evaluate, train, evaluate, pull. Returns the content of demo.json and the tuned .tflite."""
    report.stage("pushing model and packs")
    journey.push(board, wearer.model, wearer.pack, wearer.replay, progress=report.progress)
    board.reset_weights()
    report.stage("evaluating before, on the board")
    before = _evaluate(board, wearer, report)
    report.stage(f"training on the board ({options.train.mode})")
    clock = time.monotonic()
    epochs = _train(board, options, report)
    seconds = time.monotonic() - clock
    report.stage("evaluating after, on the board")
    after = _evaluate(board, wearer, report)
    stats = board.stats()
    report.stage("pulling the tuned model")
    tuned = journey.pull(board, wearer.model, wearer.tflite)
    other_before, other_after = _others(wearer, board)
    report.stage("checking the tuned model, on the board and with LiteRT")
    compared = journey.compare(board, wearer.model, tuned, wearer.test, progress=report.progress)
    result = _facts(options, wearer, planned, board, stats) | {
        "acc_before": before,
        "acc_after": after,
        "acc_after_full_data": _full_data(options, wearer),
        "acc_other_before": other_before,
        "acc_other_after": other_after,
        "acc_tuned_board": compared.int8_board,
        "acc_tuned_tflite": compared.int8_litert,
        "train_instructions_per_sample": round(sum(e.instructions for e in epochs) / sum(e.steps for e in epochs)),
        "infer_instructions": stats.infer_instructions,
        "train_seconds_host_clock": round(seconds, 3),
        "epochs": [asdict(epoch) for epoch in epochs],
        "link_bytes": board.link.bytes_sent + board.link.bytes_received,
    }
    return result, tuned


def _evaluate(board: Device, wearer: Wearer, report: Reporter) -> float:
    accuracy = journey.evaluate(board, wearer.model, wearer.test, progress=report.progress)
    report.note(f"accuracy on the wearer's second half: {100 * accuracy:.1f} %")
    return accuracy


def _train(board: Device, options: DemoOptions, report: Reporter) -> list[Epoch]:
    epochs = []
    for epoch in board.train(_without_replay(options)):
        epochs.append(epoch)
        report.progress(epoch.number, options.train.epochs)
        if epoch.number in (1, options.train.epochs) or epoch.number % 10 == 0:
            report.note(f"epoch {epoch.number}: loss {epoch.loss:.4f}, accuracy {100 * epoch.accuracy:.1f} %")
    return epochs


def _without_replay(options: DemoOptions) -> TrainConfig:
    """A board may hold the replay set of an earlier run."""
    config = options.train
    return config if options.replay else TrainConfig(**{**asdict(config), "replay": 0.0})


def _full_data(options: DemoOptions, wearer: Wearer) -> float:
    """What all rows of the wearer reach, with the same head, rates and replay (host; a board gives the same bits)."""
    config = TrainConfig(**{**asdict(options.train), "mode": "full"})
    trainer = Trainer(wearer.model, wearer.pack, wearer.replay, config)
    trainer.run()
    return _accuracy(trainer, wearer.model, wearer.test)


def _others(wearer: Wearer, board: Device) -> tuple[float, float]:
    """The other wearers before and after: the host core with the board's weights, which computes the same bits."""
    trainer = Trainer(wearer.model, None)
    before = _accuracy(trainer, wearer.model, wearer.others_test)
    trainer.parameters = board.weights().parameters
    return before, _accuracy(trainer, wearer.model, wearer.others_test)


def _accuracy(trainer: Trainer, model: Model, table: Table) -> float:
    return float((trainer.predict(model.embed(table.values)) == table.labels).mean())


def _facts(options: DemoOptions, wearer: Wearer, planned: Plan, board: Device, stats: Stats) -> dict[str, Any]:
    raw = wearer.pack.raw_float32_size
    used = {
        "firmware and link": stats.ram_static,
        "stack": stats.stack_used or stats.stack_reserve,
        "tensor arena": stats.arena_tensors,
        "trainer": stats.arena_trainer,
        "one row": stats.arena_row,
    }
    emulation = planned.board.emulator
    return {
        "board": options.board,
        "emulator": None if options.port or emulation is None else emulation.machine or emulation.kind,
        "wearer": options.wearer,
        "mode": options.train.mode,
        "seed": options.train.seed,
        "n_train_rows": len(wearer.pack),
        "n_train_samples": len(wearer.pack) if options.train.mode == "full" else wearer.pack.n_samples,
        "n_replay_samples": wearer.replay.n_samples if wearer.replay else 0,
        "n_test_rows": len(wearer.test),
        "bytes_raw_float32": raw,
        "bytes_packed": len(wearer.pack.data),
        "bytes_replay": len(wearer.replay.data) if wearer.replay else 0,
        "ram_total": stats.ram_total,
        "ram_budget": planned.ram_used,
        "ram_used": stats.ram_used,
        "ram_by_purpose": used,
        "flash_total": planned.flash_budget,
        "flash_used": stats.flash_firmware + sum(share.size for share in planned.flash[1:]),
    }


@contextlib.contextmanager
def _board(options: DemoOptions, chosen: boards.Board, firmware: build.Firmware) -> Iterator[Device]:
    if options.port:
        with device.connect(options.port, board=options.board) as connected:
            yield connected
        return
    with emulator.Emulator(chosen, firmware) as emulated, device.connect(emulated.url, board=chosen.id) as connected:
        yield connected


def _save_inputs(wearer: Wearer, folder: Path) -> None:
    """The files with which the same can be done by hand, command by command."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "model.tflite", wearer.tflite)
    wearer.pack.save(folder / "wearer.tdz")
    if wearer.replay:
        wearer.replay.save(folder / "replay.tdz")
    for name, table in (("train", wearer.train), ("test", wearer.test), ("others", wearer.others_train)):
        _save_table(folder / f"{name}.npz", table.values, table.labels)


def _save_table(path: Path, x: npt.NDArray[np.int8], y: npt.NDArray[np.int64]) -> None:
    temporary = path.with_name(f".{path.name}.npz")
    np.savez_compressed(temporary, x=x, y=y)
    temporary.replace(path)


def _check_options(options: DemoOptions) -> None:
    """Raises UsageError for a choice that cannot work, before the long part begins."""
    if options.wearer not in wearables.WEARERS:
        raise UsageError(f"there is no wearer {options.wearer}; they are 1 to {len(wearables.WEARERS)}")
    if options.replay < 0 or options.per_class < 1:
        raise UsageError("--replay must be 0 or more, --per-class 1 or more")
    boards.board(options.board)
