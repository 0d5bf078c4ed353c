"""Makes every file of tests/golden anew, and says which ones changed; tests/test_golden.py pins their hashes.

    python tests/make_golden.py            packs, the compiled model, and what the packs hold (rows.txt)
    python tests/make_golden.py --tflite   small.tflite first, which needs TensorFlow

A file that changes means other bytes for the same rows: a new format version, or a bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinydream._native import check, ffi, lib, view
from tinydream.models.compiler import compile_model
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.images import ImageOptions
from tinydream.tables.sources import series
from tinydream.tables.table import Table, table_from_arrays, table_from_columns

GOLDEN = Path(__file__).resolve().parent / "golden"


def golden_packs() -> dict[str, Callable[[], Pack]]:
    random = np.random.default_rng(7)
    clusters = random.integers(-90, 90, (4, 6))[np.arange(40) % 4] + random.integers(-3, 4, (40, 6))
    clusters = clusters.astype(np.int32)  # the type of rows without fields
    wide = np.array([[-(2**31), 5], [2**31 - 1, 5], [0, 5]], dtype=np.int32)
    offsets = clusters + np.arange(40, dtype=np.int32)[:, None] % 2 * 1000
    table = table_from_arrays(clusters, np.arange(40) % 2, classes=["sit", "run"])
    few, near = random.integers(0, 9, 140) ** 2 * 61, random.normal(0, 300, (140, 2)).astype(int)
    spread = table_from_arrays(np.column_stack((near, few)).astype(np.int32), None)
    ramps = np.add.outer(np.arange(10) * 7, np.arange(9) * 5)[None, :, :, None] + random.integers(0, 9, (6, 10, 9, 1))
    colours = (ramps[:, :8, :8] * [1, 2, 1] + [9, 40, 80] * random.integers(0, 2, (6, 1, 1, 1))).astype(np.uint8)
    swinging = 64 * random.integers(1, 4, (128, 3)) - random.integers(0, 2, (128, 3))
    swinging[0], swinging[1] = 0, 255
    following = np.column_stack((swinging, swinging[:, 0] * 3 // 8 + random.integers(0, 3, 128))).astype(np.int32)
    return {
        "masks.tdz": lambda: pack(table, per_class=4, method="entrogede"),
        "offsets.tdz": lambda: pack(table_from_arrays(offsets, np.arange(40) % 2)),
        "replay.tdz": lambda: pack(table, replay=6),
        "wide.tdz": lambda: pack(table_from_arrays(wide, [2, 0, 0], classes=3), per_class=1),
        "keys.tdz": lambda: pack(spread, replay=140, method="random"),
        "one.tdz": lambda: pack(table_from_arrays(np.ones((1, 1), np.int32), [0])),
        "image.tdz": lambda: pack(table_from_arrays(colours, np.arange(6) % 2), images=ImageOptions(True, True)),
        "quality.tdz": lambda: pack(table_from_arrays(ramps[..., 0], None), images=ImageOptions(quality=50)),
        "fields.tdz": lambda: pack(every_type(), per_class=2),
        "order.tdz": lambda: pack(table, per_class=4, keep_order=True),
        "archive.tdz": lambda: pack(table, per_class=4, profile="archive", keep_order=True),
        "transforms.tdz": lambda: pack(table_from_arrays(following, None), per_class=4),
        "windows.tdz": lambda: pack(series([np.arange(20) ** 2 % 97, np.arange(13) * 5], ["b", "a"], window=6, hop=4)),
    }


def every_type() -> Table:
    """A column for each kind of code, cells missing, and two labels."""
    n = np.arange(12)
    columns = {
        "whole": n * 1000 - 7, "wide": np.where(n % 3, n * 2**40, -1) + 2**33 * n**3,
        "price": np.round(n * 0.05 - 0.3, 2), "noise": np.sqrt(n), "special": np.where(n % 5, n, np.nan) * -1.0,
        "bool": np.ma.array(n % 2 == 0, mask=n == 3), "text": [None if i == 5 else "xyz"[i % 3] * (i % 4) for i in n],
        "day": np.where(n == 7, np.datetime64("NaT"), np.datetime64("2024-02-28") + n),
        "y": n / 8, "z": np.array(["u", "v"] * 6, dtype=object),
    }  # fmt: skip
    return table_from_columns(columns, label=["y", "z"])


def small_model(keras: Any) -> Any:
    """A convolution with ReLU, a depthwise one with stride 2, a dense tail of 8 to 2."""
    layers = keras.layers
    x = inputs = keras.Input((4, 4, 1), batch_size=1)
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))


def golden_files(remade: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Every golden file but small.tflite, which is read (or taken from `remade`)."""
    from tail_networks import float_model
    from test_float import network

    tflite = (remade or {}).get("small.tflite") or (GOLDEN / "small.tflite").read_bytes()
    packs = {name: make().data for name, make in golden_packs().items()}
    rows = "".join(f"{name} {describe(packs[name])}\n" for name in sorted(packs) if name != "archive.tdz")
    models = {
        "small.tdm": compile_model(tflite),
        "float.tdm": compile_model(network(82)[0], whole=True),
        "layers.tdm": compile_model(tflite, 3, "all,0=1"),
        "float_layers.tdm": compile_model(float_model(7), "#0", "all,3=2"),
    }
    compiled = {name: model.tdm for name, model in models.items()}
    return {**(remade or {}), **packs, **compiled, "rows.txt": rows.encode()}


