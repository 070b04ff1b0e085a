"""The machines: complete, addressable, and equal after a way through JSON."""

import json
import math
from dataclasses import replace

import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.ops import OPERATORS
from penstock.errors import TargetError, UnknownNameError
from penstock.targets import TARGETS
from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.cpu import cpu
from penstock.targets.serial import from_json, to_json

NAMES = (
    "a100",
    "avx2",
    "avx512",
    "cpu",
    "flat",
    "fusemax",
    "h100",
    "h200",
    "kv260",
    "l4",
    "mesh16x16",
    "mesh2x2",
    "mesh4x4",
    "mesh8x4",
    "mesh8x8",
    "pynq_z2",
    "rtx4090",
    "tpu_v4i",
    "u250",
    "u280",
    "u55c",
    "vck190",
    "zcu102",
    "zcu104",
)
GENERAL = [name for name in NAMES if TARGETS.get(name).family != "spatial"]
DATAPATH = {"mac", *OPERATORS} - {"//", "%", "**"}
MASKS = {"<", "<=", ">", ">=", "==", "!=", "and", "or", "not", "where", "fill"}


def offered(target):
    return {op for array in target.arrays for op, _ in array.cycles}


def test_stock_machines():
    assert set(NAMES) <= set(TARGETS.names())
    with pytest.raises(UnknownNameError, match="did you mean 'fusemax'"):
        TARGETS.get("fusemacs")


@pytest.mark.parametrize("name", NAMES)
def test_each_machine_is_one(name):
    target = TARGETS.get(name)
    assert target.name == name
    assert target.source
    parse_format(target.format)
    assert all(cost > 0 for array in target.arrays for _, cost in array.cycles)
    assert target.dram.bytes_per_cycle < math.inf
    for memory in target.memories:
        if memory.array:
            axes = target.spread(memory)
            assert axes is not None, memory.name
            assert math.prod(axis.size for axis in axes) == memory.instances


@pytest.mark.parametrize("name", GENERAL)
def test_general_machines_have_every_operator(name):
    assert {"mac", *OPERATORS} <= offered(TARGETS.get(name))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(GENERAL)))
def test_attention_machines_have_what_attention_and_masks_need(name):
    assert {"mac", "*", "+", "-", "max", "exp", "/"} | MASKS <= offered(TARGETS.get(name))


def test_published_numbers():
    target = TARGETS.get("fusemax")
    assert target.array("pe2d").places == 65536
    assert target.dram.bytes_per_cycle * target.clock_hz == pytest.approx(400 * 2**30)
    assert dict(target.array("pe2d").cycles)["exp"] == 6
    assert "/" not in dict(target.array("pe2d").cycles)
    flat = TARGETS.get("flat")
    assert flat.memory("gb").capacity_bytes == 2 * target.memory("gb").capacity_bytes
    assert "max" not in dict(flat.array("pe2d").cycles)
    assert dict(flat.array("pe1d").cycles)["exp"] == 1


def test_any_cpu():
    one = cpu(1, 4, part="something else")
    assert [axis.size for axis in one.arrays[0].axes] == [1, 4]
    assert {"mac", *OPERATORS} <= offered(one)
    big = cpu(96, 16, part="x86_64 avx512f", clock_hz=2e9, dram_bytes_per_s=400e9)
    assert big.dram.bytes_per_cycle == 200


@pytest.mark.parametrize("name", NAMES)
def test_json_reads_back(name):
    target = TARGETS.get(name)
    text = to_json(target)
    assert from_json(text) == target
    assert to_json(from_json(text)) == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def edited(change):
    data = json.loads(to_json(TARGETS.get("mesh4x4")))
    change(data)
    return json.dumps(data)


def test_an_edited_machine():
    def change(data):
        data["memories"][1]["capacity_bytes"] = 1024
        data["arrays"][0]["cycles"]["exp"] = 2

    target = from_json(edited(change))
    assert target.memory("gb").capacity_bytes == 1024
    assert dict(target.array("pe2d").cycles)["exp"] == 2


