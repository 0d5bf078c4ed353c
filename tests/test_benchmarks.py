"""The benchmarks start: what they import is there."""

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
