"""How the integers of a pack stand for what the user gave: fields, their types, and the codes of their values.

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

from .._native import lib
from ..errors import DataError
from .code_planner import CodePlanner, Lossy
from .codes import MAX_DECIMAL_SCALE, Code, numpy_type, patterns_of, type_name
from .table import Column, Table

__all__ = ["Code", "Field", "FieldPlanner", "Losses", "Lossy", "Schema", "plan_fields", "type_name"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

NUMBER_TYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
TIME_TYPES = tuple(f"{kind}8[{unit}]" for kind in "Mm" for unit in UNITS)
ZONED_TYPES = tuple(f"M8[{unit}]" for unit in ("s", "ms", "us", "ns"))
MAX_ZONE = 255  # letters of a time zone's name
MAX_CODES = 256  # columns of an array that may have codes of their own


class Losses:
    """The largest and the root mean square error of each code, over the cells that hold a number."""

    def __init__(self, n_codes: int) -> None:
        self._n_codes = n_codes
        self._most = np.zeros(n_codes)
        self._squares = np.zeros(n_codes)  # of errors as shares of the largest, as squares of large ones overflow
        self._n = np.zeros(n_codes, dtype=np.int64)

    def add(self, change: npt.NDArray[np.float64], counted: Mask) -> None:
        """Errors (n, k), 0 where they do not count; one code has all columns, or each its own."""
        if self._n_codes == 1:
            change, counted = change.reshape(-1, 1), counted.reshape(-1, 1)
        most = np.maximum(self._most, change.max(axis=0, initial=0))
        unit = np.where(most > 0, most, 1)
        self._squares = self._squares * (self._most / unit) ** 2 + np.sum((change / unit) ** 2, axis=0)
        self._most = most
        self._n += counted.sum(axis=0)

    def errors(self) -> list[tuple[float, float]]:
        """(largest, root mean square) of each code."""
        rms = self._most * np.sqrt(self._squares / np.maximum(self._n, 1))
        return list(zip(self._most.tolist(), rms.tolist(), strict=True))


@dataclass(frozen=True)
class Field:
    """A column: `shape` of one row's values (() for one), `codes` one for all of them or one each.

    `zone`: the time zone of times, which are in UTC then. `decimal`: digits, and those after the point, of decimals.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    codes: tuple[Code, ...] = field(default_factory=lambda: (Code(),))
    label: bool = False
    zone: str | None = None
    decimal: tuple[int, int] | None = None

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
    def lossy(self) -> bool:
        """Whether values become the nearest ones that have a code."""
        return any(code.lossy for code in self.codes)

    @property
    def numpy_type(self) -> np.dtype[Any]:
        """Of its values; object for texts."""
        return numpy_type(self.dtype)

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
        lossy = np.array([code.lossy for code in self.codes])
        if all(code.kind == "plain" or code.lossy for code in self.codes):
            return
        back, _ = self.decode(stored.astype(np.uint32).view(np.int32))
        back = back.reshape(flat.shape)
        same = back == flat if flat.dtype == object else patterns_of(back) == patterns_of(flat)
        same |= lossy
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

    def measure(self, values: Array, stored: npt.NDArray[np.int32], losses: Losses) -> None:
        """Adds what lossy codes change in these values to the losses of each code."""
        if not self.lossy:
            return
        flat = values.reshape(len(values), -1).astype(np.float64)
        back, gone = self.decode(stored)
        counted = np.isfinite(flat)
        if gone is not None:
            counted &= ~gone.reshape(flat.shape)
        change = np.zeros(flat.shape)
        np.subtract(back.reshape(flat.shape), flat, out=change, where=counted)
        losses.add(np.abs(change), counted)

    def as_map(self) -> dict[str, Any]:
        """For the metadata."""
        facts: dict[str, Any] = {"name": self.name, "type": self.dtype}
        if self.shape:
            facts["shape"] = list(self.shape)
        if self.codes != (Code(),):
            facts["codes"] = [code.as_map() for code in self.codes]
        if self.label:
            facts["label"] = True
        if self.zone is not None:
            facts["zone"] = self.zone
        if self.decimal is not None:
            facts["decimal"] = list(self.decimal)
        return facts

    @classmethod
    def from_map(cls, given: Any) -> Field:
        """A field from a file, which is not trusted. Raises ValueError."""
        if not isinstance(given, dict) or given.keys() - {"name", "type", "shape", "codes", "label", "zone", "decimal"}:
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
        zone = given.get("zone")
        named = type(zone) is str and 0 < len(zone) <= MAX_ZONE
        if "zone" in given and not (named and dtype in ZONED_TYPES):
            raise ValueError(f"field {name!r} has no possible time zone")
        decimal = _decimal(given["decimal"], name, dtype) if "decimal" in given else None
        made = tuple(Code.from_map(code, dtype) for code in codes)
        if any(code.kind == "plain" for code in made) and (dtype == "text" or dtype[0] not in "biu"):
            raise ValueError(f"field {name!r} needs a code")
        return cls(name, dtype, tuple(shape), made, given.get("label", False), zone, decimal)


