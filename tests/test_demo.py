"""The main job and the command line, as a person meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinydream as td
from tinydream.cli import commands as cli
from tinydream.cli import wearables
from tinydream.models import litert

FACTS = {
    "board", "emulator", "wearer", "mode", "n_train_samples", "n_replay_samples", "bytes_raw_float32", "bytes_packed",
    "acc_before", "acc_after", "acc_after_full_data", "acc_other_before", "acc_other_after", "acc_tuned_tflite",
    "acc_tuned_board",
    "ram_total", "ram_budget", "ram_used", "flash_used", "train_instructions_per_sample", "infer_instructions",
    "train_seconds_host_clock", "link_bytes", "wall_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves behind, on the board that is a process."""
    where = tmp_path_factory.mktemp("demo")
    options = [
        "--board",
        "host",
        "--wearer",
        "4",
        "--epochs",
        "15",
        "--per-class",
        "8",
        "--replay",
        "70",
        "--seed",
        "3",
    ]
    assert cli.main(["demo", "-o", str(where), *options]) == 0
    return where


def test_the_demo_tells_what_it_did(folder: Path) -> None:
    result = json.loads((folder / "demo.json").read_text())
    assert result.keys() >= FACTS
    assert (result["board"], result["wearer"], result["mode"], result["seed"]) == ("host", 4, "bases", 3)
    assert result["n_train_samples"] == 56 and result["n_replay_samples"] == 70
    assert result["bytes_packed"] == (folder / "wearer.tdz").stat().st_size
    assert 0 < result["ram_used"] <= result["ram_total"]
    assert len(result["epochs"]) == 15 and result["epochs"][-1]["loss"] < result["epochs"][0]["loss"]
    assert result["acc_after"] > result["acc_before"]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_its_files_give_its_figures_again(folder: Path) -> None:
    """The accuracies in demo.json follow from the files beside it."""
    result = json.loads((folder / "demo.json").read_text())
    model, test = td.compile_model(folder / "model.tflite"), td.read(folder / "test.npz")
    train, replay = td.open_pack(folder / "wearer.tdz"), td.open_pack(folder / "replay.tdz")

    def accuracy(trainer: td.Trainer) -> float:
        return float((trainer.predict(model.embed(test.values)) == test.labels).mean())

    assert accuracy(td.Trainer(model, None)) == result["acc_before"]
    trainer = td.Trainer(model, train, replay, td.TrainConfig(epochs=15, seed=3))
    trainer.run()
    assert accuracy(trainer) == result["acc_after"]
    tuned = (folder / "tuned.tflite").read_bytes()
    assert float((litert.classify(tuned, test.values) == test.labels).mean()) == result["acc_tuned_tflite"]
    written = td.write_back((folder / "model.tflite").read_bytes(), model, trainer.parameters, trainer.logit_range())
    assert written == tuned


@pytest.mark.parametrize("options", [["--mode", "full"], ["--mode", "stratified", "--replay", "0"]])
def test_every_mode_of_the_demo(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--json", "--board", "host", "--epochs", "3", "-o", str(tmp_path), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mode"] == options[1]
    expected = result["n_train_rows"] if options[1] == "full" else 112
    assert (
        result["n_train_samples"] == expected and result["epochs"][0]["steps"] == expected + result["n_replay_samples"]
    )


def test_halves_do_not_overlap() -> None:
    recordings = wearables.load_recordings()
    split = wearables.split_wearer(recordings, 7)
    parts = [split.others_train, split.others_test, split.wearer_train, split.wearer_test]
    assert sum(map(len, parts)) == len(recordings.windows)
    assert abs(float(split.others_train.values.mean())) < 0.05
    rows = {window.tobytes() for window in split.wearer_train.values}
    assert not rows & {window.tobytes() for window in split.wearer_test.values}


