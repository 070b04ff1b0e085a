"""The measuring tuner: what is known is not measured again, and the fastest choice wins."""

import json

import numpy as np
import pytest

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.errors import DataError, FileError, ToolError
from penstock.runtime import jit, tuning
from penstock.runtime.tiles import Tiles
from penstock.runtime.tuned import database as tuned_file
from penstock.runtime.tuned import trials
from penstock.targets import TARGETS
from penstock.targets.cpu import cpu

FP32 = parse_format("fp32")
SHAPES = {"h": 1, "p": 64, "m": 256, "e": 8, "f": 8}
MACHINE = cpu(2, 16, part="test", registers=32)


@pytest.fixture
def clock(monkeypatch):
    """Choices take less the nearer their tile is to 128; what is asked is noted."""
    asked = []

    def measured(bound, mapping, target, fmt):
        asked.append((bound.extents.get("m0"), str(mapping)))
        return abs(bound.extents.get("m0", 1) - 128) + len(str(mapping)) / 1e4

    monkeypatch.setattr(tuning, "_measured", measured)
    return asked


def tuned(path, told=None):
    cascade = zoo.load("causal_attention")
    return tuning.tune(cascade, SHAPES, MACHINE, FP32, path, progress=told)


def test_a_stopped_search_goes_on(tmp_path, clock):
    path, told = tmp_path / "tune.jsonl", []
    best, mapping = tuned(path, lambda trial, old: told.append((trial, old)))
    assert best.tile == 128
    assert "for m1" in str(mapping)
    assert len(clock) == len(told) == len(path.read_text().splitlines()) > 4
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    asked, told[:] = len(clock), []
    assert tuned(path, lambda trial, old: told.append((trial, old))) == (best, mapping)
    assert [old for _, old in told].count(True) == 3
    assert len(clock) == asked + len(lines) - 3
    keys = {"kernel", "extents", "tile", "block", "milliseconds"}
    assert json.loads(lines[0]).keys() == keys


@pytest.mark.parametrize(
    ("rows", "tile"), [(64, 128), (60, 128), (65, None)], ids=["same", "its class", "another class"]
)
def test_a_jitted_call_uses_what_was_measured(tmp_path, clock, monkeypatch, rows, tile):
    """A call with extents of the same class gets the fastest tiles; another the default ones."""
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    tuned(tuned_file())
    asked = []

    def built(program, path):
        asked.append(program)
        raise ToolError("no compiler", fix="none")

    monkeypatch.setattr(jit, "build_library", built)
    cascade = zoo.load("causal_attention")
    q, k = np.zeros((1, rows, 8), "f4"), np.zeros((1, 256, 8), "f4")
    with pytest.raises(ToolError, match="no compiler"):
        jit.jit(cascade, target=MACHINE)(q, k, k)
    tiles = None if tile is None else Tiles(tile, tile, tile)
    best = min(trials(tuned_file()), key=lambda each: each.milliseconds)
    block = best.block if tile is not None else 0
    extents = SHAPES | {"p": rows}
    assert asked == [jit.kernel_program(cascade, extents, MACHINE, "fp32", None, tiles, block)]


def test_another_shape_is_another_kernel(tmp_path, clock):
    tuned(tmp_path / "t")
    asked = len(clock)
    cascade = zoo.load("causal_attention")
    tuning.tune(cascade, {**SHAPES, "h": 2}, MACHINE, FP32, tmp_path / "t")
    lines = (tmp_path / "t").read_text().splitlines()
    assert {json.loads(line)["extents"]["h"] for line in lines} == {1, 2}
    assert len(lines) == len(clock) > asked


def test_what_is_no_database_is_refused(tmp_path, clock):
    (tmp_path / "t").write_text("tile 64\n")
    with pytest.raises(FileError, match=r"line 1 of .* is no trial: tile 64"):
        tuned(tmp_path / "t")


def test_only_cpus_are_measured(tmp_path):
    with pytest.raises(DataError, match="fusemax is no CPU: only this machine can be measured"):
        tuning.tune(zoo.load("attention"), SHAPES, TARGETS.get("fusemax"), FP32, tmp_path / "t")


def test_a_choice_is_compiled_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "STREAMED", (32,))
    monkeypatch.setattr(tuning, "VECTORS", (1,))
    best, _ = tuned(tmp_path / "t")
    assert (best.tile, best.block) == (32, 16)
    assert 0 < best.milliseconds < 1e3
