"""Trains an exported .tflite in the LiteRT runtime of this Python: needs nothing else of the project.

    python litert_steps.py MODEL.tflite STEPS.npz OUT.npz

STEPS.npz: x (steps, n), y, weight, rate (steps,), input (a model input). OUT.npz: the loss of each step, the saved
weights before and after each (steps + 1, parameters), the embedding of `input`, and its probabilities: before training,
after it, after the first weights were restored, and without signatures in another interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def run(interpreter: Callable[[], Any], steps: Any) -> dict[str, np.ndarray]:
    signature, plain = interpreter().get_signature_runner, interpreter()
    train, save, infer = signature("train"), signature("save"), signature("infer")

    def parameters() -> np.ndarray:
        saved = save()
        layers = range(len(saved) // 2)
        return np.concatenate([saved[f"{kind}_{i}"].ravel() for i in layers for kind in ("weights", "biases")])

    first = save()
    inferred, losses, weights = [infer(x=steps["input"])["probabilities"]], [], [parameters()]
    for i in range(len(steps["y"])):
        one = slice(i, i + 1)
        sample = {"x": steps["x"][one], "y": steps["y"][one], "weight": steps["weight"][one]}
        losses.append(train(**sample, learning_rate=steps["rate"][i])["loss"])
        weights.append(parameters())
    inferred.append(infer(x=steps["input"])["probabilities"])
    signature("restore")(**first)
    inferred.append(infer(x=steps["input"])["probabilities"])
    plain.allocate_tensors()
    plain.set_tensor(plain.get_input_details()[0]["index"], steps["input"])
    plain.invoke()
    inferred.append(plain.get_tensor(plain.get_output_details()[0]["index"]))
    embedding = signature("embed")(x=steps["input"])["embedding"]
    return {"loss": np.array(losses), "weights": np.array(weights), "inferred": np.array(inferred),
            "embedding": embedding}  # fmt: skip


if __name__ == "__main__":
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    np.savez(sys.argv[3], **run(lambda: Interpreter(model_path=sys.argv[1]), np.load(sys.argv[2])))
