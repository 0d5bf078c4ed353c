"""TinyDream: pack a training set, keep it on a microcontroller, and fine-tune there.

The journey of a sample, module by module: `sources` reads a `table`, `reduction` and `packing` make `packs` of it,
`compiler` makes a `model` of a .tflite, which computes embeddings, `planner` says what fits a board, `build`,
`flashing` and `emulator` bring firmware to one, `device` pushes, trains and reads back, `writeback` makes the tuned
.tflite; `journey` joins them in the words of the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> module: imported on first use, so that `import tinydream` stays fast.
_EXPORTS = {
    "read": "sources", "from_frame": "sources", "series": "sources",
    "Table": "table", "Column": "table", "table_from_arrays": "table", "table_from_columns": "table",
    "reduce": "reduction", "WeightedSamples": "reduction",
    "ImageOptions": "images", "read_images": "images",
    "pack": "packing", "pack_file": "streaming", "open_pack": "packs", "Pack": "packs",
    "compile_model": "compiler", "Model": "model",
    "board": "boards", "Board": "boards",
    "plan": "planner", "Plan": "planner",
    "emulate": "journey", "evaluate": "journey", "push": "journey", "pull": "journey",
    "run": "journey",
    "connect": "device", "Device": "device",
    "Trainer": "train", "TrainConfig": "train", "Epoch": "train",
    "write_back": "writeback",
    "export_trainable": "export",
    "survey": "surveys", "Candidate": "surveys",
    "TinyDreamError": "errors",
}  # fmt: skip

if TYPE_CHECKING:
    from .boards import Board as Board
    from .boards import board as board
    from .compiler import compile_model as compile_model
    from .device import Device as Device
    from .device import connect as connect
    from .errors import TinyDreamError as TinyDreamError
    from .export import export_trainable as export_trainable
    from .images import ImageOptions as ImageOptions
    from .images import read_images as read_images
    from .journey import emulate as emulate
    from .journey import evaluate as evaluate
    from .journey import pull as pull
    from .journey import push as push
    from .journey import run as run
    from .model import Model as Model
    from .packing import pack as pack
    from .packs import Pack as Pack
    from .packs import open_pack as open_pack
    from .planner import Plan as Plan
    from .planner import plan as plan
    from .reduction import WeightedSamples as WeightedSamples
    from .reduction import reduce as reduce
    from .sources import from_frame as from_frame
    from .sources import read as read
    from .sources import series as series
    from .streaming import pack_file as pack_file
    from .surveys import Candidate as Candidate
    from .surveys import survey as survey
    from .table import Column as Column
    from .table import Table as Table
    from .table import table_from_arrays as table_from_arrays
    from .table import table_from_columns as table_from_columns
    from .train import Epoch as Epoch
    from .train import TrainConfig as TrainConfig
    from .train import Trainer as Trainer
    from .writeback import write_back as write_back


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tinydream' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
