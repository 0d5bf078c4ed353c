"""Fine-tunes the last convolution of a model, or only a part of it, and says what each choice costs and brings.

    tinydream demo -o demo && python examples/convolution.py demo

Packs the wearer's rows as embeddings in front of the last convolution, trains on the host (the same bits as on a
board), puts the result back into the .tflite and runs that, in int8, on the rows held back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tinydream as td
from tinydream.packs.embeddings import model_inputs

LAYERS = 2  # with weights, from the end: a convolution and the dense head
BOARD = td.board("an386")
CHOICES = (("head", 1, "all"), ("biases", LAYERS, "bias"), ("last 8 channels", LAYERS, "8"), ("all", LAYERS, "all"))


def accuracy(tflite: bytes, table: td.Table) -> float:
    """Of the whole model in int8, as a board runs it."""
    model = td.compile_model(tflite, whole=True)
    outputs = model.embed(model_inputs(table, model))
    return float((outputs.argmax(axis=1) == table.labels).mean())


def main(folder: Path) -> None:
    tflite = (folder / "model.tflite").read_bytes()
    train, test = td.read(folder / "train.npz"), td.read(folder / "test.npz")
    print(f"{'before':<39}  accuracy {100 * accuracy(tflite, test):.1f} %")
    for name, cut, learn in CHOICES:
        if learn == "8":  # the head has fewer channels: all of it learns
            head = td.compile_model(tflite).tail[-1].operator
            learn = f"8,{head}=all"
        model = td.compile_model(tflite, cut, learn)
        pack = td.pack(train, through=model)
        trainer = td.Trainer(model, pack, config=td.TrainConfig(epochs=20, learning_rate=0.03))
        trainer.run()
        tuned = td.write_back(tflite, model, trainer.parameters, trainer.logit_range())
        print(f"{name:<16} {model.n_parameters:>7,} learn {td.plan(model, BOARD).ram_used:>8,} bytes of RAM  accuracy "
              f"{100 * accuracy(tuned, test):.1f} %")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
