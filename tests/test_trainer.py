"""The trainer step by step beside Keras: losses, optimisers, clipping, batches; and training in integers."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import convert
from test_train import QUICK, Steps, Tail, embedded, tails, trainer, unpack

from tinydream._native import ffi, lib
from tinydream.errors import CoreError, DataError, UsageError
from tinydream.models.compiler import compile_model
from tinydream.models.writeback import write_back
from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays
from tinydream.training.train import TrainConfig, Trainer, for_board, rates

LOSSES = {"cross-entropy": lib.TD_LOSS_CROSS_ENTROPY, "mean-square": lib.TD_LOSS_MEAN_SQUARE}
OPTIMIZERS = {"sgd": lib.TD_OPTIMIZER_SGD, "momentum": lib.TD_OPTIMIZER_MOMENTUM, "adam": lib.TD_OPTIMIZER_ADAM}
CLIPS = {"": {}, "norm": {"clip_norm": 0.2}, "value": {"clip_value": 0.02}}


class Keras:
    """The same tail in TensorFlow: one variable a matrix and a vector, gradients by GradientTape."""

    def __init__(self, tail: Tail, loss: str, optimizer: str, l2: float, clip: str, momentum: float = 0.9) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras
        import tensorflow as tf

        self.tf, self.tail, self.loss, self.l2, self.clip = tf, tail, loss, l2, clip
        self.variables = [tf.Variable(v) for pair in unpack(tail, tail.parameters()) for v in pair]
        self.start = [tf.constant(v) for v in self.variables]
        self.optimizer = {
            "sgd": lambda: keras.optimizers.SGD(0.1),
            "momentum": lambda: keras.optimizers.SGD(0.1, momentum=momentum),
            "adam": lambda: keras.optimizers.Adam(0.1, beta_1=momentum),
        }[optimizer]()
        self.of = {
            "cross-entropy": keras.losses.CategoricalCrossentropy(from_logits=True),
            "mean-square": keras.losses.MeanSquaredError(),
        }[loss]

    def update(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray, rate: float) -> None:
        tf = self.tf
        with tf.GradientTape() as tape:
            y = tf.constant(x)
            for w, b, (_, _, relu) in zip(self.variables[::2], self.variables[1::2], self.tail.layers, strict=True):
                y = y @ tf.transpose(w) + b
                y = tf.nn.relu(y) if relu else y
            total = self.of(targets, y, sample_weight=weights)
            for w, before in zip(self.variables[::2], self.start[::2], strict=True):
                total += self.l2 / 2 * tf.reduce_sum((w - before) ** 2)
        gradient = tape.gradient(total, self.variables)
        if self.clip == "norm":
            gradient, _ = tf.clip_by_global_norm(gradient, CLIPS["norm"]["clip_norm"])
        elif self.clip == "value":
            most = CLIPS["value"]["clip_value"]
            gradient = [tf.clip_by_value(g, -most, most) for g in gradient]
        self.optimizer.learning_rate = rate
        self.optimizer.apply_gradients(zip(gradient, self.variables, strict=True))

    @property
    def parameters(self) -> np.ndarray:
        return np.concatenate([v.numpy().ravel() for v in self.variables])


def step_to(ours: Steps, x: np.ndarray, targets: np.ndarray, weight: float) -> float:
    loss = ffi.new("float *")
    views = [ffi.from_buffer("float[]", np.ascontiguousarray(v, np.float32)) for v in (x, targets)]
    assert lib.td_trainer_step_to(ours.native, *views, weight, loss) >= 0
    return float(loss[0])


CASES = [
    (loss, optimizer, clip, l2, batch)
    for loss, optimizer, clip in product(LOSSES, OPTIMIZERS, CLIPS)
    for l2, batch in ((0.0, 1), (0.3, 1), (0.3, 4))
]


@pytest.mark.parametrize(("loss", "optimizer", "clip", "l2", "batch"), CASES)
def test_training_is_keras_step_by_step(loss: str, optimizer: str, clip: str, l2: float, batch: int) -> None:
    """Weights, real targets or shares of the classes, falling rates, and a last batch that is not full."""
    seed = CASES.index((loss, optimizer, clip, l2, batch))
    random = np.random.default_rng(seed)
    tail = Tail([int(n) for n in random.integers(2, 9, 2 + seed % 3)], seed=seed, relu_last=seed % 4 == 0)
    momentum = 0.9 if seed % 2 else 0.5
    theirs = Keras(tail, loss, optimizer, l2, clip, momentum)
    ours = Steps(tail, 0.1, l2, loss=LOSSES[loss], optimizer=OPTIMIZERS[optimizer], batch=batch, momentum=momentum,
                 **CLIPS[clip])  # fmt: skip
    n = batch * 6 + (batch > 1)
    x = random.normal(size=(n, tail.embedding_size)).astype(np.float32)
    targets = random.normal(size=(n, tail.n_classes)).astype(np.float32)
    labels = random.integers(tail.n_classes, size=n)
    if loss == "cross-entropy":
        targets = np.eye(tail.n_classes, dtype=np.float32)[labels]
        if seed % 2:  # not only whole classes
            targets = (0.8 * targets + 0.2 / tail.n_classes).astype(np.float32)
    weights = random.uniform(0.2, 3, n).astype(np.float32)
    for i, start in enumerate(range(0, n, batch)):
        rate, part = 0.1 / (1 + i), slice(start, start + batch)
        ours.native.learning_rate = rate
        for j in range(*part.indices(n)):
            if loss == "cross-entropy" and seed % 2 == 0:
                ours.step(x[j], int(labels[j]), float(weights[j]))
            else:
                step_to(ours, x[j], targets[j], float(weights[j]))
        lib.td_trainer_flush(ours.native)
        theirs.update(x[part], targets[part], weights[part], rate)
        np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-4, atol=2e-5)
    assert not np.allclose(ours.parameters, tail.parameters(), atol=1e-3)
    assert bytes(ours.guard) == b"\x5a" * 16


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_keras(loss: str) -> None:
    tail, random = Tail([5, 4]), np.random.default_rng(1)
    ours, theirs = Steps(tail, 0.0, loss=LOSSES[loss]), Keras(tail, loss, "sgd", 0, "")
    for _ in range(20):
        x, targets = random.normal(size=5).astype(np.float32), random.dirichlet(np.ones(4)).astype(np.float32)
        w, b = unpack(tail, tail.parameters())[0]
        expected = float(theirs.of(targets[None], (w @ x + b)[None]))
        views = [ffi.from_buffer("float[]", v) for v in (x, targets)]
        found = ffi.new("float *")
        lib.td_trainer_predict_to(ours.native, *views, found)
        assert found[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_square_root_is_rounded_to_nearest() -> None:
    random = np.random.default_rng(0)
    bits = np.concatenate([random.integers(0, 0x7F800000, 20000), np.arange(1, 3000), 0x7F7FFFFF - np.arange(100)])
    ours = Steps(Tail([1, 2]), 1.0, optimizer=OPTIMIZERS["adam"])
    for value in bits.astype(np.uint32).view(np.float32):
        assert lib.td_sqrtf(value) == np.sqrt(value)
    assert lib.td_sqrtf(0.0) == 0 and np.isnan(lib.td_sqrtf(float("nan"))) and np.isinf(lib.td_sqrtf(float("inf")))
    assert ours.native.options != ffi.NULL


def parts(tail: Tail, **config: Any) -> dict[str, int]:
    found, native = ffi.new("td_trainer_parts *"), ffi.new("td_train_config *", config)
    total = lib.td_trainer_size(tail.native, native, found)
    named = {name: getattr(found, name) for name in ("parameters", "gradient", "state", "best", "activations")}
    assert sum(named.values()) == total
    return named


def test_memory_is_what_the_settings_need() -> None:
    tail = Tail([64, 32, 10])
    n, plain = 4 * len(tail.parameters()), parts(tail)
    assert (plain["parameters"], plain["gradient"], plain["state"], plain["best"]) == (n, 0, 0, 0)
    assert plain["activations"] == 4 * (42 + 64)
    for config, gradient, state, best in (
        ({"batch": 2}, n, 0, 0), ({"optimizer": 1}, n, n, 0), ({"optimizer": 2, "keep_best": 1}, n, 2 * n, n),
        ({"clip_norm": 1}, 0, 0, 0), ({"clip_value": 1, "l2": 1}, 0, 0, 0), ({"clip_norm": 1, "l2": 1}, n, 0, 0),
        ({"precision": 1}, 0, 0, 0),
    ):  # fmt: skip
        found = parts(tail, **config)
        assert (found["gradient"], found["state"], found["best"]) == (gradient, state, best)
    assert set(parts(SimpleModel()).values()) == {0}


class SimpleModel:
    """A model that does not train."""

    def __init__(self) -> None:
        self.native = ffi.new("td_model *")


HOSTILE: list[tuple[dict[str, float], int]] = [
    ({"momentum": 1.0}, lib.TD_E_ARGUMENT), ({"momentum": -0.1}, lib.TD_E_ARGUMENT),
    ({"beta_2": float("nan")}, lib.TD_E_ARGUMENT), ({"epsilon": 2.0}, lib.TD_E_ARGUMENT),
    ({"clip_norm": float("inf")}, lib.TD_E_ARGUMENT), ({"clip_value": -1.0}, lib.TD_E_ARGUMENT),
    ({"clip_norm": 1.0, "clip_value": 1.0}, lib.TD_E_ARGUMENT), ({"loss": 2}, lib.TD_E_ARGUMENT),
    ({"optimizer": 3}, lib.TD_E_ARGUMENT), ({"precision": 2}, lib.TD_E_ARGUMENT), ({"keep_best": 2}, lib.TD_E_ARGUMENT),
    ({"batch": 65536}, lib.TD_E_ARGUMENT), ({"precision": 1, "batch": 2}, lib.TD_E_UNSUPPORTED),
    ({"precision": 1, "optimizer": 1}, lib.TD_E_UNSUPPORTED), ({"precision": 1, "l2": 1.0}, lib.TD_E_UNSUPPORTED),
    ({"precision": 1, "clip_value": 1.0}, lib.TD_E_UNSUPPORTED),
]  # fmt: skip


@pytest.mark.parametrize(("config", "status"), HOSTILE)
def test_hostile_settings_are_refused(config: dict[str, float], status: int) -> None:
    tail, native = Tail([3, 4]), ffi.new("td_train_config *", config)
    memory = ffi.new("uint8_t[]", 10000)
    assert lib.td_trainer_init(ffi.new("td_trainer *"), tail.native, native, memory, 10000) == status


def test_a_mean_square_behind_a_softmax_is_refused() -> None:
    tail, native = Tail([3, 4]), ffi.new("td_train_config *", {"loss": LOSSES["mean-square"]})
    tail.native.ends_in_softmax = True
    memory = ffi.new("uint8_t[]", 10000)
    assert lib.td_trainer_init(ffi.new("td_trainer *"), tail.native, native, memory, 10000) == lib.TD_E_UNSUPPORTED


@pytest.mark.parametrize("config", [{}, {"batch": 3, "keep_best": 1}, {"optimizer": 2}, {"precision": 1}])
def test_one_byte_less_is_too_little(config: dict[str, int]) -> None:
    tail, native, memory = Tail([5, 4, 3]), ffi.new("td_train_config *", config), ffi.new("uint8_t[]", 10000)
    size, made = lib.td_trainer_size(tail.native, native, ffi.NULL), ffi.new("td_trainer *")
    assert lib.td_trainer_init(made, tail.native, native, memory, size - 1) == lib.TD_E_MEMORY
    assert lib.td_trainer_init(made, tail.native, native, memory, size) == 0


@pytest.mark.parametrize(
    ("optimizer", "loss", "clip"), [("adam", "mean-square", "norm"), ("momentum", "cross-entropy", "value")]
)
def test_a_whole_run_is_keras(optimizer: str, loss: str, clip: str) -> None:
    """Epochs of batches with weights, l2, clipping and a schedule, from quantised rows to the last weight."""
    tail, random, epochs, n, batch = Tail([6, 8, 3], seed=4), np.random.default_rng(4), 6, 50, 8
    config = TrainConfig(epochs=epochs, learning_rate=0.02, final_rate=0.001, schedule="cosine", warmup=1, l2=0.05,
                         optimizer=optimizer, loss=loss, batch=batch, **CLIPS[clip])  # fmt: skip
    rows = random.integers(-128, 128, (n, 6)).astype(np.int8)
    targets = random.normal(size=(n, 3)) if loss == "mean-square" else random.dirichlet(np.ones(3), n)
    targets, weights = targets.astype(np.float32), random.uniform(0.5, 2, n).astype(np.float32)
    ours = Trainer(tail, None, config=config)  # type: ignore[arg-type]
    theirs = Keras(tail, loss, optimizer, config.l2, clip)
    real = (np.float32(tail.embedding_scale) * (rows.astype(np.float32) - tail.embedding_zero_point)).astype(np.float32)
    losses = []
    for rate in rates(config):
        order = random.permutation(n)
        losses.append(ours.fit(rows[order], targets[order], weights[order], rate=float(rate)))
        for start in range(0, n, batch):
            part = order[start : start + batch]
            theirs.update(real[part], targets[part], weights[part], float(rate))
        np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-4, atol=2e-5)
    assert losses[-1] < losses[0]
    x = real
    for w, b, (_, _, relu) in zip(theirs.variables[::2], theirs.variables[1::2], tail.layers, strict=True):
        x = np.maximum(x @ w.numpy().T + b.numpy(), 0 if relu else -np.inf)
    np.testing.assert_allclose(ours.outputs(rows), x, rtol=1e-3, atol=1e-4)


def regressor(keras: Any) -> Any:
    inputs = keras.Input((16,), batch_size=1)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(12, activation="relu")(inputs)))


def test_real_labels_train_a_regression_to_a_tflite() -> None:
    """From a pack with real labels, through batches of Adam, to what LiteRT makes of the requantised model."""
    tflite = convert(regressor, 0)
    model, random = compile_model(tflite), np.random.default_rng(0)
    x = random.normal(size=(200, 16)).astype(np.float32)
    real = model.embedding_scale * (model.embed(model.quantise(x)).astype(float) - model.embedding_zero_point)
    y = (real @ random.normal(size=(12, 2)) * 0.5 + [1.0, -2.0]).astype(np.float32)
    packed = pack(table_from_arrays(x, y), through=model)
    with pytest.raises(DataError, match=r"labels are no classes.*fit\(pack"):
        Trainer(model, packed)
    config = TrainConfig(loss="mean-square", optimizer="adam", batch=20, epochs=60, learning_rate=0.1, final_rate=1e-3)
    ours = Trainer(model, None, config=config)
    losses = [ours.fit(packed[:], packed.labels, rate=float(rate)) for rate in rates(config)]
    assert losses[-1] < 1e-3 * np.var(y) < losses[0]
    np.testing.assert_allclose(ours.outputs(packed[:]), packed.labels, atol=0.2)
    tuned = write_back(tflite, model, ours.parameters, ours.logit_range(packed[:]))
    whole = compile_model(tuned, whole=True)
    found = whole.dequantise(whole.embed(whole.quantise(x)).reshape(-1, 2))
    assert np.abs(found - y).max() < 0.06 * np.ptp(y)


def test_a_fit_of_wrong_shapes_is_refused() -> None:
    ours, rows = Trainer(Tail([4, 3]), None), np.zeros((5, 4), np.int8)  # type: ignore[arg-type]
    for targets, weights in ((np.zeros((5, 2)), None), (np.zeros((4, 3)), None), (np.zeros((5, 3)), np.ones(4))):
        with pytest.raises(DataError, match=r"targets \(5, 3\)"):
            ours.fit(rows, targets, weights)
    with pytest.raises(DataError, match="targets"):
        ours.fit(rows[:0], np.zeros((0, 3)))
    with pytest.raises(CoreError, match="left the range"):
        ours.fit(rows + 100, np.full((5, 3), 1e30), rate=1e6)


# ------------------------------------------------------------------ training in integers


def get(ours: Steps) -> np.ndarray:
    values = np.empty(ours.native.n_parameters, np.float32)
    lib.td_trainer_get(ours.native, 0, len(values), ffi.from_buffer("float[]", values, require_writable=True))
    return values


def put(ours: Steps, values: np.ndarray) -> None:
    view = np.ascontiguousarray(values, np.float32)
    lib.td_trainer_set(ours.native, 0, len(view), ffi.from_buffer("float[]", view))


@QUICK
@given(tail=tails, seed=st.integers(0, 2**32), spread=st.sampled_from([0, 4, 20]))
def test_parameters_are_kept_to_the_width_of_f32(tail: Tail, seed: int, spread: int) -> None:
    random, fixed = np.random.default_rng(seed), Steps(tail, precision=1)
    values = tail.parameters()
    for _ in range(2):
        for (w, b), (got_w, got_b) in zip(unpack(tail, values), unpack(tail, get(fixed)), strict=True):
            for wanted, got in ((w, got_w), (b, got_b)):
                assert np.abs(wanted - got).max() <= np.abs(wanted).max() * 2.0**-23
        values = (random.normal(size=values.shape) * 2.0 ** random.integers(-spread, spread + 1)).astype(np.float32)
        put(fixed, values)


single = st.builds(Tail, st.tuples(st.integers(1, 40), st.integers(2, 12)).map(list), seed=st.integers(0, 2**32))


@QUICK
@given(tail=single, seed=st.integers(0, 2**32), weight=st.sampled_from([0.3, 1.0, 4.0]))
def test_steps_in_integers_are_near_those_in_f32(tail: Tail, seed: int, weight: float) -> None:
    """Of one layer; further back a ReLU may switch at another step."""
    random = np.random.default_rng(seed)
    fixed, plain = Steps(tail, 0.05, precision=1), Steps(tail, 0.05)
    for _ in range(12):
        x, label = random.normal(size=tail.embedding_size).astype(np.float32), int(random.integers(tail.n_classes))
        _, one = fixed.step(x, label, weight)
        _, other = plain.step(x, label, weight)
        assert one == pytest.approx(other, abs=0.01)
    moved = np.abs(plain.parameters - tail.parameters()).max()
    assert np.abs(get(fixed) - plain.parameters).max() <= 0.01 * moved + 1e-5


values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@QUICK
@given(tail=tails, rate=st.sampled_from([1e-6, 0.03, 10.0, 1e6]), data=st.data(), scale=st.integers(-30, 60))
def test_nothing_overflows_whatever_comes(tail: Tail, rate: float, data: Any, scale: int) -> None:
    """Parameters stay finite, and no larger than all steps together could make them; the same twice."""
    n = tail.embedding_size
    start = np.clip(tail.parameters() * 2.0**scale, -1e37, 1e37)
    steps = data.draw(st.lists(st.tuples(st.lists(values, min_size=n, max_size=n), st.integers(0, tail.n_classes - 1)),
                               min_size=1, max_size=5))  # fmt: skip
    runs = []
    for _ in range(2):
        ours = Steps(tail, rate, precision=1)
        put(ours, start)
        for x, label in steps:
            assert ours.step(np.array(x, np.float32), label, 1.0)[0] >= 0
        assert np.isfinite(get(ours)).all() and lib.td_trainer_is_finite(ours.native)
        runs.append(get(ours))
    assert np.array_equal(*runs)


def test_weights_that_outgrow_their_range_go_on_growing() -> None:
    """Far past the two bits that were free at the start, and still what f32 has."""
    tail, x = Tail([3, 2], seed=2), np.array([1.0, -0.5, 0.25], np.float32)
    fixed, plain = Steps(tail, 2.0, loss=1, precision=1), Steps(tail, 2.0, loss=1)
    for i in range(40):
        targets = np.array([30.0 * i, -20.0 * i], np.float32)
        for ours in (fixed, plain):
            ours.native.learning_rate = 0.3
            step_to(ours, x, targets, 1.0)
    assert np.abs(plain.parameters).max() > 100 * np.abs(tail.parameters()).max()
    np.testing.assert_allclose(get(fixed), plain.parameters, rtol=0.02, atol=1.0)


@pytest.mark.parametrize("widths", [[100, 5], [40, 70, 3], [33, 65, 34, 4]])
def test_wide_layers_in_integers(widths: list[int]) -> None:
    """More inputs than one chunk, more outputs than one gradient sum holds at full width."""
    tail, random = Tail(widths, seed=3), np.random.default_rng(3)
    fixed, plain = Steps(tail, 0.02, precision=1), Steps(tail, 0.02)
    for _ in range(100):
        x, label = random.normal(size=widths[0]).astype(np.float32), int(random.integers(tail.n_classes))
        one, other = fixed.step(x, label, 1.0)[1], plain.step(x, label, 1.0)[1]
        assert one == pytest.approx(other, abs=0.1, rel=0.05)
    moved = np.linalg.norm(plain.parameters - tail.parameters())
    assert np.linalg.norm(get(fixed) - plain.parameters) < 0.1 * moved


def test_a_training_run_in_integers_learns_what_f32_learns() -> None:
    tail = Tail([8, 6, 3])
    train = embedded(tail, per_class=6)
    runs = [trainer(tail, train, epochs=20, precision=precision) for precision in ("f32", "fixed")]
    last = [run.run() for run in runs]
    assert last[1].loss == pytest.approx(last[0].loss, rel=0.05) and last[1].accuracy == last[0].accuracy == 1
    a, b = (run.parameters for run in runs)
    assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a - tail.parameters())


# ------------------------------------------------------------------ the Python side


@settings(QUICK, max_examples=30)
@given(share=st.floats(0.0, 0.9), seed=st.integers(0, 2**32 - 1), mode=st.sampled_from(["bases", "full"]))
def test_what_is_held_back_is_never_trained_on(share: float, seed: int, mode: str) -> None:
    tail = Tail([4, 3])
    train = embedded(tail, n=60, per_class=6)
    ours = trainer(tail, train, mode=mode, seed=seed, held_back=share)
    sampler, n = ours._sampler, len(train) if mode == "full" else len(train.condensed)
    assert (sampler.n_train, sampler.n_held) == (n - int(np.float32(share) * np.float32(n)), n - sampler.n_train)
    label, weight = ffi.new("uint32_t *"), ffi.new("float *")

    def seen(get: Any, count: int) -> list[tuple[float, ...]]:
        found = []
        for i in range(count):
            assert get(i) == 0
            found.append((*list(ours._x), label[0], round(weight[0], 4) if mode == "bases" and get is held else 0))
        return found

    def held(i: int) -> int:
        return int(lib.td_sampler_held(sampler, i, ours._row, ours._x, label, weight))

    def shown(epoch: int) -> Any:
        return lambda i: lib.td_sampler_get(sampler, epoch, i, ours._row, ours._x, label, weight)

    kept = sorted(v[:-1] for v in seen(held, sampler.n_held))
    first, second = (sorted(v[:-1] for v in seen(shown(e), sampler.n_train)) for e in (0, 1))
    assert first == second and len(kept) == sampler.n_held
    if mode == "full":
        rows = (np.float32(0.0625) * (train[:].astype(np.float32) - 3)).tolist()
        everything = [(*row, label) for row, label in zip(rows, train.labels.tolist(), strict=True)]
        assert sorted(first + kept) == sorted(everything)
    assert held(sampler.n_held) == lib.TD_E_RANGE
    weights = []
    for i in range(sampler.n_train):
        assert shown(0)(i) == 0
        weights.append(weight[0])
    assert np.mean(weights) == pytest.approx(1, rel=1e-5)


def test_patience_ends_with_the_best_weights() -> None:
    tail = Tail([8, 3], seed=1)
    train = embedded(tail, n=90, per_class=30, spread=90)
    options: dict[str, Any] = {"epochs": 60, "held_back": 0.3, "patience": 3, "schedule": "constant",
                               "learning_rate": 0.05}  # fmt: skip
    ours = trainer(tail, train, **options)
    seen, weights = [], []
    for epoch in ours.epochs():
        seen.append(epoch.held_loss)
        weights.append(ours.parameters)
    best = int(np.argmin(seen))
    assert len(seen) == best + 4 < 60
    assert np.array_equal(ours.parameters, weights[best]) and not np.array_equal(weights[best], weights[-1])
    by_accuracy = list(trainer(tail, train, **options, monitor="accuracy").epochs())
    assert len(by_accuracy) - 4 == int(np.argmax([e.held_accuracy for e in by_accuracy]))


def test_nothing_to_hold_back_is_told() -> None:
    tail = Tail([8, 3])
    with pytest.raises(DataError, match="less than one sample"):
        trainer(tail, embedded(tail, n=6, per_class=1), held_back=0.1).run()


def test_schedules() -> None:
    def of(**options: Any) -> list[float]:
        return rates(TrainConfig(**{"epochs": 6, "learning_rate": 1.0, "final_rate": 0.01, **options})).tolist()

    assert of(schedule="constant") == [1.0] * 6
    assert of(schedule="step") == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = of(schedule="cosine", epochs=5)
    assert cosine == pytest.approx([1, 0.855, 0.505, 0.155, 0.01], abs=1e-3)
    assert of(warmup=2, epochs=4, final_rate=0.5) == pytest.approx([1 / 3, 2 / 3, 1, 0.5])
    for schedule in ("linear", "constant", "step", "cosine"):
        for epochs, warmup in ((1, 0), (2, 1), (7, 3)):
            found = of(schedule=schedule, epochs=epochs, warmup=warmup)
            assert len(found) == epochs and found[warmup] == 1.0 and all(0 < rate <= 1 for rate in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"optimizer": "lion"}, "no optimizer"), ({"loss": "hinge"}, "no loss"), ({"precision": "f16"}, "no precision"),
     ({"schedule": "wave"}, "no schedule"), ({"monitor": "f1"}, "no monitor"), ({"batch": 0}, "batch"),
     ({"batch": 70000}, "batch"), ({"momentum": 1.0}, "momentum"), ({"beta_2": 0.0}, "beta_2"),
     ({"epsilon": float("nan")}, "epsilon"), ({"clip_norm": -1.0}, "clip_norm"), ({"held_back": 1.0}, "held_back"),
     ({"warmup": 40}, "warmup"), ({"clip_norm": 1.0, "clip_value": 1.0}, "choose one"), ({"patience": 3}, "held_back"),
     ({"schedule": "step", "final_rate": 0.0}, "final_rate"), ({"precision": "fixed", "batch": 2}, "fixed"),
     ({"precision": "fixed", "l2": 0.1}, "fixed")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_auto_is_fixed_point_only_where_it_pays_and_can_be() -> None:
    auto = TrainConfig(precision="auto")
    assert for_board(auto, has_fpu=False, has_layers=False).precision == "fixed"
    assert for_board(auto, has_fpu=True, has_layers=False).precision == "f32"
    assert for_board(auto, has_fpu=False, has_layers=True).precision == "f32"
    for options in ({"optimizer": "adam"}, {"batch": 2}, {"l2": 0.1}, {"clip_norm": 1.0}, {"clip_value": 1.0}):
        config = TrainConfig(precision="auto", **options)
        assert for_board(config, has_fpu=False, has_layers=False).precision == "f32", options
    assert for_board(TrainConfig(), has_fpu=False, has_layers=False).precision == "f32"
    with pytest.raises(UsageError, match="chains of dense layers"):
        for_board(TrainConfig(precision="fixed"), has_fpu=False, has_layers=True)
