"""``penstock rewrite``: a cascade in fewer passes, beside what was written.

Excluded: what is derived (`einsum_ir/rewrite`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from penstock.cli import output
from penstock.cli.sources import format_of, source_of
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.nodes import Access, Sym
from penstock.einsum_ir.rewrite.gate import Verdict
from penstock.einsum_ir.rewrite.plan import (
    Accumulator,
    PassPlan,
    Refusal,
    Variant,
    accumulated,
    spelled,
)
from penstock.einsum_ir.rewrite.ranks import passes_over, slow_ranks
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.errors import CascadeError, PenstockError
from penstock.files import write_whole

__all__ = ["rewrite"]

_NARROWEST = 42
_VARIANTS = 4


def rewrite(options: argparse.Namespace) -> None:
    """Print the derived form of a cascade, and why it is right.

    Raises:
        CascadeError: the passes that are asked for cannot be reached.
    """
    source = source_of(options)
    cascade = source.cascade.with_shapes(**source.shapes)
    if source.constants:
        cascade = cascade.with_constants(**source.constants)
    if options.tile < 1:
        raise PenstockError(f"--tile {options.tile} is not a positive number", fix="--tile 64")
    rank = options.rank or _only_rank(cascade)
    fmt = format_of(options) or parse_format("fp32")
    found = reduce_passes(
        cascade,
        rank,
        size=options.tile,
        fmt=fmt,
        most=_VARIANTS,
        positive=frozenset(options.positive),
        negative=frozenset(options.negative),
    )
    if isinstance(found, Refusal) or found.after > (options.passes or found.after):
        if options.json:
            output.print_json(_refused(found))
        raise _error(found, options.passes)
    form = _form(found, tree=options.tree)
    if options.out:
        write_whole(options.out, f"{form}\n".encode())
    if options.json:
        output.print_json(_json(found, fmt))
    else:
        _print(found, form, fmt)


def _only_rank(cascade: Cascade) -> str:
    ranks = slow_ranks(cascade)
    if not ranks:
        raise CascadeError(
            f"{cascade.name} goes once over each rank that it reduces",
            fix="nothing is to be saved; --rank NAME asks about one rank",
        )
    if len(ranks) > 1:
        count = passes_over(cascade, ranks[0])
        raise CascadeError(
            f"{cascade.name} makes {count} passes over each of the ranks {', '.join(ranks)}",
            fix=f"say which one to save passes over: {' or '.join(f'--rank {r}' for r in ranks)}",
        )
    return ranks[0]


def _form(plan: PassPlan, *, tree: bool) -> Cascade:
    if not tree:
        return plan.cascade
    if plan.tree is None:
        raise CascadeError(
            f"{plan.original.name} over {plan.rank} has no tree of parts",
            fix="leave out --tree: it can only be gone over from the start",
        )
    return plan.tree


def _error(found: PassPlan | Refusal, wanted: int | None) -> PenstockError:
    """Return the refusal: the passes that remain, and why each of them is needed."""
    fix = "a cascade that computes something slightly different may do: see docs/passes.md"
    rejected = [f"  the gate refused {line}" for line in _rejected(found)]
    if isinstance(found, Refusal):
        return CascadeError("\n".join([str(found), *rejected]), fix=fix)
    name = f"{found.original.name} over {found.rank}"
    lines = [f"{name} comes down from {found.before} passes to {found.after}, not to {wanted}:"]
    lines += [f"  {each}" for each in found.barriers]
    return CascadeError(
        "\n".join([*lines, *rejected]), fix=f"--passes {found.after} takes that form"
    )


# --- text ----------------------------------------------------------------------------------------


def _print(plan: PassPlan, form: Cascade, fmt: Format) -> None:
    print(f"{plan.original.name} over {plan.rank}: {_passes(plan.before)} -> {plan.after}\n")
    heads = (f"as written: {_passes(plan.before)}", f"derived: {_passes(plan.after)}")
    for line in side_by_side(heads, (str(plan.original), str(form)), output.width()):
        print(line)
    _print_accumulators(plan)
    title = f"after the last {'part' if form is plan.tree else 'tile'}"
    for each in plan.chosen.reductions:
        if each.epilogue != accumulated(each.link):
            print(f"{title}: {each.link} = {_named(plan, str(each.epilogue))}")
    needs = ", ".join(_named(plan, each) for each in plan.obligations)
    print(f"obligations: {needs or 'none'}\n")
    for barrier in plan.barriers:
        print(f"a pass more: {barrier}")
    _print_variants(plan, fmt)


def _passes(count: int) -> str:
    return f"{count} pass{'' if count == 1 else 'es'}"


def side_by_side(heads: tuple[str, str], texts: tuple[str, str], width: int) -> list[str]:
    """Return two texts in columns, folded; below each other if a column would be too narrow."""
    splits = range(_NARROWEST, width - 2 - _NARROWEST)
    if not splits:
        parts = [
            [head, "-" * len(head), *_folded(text, width), ""]
            for head, text in zip(heads, texts, strict=True)
        ]
        return [line for part in parts for line in part]
    fits = [(_columns(texts, (left, width - 3 - left)), left) for left in splits]
    (left_lines, right_lines), left = min(
        fits, key=lambda each: (max(map(len, each[0])), abs(2 * each[1] - width))
    )
    rows = zip_longest(
        [heads[0], "-" * left, *left_lines],
        [heads[1], "-" * (width - 3 - left), *right_lines],
        fillvalue="",
    )
    return [*(f"{a:<{left}} | {b}".rstrip() for a, b in rows), ""]


def _columns(texts: tuple[str, str], widths: tuple[int, int]) -> tuple[list[str], list[str]]:
    return _folded(texts[0], widths[0]), _folded(texts[1], widths[1])


def _folded(text: str, width: int) -> list[str]:
    """Fold long lines at spaces outside of brackets, as ``K[h, m, e]`` stays whole."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        whole = re.sub(r"\[[^\[\]]*\]", lambda each: each[0].replace(" ", "\0"), line.lstrip())
        folds = wrap(
            whole,
            width,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_on_hyphens=False,
        )
        lines += [each.replace("\0", " ") for each in folds]
    return lines


