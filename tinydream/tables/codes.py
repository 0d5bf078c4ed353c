"""Codes: how values of one type become integers of a pack, and come back (docs/SPEC.md, "Fields")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Code", "from_patterns", "numpy_type", "ordered", "patterns_of", "type_name"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

EXACT = 2**53  # integers up to here are f64 exactly
DECIMAL_LIMIT = 10**15  # decimals of fewer units than this come back from the real number nearest to them
MAX_DECIMAL_SCALE = 22  # powers of ten up to this are f64 exactly
MAX_SPECIAL = 16  # patterns with a code of their own: NaN, infinities, -0.0


@dataclass(frozen=True)
class Code:
    """How values of one type become integers. `special`: None (missing) or bit patterns that codes 0, 1, .. stand for.

    The rest, less the number of specials, is m. kind "plain": the value itself, a signed number of 32 bits. "number":
    (low + by * m) / over. "bits": the bit pattern whose place among the real numbers is low + m. "list": entry m of
    `entries`. "step": origin + step * m.
    """

    kind: str = "plain"
    special: tuple[int | None, ...] = ()
    low: int = 0
    by: int = 1
    over: int = 1
    origin: float = 0.0
    step: float = 1.0
    entries: tuple[Any, ...] = ()
    wide: bool = False
    error: tuple[float, float] | None = None  # of lossy codes: largest and root mean square

    @property
    def n_stored(self) -> int:
        """Integers a value takes."""
        return 2 if self.wide else 1

    @property
    def lossy(self) -> bool:
        """Whether values become the nearest ones that have a code."""
        return self.error is not None

    def encode(self, values: Array, missing: Mask | None, name: str) -> Array:
        """Values (n, k) and which are missing as stored integers (n, k * n_stored), uint32 (plain: int64)."""
        if self.kind == "plain":
            return values.astype(np.int64)
        n_special = len(self.special)
        numbers = self._numbers(values, name)
        codes = numbers if n_special == 0 else numbers + np.uint64(n_special)
        if n_special:
            patterns = None if values.dtype == object else patterns_of(values)
            for number, special in enumerate(self.special):
                if special is not None and patterns is not None:
                    codes = np.where(patterns == np.uint64(special), np.uint64(number), codes)
            if None in self.special and missing is not None:
                codes[missing] = self.special.index(None)
        if not self.wide:
            return codes.astype(np.uint32)
        pair = np.stack((codes >> np.uint64(32), codes & np.uint64(2**32 - 1)), axis=-1)
        return pair.reshape(len(codes), -1).astype(np.uint32)

    def _numbers(self, values: Array, name: str) -> npt.NDArray[np.uint64]:
        if self.kind == "list":
            return _places(values, self.entries, name)
        if self.kind == "bits":
            return ordered(patterns_of(values), values.dtype.itemsize) - np.uint64(self.low)
        if self.kind == "number" and values.dtype.kind != "f":
            return (patterns_of(values) - np.uint64(self.low % 2**64)) // np.uint64(self.by)
        with np.errstate(over="ignore", invalid="ignore"):  # a missing cell may hold what no code reaches
            return self._scaled(values, self._regular(values))

    def _scaled(self, values: Array, regular: Mask) -> npt.NDArray[np.uint64]:
        """What is too large gets a wrong number: it is missing, or the field's check finds it."""
        numbers = np.where(regular, values, 0).astype(np.float64)
        if self.kind == "step":
            steps = np.rint((numbers - self.origin) / self.step)
            return np.clip(steps, 0, 2**32 - 1 - len(self.special)).astype(np.uint64)
        if self.lossy:
            return np.maximum(np.rint((numbers * self.over - self.low) / self.by), 0).astype(np.uint64)
        scaled = np.rint(numbers * self.over).astype(np.int64)
        scaled[~regular] = self.low
        return (scaled - self.low).view(np.uint64) // np.uint64(self.by)

    def _regular(self, values: Array) -> Mask:
        regular = np.isfinite(values)
        if 1 << (8 * values.dtype.itemsize - 1) in self.special:
            regular &= ~((values == 0) & np.signbit(values))
        return regular

    def decode(self, stored: npt.NDArray[np.int32], dtype: str) -> tuple[Array, Mask | None]:
        """Values (n, k) of the type from stored integers (n, k * n_stored), and which are missing, if any can be."""
        if self.kind == "plain":
            return stored.astype(numpy_type(dtype)), None
        codes = stored.view(np.uint32).astype(np.uint64)
        if self.wide:
            codes = (codes[:, 0::2] << np.uint64(32)) | codes[:, 1::2]
        n_special = np.uint64(len(self.special))
        values = self._values(np.maximum(codes, n_special) - n_special, dtype)
        missing = None
        for number, special in enumerate(self.special):
            at = codes == np.uint64(number)
            if special is None:
                missing = at
                values[at] = "" if values.dtype == object else np.zeros(1, values.dtype)[0]
            else:
                values[at] = from_patterns(np.array([special], dtype=np.uint64), values.dtype)[0]
        return values, missing

    def _values(self, numbers: npt.NDArray[np.uint64], dtype: str) -> Array:
        kind = numpy_type(dtype)
        if self.kind == "list":
            if not self.entries:
                return np.full(numbers.shape, "" if dtype == "text" else np.zeros(1, kind)[0], dtype=kind)
            entries = np.array(self.entries, dtype=object if dtype == "text" else np.uint64)
            if dtype != "text":
                entries = from_patterns(entries, kind)
            return np.asarray(entries[np.minimum(numbers, np.uint64(len(entries) - 1)).astype(np.int64)])
        if self.kind == "bits":
            return from_patterns(_unordered(numbers + np.uint64(self.low), kind.itemsize), kind)
        whole = np.uint64(self.low % 2**64) + np.uint64(self.by % 2**64) * numbers
        if self.kind == "number" and kind.kind != "f":
            return from_patterns(whole, kind)
        with np.errstate(all="ignore"):
            if self.kind == "number":
                return np.asarray((whole.view(np.int64).astype(np.float64) / self.over).astype(kind))
            return np.asarray((self.origin + self.step * numbers.astype(np.float64)).astype(kind))

    def as_map(self) -> dict[str, Any]:
        """For the metadata: what differs from the default."""
        facts: dict[str, Any] = {"is": self.kind}
        for key, default in _CODE_DEFAULTS.items():
            value = getattr(self, key)
            if value != default:
                facts[key] = list(value) if isinstance(value, tuple) else value
        return facts

    @classmethod
    def from_map(cls, given: Any, dtype: str) -> Code:
        """The code of a map from a file, which is not trusted. Raises ValueError."""
        if not isinstance(given, dict) or given.keys() - _CODE_DEFAULTS.keys() - {"is"}:
            raise ValueError("a code has keys that are not known")
        facts = {"kind": given.get("is"), **{key: value for key, value in given.items() if key != "is"}}
        for key in ("special", "entries", "error"):
            if key in facts:
                facts[key] = tuple(facts[key]) if isinstance(facts[key], list) else None
        made = cls(**facts)
        if not made._sound(dtype):
            raise ValueError(f"the code of a {dtype} is out of range")
        return made

    def _sound(self, dtype: str) -> bool:
        text, real = dtype == "text", dtype[0] == "f"
        if self.kind not in ("plain", "number", "bits", "list", "step") or type(self.wide) is not bool:
            return False
        if self.special is None or self.entries is None:
            return False
        limits = ((self.low, -(2**63), 2**64), (self.by, 1, 2**64), (self.over, 1, EXACT))
        if not all(type(number) is int and least <= number < end for number, least, end in limits):
            return False
        if not all(type(number) is float and math.isfinite(number) for number in (self.origin, self.step)):
            return False
        patterns = [special for special in self.special if special is not None]
        if len(self.special) > MAX_SPECIAL or any(type(p) is not int or not 0 <= p < 2**64 for p in patterns):
            return False
        if self.special.count(None) > 1 or (text and (patterns or self.kind != "list")):
            return False
        if (self.kind in ("bits", "step") and not real) or (self.over != 1 and not real):
            return False
        if self.kind == "bits" and self.low < 0:
            return False
        if text:
            return all(type(entry) is str for entry in self.entries)
        return all(type(entry) is int and 0 <= entry < 2**64 for entry in self.entries)


