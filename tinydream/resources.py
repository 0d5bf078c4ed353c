"""Where the C sources, the firmware and the board files are: in a checkout, or inside the installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from .errors import UsageError

PACKAGE = Path(__file__).resolve().parent


def directory(name: str) -> Path:
    """The folder `name` ("c_src", "firmware" or "boards"). Raises UsageError when it is in neither place."""
    for parent in (PACKAGE, PACKAGE.parent):
        if (parent / name).is_dir() and any((parent / name).iterdir()):
            return parent / name
    raise UsageError(
        f"TinyDream's {name}/ is missing from {PACKAGE} and {PACKAGE.parent}: the installation is incomplete. "
        "Install the package again: pip install --force-reinstall tinydream"
    )


def zcbor() -> Path:
    """The folder of zcbor's C runtime (with src/ and include/), from its PyPI package.

    The package is located without importing it: its Python part fails to import beside current cbor2 releases.
    """
    spec = importlib.util.find_spec("zcbor")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "src" / "zcbor_common.c").is_file():
            return Path(place)
    raise UsageError("the firmware needs the C runtime of the Python package zcbor: pip install zcbor==0.9.1")


def zcbor_version() -> str:
    """The installed version of zcbor."""
    return importlib.metadata.version("zcbor")
