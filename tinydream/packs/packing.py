"""Packing: from a table to a .tdz, by the published methods and ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view
from ..errors import DataError, UsageError
from ..files import write_sections
from ..tables.images import ImageOptions, Transformed, transforms
from ..tables.schema import Field, Lossy, Schema, encode_table, plan_fields, type_name, with_errors
from ..tables.sources import as_table
from ..tables.table import Table
from ..tables.windows import as_blocks, overlap
from .archive import archive_rows
from .keys import encode_sorted, plan_sorted
from .pack import PROFILES, VALUE_TYPES, Pack, Progress
from .reduction import LARGE, PUBLISHED, WeightedSamples, condense, condense_published, reduce, unsigned_rows
from .transforms import Transform, apply_transforms, may_save, plan_transforms

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["model_inputs", "pack", "published_size"]

Groups = npt.NDArray[np.uint32] | None
Members = slice | npt.NDArray[np.int64]  # the rows of a class
SharedPlan = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32] | None]  # base bits of all classes; offsets
WIDE = 256  # bits a row beside its key, from which on long bases are tried too: they take the time of a large sort
MEASURED = 2048  # rows, of at most so many classes, by whose planned size transforms are chosen
MEASURED_CLASSES = 8
MAX_PART = 2**29 - 1  # bytes of one class: the core counts its bits in 32 bits


def pack(
    table: Table | Any,
    *,
    through: Model | None = None,
    per_class: int = 16,
    method: str = "variance",
    replay: int | None = None,
    seed: int = 0,
    images: ImageOptions | None = None,
    lossy_bits: int | None = None,
    resolution: float | None = None,
    keep_order: bool = False,
    profile: str = "mcu",
    progress: Progress | None = None,
) -> Pack:
    """Packs a table, losslessly unless `replay`, `lossy_bits`, `resolution` or a quality of images is given.

    `table`: also all that `read` reads, such as a data frame, and an array of rows without labels.
    `through`: a model; rows are its inputs, and what is packed is their embedding at the cut: int8, or float32 as
    multiples of `resolution`, which it then needs.
    `per_class`: condensed samples a class (see `reduce.condense`). `method`: "variance" (ours),
    "entrogede" or "greedygd" (published plan and condense). `replay`: keep this many weighted samples only, rounded to
    integers, as a replay set; the method may then also be "random". `images`: rows are images, packed under these
    options and read back as pixels. `lossy_bits`: real numbers keep so many bits of their column's range; `resolution`:
    they become multiples of it; what that changes is in the pack's schema. `keep_order`: row i of the pack is row i of
    the table, at log2(rows) bits a row. `profile`: "mcu", or "archive" for a smaller pack that no board reads.
    Raises DataError when the rows or labels do not fit the model, or are not integers where they must be.
    """
    check_options(through, replay, images, keep_order, profile)
    made = _pack_mcu(
        as_table(table), through, per_class, method, replay, seed, images, lossy_bits, resolution, keep_order,
        progress, profile == "mcu",
    )  # fmt: skip
    return made if profile == "mcu" else archived(made, keep_order)


def check_options(
    through: Model | None, replay: int | None, images: ImageOptions | None, keep_order: bool, profile: str
) -> None:
    """Raises UsageError for options that `pack` cannot have together."""
    if profile not in PROFILES:
        raise UsageError(f"no profile {profile!r}; there are {' and '.join(PROFILES)}")
    if keep_order and replay is not None:
        raise UsageError("a replay set holds means of rows, which have no order to keep; leave either out")
    if images is not None and through is not None:
        raise UsageError("what is packed through a model are embeddings, not images; leave either out")


def _pack_mcu(
    table: Table, through: Model | None, per_class: int, method: str, replay: int | None, seed: int,
    images: ImageOptions | None, lossy_bits: int | None, resolution: float | None, keep_order: bool,
    progress: Progress | None, transform: bool,
) -> Pack:  # fmt: skip
    meta: dict[str, Any] = {}
    scale = 1.0 if through is None else through.embedding_scale
    if through is not None:
        table = _embed(table, through, progress)
    if through is not None and through.output_dtype.kind == "f":
        table, scale, meta["embedding_error"] = in_steps(table, resolution)
        lossy_bits = resolution = None
    elif table.label is not None:
        meta.update(table.label.as_meta(table.classes))
    if replay is not None:
        return _pack_replay(table, replay, method, seed, through, images, scale, meta)
    if images is not None:
        return encode_images(
            table, _groups(table, per_class, method), None, method, per_class, images, keep_order, meta
        )
    lossy = None if lossy_bits is None and resolution is None else Lossy(lossy_bits, resolution)
    in_blocks = overlap(table.windows)
    if in_blocks:
        table, cut = as_blocks(table, keep_order=keep_order)
        meta["windows"] = cut.as_map()
    schema = plan_fields(table, lossy)
    stored = Table(encode_table(schema, table), table.labels, table.classes, table.source)
    if lossy:
        schema = with_errors(schema, table, stored.values)
    bare = through is not None and not table.targets  # a board's rows, which need no description
    if schema != Schema.of_integers(stored.values.shape[1]) and not bare:
        meta["fields"] = schema.as_list()
    if in_blocks:
        group: Groups = np.zeros(len(stored), dtype=np.uint32)
    else:
        group = _groups(stored if schema.plain or method != "variance" else _to_one_scale(stored), per_class, method)
    return _encode(
        stored, group, None, method, through, per_class, meta, keep_order=keep_order, scale=scale, transform=transform
    )


def _groups(table: Table, per_class: int, method: str) -> Groups:
    """The condensed sample of each row; None: they are made part by part, as the table is large."""
    return None if method == "variance" and len(table) > LARGE else condense(table, per_class, method=method)


def _pack_replay(
    table: Table, budget: int, method: str, seed: int, through: Model | None, images: ImageOptions | None, scale: float,
    meta: dict[str, Any],
) -> Pack:  # fmt: skip
    if table.targets:
        raise DataError(f"{table.source}: replay sets have classes; labels that are real numbers or several do not go")
    unsigned_rows(table.flat())  # refuses rows that the rounding below would make integers
    samples = reduce(table, budget, method=method, seed=seed)
    return pack_samples(samples, table.values, method, through, images, scale, meta, table.source)


def pack_samples(
    samples: WeightedSamples, like: npt.NDArray[Any], method: str, through: Model | None, images: ImageOptions | None,
    scale: float, meta: dict[str, Any], source: str,
) -> Pack:  # fmt: skip
    """A replay set of these samples, rounded; of images `like` these rows (n, ...)."""
    rounded = np.rint(samples.values).astype(np.int64)
    group, most = np.arange(len(samples), dtype=np.uint32), len(samples)
    if images is not None:
        pixels = rounded.astype(like.dtype).reshape(len(rounded), *like.shape[1:])
        table = Table(pixels, samples.labels, samples.classes, source)
        return encode_images(table, group, samples.weights, method, most, images)
    table = Table(rounded, samples.labels, samples.classes, source)
    return _encode(table, group, samples.weights, method, through, most, meta, scale=scale)


def encode_images(
    table: Table,
    group: Groups,
    weights: npt.NDArray[np.float64] | None,
    method: str,
    most: int,
    images: ImageOptions,
    keep_order: bool = False,
    meta: dict[str, Any] | None = None,
) -> Pack:
    """Under the transforms that the options allow; the smallest pack. Its rows are read as pixels of the type given.

    `group` and `most`: as for _encode.
    """
    if table.targets:
        raise DataError(f"{table.source}: images have classes; labels that are real numbers or several do not go")
    shape = table.values.shape[1:]
    meta = {**(meta or {}), "fields": Schema((Field("x", type_name(table.values), shape),)).as_list()}
    tried = (
        _encode(Table(t.rows, table.labels, table.classes, table.source), group, weights, method, None, most, meta, t,
                class_wise=images.class_wise, keep_order=keep_order)
        for t in transforms(table, images)
    )  # fmt: skip
    return min(tried, key=lambda made: len(made.data))


def _to_one_scale(stored: Table) -> Table:
    """Features of different units on one scale, 256 steps a standard deviation, so that their variances compare."""
    values = stored.values.view(np.uint32).astype(np.float64)
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return Table(np.clip(np.rint(256 * scaled), -2047, 2047).astype(np.int64), stored.labels, stored.classes)


def published_size(table: Table, *, method: str = "entrogede", patience: int = 0) -> int:
    """Bytes by a published method's own formula: bases, deviations and ids of all rows under one bit plan, and labels.

    `method`: "entrogede" or "greedygd".
    """
    rows, _, width = unsigned_rows(table.flat())
    result = plan_bits(rows, width, method, patience)[1]
    n, d = rows.shape
    return (int(result.size_bits) + 7) // 8 + (int(d) * width + 7) // 8 + (int(n) if table.n_classes > 1 else 0)


def model_inputs(table: Table, model: Model) -> npt.NDArray[Any]:
    """The table's rows as inputs of `model`, (n, *input_shape) of Model.input_dtype.

    Values of that type are taken as quantised already; all others are real numbers and quantised with the scale of the
    model's input. Raises DataError when a row does not have as many values as an input.
    """
    flat = table.flat()
    if flat.shape[1] != model.input_size:
        raise DataError(
            f"{table.source}: {flat.shape[1]} values a row, but an input of the model has {model.input_size}, "
            f"as {model.input_shape}"
        )
    shaped = flat.reshape(len(flat), *model.input_shape)
    quantised = shaped.dtype == model.input_dtype and shaped.dtype.kind == "i"
    return shaped if quantised else model.quantise(shaped, table.source)


def check_classes(classes: Sequence[str], ordered: bool, model: Model, source: str) -> None:
    """Raises DataError when labels cannot be the model's classes, or not for sure."""
    if len(classes) > model.n_classes:
        raise DataError(f"{source}: {len(classes)} classes, but the model tells {model.n_classes} apart")
    if not ordered:
        raise DataError(
            f"{source}: labels are names ({', '.join(classes[:8])}), and the model knows its classes by "
            "number only; give the names in the order of the model's outputs (classes=, --classes=a,b,c)"
        )


