"""A tile kernel for mma.sync and cp.async (sm_80 and later).

Each warp has 16 rows of the block's tile, or more; key tiles come through a ring of buffers, as
many as the mapping has copies of (at least two), each filled while the ones before it are used.
Lines in shared memory are 16 bytes longer than their contents, so that ldmatrix meets every bank
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from penstock.codegen.gpu.careful import needs_care, shown_at_end, strange_line, terms_lines
from penstock.codegen.gpu.fragment import Layout, layout_of
from penstock.codegen.gpu.leaf import LeafPrinter, block_lines
from penstock.codegen.gpu.order import Parts, Sum, parts_of
from penstock.codegen.gpu.spell import Speller, flat, variable
from penstock.codegen.gpu.tile import Product, Step, TileKernel
from penstock.codegen.gpu.tiles import (
    Source,
    Staged,
    in_rings,
    line_test,
    source_of,
    staged_of,
)
from penstock.codegen.loops.nodes import Alloc, Buffer, Const, walk_statements
from penstock.codegen.loops.walk import touched
from penstock.codegen.tvm.kernels import extent_of

__all__ = ["MmaKernel", "TensorMap"]

_PAD = 8
"""Elements of 2 bytes after each line in shared memory."""

FLAGS = "constexpr bool ps_full = decltype(ps_tag)::full, ps_careful = decltype(ps_tag)::careful;"
"""What the code of a step is printed for: whole tiles, and products term by term."""

_KEPT = 32
"""Registers that a left side may take to stay in for the whole loop."""


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A TMA descriptor that the host makes: 2-byte elements, 128-byte swizzle, zeros outside.

    Args:
        name: of the argument.
        tensor: that it describes, whole and row-major.
        box: extents of a box, in the tensor's order of dimensions.
    """

    name: str
    tensor: str
    box: tuple[int, ...]


