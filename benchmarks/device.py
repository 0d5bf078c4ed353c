"""What the core costs on a Cortex-M, item by item, beside published figures of others; prints the table of README.

    python benchmarks/device.py [--only NAME ...] [--json FILE] [--readme README.md]

Each item is a program of its own: the core, the start and port of the firmware and benchmarks/device.c, run by QEMU
with -icount shift=0, where an instruction takes 1 ns of the board's 25 MHz timer: counts are exact to 40 instructions
for all repeats together. The program also gives a checksum of what it computed, which must be the host's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from emulated import build_program, code_size, run
from finetune import fine_tune
from marks import fill

from tinydream._native import ffi, lib
from tinydream.files import atomic_write
from tinydream.models import compiler, model

HERE = Path(__file__).resolve().parent
MODELS = Path(os.environ.get("TINYDREAM_MODELS", HERE.parent.parent / "shared" / "models"))
RUN, CLASSIFY, PREDICT, STEP, FINE_TUNE = range(5)
ADAM, FIXED = int(lib.TD_OPTIMIZER_ADAM), int(lib.TD_PRECISION_FIXED)
SAMPLES = 32
KWS = "kws_ref_model.tflite"


@dataclasses.dataclass(frozen=True)
class Item:
    """A row of the table. `most`: what was to be reached, if anything; `peer`, `peer_memory`: the published figures."""

    name: str
    title: str
    model: Callable[[], model.Model | None]  # None: its file is not there
    work: int
    peer: str
    peer_figure: int
    peer_memory: str
    most: int | None
    core: str = "M4F"
    most_memory: int | None = None  # bytes of RAM
    training: tuple[tuple[str, int], ...] = ()  # fields of td_train_config beside its rate

    @property
    def options(self) -> dict[str, int]:
        return {"batch": 1, "optimizer": 0, "precision": 0, **dict(self.training)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(item.name for item in ITEMS)}")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    found = {}
    for item in ITEMS:
        compiled = item.model() if options.only is None or item.name in options.only else None
        if compiled is not None:
            found[item.name] = measure(item, compiled)
            print(f"{item.name}: {found[item.name]['instructions']:,}", file=sys.stderr)
    table = render(found)
    print(table)
    if options.json:
        atomic_write(options.json, (json.dumps(found, indent=2) + "\n").encode())
    if options.readme:
        fill(options.readme, "device", table)
    return 0


def render(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| work | peer: instructions | peer: memory | ours: instructions | RAM, bytes | code, bytes | wanted |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for item in ITEMS:
        row = found.get(item.name)
        if row is None:
            continue
        wanted = ""
        if item.most is not None:
            wanted = f"at most {item.most:,}" + ("" if row["instructions"] <= item.most else " (not reached)")
        if item.most_memory is not None:
            wanted += f"{'; ' if wanted else 'at most '}{item.most_memory:,} bytes" + (
                "" if row["ram"] <= item.most_memory else " (not reached)"
            )
        peer = f"{item.peer} {item.peer_figure:,}" if item.peer else ""
        lines.append(
            f"| {item.title}{row.get('note', '')} | {peer} | {item.peer_memory} | {row['instructions']:,} | "
            f"{row['ram']:,} | {row['code']:,} | {wanted} |"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------ models


def convert(make: Callable[[Any], Any], seed: int = 0) -> bytes:
    """A fully int8 .tflite of the Keras model make(keras), random weights."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    random, network = np.random.default_rng(seed), make(keras)
    shape = (1, *network.input_shape[1:])
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([random.normal(size=shape).astype(np.float32)] for _ in range(8))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(sys.stderr):
        return bytes(converter.convert())


@cache
def mlp() -> model.Model:
    def make(keras: Any) -> Any:
        x = inputs = keras.Input((64,), batch_size=1)
        x = keras.layers.Dense(32, activation="relu")(x)
        return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))

    return compiler.compile_model(convert(make), cut=2)


