"""Builds the firmware of a board: the C core, firmware/ and zcbor's runtime, with the cross compiler on PATH."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import resources
from ..errors import UsageError
from .boards import Board

__all__ = ["Firmware", "build", "build_id", "cache_directory"]

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
# -ffp-contract=off: host and board must do the same operations in the same order.
# TD_IMAGES: what a board trains on are embeddings.
COMMON = ["-DTD_IMAGES=0", "-std=c99", "-ffp-contract=off", "-fno-fast-math", "-ffunction-sections", "-fdata-sections"]
# Where the time goes; everything else is built for size.
HOT = {
    "kernels.c",
    "kernels_int16.c",
    "train.c",
    "dense.c",
    "loss.c",
    "optimise.c",
    "fixed.c",
    "common.c",
    "decode.c",
    "fields.c",
    "parts.c",
    "seek.c",
    "samples.c",
    "sampler.c",
}
ZCBOR_SOURCES = ["zcbor_common.c", "zcbor_decode.c", "zcbor_encode.c"]
ZCBOR_FLAGS = ["-DZCBOR_STOP_ON_ERROR", "-w"]
PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-objcopy": "binutils-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "cc": "gcc libc6-dev",
}


@dataclass(frozen=True)
class Firmware:
    """A built firmware. Sizes are in bytes; hex, bin and sizes are None or 0 for a board that is a process."""

    board: str
    build_id: str
    elf: Path
    hex: Path | None
    bin: Path | None
    text: int
    static_ram: int
    flash: int


def cache_directory() -> Path:
    """Where builds are kept: $TINYDREAM_CACHE, else tinydream/ in the user's cache folder."""
    chosen = os.environ.get("TINYDREAM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinydream"


def build(board: Board, out_dir: str | Path | None = None) -> Firmware:
    """The firmware for `board`, built unless the same sources were built before.

    `out_dir`: where <board>.elf, .hex and .bin go; default: only the cache. Raises UsageError when a tool is missing
    (with the package that has it) or the compiler or linker refuses (with its words).
    """
    compiler = _tool(_program(board, "gcc"))
    digest = _digest(board, compiler)
    cached = cache_directory() / "firmware" / f"{board.id}-{digest}"
    if not (cached / "firmware.json").is_file():
        _build_into(board, compiler, digest, cached)
    firmware = _load(cached)
    return firmware if out_dir is None else _copy(firmware, Path(out_dir))


def build_id(board: Board) -> str:
    """The id that a firmware built now would have: a hash of its sources, the board and the compiler."""
    return _digest(board, _tool(_program(board, "gcc")))


def _program(board: Board, name: str) -> str:
    return "cc" if board.arch == "posix" and name == "gcc" else f"{board.toolchain}-{name}"


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UsageError(
            f"{name} is not on PATH, and the firmware cannot be built without it. "
            f"On Debian or Ubuntu: sudo apt install {PACKAGES.get(name, name)}"
        )
    return found


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = (done.stderr or done.stdout).strip()
        raise UsageError(f"{what} failed ({Path(command[0]).name} returned {done.returncode}):\n{message[-4000:]}")
    return done.stdout


def _sources(board: Board) -> Iterator[Path]:
    firmware = resources.directory("firmware")
    yield from sorted(resources.directory("c_src").glob("*.c"))
    yield from [firmware / "main.c", firmware / "commands.c", firmware / board.driver]
    if board.arch == "cortex-m":
        yield firmware / "startup_cortex_m.c"


def _digest(board: Board, compiler: str) -> str:
    """Of everything that the build depends on."""
    digest = hashlib.sha256()
    facts = [asdict(board), COMMON, WARNINGS, sorted(HOT), ZCBOR_FLAGS, resources.zcbor_version()]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(_run([compiler, "--version"], "asking the compiler for its version").encode())
    template = resources.directory("firmware") / "cortex_m.ld.in"
    headers = [path for name in ("c_src", "firmware") for path in sorted(resources.directory(name).glob("*.h"))]
    for path in [*_sources(board), *headers, template, Path(__file__)]:
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:12]


def _board_header(board: Board, digest: str) -> str:
    values = {
        "BOARD_ID": f'"{board.id}"',
        "BUILD_ID": f'"{digest}"',
        "RAM_ORIGIN": board.ram.origin,
        "RAM_SIZE": board.ram.size,
        "STATICS_RESERVE": board.reserve.statics,
        "STACK_RESERVE": board.reserve.stack,
        "FIRMWARE_ORIGIN": board.flash.origin,
        "FIRMWARE_SIZE": board.firmware.size,
        "FLASH_ERASE_BLOCK": board.flash.erase_block,
        "FLASH_PROGRAM_UNIT": board.flash.program_unit,
        "FLASH_ERASED": board.flash.erased,
        "STORE_ORIGIN": board.store.origin,
        "STORE_SIZE": board.store.size,
        **{f"PORT_{key.upper()}": value for key, value in board.port.items()},
    }
    lines = [f"#define TD_{key} {f'{value:#x}u' if isinstance(value, int) else value}" for key, value in values.items()]
    capacity = ", ".join(map(str, board.store.capacity))
    return "\n".join(["/* Written by tinydream/build.py. */", *lines, f"#define TD_STORE_CAPACITY {{{capacity}}}", ""])


