"""Training from the command line: settings, plans, and what a pulled model is worth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_kit import firmware, model, packs, windows
from models import demo_model

from tinydream import boards, cli
from tinydream._native import ffi, lib
from tinydream.cli_training import add_training, training_config
from tinydream.emulator import Emulator
from tinydream.train import TrainConfig, native_config


def parsed(*arguments: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    add_training(parser)
    return training_config(parser.parse_args(arguments))


def test_no_settings_are_the_defaults() -> None:
    assert parsed() == TrainConfig()


def test_settings_reach_the_config() -> None:
    assert parsed(
        "--epochs", "9", "--mode", "full", "--seed", "3", "--rate", "0.2", "--schedule", "cosine", "--warmup", "2",
        "--held-back", "0.25", "--monitor", "accuracy", "--patience", "4", "--optimizer", "adam", "--momentum", "0.8",
        "--batch", "16", "--l2", "0.5", "--clip", "1.5", "--precision", "auto",
    ) == TrainConfig(
        epochs=9, mode="full", seed=3, learning_rate=0.2, final_rate=0.2 / 20, schedule="cosine", warmup=2,
        held_back=0.25, monitor="accuracy", patience=4, optimizer="adam", momentum=0.8, batch=16, l2=0.5,
        clip_norm=1.5, precision="auto",
    )  # fmt: skip
    assert parsed("--final-rate", "0.01", "--clip-value", "2").final_rate == 0.01


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()  # what making the model printed
    assert cli.main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_plan_tells_what_the_trainer_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(demo_model())
    plain = run(capsys, "plan", str(path), "--board", "microbit")
    adam = run(capsys, "plan", str(path), "--board", "microbit", "--optimizer", "adam", "--patience", "3")
    n = 4 * model().n_parameters
    sizes = {share["purpose"]: share["size"] for share in adam["trainer"]}
    assert (sizes["gradient"], sizes["optimiser state"], sizes["best weights"]) == (n, 2 * n, n)
    config = native_config(TrainConfig(optimizer="adam", patience=3, held_back=0.2))
    size = lib.td_trainer_size(model().native, config, ffi.NULL)
    assert sum(sizes.values()) == -(-size // 16) * 16
    assert adam["ram_used"] - plain["ram_used"] == sum(sizes.values()) - sum(s["size"] for s in plain["trainer"])
    fixed = run(capsys, "plan", str(path), "--board", "microbit", "--precision", "auto")
    assert (plain["precision"], fixed["precision"]) == ("f32", "fixed")
    assert fixed["step_instructions"] < plain["step_instructions"]
    assert run(capsys, "plan", str(path), "--board", "an386", "--precision", "auto")["precision"] == "f32"
    assert cli.main(["plan", str(path), "--board", "microbit", "--optimizer", "adam"]) == 0
    assert "optimiser state" in capsys.readouterr().out


def test_from_push_to_what_a_pulled_model_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.tflite").write_bytes(demo_model())
    packs()[0].save("train.tdz")
    np.savez("test.npz", x=windows()[:40], y=np.arange(40) % model().n_classes)
    with Emulator(boards.board("host"), firmware("host")) as running:
        monkeypatch.setenv("TINYDREAM_PORT", running.url)
        run(capsys, "push", "model.tflite", "train.tdz")
        assert cli.main(["train", "--epochs", "4", "--optimizer", "adam", "--rate", "0.005", "--batch", "8",
                         "--held-back", "0.2", "--patience", "2"]) == 0  # fmt: skip
        assert "held back: loss" in capsys.readouterr().out
        told = run(capsys, "pull", "-o", "tuned.tflite", "--test", "test.npz")
        assert told["accuracy"]["trained"] == run(capsys, "eval", "test.npz")["accuracy"]
        assert set(told["accuracy"]) == {"trained", "int8_board", "int8_litert"}
        assert all(abs(each - told["accuracy"]["trained"]) <= 0.1 for each in told["accuracy"].values())
        assert cli.main(["train", "--clip", "1", "--clip-value", "1"]) == 2
        assert "choose one" in capsys.readouterr().err
