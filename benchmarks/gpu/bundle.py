"""Write everything that a GPU machine needs to measure: `python benchmarks/gpu/bundle.py FOLDER`.

The folder holds, for each case and for several block tiles of its mapping, the generated source
with its launch data, and copies of `measure.py`, `rivals.py`, `triton_attention.py` and the
loader. On the GPU machine: `python FOLDER/measure.py FOLDER`. Where there is a GPU here,
`--measure` does both.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rivals

from penstock import parse, zoo
from penstock.codegen.backends import Provenance
from penstock.codegen.base import Artifact, digest
from penstock.codegen.gpu.plain import plain
from penstock.codegen.gpu.standalone import __file__ as loader
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cuda import artifact
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import Bound, bind
from penstock.mapper.nodes import Keep, Mapping, Nest, Node
from penstock.mapper.search.explore import explore
from penstock.runtime.streaming import parted, streamed
from penstock.runtime.tiles import Tiles
from penstock.targets import TARGETS

HERE = Path(__file__).resolve().parent


NEIGHBORHOOD = """
cascade neighborhood(Q[h, p, e], K[h, m, e], V[h, m, f]) -> O[h, p, f]
  const SC = 1 / sqrt(E)
  const X = 64
  const W = 3
  R[h, p, e] = Q[h, p, e] * SC
  S[h, p, m] = R[h, p, e] * K[h, m, e] s.t. abs(p // X - m // X) <= W and abs(p % X - m % X) <= W
  G[h, p] = S[h, p, m] :: max[m]
  T[h, p, m] = exp(S[h, p, m] - G[h, p])
  D[h, p] = T[h, p, m] :: sum[m]
  O[h, p, f] = T[h, p, m] / D[h, p] * V[h, m, f] :: sum[m]
"""
"""Places of a grid with X columns see those at most W rows and columns away."""


LATENT = """
cascade latent(Q[h, p, e], K[m, e]) -> O[h, p, f]
  const SC = 1 / sqrt(192)
  R[h, p, e] = Q[h, p, e] * SC
  S[h, p, m] = R[h, p, e] * K[m, e] s.t. m <= p + M - P
  G[h, p] = S[h, p, m] :: max[m]
  T[h, p, m] = exp(S[h, p, m] - G[h, p])
  D[h, p] = T[h, p, m] :: sum[m]
  O[h, p, f] = T[h, p, m] / D[h, p] * K[m, f] :: sum[m]
"""
"""MLA where the projections are taken into the query: a latent is key and, in part, value."""


@dataclass(frozen=True)
class Case:
    """What is measured: a stock cascade or a text, widths, numbers of keys; one query or all.

    ``sizes`` are those of ranks that are others than usual. For decoding: ``rows`` of a block, and
    ``parts`` to measure: (keys of a part, keys of a tile, buffers).
    ``streams``: whether it is brought into a form that streams over tiles.
    """

    cascade: str
    widths: tuple[int, ...] = (64, 128)
    lengths: tuple[int, ...] = (8192,)
    constants: tuple[tuple[str, float], ...] = ()
    decode: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    rows: int = 4
    parts: tuple[tuple[int, int, int], ...] = ((2048, 64, 2), (1024, 64, 3), (4096, 128, 2))
    streams: bool = True

    def load(self) -> Cascade:
        """Return the cascade."""
        return parse(self.cascade) if "\n" in self.cascade else zoo.load(self.cascade)


CASES = {
    "causal": Case("causal_attention", lengths=(4096, 16384)),
    "dense": Case("attention", lengths=(4096, 16384)),
    "dense_wide": Case("attention", (256,)),
    "sliding_window": Case("sliding_window", constants=(("W", 256.0),)),
    "decode": Case("gqa_causal", (128,), (65536,), decode=True),
    "gqa_causal": Case("gqa_causal", (128,)),
    "soft_cap": Case("soft_cap"),
    "alibi": Case("alibi"),
    "attention_sink": Case("attention_sink"),
    "document_mask": Case("document_mask"),
    "sigmoid": Case("sigmoid_attention"),
    "neighborhood": Case(NEIGHBORHOOD, (64,), constants=(("X", 64.0), ("W", 3.0))),
    "latent": Case(
        LATENT,
        (512,),
        decode=True,
        sizes=(("h", 128), ("e", 576)),
        rows=64,
        parts=((1024, 64, 2), (512, 64, 2)),
    ),
    "linear": Case("linear_attention", (64,), streams=False),
}
"""In the order of measuring: what is left when the time is up comes last."""

HEADS, GROUPS = 16, 4
TILES = {
    64: ((128, 128, 2), (192, 128, 2), (128, 128, 3), (192, 96, 3)),
    128: ((128, 128, 2), (128, 176, 2), (128, 96, 2), (192, 80, 2)),
    256: ((128, 64, 2), (64, 64, 3)),
}
"""Width → (rows of a block, keys of a tile, buffers) to measure."""


def tiled(body: tuple[Node, ...], along: str, rows: int, buffers: int) -> tuple[Node, ...]:
    """Return a mapping's body with another block tile of a rank, and other numbers of buffers.

    What is done once, not from tile to tile (a merge of parts), stays as it is.
    """
    found: list[Node] = []
    for node in body:
        if isinstance(node, Nest):
            loop = node.loop
            if loop.variable == along and loop.axis and any(isinstance(n, Nest) for n in node.body):
                loop = replace(loop, tile=rows)
            found.append(replace(node, loop=loop, body=tiled(node.body, along, rows, buffers)))
        elif isinstance(node, Keep) and {"K", "V"} & set(node.tensors):
            found.append(replace(node, buffers=buffers))
        else:
            found.append(node)
    return tuple(found)


def made(
    case: Case, width: int, length: int, tile: tuple[int, int, int], machine: str
) -> tuple[Artifact, Bound, dict[str, int]]:
    """Return a variant, its cascade with extents, and those of the cascade as written."""
    target, fmt = TARGETS.get(machine), parse_format("bf16")
    whole = case.load()
    used = {v for each in whole.einsums for v in each.variables}
    used |= {rank for each in whole.inputs for rank in each.ranks}
    sizes = {"h": HEADS, "g": GROUPS, "p": length, "m": length, "e": width, "f": width}
    if case.decode:
        sizes["p"] = 1
    sizes = {name: size for name, size in (sizes | dict(case.sizes)).items() if name in used}
    rows, keys, buffers = tile
    tiles, constants = Tiles(keys, keys, keys), dict(case.constants)
    if case.decode:
        bound = parted(whole, sizes, constants, tiles, part=rows)
        along, rows = "h", case.rows
    elif case.streams:
        along = "p"
        bound = streamed(whole, sizes, constants, tiles, always=True)
    else:
        along, bound = "", bind(whole, shapes=sizes)
    mapping: Mapping = explore(bound, target, fmt).mapping
    mapping = replace(mapping, body=tiled(mapping.body, along, rows, buffers))
    mapping = plain(mapping, bound, target) or mapping
    program = lower(bound, mapping, target, fmt)
    command = "python benchmarks/gpu/bundle.py"
    digits = digest(str(bound.cascade), str(mapping))
    source = Provenance(whole.name, digits, command, plain=lambda: program)
    return artifact(program, target, source), bound, sizes


def points(case: str, length: int) -> float:
    """Return the pairs of row and key that are present in a head."""
    if case in ("dense", "dense_wide"):
        return float(length) ** 2
    if case in ("decode", "latent"):
        return float(length)
    if case == "linear":
        return float(length) * 64  # sums of 64 x 64 for each key, and as much for each query
    if case == "neighborhood":
        across, down = (
            [min(n, 3) + 1 + min(size - 1 - n, 3) for n in range(size)]
            for size in (64, length // 64)
        )
        return float(sum(across) * sum(down))
    if case == "sliding_window":
        return float(sum(min(p + 1, 256) for p in range(length)))
    return float(length * (length + 1) // 2)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--lengths", default="", help="only these")
    parser.add_argument("--widths", default="", help="only these")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    widths, lengths = (
        {int(n) for n in each.split(",") if n} for each in (given.widths, given.lengths)
    )
    told = [
        written(given.folder, name, width, length, given.target)
        for name in given.cases.split(",")
        for width in CASES[name].widths
        for length in CASES[name].lengths
        if width in (widths or {width}) and length in (lengths or {length})
    ]
    (given.folder / "cases.json").write_text(json.dumps(told, indent=1) + "\n")
    for name in ("measure.py", "rivals.py", "triton_attention.py"):
        shutil.copy(HERE / name, given.folder / name)
    shutil.copy(loader, given.folder / "launch.py")
    if given.measure:
        command = [sys.executable, str(given.folder / "measure.py"), str(given.folder)]
        raise SystemExit(subprocess.run(command, check=False).returncode)


def written(folder: Path, name: str, width: int, length: int, machine: str) -> dict[str, Any]:
    """Write the variants of a case; return what `measure.py` needs to know."""
    case, variants = CASES[name], []
    shape: dict[str, int] = {}
    inputs: dict[str, list[int]] = {}
    moved = 0
    for tile in (case.parts if case.decode else TILES[width]) if case.streams else ((0, 0, 0),):
        files, bound, shape = made(case, width, length, tile, machine)
        said = "x".join(str(each) for each in tile) if case.streams else "as explored"
        place = f"{name}_{width}_{length}_{said.replace(' ', '_')}"
        files.save(folder / place)
        launch = json.loads(str(files.files["launch.json"]))
        kinds = sorted({each.get("kind", "loop") for each in launch["steps"]} - {"plain"})
        label = f"{said} {'+'.join(kinds) or 'plain'}"
        whys = [each["why"] for each in launch["steps"] if each.get("why") and not kinds]
        print(place, label, *whys, flush=True)
        variants.append({"name": label, "folder": place})
        given = launch["parameters"][: len(bound.cascade.inputs)]
        inputs = {each["name"]: each["shape"] for each in given}
        moved = sum(2 * math.prod(each["shape"]) for each in launch["parameters"])
    return {
        "case": name,
        "label": f"{name} d={width} n={length}",
        "format": "bf16",
        "shape": shape,
        "constants": dict(case.constants),
        "inputs": inputs,
        "variants": variants,
        "rivals": rivals.names(name),
        "flops": 2.0 * shape["h"] * (shape["e"] + shape["f"]) * points(name, length),
        "bytes": moved,
    }


if __name__ == "__main__":
    main()
