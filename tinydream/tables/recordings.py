"""Series and recordings, cut into windows: arrays, and folders of .wav files by class."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from .folders import class_files
from .table import Column, Table, Windows, make_column, table_from_arrays, with_labels

__all__ = ["Recordings", "read_waves", "series"]

PCM, REAL, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of .wav files
ENDLESS = 0x7FFFFF00  # from here on the size of a chunk means: to the end, as writers into a pipe do not know it
MOST_DESCRIBED = 64  # bytes of a description that are looked at
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
    found = Recordings(folder, window, hop)
    runs = [found.read(run) for run in range(len(found))]
    table = series(runs, found.names if found.classes else None, window=found.window, hop=hop, classes=classes,
                   source=found.source)  # fmt: skip
    return replace(table, left_out=found.left_out)


class Recordings:
    """The .wav files of a folder that have a whole window; only lengths and format are known until they are read.

    `names`: the class of each, of `classes`; without any the classes are none. `lengths`: samples of each. `left_out`:
    what of the folder is not among them, for people.
    """

    def __init__(self, folder: str | os.PathLike[str], window: int | None, hop: int | None) -> None:
        """As for `read_waves`."""
        found = class_files(folder, (".wav",))
        if not found.files:
            raise DataError(f"{folder}: no .wav files in it or in its folders")
        if window is None or window < 1 or (hop is not None and hop < 1):
            raise UsageError(
                f"{folder}: say how many samples a window of the recordings has (window=, --window), and where windows "
                "overlap after how many the next one starts (hop=, --hop); both are at least 1"
            )
        sounds = [(_look(path), name) for path, name in found.files]
        first = sounds[0][0]
        for sound, _ in sounds:
            if sound.format != first.format:
                raise DataError(f"{sound.path}: {sound.format}, but {first.path.name} has {first.format}; make all "
                                "recordings one format")  # fmt: skip
        kept = [(sound, name) for sound, name in sounds if sound.n >= window]
        short = [sound.path for sound, _ in sounds if sound.n < window]
        if not kept:
            raise DataError(f"{folder}: no recording has a whole window of {window} samples")
        told = (f"recordings shorter than a window left out: {len(short)}, such as {short[0]}",) if short else ()
        self.source, self.window, self.left_out = str(folder), window, (*told, *found.left_out)
        self._sounds, self.names, self.classes = [sound for sound, _ in kept], [name for _, name in kept], found.classes
        self.lengths = [sound.n for sound in self._sounds]
        self.sample_bytes = first.frame

    def __len__(self) -> int:
        return len(self._sounds)

    def read(self, run: int, first: int = 0, n: int | None = None) -> Array:
        """Samples (n, channels) of a recording, from `first` on. Raises DataError when they are not there any more."""
        sound = self._sounds[run]
        return _read(sound, first, sound.n - first if n is None else n)


@dataclass(frozen=True)
class _Sound:
    """A file: its `n` samples of `frame` bytes are at `offset`."""

    path: Path
    rate: int
    channels: int
    kind: str  # of the samples, as NumPy has it; "<i3" of 24 bits
    frame: int
    offset: int
    n: int

    @property
    def format(self) -> str:
        return f"{self.rate} Hz, {self.channels} channels of {np.dtype(self.kind.replace('3', '4'))}"


def _look(path: Path) -> _Sound:
    """Where the samples of a .wav file are, and what. Raises DataError."""
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
            if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
                raise DataError(f"{path}: cannot be read as .wav: it does not begin like one")
            described, at, size = _chunks(path, stream)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", described)
    if tag == EXTENSIBLE and len(described) >= 26:
        tag = int.from_bytes(described[24:26], "little")
    width = frame // channels if channels and frame % channels == 0 and frame // channels >= bits / 8 else 0
    types = {PCM: {1: "u1", 2: "<i2", 3: "<i3", 4: "<i4"}, REAL: {4: "<f4", 8: "<f8"}}.get(tag, {})
    if width not in types:
        raise DataError(f"{path}: samples of {bits} bits in format {tag}; PCM of 8 to 32 bits and real numbers of "
                        "32 or 64 can be read. Convert it")  # fmt: skip
    return _Sound(path, int(rate), channels, types[width], frame, at, size // frame)


def _chunks(path: Path, stream: IO[bytes]) -> tuple[bytes, int, int]:
    """The first description; where the first samples are, and their bytes. DataError when a chunk is cut short."""
    described, found = b"", (0, -1)
    end, at = stream.seek(0, os.SEEK_END), 12
    while at + 8 <= end:
        stream.seek(at)
        head = stream.read(8)
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        there = min(size, end - at - 8)
        if there < size < ENDLESS:
            raise DataError(f"{path}: ends {size - there} bytes too early; fetch or record it anew")
        if kind == b"fmt " and not described:
            described = stream.read(min(there, MOST_DESCRIBED))
        if kind == b"data" and found[1] < 0:
            found = at + 8, there
        at += 8 + size + size % 2
    if len(described) < 16 or found[1] < 0:
        raise DataError(f"{path}: cannot be read as .wav: it has no format or no samples")
    return described, *found


def _read(sound: _Sound, first: int, n: int) -> Array:
    try:
        with sound.path.open("rb") as stream:
            stream.seek(sound.offset + first * sound.frame)
            data = stream.read(n * sound.frame)
    except OSError as error:
        raise DataError(f"{sound.path}: cannot be read: {error.strerror}") from error
    if len(data) < n * sound.frame:
        raise DataError(f"{sound.path}: ends before sample {first + n}; the file changed meanwhile")
    if sound.kind == "<i3":
        padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        padded[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return (padded.view("<i4") >> 8).astype(np.int32).reshape(-1, sound.channels)
    values = np.frombuffer(data, dtype=sound.kind)
    return values.astype(values.dtype.newbyteorder("=")).reshape(-1, sound.channels)
