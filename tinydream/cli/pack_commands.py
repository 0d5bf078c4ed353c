"""The commands that make, read and check packs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from .console import answer, console

__all__ = ["add_pack_commands", "read_source", "source_arguments"]

MOST_COMPARED = 2**26  # values of a pack that other compressors are given
LISTED = 64  # fields that inspect shows
NAMED = 8  # columns that a note names
Command = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def add_pack_commands(command: Command, cut: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds pack, inspect, verify, cat and unpack. `command` makes one, `cut` adds the options that name a cut."""
    made = command("pack", _pack, "Pack rows into a .tdz.")
    source_arguments(made)
    made.add_argument("--through", metavar="MODEL", help="pack the rows' embeddings at the cut of this .tflite")
    cut(made)
    made.add_argument("--per-class", type=int, default=16, help="condensed samples a class (default 16)")
    made.add_argument(
        "--method",
        choices=("variance", "entrogede", "greedygd", "random"),
        default="variance",
        help="how rows become samples: ours (default) or a published method; random goes with --replay only",
    )
    made.add_argument("--replay", type=int, metavar="N", help="keep only N weighted samples, as a replay set")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--lossy",
        metavar="bits=N",
        help="keep N bits of the range of real numbers that would take more (says what that changes)",
    )
    made.add_argument(
        "--resolution",
        type=float,
        metavar="R",
        help="make real numbers multiples of R where that saves bits (says what that changes)",
    )
    made.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="what would take more, about, is packed piece by piece (default 256MB). Counts what the rows take; "
        "Python and its libraries come beside it. Temporary files lie beside OUTPUT",
    )
    made.add_argument("--keep-order", action="store_true", help="row i of the pack is row i of SOURCE (larger)")
    made.add_argument(
        "--profile", choices=("mcu", "archive"), default="mcu", help="archive: smaller, for storage; no board reads it"
    )
    made.add_argument("-o", "--output", required=True, help="the .tdz")
    images = made.add_argument_group("images (a folder of folders of them, or --images)")
    images.add_argument("--images", action="store_true", help="rows are images: (n, height, width) or (.., channels)")
    images.add_argument("--tile", type=int, metavar="N", help="cut the images of a folder into squares of this side")
    images.add_argument("--quality", type=int, help="1 to 100: round DCT coefficients as JPEG does (lossy)")
    images.add_argument("--no-colour-transform", action="store_true", help="leave red, green and blue as they are")
    images.add_argument("--no-dct", action="store_true", help="store pixels, not coefficients of 8 x 8 tiles")
    images.add_argument("--no-class-wise", action="store_true", help="one bit plan for all classes")

    made = command("inspect", _inspect, "Say what is in a .tdz: schema, bit plan, sizes beside other compressors.")
    made.add_argument("pack", help="the .tdz")
    made.add_argument("--plot", metavar="PLAN.png", help="draw the bit plan")
    made.add_argument("--no-compare", action="store_true", help="leave out zlib, zstd and xz, which take their time")

    made = command("verify", _verify, "Check every byte of a .tdz, and read every row.")
    made.add_argument("pack", help="the .tdz")

    made = command("cat", _cat, "Print rows of a .tdz, decoding no others.")
    made.add_argument("pack", help="the .tdz")
    made.add_argument(
        "--rows",
        default=":10",
        help="numbers and slices: 3,10:20,::2 (default :10); below zero from the end: --rows=-3:",
    )

    made = command("unpack", _unpack, "Write the rows of a .tdz to a file, in stored order, labels beside.")
    made.add_argument("pack", help="the .tdz")
    made.add_argument("-o", "--output", required=True, help="X.npy, X.npz, X.csv or X.parquet")


