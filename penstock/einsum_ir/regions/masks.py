"""The predicates of a cascade, each with its tiles: what a mask leaves of the work.

Excluded: how tiles are decided (`tiling.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Expr, accesses, variables
from penstock.einsum_ir.regions.tiling import Tiling, classify
from penstock.einsum_ir.shapes import Bound
from penstock.errors import UnknownNameError

__all__ = ["Mask", "masks"]


@dataclass(frozen=True, slots=True)
class Mask:
    """A predicate and the tiles of the variables that it mentions.

    Args:
        einsums: those that have it.
        predicate: as it prints.
        tiling: its tiles, None if it reads tensors that are not given.
        reads: the tensors that it reads.
    """

    einsums: tuple[str, ...]
    predicate: str
    tiling: Tiling | None
    reads: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the mask as JSON values."""
        found: dict[str, Any] = {
            "einsums": list(self.einsums),
            "predicate": self.predicate,
            "reads": list(self.reads),
        }
        if self.tiling is not None:
            for name in ("volume", "points", "empty", "full", "partial"):
                found[name] = getattr(self.tiling, name)
            found["extents"] = dict(self.tiling.extents)
            found["tiles"] = dict(self.tiling.tiles)
        return found


def masks(
    bound: Bound, tiles: Mapping[str, int], tables: Mapping[str, NDArray[Any]] | None = None
) -> tuple[Mask, ...]:
    """Return the distinct predicates of a cascade with their tiles, in order of appearance.

    Args:
        bound: the cascade with its extents.
        tiles: rank variable → coordinates of a tile; the whole rank where it is left out.
        tables: tensor → elements, for predicates that read tensors.

    Raises:
        UnknownNameError: a tile of a rank that the cascade has not.
        DataError: a table does not fit.
    """
    for name in tiles:
        if name not in bound.extents:
            raise UnknownNameError("rank variable", name, bound.extents)
    owners: dict[Expr, list[str]] = {}
    for einsum in bound.cascade.einsums:
        if einsum.where is not None:
            owners.setdefault(einsum.where, []).append(einsum.name)
    return tuple(_mask(pred, names, bound, tiles, tables or {}) for pred, names in owners.items())


def _mask(
    pred: Expr,
    names: list[str],
    bound: Bound,
    tiles: Mapping[str, int],
    tables: Mapping[str, NDArray[Any]],
) -> Mask:
    reads = tuple(dict.fromkeys(access.tensor for access in accesses(pred)))
    tiling = None
    if all(name in tables for name in reads):
        extents = {name: bound.extents[name] for name in variables(pred)}
        tiling = classify(
            pred,
            extents,
            symbols=bound.symbols,
            tiles={name: size for name, size in tiles.items() if name in extents},
            tables={name: tables[name] for name in reads},
        )
    return Mask(tuple(names), str(pred), tiling, reads)
