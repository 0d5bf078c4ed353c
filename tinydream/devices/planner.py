"""The memory planner: what a model and its data need of a board, before anything is flashed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._native import ffi, lib
from ..errors import BudgetError
from ..packs.pack import Pack
from ..training.train import TrainConfig, check_packs, for_board, native_config
from .boards import Board

if TYPE_CHECKING:
    from ..models.model import Model, OperatorRow

__all__ = ["Plan", "Share", "draft", "plan", "shortages"]

ALIGNMENT = 16  # of each piece of the arena, as firmware/commands.c carves it
WEIGHTS_HEADER = 32  # bytes before the parameters in a weight slot (docs/SPEC.md, "Commands")


@dataclass(frozen=True)
class Share:
    """Bytes for one purpose, and of how many it may take."""

    purpose: str
    size: int
    limit: int | None = None


@dataclass(frozen=True)
class Plan:
    """What fits where. `ram` and `flash` go by purpose; reserves count in full, as the linker enforces them."""

    board: Board
    model: Model
    ram: tuple[Share, ...]
    flash: tuple[Share, ...]
    steps: int  # training steps of an epoch on the bases, 0 without a training set
    config: TrainConfig  # what the training was planned for, its precision decided

    @property
    def inference_instructions(self) -> int | None:
        """An estimate for one input; None where nobody measured the family."""
        cost = self.board.cost
        return round(cost.mac * self.model.macs) if cost else None

    @property
    def step_instructions(self) -> int | None:
        """An estimate for one training step; None where nobody measured the family, or not with this precision."""
        cost = self.board.cost
        if cost is None:
            return None
        each = cost.fixed if self.config.precision == "fixed" else cost.parameter
        return round(each * self.model.n_parameters) if each is not None else None

    @property
    def ram_used(self) -> int:
        """Bytes of RAM, reserves for statics and stack included."""
        return sum(share.size for share in self.ram)

    @property
    def ram_budget(self) -> int:
        """Bytes of RAM that the board has."""
        return self.board.ram.size

    @property
    def flash_used(self) -> int:
        """Bytes of flash, the firmware's reserve included."""
        return sum(share.size for share in self.flash)

    @property
    def flash_budget(self) -> int:
        """Bytes for firmware and store."""
        return self.board.firmware.size + self.board.store.size

    @property
    def arena_used(self) -> int:
        """Bytes of the arena: tensors, trainer, one row."""
        return sum(share.size for share in self.ram[2:])

    @property
    def trainer(self) -> tuple[Share, ...]:
        """What the trainer's bytes are for; padding counts to the last."""
        parts = ffi.new("td_trainer_parts *")
        lib.td_trainer_size(self.model.native, native_config(self.config), parts)
        sizes = [parts.parameters, parts.gradient, parts.state, parts.best]
        rest = next(share.size for share in self.ram if share.purpose == "trainer") - sum(sizes)
        names = "parameters", "gradient", "optimiser state", "best weights", "activations"
        return tuple(Share(name, size) for name, size in zip(names, [*sizes, rest], strict=True) if size)

    def lines(self) -> list[str]:
        """The plan as a table of text."""
        lines = []
        for title, shares, used, budget in (
            ("RAM", self.ram, self.ram_used, self.ram_budget),
            ("flash", self.flash, self.flash_used, self.flash_budget),
        ):
            for share in shares:
                lines.append(f"{title:<6}{share.purpose:<18}{share.size:>8,}")
                if share.purpose == "trainer" and share.size:
                    lines += [f"{'':<8}{part.purpose:<16}{part.size:>8,}" for part in self.trainer]
            lines.append(f"{title:<6}{'total':<18}{used:>8,} of {budget:,} bytes")
        arena = self.model.arena
        lines.append(
            f"arena {arena.size:,} bytes of tensors, {arena.gap:,} above the least that any plan needs; "
            f"{arena.in_place} in place of others"
        )
        return lines + self._time_lines()

    def _time_lines(self) -> list[str]:
        work = [("inference", self.inference_instructions), ("training step", self.step_instructions)]
        if self.steps and self.step_instructions is not None:
            work.append((f"epoch, {self.steps} steps", self.steps * self.step_instructions))
        return [
            f"{'time':<6}{name:<18}{count:>12,} instructions, about; {count / self.board.clock_hz:.3g} s at one a cycle"
            for name, count in work
            if count is not None
        ]


