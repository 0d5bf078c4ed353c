"""The sampler and the trainer against NumPy, their promises epoch by epoch, and the core's own exp and log."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib
from tinydream.errors import CoreError, DataError, UsageError
from tinydream.files import write_sections
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays
from tinydream.training.train import MODES, TrainConfig, Trainer, rates

BASES, FULL, STRATIFIED = range(3)
QUICK = settings(max_examples=60, deadline=None)


# ------------------------------------------------------------------ the core's own functions


def test_exp_is_accurate() -> None:
    x = np.concatenate([np.linspace(-87, 87, 200_001), np.linspace(-1, 1, 20_001)]).astype(np.float32)
    ours = np.array([lib.td_expf(float(v)) for v in x])
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(ours - exact) / exact) < 2e-7
    assert lib.td_expf(0) == 1 and lib.td_expf(1e30) == lib.td_expf(87) and lib.td_expf(-1e30) == lib.td_expf(-87)
    assert lib.td_expf(float("inf")) == lib.td_expf(87) and np.isnan(lib.td_expf(float("nan")))


def test_log_is_accurate() -> None:
    x = np.concatenate([np.geomspace(1.2e-38, 3e38, 200_001), np.linspace(0.5, 2, 50_001)]).astype(np.float32)
    ours = np.array([lib.td_logf(float(v)) for v in x])
    exact = np.log(x.astype(np.float64))
    assert np.max(np.abs(ours - exact) / np.maximum(1, np.abs(exact))) < 2e-7
    assert lib.td_logf(1) == 0 and np.isnan(lib.td_logf(float("nan")))


def test_random_has_a_long_period() -> None:
    seen, state = set(), 1
    for _ in range(100_000):
        state = lib.td_random(state)
        seen.add(state)
    assert len(seen) == 100_000 and 0 not in seen


# ------------------------------------------------------------------ the sampler


@st.composite
def packs(draw: Any) -> Pack:
    n = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.integers(-128, 128, (n, 3)).astype(np.int8)
    table = table_from_arrays(values, random.integers(0, draw(st.integers(1, 4)), n), classes=4)
    return pack(table, per_class=draw(st.integers(1, 9)), replay=draw(st.sampled_from([None, None, 20])))


class Sampler:
    def __init__(
        self, train: Pack, replay: Pack | None, mode: int, share: float = 1.0, seed: int = 7, held_back: float = 0.0
    ) -> None:
        self.kept = train, replay
        self.native, self.n_features = ffi.new("td_sampler *"), train.n_features
        config = ffi.new("td_sampler_config *", {"mode": mode, "seed": seed, "replay": share, "held_back": held_back})
        second = replay.native if replay else ffi.NULL
        self.status = lib.td_sampler_init(self.native, train.native, second, config)

    def __len__(self) -> int:
        return int(lib.td_sampler_size(self.native))

    def epoch(self, epoch: int) -> list[tuple[tuple[float, ...], int, float]]:
        row, x = ffi.new("int32_t[]", self.n_features), ffi.new("float[]", self.n_features)
        label, weight = ffi.new("uint32_t *"), ffi.new("float *")
        steps = []
        for i in range(len(self)):
            assert lib.td_sampler_get(self.native, epoch, i, row, x, label, weight) == 0
            steps.append((tuple(x), label[0], weight[0]))
        assert lib.td_sampler_get(self.native, epoch, len(self), row, x, label, weight) == lib.TD_E_RANGE
        return steps


def as_steps(pack: Pack, mode: int) -> Counter[tuple[tuple[float, ...], int]]:
    if mode == FULL:
        return Counter((tuple(map(float, row)), int(label)) for row, label in zip(pack[:], pack.labels, strict=True))
    condensed = pack.condensed
    return Counter((tuple(v), int(label)) for v, label in zip(condensed.values.tolist(), condensed.labels, strict=True))


@QUICK
@given(train=packs(), replay=packs(), mode=st.sampled_from([BASES, FULL]), epoch=st.integers(0, 2**32 - 1),
       share=st.sampled_from([0.0, 0.25, 1.0, 7.0]))  # fmt: skip
def test_an_epoch_shows_everything_once(train: Pack, replay: Pack, mode: int, epoch: int, share: float) -> None:
    sampler = Sampler(train, replay, mode, share)
    steps = sampler.epoch(epoch)
    expected = as_steps(train, mode) + (as_steps(replay, BASES) if share else Counter())
    assert Counter((x, label) for x, label, _ in steps) == expected
    weights = np.array([weight for _, _, weight in steps])
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    of_replay = sampler.native.replay_scale * lib.td_pack_total_weight(replay.native) if share else 0.0
    assert of_replay == pytest.approx(weights.sum() * share / (1 + share), rel=1e-5)


@QUICK
@given(train=packs(), mode=st.sampled_from([BASES, FULL]))
def test_steps_weigh_what_their_samples_do(train: Pack, mode: int) -> None:
    steps = Sampler(train, None, mode).epoch(0)
    if mode == FULL:
        assert {weight for _, _, weight in steps} == {1.0}
        return
    condensed = train.condensed
    scale = len(condensed) / condensed.weights.sum()
    expected = sorted(zip(condensed.values.tolist(), condensed.labels.tolist(), condensed.weights * scale, strict=True))
    for (x, label, weight), (values, of, expected_weight) in zip(sorted(steps), expected, strict=True):
        assert (list(x), label) == (values, of) and weight == pytest.approx(expected_weight, rel=1e-5)


def test_what_is_left_when_all_weight_is_held_back_is_refused() -> None:
    rows = np.arange(24, dtype=np.int8).reshape(8, 3)
    sections = pack(table_from_arrays(rows, None), replay=8).contents()
    found = []
    for heavy in range(8):
        weights = np.eye(8, dtype="<f4")[heavy].tobytes()
        weighed = Pack(write_sections(lib.TD_MAGIC_PACK, {**sections, lib.TD_PACK_WEIGHTS: weights}))
        sampler = Sampler(weighed, None, BASES, held_back=0.25)
        found.append(sampler.status)
        assert sampler.status != lib.TD_OK or np.isfinite(sampler.native.train_scale)
    assert sorted(found) == [lib.TD_E_RANGE] * 2 + [lib.TD_OK] * 6


@QUICK
@given(train=packs(), seed=st.integers(0, 2**32 - 1))
def test_stratified_draws_come_from_their_sample(train: Pack, seed: int) -> None:
    sampler = Sampler(train, None, STRATIFIED, seed=seed)
    first, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    rows, labels = train[:].tolist(), train.labels.tolist()
    groups = []
    for i in range(train.n_samples):
        assert lib.td_pack_sample_rows(train.native, i, first, count) == 0
        groups.append({(*rows[k], labels[k]) for k in range(first[0], first[0] + count[0])})
    weights = train.condensed.weights * (train.n_samples / train.condensed.weights.sum())
    for epoch in range(3):
        steps = sampler.epoch(epoch)
        assert len(steps) == len(groups)
        # Each step goes to one group that holds its row at its weight: a matching exists as groups have one each.
        left = list(range(len(groups)))
        for x, label, weight in sorted(steps, key=lambda s: sum((*s[0], s[1]) in g for g in groups)):
            fits = [g for g in left if (*x, label) in groups[g] and weight == pytest.approx(weights[g], rel=1e-5)]
            assert fits
            left.remove(fits[0])
        assert sum(weight for _, _, weight in steps) == pytest.approx(len(steps), rel=1e-5)


def rows_in_order(n: int) -> Pack:
    return pack(table_from_arrays(np.arange(n)[:, None], np.zeros(n)), per_class=1)


def test_stratified_draws_reach_every_row() -> None:
    sampler = Sampler(rows_in_order(12), None, STRATIFIED)
    drawn = Counter(sampler.epoch(epoch)[0][0][0] for epoch in range(1200))
    assert len(drawn) == 12 and min(drawn.values()) > 60 and max(drawn.values()) < 150


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65, 1000])
def test_order_is_a_shuffle(n: int) -> None:
    train = rows_in_order(n)
    orders = [
        [x[0] for x, _, _ in Sampler(train, None, FULL, seed=s).epoch(e)] for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert all(sorted(order) == list(range(n)) for order in orders) and orders[0] == orders[1]
    if n >= 64:
        assert len({tuple(order) for order in orders[1:]}) == 3
        for order in orders[1:]:
            assert abs(np.corrcoef(order, range(n))[0, 1]) < 0.45
            assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < n / 8


def test_every_place_is_reached_evenly() -> None:
    sampler = Sampler(rows_in_order(8), None, FULL)
    seen = np.zeros((8, 8))
    for epoch in range(2000):
        for place, (x, _, _) in enumerate(sampler.epoch(epoch)):
            seen[place, int(x[0])] += 1
    assert seen.min() > 180 and seen.max() < 330  # 250 on average


@pytest.mark.parametrize(("mode", "share"), [(3, 1.0), (0, -1.0), (0, float("nan")), (0, float("inf"))])
def test_wrong_sampling_is_refused(mode: int, share: float) -> None:
    assert Sampler(rows_in_order(2), None, mode, share).status == lib.TD_E_ARGUMENT


def test_packs_that_do_not_go_together_are_refused() -> None:
    assert Sampler(rows_in_order(2), pack(table_from_arrays([[1, 2]], [0])), BASES).status == lib.TD_E_RANGE


# ------------------------------------------------------------------ the trainer


class Tail:
    """A td_model that is nothing but its trainable tail, as `Trainer` takes it, with random int8 layers."""

    embedding_scale, embedding_zero_point, embedding_hash = 0.0625, 3, 0

    def __init__(self, widths: list[int], *, relu_last: bool = False, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.native = ffi.new("td_model *")
        self.native.embedding_size, self.native.n_tail = widths[0], len(widths) - 1
        self.kept: list[Any] = []
        self.layers: list[tuple[np.ndarray, np.ndarray, bool]] = []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            weights = random.integers(-127, 128, (n_out, n_in), np.int8)
            scales = (random.uniform(0.2, 1, n_out) / 127 / np.sqrt(n_in)).astype("<f4")
            bias = random.normal(size=n_out, scale=0.1).astype("<f4")
            relu = relu_last or i + 2 < len(widths)
            self.layers.append((scales[:, None] * weights.astype(np.float32), bias, relu))
            views = [ffi.from_buffer("uint8_t[]", a.tobytes()) for a in (weights, scales, bias)]
            self.kept.append(views)
            layer = self.native.tail[i]
            layer.n_in, layer.n_out, layer.activation = n_in, n_out, relu
            layer.weights, layer.scales, layer.bias = views
        self.embedding_size, self.n_classes = widths[0], widths[-1]

    def parameters(self) -> np.ndarray:
        return np.concatenate([np.concatenate([w.ravel(), b]) for w, b, _ in self.layers])


class Steps:
    """td_trainer on a Tail, one call at a time."""

    def __init__(self, tail: Tail, learning_rate: float = 0.1, l2: float = 0.0, **options: Any) -> None:
        config = ffi.new("td_train_config *", {"learning_rate": learning_rate, "l2": l2, **options})
        self.tail, self.native, size = tail, ffi.new("td_trainer *"), lib.td_trainer_size(tail.native, config, ffi.NULL)
        self.memory = ffi.new("uint8_t[]", size + 16)  # the last 16 guard
        ffi.memmove(self.memory + size, b"\x5a" * 16, 16)
        assert lib.td_trainer_init(self.native, tail.native, config, self.memory, size) == 0
        self.guard = ffi.buffer(self.memory + size, 16)

    @property
    def parameters(self) -> np.ndarray:
        return np.frombuffer(ffi.buffer(self.native.parameters, 4 * self.native.n_parameters), np.float32)

    def step(self, x: np.ndarray, label: int, weight: float) -> tuple[int, float]:
        loss = ffi.new("float *")
        view = ffi.from_buffer("float[]", np.ascontiguousarray(x, np.float32))
        predicted = lib.td_trainer_step(self.native, view, label, weight, loss)
        assert bytes(self.guard) == b"\x5a" * 16
        return predicted, loss[0]

    def predict(self, x: np.ndarray, label: int) -> tuple[int, float]:
        loss = ffi.new("float *")
        view = ffi.from_buffer("float[]", np.ascontiguousarray(x, np.float32))
        return lib.td_trainer_predict(self.native, view, label, loss), loss[0]


def unpack(tail: Tail, parameters: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    layers, at = [], 0
    for w, b, _ in tail.layers:
        layers.append((parameters[at : at + w.size].reshape(w.shape), parameters[at + w.size : at + w.size + b.size]))
        at += w.size + b.size
    return layers


def reference_loss(tail: Tail, parameters: np.ndarray, x: np.ndarray, label: int) -> tuple[float, np.ndarray]:
    """Cross-entropy and logits in f64."""
    for (w, b), (_, _, relu) in zip(unpack(tail, parameters), tail.layers, strict=True):
        x = w @ x + b
        x = np.maximum(x, 0) if relu else x
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()) - x[label]), x


def reference_step(tail: Tail, parameters: np.ndarray, x: np.ndarray, label: int, weight: float, rate: float,
                   l2: float) -> np.ndarray:  # fmt: skip
    """One SGD step in f64: weight * gradient, and l2 towards the stored weights (not the biases)."""
    layers, inputs = unpack(tail, parameters), [x]
    for (w, b), (_, _, relu) in zip(layers, tail.layers, strict=True):
        y = w @ inputs[-1] + b
        inputs.append(np.maximum(y, 0) if relu else y)
    p = np.exp(inputs[-1] - inputs[-1].max())
    delta = weight * (p / p.sum() - np.eye(len(p))[label])
    new = []
    for i in reversed(range(len(layers))):
        (w, b), stored = layers[i], tail.layers[i][0]
        new.append(
            np.concatenate(
                [(w - rate * np.outer(delta, inputs[i]) - rate * l2 * (w - stored)).ravel(), b - rate * delta]
            )
        )
        delta = (w.T @ delta) * (inputs[i] > 0 if i and tail.layers[i - 1][2] else 1)
    return np.concatenate(new[::-1])


tails = st.builds(
    Tail,
    st.lists(st.integers(1, 12), min_size=2, max_size=5).map(lambda widths: [*widths[:-1], widths[-1] + 1]),
    seed=st.integers(0, 2**32),
)


@QUICK
@given(tail=tails, seed=st.integers(0, 2**32), weight=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
       l2=st.sampled_from([0.0, 0.5]))  # fmt: skip
def test_steps_are_the_references(tail: Tail, seed: int, weight: float, l2: float) -> None:
    random, ours = np.random.default_rng(seed), Steps(tail, 0.1, l2)
    np.testing.assert_array_equal(ours.parameters, tail.parameters())
    expected = tail.parameters().astype(np.float64)
    for _ in range(6):
        x, label = random.normal(size=tail.embedding_size).astype(np.float32), int(random.integers(tail.n_classes))
        loss, logits = reference_loss(tail, expected, x.astype(np.float64), label)
        for predicted, our_loss in (ours.predict(x, label), ours.step(x, label, weight)):
            assert our_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)
            assert logits[predicted] >= logits.max() - 1e-5
        expected = reference_step(tail, expected, x.astype(np.float64), label, weight, 0.1, l2)
        np.testing.assert_allclose(ours.parameters, expected, rtol=1e-4, atol=1e-5)


@QUICK
@given(tail=tails, seed=st.integers(0, 2**32))
def test_the_step_follows_the_gradient(tail: Tail, seed: int) -> None:
    """Central differences of the loss, at points where no ReLU is about to switch."""
    random, parameters = np.random.default_rng(seed), tail.parameters().astype(np.float64)
    x, label = random.normal(size=tail.embedding_size).astype(np.float32), int(random.integers(tail.n_classes))
    ours = Steps(tail, learning_rate=1.0)
    before = ours.parameters.astype(np.float64)
    ours.step(x, label, 1.0)
    gradient, wide = before - ours.parameters, x.astype(np.float64)
    for i in random.permutation(len(parameters))[:12]:
        slopes = []
        for h in (1e-4, 1e-6):
            shift = h * (np.arange(len(parameters)) == i)
            ends = [reference_loss(tail, parameters + sign * shift, wide, label)[0] for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / (2 * h))
        if abs(slopes[0] - slopes[1]) < 1e-5:
            assert gradient[i] == pytest.approx(slopes[0], rel=1e-3, abs=1e-4)


def test_ties_go_to_the_first_class() -> None:
    tail = Tail([2, 3])
    ours = Steps(tail)
    ours.parameters.flags.writeable = False
    ffi.memmove(ours.native.parameters, bytes(4 * 9), 4 * 9)
    assert ours.predict(np.ones(2), 2) == (0, pytest.approx(np.log(3)))


def test_logit_range_and_its_reset() -> None:
    tail = Tail([3, 4], seed=5)
    ours, random = Steps(tail), np.random.default_rng(0)
    x = random.normal(size=(20, 3)).astype(np.float32)
    logits = np.array([reference_loss(tail, tail.parameters(), row, 0)[1] for row in x])
    for row in x:
        ours.predict(row, 0)
    assert ours.native.logit_min == pytest.approx(min(0, logits.min()), rel=1e-5)
    assert ours.native.logit_max == pytest.approx(max(0, logits.max()), rel=1e-5)
    lib.td_trainer_reset_range(ours.native)
    assert ours.native.logit_min == ours.native.logit_max == 0


def test_wrong_labels_and_settings_are_refused() -> None:
    tail = Tail([3, 4])
    ours = Steps(tail)
    before = ours.parameters.copy()
    assert ours.step(np.ones(3), 4, 1.0)[0] == ours.predict(np.ones(3), 4)[0] == lib.TD_E_RANGE
    np.testing.assert_array_equal(ours.parameters, before)
    size = lib.td_trainer_size(tail.native, ffi.NULL, ffi.NULL)
    for rate, l2 in [(-1, 0), (float("nan"), 0), (float("inf"), 0), (1, -1), (1, float("inf")), (1, float("nan"))]:
        config = ffi.new("td_train_config *", {"learning_rate": rate, "l2": l2})
        status = lib.td_trainer_init(ours.native, tail.native, config, ours.memory, size)
        assert status == lib.TD_E_ARGUMENT


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(3))
def test_nan_and_infinity_reach_the_loss(spoiled: float, place: int) -> None:
    """Whichever class's weights have left the range, the loss says so."""
    ours = Steps(Tail([2, 3]))
    values = ours.parameters.copy()
    values[2 * place] = spoiled
    ffi.memmove(ours.native.parameters, ffi.from_buffer(values), values.nbytes)
    for label in range(3):
        assert not np.isfinite(ours.predict(np.ones(2), label)[1])


