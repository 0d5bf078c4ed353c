"""The benchmarks start: what they import is there. And figures that do not hang on the machine stay what they are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from models import PROJECT

SCRIPTS = ("codec.py", "device.py", "images.py", "linear.py", "personalise.py", "reader.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_tells_its_options(script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, str(PROJECT / "benchmarks" / script), "--help"], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0 and "--readme" in done.stdout, done.stderr


def test_a_reader_of_rows_fits_4_kb_of_a_cortex_m0() -> None:
    script = "import reader; print(reader.code_of(reader.ROWS), reader.code_of(reader.SAMPLES))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "benchmarks")))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    rows, samples = map(int, done.stdout.split())
    assert rows < 4096 < samples
