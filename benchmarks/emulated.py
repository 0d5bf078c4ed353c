"""Programs of their own on an emulated Cortex-M: built with the core, start and port of the firmware, run by QEMU.

QEMU runs with -icount shift=0, where an instruction takes 1 ns of the board's 25 MHz timer: counts are exact to 40
instructions (on a Cortex-M55 to 32, with an interrupt's every eight million). A program prints one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydream import resources
from tinydream.devices import boards, build

BOARD = boards.board("an386")
HELIUM = boards.board("an547")
CORES = {"M0": boards.board("microbit").flags, "M3": ("-mcpu=cortex-m3", "-mthumb"), "M4F": BOARD.flags,
         "M55": HELIUM.flags}  # fmt: skip
COMPILER = "arm-none-eabi-gcc"
PATIENCE = 120.0  # seconds for one program


def machine(core: str) -> boards.Board:
    """The board whose machine runs code for `core`."""
    return HELIUM if core == "M55" else BOARD


def build_program(
    work: Path, source: Path, content: bytes, core: str, defines: Mapping[str, int | str], optimise: str = "-O2"
) -> Path:
    """The program that `source` and the core make for `core` (of CORES); it finds `content` in bench_data."""
    board = dataclasses.replace(
        machine(core),
        firmware=boards.Firmware(size=machine(core).flash.size),
        reserve=boards.Reserve(statics=16384, stack=4096),
        flags=CORES[core],
    )
    (work / "td_board.h").write_text(build._board_header(board, "bench"), encoding="utf-8")
    (work / "bench.ld").write_text(build._linker_script(board), encoding="utf-8")
    (work / "data.bin").write_bytes(content)
    (work / "data.S").write_text(
        f'.section .rodata\n.global bench_data, bench_data_end\n.balign 16\nbench_data: .incbin "{work}/data.bin"\n'
        "bench_data_end:\n",
        encoding="utf-8",
    )
    if core == "M55":
        defines = {**defines, "BENCH_SYSTICK": 1}
    firmware = resources.directory("firmware")
    sources = [firmware / "startup_cortex_m.c", firmware / board.driver, source, work / "data.S"]
    return link(
        work / "bench.elf", sources, core, defines, optimise, includes=(work, firmware), script=work / "bench.ld"
    )


def link(
    elf: Path, sources: list[Path], core: str, defines: Mapping[str, int | str], optimise: str,
    *, includes: tuple[Path, ...] = (), script: Path | None = None, roots: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Links the core and `sources`, without what neither the script's entry nor `roots` need."""
    folder = resources.directory("c_src")
    flags = [*build.COMMON, optimise, "-ffreestanding", *build.WARNINGS, *CORES[core]]
    flags += [f"-I{path}" for path in (folder, *includes)] + [f"-D{name}={value}" for name, value in defines.items()]
    options = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections"]
    options += (
        [f"-T{script}"] if script else [f"-Wl,--entry={roots[0]}", *(f"-Wl,--undefined={name}" for name in roots)]
    )
    files = map(str, [*sorted(folder.glob("*.c")), *sources])
    subprocess.run([COMPILER, *flags, *options, *files, "-o", str(elf)], check=True)
    return elf


def code_size(elf: Path) -> int:
    """Bytes of code, constants and initialised data."""
    listing = subprocess.run(["arm-none-eabi-size", "-A", str(elf)], capture_output=True, text=True, check=True).stdout
    sections = {name: int(size) for name, size in re.findall(r"^(\.\w+)\s+(\d+)", listing, re.MULTILINE)}
    return sum(sections.get(name, 0) for name in (".text", ".rodata", ".data"))


def run(elf: Path, name: str, core: str = "M4F") -> dict[str, Any]:
    """What the program for `core` says. Stops the benchmark `name` when that is an error, or nothing."""
    qemu = shutil.which("qemu-system-arm")
    if qemu is None:
        raise SystemExit("qemu-system-arm is not on PATH. On Debian or Ubuntu: sudo apt install qemu-system-arm")
    emulation = machine(core).emulator
    assert emulation is not None
    command = [qemu, "-M", str(emulation.machine), "-icount", "shift=0", "-nodefaults", "-display", "none", "-monitor",
               "none", "-serial", "stdio", "-kernel", str(elf)]  # fmt: skip
    with subprocess.Popen(
        ["timeout", str(PATIENCE), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    if not line:
        raise SystemExit(f"{name}: no answer within {PATIENCE:.0f} s")
    said = dict(json.loads(line))
    if "error" in said:
        raise SystemExit(f"{name}: the program stopped at {said['error']}")
    return said
