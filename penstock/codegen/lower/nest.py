"""Statements of a tree: loops, scopes of ``keep``, tests, copies.

`Emitter` walks the tree once, outermost first. What one leaf does is in `lower/point.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from penstock.codegen.loops.nodes import (
    Block,
    Buffer,
    For,
    If,
    LoopExpr,
    LoopStmt,
    Name,
    Store,
)
from penstock.codegen.loops.rewrite import unused
from penstock.codegen.lower.expr import Present, as_cond, both, either
from penstock.codegen.lower.guard import skip_test
from penstock.codegen.lower.index import (
    Cond,
    Lin,
    add,
    atom,
    compare,
    conjunction,
    constant,
    has_load,
    integer,
    subtract,
    to_expr,
)
from penstock.codegen.lower.plan import Plan
from penstock.codegen.lower.ranges import iterations, stays_inside
from penstock.codegen.lower.storage import Context, Site, Storage
from penstock.codegen.lower.tree import Env, Step
from penstock.einsum_ir.nodes import variables

__all__ = ["Nester", "block", "guarded"]

Coordinates = dict[str, Lin]


def block(statements: Iterable[LoopStmt | None], comment: str = "") -> LoopStmt:
    """Return statements as one, blocks without a comment dissolved."""
    flat: list[LoopStmt] = []
    for each in statements:
        if isinstance(each, Block) and not each.comment:
            flat += each.body
        elif each is not None:
            flat.append(each)
    if len(flat) == 1 and not comment:
        return flat[0]
    return Block(tuple(flat), comment)


def guarded(present: Present, active: frozenset[Cond], stmt: LoopStmt) -> LoopStmt | None:
    """Run a statement where all conditions hold; None if they never do.

    Conditions that read nothing come first, in one test; the others follow in their order, each
    in a test of its own, so that no load runs before the test that its indices are in range.
    """
    wanted = [each for each in both(present) if as_cond(each) not in active]
    if False in wanted:
        return None
    pure = conjunction(*(each for each in wanted if not has_load(as_cond(each))))
    for each in reversed([each for each in wanted if has_load(as_cond(each))]):
        stmt = If(as_cond(each), stmt)
    return stmt if pure is True else If(as_cond(pure), stmt)


@dataclass
class Nester:
    """Makes loops and copies; hands out names. Lives only inside `lower`."""

    plan: Plan
    ranges: dict[str, tuple[int, int]]
    taken: set[str] = field(default_factory=set)

    def fresh(self, base: str) -> str:
        """Return a name that nothing has yet."""
        return unused(base, self.taken)

    def site(self, context: Context) -> Site:
        """Return a place as a reader."""
        return Site(self.plan, context, self.ranges)

    # -- loops over blocks -----------------------------------------------------------------

    def over(
        self,
        names: Sequence[str],
        env: Env,
        make: Callable[[Coordinates], LoopStmt | None],
        comment: str = "",
    ) -> LoopStmt | None:
        """Return serial loops over what is left of some variables.

        Args:
            names: the variables, outermost first.
            env: what is left of them.
            make: gives the statement at coordinates of the variables.
            comment: of the outermost loop.
        """
        coordinates: Coordinates = {}
        loops: list[tuple[str, LoopExpr]] = []
        for name in names:
            left = env[name]
            coordinates[name] = left.start
            if left.size > 1:
                variable = self.fresh(name.split()[0])
                self.ranges[variable] = (0, left.size - 1)
                coordinates[name] = add(left.start, atom(Name(variable)))
                loops.append((variable, left.length))
        body = make(coordinates)
        return None if body is None else _nested(loops, body, comment)

    def cells(
        self,
        shape: Sequence[int],
        make: Callable[[tuple[Lin, ...]], LoopStmt | None],
        comment: str = "",
    ) -> LoopStmt | None:
        """Return serial loops over the elements of a buffer."""
        indices: list[Lin] = []
        loops: list[tuple[str, LoopExpr]] = []
        for extent in shape:
            if extent == 1:
                indices.append(constant(0))
                continue
            variable = self.fresh("i")
            self.ranges[variable] = (0, extent - 1)
            indices.append(atom(Name(variable)))
            loops.append((variable, integer(extent)))
        body = make(tuple(indices))
        return None if body is None else _nested(loops, body, comment)

    def fill(self, buffer: Buffer | None, value: LoopExpr, comment: str = "") -> LoopStmt | None:
        """Set every element of a buffer."""
        if buffer is None:
            return None

        def make(indices: tuple[Lin, ...]) -> LoopStmt:
            return Store(buffer.name, tuple(to_expr(each) for each in indices), value)

        return self.cells(buffer.shape, make, comment)

    def copy_in(self, tensor: str, source: Storage, target: Storage) -> LoopStmt | None:
        """Copy the part of a tensor that a scope uses, as far as it exists."""
        dims = self.plan.bound.dims[tensor]

        def make(indices: tuple[Lin, ...]) -> LoopStmt | None:
            spread = list(indices)
            at = tuple(
                add(start, each) for start, each in zip(target.region.starts, spread, strict=True)
            )
            inside: list[Cond] = []
            for n, (each, dim) in enumerate(zip(at, dims, strict=True)):
                offset = subtract(each, source.region.starts[n])
                inside.append(compare(">=", each, constant(0), self.ranges))
                inside.append(compare("<", each, constant(dim), self.ranges))
                inside.append(compare(">=", offset, constant(0), self.ranges))
                size = constant(source.region.shape[n])
                inside.append(compare("<", offset, size, self.ranges))
            body = [target.copy(at, source.load(at))]
            held = source.holds(at)
            mark = target.mark(at, as_cond(held[0])) if held else None
            return guarded(tuple(inside), frozenset(), block([*body, mark]))

        return self.cells(target.region.shape, make, f"copy {tensor} in")

    def copy_out(self, tensor: str, env: Env, source: Storage, target: Storage) -> LoopStmt | None:
        """Copy the part of a tensor that a scope defines."""
        definition = self.plan.bound.cascade.einsum(tensor)
        site = self.site(Context({}))

        def make(coordinates: Coordinates) -> LoopStmt:
            indices, _ = site.translator(coordinates).indices(definition.output.indices)
            held = source.holds(indices)
            mark = target.mark(indices, as_cond(held[0])) if held else None
            return block([target.copy(indices, source.load(indices)), mark])

        return self.over(variables(definition.output), env, make, f"copy {tensor} out")

    # -- tests -----------------------------------------------------------------------------

    def skip(self, step: Step) -> Cond:
        """Return when an iteration of a loop can have any effect."""
        result: Cond = False
        lanes = step.kind in ("pe", "simd") and step.count > 1
        for leaf in self.plan.tree.below(step):
            needed = self.plan.needed(leaf, step)
            if needed is None:
                return True
            if lanes and any(step.env[name].size > 1 for name in variables(needed)):
                return True  # lanes side by side are not skipped one by one
            test = skip_test(needed, step.env, self.ranges, self.plan.bound.symbols)
            if test != result:
                result = either(result, test)
            if result is True:
                return True
        return result

    def loop(self, step: Step, body: LoopStmt, context: Context) -> LoopStmt:
        """Return a loop of the mapping around its body, which is tested already."""
        if step.count == 1:
            return body
        steps, extent = iterations(step.outside, step.loop.tile, self.ranges)
        comment = str(step.loop) if step.leaf is not None else f"for {step.loop}"
        if step.kind is None:
            return For(step.name, extent, body, "", "", comment, step.pipelined)
        inside = stays_inside(step.outside, step.loop.tile, step.name, self.ranges)
        held = guarded((inside,), context.active, body)
        return For(
            step.name,
            integer(steps),
            held if held is not None else Block(()),
            step.kind,
            step.axis,
            comment,
            step.pipelined,
            step.places,
        )


def _nested(loops: Sequence[tuple[str, LoopExpr]], body: LoopStmt, comment: str) -> LoopStmt:
    for number, (variable, extent) in reversed(list(enumerate(loops))):
        body = For(variable, extent, body, comment=comment if number == 0 else "")
    return body
