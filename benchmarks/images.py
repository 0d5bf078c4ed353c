"""What each step of packing images is worth, beside PNG, zstd and xz; prints a Markdown table.

    pip install -e '.[bench]'
    python benchmarks/images.py [--sets digits photo16]

Sizes are whole files as a share of the pixels as bytes and a byte a label. Every step is added to those before it; a
quality loses pixels, and the PSNR is against the range of values that occur. Peers get all images at once: PNG as one
picture with the images side by side, class by class.
"""

from __future__ import annotations

import argparse
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zstandard
from marks import fill

from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.images import ImageOptions
from tinydream.tables.table import Table, table_from_arrays


def digits() -> Table:
    from sklearn.datasets import load_digits

    found = load_digits()
    return table_from_arrays(found.images.astype(np.uint8), found.target, source="digits, grey 8 x 8")


def photographs(side: int) -> Table:
    """Two colour photographs in tiles; the class is the photograph."""
    from sklearn.datasets import load_sample_images

    tiles, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[0] // side, photograph.shape[1] // side
        cut = photograph[: height * side, : width * side].reshape(height, side, width, side, 3).swapaxes(1, 2)
        tiles.append(cut.reshape(-1, side, side, 3))
        labels += [label] * height * width
    return table_from_arrays(np.concatenate(tiles), labels, source=f"photographs, colour {side} x {side}")


SETS: dict[str, Callable[[], Table]] = {
    "digits": digits, "photo8": lambda: photographs(8), "photo16": lambda: photographs(16)
}  # fmt: skip
BOTH = ImageOptions(colour=True, dct=True)
STEPS = {
    "raw, one plan": (ImageOptions(colour=False, dct=False, class_wise=False), "mcu"),
    "+ colour": (ImageOptions(colour=True, dct=False, class_wise=False), "mcu"),
    "+ DCT": (ImageOptions(colour=True, dct=True, class_wise=False), "mcu"),
    "+ class-wise": (BOTH, "mcu"),
    "smallest": (ImageOptions(), "mcu"),
    "quality 90": (ImageOptions(quality=90), "mcu"),
    "quality 50": (ImageOptions(quality=50), "mcu"),
    "archive, raw": (ImageOptions(colour=False, dct=False), "archive"),
    "+ colour, archived": (ImageOptions(colour=True, dct=False), "archive"),
    "+ DCT, archived": (BOTH, "archive"),
    "quality 90, archived": (ImageOptions(quality=90), "archive"),
}


def png_size(table: Table) -> int:
    """All images side by side in rows of 64, class by class."""
    from PIL import Image

    images = table.values[np.argsort(table.labels, kind="stable")]
    missing = -len(images) % 64
    whole = np.concatenate((images, np.repeat(images[-1:], missing, axis=0)))
    grid = whole.reshape(-1, 64, *images.shape[1:]).swapaxes(1, 2)
    mosaic: npt.NDArray[np.uint8] = grid.reshape(-1, 64 * images.shape[2], *images.shape[3:])
    content = io.BytesIO()
    Image.fromarray(mosaic).save(content, "PNG", optimize=True)
    return len(content.getvalue())


def check(made: Pack, table: Table) -> None:
    def whole(rows: npt.NDArray[np.integer], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        joined = np.column_stack((labels, rows)).astype(np.int64)
        return joined[np.lexsort(joined.T)]

    assert np.array_equal(whole(made[:].reshape(len(made), -1), made.labels), whole(table.flat(), table.labels))


def measure(table: Table) -> str:
    raw = table.values.tobytes() + table.labels.astype(np.uint8).tobytes()
    cells = []
    for options, profile in STEPS.values():
        if options.colour and table.values.ndim == 3:
            options = ImageOptions(False, options.dct, options.class_wise)
        made = pack(table, images=options, profile=profile)
        if made.psnr is None:
            check(made, table)
        cells.append(f"{len(made.data) / len(raw):.3f}" + ("" if made.psnr is None else f" ({made.psnr:.1f} dB)"))
    peers = (
        png_size(table) + len(table), len(zstandard.ZstdCompressor(level=19).compress(raw)),
        len(lzma.compress(raw, preset=6)),
    )  # fmt: skip
    return " | ".join((f"| {table.source}", *cells, *(f"{size / len(raw):.3f}" for size in peers))) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    names = ["set", *STEPS, "PNG", "zstd -19", "xz -6"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    print("\n".join(lines))
    for name in options.sets:
        lines.append(measure(SETS[name]()))
        print(lines[-1], flush=True)
    if options.readme:
        fill(options.readme, "images", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
