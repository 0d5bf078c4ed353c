"""Shared by the tests of boards: builds once, starts emulators, makes a model and packs that fit it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from models import demo_model

from tinydream import resources
from tinydream.devices import boards, build, device, link
from tinydream.models.compiler import compile_model
from tinydream.models.model import Model
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays

PATIENCE = 60.0  # a request on a busy machine


@cache
def model() -> Model:
    return compile_model(demo_model())


@cache
def windows() -> np.ndarray:
    return np.random.default_rng(5).integers(-128, 128, (160, *model().input_shape), np.int8)


@cache
def embeddings() -> np.ndarray:
    return model().embed(windows())


@cache
def packs() -> tuple[Pack, Pack]:
    """A training set of 100 rows and a replay set of 60, both embeddings of `model`."""
    labels = np.arange(160) % model().n_classes

    def pack_rows(rows: slice, per_class: int) -> Pack:
        return pack(table_from_arrays(windows()[rows], labels[rows]), through=model(), per_class=per_class)

    return pack_rows(slice(0, 100), 6), pack_rows(slice(100, 160), 2)


@cache
def firmware(board_id: str) -> build.Firmware:
    return build.build(boards.board(board_id))


def connect(url: str, **options: object) -> device.Device:
    return device.connect(url, patience=PATIENCE, **options)  # type: ignore[arg-type]


def patched(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, changes: dict[str, str]) -> None:
    """Lets builds see a copy of firmware/ in which `file` is changed."""
    real = resources.directory
    copy = folder / "firmware"
    shutil.copytree(real("firmware"), copy)
    text = (copy / file).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (copy / file).write_text(text)
    monkeypatch.setattr(resources, "directory", lambda name: copy if name == "firmware" else real(name))


def smaller(board_id: str, arena: int) -> boards.Board:
    """The same board with RAM for an arena of `arena` bytes."""
    board = boards.board(board_id)
    ram = dataclasses.replace(board.ram, size=board.reserve.statics + board.reserve.stack + arena)
    return dataclasses.replace(board, ram=ram)


class CutTransport:
    """A pipe that breaks after each number of written bytes in `cuts`, in the middle of a write."""

    def __init__(self, open_real: Callable[[], link.Transport], cuts: list[int], count: list[int]) -> None:
        self._real, self._cuts, self._count = open_real(), cuts, count

    def read(self, size: int = 1, /) -> bytes:
        return self._real.read(size)

    def write(self, data: bytes, /) -> int:
        if self._cuts and self._count[0] + len(data) > self._cuts[0]:
            part = max(0, self._cuts.pop(0) - self._count[0])
            self._real.write(data[:part])
            self._count[0] += part
            self._real.close()
            raise OSError("the cable was pulled")
        self._real.write(data)
        self._count[0] += len(data)
        return len(data)

    def close(self) -> None:
        self._real.close()


def connect_with_cuts(url: str, cuts: list[int]) -> device.Device:
    import serial

    count = [0]

    def open_transport() -> link.Transport:
        return CutTransport(lambda: serial.serial_for_url(url, timeout=0.05), cuts, count)

    board = device.Device(link.Link(open_transport, name=url, patience=PATIENCE), emulated=True)
    board.hello()
    return board
