"""The memory planner: what it adds up, and what it refuses."""

from __future__ import annotations

import dataclasses

import board_kit
import pytest

from tinydream import boards
from tinydream.errors import BudgetError, DataError
from tinydream.planner import plan


def test_a_plan_adds_up_and_fits() -> None:
    train, replay = board_kit.packs()
    planned = plan(board_kit.model(), boards.board("microbit"), train=train, replay=replay)
    assert planned.ram_used == sum(share.size for share in planned.ram) <= planned.ram_budget == 16384
    flash = {share.purpose: share.size for share in planned.flash}
    assert flash["training set"] == len(train.data) and flash["replay set"] == len(replay.data)
    assert flash["model"] == len(board_kit.model().tdm)
    assert planned.flash_used <= planned.flash_budget == 256 * 1024
    text = "\n".join(planned.lines())
    for share in (*planned.ram, *planned.flash):
        assert share.purpose in text and f"{share.size:,}" in text


def test_a_plan_estimates_time_where_the_family_was_measured() -> None:
    train, replay = board_kit.packs()
    planned = plan(board_kit.model(), boards.board("microbit"), train=train, replay=replay)
    assert planned.steps == train.n_samples + replay.n_samples
    assert planned.inference_instructions and planned.step_instructions
    assert any(f"{planned.steps * planned.step_instructions:,} instructions" in line for line in planned.lines())
    unknown = plan(board_kit.model(), boards.board("host"), train=train)
    assert unknown.inference_instructions is None and unknown.step_instructions is None
    assert not any("instructions" in line for line in unknown.lines())


@pytest.mark.parametrize("short_of", [1, 16, 500])
def test_too_little_ram_names_the_purpose_and_the_missing_bytes(short_of: int) -> None:
    board = boards.board("microbit")
    needed = plan(board_kit.model(), board).ram_used
    smaller = dataclasses.replace(board, ram=dataclasses.replace(board.ram, size=needed - short_of))
    with pytest.raises(BudgetError, match="tensor arena") as caught:
        plan(board_kit.model(), smaller)
    assert (caught.value.missing, caught.value.board) == (short_of, "microbit")
    assert "CONV_2D" in str(caught.value)
    exact = dataclasses.replace(board, ram=dataclasses.replace(board.ram, size=needed))
    assert plan(board_kit.model(), exact).ram_used == needed


@pytest.mark.parametrize("part", ["model", "train", "replay", "slot"])
def test_too_little_flash_names_the_object(part: str) -> None:
    train, replay = board_kit.packs()
    board = boards.board("microbit")
    sizes = {"model": len(board_kit.model().tdm), "train": len(train.data), "replay": len(replay.data), "slot": 100}
    store = dataclasses.replace(board.store, **{part: sizes[part] - 1})
    with pytest.raises(BudgetError, match="missing") as caught:
        plan(board_kit.model(), dataclasses.replace(board, store=store), train=train, replay=replay)
    names = {"model": "model", "train": "training set", "replay": "replay set", "slot": "weight slots"}
    assert caught.value.what == names[part]
    assert caught.value.missing > 0


def test_a_pack_of_another_model_is_refused() -> None:
    train, _ = board_kit.packs()
    other = dataclasses.replace(board_kit.model(), embedding_shape=(board_kit.model().embedding_size + 1,))
    with pytest.raises(DataError, match="pack it through this model"):
        plan(other, boards.board("microbit"), train=train)