def layer(shape: tuple[int, ...], make: Callable[[Any], Any]) -> Callable[[], model.Model]:
    """The model whose frozen part is this one layer."""

    def whole(keras: Any) -> Any:
        inputs = keras.Input(shape, batch_size=1)
        x = keras.layers.Flatten()(make(keras.layers)(inputs))
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    return lambda: compiler.compile_model(convert(whole))


def stored(name: str, *, whole: bool = False) -> Callable[[], model.Model | None]:
    def load() -> model.Model | None:
        path = MODELS / name
        if not path.is_file():
            print(f"{name} is not in {MODELS} (set TINYDREAM_MODELS): its row is left out", file=sys.stderr)
            return None
        content = path.read_bytes()
        return compiler.compile_model(content, whole=whole)

    return load


# ----------------------------------------------------------------------- measure


def measure(item: Item, compiled: model.Model) -> dict[str, Any]:
    if item.work == FINE_TUNE:
        return measure_fine_tuning(item)
    with tempfile.TemporaryDirectory(prefix="tinydream-") as folder:
        elf = build_item(item, compiled, Path(folder))
        code, row = code_size(elf), run(elf, item.name, item.core)
    if row["check"] != on_host(item, compiled):
        raise SystemExit(f"{item.name}: the board computed something else than the host")
    row["ram"] = row["handed_over"] + row["statics"] + row["stack"]
    row["code"] = code - len(compiled.tdm)
    return row | {"most": item.most, "peer": item.peer_figure}


def measure_fine_tuning(item: Item) -> dict[str, Any]:
    """With the whole firmware, over the link. RAM is what training needs beyond inference."""
    row = fine_tune((MODELS / KWS).read_bytes())
    shares = (100 * row[key] for key in ("acc_before", "acc_after", "acc_requantised"))
    note = "; classes {:.0f} % right before, {:.0f} % after, {:.0f} % as int8".format(*shares)
    return row | {"most": item.most, "peer": item.peer_figure, "note": note}


def build_item(item: Item, compiled: model.Model, work: Path) -> Path:
    defines = {"WORK": item.work, "SAMPLES": SAMPLES, "INPUTS": compiled.embedding_size, "CLASSES": classes(compiled)}
    defines |= {key.upper(): value for key, value in item.options.items()}
    named = {f"BENCH_{key}": f"{value}u" for key, value in defines.items()}
    # All items are int8 with a dense tail.
    named |= dict.fromkeys(("TD_HAVE_F32", "TD_HAVE_LAYERS", "TD_HAVE_INT16", "TD_HAVE_RECURRENT"), "0")
    named |= {"TD_TRAIN_OPTIONS": f"{bool(item.training):d}", "TD_TRAIN_FIXED": f"{item.options['precision']}"}
    return build_program(work, HERE / "device.c", compiled.tdm, item.core, named)


def classes(compiled: model.Model) -> int:
    return compiled.tail[-1].n_out if compiled.tail else 1


