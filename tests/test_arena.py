"""Where activations lie: nothing that is still needed is overwritten, and no byte more is used than need be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import convert, moving_network, real_model, run_reference

from tinydream.models.arena import ARENA_MULTIPLE, Block, Plan, _Search, plan_arena
from tinydream.models.compiler import compile_model
from tinydream.models.model import Model


@st.composite
def lives(draw: st.DrawFn, most: int = 12) -> list[Block]:
    """Blocks of which some may take over another's place."""
    blocks: list[Block] = []
    for _ in range(draw(st.integers(1, most))):
        size, first, length = draw(st.integers(1, 500)), draw(st.integers(0, 8)), draw(st.integers(0, 4))
        taken = {block.onto for block in blocks}
        dying = [i for i, block in enumerate(blocks) if i not in taken and block.last >= block.first]
        onto = draw(st.sampled_from([None, *dying]))
        if onto is not None:
            size, first = blocks[onto].size, blocks[onto].last
        blocks.append(Block(size, first, first + length, onto))
    return blocks


def overlap(blocks: list[Block], plan: Plan, a: int, b: int) -> bool:
    """In time and place."""
    together = blocks[a].first <= blocks[b].last and blocks[b].first <= blocks[a].last
    at, bt = plan.offsets[a], plan.offsets[b]
    return together and at < bt + blocks[b].size and bt < at + blocks[a].size


def chain(blocks: list[Block], index: int) -> set[int]:
    """The block and all whose place it took."""
    found = {index}
    while (onto := blocks[index].onto) is not None:
        found.add(index := onto)
    return found


