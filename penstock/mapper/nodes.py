"""`Mapping`: a loop forest over a cascade. Legality is in `check.py`, cost in `model/`.

```
mapping binding for attention_1pass on fusemax
for h
  for p by 32768
    keep Q, RM, RD, RNV in gb
    for m1
      keep K, V in gb x2
      for p by 256 pipelined
        keep BQK, SLN in rf2d
        BQK on pe2d stage 0: p@cols, m0@rows, e
        LM on pe2d stage 0: p@cols, m0@rows
        RM on pe1d stage 1: p@lanes
```

How to read it. ``for p by 256`` steps through the coordinates of ``p`` that the loops around it
leave, 256 at a time; ``for h`` is ``for h by 1``. The last step may be shorter. A line
``EINSUM on ARRAY: loops`` is a leaf: it computes the points of that Einsum in the part of its
iteration space that the loops around it leave, with its own loops, outermost first; together
they must take every variable of the Einsum down to single coordinates. ``p@cols`` is a spatial
loop: its steps lie side by side along axis ``cols`` of the array. ``keep T in MEM`` says that,
from here inward, for one iteration of the loops around it, the part of T that is used lives in
MEM (an input is copied in, an output is copied out, an intermediate just lives there);
``x2`` = two buffers, so that copying overlaps with computing. A tensor that is kept nowhere lives
whole in the outermost memory. Nodes of one body run in order; Einsums that share loops are fused.

``pipelined`` on a loop is the interleave: its iterations overlap as a modulo schedule. The Einsums
below it at ``stage s`` work, during one initiation interval, on the iteration that entered s
intervals before; tiles in flight = highest stage + 1. The initiation interval is not written down:
it follows from what each array has to do (`model/`). Without ``pipelined``, Einsums in a body
run one after the other. ``for p by 256 in 4 phases`` is a stricter interleave: an interval has 4
phases, one after another; ``stage 5`` works in phase 1 on the iteration before. Within a phase the
arrays work side by side; it ends when the last is done.

``LM on pe2d drained`` waits until what it reduces along an axis has passed all places of it.
``SD on pe1d taking SN`` gets SN from the places that have just computed it, not from a memory.
``AV on pe1d last m1`` stands in a loop over m1 that AV has no part in, and runs in its last step.
``for b alone`` overlaps with nothing outside it: its copies are done in its own time.
``keep QK in gb spilling 1/9`` keeps 8/9 of QK there; the rest passes through on its way to and from
the memory around.

An ``init`` Einsum runs, on the array of its step, whenever the loop over its iterative rank is
entered, for the part of the tensor that is used inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from penstock.errors import Span

__all__ = ["Compute", "Keep", "Loop", "Mapping", "Nest", "Node", "leaves", "path_to", "untimed"]


@dataclass(frozen=True, slots=True)
class Loop:
    """Step through what is left of `variable`, `tile` coordinates at a time.

    ``axis`` names an axis of the leaf's array for a spatial loop; "" means temporal.
    """

    variable: str
    tile: int = 1
    axis: str = ""

    @property
    def spatial(self) -> bool:
        """Whether the steps lie side by side."""
        return bool(self.axis)

    def __str__(self) -> str:
        by = f" by {self.tile}" if self.tile != 1 else ""
        return f"{self.variable}{by}{'@' + self.axis if self.axis else ''}"


@dataclass(frozen=True, slots=True)
class Compute:
    """A leaf: compute one Einsum (named by the tensor that it defines) on one array."""

    einsum: str
    array: str
    loops: tuple[Loop, ...] = ()
    stage: int = 0
    drained: bool = False
    taking: tuple[str, ...] = ()
    last: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        stage = f" stage {self.stage}" if self.stage else ""
        stage += " drained" if self.drained else ""
        stage += f" taking {', '.join(self.taking)}" if self.taking else ""
        stage += f" last {self.last}" if self.last else ""
        loops = f": {', '.join(str(loop) for loop in self.loops)}" if self.loops else ""
        return f"{self.einsum} on {self.array}{stage}{loops}"


@dataclass(frozen=True, slots=True)
class Keep:
    """From here inward, the part of each tensor that is used lives in `memory`."""

    tensors: tuple[str, ...]
    memory: str
    buffers: int = 1
    spill: Fraction = Fraction(0)
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        copies = f" x{self.buffers}" if self.buffers != 1 else ""
        copies += f" spilling {self.spill}" if self.spill else ""
        return f"keep {', '.join(self.tensors)} in {self.memory}{copies}"


@dataclass(frozen=True, slots=True)
class Nest:
    """A loop that several nodes share.

    ``phases`` is not 0 only in a pipelined loop.
    """

    loop: Loop
    body: tuple[Node, ...]
    pipelined: bool = False
    phases: int = 0
    alone: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        how = " pipelined" if self.pipelined and not self.phases else ""
        how += f" in {self.phases} phases" if self.phases else ""
        head = f"for {self.loop}{how}{' alone' if self.alone else ''}"
        inner = [f"  {line}" for node in self.body for line in str(node).splitlines()]
        return "\n".join([head, *inner])


Node = Nest | Keep | Compute


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a cascade runs on a machine: a loop forest.

    Legality against a cascade and a target is `check.check(mapping, bound, target)`.
    """

    name: str
    cascade: str
    target: str
    body: tuple[Node, ...]

    def __str__(self) -> str:
        lines = [f"mapping {self.name} for {self.cascade} on {self.target}"]
        return "\n".join([*lines, *(str(node) for node in self.body)])


def leaves(
    body: tuple[Node, ...], above: tuple[Nest, ...] = ()
) -> Iterator[tuple[tuple[Nest, ...], Compute]]:
    """Yield each leaf, in program order, with the nests around it, outermost first."""
    for node in body:
        match node:
            case Nest():
                yield from leaves(node.body, (*above, node))
            case Compute():
                yield above, node
            case Keep():
                pass


def path_to(mapping: Mapping, tensor: str) -> tuple[tuple[Nest, ...], Keep] | None:
    """Return the innermost ``keep`` of a tensor with the nests around it, or None."""
    found: list[tuple[tuple[Nest, ...], Keep]] = []

    def visit(body: tuple[Node, ...], above: tuple[Nest, ...]) -> None:
        for node in body:
            if isinstance(node, Nest):
                visit(node.body, (*above, node))
            elif isinstance(node, Keep) and tensor in node.tensors:
                found.append((above, node))

    visit(mapping.body, ())
    return max(found, key=lambda each: len(each[0])) if found else None


def untimed(body: tuple[Node, ...], made: frozenset[str] = frozenset()) -> Node | None:
    """Return the first node that the simulator has no time for, or None.

    Phases, loops that are alone, drained leaves, leaves in the last step of a loop, spilled shares
    and copies of what is made further out.

    Args:
        body: of a mapping or a loop.
        made: what Einsums outside it define.
    """
    here = {leaf.einsum for _, leaf in leaves(body)}
    for node in body:
        match node:
            case Nest():
                inner = {leaf.einsum for _, leaf in leaves(node.body)}
                found = untimed(node.body, made | (here - inner))
                if node.phases or node.alone or found is not None:
                    return found if not (node.phases or node.alone) else node
            case Compute():
                if node.drained or node.last:
                    return node
            case Keep():
                if node.spill or made & set(node.tensors):
                    return node
    return None
