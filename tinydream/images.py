"""Images as rows: folders of them, and the transforms under which they pack smaller (docs/SPEC.md, "Image")."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import check, ffi, lib, view
from .errors import DataError, UsageError
from .folders import class_files
from .table import Table, table_from_arrays

__all__ = ["ImageOptions", "Transformed", "holds_images", "psnr", "read_images", "transforms"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Where the 8 coefficients of one dimension lie, and how many times as large as those of an orthonormal DCT they are.
FREQUENCIES = (0, 4, 6, 2, 7, 1, 5, 3)
GAINS = (8**-0.5, 2**-0.5, 1.0, 2.0, 2**-0.5, 2.0, 1.0, 2**0.5)
# Steps of quality 50, by frequency: the examples of ITU-T T.81, Annex K.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = tuple(
    tuple({(0, 0): 17, (0, 1): 18, (1, 1): 21, (0, 2): 24, (1, 2): 26, (0, 3): 47, (1, 3): 66, (2, 2): 56}.get(
        (min(u, v), max(u, v)), 99) for v in range(8)) for u in range(8)
)  # fmt: skip


@dataclass(frozen=True)
class ImageOptions:
    """How images are packed; without `quality` losslessly.

    `colour`: red, green and blue as YCoCg-R; `dct`: the 8 x 8 DCT of each tile. None: where it makes the pack smaller.
    `class_wise`: a bit plan for each class; otherwise one for all. `quality`: 1 to 100; coefficients are rounded
    as in a JPEG of that quality.
    """

    colour: bool | None = None
    dct: bool | None = None
    class_wise: bool = True
    quality: int | None = None


@dataclass(frozen=True)
class Transformed:
    """Rows as they are stored, the image section that says how to undo it, and the PSNR where pixels are lost."""

    rows: npt.NDArray[np.int32]
    section: bytes
    psnr: float | None


def transforms(table: Table, options: ImageOptions) -> Iterator[Transformed]:
    """The table's images under each transform that the options allow.

    Values are (n, height, width) or (n, height, width, channels) integers. Raises DataError when they are not,
    UsageError for options that cannot be had.
    """
    height, width, channels = _shape(table)
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UsageError(f"a quality of {options.quality}; it goes from 1 to 100")
    if options.quality is not None and options.dct is False:
        raise UsageError("a quality is one of DCT coefficients; leave either out")
    if options.colour and channels != 3:
        raise UsageError(f"{table.source}: images of {channels} channels have no colour transform; it takes 3")
    colours = (bool(options.colour),) if options.colour is not None or channels != 3 else (False, True)
    if options.quality is not None:
        dcts = {True}
    else:
        dcts = {False, height >= 8 and width >= 8} if options.dct is None else {options.dct}
    for colour, dct in itertools.product(colours, sorted(dcts)):
        yield _transform(table, (height, width, channels), colour, dct, options.quality)


def _shape(table: Table) -> tuple[int, int, int]:
    shape = table.values.shape[1:]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or table.values.dtype.kind not in "iub":
        raise DataError(
            f"{table.source}: images are integers (n, height, width) or (n, height, width, channels), "
            f"not {table.values.dtype} {table.values.shape}"
        )
    if np.prod(shape) > lib.TD_MAX_FEATURES or shape[2] > 255:
        raise DataError(
            f"{table.source}: images of {shape[0]} x {shape[1]} x {shape[2]} have {np.prod(shape)} values; at most "
            f"{lib.TD_MAX_FEATURES} make a row. Scale them down, or cut them into tiles (tile=, --tile)"
        )
    return shape


def _transform(table: Table, shape: tuple[int, int, int], colour: bool, dct: bool, quality: int | None) -> Transformed:
    pixels = table.flat()
    low, high = int(pixels.min()), int(pixels.max())
    if low < -(2**31) or high >= 2**31:
        raise DataError(f"{table.source}: values from {low} to {high} do not fit in signed 32 bits")
    flags = colour * lib.TD_IMAGE_COLOUR | dct * lib.TD_IMAGE_DCT
    limits, steps = (0, 0), b""
    if quality is not None:
        flags |= lib.TD_IMAGE_QUANTISED
        limits = _limits(pixels.dtype, low, high)
        tables = (LUMA, CHROMA if colour else LUMA)[: min(shape[2], 2)]
        steps = b"".join(_steps(steps, quality) for steps in tables)
    section = struct.pack("<HHBBHii", *shape, flags, 0, *limits) + steps
    check(lib.td_image_check(section, len(section), pixels.shape[1]), "describing images")
    rows = np.ascontiguousarray(pixels, dtype=np.int32).copy()
    _each_row(lib.td_image_forward, section, rows)
    if quality is None:
        return Transformed(rows, section, None)
    restored = rows.copy()
    _each_row(lib.td_image_inverse, section, restored)
    return Transformed(rows, section, psnr(pixels, restored, high - low))


def _limits(dtype: np.dtype[Any], low: int, high: int) -> tuple[int, int]:
    """What a restored pixel is cut to: the range of 8-bit types, otherwise that of the values."""
    if dtype.itemsize == 1 and dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(info.min), int(info.max)
    return low, high


def _steps(table: Sequence[Sequence[int]], quality: int) -> bytes:
    """64 steps of stored coefficients, in their places, as u16."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    scaled = np.array([[table[u][v] * GAINS[u] * GAINS[v] for v in FREQUENCIES] for u in FREQUENCIES]) * percent / 100
    return np.clip(np.rint(scaled), 1, 65535).astype("<u2").tobytes()


