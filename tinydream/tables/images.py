"""Images as rows: folders of them, and the transforms under which they pack smaller (docs/SPEC.md, "Image")."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view
from ..errors import DataError, UsageError
from .folders import class_files
from .table import Table, table_from_arrays

__all__ = [
    "ImageFolder", "ImageOptions", "ImageTransform", "Transformed", "decibels", "holds_images", "image_bytes",
    "possible", "psnr", "read_images", "transforms",
]  # fmt: skip

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LOOKED_AT = 32  # files whose sizes stand for those of a folder
Taken = TypeVar("Taken")
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


@dataclass(frozen=True)
class ImageTransform:
    """One way to store images; `section` says how to undo it."""

    section: bytes

    @property
    def flags(self) -> int:
        """Which steps it has."""
        return self.section[5]

    @property
    def loses(self) -> bool:
        """Whether pixels come back changed."""
        return bool(self.flags & lib.TD_IMAGE_QUANTISED)

    def forward(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Pixels (n, values an image) as they are stored."""
        rows = np.ascontiguousarray(pixels, dtype=np.int32).copy()
        _each_row(lib.td_image_forward, self.section, rows)
        return rows

    def inverse(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Stored rows as the pixels that a reader gives."""
        pixels = rows.copy()
        _each_row(lib.td_image_inverse, self.section, pixels)
        return pixels


def possible(
    options: ImageOptions, shape: tuple[int, ...], dtype: np.dtype[Any], low: int, high: int, source: str
) -> list[ImageTransform]:  # fmt: skip
    """The transforms that the options allow for images of this shape and type, with values from `low` to `high`.

    Shapes are (height, width) or (height, width, channels). Raises DataError when these are no images, UsageError for
    options that cannot be had.
    """
    height, width, channels = _three(shape, dtype, source)
    if low < -(2**31) or high >= 2**31:
        raise DataError(f"{source}: values from {low} to {high} do not fit in signed 32 bits")
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UsageError(f"a quality of {options.quality}; it goes from 1 to 100")
    if options.quality is not None and options.dct is False:
        raise UsageError("a quality is one of DCT coefficients; leave either out")
    if options.colour and channels != 3:
        raise UsageError(f"{source}: images of {channels} channels have no colour transform; it takes 3")
    colours = (bool(options.colour),) if options.colour is not None or channels != 3 else (False, True)
    if options.quality is not None:
        dcts = {True}
    else:
        dcts = {False, height >= 8 and width >= 8} if options.dct is None else {options.dct}
    limits = _limits(dtype, low, high)
    return [
        _transform((height, width, channels), colour, dct, options.quality, limits)
        for colour, dct in itertools.product(colours, sorted(dcts))
    ]


def transforms(table: Table, options: ImageOptions) -> Iterator[Transformed]:
    """The table's images under each transform that the options allow.

    Values are (n, height, width) or (n, height, width, channels) integers. Raises DataError when they are not,
    UsageError for options that cannot be had.
    """
    _three(table.values.shape[1:], table.values.dtype, table.source)
    pixels = table.flat()
    low, high = int(pixels.min()), int(pixels.max())
    for way in possible(options, table.values.shape[1:], pixels.dtype, low, high, table.source):
        rows = way.forward(pixels)
        yield Transformed(rows, way.section, psnr(pixels, way.inverse(rows), high - low) if way.loses else None)


def _three(shape: tuple[int, ...], dtype: np.dtype[Any], source: str) -> tuple[int, int, int]:
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or dtype.kind not in "iub":
        raise DataError(
            f"{source}: images are integers (n, height, width) or (n, height, width, channels), "
            f"not {dtype} {('n', *shape)}"
        )
    if np.prod(shape) > lib.TD_MAX_FEATURES or shape[2] > 255:
        raise DataError(
            f"{source}: images of {shape[0]} x {shape[1]} x {shape[2]} have {np.prod(shape)} values; at most "
            f"{lib.TD_MAX_FEATURES} make a row. Scale them down, or cut them into tiles (tile=, --tile)"
        )
    return shape


def _transform(
    shape: tuple[int, int, int], colour: bool, dct: bool, quality: int | None, limits: tuple[int, int]
) -> ImageTransform:
    flags = colour * lib.TD_IMAGE_COLOUR | dct * lib.TD_IMAGE_DCT
    steps = b""
    if quality is not None:
        flags |= lib.TD_IMAGE_QUANTISED
        tables = (LUMA, CHROMA if colour else LUMA)[: min(shape[2], 2)]
        steps = b"".join(_steps(steps, quality) for steps in tables)
    section = struct.pack("<HHBBHii", *shape, flags, 0, *(limits if quality is not None else (0, 0))) + steps
    check(lib.td_image_check(section, len(section), shape[0] * shape[1] * shape[2]), "describing images")
    return ImageTransform(section)


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
    return decibels(float(np.mean((pixels.astype(np.float64) - restored) ** 2)), peak)


def decibels(error: float, peak: int) -> float:
    """The PSNR of a mean square error."""
    return float("inf") if error == 0 else float(10 * np.log10(max(peak, 1) ** 2 / error))


class ImageFolder:
    """A folder of images by class, of which only sizes and kinds are known until they are read.

    `classes`: none when images lie in the folder itself. `shape` and `dtype`: of the rows, of which there are `n_rows`.
    `largest`: bytes of the pixels of one file. `left_out`: what of the folder is no image, for people.
    """

    def __init__(
        self, folder: str | os.PathLike[str], tile: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        """As for `read_images`."""
        if tile is not None and tile < 1:
            raise UsageError(f"tiles of {tile} pixels; they have a side of at least 1")
        found = class_files(folder, SUFFIXES, classes)
        if not found.files:
            raise DataError(
                f"{folder}: no images; put a folder for each class there, with {', '.join(SUFFIXES)} files in it"
            )
        self.source, self.classes, self.left_out = str(folder), found.classes, found.left_out
        self._files, self._tile = found.files, tile
        sizes = [_image(path, _size) for path, _ in self._files]
        first, name = sizes[0], self._files[0][0].name
        for (path, _), size in zip(self._files, sizes, strict=True):
            if size.depth != first.depth:
                raise DataError(
                    f"{path}: pixels of {size.depth} bits, but {name} has {first.depth}; make all one depth"
                )
            if tile and (size.height % tile or size.width % tile):
                raise DataError(f"{path}: tiles of {tile} do not divide {size.height} x {size.width} pixels")
            if not tile and (size.height, size.width) != (first.height, first.width):
                raise DataError(
                    f"{path}: {size.height} x {size.width} pixels, but {name} has {first.height} x {first.width}; "
                    "scale them to one size, or cut them into tiles (tile=, --tile)"
                )
        self.colour = any(size.colour for size in sizes)
        self.dtype = _pixel_type(first.depth)
        self.shape = ((tile, tile) if tile else (first.height, first.width)) + (3,) * self.colour
        areas = [size.height * size.width for size in sizes]
        self.n_rows = sum(areas) // (self.shape[0] * self.shape[1])
        self.largest = max(areas) * (3 if self.colour else 1) * self.dtype.itemsize

    def read(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The class and the rows (n, *shape) of each file."""
        for path, name in self._files:
            pixels = _image(path, _pixels)
            if self.colour and pixels.ndim == 2:
                pixels = np.repeat(pixels[..., None], 3, axis=2)
            yield name, _tiles(pixels, self._tile) if self._tile else pixels[None]


def read_images(
    folder: str | os.PathLike[str], *, tile: int | None = None, classes: Sequence[str] | None = None
) -> Table:
    """A folder with a folder of images for each class, as a Table of (n, height, width) or (n, height, width, 3).

    Images that lie in the folder itself have no classes. Grey images stay grey where all are; palettes become the
    colours that they stand for. `tile`: cut each image into squares of this side. Raises DataError for images of
    different sizes or depths, kinds that would lose something (transparency, CMYK, several pictures, colours of 16
    bits), and sides that the tile does not divide; UsageError without Pillow (extra `images`).
    """
    found = ImageFolder(folder, tile, classes)
    read = list(found.read())
    labels = [name for name, rows in read for _ in rows]
    named = (labels, found.classes) if found.classes else (None, None)
    rows = np.concatenate([rows for _, rows in read])
    return replace(table_from_arrays(rows, named[0], classes=named[1], source=found.source), left_out=found.left_out)


def image_bytes(folder: str | os.PathLike[str]) -> int:
    """What the pixels of a folder of images take, about: by the sizes of some."""
    paths = [path for path, _ in class_files(folder, SUFFIXES).files]
    looked = [_image(path, _size) for path in paths[:: len(paths) // LOOKED_AT + 1]]
    sizes = [size.height * size.width * (3 if size.colour else 1) * _pixel_type(size.depth).itemsize for size in looked]
    return sum(sizes) * len(paths) // len(looked)


def holds_images(folder: str | os.PathLike[str]) -> bool:
    """True when there are image files in a folder or in its folders."""
    return Path(folder).is_dir() and bool(class_files(folder, SUFFIXES).files)


class _Size(NamedTuple):
    height: int
    width: int
    colour: bool
    depth: int  # bits of a pixel, or of each of its colours


def _size(image: Any) -> _Size:
    """Of an image, whose pixels are not read."""
    depth = (
        16 if image.mode.startswith("I;16") else {"1": 1, "I": 32 if image.format == "TIFF" else 16}.get(image.mode, 8)
    )
    return _Size(image.height, image.width, image.mode in ("RGB", "P"), depth)


def _pixel_type(depth: int) -> np.dtype[Any]:
    return np.dtype({1: np.uint8, 8: np.uint8, 16: np.uint16}.get(depth, np.int32))


def _pixels(image: Any) -> npt.NDArray[Any]:
    """(height, width), or (height, width, 3) of colours."""
    kind = _pixel_type(_size(image).depth)
    return np.asarray(image.convert("RGB") if image.mode == "P" else image).astype(kind)


def _image(path: Path, take: Callable[[Any], Taken]) -> Taken:
    """What `take` takes of the opened image. Raises DataError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("reading images needs Pillow: pip install 'tinydream[images]'") from error
    try:
        with Image.open(path) as image:
            lost = _would_lose(image)
            if not lost:
                return take(image)
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
