"""The compiled model: bit-exact with LiteRT's reference kernels, safe with any bytes, planned within its arena."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import PROJECT, convert, demo_model, dense_model, moving_model, random_network, real_model, run_reference

from tinydream import _native
from tinydream.errors import DataError
from tinydream.files import write_sections
from tinydream.models.compiler import compile_model
from tinydream.models.fixedpoint import quantize_multiplier
from tinydream.models.model import Model


def random_inputs(model: Model, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (n, *model.input_shape), np.int8)


def assert_exact(tflite: bytes, cut: str | int | None = None, n: int = 4, seed: int = 0) -> Model:
    print(f"seed {seed}")
    model = compile_model(tflite, cut)
    inputs = random_inputs(model, n, seed)
    expected = run_reference(tflite, inputs, model.cut)
    np.testing.assert_array_equal(model.embed(inputs), expected)
    return model


@pytest.mark.parametrize("batch", [1, None])
def test_demo_network(batch: int | None) -> None:
    model = assert_exact(demo_model(batch=batch), n=16)
    assert (model.input_shape, model.embedding_size, model.n_classes) == ((100, 1, 6), 32, 7)
    assert model.softmax and model.native.ends_in_softmax


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_dense_network(per_channel: bool, cut: int) -> None:
    model = assert_exact(dense_model(per_channel), cut, n=64)
    assert len(model.tail) == cut


@pytest.mark.parametrize("name", ["kws_ref_model", "ad01_int8", "vww_96_int8", "pretrainedResnet_quant"])
def test_mlperf_tiny(name: str) -> None:
    model = assert_exact(real_model(f"{name}.tflite"), n=3)
    assert model.softmax == (name != "ad01_int8")


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int) -> None:
    assert_exact(convert(random_network(seed), seed, per_channel_dense=seed % 2 == 0), n=4, seed=seed)


def test_describe_adds_up() -> None:
    model = compile_model(demo_model())
    rows = model.describe()
    assert [row.trained for row in rows] == [False] * 6 + [True] * 2
    assert rows[0].macs == 50 * 16 * 5 * 6
    assert (rows[1].name, rows[1].output, rows[1].macs) == ("DEPTHWISE_CONV_2D", (1, 50, 1, 16), 50 * 16 * 3)
    overhead = len(model.tdm) - sum(row.flash for row in rows)
    assert 0 < overhead < 400  # header, tensors and alignment
    assert len(model.tdm) < len(demo_model())


def test_embed_checks_its_input_and_reports_progress() -> None:
    model = compile_model(demo_model())
    seen: list[tuple[int, int]] = []
    inputs = random_inputs(model, 3, 0)
    whole = model.embed(inputs, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(model.embed(inputs.reshape(3, 100, 6)), whole)
    assert model.embed(inputs[:0]).shape == (0, 32)
    for bad in (inputs.astype(np.int16), inputs[0], inputs.reshape(3, 6, 1, 100), np.int8(0)):
        with pytest.raises(DataError, match="int8 inputs of shape"):
            model.embed(bad)


def test_quantise_rounds_and_refuses_nan() -> None:
    model = compile_model(demo_model())
    grid = np.arange(-128, 128)
    real = (grid - model.input_zero_point) * np.float32(model.input_scale)
    np.testing.assert_array_equal(model.quantise(real), grid)
    halves = (np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) * np.float32(model.input_scale)).astype(np.float32)
    exact = halves / np.float32(model.input_scale) == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    away = np.array([-3, -2, -1, 1, 2, 3]) + model.input_zero_point
    assert exact.any() and (model.quantise(halves)[exact] == np.clip(away, -128, 127)[exact]).all()
    assert model.quantise([1e9, -1e9]).tolist() == [127, -128]
    with pytest.raises(DataError, match=r"w.csv holds NaN"):
        model.quantise([np.nan], source="w.csv")


@given(st.floats(1e-12, 1e6))
def test_multipliers_are_close_and_normal(real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    if multiplier:
        assert 1 << 30 <= multiplier < 1 << 31
        assert abs(multiplier * 2.0 ** (shift - 31) / real - 1) < 2**-30
    else:
        assert real < 2**-31


@pytest.mark.parametrize("option", ["TD_NARROW_MULTIPLY", "TD_WIDE"])
def test_what_other_cores_are_built_with_gives_the_same_bytes(tmp_path, option: str) -> None:
    """Products from halves are for a Cortex-M0, the wide kernels for cores with more registers; here on the host."""
    library = tmp_path / "other.so"
    sources = sorted((PROJECT / "c_src").glob("*.c"))
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", "-ffp-contract=off", f"-D{option}=1"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *map(str, sources), "-o", str(library)], check=True)
    other = ctypes.CDLL(str(library))
    for tflite in (demo_model(), dense_model(), convert(random_network(4), 4), convert(random_network(6), 6)):
        model = compile_model(tflite, 1)
        inputs = random_inputs(model, 8, 0)
        handle = ctypes.create_string_buffer(_native.ffi.sizeof("td_model"))
        arena = np.zeros(model.arena_size // 8 + 1, np.int64).view(np.int8)
        assert other.td_model_open(handle, model.tdm, len(model.tdm)) == 0
        for row, expected in zip(inputs, model.embed(inputs), strict=True):
            arena[model.native.input_offset :][: row.size] = row.ravel()
            assert other.td_model_run(handle, ctypes.c_void_p(arena.ctypes.data), arena.size) == 0
            got = arena[model.native.embedding_offset :][: expected.size]
            np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------- bytes of a .tdm


def sections_of(tdm: bytes) -> dict[int, bytes]:
    n = struct.unpack_from("<H", tdm, 6)[0]
    table = [struct.unpack_from("<IIII", tdm, 16 + 16 * i) for i in range(n)]
    return {kind: tdm[at : at + size] for kind, at, size, _ in table}


def try_tdm(tdm: bytes) -> int:
    """Opens and runs any bytes; the arena is exactly as large as the file asks for, with guards around it."""
    lib, ffi = _native.lib, _native.ffi
    model = ffi.new("td_model *")
    status = int(lib.td_model_open(model, _native.view(tdm), len(tdm)))
    if status < 0 or model.arena_size > 1 << 16:
        return status
    guarded = np.full(model.arena_size + 128, 0x55, np.uint8)
    arena = ffi.cast("uint8_t *", ffi.from_buffer("uint8_t[]", guarded)) + 64
    assert lib.td_model_run(model, arena, model.arena_size) == lib.TD_OK
    assert (guarded[:64] == 0x55).all() and (guarded[-64:] == 0x55).all()
    return status


def test_every_truncated_or_flipped_tdm_is_an_error() -> None:
    tdm = compile_model(demo_model()).tdm
    assert try_tdm(tdm) == _native.lib.TD_OK
    for size in range(0, len(tdm), 7):
        assert try_tdm(tdm[:size]) < 0
    for position in range(0, len(tdm), 3):
        broken = bytearray(tdm)
        broken[position] ^= 1 << position % 8
        assert try_tdm(bytes(broken)) < 0


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_sections_with_good_checksums_stay_inside(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([demo_model, dense_model, moving_model]))
    tdm = compile_model(source(), whole=source is moving_model).tdm
    sections = {kind: bytearray(content) for kind, content in sections_of(tdm).items()}
    for _ in range(data.draw(st.integers(1, 4))):
        content = sections[data.draw(st.sampled_from([1, 2, 3, 4, 5]))]
        if content:
            position = data.draw(st.integers(0, len(content) - 1))
            content[position] = data.draw(st.sampled_from([0, 1, 2, 7, 0x7F, 0x80, 0xFF]))
    try_tdm(write_sections(_native.lib.TD_MAGIC_MODEL, {kind: bytes(c) for kind, c in sections.items()}))


def test_missing_sections_and_records_are_refused() -> None:
    sections = sections_of(compile_model(demo_model()).tdm)
    magic = _native.lib.TD_MAGIC_MODEL
    assert try_tdm(write_sections(magic, sections)) == _native.lib.TD_OK
    for kind, content in sections.items():
        without = {k: c for k, c in sections.items() if k != kind}
        assert try_tdm(write_sections(magic, without)) < 0
        assert try_tdm(write_sections(magic, {**sections, kind: content[:-1]})) < 0


def test_an_arena_that_is_too_small_is_refused() -> None:
    model = compile_model(demo_model())
    arena = np.zeros(model.arena_size // 8, np.int64)
    memory = _native.ffi.from_buffer("uint8_t[]", arena)
    assert _native.lib.td_model_run(model.native, memory, model.arena_size - 1) == _native.lib.TD_E_MEMORY
