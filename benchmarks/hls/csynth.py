"""Predicted initiation intervals and latencies against csynth reports of Vitis HLS 2023.2.

    python benchmarks/hls/csynth.py REPOSITORY

REPOSITORY is a clone of UCLA-VAST/Stream-HLS (MIT), of which FPGA2025_Artificats holds generated
C++ and reports; it is no part of this project. Every function with one pipelined loop is read into
the loops of `penstock.codegen.loops.nodes`, scheduled by `penstock.codegen.timing.schedule`, and
compared with what the tool reports for that loop.
"""

import argparse
import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from penstock.codegen.hls.constructs import operator_constructs
from penstock.codegen.loops.nodes import Block, Const, For, If, Load, Name, Op, Store
from penstock.codegen.timing.schedule import Hardware, pipelined
from penstock.targets.cores import Number

ROOT = "FPGA2025_Artificats/"
CLOCK_HZ = 1e9 / 3.33
LOOP = re.compile(r"\w+: for \(int (\w+) = 0; \w+ < (\d+); \w+\+\+\) \{")
PARTITION = re.compile(r"array_partition variable=(\w+) (\w+) dim=(\d+)(?: factor=(\d+))?")
ARRAY = re.compile(r"(hls::stream<.*>|float|double|bool|int\w*) *&? *(\w+)((?:\[\d+\])*)")
OPS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%"}
COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.Gt: ">", ast.LtE: "<=", ast.GtE: ">="}
CALLS = {"exp": "exp", "fmax": "max", "max": "max", "fmin": "min", "min": "min", "sqrt": "sqrt"}


class Row(NamedTuple):
    design: str
    node: str
    interval: int
    latency: int
    said_interval: int
    said_latency: int
    cause: str
    parts: tuple[float, ...]
    said_parts: tuple[int, ...]


