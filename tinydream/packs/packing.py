"""Packing: from a table to a .tdz, by the published methods and ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib
from ..errors import DataError, UsageError
from ..files import write_sections
from ..progress import Progress
from ..tables.images import ImageOptions, Transformed, transforms
from ..tables.schema import Field, Lossy, Schema, encode_table, plan_fields, type_name, with_errors
from ..tables.sources import as_table
from ..tables.table import Table
from ..tables.windows import as_blocks, overlap
from .archive import archive_rows
from .embeddings import embed, in_steps
from .pack import PROFILES, Pack
from .part import Groups, Members, best_part, choose_transforms, shared_plan
from .reduction import LARGE, PUBLISHED, WeightedSamples, condense, reduce, unsigned_rows
from .sections import order_section, part_record, sample_starts, schema_section
from .transforms import apply_transforms

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["archived", "check_options", "encode_images", "pack", "pack_samples"]

SURE = 0.9  # of the size without transforms: below this in a sample, all rows are taken to be smaller too


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
    they become multiples of it; both where that saves bits, and what it changes is in the pack's schema. `keep_order`:
    row i of the pack is row i of the table, at log2(rows) bits a row. `profile`: "mcu", or "archive" for a smaller pack
    that no board reads.
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
        table = embed(table, through, progress)
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
    if transform and image is None and method not in PUBLISHED:
        coded, undone = _encode_smallest(rows, width, table.labels, group, method, most)
    else:
        coded, undone = _encode_parts(rows, rows, width, table.labels, group, method, most, class_wise), b""
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
        sections.update(order_section(coded.order))
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


def _encode_smallest(
    rows: npt.NDArray[np.uint32], width: int, labels: npt.NDArray[np.int64], group: Groups, method: str, most: int
) -> tuple[_Coded, bytes]:
    """The rows as they are, or under transforms where that is smaller, with their section.

    A large table is not encoded as it is where a sample says that transforms save much.
    """
    plain = None if group is None else _encode_parts(rows, rows, width, labels, group, method, most)
    chosen, share = choose_transforms(rows, width, labels, group, method, len(plain.data) if plain else None)
    section = b"".join(transform.record() for transform in chosen)
    if plain is None and (not chosen or share > SURE):
        plain = _encode_parts(rows, rows, width, labels, group, method, most)
    if chosen:
        coded = _encode_parts(apply_transforms(chosen, rows, width), rows, width, labels, group, method, most)
        if plain is None or len(coded.data) + lib.TD_FILE_ENTRY + len(section) < len(plain.data):
            return coded, section
    assert plain is not None
    return plain, b""


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
        header.n_rows = n
        parts += part_record(header, 0, label)
    sections.pop(lib.TD_PACK_ORDER, None)
    sections.pop(lib.TD_PACK_TRANSFORMS, None)  # undone in what is coded
    if keep_order or made._cut is not None:
        given = np.empty(len(starts), dtype=np.int64)  # which row each stored one was
        given[made._positions()] = np.arange(len(starts))
        sections.update(order_section(given[coded.order]))
    sections.update({lib.TD_PACK_PARTS: parts, lib.TD_PACK_DATA: coded.data})
    return Pack(write_sections(lib.TD_MAGIC_PACK, sections), source=made.source)