@dataclass
class MmaKernel:
    """Prints one kernel; `lines` once.

    Args:
        made: what the block does.
        parameters: its arguments, in order.
        warp_rows: rows of the tile that a warp has.
    """

    made: TileKernel
    parameters: tuple[Buffer, ...]
    warp_rows: int = 16

    zeroed: ClassVar[bool] = True
    """Whether lines that no row needs are brought as zeros."""
    together: ClassVar[int] = 1
    """Warps that work on one instruction."""

    def __post_init__(self) -> None:
        self.layout: Layout = layout_of(self.made, self.warp_rows, self.together)
        self.parts: Parts = parts_of(self.made, self.layout)
        given = {each.name: each for each in self.parameters}
        self.given = given
        self.printer = LeafPrinter(self.made, self.layout, given)
        self.staged = staged_of(self.made, self.layout, self.parts.scores)
        products = (*self.parts.scores, *(each.product for each in self.parts.sums))
        self.sources = in_rings(
            {
                each.result.buffer: source_of(
                    each, self.layout, self.made, given[each.right.buffer]
                )
                for each in products
            }
        )
        for each in products:
            source, score = self.sources[each.result.buffer], each in self.parts.scores
            buffer, loop = given[source.tensor], self.made.loop.variable
            source.check(buffer, loop, score=score, lines=self.zeroed)
        self.careful = needs_care(self.parts, self.sources, given, zeroed=self.zeroed)
        self.stages = max(2, *(each.buffers for each in self.made.copies), 2)
        self.speller = Speller(self.printer.buffers, frozenset(given), lambda load: None, {})

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.layout.warps * self.layout.across * 32

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory."""
        return self._places()[1]

    def _places(self) -> tuple[dict[str, int], int]:
        """Return where each tile starts, in bytes, and where the last ends."""
        sizes = {f"left_{name}": self._left_bytes(each) for name, each in self._lefts().items()}
        sizes |= {
            f"right_{name}": self.stages * self._bytes(each)
            for name, each in self.sources.items()
            if each.brought
        }
        sizes["exchange"] = 0 if self.layout.across == 1 else 8 * self.layout.across * self.rows
        starts = accumulate(sizes.values(), initial=0)
        places = dict(zip((*sizes, "end"), starts, strict=True))
        return places, places["end"]

    @property
    def rows(self) -> int:
        """Rows of the block's tile, padding included."""
        return self.layout.warps * self.layout.blocks * 16

    def _lefts(self) -> dict[str, int]:
        """Return the widths of left sides in shared memory, by the results of their products.

        Those of sums are there where warps have cut the columns: each has a part of the depth, and
        needs all of it.
        """
        found = {name: each.width for name, each in self.staged.items()}
        if self.layout.across > 1:
            found |= {each.product.result.buffer: self._depth(each) for each in self.parts.sums}
        return found

    def _depth(self, added: Sum) -> int:
        return self.layout.covered(self.made.classes[added.product.reds.variable])

    def _left_bytes(self, width: int) -> int:
        return self.rows * (width + _PAD) * 2

    def _bytes(self, source: Source) -> int:
        """Return the bytes of a tile of a right side."""
        return source.lines * (source.pitch + _PAD) * 2

    def maps(self) -> tuple[TensorMap, ...]:
        """Return the TMA descriptors that the kernel takes: none."""
        return ()

    # -- text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Return the function."""
        body = [*self._start(), *self._tiles(), *self._fragments(), *self._staging()]
        body += [*self._loads(), *self._step_lambda()]
        body += next_lines(self.made, self.speller)
        body += [*self._initial(), *self._loop()]
        if self.careful:
            again = [*self._initial(), *self._careful_loop()]
            body += ["if (ps_block_any(ps_strange)) {", *block_lines(again), "}"]
        body += self._after()
        listed = ", ".join(self.parameter(each) for each in self.parameters)
        name = f"{self.made.kernel.name}_kernel"
        head = (
            f'extern "C" __global__ void __launch_bounds__({self.threads}, 1) {name}({listed}) {{'
        )
        return [head, *block_lines(body), "}"]

    def parameter(self, buffer: Buffer) -> str:
        """Return a parameter's declaration."""
        kind = {"data": "ps_element", "acc": "float", "mask": "signed char", "index": "int"}
        const = "" if buffer.name in touched(self.made.kernel.body)[1] else "const "
        return f"{const}{kind[buffer.kind]}* __restrict__ x_{buffer.name}"

    def _start(self) -> list[str]:
        lines = [
            "extern __shared__ __align__(1024) uint8_t ps_shared_memory[];",
            "const int ps_tid = threadIdx.x, ps_lane = ps_tid % 32, ps_warp = ps_tid / 32;",
            "const int ps_quad = ps_lane % 4;",
        ]
        band = "ps_warp"
        if self.layout.across > 1:
            band = f"ps_warp % {self.layout.warps}"
            lines.append(f"const int ps_side = ps_warp / {self.layout.warps};")
        lines += [
            f"const int ps_band = {band};",
            f"const int ps_row = ps_band * {16 * self.layout.blocks} + ps_lane / 4;",
        ]
        return lines + grid_lines(self.made)

    def _tiles(self) -> list[str]:
        places, _ = self._places()
        lines = []
        for name, width in self._lefts().items():
            start = places[f"left_{name}"]
            lines += [
                f"ps_element* const left_{name} = (ps_element*)(ps_shared_memory + {start});",
                f"auto ps_at_{name} = [&](int row, int red) {{",
                *block_lines(self._left_at(name, width)),
                "};",
            ]
        for name, source in self.sources.items():
            if source.brought:
                lines.append(
                    f"uint8_t* const right_{name} = ps_shared_memory + {places[f'right_{name}']};"
                    f"  // {self.stages} of {source.lines} x {source.width}"
                )
        if self.layout.across > 1:
            lines += self._exchange(places["exchange"])
        return lines

    def _exchange(self, start: int) -> list[str]:
        """Return the fold of a value that each warp with a row has; two places in turn."""
        across, rows = self.layout.across, self.rows
        return [
            f"float* const ps_exchange = (float*)(ps_shared_memory + {start});",
            "int ps_turn = 0;",
            "auto ps_across = [&](float x, int row, auto fold) {",
            f"  float* const all = ps_exchange + (ps_turn ^= 1) * {across * rows} + row;",
            f"  if (ps_quad == 0) all[ps_side * {rows}] = x;",
            f"  {self._meet()}",
            "  x = all[0];",
            f"  for (int s = 1; s < {across}; ++s) x = fold(x, all[s * {rows}]);",
            "  return x;",
            "};",
        ]

    def _meet(self) -> str:
        """Return the barrier of all threads that compute."""
        return "__syncthreads();"

    def _packed(self) -> list[str]:
        """Return the lines that pack the left sides of sums."""
        lines: list[str] = []
        for each in self.parts.sums:
            lines += self.printer.packed(each.product, careful=self.careful)
        return [*lines, self._meet()] if self.layout.across > 1 else lines

    def _left_at(self, name: str, width: int) -> list[str]:
        return [f"return left_{name} + row * {width + _PAD} + red;"]

    def _right_at(self, source: Source, stage: str) -> str:
        """Return the start of a stage of a right side."""
        return f"(ps_element*)(right_{source.ring} + {stage} * {self._bytes(source)})"

    def _term(self, source: Source, stage: str) -> str:
        """Return the element of a right side at depth ``ps_red``, column ``ps_col``."""
        line, run = ("ps_col", "ps_red") if source.deep else ("ps_red", "ps_col")
        return f"({self._right_at(source, stage)})[{line} * {source.pitch + _PAD} + {run}]"

    def _terms(self, added: Sum, stage: str) -> list[str]:
        term = self._term(self.sources[added.product.result.buffer], stage)
        return terms_lines(added, term, self.layout, self._depth(added))

    def _strange(self, *, at_end: bool) -> list[str]:
        """Return the lines that look for sums that are no finite number."""
        found = [each for each in self.parts.sums if shown_at_end(each, self.made) == at_end]
        return [strange_line(each) for each in found] if self.careful else []

    def _fragments(self) -> list[str]:
        lines = fragment_lines(self.made, self.layout)
        for each in self.parts.sums if self.layout.across == 1 else ():
            depth = self._depth(each) // 16
            lines.append(
                f"uint32_t a_{each.product.result.buffer}[{self.layout.blocks}][{depth}][4];"
            )
        if self.careful:
            lines.append("bool ps_strange = false;")
        for name, staged in self.staged.items():
            if self._kept(staged):
                lines.append(f"uint32_t q_{name}[{self.layout.blocks}][{staged.width // 16}][4];")
        return lines

    def _kept(self, staged: Staged) -> bool:
        return self.layout.blocks * staged.width // 4 <= _KEPT

    def _initial(self) -> list[str]:
        """Return what is done in front of the loop, but for tiles."""
        staged = {name for name, shape in self.layout.shapes.items() if shape.kind == "tile"}
        steps = [each for each in self.made.before if not staged & written(each)]
        return [line for each in steps for line in self.printer.step(each, inside=False)]

    def _staging(self) -> list[str]:
        """Return the lines that fill the tiles of left sides."""
        lines: list[str] = []
        for staged in self.staged.values():
            lines += staged.lines(self.printer, self.given, self.threads)
        lines.append("__syncthreads();")
        for name, staged in self.staged.items():
            if self._kept(staged):
                lines += self._left_lines(name, f"q_{name}[b][k]", staged.width // 16)
        return lines

    def _left_lines(self, name: str, to: str, steps: int) -> list[str]:
        return [
            "#pragma unroll",
            f"for (int b = 0; b < {self.layout.blocks}; ++b)",
            "#pragma unroll",
            f"for (int k = 0; k < {steps}; ++k)",
            f"  {self._left(name, to)}",
        ]

    def _left(self, name: str, to: str) -> str:
        """Return the line that reads step k of block b of a left side in shared memory."""
        row = f"ps_band * {16 * self.layout.blocks} + 16 * b + ps_lane % 16"
        return f"ps_ldmatrix({to}, ps_at_{name}({row}, 16 * k + ps_lane / 16 * 8));"

    # -- loading -------------------------------------------------------------------------------

    def _loads(self) -> list[str]:
        loop = variable(self.made.loop.variable)
        lines = [f"auto ps_load = [&](int {loop}, int ps_stage) {{"]
        for source in self.sources.values():
            if source.brought:
                lines += block_lines(self._load(source))
        return [*lines, "};"]

    def _load(self, source: Source) -> list[str]:
        buffer = self.given[source.tensor]
        line, pitch = variable(source.line.variable), source.pitch + _PAD
        indices = [self.speller.index(each) for each in source.product.right.indices[:-1]]
        test = line_test(source, self.speller, buffer)
        extent = source.run.extent
        assert isinstance(extent, Const)
        eights = source.width // 8
        to = f"{line} * {pitch} + ps_run"
        start = flat(buffer, [*indices, "ps_run"])
        inner = [
            f"const int {line} = ps_i / {eights}, ps_run = ps_i % {eights} * 8;",
            f"const bool ps_there = {test};",
            f"ps_element* const ps_to = {self._right_at(source, 'ps_stage')} + {to};",
            f"const ps_element* const ps_from = x_{source.tensor} + {start};",
        ]
        if source.whole:
            inside = (
                "ps_there"
                if int(extent.value) == source.width
                else f"ps_there && ps_run < {int(extent.value)}"
            )
            inner.append(f"ps_copy16(ps_to, {inside} ? ps_from : x_{source.tensor}, {inside});")
        else:
            inner += [
                "for (int ps_k = 0; ps_k < 8; ++ps_k) {",
                f"  const bool ps_inside = ps_there && ps_run + ps_k < {int(extent.value)};",
                "  ps_round_to(ps_to[ps_k], ps_inside ? ps_float(ps_from[ps_k]) : 0.0f);",
                "}",
            ]
        head = f"for (int ps_i = ps_tid; ps_i < {source.lines * eights}; ps_i += {self.threads}) {{"
        return [f"// {source.tensor}", "#pragma unroll 4", head, *block_lines(inner), "}"]

    # -- one step ------------------------------------------------------------------------------

    def _step_lambda(self) -> list[str]:
        loop = variable(self.made.loop.variable)
        lines: list[str] = []
        for each in self.parts.scores:
            lines += self._score(each)
        for step in (*self.parts.early, *self.parts.late):
            lines += self.printer.between(step, self.parts.scores)
        lines += self._packed()
        for added in self.parts.sums:
            sums = self._sum(added)
            if self.careful:
                terms = self._terms(added, "ps_stage")
                sums = ["if constexpr (ps_careful) {", *block_lines(terms), "} else {"]
                sums += [*block_lines(self._sum(added)), "}"]
            lines += sums
        lines += self._strange(at_end=False)
        for step in self.parts.post:
            lines += self.printer.step(step, inside=True)
        head = f"auto ps_step = [&](int {loop}, int ps_stage, auto ps_tag) {{"
        tests = self.printer.met_lines()
        return [
            *self.printer.met.declarations(),
            head,
            f"  {FLAGS}",
            *block_lines([*tests, *lines]),
            "};",
        ]

    def _score(self, product: Product) -> list[str]:
        name = product.result.buffer
        staged, source = self.staged[name], self.sources[name]
        steps = staged.width // 16
        lines = [f"// {name}: {source.columns} columns"]
        lines += zero_lines(f"x_{name}", self.layout.count(name))
        return lines + self._steps(source, "" if self._kept(staged) else name, f"x_{name}", steps)

    def _sum(self, each: Sum) -> list[str]:
        name = each.product.result.buffer
        source = self.sources[name]
        steps = self._depth(each) // 16
        lines = [f"// {each.target} += {name}"]
        if each.fresh:
            lines += zero_lines(f"x_{each.target}", self.layout.count(each.target))
        shared = name if self.layout.across > 1 else ""
        return lines + self._steps(source, shared, f"x_{each.target}", steps)

    def _steps(self, source: Source, shared: str, to: str, steps: int) -> list[str]:
        """Return a product; ``shared`` is its left side in shared memory, "" if in registers."""
        name, blocks = source.product.result.buffer, self.layout.blocks
        left = "ps_a[b]" if shared else f"{'q' if name in self.staged else 'a'}_{name}[b][k]"
        inner: list[str] = []
        if shared:
            inner += [
                f"uint32_t ps_a[{blocks}][4];",
                "#pragma unroll",
                f"for (int b = 0; b < {blocks}; ++b)",
                f"  {self._left(shared, 'ps_a[b]')}",
            ]
        inner += self._right(source, left, to)
        head = ["#pragma unroll", f"for (int k = 0; k < {steps}; ++k) {{"]
        return [*head, *block_lines(inner), "}"]

    def _right(self, source: Source, left: str, to: str) -> list[str]:
        """Return the products of step k with 16 columns at a time."""
        pitch = source.pitch + _PAD
        columns = source.columns // self.layout.across
        side = f"{columns} * ps_side + " if self.layout.across > 1 else ""
        start = self._right_at(source, "ps_stage")
        if source.deep:
            row = f"{side}16 * n + ps_lane % 8 + ps_lane / 16 * 8"
            at = f"({row}) * {pitch} + 16 * k + ps_lane / 8 % 2 * 8"
            call = "ps_ldmatrix"
        else:
            at = f"(16 * k + ps_lane % 16) * {pitch} + {side}16 * n + ps_lane / 16 * 8"
            call = "ps_ldmatrix_t"
        place = f"4 * ({columns // 8} * b + 2 * n" if self.layout.blocks > 1 else "4 * (2 * n"
        return [
            "#pragma unroll",
            f"for (int n = 0; n < {columns // 16}; ++n) {{",
            "  uint32_t ps_b[4];",
            f"  {call}(ps_b, {start} + {at});",
            "  #pragma unroll",
            f"  for (int b = 0; b < {self.layout.blocks}; ++b) {{",
            f"    ps_mma({to} + {place}), {left}, ps_b[0], ps_b[1]);",
            f"    ps_mma({to} + {place} + 1), {left}, ps_b[2], ps_b[3]);",
            "  }",
            "}",
        ]

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> list[str]:
        loop, ahead = variable(self.made.loop.variable), self.stages - 1
        full = " && ".join(self.printer.full) or "true"
        following = "ps_ahead = ps_next(ps_ahead + 1)"
        behind = f"(ps_n + {ahead}) % {self.stages}"
        return [
            f"int {loop} = ps_next(0), ps_ahead = {loop};",
            f"for (int ps_n = 0; ps_n < {ahead}; ++ps_n) {{",
            "  if (ps_ahead < ps_end) ps_load(ps_ahead, ps_n), ps_ahead = ps_next(ps_ahead + 1);",
            "  ps_copy_commit();",
            "}",
            f"for (int ps_n = 0; {loop} < ps_end; {loop} = ps_next({loop} + 1), ++ps_n) {{",
            f"  ps_copy_wait<{ahead - 1}>();",
            "  __syncthreads();",
            f"  if (ps_ahead < ps_end) ps_load(ps_ahead, {behind}), {following};",
            "  ps_copy_commit();",
            f"  const int ps_stage = ps_n % {self.stages};",
            f"  if ({full}) ps_step({loop}, ps_stage, PsFlag<true>());",
            f"  else ps_step({loop}, ps_stage, PsFlag<false>());",
            "}",
            *self._strange(at_end=True),
        ]

    def _careful_loop(self) -> list[str]:
        """Return the loop once more: a tile at a time, without absent terms."""
        loop = variable(self.made.loop.variable)
        return [
            f"for ({loop} = ps_next(0); {loop} < ps_end; {loop} = ps_next({loop} + 1)) {{",
            f"  ps_load({loop}, 0);",
            "  ps_copy_commit();",
            "  ps_copy_wait<0>();",
            "  __syncthreads();",
            f"  ps_step({loop}, 0, PsFlag<false, true>());",
            "  __syncthreads();",
            "}",
        ]

    def _after(self) -> list[str]:
        lines: list[str] = []
        for each in self.made.after:
            lines += self.printer.step(each, inside=False)
        return lines


# -- shared with the Hopper kernels --------------------------------------------------------------


def grid_lines(made: TileKernel) -> list[str]:
    """Return the lines that give block loops their values: the innermost along x."""
    loops = made.kernel.grid
    axes = [f"blockIdx.{axis}" for axis in "xyz"]
    if len(loops) <= 3:
        return [
            f"const int {variable(each.variable)} = {axis};"
            for each, axis in zip(reversed(loops), axes, strict=False)
        ]
    lines, below = [], 1
    for place, each in enumerate(reversed(loops)):
        text = "blockIdx.x" if below == 1 else f"blockIdx.x / {below}"
        if place < len(loops) - 1:
            text += f" % {extent_of(each)}"
        lines.append(f"const int {variable(each.variable)} = {text};")
        below *= extent_of(each)
    return lines


def fragment_lines(made: TileKernel, layout: Layout) -> list[str]:
    """Return the declarations of what threads hold."""
    inner = set()
    for step in (*made.before, *made.steps, *made.after):
        if isinstance(step, Step):
            inner |= {e.buffer.name for e in walk_statements(step.body) if isinstance(e, Alloc)}
    starts = {each.name for each in made.local.values() if not each.shape}
    return [
        layout.declaration(each)
        for each in made.local.values()
        if each.name not in inner | starts and layout.shapes[each.name].kind != "tile"
    ]


def zero_lines(name: str, count: int) -> list[str]:
    """Return the lines that clear a fragment."""
    return ["#pragma unroll", f"for (int ps_i = 0; ps_i < {count}; ++ps_i) {name}[ps_i] = 0.0f;"]


def next_lines(made: TileKernel, speller: Speller) -> list[str]:
    """Return the function that finds the next key tile that is not empty."""
    loop = variable(made.loop.variable)
    test = "true" if made.present is None else speller.condition(made.present)
    return [
        f"const int ps_end = {speller.index(made.loop.extent)};",
        f"auto ps_next = [&](int {loop}) {{",
        f"  while ({loop} < ps_end && !({test})) ++{loop};",
        f"  return {loop};",
        "};",
    ]


def written(step: Step) -> set[str]:
    """Return the buffers that a step writes."""
    return set(touched(step.body)[1])