def on_host(item: Item, compiled: model.Model) -> int:
    """The checksum that the board must give."""
    native = compiled.native
    if item.work in (RUN, CLASSIFY):
        state, values = 1, bytearray()
        for _ in range(native.input_size):
            state = lib.td_random(state)
            values.append(state >> 24)
        size = native.arena_size
        memory = ffi.new("uint64_t[]", size // 8 + 2)
        address = int(ffi.cast("uintptr_t", memory))
        arena = ffi.cast("uint8_t *", (address + 15) // 16 * 16)
        ffi.memmove(arena + native.input_offset, bytes(values), len(values))
        assert lib.td_model_run(native, arena, size) == 0
        return zlib.crc32(bytes(ffi.buffer(arena + native.embedding_offset, native.embedding_size)))
    config = ffi.new("td_train_config *", {"learning_rate": 0.01, **item.options})
    size = lib.td_trainer_size(native, config, ffi.NULL)
    memory, trainer, loss = ffi.new("uint64_t[]", size // 8 + 1), ffi.new("td_trainer *"), ffi.new("float *")
    assert lib.td_trainer_init(trainer, native, config, memory, size) == 0
    state, n_in = 1, compiled.embedding_size
    inputs = np.empty((SAMPLES, n_in), np.float32)
    for i in range(inputs.size):
        state = lib.td_random(state)
        inputs.flat[i] = np.float32(state >> 16) * np.float32(1 / 32768) - np.float32(1)
    if item.work == STEP:
        for i, x in enumerate(inputs):
            lib.td_trainer_step(trainer, ffi.from_buffer("float[]", x), i % classes(compiled), 1.0, loss)
    return zlib.crc32(bytes(ffi.buffer(trainer.parameters, 4 * trainer.n_parameters)))


LAYERS = [
    ("depthwise", "depthwise 3x3, 25x5x64",
     layer((25, 5, 64), lambda layers: layers.DepthwiseConv2D(3, padding="same"))),
    ("conv", "convolution 3x3, 16 -> 16 at 32x32",
     layer((32, 32, 16), lambda layers: layers.Conv2D(16, 3, padding="same"))),
    ("pointwise", "pointwise 64 -> 64, 25x5", layer((25, 5, 64), lambda layers: layers.Conv2D(64, 1))),
    ("dense", "dense 640 -> 128", layer((640,), lambda layers: layers.Dense(128))),
]  # fmt: skip


def layers_on(core: str, suffix: str, peers: tuple[int, ...] = (0, 0, 0, 0)) -> list[Item]:
    """The single layers with CMSIS-NN's figures for that core, 0: none. Its M4 figures are what was to be reached."""
    return [
        Item(name if core == "M4F" else f"{name}-{core.lower()}", title + suffix, make, RUN, "CMSIS-NN" if peer else "",
             peer, "", peer if core == "M4F" else None, core)
        for (name, title, make), peer in zip(LAYERS, peers, strict=True)
    ]  # fmt: skip


ITEMS = [
    Item("step", "MLP 64-32-10 f32, one step of SGD, batch 1", mlp, STEP,
         "AIfES 2.2.0", 282_369, "37.7 KB", 28_000),
    Item("inference", "MLP 64-32-10 f32, inference", mlp, PREDICT, "AIfES 2.2.0", 17_184, "10.3 KB", 8_000),
    Item("step-m0", "the step of SGD as Cortex-M0 code", mlp, STEP, "AIfES 2.2.0", 2_043_464, "", None, core="M0"),
    Item("step-32", "the same MLP, SGD, batch 32, a sample", mlp, STEP, "AIfES 2.2.0", 58_240, "56.1 KB", 22_000,
         most_memory=24_576, training=(("batch", 32),)),
    Item("adam-32", "the same MLP, Adam, batch 32, a sample", mlp, STEP, "AIfES 2.2.0", 140_979, "75.6 KB", 30_000,
         most_memory=45_056, training=(("batch", 32), ("optimizer", ADAM))),
    Item("step-m0-fixed", "the step of SGD as Cortex-M0 code, fixed point", mlp, STEP, "AIfES 2.2.0", 2_043_464, "",
         500_000, core="M0", training=(("precision", FIXED),)),
    Item("kws-head", "head of kws (64 -> 12) fine-tuned by the whole firmware, a step; RAM beyond inference",
         stored(KWS), FINE_TUNE, "", 0, "", None, most_memory=8192),
    Item("kws", "MLPerf Tiny kws int8, inference", stored(KWS), CLASSIFY,
         "tflite-micro + CMSIS-NN", 7_697_890, "arena 22.8 KB, code 89 KB", 7_000_000),
    Item("ad01", "MLPerf Tiny ad01 int8, inference", stored("ad01_int8.tflite", whole=True), RUN,
         "tflite-micro + CMSIS-NN", 582_962, "arena 2.6 KB", 560_000),
    *layers_on("M4F", " int8", (560_991, 5_493_152, 1_068_997, 160_108)),
    *layers_on("M3", ", Cortex-M3 code", (664_920, 7_886_913, 1_591_674, 281_390)),
    Item("kws-m55", "MLPerf Tiny kws int8, inference, Cortex-M55 (Helium)", stored(KWS), CLASSIFY,
         "", 0, "", None, core="M55"),
    *layers_on("M55", ", Cortex-M55 (Helium)"),
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