def check_stateless(model: Model, source: str) -> None:
    """Raises DataError when a row's embedding would depend on the rows before it."""
    if model.has_state:
        raise DataError(
            f"{source}: the model remembers (SVDF, LSTM), so a row's embedding would depend on the rows before "
            "it; choose a cut before that operator, or pack without `through`"
        )


def _embed(table: Table, model: Model, progress: Progress | None) -> Table:
    check_classes(table.classes, table.ordered, model, table.source)
    check_stateless(model, table.source)
    embedding = model.embed(model_inputs(table, model), progress)
    return Table(embedding, table.labels, table.classes, table.source, targets=table.targets)


def in_steps(table: Table, resolution: float | None) -> tuple[Table, float, list[float]]:
    """float32 embeddings as multiples of `resolution`; its f32 value; the largest and the root mean square error."""
    if resolution is None:
        raise DataError(
            f"{table.source}: the tensor at the model's cut is float32; packed rows are integers times one scale. "
            "Say which steps are fine enough: resolution=0.01 (--resolution 0.01), the same for a replay set; or "
            "convert the model fully int8"
        )
    Lossy(resolution=resolution)  # refuses what is no step
    step, real = np.float32(resolution), table.values.astype(np.float64)
    steps = np.rint(real / step)
    if step == 0 or not np.isfinite(steps).all() or np.abs(steps).max() >= 2**24:
        raise DataError(
            f"{table.source}: embeddings from {real.min():g} to {real.max():g} are no f32 multiples of {resolution:g}; "
            "take a larger resolution, and check the model's outputs"
        )
    lost = np.abs(steps * step - real)
    stored = Table(steps.astype(np.int32), table.labels, table.classes, table.source, targets=table.targets)
    return stored, float(step), [float(lost.max()), float(np.sqrt((lost**2).mean()))]