def plan(
    model: Model, board: Board, *, train: Pack | None = None, replay: Pack | None = None,
    config: TrainConfig | None = None,
) -> Plan:  # fmt: skip
    """Plans RAM and flash. Raises BudgetError naming what does not fit, in which layer, and by how many bytes.

    `config`: how the tail will be trained (default: TrainConfig()). Raises DataError when a pack was not made through
    this model.
    """
    drafted = draft(model, board, train=train, replay=replay, config=config)
    for shortage in shortages(drafted):
        raise shortage
    return drafted


def draft(
    model: Model, board: Board, *, train: Pack | None = None, replay: Pack | None = None,
    config: TrainConfig | None = None,
) -> Plan:  # fmt: skip
    """The plan whether it fits or not. Raises DataError when a pack was not made through this model."""
    check_packs(model, train, replay)
    steps = sum(pack.n_samples for pack in (train, replay) if pack and train)
    has_layers = bool(model.native.has_layers)
    decided = for_board(config or TrainConfig(), has_fpu=board.has_fpu, has_layers=has_layers)
    return Plan(board, model, _ram(model, board, decided), _flash(model, board, train, replay), steps, decided)


def shortages(drafted: Plan) -> Iterator[BudgetError]:
    """What the board has too little of: objects of the store, then RAM."""
    board = drafted.board
    for share in drafted.flash:
        if share.limit is not None and share.size > share.limit:
            yield BudgetError(
                f"{board.id}: the {share.purpose} takes {share.size} bytes of flash, but [store] gives it "
                f"{share.limit}: {share.size - share.limit} missing. {_FLASH_ADVICE[share.purpose]}",
                what=share.purpose, missing=share.size - share.limit, board=board.id,
                layer=_name(max(drafted.model.rows, key=lambda row: row.flash)) if share.purpose == "model" else "",
            )  # fmt: skip
    if drafted.ram_used > board.ram.size:
        yield _ram_error(drafted)


def _name(row: OperatorRow) -> str:
    return f"operator {row.index} ({row.name})"


_FLASH_ADVICE = {
    "model": "Use a smaller model, or another board.",
    "training set": "Pack fewer rows, or another board.",
    "replay set": "Use a smaller --replay.",
    "weight slots": "Train fewer layers, or another board.",
}


def _ram(model: Model, board: Board, config: TrainConfig) -> tuple[Share, ...]:
    row = _aligned(4 * model.embedding_size) if model.tail else 0
    return (
        Share("firmware and link", board.reserve.statics),
        Share("stack", board.reserve.stack),
        Share("tensor arena", _aligned(model.arena_size)),
        Share("trainer", _aligned(int(lib.td_trainer_size(model.native, native_config(config), ffi.NULL)))),
        Share("one row", 2 * row),  # as stored, and as real numbers
    )


def _flash(model: Model, board: Board, train: Pack | None, replay: Pack | None) -> tuple[Share, ...]:
    store = board.store
    slot = WEIGHTS_HEADER + 4 * model.n_parameters if model.tail else 0
    return (
        Share("firmware", board.firmware.size),
        Share("model", len(model.tdm), store.model),
        Share("training set", len(train.data) if train else 0, store.train),
        Share("replay set", len(replay.data) if replay else 0, store.replay),
        Share("weight slots", 2 * slot, 2 * store.slot),
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _ram_error(drafted: Plan) -> BudgetError:
    board, model, missing = drafted.board, drafted.model, drafted.ram_used - drafted.ram_budget
    largest = max(drafted.ram[2:], key=lambda share: share.size)
    where, layer = f"most of it is the {largest.purpose}, {largest.size} bytes", ""
    if largest.purpose == "tensor arena":
        frozen = (row for row in model.rows if not row.trained)
        row = max(frozen, key=lambda row: sum(math.prod(shape) for shape in (*row.inputs, row.output)))
        layer = _name(row)
        where += f", where {layer} holds {', '.join(map(str, row.inputs))} and {row.output}"
    elif largest.purpose == "trainer":
        row = max((row for row in model.rows if row.trained), key=lambda row: row.macs)
        layer = _name(row)
        where += f", where {layer} trains {row.macs} weights"
    return BudgetError(
        f"{board.id}: {missing} of {board.ram.size} bytes of RAM are missing; {where}. "
        "Use a smaller model, a later cut, or a board with more RAM",
        what=largest.purpose, missing=missing, board=board.id, layer=layer,
    )  # fmt: skip
