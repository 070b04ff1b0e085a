"""The best mapping of a cascade whose project fits its FPGA: searched with less room until it does.

`mapper` searches, `codegen` makes projects and counts them; they meet here. Other machines are
searched once. Excluded: both of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError, PenstockError
from penstock.mapper.algorithms import alternatives
from penstock.mapper.facts import facts_of
from penstock.mapper.resources import taken
from penstock.mapper.scopes import tree_of
from penstock.mapper.search.explore import Objective, SearchResult, explore_variants
from penstock.targets.base import Target

__all__ = ["fitting"]

ROUNDS = 8
"""Searches at most, each with less room than the one before."""


def fitting(
    bounds: Sequence[Bound],
    machine: Target,
    fmt: Format,
    *,
    objective: Objective = "latency",
    progress: Callable[[int, int, float], None] | None = None,
    others: Sequence[Format] | None = None,
) -> SearchResult:
    """Return the best mapping; arguments and errors as for `mapper.search.explore_variants`.

    Without `others`, an FPGA tries what `mapper.algorithms` offers where the format leaves it open.

    It is not called optimal if there was one before it whose project does not fit.

    Raises:
        MappingError: nothing fits, or nothing was found whose project does.
    """
    if others is None:
        others = alternatives(bounds[0].cascade, fmt) if machine.family == "fpga" else ()
    if not machine.resources:
        return explore_variants(
            bounds, machine, fmt, objective=objective, progress=progress, others=others
        )
    room, over = machine, dict[str, float]()
    for _ in range(ROUNDS):
        try:
            found = explore_variants(
                bounds, room, fmt, objective=objective, progress=progress, others=others
            )
        except MappingError:
            if not over:
                raise
            break  # not even one place of everything has so little room
        built = machine.sized()[room.sized().index(found.target)]
        found = replace(found, target=built, optimal=found.optimal and room == machine)
        over = _excess(found)
        if not over or found.interrupted:
            return found
        room = _with_less(room, found, over, dict(machine.resources))
    raise MappingError(
        f"no mapping was found whose project fits {machine.name}: the last takes "
        f"{', '.join(f'{times:.2f} times its {name}' for name, times in over.items())}",
        fix="take a larger part, or fewer bits",
    )


def _excess(found: SearchResult) -> dict[str, float]:
    """Return of what a project takes how many times too much; of one that is there."""
    from penstock.codegen.hls.fit import excess

    try:
        program = lower(found.bound, found.mapping, found.target, found.format)
        return excess(program, found.target)
    except PenstockError:  # no project can be made of it, and none can be too large
        return {}


def _with_less(
    room: Target, found: SearchResult, over: dict[str, float], has: dict[str, int]
) -> Target:
    from penstock.codegen.hls.fit import with_less

    leaves = tree_of(found.mapping, facts_of(found.bound), found.target).leaves
    return with_less(room, taken(leaves, found.bound.extents, found.format), over, has)
