"""Faults of the RTL and of the simulator, each of which the comparison has to notice.

All faults of the RTL are in one build: ``X`` becomes ``(fault == 7 ? (Y) : (X))``, and the
command line of the simulation, or a file ``fault`` where it runs, says which one is on. Faults of
the simulator are edits of its text.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from rtl_designs import array, random_case

from penstock import parse, zoo
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format
from penstock.machine.hardware import Hardware
from penstock.mapper.notation import parse_mapping
from penstock.sim.clock import clocked
from penstock.studies.cosim import case_of, patterns

FIXED = parse_format("fixed<16,6>")

RTL = (
    # (source file, text, what stands there instead)
    ("core", "left <= 8'd1", "left == 8'd0"),
    ("core", "left_next <= 8'd1", "left_next == 8'd0"),
    ("core", "{2'd0, g_rows} + g_lanes", "{2'd0, g_rows}"),
    ("core", "group_last && top5", "group_last"),
    ("core", "group_first && zero5", "group_first"),
    ("core", "d_valid && (!d_last || x_ready)", "d_valid"),
    ("core", "x_cycle + 8'd1", "x_cycle"),
    ("core", "at5 + 16'd1 ==", "at5 + 16'd2 =="),
    ("core", "base0 + down0 + across0", "base0 + down0"),
    ("core", "row0 + 6'd1 ==", "row0 =="),
    ("core", "left == 8'd1 && r_op_last", "left == 8'd1"),
    ("core", "(x >>> (down - 6'd1)) + 64'sd1", "(x >>> (down - 6'd1))"),
    ("core", "r_row < r_rows", "r_row + 6'd1 < r_rows"),
    ("core", "over_rows && i != 0", "1'b0"),
    ("place", "above ? old : value", "above ? value : old"),
    ("place", "old + value", "{old[63:8] + value[63:8], old[7:0] + value[7:0]}"),
    ("place", "near < -LIMIT", "near < -(LIMIT >>> 3)"),
    ("place", "(divisor <<< 1) - twice - ONE", "(divisor <<< 1) - twice"),
    ("core", "tested0 < 0", "tested0 <= 0"),
    ("place", "gated && blocked[4]", "1'b0"),
    ("place", "a_present ? left : right", "left"),
    ("place", "a_present && b_present", "a_present"),
    ("stream", "addr + step", "addr + step + 1'b1"),
    ("stream", "at5 + 16'd1 ==", "at5 + 16'd2 =="),
    ("fifo", "used < limit", "used <= limit"),
    ("fifo", "tail == 8'(DEPTH - 1)", "tail == 8'(DEPTH - 2)"),
    ("", "st_active && (!st_held || st_push)", "st_active && !st_held"),
    ("", "ld_active && ld_valid", "ld_active"),
    ("", "st_push && st_held_end", "st_go && st_end"),
    ("part", "6'd1 < wlanes", "6'd1 <= wlanes"),
    ("place", "hit0[0] ? in0 : hit1[0] ? in1 : ahead0", "hit0[0] ? in1 : hit1[0] ? in0 : ahead0"),
    ("buffer", "at[l-1] + rstep[r*12 +: 12]", "at[l-1] + rstep[0 +: 12]"),
)

SIMULATOR = (
    ("max(met, self.load + 1)", "max(met, self.load)"),
    ("return start + 1", "return start"),
    ("max(self.free + 1, self.handed + self.beats)", "self.free + 1"),
    ("self.beats = draining", "self.beats = 1"),
    ("shape.rows + lanes if", "shape.rows if"),
    ("last_beat = data + beats - 1", "last_beat = data"),
    ("found.append(max(1, *ports))", "found.append(sum(ports))"),
    ("self.handed + self.beats + 1)", "self.handed + self.beats)"),
    ("room = self.popped[0] + 1", "room = self.popped[0]"),
    ("offered = _next(self.offers, self.pushed + 1)", "offered = self.pushed + 1"),
    ("if moved or outermost", "if outermost"),
    ("self.pushed = max(read + 1, room)", "self.pushed = read + 1"),
)


def faulty(hw: Hardware):
    """Return an edit of the sources of a machine that has all faults, none of them on."""

    def edit(files):
        changed = dict(files)
        for number, (part, old, new) in enumerate(RTL, 1):
            name = f"{hw.name}_{part}.sv" if part else f"{hw.name}.sv"
            assert old in changed[name], (part, old)
            relation = next((op for op in (" ==", " <") if old.endswith(op)), "")
            before, after = old.removesuffix(relation), new.removesuffix(relation)
            chosen = f"(faults::on == {number} ? ({after}) : ({before})){relation}"
            changed[name] = changed[name].replace(old, chosen)
        top = f"{hw.name}.sv"
        start = """int file;
  initial
    if (!$value$plusargs("fault=%d", faults::on)) begin
      file = $fopen("fault", "r");
      if (file != 0) void'($fscanf(file, "%d", faults::on));
    end"""
        changed[top] = changed[top].replace("endmodule", f"  {start}\nendmodule")
        package = "package faults;\n  int unsigned on;\nendpackage\n"
        flat = {
            name: text.replace("/* verilator hier_block */", "") for name, text in changed.items()
        }
        return {"faults.sv": package, **flat}

    return edit


def faulty_clock(old: str, new: str):
    """Return the simulator with one edit of its text."""
    text = Path(clocked.__file__).read_text()
    assert old in text, old
    spec = importlib.util.spec_from_loader("faulty_clock", loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty_clock"] = module
    exec(compile(text.replace(old, new), "faulty_clock", "exec"), module.__dict__)
    return module.run_clocked


MAPPED = (
    # sums that go on from tile to tile, reduced along both axes; results faster than their drain;
    # words that share a bank; halves rounded up; absent operands that are filled in
    (
        "(X[p, m], Y[m]) -> Z[p]\n  Z[p] = X[p, m] * Y[m]",
        "for m by 4\n  Z on pe2d: p by 2, p@cols, m by 2, m@rows",
        dict(p=3, m=9),
    ),
    (
        "(X[p], Y[m]) -> Z[p, m]\n  Z[p, m] = X[p] * Y[m]",
        "Z on pe2d: p by 2, m by 2, p@cols, m@rows",
        dict(p=4, m=8),
    ),
    (
        "(X[x], Y[p]) -> Z[p]\n  Z[p] = X[2 * p] + Y[p]",
        "Z on pe2d: p by 2, p@cols",
        dict(p=6, x=9),
    ),
    ("(X[p], Y[p]) -> Z[p]\n  Z[p] = X[p] / Y[p]", "Z on pe1d: p by 2, p@lanes", dict(p=40)),
    (
        "(X[p], Y[p]) -> Z[p]\n  Z[p] = fill(X[p + 2], Y[p])",
        "Z on pe2d: p by 2, p@cols",
        dict(p=6),
    ),
)


def mapped(text, lines, shapes):
    """Return a case of one Einsum with a mapping; the second operand is 2."""
    mapping = parse_mapping(f"mapping m for c on mesh4x4\n{lines}")
    made = remap(parse(f"cascade c{text}"), array("2x2"), shapes=shapes, fmt=FIXED, mapping=mapping)
    rng, dims = np.random.default_rng(7), made.bound.dims
    inputs = {"X": rng.integers(-99, 99, dims["X"]) / 1024, "Y": np.full(dims["Y"], 2.0)}
    return case_of(made, inputs=inputs)


def small_cases():
    """Cases on which every fault shows; they agree without one."""
    cases = [random_case(seed, array("2x2"), largest=7) for seed in range(12)]
    target, small = array("2x2"), dict(h=1, p=5, m=6, e=3, f=3)
    made = remap(zoo.load("causal_attention"), target, shapes=small, fmt=FIXED)
    slow, fast = patterns(3)[0], (True,)
    one_pass = zoo.load("causal_attention_1pass")
    cases.append(case_of(remap(one_pass, target, shapes=small | {"m0": 2}, fmt=FIXED)))
    cases += [
        case_of(made, fifo_in=fifo, fifo_out=fifo, offers=fast, takes=slow) for fifo in (1, 3, 8)
    ]
    return [*cases, *(mapped(*each) for each in MAPPED)]