FIX = "\nfix: compare 'penstock targets fusemax'"
BROKEN = [
    (
        lambda data: data["memories"][1].pop("name"),
        TargetError,
        f"target.memories[1] lacks 'name'{FIX}",
    ),
    (
        lambda data: data.update(memories=3),
        TargetError,
        f"target.memories is no list{FIX}",
    ),
    (
        lambda data: data["arrays"][0].update(cycles=[1]),
        TargetError,
        f"target.arrays[0].cycles is no object{FIX}",
    ),
    (
        lambda data: data.update(clock_hz="fast"),
        TargetError,
        "target.clock_hz is 'fast'\nfix: write a number of at least 0, or 'inf'",
    ),
    (
        lambda data: data["arrays"][0].update(skewed=1),
        TargetError,
        "target.arrays[0].skewed is 1, not true or false\nfix: write true or false",
    ),
    (
        lambda data: data.update(clok_hz=1),
        UnknownNameError,
        (
            "unknown field of target 'clok_hz' (known: arrays, clock_hz, family, format, memories, "
            "name, notes, part, resources, sizings, source)\nfix: did you mean 'clock_hz'?"
        ),
    ),
    (
        lambda data: data.update(name=3),
        TargetError,
        "target.name is 3, not a text\nfix: write a text in quotes",
    ),
    (
        lambda data: data["arrays"][0]["axes"][1].update(kind="lane"),
        TargetError,
        (
            "target.arrays[0].axes[1].kind is 'lane'\n"
            "fix: write one of pe, core, simd, block, thread"
        ),
    ),
    (
        lambda data: data["memories"][1].update(capacity_bytes=0),
        TargetError,
        "gb.capacity_bytes of mesh4x4 is 0\nfix: give it a number above 0",
    ),
    (
        lambda data: data["memories"][1].update(name="dram"),
        TargetError,
        "target mesh4x4 names dram twice\nfix: rename one",
    ),
    (
        lambda data: data.update(arrays=[]),
        TargetError,
        "target mesh4x4 has no memory or no array\nfix: add one",
    ),
    (
        lambda data: data["memories"][2].update(array="pe3d"),
        UnknownNameError,
        "unknown array 'pe3d' (known: pe1d, pe2d)\nfix: did you mean 'pe2d' or 'pe1d'?",
    ),
]


@pytest.mark.parametrize(("change", "error", "want"), BROKEN, ids=[row[2] for row in BROKEN])
def test_what_is_no_machine(change, error, want):
    with pytest.raises(error) as caught:
        from_json(edited(change))
    text = str(caught.value)
    assert text.partition("\nfix: did")[0] == want.partition("\nfix: did")[0]


def test_what_is_no_json():
    with pytest.raises(TargetError) as caught:
        from_json('{"name": }')
    assert str(caught.value) == (
        "target is not JSON: Expecting value at line 1, column 10\n"
        "fix: start from 'penstock targets fusemax'"
    )
    with pytest.raises(TargetError) as caught:
        from_json("[1]")
    assert str(caught.value) == "target is no object\nfix: start from 'penstock targets fusemax'"


def test_override():
    target = TARGETS.get("fusemax")
    assert target.override("clock_hz", 1e9).clock_hz == 1e9
    assert target.override("gb.capacity_bytes", 1024).memory("gb").capacity_bytes == 1024
    assert target.override("pe2d.depth_cycles", 3).array("pe2d").depth_cycles == 3
    small = target.override("pe2d.rows", 128)
    assert small.array("pe2d").axis("rows").size == 128
    assert small.memory("rf2d").instances == 128 * 256
    assert small.memory("rf1d") == target.memory("rf1d")
    assert small.spread(small.memory("rf2d")) == small.array("pe2d").axes


def test_what_is_still_to_be_chosen_after_an_override():
    target = TARGETS.get("u280")
    assert len(target.sizings) > 1
    assert target.override("clock_hz", 1e8).sizings == target.sizings
    assert target.override("pe2d.rows", 16).sizings == ()
    built = target.sized()
    assert [target.sizing_of(each) for each in built] == [(), *target.sizings][: len(built)]


OVERRIDES = [
    ("pe2d.rows", 0, TargetError, "pe2d.rows of fusemax is 0\nfix: give it a number above 0"),
    ("pe2d.rows", 1.5, TargetError, "pe2d.rows is 1.5\nfix: give it a whole number"),
    ("rf2d.instances", 1.5, TargetError, "rf2d.instances is 1.5\nfix: give it a whole number"),
    ("pe3d.rows", 4, UnknownNameError, "unknown array of fusemax 'pe3d' (known: pe1d, pe2d)"),
    (
        "gb.size",
        4,
        UnknownNameError,
        (
            "unknown number of gb 'size' (known: area_um2, banks, burst_bytes, "
            "bytes_per_cycle, capacity_bytes, channels, instances, latency_cycles, "
            "read_pj_per_byte, refresh_cycles, refresh_every_cycles, write_pj_per_byte)"
        ),
    ),
]


@pytest.mark.parametrize(("path", "value", "error", "want"), OVERRIDES)
def test_override_that_cannot_be(path, value, error, want):
    with pytest.raises(error) as caught:
        TARGETS.get("fusemax").override(path, value)
    assert str(caught.value).startswith(want)


def test_spread_of_memories():
    array = Array("a", (Axis("x", 3, "core"), Axis("y", 4, "simd")), (("+", 1.0),))

    def axes(instances, owner="a"):
        memory = Memory("m", 8, array=owner, instances=instances)
        target = Target("t", "cpu", 1e9, (Memory("dram", 8), memory), (array,), "fp32", "made up")
        found = target.spread(memory)
        return None if found is None else [axis.name for axis in found]

    assert axes(12) == ["x", "y"]
    assert axes(3) == ["x"]
    assert axes(1) == []
    assert axes(5) is None
    assert axes(12, owner="") is None


def test_a_name_of_a_part():
    target = TARGETS.get("mesh4x4")
    with pytest.raises(UnknownNameError, match="unknown axis of pe1d 'rows'"):
        target.array("pe1d").axis("rows")
    with pytest.raises(TargetError, match="names pe1d twice"):
        replace(target, arrays=(*target.arrays, target.array("pe1d")))
