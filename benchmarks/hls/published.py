"""Two published FPGA attentions beside penstock's, as Markdown tables.

    python benchmarks/hls/published.py

``--write`` puts them into docs/hls_designs.md. Published numbers name their source; all others are
the model's. Nothing here was synthesised.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from penstock import zoo
from penstock.design import Design, explore, remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.mapper.facts import facts_of
from penstock.mapper.notation import parse_mapping
from penstock.mapper.resources import operators_of
from penstock.mapper.scopes import tree_of
from penstock.pipelines import kernel_network
from penstock.sim.pipeline import run_pipeline
from penstock.targets import TARGETS
from penstock.targets.base import Memory, Target

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hls_designs.md"
BEGIN, END = "<!-- designs: begin -->", "<!-- designs: end -->"


class Row(NamedTuple):
    """Cycles are those of the mapping, and of the project that is generated from it."""

    name: str
    cycles: float
    generated: float
    dram_bytes: float
    lut: float
    ff: float
    dsp: float
    evidence: str


def row(name: str, design: Design) -> Row:
    facts = facts_of(design.bound)
    leaves = tree_of(design.mapping, facts, design.target).leaves
    costs = [operators_of(leaf, facts.extents, design.format).cost for leaf in leaves]
    sums = [sum(getattr(cost, part) for cost in costs) for part in ("lut", "ff", "dsp")]
    said = design.evaluate()
    network, _ = kernel_network(design.program(), design.target.clock_hz)
    cycles = run_pipeline(network).cycles
    return Row(name, said.latency_cycles, cycles, said.dram_bytes, *sums, "model")


# -- Edge-MoE ------------------------------------------------------------------------------------

TOKENS, WIDTH, HEADS, ROWS, FEATURES, WORD = 129, 192, 3, 4, 8, 4  # sharc-lab/Edge-MoE: model.hpp
FORMAT = parse_format("fixed<32,10>")  # the same: fm_t
BLOCKS = -(-TOKENS // ROWS)

REORDERED = """mapping reordered for edge_moe on zcu102
for h
  keep B, S in bram
  for p by 4 pipelined
    keep Q in bram
    QK on pe2d: p@rows, m, e by 8, e@cols
    for m
      B on pe1d stage 1: p@lanes
      S on pe1d stage 1: p@lanes
  for p by 4 pipelined
    keep A, O in bram
    A on pe1d: p@lanes, m
    O on pe2d stage 1: p@rows, m, f by 8, f@cols
"""


def zcu102(rows: int, cols: int, lanes: int) -> Target:
    """Return the board with a compute unit of so many places, at Edge-MoE's 300 MHz."""
    base = TARGETS.get("u280")
    unit = base.override("pe2d.rows", rows).override("pe2d.cols", cols)
    unit = unit.override("pe1d.lanes", lanes)
    memories = (
        Memory("ddr", 4 * 2**30, 19.2e9 / 300e6),  # AMD UG1182: 4 GB PS DDR4, 19.2 GB/s
        Memory("bram", 912 * 4096),  # AMD DS891: 912 blocks
        *unit.memories[2:],
    )
    parts = (("LUT", 274_080), ("FF", 548_160), ("DSP", 2_520), ("BRAM", 912))  # AMD DS891
    return replace(unit, name="zcu102", memories=memories, resources=parts, part="xczu9eg")