def _encode(
    table: Table,
    group: Groups,
    weights: npt.NDArray[np.float64] | None,
    method: str,
    model: Model | None,
    most: int,
    meta: dict[str, Any],
    image: Transformed | None = None,
    *,
    class_wise: bool = True,
    keep_order: bool = False,
    scale: float = 1.0,
    transform: bool = True,
) -> Pack:
    """`group`: the condensed sample of each row; None: large, so that each part makes at most `most` of its own.

    `meta`: what the metadata says beside the classes. `scale`: of the rows of a model.
    """
    rows, minimum, width = unsigned_rows(table.flat())
    coded = _encode_parts(rows, rows, width, table.labels, group, method, most, class_wise)
    undone = b""
    if transform and image is None and method not in PUBLISHED:
        coded, undone = _with_transforms(coded, rows, width, table.labels, group, method, most)
    described = schema_section(
        n_rows=len(rows), n_samples=int(coded.begins.sum()), n_features=rows.shape[1], n_classes=table.n_classes,
        n_parts=len(coded.parts) // lib.TD_PART_RECORD, width=width, low=minimum, high=int(table.flat().max()),
        model=model, scale=scale, image=image is not None,
    )  # fmt: skip
    sections = {
        lib.TD_PACK_SCHEMA: described,
        lib.TD_PACK_PARTS: coded.parts,
        lib.TD_PACK_DATA: coded.data,
        lib.TD_PACK_SAMPLES: sample_starts(np.flatnonzero(coded.begins), len(rows)),
    }
    if undone:
        sections[lib.TD_PACK_TRANSFORMS] = undone
    if keep_order:
        sections.update(_order(coded.order))
    if weights is not None:
        sections[lib.TD_PACK_WEIGHTS] = weights[coded.order].astype("<f4").tobytes()
    if any(name != str(i) for i, name in enumerate(table.classes)):
        meta = {"classes": list(table.classes), **meta}
    if image is not None:
        sections[lib.TD_PACK_IMAGE] = image.section
        meta = {**meta, **({} if image.psnr is None else {"psnr": image.psnr})}
    if meta:
        sections[lib.TD_PACK_META] = cbor2.dumps(meta)
    return Pack(write_sections(lib.TD_MAGIC_PACK, sections), source=table.source)