_CODE_DEFAULTS: dict[str, Any] = {
    "special": (), "low": 0, "by": 1, "over": 1, "origin": 0.0, "step": 1.0, "entries": (), "wide": False,
    "error": None,
}  # fmt: skip


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Of the values of a field; object for texts."""
    return np.dtype(object) if dtype == "text" else np.dtype(f"<{dtype}" if dtype != "b1" else "?")


def type_name(values: Array) -> str:
    """The type of a field that holds such values."""
    if values.dtype == object:
        return "text"
    if values.dtype.kind in "Mm":
        return f"{values.dtype.kind}8[{np.datetime_data(values.dtype)[0]}]"
    return f"{values.dtype.kind}{values.dtype.itemsize}"


def patterns_of(values: Array) -> npt.NDArray[np.uint64]:
    """The bits of each value: of integers and times, sign extended to 64."""
    if values.dtype.kind in "Mm":
        return np.ascontiguousarray(values).view(np.int64).view(np.uint64)
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    return values.astype(np.uint64 if values.dtype.kind in "ub" else np.int64).view(np.uint64)


def from_patterns(patterns: Array, kind: np.dtype[Any]) -> Array:
    """The values of this type that have these bits."""
    if kind.kind in "Mm":
        return np.asarray(patterns.view(np.int64).view(kind))
    if kind.kind == "f":
        return np.asarray(patterns.astype(f"u{kind.itemsize}").view(kind))
    return np.asarray(patterns.astype(kind) if kind.kind in "ub" else patterns.view(np.int64).astype(kind))


def ordered(patterns: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    """Bit patterns of real numbers as numbers in the order of their values."""
    sign, every = np.uint64(1 << (8 * size - 1)), np.uint64(2 ** (8 * size) - 1)
    return np.where(patterns & sign, patterns ^ every, patterns | sign)


def _unordered(places: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    sign, every = np.uint64(1 << (8 * size - 1)), np.uint64(2 ** (8 * size) - 1)
    places = places & every
    return np.where(places & sign, places ^ sign, places ^ every)


def _places(values: Array, entries: tuple[Any, ...], name: str) -> npt.NDArray[np.uint64]:
    """The number of each value in its list; 0 for one that is not there and must be missing or special."""
    if values.dtype == object:
        number = {entry: i for i, entry in enumerate(entries)}
        flat = [number.get(value, 0) for value in values.ravel().tolist()]
        return np.array(flat, dtype=np.uint64).reshape(values.shape)
    if not entries:
        return np.zeros(values.shape, dtype=np.uint64)
    patterns, known = patterns_of(values), np.array(entries, dtype=np.uint64)
    order = np.argsort(known)
    found = np.minimum(np.searchsorted(known[order], patterns), len(known) - 1)
    return order[found].astype(np.uint64)
