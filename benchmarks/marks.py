"""Where a benchmark's table stands in a Markdown file: between two marks that name the benchmark."""

from __future__ import annotations

from pathlib import Path

from tinydream.files import atomic_write


def fill(path: Path, name: str, table: str) -> None:
    """Puts `table` between `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{path}: the marks {begin} and {end} must stand there once")
    before, rest = text.split(begin)
    atomic_write(path, f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}".encode())
