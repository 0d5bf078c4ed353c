"""How the integers of a pack stand for what the user gave: types and codes, chosen so that every value comes back.

A pack stores rows of unsigned integers. A *field* is a named column (or one array a row) of one type; its *codes* map
each value to one integer, or two where 32 bits are not enough, and back (docs/SPEC.md, "Fields").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .table import Table

__all__ = ["Code", "Field", "FieldPlanner", "Lossy", "Schema", "plan_fields"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

NUMBER_TYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
TIME_TYPES = tuple(f"{kind}8[{unit}]" for kind in "Mm" for unit in UNITS)
EXACT = 2**53  # integers up to here are f64 exactly
MAX_PLACES = {2: 8, 4: 10, 8: 15}  # decimal places that are tried, by the bytes of the type
MAX_SPECIAL = 16  # patterns with a code of their own: NaN, infinities, -0.0
MAX_LIST = 2**16  # entries of a list of numbers
MAX_CODES = 256  # columns of an array that may have codes of their own
PROBE = 512  # values that show soon that a type of code will not do


@dataclass(frozen=True)
class Lossy:
    """What a lossy pack may change: real numbers become multiples of `resolution`, or 2^`bits` steps of their range."""

    bits: int | None = None
    resolution: float | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.resolution is None):
            raise DataError("lossy packing takes either bits or a resolution")
        if self.bits is not None and not 1 <= self.bits <= 31:
            raise DataError(f"{self.bits} bits; lossy packing keeps 1 to 31 of a real number")
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise DataError(f"a resolution of {self.resolution}; it must be a number above 0")


# ------------------------------------------------------------------ codes


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
    error: tuple[float, float] | None = None  # of "step": largest and root mean square

    @property
    def n_stored(self) -> int:
        """Integers a value takes."""
        return 2 if self.wide else 1

    def encode(self, values: Array, missing: Mask | None, name: str) -> Array:
        """Values (n, k) and which are missing as stored integers (n, k * n_stored), uint32 (plain: int64)."""
        if self.kind == "plain":
            return values.astype(np.int64)
        n_special = len(self.special)
        numbers = self._numbers(values, name)
        codes = numbers if n_special == 0 else numbers + np.uint64(n_special)
        if n_special:
            patterns = None if values.dtype == object else _patterns(values)
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
            return _ordered(_patterns(values), values.dtype.itemsize) - np.uint64(self.low)
        if self.kind == "number" and values.dtype.kind != "f":
            return (_patterns(values) - np.uint64(self.low % 2**64)) // np.uint64(self.by)
        regular = np.where(self._regular(values), values, 0).astype(np.float64)
        if self.kind == "step":
            steps = np.rint((regular - self.origin) / self.step)
            return np.clip(steps, 0, 2**32 - 1 - len(self.special)).astype(np.uint64)
        scaled = np.rint(regular * self.over).astype(np.int64)
        scaled[~self._regular(values)] = self.low
        return (scaled - self.low).view(np.uint64) // np.uint64(self.by)

    def _regular(self, values: Array) -> Mask:
        regular = np.isfinite(values)
        if 1 << (8 * values.dtype.itemsize - 1) in self.special:
            regular &= ~((values == 0) & np.signbit(values))
        return regular

    def decode(self, stored: npt.NDArray[np.int32], dtype: str) -> tuple[Array, Mask | None]:
        """Values (n, k) of the type from stored integers (n, k * n_stored), and which are missing, if any can be."""
        if self.kind == "plain":
            return stored.astype(_numpy_type(dtype)), None
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
                values[at] = _from_patterns(np.array([special], dtype=np.uint64), values.dtype)[0]
        return values, missing

    def _values(self, numbers: npt.NDArray[np.uint64], dtype: str) -> Array:
        kind = _numpy_type(dtype)
        if self.kind == "list":
            if not self.entries:
                return np.zeros(numbers.shape, dtype=kind)
            entries = np.array(self.entries, dtype=object if dtype == "text" else np.uint64)
            if dtype != "text":
                entries = _from_patterns(entries, kind)
            return np.asarray(entries[np.minimum(numbers, np.uint64(len(entries) - 1)).astype(np.int64)])
        if self.kind == "bits":
            return _from_patterns(_unordered(numbers + np.uint64(self.low), kind.itemsize), kind)
        whole = np.uint64(self.low % 2**64) + np.uint64(self.by % 2**64) * numbers
        if self.kind == "number" and kind.kind != "f":
            return _from_patterns(whole, kind)
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


def _numpy_type(dtype: str) -> np.dtype[Any]:
    return np.dtype(object) if dtype == "text" else np.dtype(f"<{dtype}" if dtype != "b1" else "?")


def _patterns(values: Array) -> npt.NDArray[np.uint64]:
    """The bits of each value: of integers and times, sign extended to 64."""
    if values.dtype.kind in "Mm":
        return np.ascontiguousarray(values).view(np.int64).view(np.uint64)
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    return values.astype(np.uint64 if values.dtype.kind in "ub" else np.int64).view(np.uint64)


def _from_patterns(patterns: Array, kind: np.dtype[Any]) -> Array:
    if kind.kind in "Mm":
        return np.asarray(patterns.view(np.int64).view(kind))
    if kind.kind == "f":
        return np.asarray(patterns.astype(f"u{kind.itemsize}").view(kind))
    return np.asarray(patterns.astype(kind) if kind.kind in "ub" else patterns.view(np.int64).astype(kind))


def _ordered(patterns: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
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
    patterns, known = _patterns(values), np.array(entries, dtype=np.uint64)
    order = np.argsort(known)
    found = np.minimum(np.searchsorted(known[order], patterns), len(known) - 1)
    return order[found].astype(np.uint64)


# ------------------------------------------------------------------ planning


class _CodePlanner:
    """Sees the values of one field, in pieces of any size, then says by which codes they come back."""

    def __init__(self, dtype: str, lossy: Lossy | None = None, *, plain: bool = False, max_list: int = 2**28) -> None:
        """`plain`: leave integers of 32 bits as they are. `max_list`: bytes that distinct texts may take."""
        self.dtype, self.lossy, self.plain, self.max_list = dtype, lossy, plain, max_list
        self.n = 0
        self.any_missing = False
        self.special: dict[int, None] = {}
        self.low: int | None = None  # of integers, and of the places of real numbers
        self.high = 0
        self.step = 0  # common divisor of the distances to `low`
        self.texts: dict[str, None] = {}
        self.text_bytes = 0
        self.distinct: set[int] | None = set()
        self.range: tuple[float, float] | None = None
        self.scales = [_Scale(10, MAX_PLACES[int(dtype[1])]), _Scale(2, 40)] if dtype[0] == "f" else []

    def see(self, values: Array, missing: Mask | None) -> None:
        """Values of any shape."""
        self.n += values.size
        if missing is not None and missing.any():
            self.any_missing = True
            values = values[~missing]
        values = values.reshape(-1)
        if values.size == 0:
            return
        if self.dtype == "text":
            self._see_texts(values)
        elif self.dtype[0] == "f":
            self._see_reals(values)
        else:
            self._see_integers(values)

    def _see_texts(self, values: Array) -> None:
        new = dict.fromkeys(values.tolist())
        for text in new.keys() - self.texts.keys():
            self.text_bytes += len(text.encode("utf-8", "surrogatepass")) + 100  # what Python keeps beside the letters
        self.texts.update(new)
        if self.text_bytes > self.max_list:
            raise DataError(
                f"{len(self.texts):,} different texts take more than {self.max_list:,} bytes; leave the column out, or "
                "give more memory"
            )

    def _see_integers(self, values: Array) -> None:
        if values.dtype.kind in "Mm":
            nat = np.isnat(values)
            if nat.any():
                self.special[2**63] = None
                values = values[~nat]
                if values.size == 0:
                    return
            values = np.ascontiguousarray(values).view(np.int64)
        low, high = int(values.min()), int(values.max())
        if self.plain and np.can_cast(values.dtype, np.int32):
            self._widen(low, high)
            return  # stored as they are, whatever they have in common
        start = low if self.low is None else self.low
        if self.step != 1:
            distances = _patterns(values) - np.uint64(start % 2**64)
            down = values < start
            distances[down] = np.uint64(0) - distances[down]
            self.step = math.gcd(self.step, int(np.gcd.reduce(distances)))
        first = self.low is None
        self._widen(low, high)
        if self.high - (self.low or 0) < 2**32:
            return  # one integer of the pack; the core finds out whether a list is shorter
        if first or self.distinct:
            self._see_distinct(_patterns(values))
        else:
            self.distinct = None

    def _widen(self, low: int, high: int) -> None:
        self.low, self.high = (low, high) if self.low is None else (min(self.low, low), max(self.high, high))

    def _see_distinct(self, patterns: npt.NDArray[np.uint64]) -> None:
        if self.distinct is None:
            return
        if len(np.unique(patterns[:PROBE])) > 0.9 * PROBE and len(patterns) > PROBE:
            self.distinct = None  # a list would be no shorter than the values
            return
        self.distinct.update(np.unique(patterns).tolist())
        if len(self.distinct) > min(MAX_LIST, self.max_list // 100):
            self.distinct = None

    def _see_reals(self, values: Array) -> None:
        patterns = _patterns(values)
        zero = np.uint64(1 << (8 * values.dtype.itemsize - 1))
        regular = np.isfinite(values) & (patterns != zero)
        if not regular.all() and len(self.special) <= MAX_SPECIAL:
            self.special.update(dict.fromkeys(np.unique(patterns[~regular]).tolist()))
        places = _ordered(patterns, values.dtype.itemsize)
        self._widen(int(places.min()), int(places.max()))
        self._see_distinct(patterns)
        values = values[regular]
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        self.range = (low, high) if self.range is None else (min(self.range[0], low), max(self.range[1], high))
        for scale in self.scales:
            scale.see(values)

    def plan(self) -> Code:
        """The code that takes the fewest bits for what was seen."""
        code = self._choose()
        return replace(code, wide=self._bits(code) > 32)

    def _choose(self) -> Code:
        missing: tuple[int | None, ...] = (None,) if self.any_missing else ()
        if self.dtype == "text":
            return Code("list", missing, entries=tuple(sorted(self.texts)))
        special = missing + tuple(sorted(self.special))
        if self.dtype[0] == "f":
            return self._choose_real(missing, special)
        if self.low is None:
            return Code("number", special)
        in_range = self.low >= -(2**31) and self.high < 2**31
        if self.plain and in_range and not special:
            return Code()
        step = max(1, self.step)
        code = Code("number", special, low=self.low, by=step if self._saves(step) else 1)
        return min((code, *self._as_list(special)), key=self._cost) if self._bits(code) > 32 else code

    def _saves(self, step: int) -> bool:
        spread = self.high - (self.low or 0)
        return (spread // step).bit_length() < spread.bit_length()

    def _as_list(self, missing: tuple[int | None, ...]) -> list[Code]:
        """All distinct values, specials too, in the order of their values."""
        if self.distinct is None or not self.distinct:
            return []
        entries = np.array(sorted(self.distinct), dtype=np.uint64)
        kind = _numpy_type(self.dtype)
        order = _ordered(entries, kind.itemsize) if kind.kind == "f" else _from_patterns(entries, kind)
        return [Code("list", missing, entries=tuple(entries[np.argsort(order, kind="stable")].tolist()))]

    def _choose_real(self, missing: tuple[int | None, ...], special: tuple[int | None, ...]) -> Code:
        if self.lossy is not None and self.range is not None and len(special) <= MAX_SPECIAL:
            return self._lossy(special)
        if self.low is None:
            return Code("number", missing)
        choices = [Code("bits", missing, low=self.low), *self._as_list(missing)]
        if len(special) <= MAX_SPECIAL:
            choices += [Code("number", special, low=low, by=by, over=over) for low, by, over in self._scaled()]
        return min(choices, key=self._cost)

    def _scaled(self) -> list[tuple[int, int, int]]:
        if self.range is None:
            return [(0, 1, 1)]
        return [found for scale in self.scales if (found := scale.plan(*self.range))]

    def _lossy(self, special: tuple[int | None, ...]) -> Code:
        assert self.lossy is not None and self.range is not None
        low, high = self.range
        if self.lossy.bits is not None:
            n_steps = 2**self.lossy.bits - 1
            return Code("step", special, origin=low, step=(high / n_steps - low / n_steps) or 1.0)
        step = float(self.lossy.resolution or 1.0)
        n_steps = (high - low) / step
        if not n_steps < 2**32 - 1 - len(special):
            raise DataError(f"values from {low:g} to {high:g} are {n_steps:.3g} steps of {step:g}; at most 2^32 fit")
        return Code("step", special, origin=step * math.floor(low / step), step=step)

    def _bits(self, code: Code) -> int:
        """Of the largest code."""
        return 32 if code.kind == "plain" else max(1, self._most(code).bit_length())

    def _most(self, code: Code) -> int:
        """The largest code."""
        most = len(code.special)
        if code.kind == "list":
            most += max(0, len(code.entries) - 1)
        elif code.kind == "bits":
            most += self.high - code.low
        elif code.kind == "step":
            assert self.range is not None
            most += round((self.range[1] - code.origin) / code.step)
        elif self.dtype[0] == "f":
            most += (round((self.range[1] if self.range else 0.0) * code.over) - code.low) // code.by
        elif self.low is not None:
            most += (self.high - code.low) // code.by
        return most

    def stored_range(self, code: Code) -> tuple[int, int]:
        """The smallest and the largest integer that stand for what was seen, as signed numbers of 32 bits."""
        if code.kind == "plain":
            return self.low or 0, self.high
        most = self._most(code)
        return (0, most) if most < 2**31 else (-(2**31), 2**31 - 1)

    def _cost(self, code: Code) -> tuple[int, int]:
        """Bits of all that was seen and of the list; of equals the one with the smaller scale."""
        entry_bits = 8 * (_numpy_type(self.dtype).itemsize + 1)
        return self.n * self._bits(code) + len(code.entries) * entry_bits, code.over


class _Scale:
    """Real numbers as integers over a power of `base`, with as few places as give every value back."""

    def __init__(self, base: int, most: int) -> None:
        self.base, self.most = base, most
        self.places: int | None = 0
        self.first: int | None = None
        self.step = 0

    def see(self, values: Array) -> None:
        if self.places is None:
            return
        places = self._needs(values[:PROBE])
        if places is not None:
            places = self._needs(values)
        largest = float(np.abs(values).max())
        if places is None or not largest * self.base**places < EXACT:
            self.places = None
            return
        if places > self.places:
            factor = self.base ** (places - self.places)
            self.step *= factor
            self.first = None if self.first is None else self.first * factor
            self.places = places
        scaled = np.rint(values.astype(np.float64) * float(self.base**self.places)).astype(np.int64)
        self.first = int(scaled[0]) if self.first is None else self.first
        if self.step != 1:
            self.step = math.gcd(self.step, int(np.gcd.reduce(np.abs(scaled - self.first))))

    def _needs(self, values: Array) -> int | None:
        """Places that all values come back from; None when there are too many."""
        assert self.places is not None
        for places in range(self.places, self.most + 1):
            over = float(self.base**places)
            with np.errstate(all="ignore"):
                scaled = values.astype(np.float64) * over
                if not np.abs(scaled).max(initial=0) < EXACT:
                    return None
                back = (np.rint(scaled) / over).astype(values.dtype)
            values = values[back != values]
            if values.size == 0:
                return places
        return None

    def plan(self, low: float, high: float) -> tuple[int, int, int] | None:
        """(low, by, over) for values in this range; None when they would not all come back."""
        if self.places is None:
            return None
        over = self.base**self.places
        if not max(abs(low), abs(high)) * over < EXACT:
            return None
        first, last, step = round(low * over), round(high * over), max(1, self.step)
        saves = ((last - first) // step).bit_length() < (last - first).bit_length()
        return first, step if saves else 1, over


# ------------------------------------------------------------------ fields


@dataclass(frozen=True)
class Field:
    """A column: `shape` of one row's values (() for one), `codes` one for all of them or one each."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    codes: tuple[Code, ...] = field(default_factory=lambda: (Code(),))
    label: bool = False

    @property
    def size(self) -> int:
        """Values a row."""
        return math.prod(self.shape)

    @property
    def n_stored(self) -> int:
        """Integers a row takes in the pack."""
        return sum(code.n_stored for code in self.codes) * (self.size if len(self.codes) == 1 else 1)

    @property
    def nullable(self) -> bool:
        """Whether a value can be missing."""
        return any(None in code.special for code in self.codes)

    @property
    def numpy_type(self) -> np.dtype[Any]:
        """Of its values; object for texts."""
        return _numpy_type(self.dtype)

    def encode(self, values: Array, missing: Mask | None) -> Array:
        """Values (n, *shape) as stored integers (n, n_stored). Raises DataError when one would not come back."""
        flat = values.reshape(len(values), self.size)
        gone = None if missing is None else missing.reshape(flat.shape)
        if len(self.codes) == 1:
            stored = self.codes[0].encode(flat, gone, self.name)
        else:
            stored = np.concatenate([
                code.encode(flat[:, i : i + 1], None if gone is None else gone[:, i : i + 1], self.name)
                for i, code in enumerate(self.codes)
            ], axis=1)  # fmt: skip
        self._check(flat, gone, stored)
        return stored

    def _check(self, flat: Array, gone: Mask | None, stored: Array) -> None:
        """Codes are chosen to be exact; this is where a mistake would show, and not in the user's data."""
        if all(code.kind in ("plain", "step") for code in self.codes):
            return
        back, _ = self.decode(stored.astype(np.uint32).view(np.int32))
        back = back.reshape(flat.shape)
        same = back == flat if flat.dtype == object else _patterns(back) == _patterns(flat)
        if gone is not None:
            same |= gone
        if not np.all(same):
            row = int(np.argwhere(~same)[0][0])
            raise DataError(f"{self.name}: the value in row {row} is not what was there when the codes were planned")

    def decode(self, stored: npt.NDArray[np.int32]) -> tuple[Array, Mask | None]:
        """Values (n, *shape) from stored integers (n, n_stored), and which are missing if any can be."""
        if len(self.codes) == 1:
            values, missing = self.codes[0].decode(np.ascontiguousarray(stored), self.dtype)
        else:
            values = np.empty((len(stored), self.size), dtype=self.numpy_type)
            missing = np.zeros(values.shape, dtype=bool) if self.nullable else None
            at = 0
            for i, code in enumerate(self.codes):
                part = np.ascontiguousarray(stored[:, at : at + code.n_stored])
                own, gone = code.decode(part, self.dtype)
                values[:, i] = own[:, 0]
                if missing is not None and gone is not None:
                    missing[:, i] = gone[:, 0]
                at += code.n_stored
        shape = (len(stored), *self.shape)
        return values.reshape(shape), None if missing is None else missing.reshape(shape)

    def measure(self, values: Array, stored: npt.NDArray[np.int32], errors: npt.NDArray[np.float64]) -> None:
        """Adds to errors[code] = (largest, sum of squares) of what lossy codes change in these values."""
        if all(code.kind != "step" for code in self.codes):
            return
        flat = values.reshape(len(values), -1).astype(np.float64)
        back, gone = self.decode(stored)
        with np.errstate(invalid="ignore"):
            change = np.abs(back.reshape(flat.shape).astype(np.float64) - flat)
        change[~np.isfinite(flat) | (False if gone is None else gone.reshape(flat.shape))] = 0
        split = [change] if len(self.codes) == 1 else np.split(change, flat.shape[1], axis=1)
        for error, part in zip(errors, split, strict=True):
            error[0] = max(error[0], float(part.max()))
            error[1] += float(np.sum(part**2))

    def as_map(self) -> dict[str, Any]:
        """For the metadata."""
        facts: dict[str, Any] = {"name": self.name, "type": self.dtype}
        if self.shape:
            facts["shape"] = list(self.shape)
        if self.codes != (Code(),):
            facts["codes"] = [code.as_map() for code in self.codes]
        if self.label:
            facts["label"] = True
        return facts

    @classmethod
    def from_map(cls, given: Any) -> Field:
        """A field from a file, which is not trusted. Raises ValueError."""
        if not isinstance(given, dict) or given.keys() - {"name", "type", "shape", "codes", "label"}:
            raise ValueError("a field has keys that are not known")
        name, dtype, shape = given.get("name"), given.get("type"), given.get("shape", [])
        if type(name) is not str or dtype not in (*NUMBER_TYPES, *TIME_TYPES, "text"):
            raise ValueError("a field without a name or of a type that is not known")
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n <= 4096 for n in shape) or len(shape) > 8:
            raise ValueError(f"field {name!r} has no possible shape")
        codes, size = given.get("codes", [{"is": "plain"}]), math.prod(shape)
        if not isinstance(codes, list) or len(codes) not in (1, size) or size > 4096:
            raise ValueError(f"field {name!r} does not have one code, or one for each of its values")
        if type(given.get("label", False)) is not bool:
            raise ValueError(f"field {name!r} may or may not be a label")
        made = tuple(Code.from_map(code, dtype) for code in codes)
        if any(code.kind == "plain" for code in made) and (dtype == "text" or dtype[0] not in "biu"):
            raise ValueError(f"field {name!r} needs a code")
        return cls(name, dtype, tuple(shape), made, given.get("label", False))


