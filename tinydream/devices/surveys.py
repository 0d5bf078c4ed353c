"""Which boards can run a model, how much of it they can train, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .._native import lib
from ..errors import BudgetError, UnsupportedModelError, UsageError
from ..models.compiler import compile_model
from ..models.graph import read_bytes
from ..models.model import Model
from ..models.tail import Learn
from ..packs.pack import Pack
from ..training.train import TrainConfig
from . import boards as known
from .boards import Board
from .planner import Plan, draft, shortages

__all__ = ["Candidate", "survey", "table"]

DEFAULT_STEPS = 100  # of an epoch, where there is no training set


@dataclass(frozen=True)
class Candidate:
    """What one board makes of a model.

    Seconds are estimates at one instruction a cycle; None where nobody measured the family.
    """

    plan: Plan = field(repr=False)  # as asked, whether it fits or not
    shortages: tuple[BudgetError, ...]  # why it does not fit as asked
    runs: bool  # it fits without training
    trainable: int  # layers with weights, counted from the end, that RAM has room to train
    layers: int  # that could train
    steps: int  # of an epoch

    @property
    def board(self) -> Board:
        """The board in question."""
        return self.plan.board

    @property
    def fits(self) -> bool:
        """Whether the model, its training and its packs have room."""
        return not self.shortages

    @property
    def inference_seconds(self) -> float | None:
        """For one input."""
        return self._seconds(self.plan.inference_instructions)

    @property
    def epoch_seconds(self) -> float | None:
        """For `steps` training steps; None too where nothing trains."""
        per_step = self.plan.step_instructions if self.plan.model.tail else None
        return self._seconds(None if per_step is None else self.steps * per_step)

    def _seconds(self, instructions: int | None) -> float | None:
        return None if instructions is None else instructions / self.board.clock_hz

    def facts(self) -> dict[str, object]:
        """For machines."""
        plan = self.plan
        missing = [
            {"what": each.what, "layer": each.layer, "bytes": each.missing, "message": str(each)}
            for each in self.shortages
        ]
        return {
            "board": self.board.id, "title": self.board.title, "fits": self.fits, "runs": self.runs, "missing": missing,
            "ram_used": plan.ram_used, "ram_total": plan.ram_budget, "flash_used": plan.flash_used,
            "flash_total": plan.flash_budget, "trainable_layers": self.trainable, "layers": self.layers,
            "steps": self.steps,
            "inference_seconds": self.inference_seconds, "epoch_seconds": self.epoch_seconds,
        }  # fmt: skip


def survey(
    tflite: bytes | str | Path, cut: str | int | None = None, learn: Learn | None = None, *,
    train: Pack | None = None, replay: Pack | None = None, boards: Sequence[Board] | None = None,
    config: TrainConfig | None = None,
) -> tuple[Candidate, ...]:  # fmt: skip
    """Plans the model for each board: all that there are, unless `boards` names some.

    A model that does not end in layers that train is planned as it is, to run only. Raises as compile_model;
    DataError when a pack was not made through this model at this cut.
    """
    content = read_bytes(tflite)
    whole = compile_model(content, whole=True)
    tails = _tails(content)
    if cut is not None or learn is not None or train is not None or replay is not None:
        asked = compile_model(content, cut, learn)
    else:
        asked = tails[0] if tails else whole
    chosen = [known.board(name) for name in known.boards()] if boards is None else boards
    return tuple(_candidate(board, asked, whole, tails, train, replay, config) for board in chosen)


def _tails(content: bytes) -> list[Model]:
    """The model with its last layer with weights to train, with its last two, and so on."""
    made: list[Model] = []
    try:
        while len(made) < lib.TD_MAX_LAYERS:
            made.append(compile_model(content, len(made) + 1))
    except (UnsupportedModelError, UsageError):
        pass  # no more of them
    return made


def _candidate(
    board: Board, asked: Model, whole: Model, tails: Sequence[Model], train: Pack | None, replay: Pack | None,
    config: TrainConfig | None,
) -> Candidate:  # fmt: skip
    plan, n = draft(asked, board, train=train, replay=replay, config=config), 0
    while n < len(tails) and draft(tails[n], board, config=config).ram_used <= board.ram.size:
        n += 1
    runs = not any(shortages(draft(whole, board)))
    return Candidate(plan, tuple(shortages(plan)), runs, n, len(tails), plan.steps or DEFAULT_STEPS)


def table(candidates: Sequence[Candidate]) -> list[str]:
    """Lines of text, one a board."""
    titles = ("board", "fits", "RAM", "of", "flash", "of", "layers", "inference", f"{candidates[0].steps} steps")
    rows = [titles, *map(_cells, candidates)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells, reason in zip(rows, ["", *map(_reason, candidates)], strict=True):
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right, reason]).rstrip())
    return lines


def _cells(candidate: Candidate) -> tuple[str, ...]:
    plan = candidate.plan
    fits = "yes" if candidate.fits else "to run" if candidate.runs else "no"
    bytes_ = (plan.ram_used, plan.ram_budget, plan.flash_used, plan.flash_budget)
    times = (candidate.inference_seconds, candidate.epoch_seconds)
    return (
        candidate.board.id, fits, *(f"{n:,}" for n in bytes_), f"{candidate.trainable} of {candidate.layers}",
        *("?" if seconds is None else f"{seconds:.3g} s" for seconds in times),
    )  # fmt: skip


def _reason(candidate: Candidate) -> str:
    return "; ".join(
        f"{each.missing:,} bytes missing: {each.what}" + (f", {each.layer}" if each.layer else "")
        for each in candidate.shortages
    )
