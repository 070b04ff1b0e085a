"""Which tensors of the outer memory the computation itself accesses, because no stream can.

Readers and writers know loop variables only: a tensor stays with the computation if its addresses,
or a condition around loops, need values, or if it is an output that is read again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.codegen.hls.loops import has_serial
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Program,
    Store,
)
from penstock.codegen.loops.walk import elements, names, walk_expression
from penstock.codegen.lower.index import has_load

__all__ = ["direct_tensors"]


def direct_tensors(program: Program) -> dict[str, str]:
    """Return tensor → the reason why the computation itself accesses it."""
    return _Scan(program).found()


@dataclass(frozen=True)
class _Scan:
    """Finds what cannot be streamed."""

    program: Program
    why: dict[str, str] = field(default_factory=dict)

    def found(self) -> dict[str, str]:
        """Return tensor → the reason why the computation itself accesses it."""
        outputs = {each.name for each in self.program.outputs}
        for element in elements(self.program.body):
            if not element.written and element.buffer in outputs:
                self.why[element.buffer] = "it is read again"
        self._visit(self.program.body, (), replicable=True)
        known = {each.name for each in (*self.program.inputs, *self.program.outputs)}
        return {name: reason for name, reason in self.why.items() if name in known}

    def _visit(self, stmt: LoopStmt, lanes: tuple[str, ...], *, replicable: bool) -> None:
        match stmt:
            case Block(body):
                for each in body:
                    self._visit(each, lanes, replicable=replicable)
            case Alloc(_, body):
                self._visit(body, lanes, replicable=replicable)
            case If(condition, body):
                self._note(condition, "a condition needs its values")
                known = not (has_load(condition) and has_serial(body))
                self._visit(body, lanes, replicable=replicable and known)
            case For():
                self._note(stmt.extent, "a loop's length needs its values")
                known = replicable and not has_load(stmt.extent)
                inside = () if has_serial(stmt) else (*lanes, stmt.variable)
                self._visit(stmt.body, inside, replicable=known)
            case Store():
                self._store(stmt, lanes, replicable=replicable)

    def _store(self, stmt: Store, lanes: tuple[str, ...], *, replicable: bool) -> None:
        for index in stmt.indices:
            self._note(index, "an address needs its values")
            if has_load(index):
                self.why[stmt.buffer] = "its addresses need values"
        used = names(*stmt.indices)
        if not all(lane in used for lane in lanes):
            self.why[stmt.buffer] = "several places write one element"
        if not replicable:
            self.why[stmt.buffer] = "a condition around it needs values"
        for node in walk_expression(stmt.value):
            if isinstance(node, Load):
                for index in node.indices:
                    self._note(index, "an address needs its values")
                    if has_load(index):
                        self.why[node.buffer] = "its addresses need values"
                if not replicable:
                    self.why[node.buffer] = "a condition around it needs values"

    def _note(self, expr: LoopExpr, reason: str) -> None:
        for node in walk_expression(expr):
            if isinstance(node, Load):
                self.why[node.buffer] = reason
