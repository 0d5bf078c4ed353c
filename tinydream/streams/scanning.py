"""The first look at a source that is packed piece by piece: its classes, and how its rows will be stored."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .._native import lib
from ..errors import DataError
from ..packs.packing import encode_images
from ..packs.part import MEASURED, SharedPlan, choose_transforms, shared_plan
from ..packs.transforms import Transform
from ..tables.images import ImageOptions, ImageTransform, decibels, possible
from ..tables.schema import Field, FieldPlanner, Losses, Lossy, Schema, add_errors, fitting, type_name
from ..tables.table import (
    MAX_CLASSES,
    ClassLabel,
    Column,
    Table,
    class_label,
    class_numbers,
    number_by_name,
    numbers_as_names,
)
from .chunks import Chunk, Source, TypesChangedError

__all__ = ["Classes", "Fields", "Found", "Pictures", "Plan", "Tell", "scan"]

Classes = Sequence[str] | int | None
Tell = Callable[[int], None]  # bytes read in this pass
Rows = npt.NDArray[np.int32]
MOST_ROWS = 2**28 - 1  # of a pack
MOST_TRIED = 2**13  # images on which transforms are compared
TRIED_BYTES = 64  # that a value of these takes
LEAST_MEASURED = 256  # rows, from fewer of which transforms would be guessed
SHARE = 4  # times the memory of a look make that of packing
MEASURED_BYTES = 128  # that a value takes of the rows on which transforms are measured


@dataclass(frozen=True)
class Found:
    """`classes`: their names; `counts`: the rows of each that has some. `targets`: labels are no classes.

    `label`: what the classes were; None without labels.
    """

    n_rows: int
    classes: tuple[str, ...]
    ordered: bool
    counts: dict[int, int]
    targets: bool
    label: ClassLabel | None = None
    by_name: bool = False  # labels are numbers that name their classes

    def numbers(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        """The class of each row. Raises DataError for one that was not there."""
        if self.targets or not chunk.labels:
            return np.zeros(len(chunk), dtype=np.int64)
        values = chunk.labels[0].values
        if values.dtype.kind in "biuf":
            return self._numbered(values)
        place = {name: i for i, name in enumerate(self.classes)}
        try:
            return np.fromiter(map(place.__getitem__, _texts(values)), dtype=np.int64, count=len(values))
        except KeyError as error:
            raise DataError(f"label {error} is none of {', '.join(self.classes[:12])}") from None

    def _numbered(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if not self.by_name:
            return values.astype(np.int64)
        try:
            return number_by_name(values, self.classes)
        except KeyError as error:
            raise DataError(f"label {error} is none of {', '.join(self.classes[:12])}") from None


class Plan(Protocol):
    """How rows are stored: as `n_stored` integers each, with values from `low` to `high`."""

    n_stored: int
    low: int
    high: int
    image: bytes  # the section that says how to undo a transform; empty without
    shared: SharedPlan | None  # of all parts

    def encode(self, chunk: Chunk) -> Rows:
        """Stored rows (n, n_stored). Raises DataError when a value would not come back."""

    def schema(self) -> Schema:
        """What readers give, and what is lost of all that was encoded."""

    def psnr(self) -> float | None:
        """Of all images that were encoded, if they come back changed."""


class Look(Protocol):
    """What a scan has to see of the rows."""

    def see(self, chunk: Chunk) -> None:
        """The next rows."""


Looking = TypeVar("Looking", bound=Look)


def scan(
    source: Source, look: Callable[[], Looking], classes: Classes, real: bool | None, tell: Tell
) -> tuple[Looking, Found]:
    """Shows all rows to what `look` makes, and finds the classes. Raises DataError for labels that are none."""
    try:
        return _scan(source, look(), classes, real, tell)
    except TypesChangedError:
        return _scan(source, look(), classes, real, tell)


def _scan(source: Source, look: Looking, classes: Classes, real: bool | None, tell: Tell) -> tuple[Looking, Found]:
    labels, n_rows, n_labels = _Labels(source.name, real), 0, 0
    for chunk in source.chunks():
        n_labels = len(chunk.labels)
        if real and any(column.values.dtype.kind not in "biuf" for column in chunk.labels):
            raise DataError(f"{source.name}: labels are texts or dates, not real numbers")
        if n_labels == 1:
            labels.see(chunk.labels[0])
        look.see(chunk)
        n_rows += len(chunk)
        tell(chunk.done)
    if n_rows == 0:
        raise DataError(f"{source.name}: rows must have at least one row and one value")
    if n_rows > MOST_ROWS:
        raise DataError(f"{source.name}: {n_rows:,} rows; a pack holds {MOST_ROWS:,}. Split them over several")
    if n_labels == 1 and not labels.real:
        names = labels.names(classes)
        by_name = labels.by_name(classes)
        seen = replace(chunk.labels[0], values=labels.distinct()) if labels.numeric else chunk.labels[0]
        ordered = classes is not None or (labels.numeric and not by_name)
        return look, Found(n_rows, names, ordered, labels.numbers(names, by_name), False,
                           class_label(seen, classes), by_name)  # fmt: skip
    if classes is not None:
        raise DataError(f"{source.name}: classes are named, but labels are none, real numbers or several")
    return look, Found(n_rows, ("0",), True, {0: n_rows}, n_labels > 0)


class _Labels:
    """What the labels of one column are: their names, or numbers up to the highest, or real numbers."""

    def __init__(self, source: str, real: bool | None) -> None:
        self._source, self._real = source, real
        self._kind = np.dtype(np.int64)
        self._counts: Counter[Any] = Counter()
        self._n_rows = 0
        self.numeric, self._fraction, self._finite = True, False, True

    def see(self, column: Column) -> None:
        """The labels of the next rows. Raises DataError when one is missing, or there are too many classes."""
        if column.any_missing and not self._real:
            row = self._n_rows + int(np.argmax(column.missing is not None and column.missing))
            raise DataError(f"{self._source}: row {row} has no label; leave out rows without one")
        self._n_rows += len(column)
        values = column.values
        self.numeric = values.dtype.kind in "biuf"
        if not self.numeric:
            self._counts.update(_texts(values))
            if len(self._counts) > MAX_CLASSES:
                raise DataError(f"{self._source}: more than {MAX_CLASSES} classes")
            return
        finite = values[np.isfinite(values)]
        self._finite &= len(finite) == len(values)
        self._kind = values.dtype
        if len(finite):
            self._fraction |= bool((finite != np.rint(finite)).any())
        if len(self._counts) <= MAX_CLASSES:  # more than that are no classes, which shows in the end
            found, counts = np.unique(finite, return_counts=True)
            self._counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    @property
    def real(self) -> bool:
        """They are real numbers: by request, or as some have fractions."""
        return (self.numeric and self._fraction and self._finite) if self._real is None else self._real

    def names(self, classes: Classes) -> tuple[str, ...]:
        """Names of the classes. Raises DataError when they are no classes."""
        if self.numeric:
            return class_numbers(self.distinct(), classes, self._source)[1]
        return class_numbers(np.array(sorted(self._counts), dtype=object), classes, self._source)[1]

    def distinct(self) -> npt.NDArray[Any]:
        """Labels that are numbers, once each; of those that are no classes one that tells why: a fraction or NaN."""
        if self._finite and not self._fraction:
            return np.array(list(self._counts), dtype=self._kind)
        return np.array([0.5 if self._finite else np.nan])

    def by_name(self, classes: Classes) -> bool:
        """Whether labels are numbers that name their classes."""
        return self.numeric and numbers_as_names(self.distinct(), classes) is not None

    def numbers(self, names: tuple[str, ...], by_name: bool) -> dict[int, int]:
        """Rows by the number of their class."""
        if self.numeric:
            own = number_by_name(self.distinct(), names) if by_name else self._counts
            return {int(number): n for number, n in zip(own, self._counts.values(), strict=True)}
        return {names.index(name): n for name, n in self._counts.items()}


def _texts(values: npt.NDArray[Any]) -> list[str]:
    texts: list[str] = values.astype(str).tolist() if values.dtype.kind in "Mm" else values.tolist()
    return texts


class _Some:
    """Every row whose number is a multiple of a power of two, so that there are no more than `most`, or 16."""

    def __init__(self, most: int) -> None:
        self.chunks: list[Chunk] = []
        self._most, self._n_rows, self._every = max(16, most), 0, 1

    def see(self, chunk: Chunk) -> None:
        """The next rows."""
        self._take(chunk.rows(np.arange(-self._n_rows % self._every, len(chunk), self._every)))
        self._n_rows += len(chunk)
        while sum(map(len, self.chunks)) > self._most:
            self._every, seen, before = 2 * self._every, 0, self.chunks
            self.chunks = []
            for part in before:
                self._take(part.rows(np.arange(seen % 2, len(part), 2)))
                seen += len(part)

    def _take(self, chunk: Chunk) -> None:
        if len(chunk):
            self.chunks.append(chunk)


class Fields:
    """Plans the fields of what it sees, and the transforms of their stored values, by some rows spread over all."""

    def __init__(self, source: Source, lossy: Lossy | None, memory: int) -> None:
        self._plain, self._lossy, self._memory = source.plain, lossy, memory
        self._source, self._n_bytes = source.name, source.n_bytes
        self._features: list[FieldPlanner] = []
        self._labels: list[FieldPlanner] = []
        self._some = _Some(0)

    def see(self, chunk: Chunk) -> None:
        """The next rows. Raises DataError when different texts take too much memory."""
        columns = (*chunk.features, *chunk.labels)
        if not self._features:
            n_values = sum(column.values[:1].size for column in columns)
            self._some = _Some(min(MEASURED, self._memory // (MEASURED_BYTES * n_values)))
            self._features = [
                self._planner(column, len(columns), lossy=self._lossy, plain=self._plain) for column in chunk.features
            ]
            self._labels = [self._planner(column, len(columns), label=True) for column in chunk.labels]
        planners = (*self._features, *self._labels)
        for planner, column in zip(planners, columns, strict=True):
            planner.see(column.values, column.missing)
        if sum(planner.text_bytes for planner in planners) > self._memory:
            raise self._too_many_texts(planners, chunk.done)
        self._some.see(chunk)

    def _planner(self, column: Column, n_columns: int, **options: Any) -> FieldPlanner:
        """Lists of numbers have a part of the memory each; texts share theirs, as most columns have few or none."""
        most = sys.maxsize if column.values.dtype == object else self._memory // n_columns
        return FieldPlanner.of_column(column, max_list=most, **options)

    def _too_many_texts(self, planners: Sequence[FieldPlanner], done: int) -> DataError:
        """As if the rest of the source had as many new texts as what was read."""
        part = min(1.0, max(1, done) / self._n_bytes)
        needed = SHARE * sum(planner.text_bytes for planner in planners) / part
        largest = max(planners, key=lambda planner: planner.text_bytes)
        return DataError(
            f"{self._source}: column {largest.name!r}: its different texts are kept in memory, and after {part:.0%} of "
            f"the rows those of all columns take more than {self._memory / 2**20:.0f} MB, their share of --max-memory "
            f"(max_memory); about {math.ceil(1.1 * needed / 2**20)} MB would do. Or leave the column out"
        )

    def transforms(self, found: Found, method: str, *, sequence: bool) -> tuple[Transform, ...]:
        """What makes the pack smaller. `sequence`: rows stay as they came."""
        if sum(map(len, self._some.chunks)) < min(found.n_rows, LEAST_MEASURED):
            return ()
        plan = self.plan(found)
        rows = np.concatenate([plan.encode(part) for part in self._some.chunks])
        labels = np.concatenate([found.numbers(part) for part in self._some.chunks])
        group = np.zeros(len(rows), dtype=np.uint32) if sequence else None
        unsigned = (rows.astype(np.int64) - plan.low).astype(np.uint32)
        width = max(1, (plan.high - plan.low).bit_length())
        return choose_transforms(unsigned, width, labels, group, method).transforms

    def plan(self, found: Found) -> Plan:
        """By what was seen."""
        planners = [*self._features, *(self._labels if found.targets else [])]
        fields = [planner.field() for planner in planners]
        ranges = [planner.stored_range(item) for planner, item in zip(planners, fields, strict=True)]
        schema = fitting(Schema(tuple(fields)), self._source)
        return _FieldPlan(schema, min(low for low, _ in ranges), max(high for _, high in ranges))


class _FieldPlan:
    image = b""
    shared: SharedPlan | None = None

    def __init__(self, schema: Schema, low: int, high: int) -> None:
        self.n_stored, self.low, self.high = schema.n_stored, low, high
        self._schema = schema
        self._losses = [Losses(len(item.codes)) for item in schema.fields]

    def encode(self, chunk: Chunk) -> Rows:
        fields = self._schema.fields
        columns = [*chunk.features, *(chunk.labels if self._schema.labels else [])]
        return np.concatenate(list(map(self._encode, fields, columns, self._losses)), axis=1)

    def _encode(self, item: Field, column: Column, losses: Losses) -> Rows:
        stored = item.encode(column.values, column.missing).astype(np.uint32).view(np.int32)
        item.measure(column.values, stored, losses)
        return stored

    def schema(self) -> Schema:
        return add_errors(self._schema, self._losses)

    def psnr(self) -> float | None:
        return None


class Pictures:
    """Looks at images: what they become under each transform; chooses one by some of them, spread over all."""

    def __init__(self, source: str, options: ImageOptions, method: str, per_class: int, memory: int) -> None:
        self._source, self._options, self._method, self._per_class = source, options, method, per_class
        self._memory = memory
        self._ways: list[ImageTransform] = []
        self._lows: list[Rows] = []  # of each way, of each stored value
        self._highs: list[int] = []
        self._low, self._high = 0, 0
        self._like: npt.NDArray[Any] = np.empty((0, 0))
        self._some = _Some(0)

    def see(self, chunk: Chunk) -> None:
        """The next images."""
        values = chunk.features[0].values
        flat = values.reshape(len(values), -1)
        low, high = int(flat.min()), int(flat.max())
        if not self._ways:
            self._low, self._high, self._like = low, high, values[:1].copy()
            self._some = _Some(min(MOST_TRIED, self._memory // (TRIED_BYTES * self._like.size)))
        self._low, self._high = min(self._low, low), max(self._high, high)
        # The limits of a quality may move from chunk to chunk; what is stored does not depend on them.
        self._ways = self._possible()
        for i, way in enumerate(self._ways):
            rows = way.forward(flat)
            low_row, highest = rows.min(axis=0), int(rows.max())
            if i == len(self._lows):
                self._lows.append(low_row)
                self._highs.append(highest)
            self._lows[i] = np.minimum(self._lows[i], low_row)
            self._highs[i] = max(self._highs[i], highest)
        self._some.see(chunk)

    def _possible(self) -> list[ImageTransform]:
        like = self._like
        return possible(self._options, like.shape[1:], like.dtype, self._low, self._high, self._source)

    def plan(self, found: Found) -> Plan:
        """By what was seen. Raises DataError for labels that are no classes."""
        if found.targets:
            raise DataError(f"{self._source}: images have classes; labels that are real numbers or several do not go")
        values = np.concatenate([part.features[0].values for part in self._some.chunks])
        labels = np.concatenate([found.numbers(part) for part in self._some.chunks])
        table = Table(values, labels, found.classes, self._source)
        chosen = 0
        if len(self._ways) > 1:
            tried = encode_images(table, None, None, self._method, self._per_class, self._options)
            flags = tried.contents()[int(lib.TD_PACK_IMAGE)][5]
            chosen = next(i for i, way in enumerate(self._ways) if way.flags == flags)
        made = _ImagePlan(self._ways[chosen], self._like, self._lows[chosen], self._highs[chosen])
        made.peak = self._high - self._low
        if not self._options.class_wise:
            made.share(values, self._method)
        return made


class _ImagePlan:
    def __init__(self, way: ImageTransform, like: npt.NDArray[Any], lows: Rows, high: int) -> None:
        self.n_stored, self.low, self.high = like.size, int(lows.min()), high
        self.image, self.peak = way.section, 0
        self.shared: SharedPlan | None = None
        self._way, self._like, self._lows = way, like, lows
        self._error, self._n_rows = 0.0, 0

    def share(self, some: npt.NDArray[Any], method: str) -> None:
        """One bit plan for all classes, by some images."""
        rows = (self._way.forward(some.reshape(len(some), -1)).astype(np.int64) - self.low).astype(np.uint32)
        offsets = (self._lows.astype(np.int64) - self.low).astype(np.uint32)
        self.shared = shared_plan(rows, max(1, (self.high - self.low).bit_length()), method, offsets)

    def encode(self, chunk: Chunk) -> Rows:
        values = chunk.features[0].values
        pixels = values.reshape(len(values), -1)
        rows = self._way.forward(pixels)
        if self._way.loses:
            self._error += float(np.sum((pixels.astype(np.float64) - self._way.inverse(rows)) ** 2))
        self._n_rows += len(rows)
        return rows

    def schema(self) -> Schema:
        return Schema((Field("x", type_name(self._like), self._like.shape[1:]),))

    def psnr(self) -> float | None:
        return decibels(self._error / (self._n_rows * self.n_stored), self.peak) if self._way.loses else None
