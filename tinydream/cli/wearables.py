"""The demo's world: smartwatch recordings of ten wearers, and the small DS-CNN that knows nine of them.

The recordings are those that the PyPI package `seglearn` carries: 140 of them, 10 wearers, 7 shoulder
exercises, both sides, 50 Hz, 3 axes of acceleration and 3 of rotation.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from ..tables.table import Table

__all__ = ["WEARERS", "Recordings", "Split", "load_recordings", "split_wearer", "train_base_model"]

WINDOW = 100  # time steps: two seconds
STRIDE = 50
WEARERS = range(1, 11)
CLIP = 4.0  # standard deviations; keeps the input's quantisation fine where the data are
EPOCHS = 12


@dataclass(frozen=True)
class Recordings:
    """Windows of all recordings; no window crosses the middle of its recording."""

    windows: npt.NDArray[np.float32]  # (n, WINDOW, 6)
    labels: npt.NDArray[np.int64]
    wearer: npt.NDArray[np.int64]  # 1..10
    half: npt.NDArray[np.int64]  # 0: before the middle of its recording, 1: after
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One wearer held out. Values are standardised by the others' first halves; shape (n, WINDOW, 1, 6)."""

    wearer: int
    others_train: Table
    others_test: Table
    wearer_train: Table
    wearer_test: Table


def load_recordings() -> Recordings:
    """Reads seglearn's data file, without importing seglearn. Raises UsageError when it is not installed."""
    found = importlib.util.find_spec("seglearn")
    roots = list(found.submodule_search_locations or []) if found else []
    path = Path(roots[0], "data", "watch_dataset.npy") if roots else None
    if path is None or not path.exists():
        raise UsageError("the demo's recordings are missing; install them: pip install 'tinydream[demo]'")
    # A pickle runs code when it is loaded: only ever do this with the file of that package.
    data = np.load(path, allow_pickle=True).item()
    windows: list[npt.NDArray[np.float64]] = []
    tags: list[tuple[int, int, int]] = []
    for recording, label, wearer in zip(data["X"], data["y"], data["subject"], strict=True):
        middle = len(recording) // 2
        for half, (start, end) in enumerate(((0, middle), (middle, len(recording)))):
            for at in range(start, end - WINDOW + 1, STRIDE):
                windows.append(recording[at : at + WINDOW])
                tags.append((int(label), int(wearer), half))
    labels, wearers, halves = np.array(tags, dtype=np.int64).T
    return Recordings(np.stack(windows).astype(np.float32), labels, wearers, halves, tuple(data["y_labels"]))


def split_wearer(recordings: Recordings, wearer: int) -> Split:
    """Holds `wearer` out. First halves are for training, second halves for testing, of everybody."""
    if wearer not in WEARERS:
        raise DataError(f"there is no wearer {wearer}; they are {WEARERS.start} to {WEARERS.stop - 1}")
    own, first = recordings.wearer == wearer, recordings.half == 0
    known = recordings.windows[~own & first]
    mean, deviation = known.mean((0, 1)), known.std((0, 1))
    values = np.clip((recordings.windows - mean) / deviation, -CLIP, CLIP)[:, :, None, :]

    def table(chosen: npt.NDArray[np.bool_], source: str) -> Table:
        return Table(values[chosen], recordings.labels[chosen], recordings.classes, source)

    return Split(
        wearer,
        others_train=table(~own & first, "the other wearers' first halves"),
        others_test=table(~own & ~first, "the other wearers' second halves"),
        wearer_train=table(own & first, f"wearer {wearer}'s first halves"),
        wearer_test=table(own & ~first, f"wearer {wearer}'s second halves"),
    )


def train_base_model(table: Table, *, seed: int = 0, epochs: int = EPOCHS) -> bytes:
    """Trains the DS-CNN on a table of windows and converts it to a fully int8 .tflite."""
    with _quiet():
        tf = _tensorflow()
        tf.keras.utils.set_random_seed(seed + 1)
        model = _ds_cnn(tf, table.values.shape[1:], table.n_classes)
        optimizer = tf.keras.optimizers.Adam(3e-3)
        model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(table.values, table.labels, batch_size=64, epochs=epochs, verbose=0)
        return _to_int8(tf, model, table.values, seed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow's chatter off the terminal: Python's streams, and the descriptors that its C++ writes to."""
    with contextlib.ExitStack() as restore:
        sink = restore.enter_context(tempfile.TemporaryFile())
        restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for number in (1, 2):
            kept = os.dup(number)
            restore.callback(os.close, kept)
            restore.callback(os.dup2, kept, number)
            os.dup2(sink.fileno(), number)
        unheard = io.StringIO()
        restore.enter_context(contextlib.redirect_stdout(unheard))
        restore.enter_context(contextlib.redirect_stderr(unheard))
        yield


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UsageError(
            "training the base model needs TensorFlow; install it: pip install 'tinydream[demo]'"
        ) from error
    return tf


def _ds_cnn(tf: Any, shape: tuple[int, ...], n_classes: int) -> Any:
    """Depthwise-separable convolutions over time: an embedding of 32 values, then one dense layer."""
    layers = tf.keras.layers
    inputs = layers.Input(shape)
    x = layers.Conv2D(16, (5, 1), strides=(2, 1), padding="same", activation="relu")(inputs)
    x = layers.DepthwiseConv2D((5, 1), strides=(2, 2), padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 1, activation="relu")(x)
    x = layers.DepthwiseConv2D((5, 1), padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 1, activation="relu")(x)
    x = layers.AveragePooling2D((x.shape[1], 1))(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.2)(x)
    return tf.keras.Model(inputs, layers.Dense(n_classes, activation="softmax")(x))


def _to_int8(tf: Any, model: Any, values: npt.NDArray[np.float32], seed: int) -> bytes:
    """The calibration rows are drawn from the training rows; the batch is fixed at 1, as a board runs it."""
    one = tf.keras.layers.Input(batch_shape=(1, *values.shape[1:]))
    converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(one, model(one, training=False)))
    chosen = np.random.default_rng(seed).choice(len(values), size=min(500, len(values)), replace=False)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([values[i : i + 1]] for i in chosen)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())
