"""The sections of a .tdz that say what its rows are (docs/SPEC.md, ".tdz")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._native import ffi, lib
from .pack import VALUE_TYPES

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["order_section", "part_record", "sample_starts", "schema_section"]


def schema_section(
    *, n_rows: int, n_samples: int, n_features: int, n_classes: int, n_parts: int, width: int, low: int, high: int,
    model: Model | None = None, scale: float = 1.0, image: bool = False,
) -> bytes:  # fmt: skip
    """The section of that name; `low` and `high`: the smallest and the largest value."""
    zero_point, model_hash = (model.embedding_zero_point, model.embedding_hash) if model else (0, 0)
    return b"".join((
        np.array([n_rows, n_samples], dtype="<u4").tobytes(),
        np.array([n_features, n_classes, n_parts], dtype="<u2").tobytes(),
        bytes((width, 0 if image else _value_type(low, high))),
        np.array([low], dtype="<i4").tobytes(),
        np.array([scale], dtype="<f4").tobytes(),
        np.array([zero_point], dtype="<i4").tobytes(),
        np.array([model_hash, image], dtype="<u4").tobytes(),
    ))  # fmt: skip


def _value_type(low: int, high: int) -> int:
    """The narrowest of VALUE_TYPES that holds values from `low` to `high`, by its number."""
    for number in (1, 2, 3, 4):
        limits: Any = np.iinfo(VALUE_TYPES[number])
        if limits.min <= low and high <= limits.max:
            return number
    return 0


def part_record(header: Any, offset: int, label: int) -> bytes:
    """A part's record for the parts section."""
    header.offset, header.label = offset, label
    record = ffi.new("uint8_t[]", lib.TD_PART_RECORD)
    lib.td_encode_part_record(header, record)
    return bytes(ffi.buffer(record))


def sample_starts(rows: npt.NDArray[np.int64], n_rows: int) -> bytes:
    """The samples section: the rows that begin samples, listed when they are few, else a bit a row."""
    if len(rows) < n_rows // lib.TD_LISTED_ROWS:
        return rows.astype("<u4").tobytes()
    begins = np.zeros(n_rows, dtype=bool)
    begins[rows] = True
    return np.packbits(begins, bitorder="little").tobytes()


def order_section(stored: npt.NDArray[Any]) -> dict[int, bytes]:
    """The section that says where each row is stored, when stored[i] is i-th in the file; none if that is in order."""
    n, n_bits = len(stored), (len(stored) - 1).bit_length()
    positions = np.empty(n, dtype=np.int64)
    positions[stored] = np.arange(n)
    if np.array_equal(stored, np.arange(n)):
        return {}
    bits = (positions[:, None] >> np.arange(n_bits) & 1).astype(np.uint8)
    return {lib.TD_PACK_ORDER: np.packbits(bits.ravel(), bitorder="little").tobytes()}
