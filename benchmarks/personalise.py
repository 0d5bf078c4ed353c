"""The main job for all ten wearers on an emulated micro:bit; prints the tables of README.

    python benchmarks/personalise.py [--board microbit] [--wearers 1 2 ...] [--json FILE] [--readme README.md]

Every run of a wearer goes through the board: push, evaluate, train on the bases alone, evaluate, train with the
replay set, evaluate, pull. What is compared with them (all rows, the published rule, random rows, fewer samples) runs
through the same core on the host, which gives the same bits; the benchmark checks that it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from marks import fill

from tinydream.cli.console import Console
from tinydream.cli.demo import DemoOptions, Wearer, prepare, run_on_board
from tinydream.devices import boards, build, journey
from tinydream.devices.planner import plan
from tinydream.files import atomic_write
from tinydream.models import litert
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.packs.part import published_size
from tinydream.tables.table import Table
from tinydream.training.train import TrainConfig, Trainer

N_EMBEDDINGS = 20  # test windows whose embedding is read back from the board


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="microbit")
    parser.add_argument("--wearers", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--json", type=Path, help="write every figure of every wearer here")
    parser.add_argument("--readme", type=Path, help="put the tables between the marks of this file")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(sys.stderr)
    rows = [measure(options.board, wearer, console) for wearer in options.wearers]
    console.close()
    tables = render(rows, options.board)
    print(tables)
    print(f"\n{len(rows)} wearers in {time.monotonic() - started:.0f} s")
    if options.json:
        atomic_write(options.json, (json.dumps(rows, indent=2) + "\n").encode())
    if options.readme:
        fill(options.readme, "personalise", tables)
    return 0 if all(reached for *_, reached in targets(rows)) else 1


def measure(board_id: str, number: int, console: Console) -> dict[str, Any]:
    console.stage(f"wearer {number}")
    with_replay = DemoOptions(wearer=number, board=board_id)
    wearer = prepare(with_replay, Quiet(console))
    planned = plan(wearer.model, boards.board(board_id), train=wearer.pack, replay=wearer.replay)
    with journey.emulate(board_id) as board:
        result, _ = run_on_board(with_replay, wearer, planned, board, Quiet(console))
        same_bits = [bits(board.weights().parameters, wearer, TrainConfig(), wearer.replay)]
        alone = TrainConfig(replay=0.0)
        for _ in board.train(alone):
            pass
        same_bits.append(bits(board.weights().parameters, wearer, alone, None))
        result["acc_bases"] = journey.evaluate(board, wearer.model, wearer.test)
        fixed = replace(alone, precision="fixed")
        epochs = list(board.train(fixed))
        same_bits.append(bits(board.weights().parameters, wearer, fixed, None))
        result["acc_bases_fixed"] = journey.evaluate(board, wearer.model, wearer.test)
        result["train_instructions_fixed"] = round(sum(e.instructions for e in epochs) / sum(e.steps for e in epochs))
        result["embeddings_differ"] = embeddings_differ(board, wearer)
        result["build"] = build.build_id(boards.board(board_id))
    result["same_bits"] = all(same_bits)
    result |= on_host(wearer)
    console.note(
        f"before {result['acc_before']:.3f}, bases {result['acc_bases']:.3f}, full {result['acc_full']:.3f}, "
        f"with replay {result['acc_after']:.3f}, "
        f"others {result['acc_other_before']:.3f} -> {result['acc_other_after']:.3f}"
    )
    return result


def bits(parameters: np.ndarray, wearer: Wearer, config: TrainConfig, replay: Pack | None) -> bool:
    """Whether the host, trained alike, has exactly these parameters."""
    trainer = Trainer(wearer.model, wearer.pack, replay, config)
    trainer.run()
    return bool((trainer.parameters.view(np.uint32) == parameters.view(np.uint32)).all())


def embeddings_differ(board: Any, wearer: Wearer) -> int:
    """Bytes that differ between the board's embeddings of test windows and LiteRT's tensor at the cut."""
    chosen = wearer.test.values[:: max(1, len(wearer.test) // N_EMBEDDINGS)][:N_EMBEDDINGS]
    ours = np.stack([board.embed(window) for window in chosen])
    return int((ours != litert.tensor(wearer.tflite, chosen, wearer.model.cut)).sum())


def on_host(wearer: Wearer) -> dict[str, Any]:
    """What the bases are compared with."""
    embedded = Table(wearer.model.embed(wearer.train.values), wearer.train.labels, wearer.train.classes)

    def accuracy(training_set: Pack, mode: str = "bases", replay: Pack | None = None, **settings: Any) -> float:
        trainer = Trainer(wearer.model, training_set, replay, TrainConfig(mode=mode, **settings))
        trainer.run()
        return float((trainer.predict(wearer.model.embed(wearer.test.values)) == wearer.test.labels).mean())

    def small(method: str, replay: int | None = None, per_class: int = 4) -> Pack:
        return pack(wearer.train, through=wearer.model, method=method, per_class=per_class, replay=replay)

    published = small("entrogede", per_class=16)
    return {
        "acc_full": accuracy(wearer.pack, "full"),
        "acc_after_fixed": accuracy(wearer.pack, replay=wearer.replay, precision="fixed"),
        "acc_stratified": accuracy(wearer.pack, "stratified"),
        "acc_bases_28": accuracy(small("variance")),
        "acc_published_112": accuracy(published),
        "acc_published_28": accuracy(small("entrogede")),
        "acc_random_112": accuracy(small("random", 112)),
        "acc_random_28": accuracy(small("random", 28)),
        "n_published_112": published.n_samples,
        "bytes_published": published_size(embedded),
    }


def targets(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """What must be reached: name, wanted, measured, reached."""

    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    ratio, gain = mean("acc_bases") / mean("acc_full"), mean("acc_bases") - mean("acc_before")
    lost, kept = mean("acc_other_before") - mean("acc_other_after"), mean("acc_after") - mean("acc_before")
    size = float(np.mean([row["bytes_packed"] / row["bytes_raw_float32"] for row in rows]))
    most = max(row["n_train_samples"] for row in rows)
    ram, total = max(row["ram_used"] for row in rows), rows[0]["ram_total"]
    flash, flash_total = max(row["flash_used"] for row in rows), rows[0]["flash_total"]
    differ = sum(row["embeddings_differ"] for row in rows)
    same = sum(row["same_bits"] for row in rows)
    return [
        (f"bases against all rows, at most {most} samples", "at least 99 %", f"{100 * ratio:.1f} %", ratio >= 0.99),
        ("gain on the new wearer, bases only", "at least 10 points, or above 93 %",
         f"{100 * gain:+.1f} points", gain >= 0.10 or mean("acc_bases") > 0.93),
        ("gain on the new wearer, with replay", "at least 8 points", f"{100 * kept:+.1f} points", kept >= 0.08),
        ("loss on the other wearers, with replay", "at most 1 point", f"{100 * lost:.1f} points", lost <= 0.01),
        ("packed set against float32, labels included", "at most 1/6", f"1/{1 / size:.2f}", size <= 1 / 6),
        ("RAM, measured, stack included", f"within {total:,} bytes", f"{ram:,} bytes", ram <= total),
        ("flash", f"within {flash_total:,} bytes", f"{flash:,} bytes", flash <= flash_total),
        ("embedding, board against LiteRT", "every byte", f"{differ} bytes differ", differ == 0),
        ("weights, board against host", "every bit", f"{same} of {len(rows)} wearers equal", same == len(rows)),
    ]  # fmt: skip


def render(rows: list[dict[str, Any]], board_id: str) -> str:
    lines = [f"Means of {len(rows)} wearers on `{board_id}` (emulated).", "",
             "| what must be reached | wanted | measured |", "|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {wanted} | {found}{'' if reached else ' (not reached)'} |"
        for name, wanted, found, reached in targets(rows)
    ]
    lines += ["", "| trained on | samples | accuracy on the new wearer, % |", "|---|---|---|"]
    for name, samples, key in (
        ("nothing (before)", "0", "acc_before"),
        ("all rows", f"{np.mean([row['n_train_rows'] for row in rows]):.0f}", "acc_full"),
        ("**bases, ours**", "112", "acc_bases"),
        ("the same in fixed point", "112", "acc_bases_fixed"),
        ("bases, a row drawn from each anew", "112", "acc_stratified"),
        ("bases, published rule", f"{np.mean([row['n_published_112'] for row in rows]):.0f}", "acc_published_112"),
        ("random rows", "112", "acc_random_112"),
        ("**bases, ours**", "28", "acc_bases_28"),
        ("bases, published rule", "28 at most", "acc_published_28"),
        ("random rows", "28", "acc_random_28"),
        ("**bases and 224 replayed**", "112 + 224", "acc_after"),
        ("the same in fixed point", "112 + 224", "acc_after_fixed"),
        ("replayed, requantised, int8 on the board", "112 + 224", "acc_tuned_board"),
        ("replayed, requantised, int8 in LiteRT", "112 + 224", "acc_tuned_tflite"),
    ):
        lines.append(f"| {name} | {samples} | {100 * np.mean([row[key] for row in rows]):.1f} |")
    lines += [
        "",
        "| wearer | before | bases | all rows | with replay | others before | others after | packed, bytes a row | "
        "published EntroGD, bytes a row | RAM, bytes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        keys = "acc_before", "acc_bases", "acc_full", "acc_after", "acc_other_before", "acc_other_after"
        cells = [100 * row[key] for key in keys]
        per_row = row["bytes_packed"] / row["n_train_rows"], row["bytes_published"] / row["n_train_rows"]
        lines.append(
            f"| {row['wearer']} | "
            + " | ".join(f"{cell:.1f}" for cell in (*cells, *per_row))
            + f" | {row['ram_used']:,} |"
        )
    steps, fixed, infer = (
        np.mean([row[key] for row in rows])
        for key in ("train_instructions_per_sample", "train_instructions_fixed", "infer_instructions")
    )
    lines += [
        "",
        f"Instructions on the board: {steps:,.0f} a training step ({fixed:,.0f} in fixed point), {infer:,.0f} an "
        "inference.",
    ]
    return "\n".join(lines)


class Quiet:
    """The demo's reporter with the stages left out: a benchmark prints one line a wearer."""

    def __init__(self, console: Console) -> None:
        self.progress = console.progress

    def stage(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
