"""Packs sources larger than memory: a first pass plans fields and classes, a second one encodes part by part."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import cbor2

from .._native import lib
from ..errors import DataError, UsageError
from ..files import SectionStream, atomic_stream, output_path, scratch
from ..packs.embeddings import check_classes
from ..packs.packing import archived, check_options, pack_samples
from ..packs.reduction import PUBLISHED
from ..packs.sections import schema_section
from ..packs.transforms import Transform
from ..progress import Progress
from ..tables.images import ImageOptions
from ..tables.schema import Lossy, Schema
from ..tables.sources import TEXT, folder_kind, label_names
from ..tables.windows import Cut
from .chunked_files import CsvChunks, NpyChunks, NpzChunks, ParquetChunks
from .chunked_folders import ImageChunks, WaveChunks
from .chunks import Embedded, Labels, Source
from .estimates import bytes_at_once
from .parts import Archive, Parts, Positions
from .replay import Integers, Reducer
from .scanning import SHARE, Classes, Fields, Found, Pictures, Plan, Tell, scan

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["DEFAULT_MEMORY", "Summary", "pack_file", "too_large"]

DEFAULT_MEMORY = 2**28  # bytes
LEAST_MEMORY = 2**22


@dataclass(frozen=True)
class Summary:
    """What was packed: `rows` by `features` integers in `parts`, `samples` condensed, `bytes` of file, its `schema`.

    `embedding_error` and `psnr`: as in Pack. `left_out`: as in Table. `cut`: of windows that overlap, the way from
    their blocks, which have `features` integers, to the rows.
    """

    rows: int
    features: int
    parts: int
    samples: int
    bytes: int
    schema: Schema
    embedding_error: tuple[float, float] | None = None
    psnr: float | None = None
    left_out: tuple[str, ...] = ()
    cut: Cut | None = None

    @property
    def raw_float32_size(self) -> int:
        """Bytes of the same rows as float32, with one byte a label."""
        values = sum(field.size for field in self.schema.features) * (1 if self.cut is None else self.cut.span)
        return self.rows * (4 * values + 1)


def too_large(
    path: str | os.PathLike[str], max_memory: int, *, window: int | None = None, hop: int | None = None
) -> bool:
    """Whether a source should be packed by `pack_file` rather than read whole. `window`, `hop`: as for `read`."""
    return bytes_at_once(path, window, hop) > max_memory


@dataclass(frozen=True)
class _Job:
    """How to pack, and where: what both passes need to know."""

    source: Source
    stream: IO[bytes]  # the output
    output: Path
    files: contextlib.ExitStack  # temporary ones are closed, and so removed, with it
    per_class: int
    method: str
    images: ImageOptions | None
    keep_order: bool
    archive: bool
    memory: int
    progress: Progress | None

    def scratch(self) -> IO[bytes]:
        """A temporary file."""
        return self.files.enter_context(scratch(self.output))

    def tell(self, passes: int, of: int) -> Tell:
        """What hears of the bytes read in a pass, after so many others of so many in all."""
        total = of * self.source.n_bytes

        def told(done: int) -> None:
            if self.progress:
                self.progress(passes * self.source.n_bytes + done, total)

        return told


def pack_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    label: Labels = None,
    labels: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | int | None = None,
    real: bool | None = None,
    window: int | None = None,
    hop: int | None = None,
    tile: int | None = None,
    through: Model | None = None,
    per_class: int = 16,
    method: str = "variance",
    lossy_bits: int | None = None,
    resolution: float | None = None,
    keep_order: bool = False,
    profile: str = "mcu",
    replay: int | None = None,
    seed: int = 0,
    images: ImageOptions | None = None,
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Summary:
    """Packs a file or a folder of any size in about `max_memory` bytes, and writes it to `output`.

    Sources are those of `read`, except data frames; the rest is as there, in `read_images` and in `pack`. Rows are in
    parts of their own that fit memory, and condensed part by part; an image, of which some are looked at to choose a
    transform, must fit as a whole. What does not fit until it is written (embeddings, the order of rows, an archive's
    rows) lies in temporary files beside `output`, which are gone in the end whatever happens. Until the new file is
    whole, `output` holds the old one. `progress` counts bytes of the source, in each pass over it.
    Raises DataError when rows or labels cannot be packed, UsageError for what needs all rows at once.
    """
    if max_memory < LEAST_MEMORY:
        raise UsageError(f"{max_memory} bytes of memory; at least {LEAST_MEMORY} are needed")
    if replay is None and method not in ("variance", *PUBLISHED):
        raise UsageError(f"no method {method!r} packs files; there are variance, {', '.join(PUBLISHED)}")
    check_options(through, replay, images, keep_order, profile)
    output_path(output, source, labels if isinstance(labels, (str, os.PathLike)) else None)
    lossy = None if lossy_bits is None and resolution is None else Lossy(lossy_bits, resolution)
    try:
        # What becomes embeddings or samples is whole windows, whether they overlap or not.
        cut = _Cut(window, hop, tile, through is None and replay is None, keep_order)
        found = _open(Path(source), label, labels, classes, cut, max_memory // 4)
        # Temporary files are closed before the output takes its place: when that fails, the old one stays.
        with atomic_stream(output) as stream, contextlib.ExitStack() as files:
            if through is not None:
                spool = files.enter_context(scratch(output))
                found = Embedded(found, through, resolution, spool, max_memory // 4)
                lossy = None if through.output_dtype.kind == "f" else lossy
            job = _Job(found, stream, Path(output), files, per_class, method, images, keep_order, profile == "archive",
                       max_memory, progress)  # fmt: skip
            classes = classes if found.names is None else found.names
            if replay is not None:
                return _pack_replay(job, replay, seed, classes, real)
            return _pack_rows(job, lossy, classes, real)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{source}: cannot be read as {Path(source).suffix}: {error}") from error


class _Cut(NamedTuple):
    """How rows are cut out of recordings and images."""

    window: int | None
    hop: int | None
    tile: int | None
    blocks: bool
    keep_order: bool


def _open(path: Path, label: Labels, labels: Any, classes: Classes, cut: _Cut, memory: int) -> Source:
    """The source of a file or a folder, whose chunks take about `memory` bytes. Raises DataError."""
    suffix = path.suffix.lower()
    if path.is_dir() and folder_kind(path, cut.window, cut.hop) == "images":
        return ImageChunks(path, cut.tile, None if isinstance(classes, int) else classes, memory)
    if path.is_dir():
        return WaveChunks(path, cut.window, cut.hop, classes, memory, blocks=cut.blocks, keep_order=cut.keep_order)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if suffix in TEXT:
        return CsvChunks(path, label_names(label), memory)
    if suffix == ".parquet":
        return ParquetChunks(path, label_names(label), memory)
    if suffix == ".npy":
        return NpyChunks(path, label_names(label), labels, memory)
    if suffix == ".npz":
        return NpzChunks(path, label, classes, memory)
    raise DataError(
        f"{path}: a {suffix or 'nameless'} file cannot be packed piece by piece; use .csv, .parquet, .npy, .npz, or a "
        "folder of images or recordings"
    )


def _pack_rows(job: _Job, lossy: Lossy | None, classes: Classes, real: bool | None) -> Summary:
    source, memory = job.source, job.memory // SHARE
    options = job.images

    def look() -> Fields | Pictures:
        if options is None:
            return Fields(source, lossy, memory)
        return Pictures(source.name, options, job.method, job.per_class, memory)

    seen, found = scan(source, look, classes, real, job.tell(0, 2 + job.archive))
    _check_classes(source, found)
    plan = seen.plan(found)
    transforms: tuple[Transform, ...] = ()
    if isinstance(seen, Fields) and not job.archive and job.method not in PUBLISHED:
        transforms = seen.transforms(found, job.method, sequence=source.cut is not None)
    del seen  # and what it remembers of the rows
    return _second_pass(job, found, plan, transforms)


def _check_classes(source: Source, found: Found) -> None:
    if isinstance(source, Embedded):
        check_classes(found.classes, found.ordered, source.model, source.name)


def _pack_replay(
    job: _Job, budget: int, seed: int, classes: Classes, real: bool | None
) -> Summary:  # fmt: skip
    """One more pass or two, by the method; the samples fit memory."""
    source = job.source
    passes = 2 if job.method == "random" else 3
    seen, found = scan(source, lambda: Integers(source), classes, real, job.tell(0, passes))
    _check_classes(source, found)
    reducer = Reducer(source, found, seen, budget, job.method, job.memory // 2)
    samples = reducer.run(seed, [job.tell(n, passes) for n in range(1, passes)])
    model, scale = (source.model, source.scale) if isinstance(source, Embedded) else (None, 1.0)
    meta = _label(source, found) | _error(source)
    made = pack_samples(samples, seen.like, job.method, model, job.images, scale, meta, source.name)
    made = archived(made, False) if job.archive else made
    job.stream.write(made.data)
    return Summary(len(made), made.n_features, int(made.native.n_parts), made.n_samples, len(made.data), made.schema,
                   made.embedding_error, made.psnr, source.left_out)  # fmt: skip


def _label(source: Source, found: Found) -> dict[str, Any]:
    """What the metadata says of the labels that became classes; a model's are its own."""
    if found.label is None or isinstance(source, Embedded):
        return {}
    return found.label.as_meta(found.classes)


