"""Published studies, counted again: `fusemax` (``penstock reproduce fusemax``).

Each study is data: models, configurations, which mapping file runs which case, and where the
published count differs from ours. The numbers come from `mapper.model` and `mapper.accounts`.
"""

from __future__ import annotations

from importlib.resources import files

from penstock import zoo
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.notation import parse

__all__ = ["load_cascade"]


def load_cascade(name: str) -> Cascade:
    """Return the cascade that a mapping file is for: one of this folder, or a stock cascade.

    Raises:
        UnknownNameError: there is none.
    """
    place = files(__package__).joinpath("cascades", f"{name}.einsum")
    if place.is_file():
        return parse(place.read_text(encoding="utf-8"), file=f"{name}.einsum")
    return zoo.load(name)