def _print_accumulators(plan: PassPlan) -> None:
    columns = ["accumulator", "from", "adds", "carried to the new references", "two parts A and B"]
    output.table(columns, [_accumulator(plan, each) for each in plan.accumulators])
    values = _references(plan)
    for name, text in values.items():
        print(f"{name} = {text}")
    if values:
        print("X' is X before the tile, X with it")
    print()


def _accumulator(plan: PassPlan, each: Accumulator) -> list[str]:
    body = _named(plan, str(each.body))
    return [
        _named(plan, each.name),
        output.number(each.identity),
        f"{each.op} of {body}",
        _named(plan, each.carried) if each.moves else "as it is",
        _named(plan, each.merge),
    ]


def _references(plan: PassPlan) -> dict[str, str]:
    """Return the references that the chosen form uses and that have no name of their own."""
    names = _names(plan)
    used = {name for each in plan.accumulators for name in each.references}
    used |= {name for each in plan.chosen.reductions for name in each.deferred}
    return {
        each.name: _named(plan, str(each.value))
        for each in plan.references
        if each.name in used and each.name not in names
    }


def _names(found: PassPlan | Refusal) -> Mapping[str, str]:
    """Return what placeholders stand for, where that is one name."""
    tensors = [e.value.tensor for e in found.references if isinstance(e.value, Access)]
    names = {}
    for each in found.references:
        match each.value:
            case Access(tensor) if tensors.count(tensor) == 1:
                names[each.name] = tensor
            case Sym(name):
                names[each.name] = name
            case _:
                pass
    return names


def _running(plan: PassPlan) -> frozenset[str]:
    """Return the accumulators that are not yet the tensor whose name they have."""
    forms = {each.link: each.epilogue for each in plan.chosen.reductions}
    return frozenset(
        each.name
        for each in plan.accumulators
        if each.name in forms and forms[each.name] != accumulated(each.name)
    )


def _named(plan: PassPlan, text: str) -> str:
    """Write names for placeholders: ``$O * exp(u1' - u1)`` -> ``O_R * exp(GM' - GM)``.

    An accumulator that is not yet what the author calls by its name has an R, as in the cascade.
    """
    names = _names(plan)
    for name in _running(plan):
        text = re.sub(rf"(?<!\w){name}(?=_[AB]\b|\b)(?!\[)", f"{name}_R", text)
    text = re.sub(r"\b(u\d+)(?=_[AB]\b|\b)", lambda each: names.get(each[1], each[1]), text)
    return text.replace("$", "")


def _print_variants(plan: PassPlan, fmt: Format) -> None:
    rows = []
    for each in plan.variants:
        costs = each.costs
        counts = (costs.accumulators, costs.element_ops, costs.tile_ops, costs.final_ops)
        mark = " *" if each is plan.chosen else ""
        rows.append(
            [each.name + mark, _says(plan, each), *map(str, counts), _worst(_verdict(plan, each))]
        )
    columns = [
        "variant",
        "which",
        "kept",
        "per element",
        "per tile",
        "at the end",
        "worst error",
    ]
    output.table(columns, rows, title="variants, in operators (* is printed above)")
    print(_summary(plan.tried[0].verdict, fmt))
    for line in _rejected(plan):
        for part in wrap(f"refused: {line}", output.width(), subsequent_indent="  "):
            print(part)


def _verdict(plan: PassPlan, variant: Variant) -> Verdict:
    return next(each.verdict for each in plan.tried if each.variant is variant)