# ------------------------------------------------------------------ the command line, when something is wrong


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["demo", "--wearer", "11"], 2, "no wearer 11"),
        (["demo", "--board", "nonesuch"], 2, "unknown board"),
        (["demo", "--epochs", "0"], 2, "at least 1"),
        (["demo", "--per-class", "0"], 2, "per-class"),
        (["plan", "missing.tflite"], 1, "missing.tflite"),
        (["pack", "missing.csv", "--label", "y", "-o", "x.tdz"], 1, "no such file"),
        (["pack", "rows.txt", "-o", "x.tdz"], 1, "cannot be read"),
        (["eval", "missing.npz"], 2, "--model"),
        (["push", "missing.tflite"], 1, "missing.tflite"),
        (["train"], 2, "tinydream flash"),
        (["flash", "--board", "an386", "--drive"], 2, "no way to be flashed"),
        (["train", "--port", "socket://127.0.0.1:1"], 1, "cannot open"),
    ],
)
def test_errors_say_what_to_try(
    arguments: list[str], code: int, message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").touch()
    monkeypatch.delenv("TINYDREAM_PORT", raising=False)
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("tinydream: ") and message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1,2,0\n3,4,\n", "row 1 has no label"),
        ("1,2,0\n3,4\n", "line 3"),
        ("1,2,nan\n", "labels are missing"),
        ("", "at least one row"),
    ],
)
def test_bad_rows_leave_the_old_pack(
    cells: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "rows.tdz"
    source.write_text("a,b,y\n" + cells)
    target.write_bytes(b"what was there")
    assert cli.main(["pack", str(source), "--label", "y", "-o", str(target)]) == 1
    assert message in capsys.readouterr().err
    assert target.read_bytes() == b"what was there"


def test_packing_a_table_of_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).integers(0, 200, (60, 5))
    names = ["walk", "run", "sit"]
    lines = [",".join([*map(str, row), names[i % 3]]) for i, row in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("a,b,c,d,e,activity\n" + "\n".join(lines) + "\n")
    arguments = ["pack", str(tmp_path / "rows.csv"), "--label", "activity", "-o", str(tmp_path / "x.tdz"), "--json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 60
    pack = td.open_pack(tmp_path / "x.tdz")
    assert pack.classes == ("run", "sit", "walk")
    want = sorted((*map(int, row), names[i % 3]) for i, row in enumerate(rows))
    assert (
        sorted((*map(int, row), pack.classes[label]) for row, label in zip(pack[:], pack.labels, strict=True)) == want
    )


def test_names_need_the_order_of_the_model_s_outputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sorted names need not be in the order of the model's classes: packing them would train the wrong ones."""
    test = td.read(folder / "test.npz")
    names = np.array(["w", "v", "u", "t", "s", "r", "q"])[test.labels]
    np.savez(folder / "named.npz", x=test.values, y=names)
    source, model, target = (str(folder / name) for name in ("named.npz", "model.tflite", "n.tdz"))
    arguments = ["pack", source, "--through", model, "-o", target]
    assert cli.main(arguments) == 1
    assert "--classes" in capsys.readouterr().err
    assert cli.main([*arguments, "--classes", "w,v,u,t,s,r,q"]) == 0
    assert np.bincount(td.open_pack(target).labels).tolist() == np.bincount(test.labels).tolist()


def test_importing_is_light() -> None:
    """Nothing heavy is imported until it is needed."""
    code = (
        "import sys, tinydream, tinydream.cli; tinydream.pack; tinydream.plan; tinydream.connect;"
        "print([m for m in ('tensorflow', 'matplotlib', 'ai_edge_litert', 'tflite', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_are_not_hidden_by_modules() -> None:
    for name in ("pack", "plan", "reduce", "read", "push", "pull"):
        assert callable(getattr(td, name)), name
    with pytest.raises(AttributeError, match="nonesuch"):
        td.nonesuch  # noqa: B018


@pytest.mark.parametrize(("n_rows", "told"), [(16384, False), (16385, True)])
def test_a_large_table_says_how_it_was_condensed(
    n_rows: int, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).integers(0, 50, (n_rows, 2))
    np.savez(tmp_path / "rows.npz", x=rows, y=np.arange(n_rows) % 2)
    assert cli.main(["pack", str(tmp_path / "rows.npz"), "--per-class", "4", "-o", str(tmp_path / "rows.tdz")]) == 0
    assert ("not by variance" in capsys.readouterr().out) == told
    assert td.open_pack(tmp_path / "rows.tdz").n_samples <= 8