def _linker_script(board: Board) -> str:
    values = {
        "FLASH_ORIGIN": board.flash.origin,
        "FIRMWARE_SIZE": board.firmware.size,
        "RAM_ORIGIN": board.ram.origin,
        "RAM_SIZE": board.ram.size,
        "STACK_RESERVE": board.reserve.stack,
        "STATICS_RESERVE": board.reserve.statics,
    }
    template = (resources.directory("firmware") / "cortex_m.ld.in").read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda match: hex(values[match[1]]), template)


def _compile(board: Board, compiler: str, work: Path) -> list[Path]:
    zcbor = resources.zcbor()
    includes = [work, resources.directory("c_src"), resources.directory("firmware"), zcbor / "include"]
    flags = [*COMMON, *board.flags, *(f"-I{path}" if path != includes[-1] else f"-isystem{path}" for path in includes)]
    jobs: list[tuple[Path, list[str]]] = []
    for path in _sources(board):
        freestanding = ["-ffreestanding"] if board.arch == "cortex-m" or path.parent.name == "c_src" else []
        jobs.append((path, [*WARNINGS, "-DZCBOR_STOP_ON_ERROR", "-O2" if path.name in HOT else "-Os", *freestanding]))
    jobs += [(zcbor / "src" / name, ["-Os", *ZCBOR_FLAGS]) for name in ZCBOR_SOURCES]

    def one(job: tuple[Path, list[str]]) -> Path:
        source, extra = job
        target = work / f"{source.stem}.o"
        _run(
            [compiler, *flags, *extra, "-c", str(source), "-o", str(target)], f"compiling {source.name} for {board.id}"
        )
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, jobs))


def _build_into(board: Board, compiler: str, digest: str, target: Path) -> None:
    """Builds beside `target` and renames: what stands there is always whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as temporary:
        work, result = Path(temporary) / "work", Path(temporary) / "result"
        work.mkdir()
        result.mkdir()
        (work / "td_board.h").write_text(_board_header(board, digest), encoding="utf-8")
        objects = _compile(board, compiler, work)
        facts = _link(board, compiler, objects, work, result)
        facts |= {"board": board.id, "build_id": digest}
        (result / "firmware.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            result.rename(target)
        except OSError:
            if not (target / "firmware.json").is_file():  # else someone else has just built the same
                raise


def _link(board: Board, compiler: str, objects: list[Path], work: Path, result: Path) -> dict[str, int | str]:
    elf = result / "firmware.elf"
    what = f"linking the firmware of {board.id}"
    if board.arch == "posix":
        _run([compiler, *board.flags, *map(str, objects), "-o", str(elf)], what)
        return {"text": 0, "static_ram": 0, "flash": 0}
    script = work / "firmware.ld"
    script.write_text(_linker_script(board), encoding="utf-8")
    options = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-Wl,--fatal-warnings", f"-T{script}"]
    _run([compiler, *board.flags, *options, *map(str, objects), "-o", str(elf)], what)
    objcopy = _tool(_program(board, "objcopy"))
    for kind, name in (("ihex", "firmware.hex"), ("binary", "firmware.bin")):
        _run([objcopy, "-O", kind, str(elf), str(result / name)], f"writing {name} for {board.id}")
    return _sizes(board, elf)


def _sizes(board: Board, elf: Path) -> dict[str, int | str]:
    """Section sizes of the ELF: the stack's reserve is not counted as static RAM."""
    listing = _run([_tool(_program(board, "size")), "-A", str(elf)], f"measuring the firmware of {board.id}")
    sections = {name: int(size) for name, size in re.findall(r"^(\.\w+)\s+(\d+)\s+\d+\s*$", listing, re.MULTILINE)}
    text, data = sections.get(".text", 0), sections.get(".data", 0)
    return {
        "text": text,
        "static_ram": data + sections.get(".bss", 0) + sections.get(".noinit", 0),
        "flash": text + data,
    }


def _load(folder: Path) -> Firmware:
    facts = json.loads((folder / "firmware.json").read_text(encoding="utf-8"))

    def existing(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return Firmware(elf=folder / "firmware.elf", hex=existing("firmware.hex"), bin=existing("firmware.bin"), **facts)


def _copy(firmware: Firmware, out_dir: Path) -> Firmware:
    out_dir.mkdir(parents=True, exist_ok=True)
    copies: dict[str, Path | None] = {"hex": None, "bin": None}
    for kind in ("elf", "hex", "bin"):
        source: Path | None = getattr(firmware, kind)
        if source is None:
            continue
        target = out_dir / f"{firmware.board}.{kind}"
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy2(source, temporary)
        temporary.replace(target)
        copies[kind] = target
    assert copies["elf"] is not None
    return Firmware(
        firmware.board,
        firmware.build_id,
        copies["elf"],
        copies["hex"],
        copies["bin"],
        firmware.text,
        firmware.static_ram,
        firmware.flash,
    )