def source_arguments(made: argparse.ArgumentParser) -> None:
    """Where rows come from."""
    made.add_argument(
        "source", help="a .csv, .tsv, .parquet, .npz (x, y) or .npy file of rows, or a folder of .wav or images"
    )
    made.add_argument(
        "--label",
        action="append",
        help="name of the label column (again for several), or of the array "
        "of a .npz (default y); without it there are no labels",
    )
    made.add_argument(
        "--real", action="store_true", help="labels are real numbers, not classes (default: if fractions)"
    )
    made.add_argument("--classes", help="names of the classes, in the order of the model's outputs: a,b,c")
    made.add_argument("--labels", help="the .npy file of the labels, for a .npy of rows")
    made.add_argument("--window", type=int, metavar="N", help="samples of a window of .wav files")
    made.add_argument("--hop", type=int, metavar="N", help="samples from one window to the next (default: a window)")


def read_source(options: argparse.Namespace) -> Any:
    """The table that source_arguments name."""
    from ..tables.sources import read

    _check_taken(options)
    label, classes = _labels(options)
    return read(
        options.source, label=label, labels=options.labels, classes=classes, real=True if options.real else None,
        window=options.window, hop=options.hop,
    )  # fmt: skip


def _labels(options: argparse.Namespace) -> tuple[Any, list[str] | None]:
    """The label column or columns, and the names of the classes."""
    label = options.label[0] if options.label and len(options.label) == 1 else options.label
    return label, options.classes.split(",") if options.classes else None


# What says more about a source than its name, by what the source is.
COLUMNS = ("--label", "--real")
TAKEN = {".csv": COLUMNS, ".tsv": COLUMNS, ".parquet": COLUMNS, ".npz": COLUMNS, ".npy": ("--labels", "--real"),
         "folder": ("--window", "--hop")}  # fmt: skip


def _check_taken(options: argparse.Namespace) -> None:
    """Raises UsageError for an option that would change nothing."""
    source = Path(options.source)
    kind = "folder" if source.is_dir() else source.suffix.lower()
    for name in ("label", "labels", "real", "window", "hop"):
        given = getattr(options, name)
        if given not in (None, False) and f"--{name}" not in TAKEN.get(kind, (f"--{name}",)):
            taken = ", ".join(TAKEN[kind]) + (" (of recordings)" if kind == "folder" else "")
            raise UsageError(f"{source}: --{name} does not go with a {kind}; what does: {taken}")


def _pack(options: argparse.Namespace) -> None:
    from ..files import output_path
    from ..streams.streaming import DEFAULT_MEMORY, too_large

    _check_taken(options)
    output_path(options.output, options.source, options.labels, options.through)
    if Path(options.output).suffix.lower() in TAKEN:
        raise UsageError(f"-o {options.output}: what pack writes is a .tdz; name one (`unpack` writes other files)")
    memory = DEFAULT_MEMORY if options.max_memory is None else _bytes(options.max_memory)
    if too_large(options.source, memory, window=options.window, hop=options.hop):
        _pack_file(options, memory)
        return
    _pack_whole(options)


def _bytes(text: str) -> int:
    """Bytes of "256MB", "1GB", "4000000"."""
    from ..streams.streaming import LEAST_MEMORY

    units = {"KB": 2**10, "MB": 2**20, "GB": 2**30}
    unit = text[-2:].upper()
    number = text[:-2] if unit in units else text
    if not number.strip().isdecimal():
        raise UsageError(f"--max-memory {text}: write a number of bytes, or 256MB")
    size = int(number) * units.get(unit, 1)
    if size < LEAST_MEMORY:
        raise UsageError(f"--max-memory {text}: at least {LEAST_MEMORY // 2**20}MB are needed")
    return size


def _pack_file(options: argparse.Namespace, memory: int) -> None:
    from ..models.compiler import compile_model
    from ..streams.streaming import pack_file

    shown = console(options)
    label, names = _labels(options)
    told = pack_file(
        options.source, options.output, label=label, labels=options.labels, classes=names,
        real=True if options.real else None, window=options.window, hop=options.hop, tile=options.tile,
        images=_image_options(options), per_class=options.per_class, method=options.method,
        through=compile_model(Path(options.through), options.cut) if options.through else None,
        lossy_bits=_lossy_bits(options), resolution=options.resolution, keep_order=options.keep_order,
        profile=options.profile, replay=options.replay, seed=options.seed, max_memory=memory, progress=shown.progress,
    )  # fmt: skip
    shown.close()
    facts = {"rows": told.rows, "samples": told.samples, "features": told.features, "bytes": told.bytes,
             "bytes_raw_float32": told.raw_float32_size, "psnr": told.psnr, "schema": told.schema.as_list(),
             "streamed": True, "parts": told.parts, "embedding_error": told.embedding_error,
             "left_out": list(told.left_out)}  # fmt: skip
    notes = [*told.left_out, f"packed piece by piece, in {told.parts} parts", *_quality_notes(options, told.psnr)]
    if told.cut:
        notes.append(_window_note(told.cut.n_rows, told.features))
    _pack_answer(options, facts, told.schema, notes)


