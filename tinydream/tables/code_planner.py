"""Which code takes the fewest bits for the values of a field, and gives every one of them back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from .codes import EXACT, MAX_SPECIAL, Code, from_patterns, numpy_type, ordered, patterns_of

__all__ = ["CodePlanner", "Lossy"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

MAX_PLACES = {2: 8, 4: 10, 8: 15}  # decimal places that are tried, by the bytes of the type
MAX_LIST = 2**16  # entries of a list of numbers
GAPS = 2**10  # places all over the numbers of 64 bits, of which one that no value is in has room for specials
GAP_SPACING = 2**64 // GAPS
GAP_AT = 0x1A9D3B71C5E6F0  # where between multiples of the spacing they begin: at no number that people choose
PROBE = 512  # values that show soon that a type of code will not do


@dataclass(frozen=True)
class Lossy:
    """What a lossy pack may change: real numbers become multiples of `resolution`, or 2^`bits` steps of their range.

    A column stays exact where that takes no more bits.
    """

    bits: int | None = None
    resolution: float | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.resolution is None):
            raise UsageError("lossy packing takes either bits or a resolution")
        if self.bits is not None and not 1 <= self.bits <= 31:
            raise UsageError(f"{self.bits} bits; lossy packing keeps 1 to 31 of a real number")
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise UsageError(f"a resolution of {self.resolution}; it must be a number above 0")


class CodePlanner:
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
        self.gaps: set[int] | None = None  # that no value is in; None: the range is too short to ask
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
            try:
                self.text_bytes += len(text.encode()) + 100  # what Python keeps beside the letters
            except UnicodeEncodeError as error:
                raise DataError(f"the text {text!r} is no Unicode ({error.reason}); mend it") from error
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
            distances = patterns_of(values) - np.uint64(start % 2**64)
            down = values < start
            distances[down] = np.uint64(0) - distances[down]
            self.step = math.gcd(self.step, int(np.gcd.reduce(distances)))
        first, before = self.low is None, (self.low or 0, self.high)
        self._widen(low, high)
        if self.high - (self.low or 0) < 2**32:
            return  # one integer of the pack; the core finds out whether a list is shorter
        if self.high - (self.low or 0) >= 2**63:
            if self.gaps is None:
                self.gaps = set(range(GAPS)) if first else _gaps_outside(*before)
            self.gaps -= _gaps_with(patterns_of(values))
        if first or self.distinct:
            self._see_distinct(patterns_of(values))
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
        patterns = patterns_of(values)
        zero = np.uint64(1 << (8 * values.dtype.itemsize - 1))
        regular = np.isfinite(values) & (patterns != zero)
        if not regular.all() and len(self.special) <= MAX_SPECIAL:
            self.special.update(dict.fromkeys(np.unique(patterns[~regular]).tolist()))
        places = ordered(patterns, values.dtype.itemsize)
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
        if self._bits(code) <= 32:
            return code
        choices = [*self._numbers(code), *self._as_list(special)]
        if not choices:
            raise DataError("its numbers are all over the 64 bits, which leaves no room for missing cells; leave "
                            "the rows of these out, or give it as text")  # fmt: skip
        return min(choices, key=self._cost)

    def _numbers(self, code: Code) -> list[Code]:
        """The code; where the largest would take more than 64 bits, one that begins behind a gap of the values.

        Codes rise from there, around the end of the numbers, up to the gap; the specials have its place.
        """
        if self._most(code) < 2**64:
            return [code]
        return [replace(code, low=gap * GAP_SPACING + GAP_AT + MAX_SPECIAL) for gap in sorted(self.gaps or ())[:1]]

    def _saves(self, step: int) -> bool:
        spread = self.high - (self.low or 0)
        return (spread // step).bit_length() < spread.bit_length()

    def _as_list(self, missing: tuple[int | None, ...]) -> list[Code]:
        """All distinct values, specials too, in the order of their values."""
        if self.distinct is None or not self.distinct:
            return []
        entries = np.array(sorted(self.distinct), dtype=np.uint64)
        kind = numpy_type(self.dtype)
        order = ordered(entries, kind.itemsize) if kind.kind == "f" else from_patterns(entries, kind)
        return [Code("list", missing, entries=tuple(entries[np.argsort(order, kind="stable")].tolist()))]

    def _choose_real(self, missing: tuple[int | None, ...], special: tuple[int | None, ...]) -> Code:
        if self.low is None:
            return Code("number", missing)
        exact = self._choose_exact(missing, special)
        if self.lossy is None or self.range is None or len(special) > MAX_SPECIAL:
            return exact
        return min(exact, self._lossy(special), key=lambda code: self._cost(code)[0])  # of equals the exact one

    def _choose_exact(self, missing: tuple[int | None, ...], special: tuple[int | None, ...]) -> Code:
        assert self.low is not None
        bits = Code("bits", missing, low=self.low)
        choices = [bits, *self._as_list(missing)] if self._most(bits) < 2**64 else self._as_list(missing)
        if len(special) <= MAX_SPECIAL:
            choices += [Code("number", special, low=low, by=by, over=over) for low, by, over in self._scaled()]
        if not choices:
            raise DataError("its NaN are the first and the last of all, which leaves no room for missing cells; make "
                            "them one kind of NaN, or mark them as missing too")  # fmt: skip
        return min(choices, key=self._cost)

    def _scaled(self) -> list[tuple[int, int, int]]:
        if self.range is None:
            return [(0, 1, 1)]
        return [found for scale in self.scales if (found := scale.plan(*self.range))]

    def _lossy(self, special: tuple[int | None, ...]) -> Code:
        assert self.lossy is not None and self.range is not None
        low, high = self.range
        if not math.isfinite(high - low):
            raise DataError(f"values from {low:g} to {high:g} are too far apart for steps of any size; divide them "
                            "by 2 before, or pack without loss")  # fmt: skip
        if self.lossy.bits is not None:
            return Code("step", special, origin=low, step=_step(low, high, self.lossy.bits), error=(0.0, 0.0))
        return self._multiples(low, high, float(self.lossy.resolution or 1.0), special)

    def _multiples(self, low: float, high: float, step: float, special: tuple[int | None, ...]) -> Code:
        n_steps = (high - low) / step
        if not n_steps < 2**32 - 1 - len(special):
            raise DataError(f"values from {low:g} to {high:g} are {n_steps:.3g} steps of {step:g}; at most 2^32 fit")
        if not math.isfinite(low / step):
            raise DataError(f"values from {low:g} to {high:g} are no multiples of {step:g} that can be counted; take "
                            "larger steps")  # fmt: skip
        first = math.floor(low / step)
        origin = step * first
        with np.errstate(over="ignore"):
            ends = np.array([origin, origin + step * np.rint((high - origin) / step)]).astype(numpy_type(self.dtype))
        if not np.isfinite(ends).all():
            raise DataError(f"values from {low:g} to {high:g} in steps of {step:g} go beyond what {self.dtype} holds; "
                            "take smaller steps")  # fmt: skip
        ratio = Fraction(repr(step))
        by, over = ratio.numerator, ratio.denominator
        if max(over, by * (max(abs(first), abs(first + n_steps)) + 2)) < EXACT:  # the real numbers nearest to multiples
            return Code("number", special, low=by * first, by=by, over=over, error=(0.0, 0.0))
        return Code("step", special, origin=origin, step=step, error=(0.0, 0.0))

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
            last = (self.range[1] if self.range else 0.0) * code.over
            most += round((last - code.low) / code.by) if code.lossy else (round(last) - code.low) // code.by
        elif self.low is not None:
            most += (self.high - self.low) // code.by
        return most

    def stored_range(self, code: Code) -> tuple[int, int]:
        """The smallest and the largest integer that stand for what was seen, as signed numbers of 32 bits."""
        if code.kind == "plain":
            return self.low or 0, self.high
        most = self._most(code)
        return (0, most) if most < 2**31 else (-(2**31), 2**31 - 1)

    def _cost(self, code: Code) -> tuple[int, int]:
        """Bits of all that was seen and of the list; of equals the one with the smaller scale."""
        entry_bits = 8 * (numpy_type(self.dtype).itemsize + 1)
        return self.n * self._bits(code) + len(code.entries) * entry_bits, code.over


def _step(low: float, high: float, bits: int) -> float:
    """Of which 2^bits - 1 cross the range, and do not round to an infinity at the end of the largest ones."""
    n_steps = 2**bits - 1
    step = (high / n_steps - low / n_steps) or 1.0
    while not math.isfinite(low + step * n_steps):
        step = math.nextafter(step, 0.0)
    return step


def _gaps_outside(low: int, high: int) -> set[int]:
    """Those in which no number from low to high is."""
    ends = {gap: gap * GAP_SPACING + GAP_AT + MAX_SPECIAL - 1 for gap in range(GAPS)}
    return {gap for gap, end in ends.items() if (end - low) % 2**64 > high - low + MAX_SPECIAL - 1}


def _gaps_with(patterns: npt.NDArray[np.uint64]) -> set[int]:
    """Those in which one of these numbers is."""
    inside = (patterns & np.uint64(GAP_SPACING - 1)) - np.uint64(GAP_AT) < np.uint64(MAX_SPECIAL)
    return set((patterns[inside] // np.uint64(GAP_SPACING)).tolist())


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