@dataclass(frozen=True)
class Schema:
    """The fields of a row in their order; those that are labels come last."""

    fields: tuple[Field, ...]

    @classmethod
    def of_integers(cls, n_features: int) -> Schema:
        """What a pack without fields holds: integers of 32 bits."""
        return cls((Field("x", "i4", (n_features,)),))

    @property
    def n_stored(self) -> int:
        """Integers of a row in the pack."""
        return sum(item.n_stored for item in self.fields)

    @property
    def plain(self) -> bool:
        """Whether the stored integers are the values: what boards train on."""
        return all(code.kind == "plain" for item in self.fields for code in item.codes)

    @property
    def features(self) -> tuple[Field, ...]:
        """Those that are not labels."""
        return tuple(item for item in self.fields if not item.label)

    @property
    def labels(self) -> tuple[Field, ...]:
        """Those that are."""
        return tuple(item for item in self.fields if item.label)

    def decode(self, stored: npt.NDArray[np.int32], chosen: Sequence[Field]) -> list[tuple[Array, Mask | None]]:
        """Values and missing of the chosen fields from whole stored rows (n, n_stored)."""
        decoded, at = {}, 0
        for item in self.fields:
            if item in chosen:
                decoded[item.name, item.label] = item.decode(stored[:, at : at + item.n_stored])
            at += item.n_stored
        return [decoded[item.name, item.label] for item in chosen]

    def as_list(self) -> list[dict[str, Any]]:
        """For the metadata."""
        return [item.as_map() for item in self.fields]

    @classmethod
    def from_list(cls, given: Any, n_stored: int) -> Schema:
        """A schema from a file, which is not trusted, for rows of so many integers. Raises ValueError."""
        if not isinstance(given, list) or not given:
            raise ValueError("its fields are not a list")
        made = cls(tuple(Field.from_map(item) for item in given))
        names = [(item.name, item.label) for item in made.fields]
        if len(set(names)) < len(names):
            raise ValueError("two fields have the same name")
        if made.n_stored != n_stored:
            raise ValueError(f"its fields take {made.n_stored} values a row, but rows have {n_stored}")
        if not made.features or any(item.label for item in made.fields[: len(made.features)]):
            raise ValueError("its labels do not come last")
        return made