def _pack_whole(options: argparse.Namespace) -> None:
    from ..models.compiler import compile_model
    from ..packs.packing import pack
    from ..packs.reduction import LARGE

    shown = console(options)
    table, images = _read_rows(options)
    model = compile_model(Path(options.through), options.cut) if options.through else None
    packed = pack(
        table, through=model, per_class=options.per_class, method=options.method, replay=options.replay,
        seed=options.seed, images=images, lossy_bits=_lossy_bits(options), resolution=options.resolution,
        keep_order=options.keep_order, profile=options.profile,
        progress=shown.progress,
    )  # fmt: skip
    shown.close()
    if len(table) > LARGE and options.method == "variance":
        shown.note(f"more than {LARGE:,} rows: condensed by sorted keys or the published rule, not by variance")
    packed.save(options.output)
    facts = {"rows": len(packed), "samples": packed.n_samples, "features": packed.n_features,
             "bytes": len(packed.data), "bytes_raw_float32": packed.raw_float32_size, "psnr": packed.psnr,
             "schema": packed.schema.as_list(), "streamed": False, "parts": int(packed.native.n_parts),
             "embedding_error": packed.embedding_error, "left_out": list(table.left_out)}  # fmt: skip
    notes = list(table.left_out)
    if packed.facts()["windows"]:
        notes.append(_window_note(int(packed.native.n_rows), packed.n_features))
    notes += _quality_notes(options, packed.psnr)
    _pack_answer(options, facts, packed.schema, notes)


def _window_note(n_blocks: int, n_features: int) -> str:
    return f"what windows share is stored once, in {n_blocks:,} blocks of {n_features}"


def _quality_notes(options: argparse.Namespace, psnr: float | None) -> list[str]:
    if psnr is None:
        return []
    told = "as they were" if np.isinf(psnr) else f"not as they were: {psnr:.2f} dB PSNR"
    return [f"at quality {options.quality} pixels are {told}"]


def _pack_answer(options: argparse.Namespace, facts: dict[str, Any], schema: Any, notes: list[str]) -> None:
    rows, raw, size = facts["rows"], facts["bytes_raw_float32"], facts["bytes"]
    answer(options, facts, [
        f"{options.output}: {rows} rows x {(raw // rows - 1) // 4}, {facts['samples']} condensed samples, "
        f"{size:,} bytes (float32: {raw:,}, {raw / size:.1f} times as many)",
        *_loss_lines(options, facts, schema), *notes
    ])  # fmt: skip


def _loss_lines(options: argparse.Namespace, facts: dict[str, Any], schema: Any) -> list[str]:
    """What --lossy or --resolution changed, and which real numbers it did not."""
    if not (options.lossy or options.resolution):
        return []
    lines = _field_lines([field for field in schema.fields if field.lossy])
    if facts["embedding_error"] is not None:
        most, rms = facts["embedding_error"]
        lines.append(f"embeddings in steps of {options.resolution:g}: at most {most:.3g} off, RMS {rms:.3g}")
    exact = [field.name for field in schema.features if field.dtype[0] == "f" and not field.lossy]
    if exact:
        more = f" and {len(exact) - NAMED} more" if len(exact) > NAMED else ""
        lines.append(f"not changed, as exact numbers take no more bits: {', '.join(map(_word, exact[:NAMED]))}{more}")
    return lines or ["nothing was lost: only columns of real numbers can be, and there are none"]