# ------------------------------------------------------------------ the Python Trainer


def embedded(tail: Tail, seed: int = 0, n: int = 120, spread: int = 15, **options: Any) -> Pack:
    """Three clusters of int8 rows, with the scale and zero point of the tail's embedding."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    values = random.integers(-90, 90, (3, tail.embedding_size))[labels] // (spread // 15) + random.integers(
        -spread, spread + 1, (n, tail.embedding_size)
    )
    through = SimpleNamespace(embed=lambda inputs, progress: inputs, n_classes=3, input_size=tail.embedding_size,
                              has_state=False, output_dtype=np.dtype(np.int8), input_dtype=np.dtype(np.int8),
                              input_shape=(tail.embedding_size,), embedding_scale=tail.embedding_scale,
                              embedding_zero_point=tail.embedding_zero_point, embedding_hash=0)  # fmt: skip
    return pack(table_from_arrays(values.astype(np.int8), labels), through=through, **options)  # type: ignore[arg-type]


def trainer(tail: Tail, *packs: Any, **options: Any) -> Trainer:
    return Trainer(tail, *packs, config=TrainConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("widths", [[8, 3], [8, 6, 3]])
def test_it_learns(mode: str, widths: list[int]) -> None:
    tail = Tail(widths)
    train = embedded(tail, per_class=6)
    replay = embedded(tail, replay=9)
    ours = trainer(tail, train, replay, epochs=25, mode=mode)
    epochs = list(ours.epochs())
    assert [e.number for e in epochs] == list(range(1, 26)) and epochs[-1].loss < epochs[0].loss / 4
    assert (
        epochs[-1].accuracy == 1
        and epochs[0].steps == ours.steps == len(train[:] if mode == "full" else train.condensed) + 9
    )
    assert np.mean(ours.predict(train[:].astype(np.int8)) == train.labels) > 0.95
    again = trainer(tail, train, replay, epochs=25, mode=mode)
    assert again.run() == epochs[-1] and np.array_equal(again.parameters, ours.parameters)
    other = trainer(tail, train, replay, epochs=25, mode=mode, seed=1)
    other.run()
    assert not np.array_equal(other.parameters, ours.parameters)


def test_logit_range_leaves_the_weights() -> None:
    tail = Tail([8, 3])
    ours = trainer(tail, embedded(tail), epochs=2)
    ours.run()
    before = ours.parameters
    low, high = ours.logit_range()
    assert low < 0 < high and np.array_equal(before, ours.parameters) and (low, high) == ours.logit_range()


def test_rates_fall_on_a_line() -> None:
    assert rates(TrainConfig(epochs=3, learning_rate=0.5, final_rate=0.1)).tolist() == pytest.approx([0.5, 0.3, 0.1])
    assert rates(TrainConfig(epochs=1, learning_rate=0.5)).tolist() == [0.5]


def test_parameters_can_be_set() -> None:
    tail = Tail([8, 3])
    ours = trainer(tail, None)
    values = np.arange(27, dtype=np.float64)
    ours.parameters = values
    np.testing.assert_array_equal(ours.parameters, values)
    with pytest.raises(DataError, match="27 parameters"):
        ours.parameters = values[1:]


def test_weights_out_of_range_are_reported() -> None:
    tail = Tail([8, 3])
    with pytest.raises(CoreError, match="epoch 1: the weights have left the range of f32; lower the learning rate"):
        trainer(tail, embedded(tail), learning_rate=1e6, l2=1e6).run()
    ours = trainer(tail, embedded(tail), epochs=1)
    ours.parameters = np.full(27, 3e38)
    with pytest.raises(CoreError, match="left the range"):
        ours.logit_range()


def test_wrong_calls_are_refused() -> None:
    tail = Tail([8, 3])
    alone = trainer(tail, None)
    for call in (alone.run, alone.logit_range):
        with pytest.raises(UsageError, match="without a training set"):
            call()
    for shape in ((4, 7), (8,), (4, 9)):
        with pytest.raises(DataError, match=r"\(n, 8\)"):
            alone.predict(np.zeros(shape, np.int8))
    with pytest.raises(DataError, match="4 values a row, but the model has 8"):
        trainer(tail, pack(table_from_arrays(np.zeros((2, 4), np.int8), [0, 1])))
    with pytest.raises(DataError, match="4 classes, but the model tells 3"):
        trainer(tail, pack(table_from_arrays(np.zeros((2, 8), np.int8), [0, 3])))
    foreign = Tail([8, 3])
    foreign.embedding_hash = 5
    with pytest.raises(DataError, match="another model"):
        trainer(foreign, embedded(tail))


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", "best"), ("epochs", 0), ("learning_rate", 0), ("learning_rate", float("nan")), ("final_rate", -1),
     ("l2", float("inf")), ("replay", -0.1), ("seed", 2**32), ("seed", -1)],
)  # fmt: skip
def test_wrong_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        TrainConfig(**{name: value})
