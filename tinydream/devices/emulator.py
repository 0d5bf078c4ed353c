"""Boards without hardware: the firmware in QEMU, or as a process of this computer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from ..errors import LinkError, UsageError
from .boards import Board
from .build import Firmware

__all__ = ["Detached", "Emulator", "detached", "spawn_detached", "stop_detached"]

START_ATTEMPTS = 5
START_PATIENCE = 30.0  # seconds until a started board must listen; a busy machine takes its time
STOP_PATIENCE = 5.0
STATE_FILE = "emulator.json"


class Emulator:
    """A running emulated board. `url` is what tinydream.device.connect takes; the context manager stops it.

    `flash_file` (boards that are processes): where its flash lives; default: a temporary file. QEMU's flash lives as
    long as its process. Raises UsageError when the board has no emulator or QEMU is missing, LinkError when it does
    not start.
    """

    def __init__(self, board: Board, firmware: Firmware, *, flash_file: str | Path | None = None) -> None:
        self.board = board
        self._temporary = tempfile.TemporaryDirectory(prefix="tinydream-")
        self._flash_file = Path(flash_file) if flash_file else Path(self._temporary.name) / "flash.bin"
        self._log = Path(self._temporary.name) / "emulator.log"
        try:
            self._process, self.port = _start(board, firmware, self._flash_file, self._log, detach=False)
        except BaseException:
            self._temporary.cleanup()
            raise

    @property
    def url(self) -> str:
        """What tinydream.device.connect takes."""
        return f"socket://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the emulator."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once the emulator has ended: it was stopped, or the firmware crashed for good."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Waits until the emulator has ended by itself; False when it still runs after `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log(self) -> str:
        """What the emulator wrote to its standard output and error."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """Ends the emulator. The flash file of a process stays when its path was given."""
        if self.running:
            self._process.terminate()
            if not self.wait(STOP_PATIENCE):
                self._process.kill()
                self._process.wait()
        self._temporary.cleanup()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Detached:
    """An emulated board that outlives the program that started it."""

    board: str
    pid: int
    url: str


def spawn_detached(board: Board, firmware: Firmware, state_dir: str | Path) -> Detached:
    """Starts an emulated board that stays; its state is kept in `state_dir`, and one running from there is ended.

    The host board keeps its flash in `state_dir`, so what was pushed survives. Raises as Emulator does.
    """
    folder = Path(state_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stop_detached(folder)
    process, port = _start(board, firmware, folder / f"{board.id}-flash.bin", folder / "emulator.log", detach=True)
    state = Detached(board.id, process.pid, f"socket://127.0.0.1:{port}")
    temporary = folder / f".{STATE_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(folder / STATE_FILE)
    return state


def detached(state_dir: str | Path) -> Detached | None:
    """The board that runs from `state_dir`, or None when none was started or it has ended."""
    try:
        state = Detached(**json.loads((Path(state_dir) / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if _is_ours(state) else None


def stop_detached(state_dir: str | Path) -> bool:
    """Ends the board that runs from `state_dir`; False when there is none."""
    state = detached(state_dir)
    if state is not None:
        _end(state)
    with contextlib.suppress(FileNotFoundError):
        (Path(state_dir) / STATE_FILE).unlink()
    return state is not None


def _end(state: Detached) -> None:
    deadline = time.monotonic() + STOP_PATIENCE
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
        while _is_ours(state):
            if time.monotonic() > deadline:
                os.kill(state.pid, signal.SIGKILL)
                deadline += STOP_PATIENCE
            time.sleep(0.02)
    # A child of this very process has no command line any more, but its number until it is waited for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(state.pid, 0)


def _is_ours(state: Detached) -> bool:
    """Whether the process id still is the emulator that the state names: ids are used again by others."""
    port = state.url.rsplit(":", 1)[1]
    try:
        raw = Path(f"/proc/{state.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return False
        done = subprocess.run(["ps", "-o", "args=", "-p", str(state.pid)], capture_output=True, text=True, check=False)
        raw = done.stdout
    return f"--port {port} " in raw or f"tcp:127.0.0.1:{port}," in raw


def _start(
    board: Board, firmware: Firmware, flash_file: Path, log: Path, *, detach: bool
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts the board on a free port; another program may take the port first, so a few are tried."""
    for _ in range(START_ATTEMPTS):
        port = _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(board, firmware, flash_file, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=detach,
            )
        if _listens(process, port):
            return process, port
        process.kill()
        process.wait()
    raise LinkError(
        f"the emulator of {board.id} does not start. It said:\n{log.read_text(errors='replace').strip()[-2000:]}"
    )


def _command(board: Board, firmware: Firmware, flash_file: Path, port: int) -> list[str]:
    emulation = board.emulator
    if emulation is None:
        raise UsageError(f"{board.id} has no emulator: connect a real board")
    if emulation.kind == "process":
        return [str(firmware.elf.resolve()), "--port", str(port), "--flash", str(flash_file)]
    qemu = shutil.which("qemu-system-arm")
    if qemu is None:
        raise UsageError(
            f"qemu-system-arm is not on PATH, and {board.id} cannot be emulated without it. "
            "On Debian or Ubuntu: sudo apt install qemu-system-arm"
        )
    command = [qemu, "-M", str(emulation.machine), "-display", "none", "-monitor", "none", "-no-user-config"]
    command += ["-nodefaults", "-kernel", str(firmware.elf.resolve())]
    command += ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"]
    if emulation.icount_shift is not None:
        command += ["-icount", f"shift={emulation.icount_shift}"]
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Waits until the process takes connections. The one made here is closed at once: the board serves the next."""
    deadline = time.monotonic() + START_PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return process.poll() is None
        except OSError:
            time.sleep(0.02)
    return False
