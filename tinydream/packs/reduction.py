"""Makes a small weighted set stand for a large one. Every method keeps one contract: `reduce`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view
from ..errors import DataError, UsageError
from ..tables.table import Table

__all__ = ["METHODS", "WeightedSamples", "condense", "reduce"]

METHODS = ("variance", "entrogede", "greedygd", "random")
PUBLISHED = ("entrogede", "greedygd")  # as their papers have them, for comparison
LLOYD_ROUNDS = 2
SHUFFLED = 2**16  # rows of a class up to which all are shuffled to draw some
LARGE = 16384  # rows from which on condensing by variance takes longer than all else; see docs/DESIGN.md


@dataclass(frozen=True)
class WeightedSamples:
    """`values` (m, features) float64, `weights` (m,) float64, `labels` (m,) classes or (m, k) real."""

    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)


def check_integers(values: npt.NDArray[Any]) -> None:
    """Raises DataError when rows (n, features) are not what the core takes."""
    if values.dtype.kind not in "iub":
        raise DataError(
            "rows are floating point; pack them through a model (through=, --through) or scale them to integers"
        )
    if values.shape[1] > lib.TD_MAX_FEATURES:
        raise DataError(
            f"{values.shape[1]} values a row; at most {lib.TD_MAX_FEATURES} fit. Leave columns out, scale images down "
            "or cut them into tiles (tile=, --tile), or pack through a model (through=, --through)"
        )


def check_range(low: int, high: int) -> None:
    """Raises DataError when values from `low` to `high` are not what the core takes."""
    if low < -(2**31) or high >= 2**31:
        raise DataError(f"values from {low} to {high} do not fit in signed 32 bits; subtract an offset or scale them")


def unsigned_rows(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint32], int, int]:
    """Rows (n, features) of integers as the core wants them: less their minimum, that minimum, and the bits a value."""
    check_integers(values)
    low, high = int(values.min()), int(values.max())
    check_range(low, high)
    rows = np.empty(values.shape, dtype=np.uint32)  # modulo 2^32, without wider copies in between
    np.subtract(values, np.uint32(low % 2**32), out=rows, dtype=np.uint32, casting="unsafe")
    return rows, low, max(1, (high - low).bit_length())


def condense(table: Table, per_class: int, *, method: str = "variance") -> npt.NDArray[np.uint32]:
    """Groups rows into at most `per_class` condensed samples a class; returns the group of each row.

    "variance": our rule, with one budget of per_class * (classes that have rows) over all of them.
    "entrogede": the published rule, class by class; tables of more than LARGE rows take it instead of "variance".
    "greedygd": the first bases of GreedyGD, class by class.
    Raises DataError when rows are not integers.
    """
    if per_class < 1:
        raise UsageError(f"per_class is {per_class}; at least 1 sample a class is needed")
    rows, _, width = unsigned_rows(table.flat())
    present = np.unique(table.labels)
    if method == "variance" and len(rows) <= LARGE:
        return _condense_variance(rows, table.labels, per_class * len(present))
    if method not in ("variance", *PUBLISHED):
        raise UsageError(f"no method {method!r} groups rows; there are variance, {' and '.join(PUBLISHED)}")
    group = np.zeros(len(rows), dtype=np.uint32)
    n_groups = 0
    for label in present:
        members = np.flatnonzero(table.labels == label)
        own = condense_published(np.ascontiguousarray(rows[members]), width, per_class, method)
        group[members] = own + np.uint32(n_groups)
        n_groups += int(own.max()) + 1
    return group


def reduce(table: Table, budget: int, *, method: str = "variance", seed: int = 0) -> WeightedSamples:
    """At most `budget` weighted samples that stand for the table.

    "variance", "entrogede" and "greedygd": means of groups of rows, weighted by their number (see `condense`).
    "random": rows drawn without replacement, the same number from each class as far as they go.
    """
    present = np.unique(table.labels)
    per_class = per_class_of(budget, len(present))
    flat = table.flat().astype(np.float64)
    if method == "random":
        picked = _pick_random(table.labels, per_class, seed)
        return WeightedSamples(flat[picked], np.ones(len(picked)), table.labels[picked], table.classes)
    group = condense(table, per_class, method=method)
    weights = np.bincount(group).astype(np.float64)
    values = np.zeros((len(weights), flat.shape[1]))
    np.add.at(values, group, flat)
    labels = np.zeros(len(weights), dtype=np.int64)
    labels[group] = table.labels
    return WeightedSamples(values / weights[:, None], weights, labels, table.classes)


def per_class_of(budget: int, n_classes: int) -> int:
    """The samples of each class. Raises UsageError when there is none."""
    if budget < n_classes:
        raise UsageError(f"a budget of {budget} is less than one sample for each of {n_classes} classes")
    return budget // n_classes


def draw(n: int, k: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most `k` different numbers below `n`, in memory that does not grow with a large n."""
    if n <= SHUFFLED:
        return generator.permutation(n)[:k]
    return generator.choice(n, size=min(k, n), replace=False, shuffle=False)


def _pick_random(labels: npt.NDArray[np.int64], per_class: int, seed: int) -> npt.NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([members[draw(len(members), per_class, generator)] for members in classes]))


def _condense_variance(
    rows: npt.NDArray[np.uint32], labels: npt.NDArray[np.int64], max_groups: int
) -> npt.NDArray[np.uint32]:
    n, d = rows.shape
    max_groups = min(max_groups, n)
    group = np.zeros(n, dtype=np.uint32)
    size = lib.td_condense_variance_work_size(n, d, max_groups)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    check(
        lib.td_condense_variance(
            view(rows, "const uint32_t[]"), view(labels.astype(np.uint16), "const uint16_t[]"), n, d, max_groups,
            LLOYD_ROUNDS, ffi.from_buffer("uint32_t[]", group), work, size,
        ),
        "condensing rows",
    )  # fmt: skip
    return group


def condense_published(
    rows: npt.NDArray[np.uint32], width: int, max_groups: int, method: str = "entrogede"
) -> npt.NDArray[np.uint32]:
    """Groups rows (n, features) of `width` bits by a published rule; returns the group of each."""
    n, d = rows.shape
    group = np.zeros(n, dtype=np.uint32)
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    table = view(rows, "const uint32_t[]"), n, d, width, min(max_groups, n), ffi.from_buffer("uint32_t[]", group)
    if method == "greedygd":
        status = lib.td_condense_greedy(*table, ffi.new("uint32_t[]", d), work, size)
    else:
        status = lib.td_plan_condense(*table, work, size)
    check(status, "condensing rows")
    return group
