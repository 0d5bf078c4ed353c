"""Text cells of a CSV: which type a column is of, and its values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from operator import not_
from typing import Any

import numpy as np
import numpy.typing as npt

from .table import Column

__all__ = ["CellType"]

# What is as good as an empty cell where the other cells are numbers or dates. In a column of texts only "" is empty.
EMPTY = frozenset(("", "NA", "N/A", "n/a", "null", "NULL", "None", "NaT"))
UNSIGNED = r"(?:0|[1-9]\d*)"  # 007 is a name
DATE = r"\d{4}-\d\d-\d\d"
CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?"
NOTHING = frozenset(("",))
PATTERNS = {
    "b1": r"true|false|True|False|TRUE|FALSE",
    "int": r"[ \t]*[+-]?(?:0|[1-9]\d{0,19})[ \t]*",  # more digits are more than 64 bits
    "f8": rf"[ \t]*[+-]?(?:(?:{UNSIGNED}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|(?i:nan|inf|infinity))[ \t]*",
    "date": DATE,
    "time": rf"{DATE}(?:[T ]{CLOCK})?",
    "utc": rf"{DATE}[T ]{CLOCK}Z",
}  # fmt: skip
VIOLATIONS = {name: re.compile(rf"^(?!(?:{pattern})$)", re.MULTILINE | re.ASCII) for name, pattern in PATTERNS.items()}
WIDER = {"empty": ("b1", "int", "f8", "date", "time", "utc", "text"), "b1": ("text",), "int": ("f8", "text"),
         "f8": ("text",), "date": ("time", "text"), "time": ("text",), "utc": ("text",), "text": ()}  # fmt: skip
FRACTION = re.compile(r":\d\d\.(\d+)")
EXACT = 2**53  # whole numbers up to here are real numbers too
NS_YEARS = (1678, 2261)  # that 64 bits of nanoseconds reach


@dataclass
class CellType:
    """The narrowest type that all cells seen so far have; `see` widens it."""

    words: bool = True  # whether words may stand for true, false, nothing and times in UTC; in labels they are names
    kind: str = "empty"
    low: int = 0
    high: int = 0
    digits: int = 0  # of the fractions of seconds
    old: bool = field(default=False)  # a time that nanoseconds do not reach

    @property
    def dtype(self) -> str:
        """As a field's type: of ints by their range, of times by their fractions."""
        if self.kind == "int":
            return "i8" if self.high < 2**63 else "u8"
        if self.kind == "date":
            return "M8[D]"
        if self.kind in ("time", "utc"):
            return f"M8[{'s' if not self.digits else ('ms', 'us', 'ns')[(self.digits - 1) // 3]}]"
        return {"empty": "f8"}.get(self.kind, self.kind)

    @property
    def _empty(self) -> frozenset[str]:
        return EMPTY if self.words else NOTHING

    def see(self, cells: list[str]) -> bool:
        """Takes cells into account; True when the type is another than before."""
        before = self.dtype, self.kind
        distinct = set(cells) - self._empty
        if distinct:
            self._widen(list(distinct))
        return before != (self.dtype, self.kind)

    def _widen(self, cells: list[str]) -> None:
        text = "\n".join(cells)
        if text.count("\n") != len(cells) - 1:
            self.kind = "text"
        for kind in (self.kind, *WIDER[self.kind]):
            if kind in ("b1", "utc") and not self.words:
                continue
            if kind == "text" or (
                kind != "empty" and not VIOLATIONS[kind].search(text) and self._takes(kind, cells, text)
            ):
                self.kind = kind
                return

    def _takes(self, kind: str, cells: list[str], text: str) -> bool:
        if kind == "int":
            numbers = list(map(int, cells))
            low, high = min(self.low, *numbers), max(self.high, *numbers)
            if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
                self.low, self.high, self.kind = low, high, "int"
                return False
            self.low, self.high = low, high
        if kind == "f8" and (self.low < -EXACT or self.high > EXACT or _any_changes(cells, text)):
            return False
        if kind in ("date", "time", "utc"):
            try:
                years = (
                    np.array(_without_zone(cells) if kind == "utc" else cells, dtype="M8[s]")
                    .astype("M8[Y]")
                    .astype(int)
                    + 1970
                )
            except ValueError:
                return False  # a thirteenth month
            digits = max((len(found) for found in FRACTION.findall(text)), default=0)
            self.old |= bool(years.min() < NS_YEARS[0] or years.max() > NS_YEARS[1])
            self.digits = max(self.digits, digits)
            return not (self.old and self.digits > 6)
        return True

    def column(self, name: str, cells: list[str]) -> Column:
        """The cells as a column of the type; those of EMPTY are missing. The type must have seen them."""
        if self.kind == "text":
            values = np.empty(len(cells), dtype=object)
            values[:] = cells
            missing = np.fromiter(map(not_, cells), dtype=bool, count=len(cells))
            return Column(name, values, missing if missing.any() else None)
        gone, empty = None, self._empty
        if not empty.isdisjoint(cells):
            gone = np.fromiter(map(empty.__contains__, cells), dtype=bool, count=len(cells))
            filler = {"b1": "false", "date": "1970-01-01", "time": "1970-01-01", "utc": "1970-01-01"}.get(
                self.kind, "0"
            )
            cells = [filler if cell in empty else cell for cell in cells]
        return Column(name, self._values(cells), gone, "UTC" if self.kind == "utc" else None)

    def _values(self, cells: list[str]) -> npt.NDArray[Any]:
        if self.kind == "b1":
            return np.fromiter(map(_TRUE.__contains__, cells), dtype=bool, count=len(cells))
        if self.kind == "int":
            return np.array(list(map(int, cells)), dtype=self.dtype)
        if self.kind in ("f8", "empty"):
            return np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        return np.array(_without_zone(cells) if self.kind == "utc" else cells, dtype=self.dtype)


def _any_changes(cells: list[str], text: str) -> bool:
    """Whether there is a cell that no real number stands for. Most are too short to ask. `text`: that of all cells."""
    long = cells if "e" in text or "E" in text else [cell for cell in cells if len(cell) > 15]
    values = np.fromiter(map(float, long), dtype=np.float64, count=len(long))
    extreme = np.flatnonzero((values == 0) | ~(np.abs(values) < EXACT)).tolist()
    return any(_changes(long[i].strip(), float(values[i])) for i in extreme)


def _changes(cell: str, value: float) -> bool:
    """Whether the real number nearest to a cell, 0 or a large one, is 0 or infinite and the cell is not, or is another
    whole number. Printed with as many digits it would be what the cell says."""
    if "n" in cell.lower() or repr(value) == cell:
        return False  # nan and inf, and what we would write
    if value == 0:
        return cell.lower().partition("e")[0].strip("+-.0") != ""
    if math.isinf(value):
        return True
    number = Decimal(cell)
    if cell.lstrip("+-").isdecimal():
        return abs(number) > EXACT
    n_digits = len(number.as_tuple().digits)
    return number not in (Decimal(repr(value)), Decimal(f"{value:.{n_digits - 1}e}"))


_TRUE = frozenset(("true", "True", "TRUE"))


def _without_zone(cells: list[str]) -> list[str]:
    return [cell.removesuffix("Z") for cell in cells]  # those that stand for empty cells have none
