"""A tile kernel for Hopper (sm_90a): TMA, mbarriers, wgmma, and warps with different jobs.

One thread brings key tiles through a ring of buffers, by TMA boxes in 128-byte swizzle; every
other warpgroup has 64 rows of the block's tile. Where the mapping puts the second products in a
later stage than the code in front of them, they run one tile behind: the tensor cores work on the
scores of tile n and the sums of tile n - 1 while the lanes are at the code between, which is the
modulo schedule of the mapping. Without such stages, everything of a tile comes before the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from penstock.codegen.gpu.leaf import block_lines
from penstock.codegen.gpu.mma import (
    FLAGS,
    MmaKernel,
    TensorMap,
    next_lines,
    written,
)
from penstock.codegen.gpu.order import Sum
from penstock.codegen.gpu.spell import variable
from penstock.codegen.gpu.tile import Step
from penstock.codegen.gpu.tiles import Source, Staged
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import Const
from penstock.codegen.loops.rewrite import substituted
from penstock.codegen.loops.walk import loads, touched
from penstock.codegen.tvm.ranges import names, stride

__all__ = ["WgmmaKernel"]

_CHUNK = 64
"""Elements of 2 bytes in the 128 bytes of a swizzle."""


@dataclass
class WgmmaKernel(MmaKernel):
    """Prints one kernel; `lines` once."""

    groups: int = 0
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)

    zeroed: ClassVar[bool] = False
    together: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.groups = self.layout.warps * self.layout.across // 4
        for name, source in self.sources.items():
            self._check_source(source)
            columns = self._columns(source)
            if columns > 256:
                raise Unfit(f"{name} has {columns} columns in a tile, wgmma at most 256")
            if self.layout.across > 1 and not source.deep and columns % _CHUNK:
                raise Unfit(f"{name} has {columns} columns in a part, no multiple of {_CHUNK}")
        self.behind = not self.parts.post and all(self._later(each) for each in self.parts.sums)

    def _later(self, each: Sum) -> bool:
        """Whether the mapping has a sum in a later stage than the code that makes its left side."""
        read = {load.buffer for load in loads(each.product.left)}
        makers = [
            step.stage
            for step in self.parts.early
            if isinstance(step, Step) and written(step) & read
        ]
        return bool(makers) and each.product.stage > max(makers)

    def _check_source(self, source: Source) -> None:
        buffer = self.given[source.tensor]
        right = source.product.right
        moved = [i for i in right.indices[:-1] if source.line.variable in names(i)]
        if not source.whole:
            raise Unfit(f"lines of {source.tensor} are no multiple of 16 bytes, which TMA wants")
        if len(moved) != 1 or stride(moved[0], source.line.variable) != 1:
            raise Unfit(f"lines of {source.tensor} in a tile are no box of it")
        if any(True for index in right.indices for _ in loads(index)):
            raise Unfit(f"{source.tensor} is read at computed places, which TMA boxes are not")
        if not 2 <= len(buffer.shape) <= 5 or source.lines > 256:
            raise Unfit(f"a tile of {source.tensor} is too large for a TMA box")

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """Threads of a block: one warpgroup brings tiles, the others compute."""
        return (self.groups + 1) * 128

    def _columns(self, source: Source) -> int:
        """Return the columns of one instruction."""
        return source.columns // self.layout.across

    def _chunks(self, width: int) -> int:
        return -(-width // _CHUNK)

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory: tiles, then a pair of barriers for each stage of each ring."""
        return self._places()[1] + 2 * len(self._rings()) * self.stages * 8

    def _rings(self) -> dict[str, Source]:
        """Return the right sides for which tiles are brought."""
        return {name: each for name, each in self.sources.items() if each.brought}

    def _left_bytes(self, width: int) -> int:
        return self.rows * self._chunks(width) * 128

    def _bytes(self, source: Source) -> int:
        return source.lines * self._chunks(source.pitch) * 128

    def maps(self) -> tuple[TensorMap, ...]:
        """Return the TMA descriptors, in the order of arguments (after the buffers)."""
        found = []
        for name, source in self._rings().items():
            box = [
                source.lines if source.line.variable in names(index) else 1
                for index in source.product.right.indices[:-1]
            ]
            found.append(TensorMap(f"map_{name}", source.tensor, (*box, _CHUNK)))
        return tuple(found)

    # -- text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Return the functions."""
        listed = [self.parameter(each) for each in self.parameters]
        listed += [f"const __grid_constant__ PsMap {each.name}" for each in self.maps()]
        body = [*self._start(), *self._tiles(), *self._barriers()]
        body += next_lines(self.made, self.speller)
        consumer = self._consumer()
        body += [
            f"if (ps_warp >= {4 * self.groups}) {{",
            *block_lines(self._producer()),
            "} else {",
            *block_lines(consumer),
            "}",
        ]
        name = f"{self.made.kernel.name}_kernel"
        bounds = f"__launch_bounds__({self.threads}, 1)"
        head = f'extern "C" __global__ void {bounds} {name}({", ".join(listed)}) {{'
        helpers = [line for each in sorted(self.shapes) for line in wgmma_lines(*_parsed(each))]
        return [*helpers, head, *block_lines(body), "}"]

    def _left_at(self, name: str, width: int) -> list[str]:
        at = f"red / 64 * {self.rows * 64} + row * 64 + ps_eight * 8 + red % 8"
        return [
            "const int ps_eight = red / 8 % 8 ^ row % 8;  // 128-byte swizzle",
            f"return left_{name} + {at};",
        ]

    def _meet(self) -> str:
        return f"ps_meet(1, {self.groups * 128});"

    def _packed(self) -> list[str]:
        packed = super()._packed()
        if self.layout.across == 1:
            return packed
        return [self._meet(), *packed[:-1], "ps_stores_visible();", self._meet()]

    def _term(self, source: Source, stage: str) -> str:
        line, run = ("ps_col", "ps_red") if source.deep else ("ps_red", "ps_col")
        start = f"right_{source.ring} + {stage} * {self._bytes(source)}"
        return f"ps_swizzled({start}, {source.lines}, {line}, {run})"

    def _barriers(self) -> list[str]:
        _, end = self._places()
        lines = [f"uint64_t* const ps_barriers = (uint64_t*)(ps_shared_memory + {end});"]
        for number, name in enumerate(self._rings()):
            at = 2 * number * self.stages
            lines += [
                f"uint64_t* const full_{name} = ps_barriers + {at};",
                f"uint64_t* const empty_{name} = ps_barriers + {at + self.stages};",
            ]
        lines += ["if (ps_tid == 0) {", f"  for (int ps_i = 0; ps_i < {self.stages}; ++ps_i) {{"]
        for name in self._rings():
            lines += [
                f"    ps_barrier_init(full_{name} + ps_i, 1);",
                f"    ps_barrier_init(empty_{name} + ps_i, {4 * self.groups});",
            ]
        return [*lines, "  }", "  ps_barriers_ready();", "}", "__syncthreads();"]

    def _registers(self) -> tuple[int, int] | None:
        """Return the registers of a thread that loads and of one that computes."""
        return {1: None, 2: (24, 240), 3: (32, 160)}.get(self.groups)

    def _producer(self) -> list[str]:
        loop = variable(self.made.loop.variable)
        registers = self._registers()
        lines = [f"ps_fewer_registers<{registers[0]}>();"] if registers else []
        inner = [
            f"const int ps_stage = ps_n % {self.stages}, ps_parity = ps_n / {self.stages} % 2;"
        ]
        for name, source in self._rings().items():
            zero = {source.line.variable: Const(0, True)}
            at = [
                self.speller.index(substituted(each, zero))
                for each in source.product.right.indices[:-1]
            ]
            inner += [
                f"ps_wait(empty_{name} + ps_stage, ps_parity ^ 1);",
                f"ps_expect(full_{name} + ps_stage, {self._bytes(source)});",
            ]
            for chunk in range(self._chunks(source.width)):
                listed = ", ".join([str(chunk * _CHUNK), *reversed(at)])
                to = f"right_{name} + ps_stage * {self._bytes(source)}"
                to += f" + {chunk * source.lines * 128}" if chunk else ""
                inner.append(f"ps_box({to}, map_{name}, full_{name} + ps_stage, {listed});")
        step = f"for (; {loop} < ps_end; {loop} = ps_next({loop} + 1), ++ps_n) {{"
        bring = [
            f"if (ps_tid == {self.groups * 128}) {{",
            f"  int {loop} = ps_next(0);",
            *block_lines([step, *block_lines(inner), "}"]),
            "}",
        ]
        lines += ["int ps_n = 0;", *bring]
        return (
            [*lines, "if (ps_block_any(false)) {", *block_lines(bring), "}"]
            if self.careful
            else lines
        )

    # -- the warpgroups that compute -----------------------------------------------------------

    def _consumer(self) -> list[str]:
        registers = self._registers()
        lines = [f"ps_more_registers<{registers[1]}>();"] if registers else []
        lines += ["const int ps_group = ps_band / 4;", *self._fragments()]
        lines += [*self._staging(), *self._lambdas(), *self._initial(), *self._loop()]
        if self.careful:
            again = [*self._initial(), *self._careful_loop()]
            lines += ["if (ps_block_any(ps_strange)) {", *block_lines(again), "}"]
        return [*lines, *self._after()]

    def _kept(self, staged: Staged) -> bool:
        return False

    def _staging(self) -> list[str]:
        lines: list[str] = []
        for tile in self.staged.values():
            lines += tile.lines(self.printer, self.given, self.groups * 128)
        return [*lines, "ps_stores_visible();", self._meet()]

    def _lambdas(self) -> list[str]:
        """Return the code between the products, once for whole tiles and once for others."""
        parts = {"early": self.parts.early, "late": self.parts.late, "post": self.parts.post}
        bodies: dict[str, list[str]] = {}
        for name, steps in parts.items():
            bodies[name] = [
                line for step in steps for line in self.printer.between(step, self.parts.scores)
            ]
        bodies["late"] += self._packed()
        bodies["early"] = [*self.printer.met_lines(), *bodies["early"]]
        lines = self.printer.met.declarations()
        loop = variable(self.made.loop.variable)
        for name, body in bodies.items():
            head = f"auto ps_{name} = [&](int {loop}, auto ps_tag) {{"
            lines += [head, *block_lines([FLAGS, *body]), "};"]
        full = " && ".join(self.printer.full) or "true"
        return [*lines, f"auto ps_whole = [&](int {loop}) {{ return {full}; }};"]

    def _call(self, part: str) -> list[str]:
        loop = variable(self.made.loop.variable)
        return [
            f"if (ps_whole({loop})) ps_{part}({loop}, PsFlag<true>());",
            f"else ps_{part}({loop}, PsFlag<false>());",
        ]

    def _scores(self, number: str) -> list[str]:
        lines = []
        for product in self.parts.scores:
            name = product.result.buffer
            source, staged = self.sources[name], self.staged[name]
            stage = f"({number}) % {self.stages}"
            lines.append(f"ps_wait(full_{source.ring} + {stage}, ({number}) / {self.stages} % 2);")
            call, right = self._function("ss", source), self._described(source, stage)
            lines += [
                "ps_wgmma_fence();",
                "#pragma unroll",
                f"for (int k = 0; k < {staged.width // 16}; ++k)",
                f"  {call}(x_{name}, {self._left_described(name)}, {right}, k > 0);",
                "ps_wgmma_commit();",
            ]
        return lines

    def _left_described(self, name: str) -> str:
        at = f"k / 4 * {self.rows * 64} + ps_group * 4096 + k % 4 * 16"
        return f"ps_descriptor(left_{name} + {at}, 0, 1024)"

    def _sums(self, number: str) -> list[str]:
        lines = []
        for each in self.parts.sums:
            name = each.product.result.buffer
            source = self.sources[name]
            stage = f"({number}) % {self.stages}"
            cut = self.layout.across > 1
            call = self._function("ss" if cut else "rs", source)
            left = self._left_described(name) if cut else f"a_{name}[0][k]"
            kept = "k > 0" if each.fresh else "true"
            right = self._described(source, stage)
            lines += [
                f"ps_wait(full_{source.ring} + {stage}, ({number}) / {self.stages} % 2);",
                "ps_wgmma_fence();",
                "#pragma unroll",
                f"for (int k = 0; k < {self._depth(each) // 16}; ++k)",
                f"  {call}(x_{each.target}, {left}, {right}, {kept});",
                "ps_wgmma_commit();",
            ]
        return lines

    def _described(self, source: Source, stage: str) -> str:
        start = f"right_{source.ring} + {stage} * {self._bytes(source)}"
        columns = self._columns(source)
        if self.layout.across > 1:
            part = columns * 128 if source.deep else columns // _CHUNK * source.lines * 128
            start += f" + ps_side * {part}"
        if source.deep:
            return f"ps_descriptor({start} + k / 4 * {source.lines * 128} + k % 4 * 32, 0, 1024)"
        return f"ps_descriptor({start} + k * 2048, {source.lines * 128}, 1024)"

    def _function(self, kind: str, source: Source) -> str:
        columns = self._columns(source)
        name = f"ps_wgmma_{kind}_n{columns}_t{int(not source.deep)}"
        self.shapes[name] = (columns, int(not source.deep))
        return name

    def _release(self, products: list[str], number: str, after: str = "") -> list[str]:
        """Return the lines that give back the tiles which no later product reads."""
        stage = f"({number}) % {self.stages}"
        last = {each.ring: name for name, each in self.sources.items()}
        rings = [self.sources[name].ring for name in products if name in last.values()]
        call = f"ps_arrive_after(empty_{{}} + {stage}, {after});"
        if not after:
            call = f"ps_arrive(empty_{{}} + {stage});"
        return [f"if (ps_lane == 0) {call.format(ring)}" for ring in rings]

    def _last_row(self) -> str:
        """Return an element of the last row values that `early` makes: it comes after all of it."""
        for step in reversed(self.parts.early):
            if isinstance(step, Step):
                for name in sorted(touched(step.body)[1]):
                    shape = self.layout.shapes.get(name)
                    kind = self.printer.buffers[name].kind
                    if shape is not None and shape.kind == "row" and kind in ("data", "acc"):
                        return f"x_{name}[0] + x_{name}[1]"
        return ""

    def _loop(self) -> list[str]:
        loop = variable(self.made.loop.variable)
        scores = [each.result.buffer for each in self.parts.scores]
        sums = [each.product.result.buffer for each in self.parts.sums]
        head = [f"int {loop} = ps_next(0), ps_n = 0;"]
        if not self.behind:
            body = [
                *self._scores("ps_n"), "ps_wgmma_wait<0>();", *self._settled(),
                *self._release(scores, "ps_n"),
                *self._call("early"), *self._call("late"),
                *self._sums("ps_n"), "ps_wgmma_wait<0>();", *self._settled(sums=True),
                *self._release(sums, "ps_n"),
                *self._strange(at_end=False), *self._call("post"),
            ]  # fmt: skip
            step = f"for (; {loop} < ps_end; {loop} = ps_next({loop} + 1), ++ps_n) {{"
            return [*head, step, *block_lines(body), "}", *self._strange(at_end=True)]
        first = [
            *self._scores("0"), "ps_wgmma_wait<0>();", *self._settled(),
            *self._release(scores, "0"), *self._call("early"), *self._call("late"),
        ]  # fmt: skip
        body = [
            *self._scores("ps_n"), *self._sums("ps_n - 1"),
            f"ps_wgmma_wait<{len(sums)}>();", *self._settled(),
            *self._call("early"),
            *self._release(scores, "ps_n", self._last_row()),
            "ps_wgmma_wait<0>();", *self._settled(sums=True),
            *self._release(sums, "ps_n - 1"), *self._strange(at_end=False),
            *self._call("late"),
        ]  # fmt: skip
        last = [*self._sums("ps_n - 1"), "ps_wgmma_wait<0>();", *self._settled(sums=True)]
        if self.careful:
            last += [*self._release(sums, "ps_n - 1"), *self._strange(at_end=False)]
        return [
            *head,
            f"if ({loop} < ps_end) {{",
            *block_lines(first),
            f"  {loop} = ps_next({loop} + 1);",
            f"  for (ps_n = 1; {loop} < ps_end; {loop} = ps_next({loop} + 1), ++ps_n) {{",
            *block_lines(body, "    "),
            "  }",
            *block_lines(last),
            "}",
            *self._strange(at_end=True),
        ]

    def _careful_loop(self) -> list[str]:
        loop = variable(self.made.loop.variable)
        scores = [each.result.buffer for each in self.parts.scores]
        sums = [each.product.result.buffer for each in self.parts.sums]
        ready = [
            f"ps_wait(full_{self.sources[name].ring} + ps_n % {self.stages}, "
            f"ps_n / {self.stages} % 2);"
            for name in sums
        ]
        terms = [
            line for each in self.parts.sums for line in self._terms(each, f"ps_n % {self.stages}")
        ]
        tag = f"({loop}, PsFlag<false, true>());"
        body = [
            *self._scores("ps_n"), "ps_wgmma_wait<0>();", *self._settled(),
            *self._release(scores, "ps_n"), f"ps_early{tag}", f"ps_late{tag}",
            *ready, *terms, *self._release(sums, "ps_n"), f"ps_post{tag}",
        ]  # fmt: skip
        step = (
            f"for ({loop} = ps_next(0); {loop} < ps_end; {loop} = ps_next({loop} + 1), ++ps_n) {{"
        )
        return [step, *block_lines(body), "}"]

    def _settled(self, *, sums: bool = False) -> list[str]:
        names_of = (
            [each.target for each in self.parts.sums]
            if sums
            else [each.result.buffer for each in self.parts.scores]
        )
        return [f"ps_settle(x_{name});" for name in dict.fromkeys(names_of)]


