"""Files: atomic writes, and the section files (.tdz, .tdm) of the core."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ._native import check, ffi, lib, view
from .errors import DataError, UsageError

__all__ = ["SectionStream", "atomic_stream", "atomic_write", "output_path", "scratch", "write_sections"]


def output_path(path: str | os.PathLike[str], *sources: str | os.PathLike[str] | None) -> Path:
    """Where a file of this name is written: where a link leads. Makes its folder.

    Raises UsageError for what a file must not take the place of: folders, devices, and `sources`, which it is made of.
    """
    given, path = path, Path(os.path.realpath(path))
    if path.is_dir():
        raise UsageError(f"{given} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{given} is no ordinary file; name one, as it is put in place when it is whole")
    for source in sources:
        if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise UsageError(f"{given} is what is read, and would be lost; name another file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{given}: {path.parent} is no folder; name another one") from error
    return path


@contextlib.contextmanager
def atomic_stream(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write and to seek in that takes `path`'s place when the block ends, whole and on disk.

    Whatever happens, and when the block raises, the path holds the old file or the new one. An OSError of the file
    names the path; UsageError as for `output_path`.
    """
    given, path, temporary = path, output_path(path), ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode(path))  # noqa: PTH101 - mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        if isinstance(error, OSError) and (error.filename in (None, temporary) or not temporary):
            error.filename, error.filename2 = str(given), None
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename too survives a power cut
    finally:
        os.close(directory)


def _mode(path: Path) -> int:
    """Permissions of the file, or those of a new one."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`; whatever happens, the path holds the old file or the new one, whole."""
    with atomic_stream(path) as stream:
        stream.write(data)


def scratch(beside: str | os.PathLike[str]) -> IO[bytes]:
    """A file to write and read in the folder of `beside` that goes when it is closed, or the process ends."""
    folder = Path(beside).parent
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


class SectionStream:
    """Writes a section file of `n_sections` piece by piece, in bounded memory."""

    def __init__(self, stream: IO[bytes], magic: int, n_sections: int) -> None:
        self._stream, self._magic = stream, magic
        self._sections: list[tuple[int, int, int, int]] = []  # kind, offset, size, CRC
        self._n = n_sections
        self._at = lib.TD_FILE_HEADER + lib.TD_FILE_ENTRY * n_sections
        stream.write(bytes(self._at))

    def add(self, kind: int, pieces: Iterable[bytes]) -> None:
        """The next section."""
        start, crc = self._at, 0
        for piece in pieces:
            self._stream.write(piece)
            crc = int(lib.td_crc32(crc, view(piece), len(piece)))
            self._at += len(piece)
        self._sections.append((kind, start, self._at - start, crc))
        padding = -self._at % 4
        self._stream.write(bytes(padding))
        self._at += padding

    def rewrite(self, kind: int, data: bytes) -> None:
        """Other bytes, as many as before, in a section that was added."""
        i = next(i for i, section in enumerate(self._sections) if section[0] == kind and section[2] == len(data))
        self._stream.seek(self._sections[i][1])
        self._stream.write(data)
        self._sections[i] = (*self._sections[i][:3], int(lib.td_crc32(0, view(data), len(data))))

    def finish(self) -> None:
        """Writes header and table. Raises DataError when the file is too large for the format."""
        native = ffi.new("td_section[]", self._n)
        crcs = ffi.new("uint32_t[]", self._n)
        for i, (kind, _, size, crc) in enumerate(self._sections):
            native[i].kind, native[i].size, crcs[i] = kind, min(size, 2**32 - 1), crc
        head = ffi.new("uint8_t[]", lib.TD_FILE_HEADER + lib.TD_FILE_ENTRY * self._n)
        if lib.td_file_head(self._magic, native, crcs, len(self._sections), head) == lib.TD_E_FULL:
            raise DataError(f"{self._at:,} bytes; a file of sections has at most 4 GiB. Split the rows over several")
        self._stream.seek(0)
        self._stream.write(bytes(ffi.buffer(head)))


def write_sections(magic: int, sections: dict[int, bytes]) -> bytes:
    """A section file from the bytes of its sections by kind, in their order."""
    native = ffi.new("td_section[]", len(sections))
    kept = []
    for slot, (kind, data) in zip(native, sections.items(), strict=True):
        kept.append(view(data))
        slot.kind, slot.data, slot.size = kind, kept[-1], len(data)
    size = lib.td_file_size(native, len(sections))
    out = ffi.new("uint8_t[]", size)
    check(lib.td_file_write(magic, native, len(sections), out, size), "writing a section file")
    return bytes(ffi.buffer(out))