@dataclass(frozen=True)
class _Coded:
    """Two sections; of the rows in their order there, which begin samples, and their numbers in the table."""

    parts: bytes
    data: bytes
    begins: npt.NDArray[np.bool_]
    order: npt.NDArray[Any]


def _encode_parts(
    rows: npt.NDArray[np.uint32], plain: npt.NDArray[np.uint32], width: int, labels: npt.NDArray[np.int64],
    group: Groups, method: str, most: int, class_wise: bool = True,
) -> _Coded:  # fmt: skip
    """A part a class. `plain`: the rows before any transforms."""
    parts, blobs, starts, stored, at = b"", [], [], [], 0
    shared = None if class_wise else shared_plan(rows, width, method)
    for label, members in _members(labels, group):
        blob, header, begins, own = best_part(
            np.ascontiguousarray(rows[members]), width, method, group, members, most, shared, plain
        )
        parts += part_record(header, at, label)
        blobs.append(blob)
        starts.append(begins)
        stored.append((own + members.start if members.start else own) if isinstance(members, slice) else members[own])
        at += len(blob)
    if len(blobs) == 1:
        return _Coded(parts, blobs[0], starts[0], stored[0])
    return _Coded(parts, b"".join(blobs), np.concatenate(starts), np.concatenate(stored))


def _members(labels: npt.NDArray[np.int64], group: Groups) -> Iterator[tuple[int, Members]]:
    """The classes that have rows, and which ones: in order, or by their groups."""
    counts = np.bincount(labels)
    ends = np.cumsum(counts)
    in_place = group is None and bool((labels[1:] >= labels[:-1]).all())
    if group is not None:
        order = np.lexsort((group, labels))
    elif not in_place:
        order = np.argsort(labels.astype(np.uint16), kind="stable")  # by radix, as there are few classes
    for label in np.flatnonzero(counts).tolist():
        run = slice(int(ends[label] - counts[label]), int(ends[label]))
        yield label, run if in_place else order[run]


