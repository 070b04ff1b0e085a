"""Generate an HLS project for a causal grouped-query attention, and run its C simulation."""

from pathlib import Path

import penstock
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format

shapes = {"h": 4, "g": 2, "p": 16, "m": 24, "e": 8, "f": 8, "m0": 8}
cascade = penstock.zoo.load("gqa_causal_1pass")
design = remap(cascade, "u280", shapes=shapes, fmt=parse_format("fixed<16,6>"))

paths = penstock.generate(design, "hls").save("gqa_hls")
print("\n".join(str(path) for path in paths if path.suffix in {".cpp", ".h", ".hpp", ".tcl"}))

check = penstock.verify(design, "hls")
print(f"C simulation, bit for bit: {check.verdict}")
assert Path("gqa_hls/Makefile").exists()

#: gqa_hls/penstock_fixed.hpp
#: gqa_hls/penstock_math.hpp
#: gqa_hls/penstock_loops.hpp
#: gqa_hls/penstock_stream.hpp
#: gqa_hls/penstock_tb.hpp
#: gqa_hls/config.hpp
#: gqa_hls/kernel.h
#: gqa_hls/kernel.cpp
#: gqa_hls/tb.cpp
#: gqa_hls/run_hls.tcl
#: gqa_hls/host.cpp
#: C simulation, bit for bit: ok
