"""Series and recordings, cut into windows: arrays, and folders of .wav files by class."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, UsageError
from .folders import class_files
from .table import Column, Table, Windows, make_column, table_from_arrays, with_labels

__all__ = ["read_wave", "read_waves", "series"]

PCM, REAL, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of .wav files
ENDLESS = 0x7FFFFF00  # from here on the size of a chunk means: to the end, as writers into a pipe do not know it
Array = npt.NDArray[Any]


def series(
    runs: Sequence[npt.ArrayLike],
    labels: npt.ArrayLike | None = None,
    *,
    window: int,
    hop: int | None = None,
    classes: Sequence[str] | int | None = None,
    source: str = "series",
) -> Table:
    """Windows of long series; a pack stores what overlaps once.

    `runs`: series of shape (samples,) or (samples, channels), numbers. `labels`: one a series, of any kind. Row i of
    the table is a window (window, channels); windows start `hop` samples after each other (default: the window, so that
    none overlap), and samples behind a series' last whole window are left out. Raises DataError when a series has no
    whole window.
    """
    hop = window if hop is None else hop
    if window < 1 or hop < 1:
        raise DataError(f"{source}: windows of {window} samples every {hop}; both must be at least 1")
    arrays = [_as_run(run, source) for run in runs]
    if not arrays or len({(run.shape[1], run.dtype) for run in arrays}) != 1:
        raise DataError(f"{source}: series must have the same type and number of channels, and there must be one")
    given = None if labels is None else make_column("label", np.asarray(labels), source=source)
    if given is not None and len(given) != len(arrays):
        raise DataError(f"{source}: {len(arrays)} series but {len(given)} labels; one label a series is needed")
    counts = [(len(run) - window) // hop + 1 for run in arrays]
    if min(counts) < 1:
        short = next(run for run, count in zip(arrays, counts, strict=True) if count < 1)
        raise DataError(f"{source}: a series of {len(short)} samples has no window of {window}")
    views = [np.lib.stride_tricks.sliding_window_view(run, window, axis=0)[::hop] for run in arrays]
    values = np.concatenate([view.transpose(0, 2, 1) for view in views])
    table = table_from_arrays(values, None, source=source)
    if given is not None:
        table = with_labels(table, [Column("label", np.repeat(given.values, counts))], classes=classes)
    return Table(table.values, table.labels, table.classes, source, table.ordered, targets=table.targets,
                 windows=Windows(window, hop, tuple(counts)))  # fmt: skip


def _as_run(given: npt.ArrayLike, source: str) -> Array:
    run = np.asarray(given)
    if run.ndim not in (1, 2) or run.dtype.kind not in "biuf":
        raise DataError(f"{source}: a series is numbers of shape (samples,) or (samples, channels), not {run.dtype} "
                        f"{run.shape}")  # fmt: skip
    return run.reshape(len(run), -1)


def read_waves(
    folder: str | os.PathLike[str], *, window: int | None, hop: int | None = None,
    classes: Sequence[str] | int | None = None,
) -> Table:  # fmt: skip
    """Windows of the .wav files of a folder: FOLDER/CLASS/NAME.wav, or FOLDER/NAME.wav without classes.

    PCM of 8, 16, 24 or 32 bits, or real numbers of 32 or 64; all files of one format. `window` and `hop` in samples.
    Recordings that are shorter than a window are left out, and `left_out` of the table says so. Raises DataError;
    UsageError without a window.
    """
    folder = Path(folder)
    found = class_files(folder, (".wav",))
    if not found.files:
        raise DataError(f"{folder}: no .wav files in it or in its folders")
    if window is None or window < 1 or (hop is not None and hop < 1):
        raise UsageError(
            f"{folder}: say how many samples a window of the recordings has (window=, --window), and where windows "
            "overlap after how many the next one starts (hop=, --hop); both are at least 1"
        )
    read = [(path, name, *read_wave(path)) for path, name in found.files]
    first = read[0]
    for path, _, run, rate in read:
        if _format(run, rate) != _format(*first[2:]):
            raise DataError(f"{path}: {_format(run, rate)}, but {first[0].name} has {_format(*first[2:])}; make all "
                            "recordings one format")  # fmt: skip
    kept = [(run, name) for _, name, run, _ in read if len(run) >= window]
    short = [path for path, _, run, _ in read if len(run) < window]
    if not kept:
        raise DataError(f"{folder}: no recording has a whole window of {window} samples")
    told = (f"{len(short)} recordings shorter than a window left out, such as {short[0]}",) if short else ()
    runs, names = [run for run, _ in kept], [name for _, name in kept]
    table = series(runs, names if found.classes else None, window=window, hop=hop, classes=classes, source=str(folder))
    return replace(table, left_out=(*told, *found.left_out))


def _format(run: Array, rate: int) -> str:
    return f"{rate} Hz, {run.shape[1]} channels of {run.dtype}"


def read_wave(path: Path) -> tuple[Array, int]:
    """Samples (n, channels) of a .wav file, and its rate. Raises DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DataError(f"{path}: cannot be read as .wav: it does not begin like one")
    chunks = _chunks(path, data)
    described = chunks.get(b"fmt ", b"")
    if len(described) < 16 or b"data" not in chunks:
        raise DataError(f"{path}: cannot be read as .wav: it has no format or no samples")
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", described)
    if tag == EXTENSIBLE and len(described) >= 26:
        tag = int.from_bytes(described[24:26], "little")
    width = frame // channels if channels and frame % channels == 0 and frame // channels >= bits / 8 else 0
    types = {PCM: {1: "u1", 2: "<i2", 3: "<i4", 4: "<i4"}, REAL: {4: "<f4", 8: "<f8"}}.get(tag, {})
    if width not in types:
        raise DataError(f"{path}: samples of {bits} bits in format {tag}; PCM of 8 to 32 bits and real numbers of "
                        "32 or 64 can be read. Convert it")  # fmt: skip
    samples = np.frombuffer(chunks[b"data"][: len(chunks[b"data"]) // frame * frame], dtype=np.uint8)
    if width == 3:
        padded = np.zeros((len(samples) // 3, 4), dtype=np.uint8)
        padded[:, 1:] = samples.reshape(-1, 3)
        return (padded.view("<i4") >> 8).astype(np.int32).reshape(-1, channels), int(rate)
    values = samples.view(types[width])
    return values.astype(values.dtype.newbyteorder("=")).reshape(-1, channels), int(rate)


def _chunks(path: Path, data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each kind. Raises DataError when the file ends inside one."""
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at + 8 : at + 8 + size]
        if len(chunk) < size < ENDLESS:
            raise DataError(f"{path}: ends {size - len(chunk)} bytes too early; fetch or record it anew")
        chunks.setdefault(kind, chunk)
        at += 8 + size + size % 2
    return chunks
