"""What README prints works as printed; and a wheel, away from the checkout, does what the checkout does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from tinydream.models import litert
from tinydream.packs.pack import open_pack
from tinydream.tables import sources

ROOT = Path(__file__).parent.parent


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    assert len(found) == 1, language
    return str(found[0])


def run(command: list[str], folder: Path, **variables: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_the_commands(folder: Path) -> None:
    lines = block("sh").strip().splitlines()
    assert len(lines) <= 18
    said = run(["bash", "-euc", block("sh")], folder)
    result = json.loads((folder / "demo" / "demo.json").read_text())
    assert result["board"] == result["emulator"] == "microbit"
    assert result["ram_used"] <= result["ram_total"] == 16384 and result["flash_used"] <= 262144
    assert result["train_instructions_per_sample"] > 1000 and result["infer_instructions"] > 100_000
    accuracies = [float(found) for found in re.findall(r"^([\d.]+) % of \d+ rows$", said, re.M)]
    before, after, again = accuracies
    assert before == round(100 * result["acc_before"], 1) and after == round(100 * result["acc_after"], 1)
    assert after > before
    tuned, test = (folder / "tuned.tflite").read_bytes(), sources.read(folder / "demo" / "test.npz")
    by_litert = float((litert.classify(tuned, test.values) == test.labels).mean())
    assert abs(100 * by_litert - again) < 3  # int8 tail in LiteRT, f32 tail on the board


def test_the_python(folder: Path) -> None:
    assert len(block("python").strip().splitlines()) <= 16
    tuned = (folder / "tuned.tflite").read_bytes()
    said = run([sys.executable, "-c", block("python")], folder)
    assert "accuracy" in said
    assert (folder / "tuned.tflite").read_bytes() == tuned  # the command line and Python, twice on a fresh board


def test_the_c(folder: Path) -> None:
    """Every row is the nearest to itself, or to one of its own values."""
    core = ROOT / "c_src"
    made = open_pack(folder / "wearer.tdz")
    rows = ", ".join(f"{{{', '.join(map(str, row))}}}" for row in made[:].tolist())
    (folder / "main.c").write_text(
        block("c") + "#include <stdio.h>\n"
        f"static const int32_t rows[{len(made)}][{made.n_features}] = {{{rows}}};\n"
        "static uint8_t bytes[1 << 20];\n"
        "int main(int n, char **names) {\n"
        '    FILE *file = fopen(names[n - 1], "rb"); uint32_t label = 0;\n'
        "    uint32_t size = (uint32_t)fread(bytes, 1, sizeof bytes, file);\n"
        f"    for (int i = 0; i < {len(made)}; i++) {{\n"
        "        if (nearest(bytes, size, rows[i], &label) != TD_OK) return 1;\n"
        '        printf("%u\\n", (unsigned)label);\n'
        "    }\n"
        "    return nearest(bytes, size - 1, rows[0], &label) == TD_E_FORMAT ? 0 : 2;\n}\n"
    )
    sources = map(str, sorted(core.glob("*.c")))
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{core}"]
    run(["cc", *flags, "main.c", *sources, "-o", "nearest"], folder)
    labels = [int(line) for line in run(["./nearest", "wearer.tdz"], folder).split()]
    twins = {row.tobytes(): label for row, label in zip(made[::-1], made.class_numbers[::-1].tolist(), strict=True)}
    assert labels == [twins[row.tobytes()] for row in made[:]]


def test_the_example(folder: Path) -> None:
    said = run([sys.executable, str(ROOT / "examples" / "shrink.py"), "demo"], folder)
    assert {"variance", "entrogede", "random"} <= {line.split()[0] for line in said.splitlines()}
    assert (folder / "shrink.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_that_tunes_a_convolution(folder: Path) -> None:
    said = run([sys.executable, str(ROOT / "examples" / "convolution.py"), "demo"], folder)
    before, head, _, channels, whole = (float(found) for found in re.findall(r"([\d.]+) %", said))
    assert min(head, channels, whole) > before


def test_the_example_for_linux_devices(folder: Path) -> None:
    said = run([sys.executable, str(ROOT / "examples" / "edge.py"), "demo"], folder)
    before, litert_after, core_after = (float(found) for found in re.findall(r"([\d.]+) %", said))
    assert litert_after > before and abs(litert_after - core_after) < 5
    assert len(np.load(folder / "edge.npz").files) == 2


def test_a_wheel_builds_firmware_away_from_the_checkout(folder: Path) -> None:
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)], folder)
    (wheel,) = folder.glob("tinydream-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", str(wheel)], folder)
    where = run([python, "-c", "import tinydream; print(tinydream.__file__)"], folder).strip()
    assert str(folder / "venv") in where
    for board in ("microbit", "host"):
        command = [python, "-m", "tinydream", "build", "--board", board, "-o", f"out-{board}", "--json"]
        built = json.loads(run(command, folder, TINYDREAM_CACHE=str(folder / "cache")))
        assert (folder / built["elf"]).exists() and built["board"] == board
    python_block = block("python").replace("tuned.tflite", "wheel.tflite")
    run([python, "-c", python_block], folder, TINYDREAM_CACHE=str(folder / "cache"))
    assert (folder / "wheel.tflite").read_bytes() == (folder / "tuned.tflite").read_bytes()
