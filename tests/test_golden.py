"""The golden files: what makes them makes the same bytes, and what they hold is what other code finds in them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spec_archive
import spec_fields
import spec_images
import spec_reader
from make_golden import GOLDEN, crc, golden_files, golden_packs
from models import run_reference

from tinydream.models.compiler import compile_model
from tinydream.packs.pack import Pack

# Those of the packs are in test_packs.py; rows.txt follows from them.
HASHES = {
    "small.tflite": "b3d8b633a233221c49e3103d2f8d0d3babf50e6b3ecc1ede1769250c9a591f8a",
    "small.tdm": "85d23e77799ee6d426194c606b2267a9814c7e75128f951c15e8531f075cf087",
    "float.tdm": "d614f073f3c3aa87374979ef41332909c742013d046c267b2e76becd10f12a7f",
    "layers.tdm": "6cc766f9de0723967596e98a9808d5ff2c164966b27c6f63553bddd7d6091e99",
    "float_layers.tdm": "99a634ed66b8c46808d493087b9a83703002fa328830a463e25cfe82f5d472df",
}


@pytest.mark.parametrize("name", HASHES)
def test_hashes(name: str) -> None:
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == HASHES[name]


def test_the_script_makes_every_file() -> None:
    made = golden_files()
    assert {path.name for path in GOLDEN.iterdir()} == {*made, "small.tflite"}
    for name, data in made.items():
        assert (GOLDEN / name).read_bytes() == data, f"{name} would be made with other bytes"


def test_the_model_s_embedding_is_litert_s() -> None:
    """The CRC that tests/c/test_core.c expects on every machine."""
    tflite = (GOLDEN / "small.tflite").read_bytes()
    model = compile_model(tflite)
    inputs = (np.arange(16) * 11).astype(np.uint8).view(np.int8).reshape(1, 4, 4, 1)
    expected = run_reference(tflite, inputs, model.cut)
    assert model.embed(inputs).tolist() == expected.reshape(1, -1).tolist()
    source = (GOLDEN.parent / "c" / "test_core.c").read_text(encoding="utf-8")
    found = re.search(r"model\.embedding_size\) == 0x([0-9A-F]{8})u", source)
    assert found is not None and int(found[1], 16) == crc(expected.tobytes())


def test_the_specification_reads_every_pack_in_150_lines() -> None:
    """And in a few more what only some packs have: that is how long the format takes to say."""
    assert len(Path(spec_reader.__file__).read_text(encoding="utf-8").splitlines()) <= 150
    for module in (spec_archive, spec_images, spec_fields):
        assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) <= 70
    alone = "import sys, spec_reader, spec_fields; sys.exit(any(m in sys.modules for m in ('numpy', 'tinydream')))"
    subprocess.run([sys.executable, "-c", alone], cwd=GOLDEN.parent, check=True)
    packs = {path.name: spec_reader.read_tdz(path.read_bytes()) for path in GOLDEN.glob("*.tdz")}
    assert set(packs) == set(golden_packs())
    for name, spec in packs.items():
        made = Pack((GOLDEN / name).read_bytes())
        assert spec.rows == made.decode().tolist() and spec.labels == made.row_classes.tolist(), name