def _worst(verdict: Verdict) -> str:
    """Say where a variant comes nearest to what is allowed."""
    if verdict.worst is None:
        return "-"
    row, error = verdict.worst
    return f"{row.output} on '{row.family}': {error:.1e} of {row.limit:.1e}"


def _summary(verdict: Verdict, fmt: Format) -> str:
    """Say what was run."""
    asked = sum(row.limit is not None for row in verdict.rows)
    families = len({row.family for row in verdict.rows})
    rest = " (the original fails in the others)" if asked < len(verdict.rows) else ""
    return (
        f"gate in {fmt.name}: {families} families of inputs, {asked} of "
        f"{len(verdict.rows)} results compared{rest}"
    )


def _rejected(found: PassPlan | Refusal) -> list[str]:
    """Say which variants the gate refused, and why; guards that change nothing in one line."""
    names: dict[str, dict[str, None]] = {}
    for each in found.tried:
        if not each.verdict.passed:
            about = f"({_passes(each.passes)}; {_says(found, each.variant)})"
            names.setdefault(f"{about}: {each.verdict.refused}", {})[each.variant.name] = None
    return [f"{', '.join(variants)} {text}" for text, variants in names.items()]


def _says(found: PassPlan | Refusal, variant: Variant) -> str:
    """Say what the reductions of a variant follow, and what they leave to the end."""
    names = _names(found)
    parts = []
    for each in variant.reductions:
        tracked, deferred = (
            ", ".join(names.get(name, spelled(name, found.references)) for name in group)
            for group in (each.tracked, each.deferred)
        )
        words = [f"follows {tracked}"] * bool(tracked) + [f"defers {deferred}"] * bool(deferred)
        words += [f"drops {', '.join(each.dropped)}"] * bool(each.dropped)
        if words:
            parts.append(f"{each.link} {', '.join(words)}")
    if variant.threshold:
        parts.append(f"rescales when the maximum grew by {variant.threshold:g}")
    return "; ".join(parts) or "-"


# --- JSON ----------------------------------------------------------------------------------------


def _refused(found: PassPlan | Refusal) -> dict[str, Any]:
    return {
        "cascade": found.original.name,
        "rank": found.rank,
        "before": found.before,
        "after": found.after,
        "reason": found.reason if isinstance(found, Refusal) else None,
        "certificate": max((each.certificate for each in found.barriers), default=0),
        "barriers": _barriers(found),
        "rejected": _rejected_json(found),
    }


def _barriers(found: PassPlan | Refusal) -> list[dict[str, Any]]:
    return [
        {
            "tensor": each.tensor,
            "reads": list(each.reads),
            "reason": each.reason,
            "certificate": each.certificate,
        }
        for each in found.barriers
    ]


def _json(plan: PassPlan, fmt: Format) -> dict[str, Any]:
    return {
        "cascade": plan.original.name,
        "rank": plan.rank,
        "before": plan.before,
        "after": plan.after,
        "written": str(plan.original),
        "derived": str(plan.cascade),
        "tree": None if plan.tree is None else str(plan.tree),
        "tile": plan.tile,
        "references": {each.name: str(each.value) for each in plan.references},
        "accumulators": [
            {
                "name": each.name,
                "op": each.op,
                "identity": str(each.identity),
                "adds": str(each.body),
                "carry": each.carried,
                "merge": each.merge,
            }
            for each in plan.accumulators
        ],
        "epilogue": {each.link: str(each.epilogue) for each in plan.chosen.reductions},
        "obligations": list(plan.obligations),
        "barriers": _barriers(plan),
        "format": fmt.name,
        "variants": [_variant(plan, each) for each in plan.variants],
        "rejected": _rejected_json(plan),
    }


def _rejected_json(found: PassPlan | Refusal) -> list[dict[str, Any]]:
    return [
        {
            "name": each.variant.name,
            "passes": each.passes,
            "which": _says(found, each.variant),
            "reason": each.verdict.refused,
            "gate": _gate(each.verdict),
        }
        for each in found.tried
        if not each.verdict.passed
    ]


def _gate(verdict: Verdict) -> dict[str, Any] | None:
    """Return what came nearest to its limit, or went farthest beyond; None: nothing was run."""
    if verdict.worst is None:
        return None
    row, error = verdict.worst
    found = {"family": row.family, "output": row.output}
    return {**found, "error": error, "own": row.own, "limit": row.limit}


def _variant(plan: PassPlan, each: Variant) -> dict[str, Any]:
    return {
        "name": each.name,
        "chosen": each is plan.chosen,
        "which": _says(plan, each),
        "accumulators": each.costs.accumulators,
        "element_ops": each.costs.element_ops,
        "tile_ops": each.costs.tile_ops,
        "final_ops": each.costs.final_ops,
        "threshold": each.threshold,
        "derived": str(each.cascade),
        "gate": _gate(_verdict(plan, each)),
    }
