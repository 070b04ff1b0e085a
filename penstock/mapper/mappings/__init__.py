"""Mappings in files: ``load_mapping("fusemax_binding")``; each is headed by its source.

The files are ordinary mapping notation, to be copied and changed (``--mapping my.mapping``).
"""

from __future__ import annotations

from fractions import Fraction
from importlib.resources import files

from penstock.errors import UnknownNameError
from penstock.mapper.nodes import Mapping
from penstock.mapper.notation import parse_mapping

__all__ = ["load_mapping", "mapping_names"]

_SUFFIX = ".mapping"


def mapping_names() -> tuple[str, ...]:
    """Return the names of the mappings in files, sorted."""
    found = (each.name for each in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def load_mapping(name: str, **numbers: int | Fraction) -> Mapping:
    """Return the mapping with this name.

    Args:
        name: of the file, without its ending.
        numbers: other values of the numbers that the file names with ``let``.

    Raises:
        UnknownNameError: there is none, or it names no such number.
    """
    known = mapping_names()
    if name not in known:
        raise UnknownNameError("mapping", name, known)
    text = files(__package__).joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")
    return parse_mapping(text, file=f"{name}{_SUFFIX}", numbers=numbers)
