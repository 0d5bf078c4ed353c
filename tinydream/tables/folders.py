"""Folders of files by class: FOLDER/CLASS/NAME, or FOLDER/NAME without classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

__all__ = ["ClassFiles", "class_files"]


@dataclass(frozen=True)
class ClassFiles:
    """`files` with the class of each, in the order of `classes` and of their names; `others` have other suffixes.

    Without classes `classes` is empty and the class of each file is "".
    """

    files: list[tuple[Path, str]]
    classes: tuple[str, ...]
    others: list[Path]

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is said of the others."""
        return (f"other files left out: {len(self.others)}, such as {self.others[0]}",) if self.others else ()


def class_files(
    folder: str | os.PathLike[str], suffixes: Sequence[str], classes: Sequence[str] | None = None
) -> ClassFiles:
    """The files in the folders of `folder`, which are its classes, and in their folders. Hidden ones are left out.

    `classes`: only these, in this order. Raises DataError for a class without a folder, and for files beside folders
    of files, as their class is not known.
    """
    folder = Path(folder)
    names = sorted(path.name for path in _shown(folder) if path.is_dir()) if classes is None else list(classes)
    for name in names:
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: no such folder, but a class has its name")
    files: list[tuple[Path, str]] = []
    others: list[Path] = []
    for name in names:
        for path in _below(folder / name):
            if path.suffix.lower() in suffixes:
                files.append((path, name))
            else:
                others.append(path)
    beside = [path for path in _shown(folder) if path.is_file() and path.suffix.lower() in suffixes]
    if beside and (files or classes is not None):
        raise DataError(f"{beside[0]}: lies beside the folders of the classes; put it into the one that it belongs to")
    if beside:
        return ClassFiles([(path, "") for path in beside], (), others)
    return ClassFiles(files, tuple(names), others)


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _below(folder: Path) -> Iterator[Path]:
    for path in _shown(folder):
        if path.is_dir():
            yield from _below(path)
        else:
            yield path