def published_edge_moe() -> Row:
    """Loop bounds at II = 1 and bytes of every m_axi access, counted in its attention.cpp.

    K and V are read again for every 4 query rows; scores are written by one kernel and read by
    the other; running maxima and sums of 129 rows go the same way.
    """
    loop = BLOCKS * TOKENS * (WIDTH // FEATURES)
    once = TOKENS * WIDTH * WORD
    scores = BLOCKS * TOKENS * ROWS * HEADS * WORD
    sums = TOKENS * 2 * HEADS * WORD
    moved = 2 * once + 2 * BLOCKS * once + 2 * scores + 2 * sums
    nothing = float("nan")
    return Row("Edge-MoE", 2 * loop, nothing, moved, nothing, nothing, nothing, "published source")


def edge_moe() -> Iterator[Row]:
    yield published_edge_moe()
    shapes = {"h": HEADS, "p": TOKENS, "m": TOKENS, "e": WIDTH // HEADS, "f": WIDTH // HEADS}
    small = zcu102(ROWS, FEATURES, ROWS)
    theirs = remap(
        zoo.load("edge_moe"), small, shapes=shapes, fmt=FORMAT, mapping=parse_mapping(REORDERED)
    )
    yield row("its cascade and mapping (2-pass, scores in DRAM)", theirs)
    batched = {**shapes, "b": 1, "m0": 43}
    one = zoo.load("attention_1pass")
    for name, machine in (("same 4 x 8 places", small), ("16 x 16 places", zcu102(16, 16, 16))):
        ours, _ = explore(one, machine, shapes=batched, fmt=FORMAT)
        yield row(f"1-pass, {name}", ours)


# -- Stream-HLS ----------------------------------------------------------------------------------

# Stream-HLS, FPGA 2025, artifact: transformers/opt5/MultiHeadSelfAttention1, forward_cosim.rpt and
# csynth.rpt (Vitis HLS 2023.2, xcu280, 3.33 ns target, slack -1.33 ns)
STREAM_HLS = Row(
    "Stream-HLS", 35_143, float("nan"), float("nan"), 394_030, 560_775, 3_216, "published"
)

MHSA = """cascade mhsa(X[s,c], WQ[h,e,c], WK[h,e,c], WV[h,f,c], WO[d,h,f]) -> Y[p,d]
  shape m0 = 16
  Q[h,p,e] = X[p,c] * WQ[h,e,c]                                  :: sum[c]
  K[h,m,e] = X[m,c] * WK[h,e,c]                                  :: sum[c]
  V[h,m,f] = X[m,c] * WV[h,f,c]                                  :: sum[c]
  init RM[h,0,p] = -inf
  init RD[h,0,p] = 0
  init RNV[h,f,0,p] = 0
  loop m1:
    BQK[h,m1,m0,p] = Q[h,p,e] * K[h,m1*M0 + m0,e]                :: sum[e]
    LM[h,m1,p] = BQK[h,m1,m0,p]                                  :: max[m0]
    RM[h,m1+1,p] = max(RM[h,m1,p], LM[h,m1,p])
    SLN[h,m1,m0,p] = exp(BQK[h,m1,m0,p] - RM[h,m1+1,p])
    SLD[h,m1,p] = SLN[h,m1,m0,p]                                 :: sum[m0]
    SLNV[h,f,m1,p] = SLN[h,m1,m0,p] * V[h,m1*M0 + m0,f]          :: sum[m0]
    PRM[h,m1,p] = exp(RM[h,m1,p] - RM[h,m1+1,p])
    SPD[h,m1,p] = RD[h,m1,p] * PRM[h,m1,p]
    RD[h,m1+1,p] = SLD[h,m1,p] + SPD[h,m1,p]
    SPNV[h,f,m1,p] = RNV[h,f,m1,p] * PRM[h,m1,p]
    RNV[h,f,m1+1,p] = SLNV[h,f,m1,p] + SPNV[h,f,m1,p]
  AV[h,p,f] = RNV[h,f,M1,p] / RD[h,M1,p]
  Y[p,d] = AV[h,p,f] * WO[d,h,f]                                 :: sum[h,f]
"""
SIZES = {"s": 64, "p": 64, "m": 64, "c": 128, "d": 128, "h": 8, "e": 16, "f": 16, "m0": 16}
MACS = 4 * 64 * 128 * 128 + 2 * 8 * 64 * 64 * 16


def stream_hls() -> Iterator[Row]:
    yield STREAM_HLS
    cascade, fmt = parse(MHSA), parse_format("fp32")
    for side, dsp in ((8, 9_024), (16, 3_216), (16, 9_024)):
        machine = TARGETS.get("u280").override("pe2d.rows", side).override("pe2d.cols", side)
        parts = tuple((name, dsp if name == "DSP" else n) for name, n in machine.resources)
        design, _ = explore(cascade, replace(machine, resources=parts), shapes=SIZES, fmt=fmt)
        yield row(f"1-pass with its projections, {side} x {side} places, {dsp:,} DSP", design)


# -- the page ------------------------------------------------------------------------------------


def table(rows: list[Row], macs: int) -> str:
    columns = ("design", "cycles", "generated project", "DRAM bytes", "LUT", "FF", "DSP")
    columns = (*columns, "MACs a cycle and DSP", "evidence")
    lines = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 2)}---|"]
    for each in rows:
        numbers = [each.cycles, each.generated, each.dram_bytes, each.lut, each.ff, each.dsp]
        shown = ["-" if value != value else f"{value:,.0f}" for value in numbers]
        rate = macs / each.cycles / each.dsp
        shown.append("-" if rate != rate else f"{rate:.4f}")
        lines.append(f"| {each.name} | {' | '.join(shown)} | {each.evidence} |")
    return "\n".join(lines)


def page() -> str:
    attention = 2 * TOKENS * TOKENS * WIDTH
    return "\n".join(
        [
            "### Edge-MoE's self-attention on ZCU102: 129 tokens, width 192, 3 heads, 32 bits",
            "",
            table(list(edge_moe()), attention),
            "",
            "### Stream-HLS's multi-head attention on U280: 64 tokens, width 128, 8 heads, fp32",
            "",
            table(list(stream_hls()), MACS),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    found = page()
    if parser.parse_args().write:
        between = re.compile(f"(?<={BEGIN}\n).*(?=\n{END})", re.DOTALL)
        PAGE.write_text(between.sub(lambda _: found, PAGE.read_text()))
    else:
        print(found)


if __name__ == "__main__":
    main()
