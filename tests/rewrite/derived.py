"""What `reduce_passes` makes of a cascade, as forms to run: tiles of several sizes, and trees."""

from collections.abc import Iterator, Sequence

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.rewrite.plan import PassPlan, Refusal
from penstock.einsum_ir.rewrite.reduce import reduce_passes

Form = tuple[str, Cascade, dict[str, int]]


def forms(cascade: Cascade, rank: str, sizes: Sequence[int]) -> Iterator[Form]:
    """Label, cascade and shapes of each form of a cascade that is known to be reducible."""
    plan = reduce_passes(cascade, rank)
    assert isinstance(plan, PassPlan), str(plan)
    yield from of_plan(plan, sizes)


def of_plan(
    plan: PassPlan, sizes: Sequence[int], parts: Sequence[int] = (1, 3, 16)
) -> Iterator[Form]:
    for size in sizes:
        yield f"tiles of {size}", plan.cascade, {plan.tile: size}
    if plan.tree is not None:
        for number in parts:
            yield f"{number} parts", plan.tree, {plan.split: number}


def saved(found: PassPlan | Refusal) -> int:
    return found.before - found.after
