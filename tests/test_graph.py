"""Importing a .tflite: what it holds, and that no bytes get past as anything but a clear error."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import PROJECT, demo_model, real_model, renamed_operator

from tinydream.errors import FormatError, TinyDreamError, UnsupportedModelError, UsageError
from tinydream.models.compiler import compile_model
from tinydream.models.graph import read_graph


def test_what_a_graph_holds() -> None:
    tflite = demo_model()
    graph = read_graph(tflite)
    assert [operator.name for operator in graph.operators] == [
        *("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"),
        *("AVERAGE_POOL_2D", "FULLY_CONNECTED", "SOFTMAX"),
    ]
    assert (graph.hash, graph.size) == (zlib.crc32(tflite), len(tflite))
    source = graph.tensors[graph.inputs[0]]
    assert (source.shape, source.dtype, source.data, len(source.scales)) == ((1, 100, 1, 6), "INT8", None, 1)
    weights = graph.tensors[graph.operators[0].inputs[1]]
    assert (weights.shape, len(weights.scales), weights.axis) == ((16, 5, 1, 6), 16, 0)
    assert weights.data_at is not None and weights.scales_at is not None
    assert tflite[weights.data_at :][: weights.size] == weights.data
    assert np.frombuffer(tflite, "<f4", 16, weights.scales_at).tolist() == weights.scales.tolist()
    assert graph.operators[0].options["StrideH"] == 2


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 64, b"PK\3\4" + b"x" * 100, b"<html>" * 20])
def test_other_files_are_named_as_such(content: bytes) -> None:
    with pytest.raises(FormatError, match="not a"):
        compile_model(content)


def test_a_missing_file_is_a_format_error(tmp_path) -> None:
    with pytest.raises(FormatError, match="cannot read"):
        compile_model(tmp_path / "absent.tflite")


def test_errors_name_the_file(tmp_path) -> None:
    path = tmp_path / "other.tflite"
    for content, message in ((b"x" * 99, "other.tflite is not a .tflite"), (demo_model()[:99], "other.tflite: the")):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            compile_model(path)


def test_every_truncation_is_an_error() -> None:
    tflite = demo_model()
    for size in [*range(0, 400), *range(400, len(tflite), 61)]:
        try:
            compile_model(tflite[:size])
        except TinyDreamError:
            continue
        # Only trailing padding may be missing.
        assert size > len(tflite) - 16


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_give_an_error_or_a_model(data: st.DataObject) -> None:
    tflite = bytearray(demo_model())
    for _ in range(data.draw(st.integers(1, 3))):
        tflite[data.draw(st.integers(0, len(tflite) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = compile_model(bytes(tflite))
    except TinyDreamError:
        return
    assert model.embed(np.zeros((1, *model.input_shape), np.int8)).shape == (1, model.embedding_size)


@pytest.mark.parametrize("value", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_every_byte_of_the_structure(value: int) -> None:
    """The head and the tail of the file hold its tables; the weights are in between."""
    tflite = demo_model()
    positions = [*range(0, 300, 3), *range(len(tflite) - 3500, len(tflite), 11)]
    for position in positions:
        broken = bytearray(tflite)
        broken[position] = value
        try:
            compile_model(bytes(broken))
        except TinyDreamError as error:
            assert str(error)


def test_dynamic_range_models_are_refused_with_advice() -> None:
    with pytest.raises(UnsupportedModelError, match=r"weights are INT8.*float32.*Convert the model without"):
        compile_model(real_model("kws_ref_model_float32.tflite"))


def test_an_unsupported_operator_is_named_with_its_index_and_shapes() -> None:
    average_pool, softmax, l2_pool, square = 1, 25, 12, 92
    with pytest.raises(UnsupportedModelError, match=r"operator 5 \(L2_POOL_2D, 1x50x1x32 -> 1x1x1x32\).*Supported"):
        compile_model(renamed_operator(demo_model(), average_pool, l2_pool))
    with pytest.raises(UnsupportedModelError, match=r"ends in operator 7 \(SQUARE.*FULLY_CONNECTED"):
        compile_model(renamed_operator(demo_model(), softmax, square))


def test_operators_that_read_what_is_written_later_are_refused() -> None:
    import tflite as schema

    tflite = demo_model(batch=None)
    subgraph = schema.Model.GetRootAs(tflite, 0).Subgraphs(0)
    graph = read_graph(tflite)
    for operator in graph.operators:
        if operator.name not in ("RESHAPE", "FULLY_CONNECTED", "CONV_2D"):
            continue
        raw = subgraph.Operators(operator.index)
        cyclic = bytearray(tflite)
        position = raw._tab.Vector(raw._tab.Offset(6))
        cyclic[position : position + 4] = operator.outputs[0].to_bytes(4, "little")
        with pytest.raises(FormatError, match="written later"):
            compile_model(bytes(cyclic))


def test_cuts() -> None:
    tflite = demo_model()
    model = compile_model(tflite)
    name = model.graph.tensors[model.cut].name
    for cut in (1, "1", name, f"#{model.cut}"):
        assert compile_model(tflite, cut).tdm == model.tdm
    for cut in (0, 99, "-1", "nothing", "#999", "#x"):
        with pytest.raises(UsageError, match="cut"):
            compile_model(tflite, cut)
    with pytest.raises(UsageError, match=f"can be cut at '{name}', "):
        compile_model(tflite, f"#{model.graph.outputs[0]}")


def test_a_cut_above_a_reshape_is_the_same_cut() -> None:
    tflite = demo_model(batch=None)  # its flatten is a RESHAPE to a computed shape
    model = compile_model(tflite)
    pooled = next(o for o in model.graph.operators if o.name == "AVERAGE_POOL_2D").outputs[0]
    assert pooled != model.cut
    assert compile_model(tflite, f"#{pooled}").tdm == model.tdm


def test_import_stays_light() -> None:
    code = "import sys, tinydream, tinydream.models.compiler; assert not {'tflite', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