def _error(source: Source) -> dict[str, Any]:
    """What the metadata says of float32 embeddings."""
    error = source.error if isinstance(source, Embedded) else None
    return {} if error is None else {"embedding_error": list(error)}


def _second_pass(job: _Job, found: Found, plan: Plan, transforms: tuple[Transform, ...]) -> Summary:
    source = job.source
    model = source.model if isinstance(source, Embedded) else None
    # An archive sorts the rows of a sample, and windows are rows in their order.
    ordered = job.keep_order or (job.archive and source.cut is not None)
    positions = Positions(job.scratch(), found.n_rows) if ordered else None
    width = max(1, (plan.high - plan.low).bit_length())
    archive = Archive(job.scratch(), job.scratch(), width, job.memory) if job.archive else None
    parts = Parts(plan, found, per_class=job.per_class, method=job.method, memory=job.memory // 3 * 2,
                  sequence=source.cut is not None, transforms=transforms, positions=positions,
                  archive=archive)  # fmt: skip
    sections = SectionStream(job.stream, int(lib.TD_MAGIC_PACK), 4 + 1 + ordered + bool(plan.image) + bool(transforms))
    sections.add(int(lib.TD_PACK_SCHEMA), [bytes(lib.TD_PACK_SCHEMA_SIZE)])
    sections.add(int(lib.TD_PACK_DATA), _data(job, found, plan, parts, archive))
    sections.add(int(lib.TD_PACK_PARTS), [b"".join(parts.records)])
    sections.add(int(lib.TD_PACK_SAMPLES), [parts.begins()])
    if positions:
        sections.add(int(lib.TD_PACK_ORDER), positions.section())
    if transforms:
        sections.add(int(lib.TD_PACK_TRANSFORMS), [b"".join(transform.record() for transform in transforms)])
    if plan.image:
        sections.add(int(lib.TD_PACK_IMAGE), [plan.image])
    bare = isinstance(source, Embedded) and not found.targets  # a board's rows, which need no description
    schema, psnr = Schema.of_integers(plan.n_stored) if bare else plan.schema(), plan.psnr()
    meta = _meta(job, found, schema) | ({} if psnr is None else {"psnr": psnr})
    sections.add(int(lib.TD_PACK_META), [cbor2.dumps(meta)])
    sections.rewrite(int(lib.TD_PACK_SCHEMA), schema_section(
        n_rows=parts.n_rows, n_samples=parts.n_samples, n_features=plan.n_stored, n_classes=len(found.classes),
        n_parts=len(parts.records), width=parts.width, low=plan.low, high=parts.high, model=model,
        scale=source.scale if isinstance(source, Embedded) else 1.0, image=bool(plan.image),
    ))  # fmt: skip
    sections.finish()
    job.stream.seek(0, os.SEEK_END)
    error = source.error if isinstance(source, Embedded) else None
    n_rows = parts.n_rows if source.cut is None else len(source.cut)
    return Summary(n_rows, plan.n_stored, len(parts.records), parts.n_samples, job.stream.tell(), schema, error, psnr,
                   source.left_out, source.cut)  # fmt: skip


def _data(job: _Job, found: Found, plan: Plan, parts: Parts, archive: Archive | None) -> Iterator[bytes]:
    """The data section."""
    tell = job.tell(1, 2 + job.archive)
    for chunk in job.source.chunks():
        yield from parts.take(plan.encode(chunk), found.numbers(chunk))
        tell(chunk.done)
    yield from parts.rest()
    if parts.n_rows != found.n_rows:
        raise DataError(f"{job.source.name}: {parts.n_rows:,} rows, but {found.n_rows:,} before; the file changed")
    if archive:
        tell_coded = job.tell(2, 3)
        yield from archive.section(lambda done, total: tell_coded(job.source.n_bytes * done // total))


def _meta(job: _Job, found: Found, schema: Schema) -> dict[str, Any]:
    """What the metadata says."""
    meta: dict[str, Any] = {}
    if any(name != str(i) for i, name in enumerate(found.classes)):
        meta["classes"] = list(found.classes)
    if schema != Schema.of_integers(schema.n_stored):
        meta["fields"] = schema.as_list()
    if job.source.cut is not None:
        meta["windows"] = job.source.cut.as_map()
    return meta | _label(job.source, found) | _error(job.source)