def _each_row(transform: Any, section: bytes, rows: npt.NDArray[np.int32]) -> None:
    at, values = view(section), ffi.from_buffer("int32_t[]", rows)
    for i in range(len(rows)):
        transform(at, values + i * rows.shape[1])


def psnr(pixels: npt.NDArray[Any], restored: npt.NDArray[Any], peak: int) -> float:
    """Peak signal-to-noise ratio in dB; infinity when all are equal. `peak`: the largest difference that could be."""
    error = float(np.mean((pixels.astype(np.float64) - restored) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(max(peak, 1) ** 2 / error))


def read_images(
    folder: str | os.PathLike[str], *, tile: int | None = None, classes: Sequence[str] | None = None
) -> Table:
    """A folder with a folder of images for each class, as a Table of (n, height, width) or (n, height, width, 3).

    Images that lie in the folder itself have no classes. Grey images stay grey where all are; palettes become the
    colours that they stand for. `tile`: cut each image into squares of this side. Raises DataError for images of
    different sizes or depths, kinds that would lose something (transparency, CMYK, several pictures, colours of 16
    bits), and sides that the tile does not divide; UsageError without Pillow (extra `images`).
    """
    if tile is not None and tile < 1:
        raise UsageError(f"tiles of {tile} pixels; they have a side of at least 1")
    found = class_files(folder, SUFFIXES, classes)
    if not found.files:
        raise DataError(
            f"{folder}: no images; put a folder for each class there, with {', '.join(SUFFIXES)} files in it"
        )
    read = [(path, *_load(path)) for path, _ in found.files]
    arrays = [array for _, array, _ in read]
    first = read[0]
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
    for (path, _, depth), array in zip(read, arrays, strict=True):
        if depth != first[2]:
            raise DataError(f"{path}: pixels of {depth} bits, but {first[0].name} has {first[2]}; make all one depth")
        if tile and (array.shape[0] % tile or array.shape[1] % tile):
            raise DataError(f"{path}: tiles of {tile} do not divide {array.shape[0]} x {array.shape[1]} pixels")
        if not tile and array.shape != arrays[0].shape:
            raise DataError(
                f"{path}: {array.shape[0]} x {array.shape[1]} pixels, but {first[0].name} has {arrays[0].shape[0]} "
                f"x {arrays[0].shape[1]}; scale them to one size, or cut them into tiles (tile=, --tile)"
            )
    pieces = [_tiles(array, tile) if tile else array[None] for array in arrays]
    labels = [name for (_, name), piece in zip(found.files, pieces, strict=True) for _ in piece]
    named = (labels, found.classes) if found.classes else (None, None)
    table = table_from_arrays(np.concatenate(pieces), named[0], classes=named[1], source=str(folder))
    return replace(table, left_out=found.left_out)


def holds_images(folder: str | os.PathLike[str]) -> bool:
    """True when there are image files in a folder or in its folders."""
    return Path(folder).is_dir() and bool(class_files(folder, SUFFIXES).files)


def _load(path: Path) -> tuple[npt.NDArray[Any], int]:
    """Pixels of an image, and their bits."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("reading images needs Pillow: pip install 'tinydream[images]'") from error
    try:
        with Image.open(path) as image:
            lost = _would_lose(image)
            if not lost:
                pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
                depth = {"1": 1, "I": 32 if image.format == "TIFF" else 16}.get(image.mode, 8 * pixels.itemsize)
                return pixels.astype({1: np.uint8, 8: np.uint8, 16: np.uint16}.get(depth, np.int32)), depth
    except Exception as error:  # the bytes are not trusted, and many parsers run here
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    raise DataError(f"{path}: {lost} would lose something as grey or RGB; convert it first")


def _would_lose(image: Any) -> str:
    """What of an image has no place in its grey or RGB pixels; "" for nothing."""
    if image.mode not in ("1", "L", "P", "RGB", "I") and not image.mode.startswith("I;16"):
        return f"an image of kind {image.mode}"
    if "transparency" in image.info:
        return f"an image of kind {image.mode} with transparency"
    if getattr(image, "n_frames", 1) > 1:
        return f"a file of {image.n_frames} images"
    # Pillow has no colours of more than 8 bits and cuts them off; how it reads the file says so.
    read_as = [said for tile in image.tile for said in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    deep = any(isinstance(said, str) and ";16" in said for said in read_as)
    deep |= image.format == "PPM" and any(isinstance(said, int) and said > 255 for said in read_as)
    return "an image of 16 bits a colour" if image.mode == "RGB" and deep else ""


def _tiles(array: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Squares of an image (height, width, ...), row by row: (n, side, side, ...)."""
    height, width = array.shape[0] // side, array.shape[1] // side
    cut = array.reshape(height, side, width, side, *array.shape[2:]).swapaxes(1, 2)
    return cut.reshape(height * width, side, side, *array.shape[2:])
