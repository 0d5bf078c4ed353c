"""Files: atomic writes, and the section files (.tdz, .tdm) of the core."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from ._native import check, ffi, lib, view

__all__ = ["atomic_write", "write_sections"]


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`; whatever happens, the path holds the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # noqa: PTH101 - mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename too survives a power cut
    finally:
        os.close(directory)


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
