"""Files and folders to pack: tables, images and recordings; and a small model. For tests."""

from __future__ import annotations

import csv
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tflite_builder import Builder

from tinydream.models.compiler import compile_model
from tinydream.models.model import Model
from tinydream.streams.parts import Parts


def small_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Packing piece by piece makes a part of so many rows at most, however much memory there is."""
    flush = Parts._flush

    def small(self: Parts, number: int) -> bytes:
        self._part_rows = min(self._part_rows, rows)
        return flush(self, number)

    monkeypatch.setattr(Parts, "_flush", small)


def write_images(folder: Path, n: int, side: int = 8, colour: bool = True, seed: int = 0) -> Path:
    """Smooth pictures, of which transforms make something smaller; a grey one and one with a palette."""
    random = np.random.default_rng(seed)
    slopes = random.integers(0, 9, (n, 2, 3))
    for i in range(n):
        places = np.add.outer(np.arange(side)[:, None] * slopes[i, 0], np.arange(side)[:, None] * slopes[i, 1])
        pixels = (places[:, 0] + random.integers(0, 3, (side, side, 3)) + 40 * (i % 5)).astype(np.uint8)
        path = folder / f"c{i % 3}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels if colour else pixels[..., 0])
        (image.convert("L") if i == 4 else image.convert("P") if i == 5 and colour else image).save(path)
    return folder


def write_waves(folder: Path, lengths: list[int], classes: int = 3, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for i, n in enumerate(lengths):
        path = folder / f"w{(7 - i) % classes}" / f"{i}.wav" if classes else folder / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.cumsum(random.integers(-20, 21, (n, 2)), axis=0).astype("<i2")
        with wave.open(str(path), "wb") as out:
            out.setnchannels(2)
            out.setsampwidth(2)
            out.setframerate(8000)
            out.writeframes(samples.tobytes())
    return folder


def network(n_in: int, dtype: Any = np.int8) -> Model:
    return compile_model(network_file(n_in, dtype))


def network_file(n_in: int, dtype: Any = np.int8, n_embedding: int = 8) -> bytes:
    """A dense layer that stays and one that learns, of three classes."""
    random, builder = np.random.default_rng(5), Builder()
    scale = None if dtype is np.float32 else 0.05

    def constant(*shape: int) -> int:
        real = random.normal(size=shape).astype(np.float32)
        if dtype is np.float32:
            return builder.constant(real, np.float32)
        if len(shape) == 1:
            return builder.constant(np.rint(real / 0.0005), np.int32, 0.0005)
        return builder.constant(np.clip(np.rint(real / 0.01), -127, 127), np.int8, 0.01)

    given = at = builder.tensor((1, n_in), dtype, scale)
    for n_from, n_to, activation in ((n_in, n_embedding, 1), (n_embedding, 3, 0)):
        out = builder.tensor((1, n_to), dtype, scale)
        inputs = [at, constant(n_to, n_from), constant(n_to)]
        builder.operator("FULLY_CONNECTED", inputs, [out], fusedActivationFunction=activation)
        at = out
    return builder.finish([given], [at])


def write_rows(path: Path, n: int, seed: int = 0) -> Path:
    """Columns of all kinds; types that only show late, cells that are empty."""
    random = np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "price", "city", "day", "late", "kind"])
        days = np.datetime_as_string(np.datetime64("2024-01-01") + random.integers(0, 90, n)).tolist()
        writer.writerows(
            [i * 7, "" if i % 11 == 0 else round(float(p), 2), "abc"[i % 3] * (i % 4), days[i],
             "0.5" if i == n - 1 else i % 9, f"k{i % 5 % 3}"]
            for i, p in enumerate(random.normal(100, 20, n))
        )  # fmt: skip
    return path
