"""LiteRT on the host: the check that what we write runs elsewhere, with the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError, UsageError
from ..progress import Progress

__all__ = ["classify", "interpreter", "tensor"]


def interpreter(tflite: bytes, *, keep_tensors: bool = False) -> Any:
    """A LiteRT interpreter with the reference kernels, tensors allocated; `keep_tensors`: inner ones can be read.

    ai-edge-litert, or tflite-runtime where numpy is below 2. The default kernels (XNNPACK) round some values
    differently; the reference kernels are what the format's specification describes. Raises UsageError when neither
    package is installed, FormatError when LiteRT refuses the model.
    """
    module = _module()
    try:
        made = module.Interpreter(
            model_content=tflite,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=keep_tensors,
        )
        made.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"LiteRT refuses this model: {error}") from error
    return made


def classify(tflite: bytes, inputs: npt.NDArray[np.int8], progress: Progress | None = None) -> npt.NDArray[np.int64]:
    """Classes (n,) of quantised inputs (n, ...), by the largest output."""
    made = interpreter(tflite)
    result = made.get_output_details()[0]["index"]
    classes: npt.NDArray[np.int64] = _each(made, inputs, result, progress).argmax(axis=1).astype(np.int64)
    return classes


def tensor(tflite: bytes, inputs: npt.NDArray[np.int8], index: int) -> npt.NDArray[Any]:
    """Tensor `index` of the model for each quantised input: (n, values)."""
    return _each(interpreter(tflite, keep_tensors=True), inputs, index, None)


def _each(made: Any, inputs: npt.NDArray[np.int8], index: int, progress: Progress | None) -> npt.NDArray[Any]:
    source, rows = made.get_input_details()[0], []
    for i, row in enumerate(inputs):
        made.set_tensor(source["index"], row.reshape(source["shape"]))
        made.invoke()
        rows.append(made.get_tensor(index).reshape(-1).copy())
        if progress is not None:
            progress(i + 1, len(inputs))
    return np.stack(rows)


def _module() -> Any:
    try:
        from ai_edge_litert import interpreter as module
    except ImportError:
        try:
            from tflite_runtime import interpreter as module
        except ImportError as error:
            raise UsageError("LiteRT is not installed; install it: pip install 'tinydream[litert]'") from error
        if int(np.__version__.split(".")[0]) >= 2:
            raise UsageError(
                "tflite-runtime crashes with numpy 2; install ai-edge-litert (pip install 'tinydream[litert]')"
            ) from None
    return module
