"""What reading a pack costs on a Cortex-M0: instructions, RAM and code; prints the table of README.

    python benchmarks/reader.py [--sets watch8 ...] [--json FILE] [--readme README.md]

The programs are those of benchmarks/emulated.py with benchmarks/reader.c: Cortex-M0 code, at -O2 as the firmware builds
the reader. All rows of a set lie in the emulated flash. A row in order is the mean over all rows, first to last; one at
random is the mean of 4,096, drawn from all. Both include the caller's loop. What the board read (values, samples,
labels, weights) must be what the host reads. RAM is td_pack, a row, the cache, and the deepest stack of open and row.
Code is what the linker keeps of the core and of the compiler's routines for these, at -Os. Both are then given for
samples too, means of rows as floats, which a trainer takes: their check, and what soft float takes, come with them.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import codec
import numpy as np
from emulated import build_program, code_size, link, run
from marks import fill

from tinydream._native import lib
from tinydream.cli.console import Console
from tinydream.cli.demo import DemoOptions, Wearer, prepare
from tinydream.files import atomic_write
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack

HERE = Path(__file__).resolve().parent
N_RANDOM = 4096
N_SAMPLED = 20_000  # rows whose samples are read
ROWS = ("td_pack_open_rows", "td_pack_use_cache", "td_pack_row")
SAMPLES = (*ROWS, "td_pack_open", "td_pack_sample")
COLUMNS = ("in_order", "at_random", "in_order_cached", "at_random_cached", "open_row", "ram", "code", "ram_samples",
           "code_samples")  # fmt: skip
MOST = {"watch8": {"in_order_cached": 400, "at_random_cached": 2_000, "ram": 512, "code": 4_096}}


@functools.cache
def wearer() -> Wearer:
    """The demo's packs: embeddings of a wearer's windows, and a replay set of the others'."""
    console = Console(sys.stderr)
    try:
        return prepare(DemoOptions(), console)
    finally:
        console.close()


def replay() -> Pack:
    made = wearer().replay
    assert made is not None
    return made


SETS: dict[str, Callable[[], Pack]] = {
    **{name: (lambda load=load: pack(load())) for name, load in codec.SETS.items()},
    "embeddings": lambda: wearer().pack,
    "replay": replay,
}
TITLES = {"watch8": "watch int8", "watch16": "watch int16", "embeddings": "the demo's embeddings",
          "replay": "the demo's replay set"}  # fmt: skip


def measure(name: str, made: Pack) -> dict[str, Any]:
    defines = {"FEATURES": made.n_features, "RANDOM": N_RANDOM, "SAMPLED": N_SAMPLED}
    named = {f"BENCH_{key}": f"{value}u" for key, value in defines.items()}
    with tempfile.TemporaryDirectory(prefix="tinydream-") as folder:
        found = run(build_program(Path(folder), HERE / "reader.c", made.data, "M0", named, "-O2"), name)
    if (found["check_rows"], found["check_samples"]) != on_host(made, found["n_samples"]):
        raise SystemExit(f"{name}: the board read something else than the host")
    found |= {"rows": len(made), "features": made.n_features, "row": 4 * made.n_features}
    memory = found["reader"] + found["cache"] + found["row"]
    return found | {
        "open_row": found["open"] // len(made), "ram": memory + found["stack"], "code": code_of(ROWS),
        "ram_samples": memory + found["stack_samples"], "code_samples": code_of(SAMPLES),
    }  # fmt: skip


@functools.cache
def code_of(roots: tuple[str, ...]) -> int:
    """Bytes of what these functions need, built for size."""
    with tempfile.TemporaryDirectory(prefix="tinydream-") as folder:
        return code_size(link(Path(folder) / "reader.elf", [], "M0", {}, "-Os", roots=roots))


def on_host(made: Pack, n_samples: int) -> tuple[int, int]:
    """The checksums that the board must give."""
    numbers, state = np.empty(N_RANDOM, dtype=np.int64), 1
    for i in range(N_RANDOM):
        state = lib.td_random(state)
        numbers[i] = state * len(made) >> 32
    stored = made.decode(out=np.empty((len(made), made.n_features), np.int32))  # as a board reads: 32 bits a value
    rows = zlib.crc32(stored[numbers].tobytes(), zlib.crc32(stored.tobytes()))
    condensed, samples = made.board_samples(), 0
    for i in range(n_samples):
        samples = zlib.crc32(condensed.values[i].astype("<f4").tobytes(), samples)
        samples = zlib.crc32(condensed.labels[i].astype("<u4").tobytes(), samples)
        samples = zlib.crc32(np.float32(condensed.weights[i]).tobytes(), samples)
    return rows, samples


def render(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| pack | row in order | at random | with a cache: in order | at random | open, a row | RAM, bytes "
             "| code, bytes | samples too: RAM | code |", "|" + "---|" * 10]  # fmt: skip
    for name, row in found.items():
        most = MOST.get(name, {})
        cells = [_figure(row, key, most.get(key)) for key in COLUMNS]
        title = f"{TITLES.get(name, name)}, {row['rows']:,} x {row['features']}"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(row: dict[str, Any], key: str, most: int | None) -> str:
    if most is None:
        return f"{row[key]:,}"
    return f"{row[key]:,} (wanted: {most:,}{'' if row[key] < most else ', not reached'})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    found = {}
    for name in options.sets:
        found[name] = measure(name, SETS[name]())
        print(f"{name}: {found[name]}", file=sys.stderr)
    table = render(found)
    print(table)
    if options.json:
        atomic_write(options.json, (json.dumps(found, indent=2) + "\n").encode())
    if options.readme:
        fill(options.readme, "reader", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