def _with_transforms(
    coded: _Coded, rows: npt.NDArray[np.uint32], width: int, labels: npt.NDArray[np.int64], group: Groups, method: str,
    most: int,
) -> tuple[_Coded, bytes]:  # fmt: skip
    """Under transforms, with their section, where that is smaller; else as it is."""
    chosen = choose_transforms(rows, width, labels, group, method, len(coded.data))
    if not chosen:
        return coded, b""
    section = b"".join(transform.record() for transform in chosen)
    other = _encode_parts(apply_transforms(chosen, rows, width), rows, width, labels, group, method, most)
    smaller = len(other.data) + lib.TD_FILE_ENTRY + len(section) < len(coded.data)
    return (other, section) if smaller else (coded, b"")


def choose_transforms(
    rows: npt.NDArray[np.uint32], width: int, labels: npt.NDArray[np.int64], group: Groups, method: str,
    size: int = 0,
) -> tuple[Transform, ...]:  # fmt: skip
    """Transforms that make a pack of these rows (n, features) smaller, measured on some rows of the largest classes.

    `size`: bytes of its parts without, if known: where transforms cannot save a share of that, none are looked for.
    """
    if not may_save(rows, width, 8 * size / len(rows), gray=group is not None):
        return ()
    counts = np.bincount(labels)
    largest = np.sort(np.argsort(-counts, kind="stable")[: min(MEASURED_CLASSES, np.count_nonzero(counts))])
    step = int(counts[largest].sum()) // MEASURED + 1
    members = [np.flatnonzero(labels == label)[::step] for label in largest]
    ends = np.cumsum([len(some) for some in members])[:-1]
    sortable = [_sortable(method, group, some) for some in members]

    def measure(some: npt.NDArray[np.uint32]) -> int:
        pieces = zip(np.split(some, ends), sortable, strict=True)
        return sum(_planned_size(np.ascontiguousarray(piece), width, method, by_key) for piece, by_key in pieces)

    return plan_transforms(rows[np.concatenate(members)], width, measure, gray=not all(sortable))


def _planned_size(rows: npt.NDArray[np.uint32], width: int, method: str, sortable: bool) -> int:
    """Bytes of a part of these rows, about."""
    by_key = plan_sorted(rows, width) if sortable else None
    return by_key.size // 8 if by_key else plan_part(rows, width, method).size


def _sortable(method: str, group: Groups, members: Members) -> bool:
    """Rows may be sorted by a key only where their order is free: when each is a sample of its own, or in a large
    table, whose samples are made to suit."""
    if method in PUBLISHED:
        return False
    return group is None or len(np.unique(group[members])) == len(group[members])


def _order(stored: npt.NDArray[Any]) -> dict[int, bytes]:
    """The section that says where each row is stored, when stored[i] is i-th in the file; none if that is in order."""
    n, n_bits = len(stored), (len(stored) - 1).bit_length()
    positions = np.empty(n, dtype=np.int64)
    positions[stored] = np.arange(n)
    if np.array_equal(stored, np.arange(n)):
        return {}
    bits = (positions[:, None] >> np.arange(n_bits) & 1).astype(np.uint8)
    return {lib.TD_PACK_ORDER: np.packbits(bits.ravel(), bitorder="little").tobytes()}