def _lossy_bits(options: argparse.Namespace) -> int | None:
    if options.lossy is None:
        return None
    key, _, value = options.lossy.partition("=")
    if key != "bits" or not value.isdecimal():
        raise UsageError(f"--lossy {options.lossy}: write --lossy bits=8, or --resolution R")
    return int(value)


def _image_options(options: argparse.Namespace) -> Any:
    """How to pack rows that are images; None: they are none, or embeddings of images."""
    from ..tables.images import ImageOptions, holds_images

    chosen = ImageOptions(
        False if options.no_colour_transform else None, False if options.no_dct else None,
        not options.no_class_wise, options.quality,
    )  # fmt: skip
    if holds_images(options.source):
        if options.through is None and (options.lossy or options.resolution):
            raise UsageError("--lossy and --resolution are of real numbers; images become smaller with --quality")
        if options.window or options.hop:
            raise UsageError("images have no windows; leave --window and --hop out, or cut them by --tile")
        return None if options.through else chosen
    if not options.images and (options.tile or chosen != ImageOptions()):
        raise UsageError("options of images, but the rows are none; give a folder of folders of images, or --images")
    return chosen if options.images else None


def _read_rows(options: argparse.Namespace) -> tuple[Any, Any]:
    """The table, and how to pack it when its rows are images (else None)."""
    from ..tables.images import holds_images, read_images

    images = _image_options(options)
    if holds_images(options.source):
        names = options.classes.split(",") if options.classes else None
        return read_images(options.source, tile=options.tile, classes=names), images
    return read_source(options), images


def _inspect(options: argparse.Namespace) -> None:
    from ..files import atomic_write, output_path
    from ..packs.inspection import bit_plan, coded_names, compare, plan_lines, transform_lines
    from ..packs.pack import open_pack

    opened = open_pack(options.pack)
    if options.plot:
        output_path(options.plot, options.pack)
        if Path(options.plot).suffix.lower() != ".png":
            raise UsageError(f"--plot {options.plot}: the plan is drawn as a .png; name one")
    plan, names = bit_plan(opened), coded_names(opened)
    large = int(opened.native.n_rows) * opened.n_features > MOST_COMPARED
    sizes = None if options.no_compare or large else compare(opened)
    if options.plot:
        from .plots import draw_plan

        title = f"{Path(options.pack).name}: {len(opened):,} rows x {opened.n_features}, {len(opened.data):,} bytes"
        atomic_write(
            options.plot, draw_plan(plan.entropy.tolist(), plan.base.tolist(), plan.key.tolist(), names, title)
        )
    facts = {
        **opened.facts(), "sections": opened.sections(), "sizes": sizes, "plot": options.plot,
        "plan": {"entropy": plan.entropy.round(4).tolist(), "base": plan.base.round(4).tolist(),
                 "key": plan.key.round(4).tolist()},
        "transforms": transform_lines(opened),
    }  # fmt: skip
    lines = [f"{name:<16}{value}" for name, value in opened.facts().items() if name != "schema"]
    lines += ["", *_field_lines(opened.schema.fields)]
    lines += [
        "",
        *plan_lines(plan, names),
        *transform_lines(opened),
        "",
        *_size_lines(opened.sections(), len(opened.data)),
    ]
    if sizes:
        lines += ["", *_compare_lines(sizes)]
    elif large:
        lines += ["", f"more than {MOST_COMPARED:,} values: not compared with zlib, zstd and xz"]
    answer(options, facts, [*lines, *([f"drawn to {options.plot}"] if options.plot else [])])


