"""Compares ways to shrink a training set at equal size, and draws the curve.

    tinydream demo -o demo && python examples/shrink.py demo

Trains the model's head on the host (the same bits as on a board) on ever fewer samples of the wearer's rows and tests
on the rows held back. Writes shrink.png and prints a table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tinydream as td
from tinydream.cli.plots import draw_curves
from tinydream.files import atomic_write

PER_CLASS = (1, 2, 4, 8, 16)
METHODS = ("variance", "entrogede", "random")


def main(folder: Path) -> None:
    model = td.compile_model(folder / "model.tflite")
    train, test = td.read(folder / "train.npz"), td.read(folder / "test.npz")
    embeddings = model.embed(test.values)

    def accuracy(pack: td.Pack, mode: str) -> float:
        trainer = td.Trainer(model, pack, config=td.TrainConfig(mode=mode))
        trainer.run()
        return float((trainer.predict(embeddings) == test.labels).mean())

    all_rows = accuracy(td.pack(train, through=model), "full")
    n_present = len(np.unique(train.labels))
    curves: dict[str, list[float]] = {}
    for method in METHODS:
        sets = []
        for n in PER_CLASS:
            rows = n * n_present if method == "random" else None  # random rows are a set of their own
            sets.append(td.pack(train, through=model, method=method, per_class=n, replay=rows))
        curves[method] = [accuracy(pack, "bases") for pack in sets]
    budgets = [n * n_present for n in PER_CLASS]
    print(f"{'samples':<12}" + "".join(f"{n:>8}" for n in budgets))
    for method, values in curves.items():
        print(f"{method:<12}" + "".join(f"{100 * value:>8.1f}" for value in values))
    print(f"all {len(train)} rows: {100 * all_rows:.1f} %")
    atomic_write("shrink.png", draw_curves(budgets, curves, all_rows))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
