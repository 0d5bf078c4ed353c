"""Plans the tensor arena: where each activation lies while it lives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

__all__ = ["Block", "Plan", "plan_arena"]

ALIGNMENT = 4  # of an offset; a kernel may load words
ARENA_MULTIPLE = 16
_RANDOM_ORDERS = 64
_SEARCH_STEPS = 4000  # of the exact search, which small models end long before


@dataclass(frozen=True)
class Block:
    """A buffer of `size` bytes that lives from step `first` to step `last`, both included.

    `onto` is the number of an earlier block of the same size that may be overwritten with this one, value by value, at
    the step that is its last and this one's first.
    """

    size: int
    first: int
    last: int
    onto: int | None = None


@dataclass(frozen=True)
class Plan:
    """Byte offsets of the blocks, the arena that they need, and what no plan can go below: the most alive at a step."""

    offsets: tuple[int, ...]
    size: int
    lower_bound: int
    optimal: bool  # no plan is smaller: the bound is reached, or all were searched
    in_place: int  # blocks that lie where the one lies that they take over

    @property
    def gap(self) -> int:
        """Bytes above the lower bound."""
        return self.size - self.lower_bound


def _align(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def plan_arena(blocks: Sequence[Block]) -> Plan:
    """Places blocks so that those alive at the same time do not overlap, unless one takes over the other's place.

    Exact packing is NP-hard. The best of many greedy orders nearly always reaches the lower bound with the few blocks
    of a small model; where it does not, a search through all plans goes on, as far as its number of steps allows.
    """
    merged, group = _merged(blocks)
    plan = _plan(merged)
    n_merged = len(blocks) - len(merged)
    if plan.gap > 0 and n_merged > 0:
        apart = _plan([Block(block.size, block.first, block.last) for block in blocks])
        if apart.size < plan.size:
            return replace(apart, lower_bound=plan.lower_bound, optimal=False)
    optimal = plan.gap == 0 or (plan.optimal and n_merged == 0)
    return replace(plan, offsets=tuple(plan.offsets[at] for at in group), optimal=optimal, in_place=n_merged)


def _merged(blocks: Sequence[Block]) -> tuple[list[Block], list[int]]:
    """Chains of blocks that take each other over as one block each, and which of them each block is in."""
    merged: list[Block] = []
    group: list[int] = []
    for block in blocks:
        under = None if block.onto is None else group[block.onto]
        if under is None:
            group.append(len(merged))
            merged.append(Block(block.size, block.first, block.last))
            continue
        old = merged[under]
        if block.size != old.size or block.first != old.last:
            raise ValueError(f"{block} cannot take over {old}")
        group.append(under)
        merged[under] = Block(old.size, old.first, block.last)
    return merged, group


def _plan(blocks: Sequence[Block]) -> Plan:
    bound = _whole(_lower_bound(blocks))
    best: list[int] | None = None
    for order in _orders(blocks):
        offsets = _place(blocks, order)
        if best is None or _size(blocks, offsets) < _size(blocks, best):
            best = offsets
        if _size(blocks, best) <= bound:
            break
    assert best is not None
    complete = True
    if _size(blocks, best) > bound:
        search = _Search(blocks, best, bound)
        complete, best = search.run(), search.best
    return Plan(tuple(best), _size(blocks, best), bound, complete, 0)


def _whole(size: int) -> int:
    return _align(size, ARENA_MULTIPLE)


def _size(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    """Of the arena, in bytes."""
    return _whole(max((at + block.size for block, at in zip(blocks, offsets, strict=True)), default=0))


def _steps(blocks: Sequence[Block]) -> list[int]:
    """Where the set of live blocks grows: what holds there holds everywhere."""
    return sorted({block.first for block in blocks})


def _lower_bound(blocks: Sequence[Block]) -> int:
    """The most bytes alive at one step."""
    alive = ([b.size for b in blocks if b.first <= step <= b.last] for step in _steps(blocks))
    return max((_stacked(0, sizes) for sizes in alive), default=0)


def _stacked(bottom: int, sizes: Sequence[int]) -> int:
    """The least height of blocks on top of each other; the topmost may end anywhere."""
    padded = [_align(size, ALIGNMENT) for size in sizes]
    slack = max((a - b for a, b in zip(padded, sizes, strict=True)), default=0)
    return _align(bottom, ALIGNMENT) + sum(padded) - slack if sizes else bottom


def _orders(blocks: Sequence[Block]) -> Iterator[list[int]]:
    indices = range(len(blocks))
    keys = (
        lambda i: (-blocks[i].size, blocks[i].first),
        lambda i: (-blocks[i].size, -blocks[i].last),
        lambda i: (blocks[i].first, -blocks[i].size),
        lambda i: (-blocks[i].last, -blocks[i].size),
        lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), blocks[i].first),
        lambda i: (blocks[i].first - blocks[i].last, -blocks[i].size),
    )
    for key in keys:
        yield sorted(indices, key=key)
    shuffled = random.Random(0)
    for _ in range(_RANDOM_ORDERS):
        yield shuffled.sample(indices, len(blocks))


def _rivals(a: Block, b: Block) -> bool:
    """Whether two blocks live at the same time."""
    return a.first <= b.last and b.first <= a.last


def _place(blocks: Sequence[Block], order: Sequence[int]) -> list[int]:
    """Each block in turn goes to the lowest gap among those placed that live at the same time."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for index in order:
        block = blocks[index]
        rivals = [i for i in placed if _rivals(blocks[i], block)]
        at = 0
        for rival in sorted(rivals, key=lambda i: offsets[i]):
            if offsets[rival] - at >= block.size:
                break
            at = max(at, _align(offsets[rival] + blocks[rival].size, ALIGNMENT))
        offsets[index] = at
        placed.append(index)
    return offsets


