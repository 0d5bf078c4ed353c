"""Pictures of results. matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import atomic_write

__all__ = ["draw_curves", "draw_demo", "draw_plan"]

DETAILED = 128  # features whose bits are marked one by one
BEFORE, AFTER, FULL = "#b8c4ce", "#1f6f8b", "#d98e04"
PURPOSES = ("#33475b", "#5c7c99", "#1f6f8b", "#39a2ae", "#9bd1c6", "#e4e9ed")


def draw_demo(result: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Accuracy before and after, on the new and on the other wearers, and the board's RAM by purpose, as a PNG.

    `result` is the content of demo.json. Raises UsageError without matplotlib.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(3, 2), layout="constrained")
    _accuracy(left, result)
    _ram(right, result["ram_by_purpose"], int(result["ram_total"]), str(result["board"]))
    figure.suptitle(
        f"Wearer {result['wearer']} on {result['board']}: head trained on {result['n_train_samples']} "
        f"{result['mode'] if result['mode'] != 'full' else 'rows'}, {result['n_replay_samples']} replayed",
        fontsize=11,
    )
    atomic_write(Path(path), _png(plt, figure))


def draw_curves(budgets: Sequence[int], curves: Mapping[str, Sequence[float]], all_rows: float) -> bytes:
    """Accuracy against the number of samples, a curve a method, as a PNG. `all_rows`: what the whole set reaches."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for (method, values), colour in zip(curves.items(), (AFTER, FULL, "#7a8793", "#33475b"), strict=False):
        axes.plot(budgets, [100 * value for value in values], "o-", color=colour, label=method)
    axes.axhline(100 * all_rows, color="#33475b", linestyle=":", label="all rows")
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(n) for n in budgets])
    axes.set_xlabel("samples trained on")
    axes.set_ylabel("accuracy on rows held back, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(plt, figure)


def draw_plan(
    entropy: Sequence[Sequence[float]], base: Sequence[Sequence[float]], key: Sequence[Sequence[float]],
    names: Sequence[str], title: str,
) -> bytes:  # fmt: skip
    """A bit plan as a PNG: a row a feature, a column a bit, most significant first.

    `entropy`, `base`, `key`: (features, bits), as in `inspection.BitPlan`; `names` of the features. Colour is
    entropy; a frame marks the bits of the base, a dot those that the key names.
    """
    plt = _pyplot()
    n, width = len(entropy), len(entropy[0])
    height = 1.6 + 0.22 * max(n, 4) if n <= DETAILED else 12.0  # of more features only bands can be seen
    figure, axes = plt.subplots(figsize=(2.6 + 0.3 * width, height), layout="constrained")
    image = axes.imshow(entropy, cmap="GnBu", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="entropy, bits")
    for f in range(n if n <= DETAILED else 0):
        for bit in range(width):
            if base[f][bit] >= 0.5 and entropy[f][bit] > 0:
                axes.add_patch(plt.Rectangle((bit - 0.46, f - 0.46), 0.92, 0.92, fill=False, edgecolor=FULL))
            if key[f][bit] >= 0.5:
                axes.plot(bit, f, ".", color=FULL, markersize=4)
    axes.set_xticks(range(width), [str(width - 1 - bit) for bit in range(width)], fontsize=7)
    axes.set_xlabel("bit" + (" (framed: base; dot: key)" if n <= DETAILED else ""))
    if n <= DETAILED // 2:
        axes.set_yticks(range(n), [name[:24] for name in names], fontsize=7)
    axes.set_ylabel("feature")
    axes.set_title(title, fontsize=10)
    return _png(plt, figure)


def _png(plt: Any, figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names may hold letters that the font does not have
        figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def _accuracy(axes: Any, result: Mapping[str, Any]) -> None:
    groups: Sequence[tuple[str, Sequence[tuple[str, str, str]]]] = (
        ("new wearer", (("before", "acc_before", BEFORE), ("after", "acc_after", AFTER),
                        ("full data", "acc_after_full_data", FULL))),
        ("other wearers", (("before", "acc_other_before", BEFORE), ("after", "acc_other_after", AFTER))),
    )  # fmt: skip
    at, ticks, names, seen = 0.0, [], [], set()
    for group, bars in groups:
        for label, key, colour in bars:
            value = 100 * float(result[key])
            axes.bar(at, value, 0.85, color=colour, label=None if label in seen else label)
            axes.annotate(f"{value:.1f}", (at, value), ha="center", va="bottom", fontsize=9)
            seen.add(label)
            at += 1
        ticks.append(at - (len(bars) + 1) / 2)
        names.append(group)
        at += 0.7
    axes.set_xticks(ticks, names)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy on the second half, %")
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _ram(axes: Any, shares: Mapping[str, int], total: int, board: str) -> None:
    parts = [*shares.items(), ("free", total - sum(shares.values()))]
    bottom = 0
    for (purpose, size), colour in zip(parts, PURPOSES, strict=True):
        axes.bar(0, size, 0.5, bottom=bottom, color=colour)
        axes.annotate(f"{purpose}: {size:,} B", (0.3, bottom + size / 2), va="center", fontsize=9)
        bottom += size
    axes.set_xlim(-0.35, 1.2)
    axes.set_xticks([])
    axes.set_ylabel(f"RAM of {board}, bytes (measured)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("drawing needs matplotlib; install it: pip install 'tinydream[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