@given(lives())
@settings(max_examples=200, deadline=None)
def test_blocks_alive_together_never_overlap(blocks: list[Block]) -> None:
    plan = plan_arena(blocks)
    assert plan.size % ARENA_MULTIPLE == 0 and plan.gap >= 0
    assert plan.size == -(-max(at + b.size for b, at in zip(blocks, plan.offsets, strict=True)) // 16) * 16
    for a, b in itertools.combinations(range(len(blocks)), 2):
        assert plan.offsets[a] >= 0 and plan.offsets[a] % 4 == 0
        if overlap(blocks, plan, a, b):  # only one that takes over, at the one step that both live
            assert plan.in_place and a in chain(blocks, b) and plan.offsets[a] == plan.offsets[b]
            assert blocks[a].last <= blocks[b].first
    if plan.in_place == 0:
        assert not any(overlap(blocks, plan, a, b) for a, b in itertools.combinations(range(len(blocks)), 2))


def smallest(blocks: list[Block]) -> int:
    """Of all plans: each block in turn on top of those that live with it, in every order."""
    best = 0
    for order in itertools.permutations(range(len(blocks))):
        tops: dict[int, tuple[int, int]] = {}
        for i in order:
            rivals = [top for j, (_, top) in tops.items()
                      if blocks[i].first <= blocks[j].last and blocks[j].first <= blocks[i].last]  # fmt: skip
            at = -(-max(rivals, default=0) // 4) * 4
            tops[i] = at, at + blocks[i].size
        size = max(top for _, top in tops.values())
        best = min(best or size, size)
    return -(-best // ARENA_MULTIPLE) * ARENA_MULTIPLE


@given(lives(most=6))
@settings(max_examples=100, deadline=None)
def test_few_blocks_are_placed_as_well_as_can_be(blocks: list[Block]) -> None:
    apart = [Block(block.size, block.first, block.last) for block in blocks]
    plan = plan_arena(apart)
    assert plan.optimal and plan.in_place == 0
    assert plan.lower_bound <= plan.size == smallest(apart)
    assert plan_arena(blocks).size <= plan.size


@given(lives(most=5))
@settings(max_examples=100, deadline=None)
def test_the_search_finds_the_smallest_plan_from_the_worst(raw: list[Block]) -> None:
    blocks = [Block(block.size, block.first, block.last) for block in raw]
    stacked = [*itertools.accumulate((-(-block.size // 4) * 4 for block in blocks[:-1]), initial=0)]
    search = _Search(blocks, stacked, 0)
    assert search.run()
    size = max(at + block.size for block, at in zip(blocks, search.best, strict=True))
    assert -(-size // ARENA_MULTIPLE) * ARENA_MULTIPLE == smallest(blocks)


def test_a_plan_above_its_lower_bound_says_so() -> None:
    """Found among thousands of random graphs; whether any plan is smaller is not known."""
    blocks = [
        *(Block(32, 6, 11), Block(16, 9, 10), Block(80, 9, 11), Block(16, 12, 14), Block(32, 10, 12), Block(32, 6, 7)),
        *(Block(48, 2, 4), Block(32, 3, 8), Block(176, 12, 13), Block(80, 11, 12), Block(16, 8, 12), Block(112, 6, 10)),
        *(Block(32, 14, 14), Block(112, 13, 14), Block(16, 6, 7), Block(112, 9, 13), Block(48, 9, 9), Block(112, 6, 6)),
    ]
    plan = plan_arena(blocks)
    assert (plan.size, plan.lower_bound, plan.gap, plan.optimal) == (448, 432, 16, False)


def test_a_block_only_takes_over_one_of_its_size_that_ends() -> None:
    with pytest.raises(ValueError, match="take over"):
        plan_arena([Block(8, 0, 1), Block(9, 1, 2, 0)])
    with pytest.raises(ValueError, match="take over"):
        plan_arena([Block(8, 0, 2), Block(8, 1, 2, 0)])


@pytest.mark.parametrize(
    ("name", "arena"),
    [("kws_ref_model", 16000), ("ad01_int8", 768), ("vww_96_int8", 55296), ("pretrainedResnet_quant", 49152)],
)
def test_arena_of_the_mlperf_models(name: str, arena: int) -> None:
    model = compile_model(real_model(f"{name}.tflite"))
    assert model.arena.lower_bound == model.arena_size == arena
    assert model.arena.optimal


# ------------------------------------------------------- in place, as LiteRT computes


def assert_exact(tflite: bytes, in_place: int | None = None) -> Model:
    model = compile_model(tflite, whole=True)
    inputs = np.random.default_rng(1).integers(-128, 128, (4, *model.input_shape), np.int8)
    expected = run_reference(tflite, inputs, model.graph.outputs[0])
    np.testing.assert_array_equal(model.embed(inputs), expected)
    if in_place is not None:
        assert model.arena.in_place == in_place
    return model


def network(body: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A 5x4x6 input through a convolution, then `body(keras, x)`."""

    def build(keras: Any) -> Any:
        inputs = keras.Input((5, 4, 6), batch_size=1)
        return keras.Model(inputs, body(keras, keras.layers.Conv2D(6, 3, padding="same")(inputs)))

    return build


def side(keras: Any, x: Any) -> Any:
    return keras.layers.Conv2D(6, 2, padding="same")(x)


def small(keras: Any, x: Any) -> Any:
    """1x1x6."""
    return keras.layers.GlobalAveragePooling2D(keepdims=True)(x)


@pytest.mark.parametrize(
    ("body", "in_place"),
    [
        (lambda keras, x: keras.ops.add(x, side(keras, x)), 1),
        (lambda keras, x: keras.ops.subtract(side(keras, x), x), 1),
        (lambda keras, x: keras.ops.multiply(x, x), 1),  # both inputs are the one that is overwritten
        (lambda keras, x: keras.ops.multiply(x, keras.ops.sigmoid(small(keras, x))), 2),  # the larger input only
        (lambda keras, x: keras.ops.multiply(small(keras, x), side(keras, x)), 1),
        (lambda keras, x: keras.layers.Softmax()(keras.ops.tanh(x)), 2),
        (lambda keras, x: keras.ops.add(keras.ops.sigmoid(x), x), 1),  # x is needed after its sigmoid
        (lambda keras, x: keras.ops.tanh(keras.layers.Reshape((6, 4, 5))(keras.ops.sigmoid(x))), 2),
        (lambda keras, x: keras.ops.tanh(keras.layers.Permute((2, 1, 3))(x)), 1),
    ],
    ids=["sum", "difference", "square", "broadcast", "broadcast first", "softmax", "still needed", "reshaped", "moved"],
)
def test_what_overwrites_its_input(body: Callable[[Any, Any], Any], in_place: int) -> None:
    model = assert_exact(convert(network(body), 4), in_place)
    assert model.arena.gap == 0


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed: int) -> None:
    assert_exact(convert(moving_network(seed + 40), seed))