# ------------------------------------------------------------------ of tables


class FieldPlanner:
    """Sees the values of one column, or of one array a row, in pieces of any size; then makes its field."""

    def __init__(
        self, name: str, dtype: str, shape: tuple[int, ...] = (), *, label: bool = False, lossy: Lossy | None = None,
        plain: bool = False, max_list: int = 2**28,
    ) -> None:  # fmt: skip
        """As for Field; `plain`: integers of 32 bits stay as they are; `max_list`: bytes of distinct texts."""
        self.name, self.dtype, self.shape, self.label = name, dtype, shape, label
        # Columns of real numbers have scales of their own; the values of an image or a window share theirs.
        n_codes = shape[0] if len(shape) == 1 and shape[0] <= MAX_CODES and dtype[0] == "f" else 1
        lossy = None if label else lossy
        self._codes = [_CodePlanner(dtype, lossy, plain=plain, max_list=max_list) for _ in range(n_codes)]

    @classmethod
    def of(cls, name: str, values: Array, **options: Any) -> FieldPlanner:
        """For arrays like this one, (n, *shape)."""
        return cls(name, type_name(values), values.shape[1:], **options)

    def see(self, values: Array, missing: Mask | None = None) -> None:
        """Values (n, *shape). Raises DataError naming the column when there are too many texts."""
        try:
            if len(self._codes) == 1:
                self._codes[0].see(values, missing)
                return
            for i, code in enumerate(self._codes):
                code.see(values[:, i], None if missing is None else missing[:, i])
        except DataError as error:
            raise DataError(f"column {self.name!r}: {error}") from error

    @property
    def text_bytes(self) -> int:
        """What distinct texts take in memory."""
        return sum(code.text_bytes for code in self._codes)

    def stored_range(self, field: Field) -> tuple[int, int]:
        """The smallest and the largest integer that the field stores of what was seen."""
        ranges = [planner.stored_range(code) for planner, code in zip(self._codes, field.codes, strict=True)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def field(self) -> Field:
        """By what was seen. Raises DataError when a resolution is too fine for the range."""
        try:
            return Field(self.name, self.dtype, self.shape, tuple(code.plan() for code in self._codes), self.label)
        except DataError as error:
            raise DataError(f"column {self.name!r}: {error}") from error


def type_name(values: Array) -> str:
    """The type of a field that holds such values."""
    if values.dtype == object:
        return "text"
    if values.dtype.kind in "Mm":
        return f"{values.dtype.kind}8[{np.datetime_data(values.dtype)[0]}]"
    return f"{values.dtype.kind}{values.dtype.itemsize}"


def plan_fields(table: Table, lossy: Lossy | None = None) -> Schema:
    """The fields of a whole table."""
    fields = []
    if table.columns:
        for column in table.columns:
            planner = FieldPlanner.of(column.name, column.values, lossy=lossy)
            planner.see(column.values, column.missing)
            fields.append(planner.field())
    else:
        planner = FieldPlanner.of("x", table.values, lossy=lossy, plain=True)
        planner.see(table.values)
        fields.append(planner.field())
    for column in table.targets:
        planner = FieldPlanner.of(column.name, column.values, label=True)
        planner.see(column.values, column.missing)
        fields.append(planner.field())
    return Schema(tuple(fields))


def encode_table(schema: Schema, table: Table) -> npt.NDArray[np.int32]:
    """The rows as the schema stores them, (n, n_stored). Raises DataError when a value would not come back."""
    parts = [(column.values, column.missing) for column in table.columns] or [(table.values, None)]
    parts += [(column.values, column.missing) for column in table.targets]
    stored = [item.encode(values, missing) for item, (values, missing) in zip(schema.fields, parts, strict=True)]
    return np.concatenate([rows.astype(np.uint32).view(np.int32) for rows in stored], axis=1)


def with_errors(schema: Schema, table: Table, stored: npt.NDArray[np.int32]) -> Schema:
    """The schema with what its lossy codes change in these rows: the largest and the root mean square error of each."""
    errors, at = [], 0
    columns = [column.values for column in table.columns] or [table.values]
    for item, values in zip(schema.fields, [*columns, *(column.values for column in table.targets)], strict=True):
        errors.append(np.zeros((len(item.codes), 2)))
        item.measure(values, stored[:, at : at + item.n_stored], errors[-1])
        at += item.n_stored
    return add_error(schema, errors, len(table))


def add_error(schema: Schema, errors: Sequence[npt.NDArray[np.float64] | None], n_rows: int) -> Schema:
    """The schema with the errors that Field.measure has added up over `n_rows`."""
    fields = []
    for item, measured in zip(schema.fields, errors, strict=True):
        if measured is not None:
            n = n_rows * (item.size if len(item.codes) == 1 else 1)
            found = [(float(most), math.sqrt(float(total) / n)) for most, total in measured]
            codes = zip(item.codes, found, strict=True)
            item = replace(item, codes=tuple(replace(c, error=e) if c.kind == "step" else c for c, e in codes))
        fields.append(item)
    return Schema(tuple(fields))