def _parsed(name: str) -> tuple[str, int, int]:
    _, _, kind, columns, transposed = name.split("_")
    return kind, int(columns[1:]), int(transposed[1:])


def wgmma_lines(kind: str, columns: int, transposed: int) -> list[str]:
    """Return the function of one shape of wgmma; ``ss`` has both sides in shared memory."""
    count = columns // 2
    regs = ", ".join(f"%{n}" for n in range(count))
    bound = ", ".join(f'"+f"(d[{n}])' for n in range(count))
    name = f"ps_wgmma_{kind}_n{columns}_t{transposed}"
    if kind == "ss":
        taken, left = "uint64_t a", f"%{count}"
        right, flag, given = f"%{count + 1}", f"%{count + 2}", '"l"(a)'
        tail = f"p, 1, 1, 0, {transposed};"
    else:
        taken, left = "const uint32_t* a", "{" + ", ".join(f"%{count + n}" for n in range(4)) + "}"
        right, flag = f"%{count + 4}", f"%{count + 5}"
        given = ", ".join(f'"r"(a[{n}])' for n in range(4))
        tail = f"p, 1, 1, {transposed};"
    return [
        "#if PS_BF16",
        '#define PS_TYPES "f32.bf16.bf16"',
        "#else",
        '#define PS_TYPES "f32.f16.f16"',
        "#endif",
        f"PS_DEVICE void {name}(float* d, {taken}, uint64_t b, int keep) {{",
        f'  asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, {flag}, 0;\\n"',
        f'               "wgmma.mma_async.sync.aligned.m64n{columns}k16." PS_TYPES',
        f'               " {{{regs}}}, {left}, {right}, {tail}\\n}}"',
        f'               : {bound} : {given}, "l"(b), "r"(keep));',
        "}",
        "#undef PS_TYPES",
    ]
