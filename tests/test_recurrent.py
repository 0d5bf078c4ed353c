"""Operators that remember, SVDF and LSTM: run after run the bytes of LiteRT's reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import run_reference
from test_model import sections_of, try_tdm
from test_operators import number, values
from tflite_builder import Builder

from tinydream._native import ffi, lib
from tinydream.devices import journey
from tinydream.errors import DataError, UnsupportedModelError
from tinydream.files import write_sections
from tinydream.models.compiler import compile_model
from tinydream.models.model import Model
from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays


def assert_exact(tflite: bytes, seed: int, n: int = 6) -> Model:
    """Rows are runs of one model, one after the other, in LiteRT and here."""
    print(f"seed {seed}")
    model = compile_model(tflite, whole=True)
    inputs = values(np.random.default_rng(seed), (n, *model.input_shape), model.input_dtype)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(model.embed(inputs), expected)
    assert len(np.unique(expected)) > 2
    return model


def scale(random: np.random.Generator, low: float, high: float) -> np.float32:
    return np.float32(2 ** random.uniform(low, high))


def svdf_model(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    n_in, units, rank, memory = number(random, 1, 30), number(random, 1, 9), number(random, 1, 3), number(random, 1, 12)
    filters, builder = units * rank, Builder()
    source = builder.tensor((1, n_in), np.int8, scale(random, -7, -3), number(random, -128, 127))
    features = builder.constant(random.integers(-127, 128, (filters, n_in)), np.int8, scale(random, -8, -6))
    time = builder.constant(random.integers(-32767, 32768, (filters, memory)), np.int16, scale(random, -17, -15))
    bias = builder.constant(random.integers(-9000, 9000, units), np.int32, 2**-20) if seed % 4 else -1
    state = builder.tensor((1, filters * memory), np.int16, scale(random, -12, -9), variable=True)
    output = builder.tensor((1, units), np.int8, scale(random, -7, -2), number(random, -128, 127))
    builder.operator("SVDF", [source, features, time, bias, state], [output], rank=rank, fusedActivationFunction=1)
    return builder.finish([source], [output])


def test_svdf() -> None:
    for seed in range(60):
        assert assert_exact(svdf_model(seed), seed, n=20).has_state


def lstm_model(seed: int, **changes: Any) -> bytes:
    random = np.random.default_rng(seed)
    steps, n_in, n, builder = number(random, 1, 6), number(random, 1, 12), number(random, 1, 12), Builder()
    in_scale, out_scale, out_zero = scale(random, -7, -4), scale(random, -8, -6), number(random, -60, 60)
    source = builder.tensor((1, steps, n_in), np.int8, in_scale, number(random, -128, 127))

    def weights(width: int) -> int:
        return builder.constant(random.integers(-127, 128, (n, width)), np.int8, scale(random, -9, -5))

    inputs = [source, *(weights(n_in) for _ in range(4)), *(weights(n) for _ in range(4)), -1, -1, -1]
    inputs += [builder.constant(random.integers(-3000, 3000, n), np.int32, 2**-16) for _ in range(4)]
    inputs += [-1, -1, builder.tensor((1, n), np.int8, out_scale, out_zero, variable=True)]
    cells = builder.tensor((1, n), np.int16, 2.0 ** -number(random, 9, 15), variable=True)
    inputs += [cells, -1, -1, -1, -1]
    inner = [builder.tensor((1, n), np.int16, 2**-12) for _ in range(4)]
    inner.append(builder.tensor((1, n), np.int8, out_scale, out_zero))
    output = builder.tensor((1, steps, n), np.int8, out_scale, out_zero)
    options = {"fusedActivationFunction": 4, "cellClip": float(random.choice([0, 0, 1.5]))} | changes
    builder.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [output], _intermediates=inner, **options)
    return builder.finish([source], [output])


def test_lstm() -> None:
    for seed in range(60):
        assert assert_exact(lstm_model(seed), seed).has_state


def test_rows_of_a_pack_must_not_depend_on_each_other() -> None:
    model = compile_model(svdf_model(5), whole=True)
    table = table_from_arrays(np.zeros((4, model.input_size), np.int8), [0, 0, 0, 0])
    with pytest.raises(DataError, match="remembers"):
        pack(table, through=model)


def test_what_a_run_leaves_is_forgotten_by_a_reset_alone() -> None:
    model = compile_model(svdf_model(2), whole=True)
    inputs = values(np.random.default_rng(3), (6, *model.input_shape), np.int8)
    whole = model.embed(inputs)
    np.testing.assert_array_equal(model.embed(inputs), whole)
    alone = np.concatenate([model.embed(row[None]) for row in inputs])
    np.testing.assert_array_equal(alone[0], whole[0])
    assert (alone != whole).any()
    arena = ffi.new("uint64_t[]", model.arena_size // 8 + 1)
    assert lib.td_model_reset(model.native, ffi.cast("uint8_t *", arena), model.arena_size - 1) == lib.TD_E_MEMORY


def test_planned_state_lies_beside_all_that_lives() -> None:
    for seed in range(10):
        model = compile_model(svdf_model(seed), whole=True)
        state = next(tensor for tensor in model.graph.tensors if tensor.variable)
        assert model.arena_size >= 2 * state.size + model.input_size + model.embedding_size


@pytest.mark.parametrize("board_id", ["host", "microbit", "an386"])
def test_boards_remember_and_forget(board_id: str) -> None:
    with journey.emulate(board_id) as device:
        for tflite in (svdf_model(5), lstm_model(8), svdf_model(5)):
            model = compile_model(tflite, whole=True)
            inputs = values(np.random.default_rng(1), (5, *model.input_shape), np.int8)
            for _ in range(2):
                outputs = journey.run(model, inputs, device, raw=True)
                np.testing.assert_array_equal(outputs.reshape(5, -1), model.embed(inputs))


def test_mutated_sections_with_good_checksums_stay_inside() -> None:
    for seed in range(300):
        random = np.random.default_rng(seed)
        tdm = compile_model(svdf_model(5) if seed % 2 else lstm_model(8), whole=True).tdm
        sections = {kind: bytearray(content) for kind, content in sections_of(tdm).items()}
        for _ in range(number(random, 1, 4)):
            content = sections[int(random.choice([1, 2, 3, 3, 5]))]
            content[number(random, 0, len(content) - 1)] = random.choice([0, 1, 2, 7, 0x7F, 0x80, 0xFF])
        try_tdm(write_sections(lib.TD_MAGIC_MODEL, {kind: bytes(content) for kind, content in sections.items()}))


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"operator 0 \(UNIDIRECTIONAL_SEQUENCE_LSTM.*time_major=False"):
        compile_model(lstm_model(8, timeMajor=True), whole=True)
