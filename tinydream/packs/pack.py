"""Packs: training sets compressed by EntroGeDe, read row by row and sample by sample without unpacking."""

from __future__ import annotations

import io
import mmap
import operator
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import cbor2
import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, status_name, view
from ..errors import DataError, FormatError, UsageError
from ..files import atomic_write
from ..tables.schema import NUMBER_TYPES, TIME_TYPES, Field, Schema
from ..tables.table import ClassLabel, Column
from ..tables.windows import Cut
from .reduction import WeightedSamples
from .transforms import Transform, read_transforms

__all__ = ["Pack", "open_pack"]

Index = int | slice | npt.ArrayLike
PROFILES = ("mcu", "archive")
BATCH = 4096  # rows that iteration decodes at once
SECTIONS = {lib.TD_PACK_SCHEMA: "schema", lib.TD_PACK_PARTS: "parts", lib.TD_PACK_DATA: "data",
            lib.TD_PACK_SAMPLES: "samples", lib.TD_PACK_WEIGHTS: "weights", lib.TD_PACK_META: "meta",
            lib.TD_PACK_ORDER: "order", lib.TD_PACK_IMAGE: "image",
            lib.TD_PACK_TRANSFORMS: "transforms"}  # fmt: skip
VALUE_TYPES = (np.dtype("i4"), np.dtype("i1"), np.dtype("u1"), np.dtype("i2"), np.dtype("u2"))  # enum td_value_type
MOST_PREPARED = 2**24  # bytes of tables for reading, shared by the parts of a pack
MAPPED = 2**26  # bytes of a file from which on it is not read into memory