def archived(made: Pack, keep_order: bool) -> Pack:
    """The same pack as an archive."""
    native, sections = made.native, made.contents()
    starts = np.zeros(int(native.n_rows), dtype=bool)
    first, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    for sample in range(made.n_samples):
        check(lib.td_pack_sample_rows(native, sample, first, count), f"rows of sample {sample}")
        starts[first[0]] = True
    labels, counts = made._label_runs()
    coded = archive_rows(made.stored(slice(None)), np.repeat(labels, counts), starts)
    header, parts = ffi.new("td_part_header *", {"n_bases": 1, "flags": lib.TD_PART_ARCHIVE}), b""
    for label, n in zip(labels.tolist(), counts.tolist(), strict=True):
        header.n_rows, header.label = n, label
        record = ffi.new("uint8_t[]", lib.TD_PART_RECORD)
        lib.td_encode_part_record(header, record)
        parts += bytes(ffi.buffer(record))
    sections.pop(lib.TD_PACK_ORDER, None)
    sections.pop(lib.TD_PACK_TRANSFORMS, None)  # undone in what is coded
    if keep_order or made._cut is not None:
        given = np.empty(len(starts), dtype=np.int64)  # which row each stored one was
        given[made._positions()] = np.arange(len(starts))
        sections.update(_order(given[coded.order]))
    sections.update({lib.TD_PACK_PARTS: parts, lib.TD_PACK_DATA: coded.data})
    return Pack(write_sections(lib.TD_MAGIC_PACK, sections), source=made.source)


def _value_type(low: int, high: int) -> int:
    """The narrowest of VALUE_TYPES that holds values from `low` to `high`, by its number."""
    for number in (1, 2, 3, 4):
        limits: Any = np.iinfo(VALUE_TYPES[number])
        if limits.min <= low and high <= limits.max:
            return number
    return 0


def sample_starts(rows: npt.NDArray[np.int64], n_rows: int) -> bytes:
    """The samples section: the rows that begin samples, listed when they are few, else a bit a row."""
    if len(rows) < n_rows // lib.TD_LISTED_ROWS:
        return rows.astype("<u4").tobytes()
    begins = np.zeros(n_rows, dtype=bool)
    begins[rows] = True
    return np.packbits(begins, bitorder="little").tobytes()


def part_record(header: Any, offset: int, label: int) -> bytes:
    """A part's record for the parts section."""
    header.offset, header.label = offset, label
    record = ffi.new("uint8_t[]", lib.TD_PART_RECORD)
    lib.td_encode_part_record(header, record)
    return bytes(ffi.buffer(record))


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


def plan_bits(
    rows: npt.NDArray[np.uint32], width: int, method: str, patience: int = 0
) -> tuple[npt.NDArray[np.uint32], Any]:
    """The base bits of each feature by a published method, and what they lead to."""
    n, d = rows.shape
    mask = np.zeros(d, dtype=np.uint32)
    scratch = ffi.new("uint32_t[]", 2 * d * width)
    result = ffi.new("td_plan_result *")
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    planned = lib.td_plan_greedy if method == "greedygd" else lib.td_plan_compress
    status = planned(
        view(rows, "const uint32_t[]"), n, d, width, patience, ffi.from_buffer("uint32_t[]", mask), scratch, result,
        work, size,
    )  # fmt: skip
    check(status, "planning bits")
    return mask, result


def best_part(
    rows: npt.NDArray[np.uint32],
    width: int,
    method: str,
    group: npt.NDArray[np.uint32] | None,
    members: Members,
    most: int,
    shared: SharedPlan | None,
    plain: npt.NDArray[np.uint32] | None = None,
) -> tuple[bytes, Any, npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """The smallest part that holds these rows: bytes, header, which stored rows begin a sample, the rows' order.

    `members`: which they are of the table. `plain`: all its rows before transforms, when these went through some.
    """
    by_key = encode_sorted(rows, width) if not shared and _sortable(method, group, members) else None
    if by_key and group is None and by_key.header.deviation_bits <= WIDE:
        return by_key.data, by_key.header, by_key.cells(most), by_key.order
    if group is None:
        own = condense_published(rows if plain is None else np.ascontiguousarray(plain[members]), width, most)
        order = np.argsort(own, kind="stable")
        rows, own = rows[order], own[order]
    else:
        order, own = np.arange(len(rows)), group[members]
    data, header = _encode_shared(rows, width, shared) if shared else _encode_part(rows, width, method)
    if by_key and len(by_key.data) <= len(data):
        starts = by_key.cells(most) if group is None else np.ones(len(rows), dtype=bool)
        return by_key.data, by_key.header, starts, by_key.order
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = own[1:] != own[:-1]
    return data, header, starts, order


def shared_plan(
    rows: npt.NDArray[np.uint32], width: int, method: str, offsets: npt.NDArray[np.uint32] | None = None
) -> SharedPlan:
    """One plan for all classes: on the values, or on those less `offsets`, by default their minimum over all rows."""
    mask, result = plan_bits(rows, width, method)
    if method in PUBLISHED:
        return mask, None
    if offsets is None:
        offsets = np.ascontiguousarray(rows.min(axis=0))
    other, moved = plan_bits(rows - offsets, width, method)
    return (mask, None) if result.size_bits <= moved.size_bits else (other, offsets)


def _encode_shared(rows: npt.NDArray[np.uint32], width: int, shared: SharedPlan) -> tuple[bytes, Any]:
    mask, offsets = shared
    return _encode_mask(rows if offsets is None else rows - offsets, width, offsets, mask)


@dataclass(frozen=True)
class PartPlan:
    """Base bits of a part; what is taken off its values, if anything; its rows then; its bytes."""

    mask: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32] | None
    rows: npt.NDArray[np.uint32]
    size: int


