"""Plans the tensor arena: where each activation lies while it lives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Block", "Plan", "plan_arena"]

ALIGNMENT = 4  # of an offset; a kernel may load words
ARENA_MULTIPLE = 16
_RANDOM_ORDERS = 64


@dataclass(frozen=True)
class Block:
    """A buffer of `size` bytes that lives from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Byte offsets of the blocks, the arena they need, and what no plan can go below."""

    offsets: tuple[int, ...]
    size: int
    lower_bound: int


def _align(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def plan_arena(blocks: Sequence[Block]) -> Plan:
    """Places blocks so that those alive at the same time do not overlap; the best of many greedy orders.

    Exact packing is NP-hard; with the few blocks of a small model the greedy orders nearly always reach
    the lower bound, and the search stops when one does.
    """
    bound = _lower_bound(blocks)
    best: tuple[int, list[int]] | None = None
    for order in _orders(blocks):
        offsets = _place(blocks, order)
        size = max((at + blocks[i].size for i, at in enumerate(offsets)), default=0)
        if best is None or size < best[0]:
            best = (size, offsets)
        if best[0] <= bound:
            break
    assert best is not None
    return Plan(tuple(best[1]), _align(best[0], ARENA_MULTIPLE), _align(bound, ARENA_MULTIPLE))


def _lower_bound(blocks: Sequence[Block]) -> int:
    """The most bytes alive at one step."""
    steps = {block.first for block in blocks}
    return max((sum(b.size for b in blocks if b.first <= step <= b.last) for step in steps), default=0)


def _orders(blocks: Sequence[Block]) -> list[list[int]]:
    indices = range(len(blocks))
    keys = (
        lambda i: (-blocks[i].size, blocks[i].first),
        lambda i: (-blocks[i].size, -blocks[i].last),
        lambda i: (blocks[i].first, -blocks[i].size),
        lambda i: (-blocks[i].last, -blocks[i].size),
        lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), blocks[i].first),
        lambda i: (blocks[i].first - blocks[i].last, -blocks[i].size),
    )
    orders = [sorted(indices, key=key) for key in keys]
    shuffled = random.Random(0)
    orders += [shuffled.sample(indices, len(blocks)) for _ in range(_RANDOM_ORDERS)]
    return orders


def _place(blocks: Sequence[Block], order: Sequence[int]) -> list[int]:
    """Each block in turn goes to the lowest gap among those placed that live at the same time."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for index in order:
        block = blocks[index]
        rivals = [i for i in placed if blocks[i].first <= block.last and block.first <= blocks[i].last]
        at = 0
        for rival in sorted(rivals, key=lambda i: offsets[i]):
            if offsets[rival] - at >= block.size:
                break
            at = max(at, _align(offsets[rival] + blocks[rival].size, ALIGNMENT))
        offsets[index] = at
        placed.append(index)
    return offsets
