"""How the command line looks: bars and notes while it works, lines for people or JSON for machines at the end."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, TextIO

__all__ = ["Console", "answer", "console", "shown"]


class Console:
    """Stages, notes and bars on a terminal; plain lines elsewhere. Follows demo.Reporter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._bar: Any = None

    def stage(self, text: str) -> None:
        """A new stage begins."""
        self.close()
        self._print(f"> {text}")

    def note(self, text: str) -> None:
        """A line of result."""
        if self._live:
            from tqdm import tqdm

            tqdm.write(f"    {shown(text)}", file=self._stream)
        else:
            self._print(f"    {text}")

    def progress(self, done: int, total: int) -> None:
        """Of the stage at hand: a bar with rate and time left."""
        if not self._live:
            return
        if self._bar is None or self._bar.total != total or done < self._bar.n:
            from tqdm import tqdm

            self.close()
            self._bar = tqdm(total=total, file=self._stream, leave=False, unit="", unit_scale=True, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, text: str) -> None:
        print(shown(text), file=self._stream, flush=True)


def shown(text: str) -> str:
    """Text for a terminal: names out of files may hold characters that it would act on, so they become escapes. Lines
    stay lines."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def answer(options: argparse.Namespace, facts: dict[str, Any], lines: Sequence[str]) -> None:
    """The command's result: lines for people, JSON for machines."""
    if options.json:
        print(json.dumps(_finite(facts), indent=2, allow_nan=False))
    else:
        print("\n".join(shown(line).replace("\n", r"\n") for line in lines))


def _finite(value: Any) -> Any:
    """The value with "NaN", "Infinity" and "-Infinity" for what JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def console(options: argparse.Namespace) -> Console:
    """Where a command says what it does: stdout, which with --json belongs to the result alone."""
    return Console(sys.stderr if options.json else sys.stdout)
