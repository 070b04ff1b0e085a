"""Stock cascades: ``zoo.load("attention")``; one text file each, headed by its source.

The files are ordinary cascade notation, to be copied and changed. Excluded: mappings of them,
which are in `penstock.mapper.mappings`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.notation import parse
from penstock.errors import UnknownNameError

__all__ = ["load", "names", "source", "summary"]

_SUFFIX = ".einsum"


def names() -> tuple[str, ...]:
    """Return the names of the stock cascades, sorted."""
    found = (each.name for each in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


@cache
def load(name: str) -> Cascade:
    """Return the stock cascade with this name.

    Raises:
        UnknownNameError: there is none.
    """
    return parse(source(name), file=f"{name}{_SUFFIX}")


def source(name: str) -> str:
    """Return the text of a stock cascade, comments included.

    Raises:
        UnknownNameError: there is none.
    """
    known = names()
    if name not in known:
        raise UnknownNameError("stock cascade", name, known)
    return files(__package__).joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """Return the first comment line of a stock cascade: what it is, in a few words.

    Raises:
        UnknownNameError: there is none.
    """
    return source(name).splitlines()[0].removeprefix("#").strip()