def describe(data: bytes) -> str:
    """What tests/c/test_golden.c prints for a pack, on this machine."""
    made = Pack(data)
    labelled = np.column_stack((made.decode(), made.row_classes)).astype("<i4").tobytes()
    condensed = made.board_samples()
    samples = np.column_stack((condensed.values, condensed.weights)).astype("<f4").tobytes()
    return f"rows {crc(labelled):08x} samples {crc(samples):08x} encoded {encoded_crc(made):08x}"


def crc(data: bytes, start: int = 0) -> int:
    return int(lib.td_crc32(start, view(data), len(data)))


def encoded_crc(made: Pack) -> int:
    if made.image_shape:
        rows = made.decode(out=np.empty((len(made), made.n_features), np.int32))
        for i in range(len(rows)):
            lib.td_image_forward(made.native.image, ffi.from_buffer("int32_t[]", rows[i]))
        return crc(rows.astype("<i4").tobytes())
    stored = np.ascontiguousarray(made.stored(slice(None)))
    (n, d), width = stored.shape, int(made.native.width)
    order, mask, group = ffi.new("uint32_t[]", 2 * d * width), ffi.new("uint32_t[]", d), ffi.new("uint32_t[]", n)
    size = int(lib.td_plan_work_size(n))
    work, out = ffi.new("uint64_t[]", size // 8 + 1), ffi.new("uint8_t[]", 2048)
    plan, header, total = ffi.new("td_plan_result *"), ffi.new("td_part_header *"), 0
    rows_view = view(stored, "const uint32_t[]")
    for planned in (lib.td_plan_compress, lib.td_plan_greedy):
        check(planned(rows_view, n, d, width, 0, mask, order, plan, work, size), "planning")
        n_bases = check(lib.td_plan_group(rows_view, n, d, width, mask, group, work, size), "grouping")
        length = lib.td_encode_part(rows_view, n, d, width, mask, ffi.NULL, group, n_bases, out, 2048, header)
        total = crc(ffi.buffer(out, check(length, "encoding"))[:], total)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tflite", action="store_true", help="make small.tflite first (needs TensorFlow)")
    remade = {}
    if parser.parse_args().tflite:
        from models import convert

        remade["small.tflite"] = convert(small_model, 7)
    for name, data in golden_files(remade).items():
        path = GOLDEN / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
            print(f"changed: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
