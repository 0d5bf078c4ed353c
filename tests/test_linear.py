"""Packing, opening and decoding take work and memory in proportion to rows and to features: counted, not timed.

The core is built once more with a call at each of its basic blocks (-fsanitize-coverage=trace-pc), which counts them.
Memory is what arrays take, as fresh pages of it cost as much time as what is done in them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays

ROOT = Path(__file__).parent.parent
COUNTER = "unsigned long long n_blocks; void __sanitizer_cov_trace_pc(void) { n_blocks++; }"
COUNT = """
import ctypes, json, sys
counter = ctypes.CDLL("./counter.so", ctypes.RTLD_GLOBAL)
n_blocks = ctypes.c_ulonglong.in_dll(counter, "n_blocks")
import numpy as np
from tinydream.packs.packing import pack
from tinydream.packs.pack import Pack
from tinydream.tables.table import table_from_arrays

def counted(call):
    before = n_blocks.value
    result = call()
    return n_blocks.value - before, result

def work(n_rows, n_features, n_labels):
    random = np.random.default_rng(0)
    rows = np.clip(random.normal(0, 20, (n_rows, n_features)), -128, 127).astype(np.int8)
    table = table_from_arrays(rows, np.arange(n_rows) % n_labels)
    packing, made = counted(lambda: pack(table))
    opening, opened = counted(lambda: Pack(made.data))
    decoding, _ = counted(opened.decode)
    return {"pack": packing, "open": opening, "decode": decoding}

print(json.dumps([work(*sizes) for sizes in json.loads(sys.argv[1])]))
"""
ROWS = [(20_000, 6, 1), (80_000, 6, 1)]
FEATURES = [(600, 64, 1), (600, 256, 1)]
WIDE = [(17_000, 48, 1), (17_000, 192, 1)]  # of a large table
LONG = [(600, 1024, 1), (600, 4096, 1)]  # as many rows are read together, however long they are
CLASSES = [(20_000, 6, 8), (80_000, 6, 32)]  # as many rows a part


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], dict[str, int]]:
    folder = tmp_path_factory.mktemp("linear")
    for name in ("c_src", "tinydream"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "*.o", "_core.c", "__pycache__")
        )
    (folder / "counter.c").write_text(COUNTER)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "counter.c", "-o", "counter.so"], cwd=folder, check=True)
    environment = {**os.environ, "CFLAGS": "-fsanitize-coverage=trace-pc", "PYTHONPATH": str(folder), "CC": "gcc"}
    done = subprocess.run(
        [sys.executable, "c_src/build_ffi.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sizes = [*ROWS, *FEATURES, *WIDE, *LONG, *CLASSES]
    command = [sys.executable, "-c", COUNT, json.dumps(sizes)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(sizes, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("sizes", "most"), [(ROWS, 6), (FEATURES, 6), (WIDE, 6), (LONG, 4.5), (CLASSES, 6)],
                         ids=["rows", "features", "wide", "long", "classes"])  # fmt: skip
def test_four_times_as_much_takes_about_four_times_the_work(
    counts: dict[tuple[int, int, int], dict[str, int]], sizes: list[tuple[int, int, int]], most: float
) -> None:
    small, large = (counts[size] for size in sizes)
    assert min(small.values()) > 1000  # the counter is wired in
    for what in small:
        assert large[what] / small[what] < most, (what, small[what], large[what])


@pytest.mark.parametrize("n_labels", [1, 4])
@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_packing_holds_the_rows_once_and_what_sorting_them_takes(n_labels: int, dtype: type) -> None:
    n_rows, n_features = 200_000, 6
    rows = np.clip(np.random.default_rng(0).normal(0, 20, (n_rows, n_features)), -128, 127).astype(dtype)
    table = table_from_arrays(rows, np.arange(n_rows) * n_labels // n_rows)
    tracemalloc.start()
    try:
        pack(table)
        peak = tracemalloc.get_traced_memory()[1] / n_rows
    finally:
        tracemalloc.stop()
    assert 4 * n_features < peak < 4 * n_features + 2 * (8 + 4) + 12, peak  # rows; keys and order, twice; what is left
