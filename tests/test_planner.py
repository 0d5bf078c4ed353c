"""The memory planner: what it adds up, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import board_kit
import pytest
from models import demo_model, dense_model, moving_model, real_model

import tinydream
from tinydream.cli import commands as cli
from tinydream.devices import boards
from tinydream.devices.emulator import Emulator
from tinydream.devices.planner import plan
from tinydream.devices.surveys import Candidate
from tinydream.errors import BudgetError, DataError
from tinydream.models.compiler import compile_model
from tinydream.training.train import TrainConfig


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


@pytest.mark.parametrize("board_id", ["microbit", "an386", "an547"])
def test_what_a_board_uses_is_what_was_planned(board_id: str) -> None:
    train, replay = board_kit.packs()
    board = boards.board(board_id)
    planned = plan(board_kit.model(), board, train=train, replay=replay)
    shares = {share.purpose: share.size for share in planned.ram}
    with Emulator(board, board_kit.firmware(board_id)) as emulated, board_kit.connect(emulated.url) as device:
        for kind, content in (("model", board_kit.model().tdm), ("train", train.data), ("replay", replay.data)):
            device.push(kind, content)
        device.infer(board_kit.windows()[0])
        for _ in device.train(TrainConfig(epochs=1)):
            pass
        stats = device.stats()
    assert stats.ram_total == planned.ram_budget
    assert stats.arena_tensors == shares["tensor arena"] == board_kit.model().arena_size
    assert -(-stats.arena_trainer // 16) * 16 == shares["trainer"]
    assert -(-stats.arena_row // 32) * 32 == shares["one row"]
    assert 0 < stats.ram_static <= shares["firmware and link"]
    assert 0 < stats.stack_used <= shares["stack"]
    assert stats.ram_used <= planned.ram_used


# ------------------------------------------------------------- which of all boards


def survey_of(name: str) -> dict[str, Candidate]:
    return {candidate.board.id: candidate for candidate in tinydream.survey(real_model(f"{name}.tflite"))}


def test_a_survey_says_of_every_board_what_a_plan_says() -> None:
    train, replay = board_kit.packs()
    found = tinydream.survey(demo_model(), train=train, replay=replay)
    assert [candidate.board.id for candidate in found] == boards.boards()
    for candidate in found:
        planned = plan(board_kit.model(), candidate.board, train=train, replay=replay)
        assert candidate.fits and candidate.runs and 1 <= candidate.trainable <= candidate.layers == 6
        assert candidate.plan.ram == planned.ram and candidate.plan.flash == planned.flash
        assert candidate.steps == train.n_samples + replay.n_samples
        if planned.step_instructions is not None:
            assert candidate.epoch_seconds == candidate.steps * planned.step_instructions / candidate.board.clock_hz


def test_a_survey_counts_the_layers_that_ram_can_train() -> None:
    board = boards.board("microbit")
    needed = [plan(compile_model(dense_model(), cut), board).ram_used for cut in (1, 2, 3)]
    assert needed == sorted(needed)
    for spare, trainable in ((-1, 0), (0, 1), (needed[1] - needed[0] - 1, 1), (needed[1] - needed[0], 2), (9999, 3)):
        ram = dataclasses.replace(board.ram, size=needed[0] + spare)
        (candidate,) = tinydream.survey(dense_model(), boards=[dataclasses.replace(board, ram=ram)])
        assert (candidate.trainable, candidate.layers, candidate.steps) == (trainable, 3, 100)
        assert candidate.fits == (spare >= 0) and candidate.runs
        assert [each.missing for each in candidate.shortages] == ([1] if spare < 0 else [])


def test_a_survey_names_what_is_missing_and_where() -> None:
    found = survey_of("kws_ref_model")
    assert found["an386"].fits and not found["microbit"].fits and not found["microbit"].runs
    (shortage,) = found["microbit"].shortages
    assert shortage.what == "tensor arena" and "CONV_2D" in shortage.layer
    assert shortage.missing == found["microbit"].plan.ram_used - 16384
    found = survey_of("ad01_int8")
    assert [each.what for each in found["an386"].shortages] == ["model", "weight slots", "trainer"]
    assert "FULLY_CONNECTED" in found["an386"].shortages[-1].layer


def test_a_model_that_cannot_train_is_surveyed_to_run() -> None:
    (candidate,) = tinydream.survey(moving_model(), boards=[boards.board("microbit")])
    assert candidate.fits and candidate.runs and (candidate.trainable, candidate.layers) == (0, 0)
    assert candidate.epoch_seconds is None and candidate.inference_seconds is not None


def test_the_command_without_a_board_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(demo_model())
    assert cli.main(["plan", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1 : 1 + len(boards.boards())]] == [[b, "yes"] for b in boards.boards()]
    assert cli.main(["plan", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["boards"]
    assert [each["board"] for each in facts] == boards.boards()
    assert all(
        each["fits"] and each["missing"] == [] and 1 <= each["trainable_layers"] <= each["layers"] == 6
        for each in facts
    )
    assert cli.main(["plan", str(path), "--board", "microbit", "--json"]) == 0
    arena = json.loads(capsys.readouterr().out)["arena"]
    assert arena["bytes"] >= arena["lower_bound"] > 0
