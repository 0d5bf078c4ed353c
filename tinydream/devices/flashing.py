"""Puts a built firmware on a real board."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import BoardError, UsageError
from .boards import Board
from .build import Firmware

__all__ = ["find_drive", "flash"]


def flash(board: Board, firmware: Firmware, drive: str | Path | None = None) -> Path:
    """Copies the .hex to the board's USB drive and returns where it went; the board then restarts by itself.

    drive: the folder where the drive is mounted; default: found by its label. What the board had stored is lost.
    Raises UsageError when the board cannot be flashed this way or the drive is not there, BoardError when the copy
    fails half way.
    """
    if board.flashing is None or firmware.hex is None:
        raise UsageError(f"{board.id} has no way to be flashed in boards/{board.id}.toml: it only runs emulated")
    folder = Path(drive) if drive is not None else find_drive(board.flashing.drive)
    if folder is None or not folder.is_dir():
        raise UsageError(
            f"the USB drive {drive or board.flashing.drive} is not mounted: plug the board in, wait until the drive "
            "shows up, or name its folder"
        )
    target = folder / f"{firmware.board}.hex"
    try:
        with firmware.hex.open("rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())  # the board takes what arrives; nothing may wait in the cache when it is unplugged
    except OSError as error:
        raise BoardError(f"copying {firmware.hex.name} to {folder} failed: {error}. Plug the board in again") from error
    return target


def find_drive(label: str) -> Path | None:
    """The folder where a drive with this label is mounted, or None."""
    return next((path for path in _mount_points(label) if path.is_dir()), None)


def _mount_points(label: str) -> Iterator[Path]:
    for root in (Path("/media"), Path("/run/media")):
        yield root / label
        yield from sorted(root.glob(f"*/{label}"))
    yield Path("/Volumes") / label
    yield Path("/mnt") / label
