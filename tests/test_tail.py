"""Tails of any layers: gradients and runs as TensorFlow's, what learns and what stays, on the host and on boards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tail_networks import float_model, int8_model, kinds, learnt, stored_parameters, tf_gradient

from tinydream._native import ffi, lib
from tinydream.compiler import compile_model
from tinydream.model import Model


class Steps:
    """td_trainer on the tail of a model, with guards behind its memory."""

    def __init__(self, model: Model, **options: Any) -> None:
        config = ffi.new("td_train_config *", {"learning_rate": 0.1, **options})
        self.model, self.native = model, ffi.new("td_trainer *")
        size = lib.td_trainer_size(model.native, config, ffi.NULL)
        self.memory = ffi.new("uint8_t[]", size + 16)
        ffi.memmove(self.memory + size, b"\x5a" * 16, 16)
        assert lib.td_trainer_init(self.native, model.native, config, self.memory, size) == 0
        self.guard = ffi.buffer(self.memory + size, 16)

    @property
    def parameters(self) -> np.ndarray:
        values = np.empty(self.native.n_parameters, np.float32)
        lib.td_trainer_get(self.native, 0, len(values), ffi.from_buffer("float[]", values))
        return values

    def step(self, x: np.ndarray, label: int, weight: float = 1.0) -> float:
        loss = ffi.new("float *")
        view = ffi.from_buffer("float[]", np.ascontiguousarray(x, np.float32))
        assert lib.td_trainer_step(self.native, view, label, weight, loss) >= 0
        assert bytes(self.guard) == b"\x5a" * 16
        return float(loss[0])


def sample(model: Model, seed: int) -> tuple[np.ndarray, int]:
    random = np.random.default_rng(seed)
    return random.normal(size=model.embedding_size).astype(np.float32), int(random.integers(model.n_classes))


def assert_gradient(model: Model, seed: int) -> None:
    """One step in place, and the sums of a batch of two, against GradientTape."""
    x, label = sample(model, seed)
    stored = stored_parameters(model)
    expected_loss, gradient = tf_gradient(model, stored, x, label)
    ours = Steps(model)
    before = ours.parameters
    np.testing.assert_allclose(before, learnt(model, stored), rtol=1e-6, atol=1e-9)
    assert ours.step(x, label) == pytest.approx(expected_loss, rel=1e-4, abs=1e-5)
    size = max(1e-3, float(np.abs(gradient).max()))
    np.testing.assert_allclose((before - ours.parameters) / np.float32(0.1), gradient, rtol=1e-3, atol=1e-4 * size)
    batch = Steps(model, batch=2)
    for _ in range(2):
        batch.step(x, label, 0.5)
    np.testing.assert_allclose((before - batch.parameters) / np.float32(0.05), gradient, rtol=1e-3, atol=1e-4 * size)


def test_gradients_of_every_layer() -> None:
    seen: Counter[str] = Counter()
    for seed in range(80):
        print(f"seed {seed}")
        model = compile_model((float_model if seed % 2 else int8_model)(seed), "#0")
        assert_gradient(model, seed)
        seen += kinds(model)
    assert len(seen) == 13 and min(seen.values()) >= 5, seen