class _Search:
    """All plans in which blocks are put down from the lowest to the highest, each on top of those below it.

    Every plan sinks to one of these without growing, so the smallest of them is the smallest of all.
    """

    def __init__(self, blocks: Sequence[Block], best: list[int], bound: int) -> None:
        self.blocks, self.best, self.bound = blocks, best, bound
        self.steps = _steps(blocks)
        self.left = _SEARCH_STEPS

    def run(self) -> bool:
        """Whether it came to its end; `best` is then a smallest plan."""
        self.descend({}, 0)
        return self.left > 0

    def descend(self, placed: dict[int, int], floor: int) -> None:
        if len(placed) == len(self.blocks):
            self.best = [placed[i] for i in range(len(placed))]
            return
        tops = [(self.top(placed, block), -block.size, i) for i, block in enumerate(self.blocks) if i not in placed]
        for at, _, index in sorted(tops):
            if at < floor:
                continue  # its turn was before, or comes when more lies under it
            self.left -= 1
            if self.left <= 0 or _size(self.blocks, self.best) <= self.bound:
                return
            placed[index] = at
            if self.promises(placed):
                self.descend(placed, at)
            del placed[index]

    def top(self, placed: dict[int, int], block: Block) -> int:
        """The lowest offset above all that were placed and live at the same time."""
        blocks = self.blocks
        tops = (_align(at + blocks[i].size, ALIGNMENT) for i, at in placed.items() if _rivals(blocks[i], block))
        return max(tops, default=0)

    def promises(self, placed: dict[int, int]) -> bool:
        """Whether the best plan could still be beaten."""
        goal = _size(self.blocks, self.best)
        for step in self.steps:
            alive = [i for i, block in enumerate(self.blocks) if block.first <= step <= block.last]
            height = max((placed[i] + self.blocks[i].size for i in alive if i in placed), default=0)
            if _whole(_stacked(height, [self.blocks[i].size for i in alive if i not in placed])) >= goal:
                return False
        return True
