"""The command line: thin commands over the modules that do the work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

__all__ = ["entry", "main"]

IMPORT_WAIT = 0.02  # seconds


def entry() -> None:
    """The console script. Being asked to end is like Ctrl-C: nothing half done is left."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before a command ran
        print("tinydream: stopped", file=sys.stderr)
        sys.exit(130)


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the program; where a module is being imported, which may swallow that, a moment later."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
            signal.setitimer(signal.ITIMER_REAL, IMPORT_WAIT)
            return
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    from .commands import main as run

    return run(arguments)
