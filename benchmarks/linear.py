"""Whether packing and decoding are linear in rows and features; prints the table of docs/DESIGN.md and draws its plot.

    python benchmarks/linear.py [--rows N] [--features N] [--plot docs/linear.png] [--readme docs/DESIGN.md]

Rows are those of the watch int8 set in random order, over and over, each value with noise of -1, 0 or 1 added. Rows
with many features are 2,000 windows of consecutive rows of it. Doubling the one or the other should double seconds of
CPU. All sizes take turns, and the fastest run of each counts, so that what else a machine does slows none of them more
than the others; each turn has three runs at least, as the first may wait for memory that no process had lately.
Decoding is Pack.decode into an array of the pack's narrowest type.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import codec
import numpy as np
from marks import fill

from tinydream.cli.plots import AFTER, FULL, _png, _pyplot
from tinydream.files import atomic_write
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.table import Table, table_from_arrays

FEWEST_ROWS, MOST_ROWS = 10_000, 10_240_000
FEWEST_FEATURES, MOST_FEATURES, N_WINDOWS = 16, 4_096, 2_000
ROUNDS = 8
ENOUGH, LEAST_RUNS = 0.1, 3  # seconds, and runs, in a turn
Measured = tuple[int, float, float, int]  # rows or features, seconds of packing and of decoding, bytes of the pack


def many_rows(n: int) -> Table:
    rows, random = codec.watch(8).flat(), np.random.default_rng(0)
    rows = random.permutation(rows)
    out = np.empty((n, rows.shape[1]), dtype=np.int8)
    for first in range(0, n, len(rows)):
        part = rows[: n - first]
        noise = random.integers(-1, 2, part.shape, dtype=np.int8)
        out[first : first + len(part)] = np.clip(part.astype(np.int16) + noise, -128, 127)
    return table_from_arrays(out, None, source="watch rows with noise")


def many_features(n: int) -> Table:
    values = codec.watch(8).flat().ravel()
    starts = np.random.default_rng(0).integers(0, (len(values) - n) // 6, N_WINDOWS) * 6
    return table_from_arrays(values[starts[:, None] + np.arange(n)], None, source="windows of watch rows")


def doublings(fewest: int, most: int) -> list[int]:
    return [fewest << i for i in range((most // fewest).bit_length())]


def cpu_time(call: Callable[[], Any]) -> float:
    """Seconds of the fastest run."""
    runs: list[float] = []
    while sum(runs) < ENOUGH or len(runs) < LEAST_RUNS:
        start = time.process_time()
        call()
        runs.append(time.process_time() - start)
    return min(runs)


def measure(make: Callable[[int], Table], sizes: Sequence[int]) -> list[Measured]:
    tables = [make(size) for size in sizes]
    packs = [pack(table) for table in tables]
    found: list[Measured] = [(size, np.inf, np.inf, len(made.data)) for size, made in zip(sizes, packs, strict=True)]
    for turn in range(ROUNDS * len(sizes)):
        i = turn % len(sizes)
        size, packing, decoded, n_bytes = found[i]
        packing = min(packing, cpu_time(lambda table=tables[i]: pack(table)))
        found[i] = (size, packing, min(decoded, decoding(packs[i])), n_bytes)
    for each in found:
        print(each, file=sys.stderr, flush=True)
    return found


def decoding(made: Pack) -> float:
    out = np.empty((len(made), made.n_features), made.dtype)
    made.decode(out=out)
    return cpu_time(lambda: made.decode(out=out))


def render(rows: list[Measured], features: list[Measured]) -> str:
    lines = []
    for name, found in (("rows x 6", rows), (f"features, {N_WINDOWS:,} rows", features)):
        lines += [f"| {name} | packing | times that of half | decoding | times that of half | bytes a row |",
                  "|---|---|---|---|---|---|"]  # fmt: skip
        for i, (size, packing, decoded, n_bytes) in enumerate(found):
            half = found[i - 1] if i else None
            ratios = (f"{packing / half[1]:.2f}", f"{decoded / half[2]:.2f}") if half else ("", "")
            n_rows = size if found is rows else N_WINDOWS
            lines.append(f"| {size:,} | {packing:.3f} s | {ratios[0]} | {1e3 * decoded:.2f} ms | {ratios[1]} "
                         f"| {n_bytes / n_rows:.2f} |")  # fmt: skip
        lines.append("")
    return "\n".join(lines[:-1])


def draw(rows: list[Measured], features: list[Measured]) -> bytes:
    plt = _pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    titles = ("rows of 6 features", f"features of {N_WINDOWS:,} rows")
    for axes, found, title in zip(panels, (rows, features), titles, strict=True):
        sizes = np.array([size for size, *_ in found])
        for column, name, colour in ((1, "pack", AFTER), (2, "decode all", FULL)):
            seconds = np.array([each[column] for each in found])
            axes.plot(sizes, seconds, "o-", color=colour, label=name)
            last = seconds[-1] / sizes[-1]
            axes.plot(sizes, sizes * last, ":", color="#33475b", linewidth=1)
        axes.plot([], [], ":", color="#33475b", linewidth=1, label="linear, through the last point")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(title)
        axes.set_ylabel("seconds")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return bytes(_png(plt, figure))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=MOST_ROWS, help="up to this many")
    parser.add_argument("--features", type=int, default=MOST_FEATURES, help="up to this many")
    parser.add_argument("--plot", type=Path, help="draw a PNG here")
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    rows = measure(many_rows, doublings(FEWEST_ROWS, options.rows))
    features = measure(many_features, doublings(FEWEST_FEATURES, options.features))
    table = render(rows, features)
    print(table)
    if options.plot:
        atomic_write(options.plot, draw(rows, features))
    if options.readme:
        fill(options.readme, "linear", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