def _decimal(given: Any, name: str, dtype: str) -> tuple[int, int]:
    """Digits and digits after the point, from a file, which is not trusted. Raises ValueError."""
    sound = isinstance(given, list) and len(given) == 2 and all(type(number) is int for number in given)
    if not sound or dtype != "f8" or not 1 <= given[0] <= 38 or not 0 <= given[1] <= MAX_DECIMAL_SCALE:
        raise ValueError(f"field {name!r} has no possible decimals")
    return given[0], given[1]


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
        plain: bool = False, max_list: int | None = None, zone: str | None = None,
        decimal: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """As for Field; `plain`: integers of 32 bits stay as they are; `max_list`: bytes for lists of values."""
        self.name, self.dtype, self.shape, self.label, self.zone = name, dtype, shape, label, zone
        self.decimal = decimal if label or lossy is None else None  # steps are no decimals
        # Columns of real numbers have scales of their own; the values of an image or a window share theirs.
        n_codes = shape[0] if len(shape) == 1 and shape[0] <= MAX_CODES and dtype[0] == "f" else 1
        lossy = None if label else lossy
        most = 2**28 if max_list is None else max_list // n_codes
        self._codes = [CodePlanner(dtype, lossy, plain=plain, max_list=most) for _ in range(n_codes)]

    @classmethod
    def of(cls, name: str, values: Array, **options: Any) -> FieldPlanner:
        """For arrays like this one, (n, *shape)."""
        return cls(name, type_name(values), values.shape[1:], **options)

    @classmethod
    def of_column(cls, column: Column, **options: Any) -> FieldPlanner:
        """For columns like this one."""
        return cls.of(column.name, column.values, zone=column.zone, decimal=column.decimal, **options)

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
            codes = tuple(code.plan() for code in self._codes)
            return Field(self.name, self.dtype, self.shape, codes, self.label, self.zone, self.decimal)
        except DataError as error:
            raise DataError(f"column {self.name!r}: {error}") from error


def plan_fields(table: Table, lossy: Lossy | None = None) -> Schema:
    """The fields of a whole table."""
    fields = []
    if table.columns:
        for column in table.columns:
            planner = FieldPlanner.of_column(column, lossy=lossy)
            planner.see(column.values, column.missing)
            fields.append(planner.field())
    else:
        planner = FieldPlanner.of("x", table.values, lossy=lossy, plain=True)
        planner.see(table.values)
        fields.append(planner.field())
    for column in table.targets:
        planner = FieldPlanner.of_column(column, label=True)
        planner.see(column.values, column.missing)
        fields.append(planner.field())
    return fitting(Schema(tuple(fields)), table.source)


def fitting(schema: Schema, source: str) -> Schema:
    """The schema. Raises DataError when its rows take more integers than a pack's may."""
    n = schema.n_stored
    if n > lib.TD_MAX_FEATURES:
        n_wide = n - sum(item.size for item in schema.fields)
        wide = f" ({n_wide} numbers take two each; --resolution or --lossy make one of them)" if n_wide else ""
        raise DataError(
            f"{source}: {n} values a row{wide}; at most {lib.TD_MAX_FEATURES} fit. Leave columns out, take "
            "shorter windows, or pack through a model (through=, --through)"
        )
    return schema


def encode_table(schema: Schema, table: Table) -> Array:
    """The rows as the schema stores them, (n, n_stored) integers of 32 bits; rows that stay as they are, not copied.

    Raises DataError when a value would not come back.
    """
    if schema.plain and not table.columns and not table.targets:
        return table.flat()
    parts = [(column.values, column.missing) for column in table.columns] or [(table.values, None)]
    parts += [(column.values, column.missing) for column in table.targets]
    stored = [item.encode(values, missing) for item, (values, missing) in zip(schema.fields, parts, strict=True)]
    return np.concatenate([rows.astype(np.uint32).view(np.int32) for rows in stored], axis=1)


def with_errors(schema: Schema, table: Table, stored: npt.NDArray[np.int32]) -> Schema:
    """The schema with what its lossy codes change in these rows: the largest and the root mean square error of each."""
    losses, at = [], 0
    columns = [column.values for column in table.columns] or [table.values]
    for item, values in zip(schema.fields, [*columns, *(column.values for column in table.targets)], strict=True):
        losses.append(Losses(len(item.codes)))
        item.measure(values, stored[:, at : at + item.n_stored], losses[-1])
        at += item.n_stored
    return add_errors(schema, losses)


def add_errors(schema: Schema, losses: Sequence[Losses]) -> Schema:
    """The schema with the errors that Field.measure has added up."""
    fields = []
    for item, found in zip(schema.fields, losses, strict=True):
        codes = zip(item.codes, found.errors(), strict=True)
        fields.append(replace(item, codes=tuple(replace(c, error=e) if c.lossy else c for c, e in codes)))
    return Schema(tuple(fields))
