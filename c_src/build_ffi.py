"""Builds tinydream._core, the cffi (API mode) view of the C core. Used by setup.py."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
# One order of floating-point operations on host and board: no fused multiply-add, no reassociation.
FLAGS = ["-std=c99", "-O3", "-ffp-contract=off", "-fno-fast-math"]


def declarations() -> str:
    """The part of td.h that cffi can read: between the cdef marks, without directives."""
    text = (HERE / "td.h").read_text(encoding="utf-8")
    return text.split("/* cdef-begin */", 1)[1].split("/* cdef-end */", 1)[0]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "tinydream._core",
    '#include "td.h"',
    sources=[f"c_src/{path.name}" for path in sorted(HERE.glob("*.c"))],
    include_dirs=["c_src"],
    depends=[f"c_src/{path.name}" for path in sorted(HERE.glob("*.h"))],
    extra_compile_args=FLAGS,
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent), verbose=True)
