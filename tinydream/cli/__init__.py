"""The command line: thin commands over the modules that do the work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

__all__ = ["entry", "main"]


def entry() -> None:
    """The console script. Being asked to end is like Ctrl-C: nothing half done is left."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # while modules were imported
        print("tinydream: stopped", file=sys.stderr)
        sys.exit(130)


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    from .commands import main as run

    return run(arguments)
