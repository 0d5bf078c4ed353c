"""What long work tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the steps done and their total; what a step is (a row, a byte, an epoch) is up to the work."""
