"""Every error that TinyDream raises on purpose. Facts are attributes; messages say what, where and what to try."""

from __future__ import annotations


class TinyDreamError(Exception):
    """The root. `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(TinyDreamError):
    """The call or the environment is wrong: a bad option, a missing tool or extra."""

    exit_code = 2


class DataError(TinyDreamError):
    """Rows, labels or a data file that cannot be used as they are."""


class FormatError(TinyDreamError):
    """A file that is not what its name says, or is damaged."""


class UnsupportedModelError(TinyDreamError):
    """A .tflite that is valid but uses something that TinyDream does not run."""


class BudgetError(TinyDreamError):
    """It does not fit: `what` is short of `missing` bytes on `board`; `layer` needs most of it, "" where none does."""

    def __init__(self, message: str, *, what: str, missing: int, board: str, layer: str = "") -> None:
        super().__init__(message)
        self.what = what
        self.layer = layer
        self.missing = missing
        self.board = board


class LinkError(TinyDreamError):
    """The board does not answer, or the connection broke."""


class BoardError(TinyDreamError):
    """The board answered with an error, or is not the one that was expected."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CoreError(TinyDreamError):
    """The C core refused a call; `status` is its enum td_status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
