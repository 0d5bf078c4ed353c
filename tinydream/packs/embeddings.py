"""Rows that are inputs of a model become what is packed: their embeddings at its cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..progress import Progress
from ..tables.schema import Lossy
from ..tables.table import Table

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["check_classes", "check_stateless", "embed", "in_steps", "model_inputs"]


def model_inputs(table: Table, model: Model) -> npt.NDArray[Any]:
    """The table's rows as inputs of `model`, (n, *input_shape) of Model.input_dtype.

    Values of that type are taken as quantised already; all others are real numbers and quantised with the scale of the
    model's input. Raises DataError when a row does not have as many values as an input.
    """
    flat = table.flat()
    if flat.shape[1] != model.input_size:
        raise DataError(
            f"{table.source}: {flat.shape[1]} values a row, but an input of the model has {model.input_size}, "
            f"as {model.input_shape}"
        )
    shaped = flat.reshape(len(flat), *model.input_shape)
    quantised = shaped.dtype == model.input_dtype and shaped.dtype.kind == "i"
    return shaped if quantised else model.quantise(shaped, table.source)


def check_classes(classes: Sequence[str], ordered: bool, model: Model, source: str) -> None:
    """Raises DataError when labels cannot be the model's classes, or not for sure."""
    if len(classes) > model.n_classes:
        raise DataError(f"{source}: {len(classes)} classes, but the model tells {model.n_classes} apart")
    if not ordered:
        raise DataError(
            f"{source}: labels are names ({', '.join(classes[:8])}), and the model knows its classes by "
            "number only; give the names in the order of the model's outputs (classes=, --classes=a,b,c)"
        )


def check_stateless(model: Model, source: str) -> None:
    """Raises DataError when a row's embedding would depend on the rows before it."""
    if model.has_state:
        raise DataError(
            f"{source}: the model remembers (SVDF, LSTM), so a row's embedding would depend on the rows before "
            "it; choose a cut before that operator, or pack without `through`"
        )


def embed(table: Table, model: Model, progress: Progress | None) -> Table:
    """The embeddings of a table's rows, with its labels. Raises DataError when rows or labels do not fit the model."""
    check_classes(table.classes, table.ordered, model, table.source)
    check_stateless(model, table.source)
    embedding = model.embed(model_inputs(table, model), progress)
    return Table(embedding, table.labels, table.classes, table.source, targets=table.targets)


def in_steps(table: Table, resolution: float | None) -> tuple[Table, float, list[float]]:
    """float32 embeddings as multiples of `resolution`; its f32 value; the largest and the root mean square error."""
    if resolution is None:
        raise DataError(
            f"{table.source}: the tensor at the model's cut is float32; packed rows are integers times one scale. "
            "Say which steps are fine enough: resolution=0.01 (--resolution 0.01), the same for a replay set; or "
            "convert the model fully int8"
        )
    Lossy(resolution=resolution)  # refuses what is no step
    step, real = np.float32(resolution), table.values.astype(np.float64)
    steps = np.rint(real / step)
    if step == 0 or not np.isfinite(steps).all() or np.abs(steps).max() >= 2**24:
        raise DataError(
            f"{table.source}: embeddings from {real.min():g} to {real.max():g} are no f32 multiples of {resolution:g}; "
            "take a larger resolution, and check the model's outputs"
        )
    lost = np.abs(steps * step - real)
    stored = Table(steps.astype(np.int32), table.labels, table.classes, table.source, targets=table.targets)
    return stored, float(step), [float(lost.max()), float(np.sqrt((lost**2).mean()))]
