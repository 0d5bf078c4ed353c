"""Trains with LiteRT on a Linux device, from a pack: what `tinydream export --trainable` is for.

    tinydream demo -o demo && python examples/edge.py demo

The device needs the trainable .tflite, LiteRT and the weighted samples. Prints the accuracy on rows held back, before
and after, and beside it that of the core on the same samples. Leaves edge.tflite and the trained weights in edge.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import tinydream as td

EPOCHS = 40


def main(folder: Path) -> None:
    tflite = (folder / "model.tflite").read_bytes()
    model = td.compile_model(tflite)
    pack = td.pack(td.read(folder / "train.npz"), through=model, per_class=16)
    test = td.read(folder / "test.npz")
    Path("edge.tflite").write_bytes(td.export_trainable(model, tflite))

    interpreter = Interpreter("edge.tflite")
    train, infer, save = (interpreter.get_signature_runner(name) for name in ("train", "infer", "save"))

    def accuracy() -> float:
        return float(np.mean([infer(x=x[None])["probabilities"].argmax() == y for x, y in rows]))

    rows = [(x.reshape(model.input_shape), y) for x, y in zip(test.values, test.labels, strict=True)]
    print(f"before: {100 * accuracy():.1f} %")
    samples, order = pack.condensed, np.random.default_rng(0)
    weights = samples.weights / samples.weights.mean()
    for rate in np.linspace(0.03, 0.0015, EPOCHS, dtype=np.float32):
        for i in order.permutation(len(weights)):
            train(
                x=np.float32(samples.values[i : i + 1]),
                y=np.int32(samples.labels[i : i + 1]),
                weight=np.float32(weights[i : i + 1]),
                learning_rate=rate,
            )
    print(f"after {EPOCHS} epochs on {len(weights)} bases of {len(pack)} rows, LiteRT: {100 * accuracy():.1f} %")
    np.savez("edge.npz", **save())

    trainer = td.Trainer(model, pack, config=td.TrainConfig(epochs=EPOCHS))
    trainer.run()
    same = trainer.predict(model.embed(test.values)) == test.labels
    print(f"the same in the core: {100 * same.mean():.1f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
