"""The only importer of the compiled core: ffi, lib, and the status check that the other modules share."""

from __future__ import annotations

from typing import Any

from .errors import CoreError

try:
    from ._core import ffi, lib
except ImportError as error:  # a checkout that was never installed, or another Python's build
    raise ImportError(
        f"tinydream's compiled core is missing ({error}). Install the package with a C compiler at hand: pip install ."
    ) from error

__all__ = ["check", "ffi", "lib", "status_name", "view"]


def status_name(status: int) -> str:
    """The core's own short name of a status."""
    return str(ffi.string(lib.td_status_name(status)).decode())


def check(status: int, what: str) -> int:
    """Returns a status that is not an error; raises CoreError naming `what` otherwise."""
    if status < 0:
        raise CoreError(f"{what}: {status_name(status)} error from the core", status=status)
    return status


def view(data: Any, ctype: str = "const uint8_t[]") -> Any:
    """A C view of a bytes-like object or contiguous array, without a copy; it keeps the object alive."""
    return ffi.from_buffer(ctype, data)