def plan_part(rows: npt.NDArray[np.uint32], width: int, method: str) -> PartPlan:
    """The published plan, or the smaller of it and the one of the values less their minimum in this part."""
    n, d = rows.shape
    if method in PUBLISHED:
        mask, result = plan_bits(rows, width, method)
        offsets, moved = None, rows
    else:
        mask, minima, less = np.empty(d, np.uint32), np.empty(2 * d, np.uint32), np.empty_like(rows)
        result, size = ffi.new("td_plan_result *"), lib.td_plan_work_size(n)
        status = check(lib.td_plan_part(
            view(rows, "const uint32_t[]"), n, d, width, ffi.from_buffer("uint32_t[]", mask),
            ffi.from_buffer("uint32_t[]", minima), ffi.from_buffer("uint32_t[]", less),
            ffi.new("uint32_t[]", 2 * d * width), result, ffi.new("uint64_t[]", size // 8 + 1), size,
        ), "planning bits")  # fmt: skip
        offsets, moved = (minima[:d], less) if status else (None, rows)
    size = lib.td_part_size(n, d, width, view(mask, "const uint32_t[]"), offsets is not None, result.n_bases)
    return PartPlan(mask, offsets, moved, int(size))


def _encode_part(rows: npt.NDArray[np.uint32], width: int, method: str) -> tuple[bytes, Any]:
    plan = plan_part(rows, width, method)
    return _encode_mask(plan.rows, width, plan.offsets, plan.mask)


def _encode_mask(
    rows: npt.NDArray[np.uint32], width: int, offsets: npt.NDArray[np.uint32] | None, mask: npt.NDArray[np.uint32]
) -> tuple[bytes, Any]:
    n, d = rows.shape
    group = np.zeros(n, dtype=np.uint32)
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    rows_view, mask_view = view(rows, "const uint32_t[]"), view(mask, "const uint32_t[]")
    group_view = ffi.from_buffer("uint32_t[]", group)
    n_bases = check(lib.td_plan_group(rows_view, n, d, width, mask_view, group_view, work, size), "grouping rows")
    header = ffi.new("td_part_header *")
    # The plan's own size, masks and offsets at full width, and the padding of four blocks.
    base_bits = int(np.unpackbits(mask.view(np.uint8)).sum())
    size_bits = n_bases * base_bits + n * (d * width - base_bits + (n_bases - 1).bit_length())
    capacity = (size_bits + 2 * d * width) // 8 + 4
    if capacity > MAX_PART:
        raise DataError(f"{n} rows of one class take {capacity} bytes; at most {MAX_PART} fit a pack. Split the table")
    out = ffi.new("uint8_t[]", capacity)
    offsets_view = ffi.NULL if offsets is None else view(offsets, "const uint32_t[]")
    length = check(
        lib.td_encode_part(rows_view, n, d, width, mask_view, offsets_view, group_view, n_bases, out, capacity, header),
        "encoding rows",
    )
    return bytes(ffi.buffer(out, length)), header
