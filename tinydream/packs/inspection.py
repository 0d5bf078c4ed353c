"""What is in a pack: its bit plan, and its size beside other compressors; and what is wrong with a damaged one."""

from __future__ import annotations

import lzma
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view
from ..errors import FormatError
from .pack import SECTIONS, Pack, open_pack

__all__ = ["BitPlan", "bit_plan", "coded_names", "compare", "native_rows", "plan_lines", "transform_lines", "verify"]

SAMPLE = 2**18  # rows of a part from which entropies are taken
BATCH = 2**16  # rows decoded at once
LISTED = 64  # features that the text of a plan shows


@dataclass(frozen=True)
class BitPlan:
    """Per feature and bit, each (features, width), most significant bit first.

    `entropy`: bits, mean over the parts by rows; of values as the part's plan sees them (less their minimum, or as
    numbers of a list; transforms not undone). `base`: the share of rows in whose part the bit belongs to the base;
    `key`: to the key of sorted rows as well.
    """

    entropy: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    key: npt.NDArray[np.float64]


def bit_plan(pack: Pack) -> BitPlan:
    """The plan of all parts together; entropies of at most the first 2^18 rows of each part."""
    shape = pack.n_features, int(pack.native.width)
    entropy, in_base, in_key = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    header = ffi.new("td_part_header *")
    masks = [np.zeros(shape[0], dtype=np.uint32) for _ in range(3)]
    base, key, entries = masks
    first = 0
    for part in range(int(pack.native.n_parts)):
        status = lib.td_pack_plan(pack.native, part, header, *(ffi.from_buffer("uint32_t[]", mask) for mask in masks))
        n = check(status, f"plan of part {part}") or int(header.n_rows)
        share = n / int(pack.native.n_rows)
        rows = _as_planned(
            pack.stored(slice(first, first + min(n, SAMPLE)), transformed=True), int(header.flags), entries
        )
        for at, shift in enumerate(range(shape[1] - 1, -1, -1)):
            bit = np.uint32(shift)
            entropy[:, at] += share * _entropy(np.count_nonzero(rows >> bit & 1, axis=0) / len(rows))
            in_base[:, at] += share * (base >> bit & 1)
            in_key[:, at] += share * (key >> bit & 1)
        first += n
    return BitPlan(entropy, in_base, in_key)


def _as_planned(stored: npt.NDArray[np.uint32], flags: int, entries: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    rows = stored - stored.min(axis=0) if flags & lib.TD_PART_OFFSETS else stored.copy()
    for f in np.flatnonzero(entries):
        rows[:, f] = np.unique(rows[:, f], return_inverse=True)[1].reshape(-1)
    return rows


def _entropy(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    inside = np.clip(share, 1e-300, 1 - 1e-16)
    bits = -inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside)
    return np.where((share == 0) | (share == 1), 0.0, bits)


def plan_lines(plan: BitPlan, names: tuple[str, ...]) -> list[str]:
    """The plan as text, a feature a line: who holds each bit, and its entropy in tenths."""
    shown = names[:LISTED]
    room = min(24, max(len("feature"), *map(len, shown)))
    width = plan.entropy.shape[1]
    lines = [f"{'feature':<{room}}  {'bits':<{width}}  entropy", ""]
    for f, name in enumerate(shown):
        letters = "".join(_letter(plan, f, at) for at in range(width))
        tenths = "".join("." if h == 0 else str(min(9, int(10 * h))) for h in plan.entropy[f].tolist())
        lines.append(f"{name[:room]:<{room}}  {letters}  {tenths}")
    if len(names) > LISTED:
        lines.append(f".. and {len(names) - LISTED} more features; --plot shows all")
    lines[1:2] = ["b base, k key of sorted rows, d deviation, . constant; most significant bit first"]
    return lines


def coded_names(pack: Pack) -> tuple[str, ...]:
    """The features' names, with a star where the bit plan sees them behind a transform."""
    changed = {transform.feature for transform in pack.transforms}
    return tuple(f"{name}*" if f in changed else name for f, name in enumerate(pack.names))


def transform_lines(pack: Pack) -> list[str]:
    """What each feature with transforms is stored as, a line a feature; minima and turns left out."""
    terms: dict[str, str] = {}
    for transform in pack.transforms:
        name, other = pack.names[transform.feature], pack.names[transform.other]
        share = transform.factor / 2**transform.shift
        term = f" {'-' if share > 0 else '+'} {'' if abs(share) == 1 else f'{abs(share):.4g} '}{other}"
        terms[name] = (terms.get(name, "") + term) if share else terms.get(name, "") + " in Gray code"
    return [f"{name}* is stored as {name}{term}" for name, term in terms.items()]


def _letter(plan: BitPlan, feature: int, at: int) -> str:
    if plan.entropy[feature, at] == 0:
        return "."
    if plan.base[feature, at] < 0.5:
        return "d"
    return "k" if plan.key[feature, at] >= 0.5 else "b"


def native_rows(pack: Pack) -> bytes:
    """Row by row, each stored feature in the narrowest type that holds it, then the class if there is one."""
    rows: npt.NDArray[Any] = pack.stored(slice(None)) if pack.image_shape is None else _pixels(pack)
    columns = [column.astype(np.min_scalar_type(column.max())) for column in rows.T]
    if pack.n_classes > 1:
        classes = pack.row_classes
        columns.append(classes.astype(np.min_scalar_type(classes.max())))
    return bytes(np.rec.fromarrays(columns).tobytes())


def _pixels(pack: Pack) -> npt.NDArray[np.int64]:
    """Pixels of images less their smallest: stored are their coefficients."""
    pixels = pack[:].reshape(len(pack), -1).astype(np.int64)
    return np.asarray(pixels - min(0, int(pixels.min())))


def compare(pack: Pack) -> dict[str, int | None]:
    """Bytes of the pack, and of its rows in narrow types: as they are, and through other compressors.

    None: not installed. The others keep the order of rows and cannot read one row alone.
    """
    raw = native_rows(pack)
    return {
        "pack": len(pack.data), "raw": len(raw), "zlib -9": len(zlib.compress(raw, 9)), "zstd -19": _zstd_size(raw),
        "xz -6": len(lzma.compress(raw, preset=6)),
    }  # fmt: skip


def _zstd_size(raw: bytes) -> int | None:
    try:
        import zstandard
    except ImportError:
        return None
    return len(zstandard.ZstdCompressor(level=19).compress(raw))


def verify(path: str | os.PathLike[str]) -> Pack:
    """Opens a .tdz, checks everything and reads every row. Raises FormatError that says what is wrong and where."""
    try:
        pack = open_pack(path)
    except FormatError as error:
        where = _damage(Path(path))
        raise FormatError(f"{error}{f'. Damaged: {where}' if where else ''}") from error
    for first in range(0, len(pack), BATCH):
        pack[first : first + BATCH]
    return pack


def _damage(path: Path) -> str | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < lib.TD_FILE_HEADER:
        return f"the file has {len(data)} bytes"
    size = int.from_bytes(data[8:12], "little")
    if data[:4] == b"TDZ1" and size > len(data):
        return f"the file ends after {len(data):,} of {size:,} bytes"
    kind = int(lib.td_file_damaged(lib.TD_MAGIC_PACK, view(data), len(data)))
    if kind:
        return f"section {SECTIONS.get(kind, kind)}"
    opened = ffi.new("td_file *")
    status = lib.td_file_open(opened, lib.TD_MAGIC_PACK, view(data), len(data))
    if status == lib.TD_E_VERSION:
        return None
    return "the header" if status < 0 else "what its sections say does not go together"
