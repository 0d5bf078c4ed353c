"""TinyDream: pack a training set, keep it on a microcontroller, and fine-tune there.

The journey of a sample, room by room: `tables` reads sources, `packs` makes .tdz files of them, `streams` does so in
bounded memory, `models` makes of a .tflite what boards run, `training` trains on a computer, `devices` plans, builds,
flashes, pushes, trains and reads back. `cli` is the command line. The compiled core enters by `_native` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> module: imported on first use, so that `import tinydream` stays fast.
_EXPORTS = {
    "read": "tables.sources", "from_frame": "tables.sources", "series": "tables.sources",
    "Table": "tables.table", "Column": "tables.table",
    "table_from_arrays": "tables.table", "table_from_columns": "tables.table",
    "reduce": "packs.reduction", "WeightedSamples": "packs.reduction",
    "ImageOptions": "tables.images", "read_images": "tables.images",
    "pack": "packs.packing", "pack_file": "streams.streaming", "open_pack": "packs.pack", "Pack": "packs.pack",
    "compile_model": "models.compiler", "Model": "models.model",
    "board": "devices.boards", "Board": "devices.boards",
    "plan": "devices.planner", "Plan": "devices.planner",
    "emulate": "devices.journey", "evaluate": "devices.journey", "push": "devices.journey", "pull": "devices.journey",
    "run": "devices.journey",
    "connect": "devices.device", "Device": "devices.device",
    "Trainer": "training.train", "TrainConfig": "training.train", "Epoch": "training.train",
    "write_back": "models.writeback",
    "export_trainable": "training.export",
    "survey": "devices.surveys", "Candidate": "devices.surveys",
    "TinyDreamError": "errors",
}  # fmt: skip

if TYPE_CHECKING:
    from .devices.boards import Board as Board
    from .devices.boards import board as board
    from .devices.device import Device as Device
    from .devices.device import connect as connect
    from .devices.journey import emulate as emulate
    from .devices.journey import evaluate as evaluate
    from .devices.journey import pull as pull
    from .devices.journey import push as push
    from .devices.journey import run as run
    from .devices.planner import Plan as Plan
    from .devices.planner import plan as plan
    from .devices.surveys import Candidate as Candidate
    from .devices.surveys import survey as survey
    from .errors import TinyDreamError as TinyDreamError
    from .models.compiler import compile_model as compile_model
    from .models.model import Model as Model
    from .models.writeback import write_back as write_back
    from .packs.pack import Pack as Pack
    from .packs.pack import open_pack as open_pack
    from .packs.packing import pack as pack
    from .packs.reduction import WeightedSamples as WeightedSamples
    from .packs.reduction import reduce as reduce
    from .streams.streaming import pack_file as pack_file
    from .tables.images import ImageOptions as ImageOptions
    from .tables.images import read_images as read_images
    from .tables.sources import from_frame as from_frame
    from .tables.sources import read as read
    from .tables.sources import series as series
    from .tables.table import Column as Column
    from .tables.table import Table as Table
    from .tables.table import table_from_arrays as table_from_arrays
    from .tables.table import table_from_columns as table_from_columns
    from .training.export import export_trainable as export_trainable
    from .training.train import Epoch as Epoch
    from .training.train import TrainConfig as TrainConfig
    from .training.train import Trainer as Trainer


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tinydream' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