class Pack:
    """A .tdz in memory. `p[i]`, `p[a:b]`, `p[mask]`, `p[numbers]` decode rows; `condensed` are its weighted samples.

    Threads may share one: they decode in turn. What decodes at the same time needs a pack each, `Pack(p.data)`.
    """

    def __init__(self, data: bytes | mmap.mmap, *, source: str = "pack") -> None:
        """Checks the whole file. Raises FormatError when it is not a .tdz or is damaged."""
        # To all who read it, a mapped file is bytes.
        self.data: bytes = cast(bytes, data) if isinstance(data, mmap.mmap) else bytes(data)
        self.source = source
        self._bytes = view(self.data)
        self.native = ffi.new("td_pack *")
        status = lib.td_pack_open(self.native, self._bytes, len(self.data))
        if status < 0:
            raise FormatError(f"{source}: {_refusal(self.data, status)}")
        self._readers: dict[int, tuple[Any, Any]] = {}
        self._decoding = threading.Lock()  # held while the core uses memory of the readers or of `native`
        self._block = ffi.new("uint64_t[]", lib.td_pack_archive_size(self.native) // 8 + 1)
        if self.native.archive != ffi.NULL:
            size = lib.td_pack_archive_size(self.native)
            check(lib.td_pack_attach(self.native, self._block, size), "memory for a block of the archive")
        self._meta = self._read_meta()
        self.schema, self._cut = self._read_schema()
        self.class_label = self._read_class_label()

    def __reduce__(self) -> Any:
        """To another process: the bytes; of a file that is mapped, its path."""
        if isinstance(self.data, mmap.mmap):
            return open_pack, (self.source,)
        return partial(Pack, source=self.source), (self.data,)

    def _read_schema(self) -> tuple[Schema, Cut | None]:
        try:
            given, windows = self._meta.get("fields"), self._meta.get("windows")
            schema = Schema.of_integers(self.n_features) if given is None else Schema.from_list(given, self.n_features)
            cut = None if windows is None else Cut.from_map(windows, int(self.native.n_rows))
            if cut is not None and (len(schema.features) > 1 or not schema.features[0].shape):
                raise ValueError("only arrays are cut into windows")
        except (ValueError, TypeError) as error:
            raise FormatError(f"{self.source}: its metadata is wrong: {error}") from error
        return schema, cut

    def _read_class_label(self) -> ClassLabel | None:
        """What the classes were: None without labels, and where labels are no classes."""
        classes, given = self.classes, self._meta.get("label")
        usual = ClassLabel.usual(classes)
        if given is None:
            return usual if len(classes) > 1 or usual.dtype == "text" else None
        try:
            if not isinstance(given, dict) or given.keys() != {"name", "type"} or type(given["name"]) is not str:
                raise ValueError("its label is not described")
            if given["type"] not in (*NUMBER_TYPES, *TIME_TYPES, "text"):
                raise ValueError("its label is of a type that is not known")
            label = ClassLabel(given["name"], given["type"])
            label.values(classes)
        except (ValueError, TypeError, OverflowError) as error:
            raise FormatError(f"{self.source}: its metadata is wrong: {error}") from error
        return label

    def _read_meta(self) -> dict[str, Any]:
        section = ffi.new("td_section *")
        if lib.td_file_section(ffi.addressof(self.native, "file"), lib.TD_PACK_META, section) < 0:
            return {}
        stream = io.BytesIO(ffi.buffer(section.data, section.size)[:])
        try:
            meta = cbor2.load(stream)
        except Exception as error:  # the bytes are not trusted, and tags run many parsers
            raise FormatError(f"{self.source}: its metadata is not CBOR: {error}") from error
        classes: Any = meta.get("classes", []) if isinstance(meta, dict) else None
        named = isinstance(classes, list) and len(classes) in (0, self.n_classes)
        if stream.read() or not named or not all(isinstance(name, str) for name in classes):
            raise FormatError(f"{self.source}: its metadata does not name its {self.n_classes} classes")
        return dict(meta)

    def __len__(self) -> int:
        return int(self.native.n_rows) if self._cut is None else len(self._cut)

    def __repr__(self) -> str:
        return (
            f"Pack({len(self)} rows x {self.row_size}, {self.n_classes} classes, "
            f"{self.n_samples} samples, {len(self.data)} bytes)"
        )

    def __getitem__(self, index: Index) -> Any:
        """Row `index` as it was given; for a slice, a mask (n,) of bool or an array of row numbers, several rows.

        Rows are in stored order. A row is an array (features,) or of the shape that was given, of the type that was
        given; rows of columns of different types are a structured array (k,), masked where cells are missing. Raises
        IndexError for a row that is not there.
        """
        single = _is_row_number(index)
        rows = _joined(self.schema.features, self._read(self._numbers(np.array([index]) if single else index)))
        with np.errstate(over="ignore"):  # see _joined
            return rows[0] if single else rows

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), BATCH):
            yield from self[first : first + BATCH]

    def columns(self, index: slice | npt.ArrayLike = slice(None)) -> tuple[Column, ...]:
        """The features of some rows, column by column. An array a row is one column, (k, *shape)."""
        found = self._read(self._numbers(index))
        return tuple(
            Column(field.name, *pair, field.zone, field.decimal)
            for field, pair in zip(self.schema.features, found, strict=True)
        )

    def targets(self, index: slice | npt.ArrayLike = slice(None)) -> tuple[Column, ...]:
        """Labels that are no classes (real numbers, or several columns) of some rows; empty when there are none."""
        fields = self.schema.labels
        if not fields:
            return ()
        numbers = self._numbers(index)
        if self._cut is not None:
            numbers = self._cut.first_rows()[numbers]
        found = self.schema.decode(self._take(numbers), fields)
        return tuple(
            Column(field.name, *pair, field.zone, field.decimal) for field, pair in zip(fields, found, strict=True)
        )

    def stored(self, index: slice, *, transformed: bool = False) -> npt.NDArray[np.uint32]:
        """Rows as the file stores them: unsigned integers (k, features) of the pack's width, less its minimum.

        `transformed`: as they are before transforms are undone.
        """
        minimum = np.uint32(int(self.native.minimum) % 2**32)
        first, last, _ = slice(index.start, index.stop).indices(int(self.native.n_rows))
        values = np.empty((max(0, last - first), self.n_features), dtype=np.uint32)
        with self._decoding:
            native = ffi.new("td_pack *", self.native[0])
            native.image = ffi.NULL  # rows as they are stored, not as pixels
            reader = ffi.new("td_unpacker *", self._reader(32)[0])
            reader.pack = native
            reader.n_undo = 0 if transformed else reader.n_undo
            status = lib.td_unpacker_stored(reader, first, len(values), ffi.from_buffer(values))
        check(status, f"stored rows from {first} on")
        return np.asarray((values - minimum)[:: index.step])

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """What is undone on stored rows, in this order."""
        if self.native.n_transforms == 0:
            return ()
        size = int(self.native.n_transforms) * lib.TD_TRANSFORM_RECORD
        return read_transforms(bytes(ffi.buffer(self.native.transforms, size)))

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of the image that a row is; None when rows are no images."""
        if self.native.image == ffi.NULL:
            return None
        height, width = np.frombuffer(ffi.buffer(self.native.image, 4), dtype="<u2").tolist()
        return height, width, self.n_features // (height * width)

    @property
    def image_steps(self) -> list[str] | None:
        """What was done to images: "colour", "dct", "quantised"; None when rows are no images."""
        if self.native.image == ffi.NULL:
            return None
        flags = int(self.native.image[5])
        steps = (lib.TD_IMAGE_COLOUR, "colour"), (lib.TD_IMAGE_DCT, "dct"), (lib.TD_IMAGE_QUANTISED, "quantised")
        return [name for flag, name in steps if flags & flag]

    @property
    def embedding_error(self) -> tuple[float, float] | None:
        """Largest and root mean square error of float32 embeddings packed in steps of `scale`; None for all others."""
        found: Any = self._meta.get("embedding_error")
        known = isinstance(found, list) and len(found) == 2 and all(isinstance(error, float) for error in found)
        return (found[0], found[1]) if known else None

    @property
    def psnr(self) -> float | None:
        """Of images packed with a quality: peak signal-to-noise ratio against the originals, dB; else None."""
        found = self._meta.get("psnr")
        return float(found) if isinstance(found, float) else None

    def _read(self, numbers: range | npt.NDArray[np.int64]) -> list[tuple[Any, Any]]:
        """Values and missing of each feature."""
        if self._cut is None:
            return self.schema.decode(self._take(numbers), self.schema.features)
        blocks = self._cut.rows(np.asarray(numbers, dtype=np.int64))
        distinct, at = np.unique(blocks, return_inverse=True)
        (values, missing), *_ = self.schema.decode(self._take(distinct), self.schema.features)
        shape = (
            (len(blocks), -1, *values.shape[2:])
            if len(blocks)
            else (0, blocks.shape[1] * values.shape[1], *values.shape[2:])
        )
        at = at.reshape(blocks.shape)
        return [(values[at].reshape(shape), None if missing is None else missing[at].reshape(shape))]

    def _numbers(self, index: slice | npt.ArrayLike) -> range | npt.NDArray[np.int64]:
        """Row numbers of a slice, a mask or an array of them."""
        if isinstance(index, slice):
            return range(*index.indices(len(self)))
        numbers = np.asarray(index)
        if numbers.size == 0:
            return range(0)
        if numbers.ndim != 1 or numbers.dtype.kind not in "biu":
            given = repr(index) if numbers.ndim == 0 else f"{numbers.dtype} values of shape {numbers.shape}"
            raise IndexError(f"rows are chosen by a number, a slice, a mask or row numbers, not {given}")
        if numbers.dtype.kind == "b":
            if len(numbers) != len(self):
                raise IndexError(f"a mask of {len(numbers)} for {len(self)} rows")
            return np.flatnonzero(numbers)
        wrong = (numbers >= len(self)) | (numbers.astype(np.int64) < -len(self))
        if wrong.any():
            raise IndexError(f"row {numbers[wrong][0]} of {len(self)}")
        return numbers.astype(np.int64) % len(self)

    def decode(
        self, first: int = 0, count: int | None = None, *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Rows [first, first + count), (count, features): the fast way to many rows.

        `out`: the array to fill, of integers that hold all values of `dtype`; without it, a new one of `dtype`.
        Raises UsageError when rows or array do not fit.
        """
        n = int(self.native.n_rows)
        count = n - first if count is None else count
        if not (0 <= first <= n and 0 <= count <= n - first):
            raise UsageError(f"{count} rows from {first} on; there are {n}")
        values = np.empty((count, self.n_features), dtype=self.dtype) if out is None else out
        if values.shape != (count, self.n_features) or not values.flags.carray:
            raise UsageError(f"out must be contiguous, writable and of shape {(count, self.n_features)}")
        kind = values.dtype
        if kind.kind not in "iu" or kind.itemsize > 4 or not kind.isnative or not np.can_cast(self.dtype, kind):
            raise UsageError(f"out is of {values.dtype}; integers of 8 to 32 bits that hold {self.dtype} are needed")
        what = f"{count} rows from {first} on"
        if self.native.order != ffi.NULL and count > n // 16:  # all rows in stored order take less time than these
            whole = np.empty((n, self.n_features), dtype=kind)
            self._decode(lib.td_unpacker_stored, whole, 0, n, what)
            np.take(whole, self._positions(np.arange(first, first + count)), axis=0, out=values)
        else:
            self._decode(lib.td_unpacker_rows, values, first, count, what)
        return values

    def _decode(self, read: Any, values: npt.NDArray[Any], first: Any, count: int, what: str) -> None:
        """By a function of the core, into an array of integers."""
        with self._decoding:
            status = read(self._reader(8 * values.itemsize), first, count, ffi.from_buffer(values))
        check(status, what)

    def _positions(self, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Where these rows of the file, or all, are stored."""
        n = int(self.native.n_rows)
        rows = np.arange(n) if rows is None else rows
        if self.native.order == ffi.NULL or n == 1:
            return rows
        n_bits = (n - 1).bit_length()
        packed = np.frombuffer(ffi.buffer(self.native.order, (n * n_bits + 7) // 8), dtype=np.uint8)
        byte, shift = np.divmod(rows * n_bits, 8)
        bits = np.zeros(len(rows), dtype=np.int64)
        for i in range((n_bits + 14) // 8):  # bytes that a field of so many bits may lie in
            bits |= packed[np.minimum(byte + i, len(packed) - 1)].astype(np.int64) << 8 * i
        return bits >> shift & (1 << n_bits) - 1

    def _reader(self, bits: int) -> Any:
        """The core's unpacker for values of `bits` bits, and its memory; kept. Who asks holds the lock."""
        if bits not in self._readers:
            one, two = (int(lib.td_unpacker_size(self.native, bits, n)) for n in (1, 2))
            slots = min(int(self.native.n_parts), max(1, MOST_PREPARED // max(two - one, 1)))
            size = lib.td_unpacker_size(self.native, bits, slots)
            memory, reader = ffi.new("uint64_t[]", size // 8 + 1), ffi.new("td_unpacker *")
            status = lib.td_unpacker_init(reader, self.native, bits, slots, memory, size)
            check(status, f"preparing to read values of {bits} bits")
            self._readers[bits] = reader, memory
        return self._readers[bits][0]

    def _take(self, rows: range | npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        values = np.empty((len(rows), self.n_features), dtype=np.int32)
        if isinstance(rows, range) and rows.step == 1:
            return self.decode(rows.start if len(rows) else 0, len(rows), out=values)
        wanted = np.asarray(rows, dtype=np.uint32)
        if self.native.archive == ffi.NULL:
            return self._take_each(wanted, values)
        places = self._positions(wanted.astype(np.int64))
        order = np.argsort(places, kind="stable")  # each block of an archive is decoded once
        values[order] = self._take_each(wanted[order], np.empty_like(values))
        return values

    def _take_each(self, rows: npt.NDArray[np.uint32], values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        numbers = view(np.ascontiguousarray(rows), "const uint32_t[]")
        self._decode(lib.td_unpacker_take, values, numbers, len(rows), "rows by number")
        return values

    def _label_runs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Label and number of rows of each part."""
        record = np.dtype([("n", "<u4"), ("offset", "<u4"), ("label", "<u2"), ("rest", "V6")])
        parts = np.frombuffer(ffi.buffer(self.native.parts, self.native.n_parts * lib.TD_PART_RECORD), dtype=record)
        return parts["label"].astype(np.int64), parts["n"].astype(np.int64)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest integers that hold all values."""
        return VALUE_TYPES[self.native.value_type]

    @property
    def n_features(self) -> int:
        """Values in a row."""
        return int(self.native.n_features)

    @property
    def n_classes(self) -> int:
        """Labels are below this."""
        return int(self.native.n_classes)

    @property
    def n_samples(self) -> int:
        """Samples of the condensed set."""
        return int(self.native.n_samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where none were given."""
        return tuple(self._meta.get("classes") or (str(i) for i in range(self.n_classes)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored integers: the columns'; x0, x1, .. of an array x; a value of two has .hi and .lo."""
        names: list[str] = []
        for field in self.schema.fields:
            own = [field.name] if not field.shape else [f"{field.name}{i}" for i in range(field.size)]
            codes = field.codes * (field.size if len(field.codes) == 1 else 1)
            for name, code in zip(own, codes, strict=True):
                names += [f"{name}.hi", f"{name}.lo"] if code.wide else [name]
        return tuple(names)

    def facts(self) -> dict[str, Any]:
        """What the pack says of itself, for people and machines."""
        return {
            "rows": len(self), "features": self.n_features, "classes": list(self.classes),
            "label": self.class_label and {"name": self.class_label.name, "type": self.class_label.dtype},
            "samples": self.n_samples,
            "parts": int(self.native.n_parts), "width": int(self.native.width), "minimum": int(self.native.minimum),
            "schema": self.schema.as_list(), "windows": self._cut.as_map() if self._cut else None,
            "profile": self.profile, "order_kept": bool(self.native.order != ffi.NULL),
            "scale": self.scale, "zero_point": self.zero_point, "model_hash": f"{int(self.native.model_hash):08x}",
            "embedding_error": self.embedding_error, "image": self.image_shape, "image_steps": self.image_steps,
            "psnr": self.psnr,
        }  # fmt: skip

    @property
    def scale(self) -> float:
        """real = scale * (value - zero_point)."""
        return float(self.native.scale)

    @property
    def zero_point(self) -> int:
        """real = scale * (value - zero_point)."""
        return int(self.native.zero_point)

    @property
    def class_numbers(self) -> npt.NDArray[np.int64]:
        """Classes of all rows in stored order, (n,); 0 without classes."""
        return self.row_classes if self._cut is None else self.row_classes[self._cut.first_rows()]

    @property
    def row_classes(self) -> npt.NDArray[np.int64]:
        """Classes of the rows of the file, which are blocks where `p[i]` is a window."""
        classes = np.repeat(*self._label_runs())
        return classes if self.native.order == ffi.NULL else classes[self._positions()]

    def classes_of(self, index: slice | npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Class numbers of some rows; 0 without classes."""
        rows = np.asarray(self._numbers(index), dtype=np.int64)
        labels, counts = self._label_runs()
        places = self._positions(rows if self._cut is None else self._cut.first_rows()[rows])
        return labels[np.searchsorted(np.cumsum(counts), places, side="right")]

    def labels_of(self, index: slice | npt.ArrayLike) -> npt.NDArray[Any]:
        """Labels of some rows, as `labels` has those of all."""
        targets = self.targets(index)
        if not targets:
            return self.classes_of(index)
        found = _joined(self.schema.labels, [(column.values, column.missing) for column in targets])
        labels: npt.NDArray[Any] = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
        return labels

    @property
    def profile(self) -> str:
        """ "mcu": boards read it; "archive": smaller, and read a block at a time."""
        return PROFILES[self.native.archive != ffi.NULL]

    @property
    def labels(self) -> npt.NDArray[Any]:
        """Labels of all rows in stored order: class numbers (n,), or one real label (n,), or several of them.

        Several are (n, k) if they are of one type, else a structured array (n,).
        """
        return self.labels_of(slice(None)) if self.schema.labels else self.class_numbers

    @property
    def condensed(self) -> WeightedSamples:
        """The weighted samples as they are trained on: real values (m, features), weights, labels.

        Raises DataError when columns are not numbers: texts and dates have no mean.
        """
        return self.board_samples() if self.schema.plain else self._condensed_columns()

    def board_samples(self) -> WeightedSamples:
        """The weighted samples as a board sees them: means of the stored integers, scaled to real values."""
        values = np.empty((self.n_samples, self.n_features), dtype=np.float32)
        weights, labels = np.empty(self.n_samples), np.empty(self.n_samples, dtype=np.int64)
        row = ffi.new("int32_t[]", self.n_features)
        label, weight = ffi.new("uint32_t *"), ffi.new("float *")
        for i in range(self.n_samples):
            out = ffi.from_buffer("float[]", values[i])
            with self._decoding:
                status = lib.td_pack_sample(self.native, i, row, out, label, weight)
            check(status, f"sample {i}")
            weights[i], labels[i] = weight[0], label[0]
        return WeightedSamples(values.astype(np.float64), weights, labels, self.classes)

    def _condensed_columns(self) -> WeightedSamples:
        """Means over the rows of each sample, of what is not missing; NaN where all is. Of windows: of their blocks."""
        n = int(self.native.n_rows)
        decoded = self.schema.decode(self._take(range(n)), self.schema.fields)
        starts = self._starts()
        means = []
        for field, (values, missing) in zip(self.schema.fields, decoded, strict=True):
            if field.numpy_type.kind not in "biuf":
                raise DataError(f"{self.source}: column {field.name!r} is of type {field.dtype}, which has no mean")
            flat = values.reshape(n, -1).astype(np.float64)
            gone = np.zeros(flat.shape, dtype=bool) if missing is None else missing.reshape(flat.shape)
            with np.errstate(invalid="ignore"):
                counts = np.add.reduceat((~gone).astype(np.float64), starts)
                mean = np.add.reduceat(np.where(gone, 0.0, flat), starts) / counts
            plain = not field.label and all(code.kind == "plain" for code in field.codes)
            means.append(self.scale * (mean - self.zero_point) if plain else mean)
        n_features = len(self.schema.features)
        labels: npt.NDArray[Any] = self.row_classes[starts]
        if self.schema.labels:
            labels = np.concatenate(means[n_features:], axis=1)
        weights = np.diff(np.append(starts, n)).astype(np.float64)
        return WeightedSamples(np.concatenate(means[:n_features], axis=1), weights, labels, self.classes)

    def batches(self, size: int, *, shuffle: int | None = None) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
        """Rows and labels, `size` at a time, as `p[..]` and `labels` have them; `shuffle` is a seed, and the order that
        it makes takes 8 bytes a row of the pack."""
        if size < 1:
            raise UsageError(f"batches of {size} rows; at least 1 is needed")
        order = None if shuffle is None else np.random.default_rng(shuffle).permutation(len(self))
        for start in range(0, len(self), size):
            run = slice(start, start + size)
            chosen = run if order is None else order[run]
            yield self[chosen], self.labels_of(chosen)

    def _starts(self) -> npt.NDArray[np.int64]:
        """The rows that begin samples, (samples,)."""
        first, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        starts = np.empty(self.n_samples, dtype=np.int64)
        for i in range(self.n_samples):
            check(lib.td_pack_sample_rows(self.native, i, first, count), f"sample {i}")
            starts[i] = first[0]
        return starts

    def to_numpy(self) -> tuple[Any, npt.NDArray[Any]]:
        """All rows and their labels, as `p[:]` and `labels` have them."""
        return self[:], self.labels

    def to_arrow(self, index: Any = slice(None)) -> Any:
        """Some rows as a pyarrow.Table, labels beside. Raises UsageError without pyarrow."""
        from .adapters import to_arrow

        return to_arrow(self, index)

    def to_tf(self, size: int, *, shuffle: int | None = None) -> Any:
        """A tf.data.Dataset of batches of `size` rows and labels. Raises UsageError without TensorFlow."""
        from .adapters import to_tf

        return to_tf(self, size, shuffle=shuffle)

    def to_torch(self) -> Any:
        """A map-style torch Dataset of rows and labels. Raises UsageError without PyTorch."""
        from .adapters import to_torch

        return to_torch(self)

    def contents(self) -> dict[int, bytes]:
        """The sections of the file by kind."""
        section, found = ffi.new("td_section *"), {}
        for kind in SECTIONS:
            if lib.td_file_section(ffi.addressof(self.native, "file"), kind, section) == 0:
                found[kind] = bytes(ffi.buffer(section.data, section.size))
        return found

    def sections(self) -> dict[str, int]:
        """Bytes of the file by section, its header and table included."""
        sizes: dict[str, int] = {}
        section = ffi.new("td_section *")
        for kind, name in SECTIONS.items():
            if lib.td_file_section(ffi.addressof(self.native, "file"), kind, section) == 0:
                sizes[name] = int(section.size)
        sizes["header"] = len(self.data) - sum(sizes.values())
        return sizes

    @property
    def raw_float32_size(self) -> int:
        """Bytes of the same rows as float32, with one byte a label."""
        return len(self) * (4 * self.row_size + 1)

    @property
    def row_size(self) -> int:
        """Numbers in a row as it is read: `n_features` where each is stored as one, of windows those of a window."""
        return sum(field.size for field in self.schema.features) * (1 if self._cut is None else self._cut.span)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the .tdz; the old file stays whole until the new one is."""
        atomic_write(Path(path), self.data)


def _refusal(data: bytes, status: int) -> str:
    """Why the core does not open these bytes, and what to try."""
    if status == lib.TD_E_VERSION:
        version = int.from_bytes(data[4:6], "little")
        return (f"a .tdz of format version {version}, and this TinyDream reads {lib.TD_FILE_FORMAT}; install the one "
                "that wrote it, or a newer one")  # fmt: skip
    if status == lib.TD_E_FORMAT and data[:4] != lib.TD_MAGIC_PACK.to_bytes(4, "little"):
        return "not a whole .tdz: it does not begin like one"
    return f"not a whole .tdz ({status_name(status)}); pack it again or fetch it anew"


def _array_names(fields: Sequence[Field]) -> list[str]:
    """Names of a structured array: an empty one, which NumPy would replace by its own, becomes underscores.

    Repeated names cannot be: a schema refuses them.
    """
    spare = "_"
    while any(field.name == spare for field in fields):
        spare += "_"
    return [field.name or spare for field in fields]


def _is_row_number(index: Any) -> bool:
    """Whether `index` is one number, also as an array without axes; a bool is none, as it would mean row 0 or 1."""
    if isinstance(index, (bool, np.bool_)):
        return False
    try:
        operator.index(index)
    except TypeError:
        return False
    return True


def _joined(fields: Sequence[Field], found: Sequence[tuple[Any, Any]]) -> Any:
    """Rows of all columns as one array."""
    masked = any(missing is not None for _, missing in found)
    if len(fields) == 1 and fields[0].shape:
        values, missing = found[0]
        return np.ma.MaskedArray(values, missing) if masked else values
    types = {field.numpy_type for field in fields}
    if not masked and len(types) == 1 and types != {np.dtype(object)}:
        return np.stack([values for values, _ in found], axis=1)
    names = _array_names(fields)
    kind = np.dtype([(name, field.numpy_type, field.shape) for name, field in zip(names, fields, strict=True)])
    rows = np.empty(len(found[0][0]), dtype=kind)
    for name, (values, _) in zip(names, found, strict=True):
        rows[name] = values
    if not masked:
        return rows
    mask: Any = np.zeros(len(rows), dtype=np.ma.make_mask_descr(kind))
    for name, (_, missing) in zip(names, found, strict=True):
        if missing is not None:
            mask[name] = missing
    with np.errstate(over="ignore"):  # what NumPy shows in place of masked cells does not fit a float16
        return np.ma.MaskedArray(rows, mask)


def open_pack(path: str | os.PathLike[str]) -> Pack:
    """Opens and checks a .tdz; a large one stays on disk and is read from there. Raises FormatError."""
    try:
        with Path(path).open("rb") as stream:
            large = os.fstat(stream.fileno()).st_size >= MAPPED
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if large else stream.read()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    return Pack(data, source=str(path))