def _field_lines(fields: Sequence[Any]) -> list[str]:
    """A line a field: its type and how its values are stored."""
    lines = []
    for field in fields:
        kinds = sorted({code.kind for code in field.codes})
        shape = f" {'x'.join(map(str, field.shape))}" if field.shape else ""
        notes = [" label"] * field.label + [" may be missing"] * field.nullable
        notes += [f" time zone {field.zone}"] if field.zone else []
        notes += [" decimal of {} digits, {} after the point".format(*field.decimal)] if field.decimal else []
        errors = [code.error for code in field.codes if code.error]
        if errors:
            notes.append(f" lossy: at most {max(error[0] for error in errors):.3g} off, "
                         f"RMS {math.hypot(*(error[1] for error in errors)) / math.sqrt(len(errors)):.3g}")  # fmt: skip
        lines.append(f"{field.name:<16}{field.dtype}{shape}, stored as {'/'.join(kinds)}{','.join(['', *notes])}")
    return lines[:LISTED] + ([f".. and {len(lines) - LISTED} more fields"] if len(lines) > LISTED else [])


def _size_lines(sections: dict[str, int], total: int) -> list[str]:
    return [f"{name:<16}{size:>12,} bytes  {100 * size / total:5.1f} %" for name, size in sections.items()]


def _compare_lines(sizes: dict[str, int | None]) -> list[str]:
    raw = sizes["raw"] or 1
    lines = []
    for name, size in sizes.items():
        told = (
            "not installed: pip install 'tinydream[zstd]'"
            if size is None
            else f"{size:>12,} bytes  {size / raw:.3f} of raw"
        )
        lines.append(f"{name:<16}{told}")
    return lines


def _verify(options: argparse.Namespace) -> None:
    from ..packs.inspection import verify

    opened = verify(options.pack)
    size = int(opened.native.file.size)
    behind = len(opened.data) - size
    facts = {"pack": options.pack, "sound": True, "rows": len(opened), "bytes": size, "bytes_behind": behind}
    notes = [f"{behind:,} bytes behind its end are not part of it, and were not looked at"] if behind else []
    answer(options, facts, [f"{options.pack}: sound; {len(opened):,} rows in {size:,} bytes", *notes])


def _cat(options: argparse.Namespace) -> None:
    from ..packs.adapters import flat_columns
    from ..packs.pack import open_pack
    from ..packs.unpacking import cells

    opened = open_pack(options.pack)
    numbers = _row_numbers(options.rows, len(opened))
    columns = flat_columns(opened, numbers)
    rows = list(zip(*map(cells, columns), strict=True))
    names = [column.name for column in columns]
    told = [{"row": int(number), "values": list(row)} for number, row in zip(numbers, rows, strict=True)]
    lines = ["row: " + " ".join(names)]
    lines += [f"{number}: {' '.join(map(_word, row))}" for number, row in zip(numbers, rows, strict=True)]
    answer(options, {"names": names, "rows": told}, lines)


def _word(value: Any) -> str:
    """A cell among others on a line: "-" where it is missing; texts that would not stay one word in quotes."""
    if value is None:
        return "-"
    text = str(value)
    plain = not isinstance(value, str) or (text.split() == [text] and text != "-" and '"' not in text)
    return text if plain else json.dumps(value, ensure_ascii=False)


def _row_numbers(text: str, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Row numbers of "3,10:20,-1"."""
    chosen: list[int] = []
    for item in text.split(","):
        try:
            if ":" in item:
                ends = [int(part) if part.strip() else None for part in item.split(":")]
                if len(ends) > 3 or ends[2:] == [0]:
                    raise ValueError
                chosen += range(*slice(*ends).indices(n))
                continue
            number = int(item)
        except ValueError:
            raise UsageError(
                f"--rows {text}: {item!r} is neither a row number nor a slice like 10:20 or 0:100:10"
            ) from None
        if not -n <= number < n:
            raise UsageError(f"--rows {text}: there is no row {number}; the pack has {n}")
        chosen.append(number % n)
    return np.array(chosen, dtype=np.int64)


def _unpack(options: argparse.Namespace) -> None:
    from ..files import output_path
    from ..packs.pack import open_pack
    from ..packs.unpacking import unpack

    output_path(options.output, options.pack)
    opened, shown = open_pack(options.pack), console(options)
    written = [str(path) for path in unpack(opened, options.output, progress=shown.progress)]
    shown.close()
    answer(options, {"rows": len(opened), "files": written}, [f"{', '.join(written)}: {len(opened):,} rows"])