class Function:
    """One function of the artifact's C++, read line by line."""

    def __init__(self, lines: list[str]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.splits: dict[str, list] = {}
        self.streams: set[str] = set()
        self.values: dict[str, object] = {}
        self.loops: dict[str, int] = {}
        self.found = None
        self.lines = iter(lines)
        body = next(i for i, line in enumerate(lines) if line.strip() == ") {")
        for line in lines[:body]:
            self.declare(line)
        self.constants = {n for n, dims in self.shapes.items() if not dims} - self.streams
        self.lines = iter(lines[body + 1 :])
        self.block({}, inside=False)

    def declare(self, line: str) -> None:
        if match := ARRAY.search(line):
            kind, name, dims = match.groups()
            self.shapes[name] = tuple(int(n) for n in re.findall(r"\d+", dims))
            self.splits[name] = [None] * len(self.shapes[name])
            if kind.startswith("hls"):
                self.streams.add(name)

    def block(self, around: dict[str, int], *, inside: bool) -> list:
        made = []
        for line in self.lines:
            text = line.strip()
            if text == "}":
                return made
            if match := LOOP.match(text):
                name, extent = match[1], int(match[2])
                made += self.loop(name, extent, around, inside=inside)
            elif text.startswith("#pragma HLS pipeline"):
                inside = True
                self.loops = dict(around)
            elif match := PARTITION.search(text):
                name, kind, dim, factor = match.groups()
                place = int(dim) - 1
                parts = int(factor) if factor else self.shapes[name][place]
                self.splits[name][place] = (kind, parts)
            elif text.startswith("if ("):
                made.append(
                    If(
                        self.expression(text[3:-1].strip()),
                        Block(tuple(self.block(around, inside=inside))),
                    )
                )
            elif text and not text.startswith(("#", "//", "return")):
                made += self.statement(text.rstrip(";"))
        return made

    def loop(self, name: str, extent: int, around: dict[str, int], *, inside: bool) -> list:
        count = Const(extent, integer=True)
        body = self.block({**around, name: extent}, inside=inside)
        if inside:
            return [For(name, count, Block(tuple(body)), kind="pe")]
        if self.loops and name == list(self.loops)[-1] and self.found is None:
            self.found = Block(tuple(body))
        return [For(name, count, Block(tuple(body)))]

    def statement(self, text: str) -> list:
        if match := re.fullmatch(r"(?:float|double|bool|int\w*) (\w+) = (.*)", text):
            self.values[match[1]] = self.expression(match[2])
            return []
        if match := re.fullmatch(r"(.*)\.write\((.*)\)", text):
            return [Store(*self.place(match[1]), self.expression(match[2]))]
        if " = " in text:
            left, right = text.split(" = ", 1)
            return [Store(*self.place(left), self.expression(right))]
        self.declare(text)
        return []

    def place(self, text: str) -> tuple[str, tuple]:
        load = self.expression(text)
        assert isinstance(load, Load), text
        return load.buffer, load.indices

    def expression(self, text: str):
        if match := re.fullmatch(r"(.*) \? (.*) : (.*)", text):
            return Op("where", tuple(self.expression(part) for part in match.groups()))
        text = text.replace("&&", " and ").replace("||", " or ").replace("(float)", "")
        return self.tree(ast.parse(text.strip(), mode="eval").body, value=True)

    def tree(self, node, *, value: bool):
        match node:
            case ast.Constant():
                return Const(node.value, integer=isinstance(node.value, int))
            case ast.Name(name):
                return self.named(name)
            case ast.Subscript(inner, index):
                load = self.tree(inner, value=True)
                return Load(load.buffer, (*load.indices, self.tree(index, value=False)))
            case ast.Call(ast.Attribute(inner, "read"), _):
                return self.tree(inner, value=True)
            case ast.Call(ast.Name(name), args):
                return Op(CALLS[name], tuple(self.tree(arg, value=value) for arg in args))
            case ast.UnaryOp(ast.USub(), inner):
                return Op("neg", (self.tree(inner, value=value),))
            case _:
                return self.operator(node, value=value)

    def named(self, name: str):
        if name in self.values:
            return self.values[name]
        if name in self.constants:
            return Const(1.0)
        return Load(name, ()) if name in self.shapes else Name(name)

    def operator(self, node, *, value: bool):
        match node:
            case ast.BinOp(left, op, right):
                parts = (self.tree(left, value=value), self.tree(right, value=value))
                whole = not value or all(isinstance(p, Name | Const) for p in parts)
                name = OPS[type(op)]
                return Op("//" if whole and name == "/" else name, parts)
            case ast.Compare(left, [op], [right]):
                parts = (self.tree(left, value=False), self.tree(right, value=False))
                return Op(COMPARE[type(op)], parts)
            case ast.BoolOp(op, parts):
                name = "and" if isinstance(op, ast.And) else "or"
                return Op(name, tuple(self.tree(part, value=False) for part in parts))
            case _:
                raise NotImplementedError(ast.dump(node))


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    for match in re.finditer(r"^void (node\d+)\(\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2].splitlines()


def blocks(text: str) -> dict[str, tuple[int, ...]]:
    """Function → DSP, FF, LUT."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 12 and (match := re.match(r"\+ (\w+)", cells[1])):
            found[match[1]] = tuple(
                int(cell.split()[0]) if cell != "-" else 0 for cell in cells[11:14]
            )
    return found


def reported(text: str) -> dict[str, list[tuple[int, int]]]:
    """Function → (interval, iteration latency) of its pipelined loops."""
    found: dict[str, list[tuple[int, int]]] = {}
    node = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 10:
            continue
        if match := re.match(r"\+ (\w+)", cells[1]):
            node = match[1]
        elif cells[1].startswith("o ") and cells[9] == "yes":
            found.setdefault(node, []).append((int(cells[7]), int(cells[6])))
    return found


def rows(repository: Path) -> Iterator[Row]:
    def git(*words: str) -> str:
        command = ["git", "-C", str(repository), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    names = [
        n for n in git("ls-tree", "-r", "--name-only", "HEAD", ROOT).splitlines() if "/hls/" in n
    ]
    reports = {n.split("/hls/")[0]: n for n in names if n.endswith("/syn/report/csynth.rpt")}
    for source in names:
        folder = source.split("/hls/")[0]
        if (
            not re.search(r"/src/\w+\.cpp$", source)
            or source.endswith("_tb.cpp")
            or folder not in reports
        ):
            continue
        report = git("show", f"HEAD:{reports[folder]}")
        said, parts = reported(report), blocks(report)
        for node, lines in functions(git("show", f"HEAD:{source}")):
            if len(said.get(node, ())) != 1 or ") {" not in lines:
                continue
            try:
                function = Function(lines)
            except (NotImplementedError, SyntaxError, KeyError) as error:
                print(f"{folder} {node}: not read: {error}")
                continue
            if function.found is None:
                continue
            hardware = Hardware(
                Number("float", 32),
                CLOCK_HZ,
                function.shapes,
                {name: tuple(dims) for name, dims in function.splits.items()},
                streams=frozenset(function.streams),
                reassociates=True,
            )
            mine = pipelined(function.found, function.loops, hardware)
            nest = function.found
            for name, extent in reversed(function.loops.items()):
                nest = For(name, Const(extent, integer=True), nest)
            operators = operator_constructs(node, nest, hardware)
            yield Row(
                folder.removeprefix(ROOT),
                node,
                mine.interval,
                mine.latency,
                *said[node][0],
                mine.cause,
                tuple(sum(getattr(e.cost, n) for e in operators) for n in ("dsp", "ff", "lut")),
                parts[node],
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("--all", action="store_true", help="print every loop that differs")
    options = parser.parse_args()
    found = list(rows(options.repository))
    same = [row.interval == row.said_interval for row in found]
    late = [100 * abs(row.latency - row.said_latency) / row.said_latency for row in found]
    print(f"{len(found)} loops of {len({row.design for row in found})} designs")
    print(f"interval equal: {sum(same)} ({100 * sum(same) / len(found):.1f} %)")
    equal = sum(row.latency == row.said_latency for row in found)
    print(f"iteration latency equal: {equal}; off by {median(late):.1f} % in the median")
    for number, name in enumerate(("DSP", "FF", "LUT")):
        mine = [row.parts[number] for row in found]
        theirs = [row.said_parts[number] for row in found]
        exact = sum(one == two for one, two in zip(mine, theirs, strict=True))
        off = median(abs(one / two - 1) for one, two in zip(mine, theirs, strict=True) if two)
        print(
            f"{name} equal: {exact}; {sum(mine):,.0f} of all, {sum(theirs):,} reported; "
            f"off by {100 * off:.1f} % in the median"
        )
    if options.all:
        for row in found:
            if row.interval != row.said_interval or row.latency != row.said_latency:
                print(*row, sep="\t")


if __name__ == "__main__":
    main()
