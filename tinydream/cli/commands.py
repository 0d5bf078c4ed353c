"""The command line: a thin shell over the modules. Exit codes: 0 ok, 1 the job failed, 2 usage or environment."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import TinyDreamError, UsageError
from .console import answer as _answer
from .console import console as _console
from .console import shown
from .pack_commands import add_pack_commands, read_source, source_arguments
from .train_options import add_settings, add_training, training_config

__all__ = ["main"]

STATE = Path(".tinydream")  # the running emulator and the model pushed last, of the folder one works in
DEFAULT_BOARD = "microbit"


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except TinyDreamError as error:
        print(f"tinydream: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # who read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"tinydream: {shown(where)}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tinydream: stopped", file=sys.stderr)
        return 130
    return 0


# ------------------------------------------------------------------ commands


def _plan(options: argparse.Namespace) -> None:
    if options.board is None:
        return _survey(options)
    from ..devices.boards import board
    from ..devices.planner import plan
    from ..models.compiler import compile_model
    from ..packs.pack import open_pack

    planned = plan(
        compile_model(Path(options.model), options.cut, options.learn),
        board(options.board),
        train=open_pack(options.data) if options.data else None,
        replay=open_pack(options.replay) if options.replay else None,
        config=training_config(options),
    )
    arena = planned.model.arena
    facts = {
        "board": options.board,
        "ram": [asdict(share) for share in planned.ram], "trainer": [asdict(share) for share in planned.trainer],
        "precision": planned.config.precision, "ram_used": planned.ram_used, "ram_total": planned.ram_budget,
        "flash": [asdict(share) for share in planned.flash], "flash_used": planned.flash_used,
        "flash_total": planned.flash_budget, "steps": planned.steps,
        "inference_instructions": planned.inference_instructions, "step_instructions": planned.step_instructions,
        "arena": {"bytes": arena.size, "lower_bound": arena.lower_bound, "in_place": arena.in_place},
    }  # fmt: skip
    _answer(options, facts, [planned.board.title, *planned.lines(), "it fits"])


def _survey(options: argparse.Namespace) -> None:
    from ..devices.surveys import survey, table
    from ..packs.pack import open_pack

    found = survey(
        Path(options.model), options.cut, options.learn,
        train=open_pack(options.data) if options.data else None,
        replay=open_pack(options.replay) if options.replay else None, config=training_config(options),
    )  # fmt: skip
    _answer(options, {"boards": [candidate.facts() for candidate in found]}, [
        *table(found), "", "layers: those with weights, from the last on, that RAM has room to train",
        "times: estimates, at one instruction a cycle; --board says more about one board",
    ])  # fmt: skip


def _build(options: argparse.Namespace) -> None:
    from ..devices.boards import board
    from ..devices.build import build

    firmware = build(board(options.board), options.output)
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(firmware).items()}
    _answer(options, facts, [
        f"{firmware.hex or firmware.elf}: {firmware.flash:,} bytes of flash, {firmware.static_ram:,} of static RAM, "
        f"build {firmware.build_id}"
    ])  # fmt: skip


def _flash(options: argparse.Namespace) -> None:
    from ..devices import emulator, flashing
    from ..devices.boards import board
    from ..devices.build import build

    chosen = board(options.board)
    firmware = build(chosen)
    if options.drive is not None:
        target = flashing.flash(chosen, firmware, options.drive or None)
        _answer(options, {"drive": str(target)}, [f"copied to {target}; the board restarts by itself"])
        return
    running = emulator.spawn_detached(chosen, firmware, STATE)
    _answer(options, asdict(running), [
        f"{chosen.title}: runs emulated at {running.url} (process {running.pid}) until `tinydream stop`"
    ])  # fmt: skip


def _stop(options: argparse.Namespace) -> None:
    from ..devices.emulator import stop_detached

    stopped = stop_detached(STATE)
    _answer(options, {"stopped": stopped}, ["stopped" if stopped else "no emulated board was running here"])


def _boards(options: argparse.Namespace) -> None:
    from ..devices.boards import board, boards

    found = {name: board(name).title for name in boards()}
    _answer(options, found, [f"{name:<12}{title}" for name, title in found.items()])


def _push(options: argparse.Namespace) -> None:
    from ..devices import journey
    from ..files import atomic_write
    from ..models.compiler import compile_model
    from ..packs.pack import open_pack
    from ..training.train import check_packs

    console = _console(options)
    model = compile_model(Path(options.model), options.cut, options.learn)
    train = open_pack(options.data) if options.data else None
    replay = open_pack(options.replay) if options.replay else None
    check_packs(model, train, replay)
    with _connect(options) as device:
        pushed = journey.push(device, model, train, replay, progress=console.progress)
    console.close()
    memory = {"model": str(Path(options.model).resolve()), "cut": options.cut, "learn": options.learn}
    atomic_write(STATE / "model.json", json.dumps(memory).encode())
    _answer(options, {"pushed": [asdict(p) for p in pushed]}, [
        f"{p.kind}: {p.size:,} bytes" + ("" if p.sent else ", which the board had already") for p in pushed
    ])  # fmt: skip


def _train(options: argparse.Namespace) -> None:

    config = training_config(options)
    console = _console(options)
    with _connect(options) as device:
        if device.info("replay") is not None and config.replay:
            console.note(f"mixed with the replay set on the board, at weight {config.replay:g}")
        epochs = []
        for epoch in device.train(config, fresh=not options.go_on):
            epochs.append(asdict(epoch))
            held = "" if epoch.held_loss is None or epoch.held_accuracy is None else (
                f"; held back: loss {epoch.held_loss:.4f}, accuracy {100 * epoch.held_accuracy:.1f} %"
            )  # fmt: skip
            accuracy = f"accuracy {100 * epoch.accuracy:.1f} %"
            console.note(f"epoch {epoch.number:>3}: loss {epoch.loss:.4f}, {accuracy}{held}")
    _answer(options, {"epochs": epochs}, ["trained; the weights are in the board's flash"])


def _eval(options: argparse.Namespace) -> None:
    from ..devices import journey

    console = _console(options)
    model, _ = _model(options)
    table = read_source(options)
    with _connect(options) as device:
        accuracy = journey.evaluate(device, model, table, progress=console.progress)
    console.close()
    _answer(options, {"accuracy": accuracy, "rows": len(table)}, [f"{100 * accuracy:.1f} % of {len(table)} rows"])


def _pull(options: argparse.Namespace) -> None:
    from ..devices import journey
    from ..files import atomic_write
    from ..tables.sources import read

    model, tflite = _model(options)
    console = _console(options)
    facts: dict[str, Any] = {"output": options.output}
    lines = []
    with _connect(options) as device:
        tuned = journey.pull(device, model, tflite)
        atomic_write(options.output, tuned)
        if options.test is not None:
            found = journey.compare(device, model, tuned, read(options.test), progress=console.progress)
            facts["accuracy"] = asdict(found)
            lines = [f"accuracy: {100 * found.trained:.1f} % as trained, {100 * found.int8_board:.1f} % requantised on "
                     f"the board, {100 * found.int8_litert:.1f} % in LiteRT"]  # fmt: skip
    console.close()
    _answer(options, {**facts, "bytes": len(tuned)}, [f"{options.output}: {len(tuned):,} bytes", *lines])


def _run(options: argparse.Namespace) -> None:
    import numpy as np

    from ..devices import journey
    from ..devices.boards import board
    from ..devices.planner import plan
    from ..files import atomic_write, output_path
    from ..models.compiler import compile_model
    from ..tables.sources import read_array

    output_path(options.output, options.model, options.input)
    console = _console(options)
    model = compile_model(Path(options.model), whole=True)
    inputs = read_array(options.input)
    if options.board is None:
        outputs = journey.run(model, inputs, raw=options.raw, progress=console.progress)
    else:
        plan(model, board(options.board))
        with journey.emulate(options.board) as device:
            outputs = journey.run(model, inputs, device, raw=options.raw, progress=console.progress)
    console.close()
    content = io.BytesIO()
    np.save(content, outputs)
    atomic_write(options.output, content.getvalue())
    facts = {"output": options.output, "shape": outputs.shape, "dtype": str(outputs.dtype), "board": options.board}
    where = "this computer" if options.board is None else f"an emulated {options.board}"
    _answer(options, facts, [f"{options.output}: {outputs.dtype} {outputs.shape}, computed on {where}"])


def _export(options: argparse.Namespace) -> None:
    from ..files import atomic_write, output_path
    from ..models.compiler import compile_model
    from ..models.graph import read_bytes
    from ..training.export import SIGNATURES, export_trainable

    output_path(options.output, options.model)
    tflite = read_bytes(Path(options.model))
    model = compile_model(tflite, options.cut, options.learn)
    exported = export_trainable(model, tflite)
    atomic_write(options.output, exported)
    facts = {"output": options.output, "bytes": len(exported), "signatures": SIGNATURES,
             "trained_parameters": model.n_parameters}  # fmt: skip
    _answer(options, facts, [
        f"{options.output}: {len(exported):,} bytes, {model.n_parameters:,} parameters train; "
        f"signatures {', '.join(SIGNATURES)}"
    ])  # fmt: skip


def _demo(options: argparse.Namespace) -> None:
    from . import demo

    console = _console(options)
    chosen = demo.DemoOptions(
        wearer=options.wearer, board=options.board, per_class=options.per_class, replay=options.replay,
        train=training_config(options), port=options.port,
    )  # fmt: skip
    try:
        result = demo.run(chosen, Path(options.output), console)
    finally:
        console.close()
    _answer(options, result, ["", *_demo_table(result), "", f"In {options.output}: demo.png, demo.json, tuned.tflite"])


def _demo_table(result: dict[str, Any]) -> list[str]:
    def percent(key: str) -> str:
        return f"{100 * result[key]:.1f} %"

    rows = [
        ("new wearer, before -> after", f"{percent('acc_before')} -> {percent('acc_after')}"),
        ("  with all rows instead", percent("acc_after_full_data")),
        ("  requantised, on the board", percent("acc_tuned_board")),
        ("  requantised, in LiteRT", percent("acc_tuned_tflite")),
        ("other wearers, before -> after", f"{percent('acc_other_before')} -> {percent('acc_other_after')}"),
        ("samples trained on", f"{result['n_train_samples']} of {result['n_train_rows']} rows, "
                               f"{result['n_replay_samples']} replayed"),
        ("packed training set", f"{result['bytes_packed']:,} bytes, float32 {result['bytes_raw_float32']:,} "
                                f"({result['bytes_raw_float32'] / result['bytes_packed']:.1f} x)"),
        ("RAM used, measured", f"{result['ram_used']:,} of {result['ram_total']:,} bytes"),
        ("flash used", f"{result['flash_used']:,} of {result['flash_total']:,} bytes"),
        ("instructions", f"{result['train_instructions_per_sample']:,} a training sample, "
                         f"{result['infer_instructions']:,} an inference"),
        ("time", f"{result['train_seconds_host_clock']} s of training, {result['wall_seconds']} s in all"),
    ]  # fmt: skip
    return [f"{name:<32}{value}" for name, value in rows]


# ------------------------------------------------------------------ shared


def _connect(options: argparse.Namespace) -> Any:
    from ..devices.device import connect
    from ..devices.emulator import detached

    url = options.port or os.environ.get("TINYDREAM_PORT")
    if url:
        return connect(url, board=options.board)
    running = detached(STATE)
    if running is None:
        raise UsageError(
            "no board: start an emulated one with `tinydream flash`, or name a real one with --port /dev/ttyACM0"
        )
    return connect(running.url, board=options.board or running.board)


def _model(options: argparse.Namespace) -> tuple[Any, bytes]:
    """The model that `push` remembered, or --model; compiled, and its bytes."""
    from ..models.compiler import compile_model
    from ..models.graph import read_bytes

    path, cut, learn = options.model, options.cut, options.learn
    if path is None:
        try:
            memory = json.loads((STATE / "model.json").read_text(encoding="utf-8"))
            path, cut, learn = memory["model"], memory["cut"], memory["learn"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError("which model? Nothing was pushed from this folder; name it with --model") from None
    tflite = read_bytes(Path(path))
    return compile_model(tflite, cut, learn), tflite


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinydream", description="Pack a training set, keep it on a microcontroller, and fine-tune there."
    )
    parser.add_argument("--version", action="version", version=f"tinydream {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="print the result as JSON, for machines")
        return made

    def link(made: argparse.ArgumentParser) -> None:
        made.add_argument("--port", help="/dev/ttyACM0, COM3, socket://HOST:PORT; default: the emulated board")
        made.add_argument("--board", help="refuse any other board than this")

    def cut(made: argparse.ArgumentParser, *, model: bool = False) -> None:
        if model:
            made.add_argument("--model", help="the .tflite that was pushed; default: the one pushed from here last")
        made.add_argument("--cut", help="tensor (name or #index) where the frozen part ends, or number of layers with "
                                        "weights to train, from the end; default: the last one trains")  # fmt: skip
        made.add_argument("--learn", help="what of the layers behind the cut learns: all (default), bias, none or a "
                                          "number of last channels; by operator: none,12=8,14=all")  # fmt: skip

    made = command("demo", _demo, "Personalise an activity recogniser for a new wearer, end to end.")
    add_training(made)
    made.add_argument("--wearer", type=int, default=2, help="1 to 10 (default 2)")
    made.add_argument("--board", default=DEFAULT_BOARD)
    made.add_argument("--port", help="a board that runs TinyDream's firmware already; default: an emulated one")
    made.add_argument("--per-class", type=int, default=16, help="condensed samples a class (default 16)")
    made.add_argument("--replay", type=int, default=224, help="samples of the other wearers, 0 for none (default 224)")
    made.add_argument("-o", "--output", default="demo", help="folder for everything it makes (default demo)")

    add_pack_commands(command, cut)

    made = command("plan", _plan, "Say what a model and its packs need of a board, and whether they fit.")
    made.add_argument("model", help="the .tflite")
    cut(made)
    made.add_argument("--data", help="the training set, a .tdz")
    made.add_argument("--replay", help="the replay set, a .tdz")
    made.add_argument("--board", help="more on this one; default: which of all boards can run it")
    add_settings(made)

    made = command("run", _run, "Run a whole model on the samples of a .npy file, with the kernels of the boards.")
    made.add_argument("model", help="the .tflite")
    made.add_argument("--input", required=True, metavar="X.npy", help="samples, one a row: (n, input shape)")
    made.add_argument("--output", required=True, metavar="Y.npy", help="where the outputs go: (n, output shape)")
    made.add_argument("--board", help="run on this board, emulated; default: on this computer")
    made.add_argument("--raw", action="store_true", help="quantised values in and out, instead of real ones")

    made = command("export", _export, "Write a .tflite that LiteRT trains by itself, for Linux devices.")
    made.add_argument("model", help="the .tflite")
    cut(made)
    made.add_argument("--trainable", action="store_true", required=True,
                      help="with signatures to train the layers after the cut")  # fmt: skip
    made.add_argument("-o", "--output", required=True, help="the new .tflite")

    made = command("boards", _boards, "List the boards.")
    made = command("build", _build, "Build a board's firmware.")
    made.add_argument("--board", default=DEFAULT_BOARD)
    made.add_argument("-o", "--output", default="firmware-build", help="folder for .elf and .hex")
    made = command("flash", _flash, "Put the firmware on a board: an emulated one, or a real one with --drive.")
    made.add_argument("--board", default=DEFAULT_BOARD)
    made.add_argument("--drive", nargs="?", const="", metavar="FOLDER",
                      help="copy to the board's USB drive (found by its label, or FOLDER)")  # fmt: skip
    command("stop", _stop, "End the emulated board that `flash` left running.")

    made = command("push", _push, "Push a model and its packs to the board; goes on where it was cut off.")
    made.add_argument("model", help="the .tflite")
    made.add_argument("data", nargs="?", help="the training set, a .tdz")
    cut(made)
    made.add_argument("--replay", help="the replay set, a .tdz")
    link(made)
    made = command("train", _train, "Fine-tune on the board.")
    add_training(made)
    made.add_argument("--replay-weight", type=float, default=1.0, help="of the replay set against the training set")
    made.add_argument("--go-on", action="store_true", help="start from the weights saved last, not the model's own")
    link(made)
    made = command("eval", _eval, "Classify rows on the board and compare with their labels.")
    source_arguments(made)
    cut(made, model=True)
    link(made)
    made = command("pull", _pull, "Fetch the trained weights and write the tuned .tflite.")
    cut(made, model=True)
    made.add_argument("-o", "--output", required=True, help="the tuned .tflite")
    made.add_argument("--test", metavar="ROWS", help="also tell how many of these rows (a file as for eval) are right: "
                      "as trained, requantised on the board, and in LiteRT")  # fmt: skip
    link(made)
    return parser
