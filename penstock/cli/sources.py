"""What FILE means on the command line: a cascade file, a design.json or a stock cascade."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from pathlib import Path

from penstock import zoo
from penstock.cli.files import pairs
from penstock.design import Design, as_target, remap
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.errors import FileError, PenstockError, nearest
from penstock.files import read_text
from penstock.mapper.nodes import Mapping
from penstock.mapper.notation import parse_mapping
from penstock.targets.base import Target
from penstock.targets.serial import from_json
from penstock.zoo import models

__all__ = [
    "Source",
    "design_of",
    "machine_named",
    "machine_of",
    "mapping_of",
    "shapes_of",
    "source_of",
    "variants_of",
]


@dataclass(frozen=True)
class Source:
    """What the user named: a cascade, with the design it came from if it was one."""

    cascade: Cascade
    design: Design | None
    shapes: MappingABC[str, int]
    constants: MappingABC[str, float]


def source_of(options: argparse.Namespace) -> Source:
    """Read FILE with --model, --shape and --const; what --shape and --const say wins.

    Raises:
        FileError: there is no such file and no stock cascade of that name.
        PenstockError: the file is wrong, or an option is.
    """
    path = Path(options.file)
    design = None
    if path.suffix == ".json":
        design = Design.load(path)
    cascade = design.cascade if design else _cascade(path, options.file)
    shapes, constants = shapes_of(options.shape), pairs(options.const, "--const")
    if options.model:
        model = models.get(options.model)
        shapes = model.shapes(cascade) | shapes
        constants = model.constants(cascade) | constants
    return Source(cascade, design, shapes, constants)


def variants_of(options: argparse.Namespace) -> tuple[Cascade, ...] | None:
    """Read the cascades of --variants; None without the option."""
    if options.variants is None:
        return None
    return tuple(_cascade(Path(name), name) for name in options.variants)


def _cascade(path: Path, name: str) -> Cascade:
    if path.is_file():
        return parse(read_text(path), file=str(path))
    if name in zoo.names():
        return zoo.load(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return parse(read_text(path), file=str(path))
    near = nearest(name, zoo.names())
    raise FileError(
        f"there is no file and no stock cascade '{name}'",
        fix=f"did you mean {near}?" if near else "'penstock zoo' lists the stock cascades",
    )


def shapes_of(texts: list[str], option: str = "--shape") -> dict[str, int]:
    """Return the extents of ``RANK=N`` pairs.

    Raises:
        PenstockError: one of them is no positive whole number.
    """
    shapes: dict[str, int] = {}
    for name, value in pairs(texts, option).items():
        if math.isinf(value) or value != int(value) or value < 1:
            raise PenstockError(
                f"{option} {name}={value:g} is not a positive whole number",
                fix=f"write it as in {option} {name}=1024",
            )
        shapes[name.lower()] = int(value)
    return shapes


def machine_of(options: argparse.Namespace) -> Target | None:
    """Return the machine of --target with the changes of --set; None without --target."""
    if options.target is None:
        if options.set:
            raise PenstockError("--set changes a machine, but no --target is given", fix="add one")
        return None
    return machine_named(options.target, options.set)


def machine_named(name: str, changes: list[str]) -> Target:
    """Return the machine of a name or a JSON file, with the changes of --set."""
    machine = from_json(read_text(name), name) if name.endswith(".json") else as_target(name)
    for path, value in pairs(changes, "--set").items():
        machine = machine.override(path, value)
    return machine


def mapping_of(options: argparse.Namespace) -> Mapping | None:
    """Return the mapping of --mapping, or None."""
    if options.mapping is None:
        return None
    return parse_mapping(read_text(options.mapping), file=options.mapping)


def format_of(options: argparse.Namespace) -> Format | None:
    """Return the format of --format, or None."""
    return parse_format(options.format) if options.format else None


def design_of(options: argparse.Namespace, usual_target: str = "") -> Design:
    """Return the design that FILE and the options describe.

    A design.json is taken as it is; with --shape, --const, --target, --set, --format or --mapping
    its mapping is checked anew for what they change. A cascade needs --target (or the command's
    usual one) and gets the default mapping unless --mapping gives one.

    Raises:
        PenstockError: something is missing or does not fit.
    """
    source = source_of(options)
    machine, fmt, mapping = machine_of(options), format_of(options), mapping_of(options)
    if source.design is not None:
        design = source.design
        changed = source.shapes or source.constants or machine or fmt or mapping
        if not changed:
            return design
        return remap(
            design.cascade,
            machine or design.target,
            shapes=source.shapes,
            constants=source.constants,
            fmt=fmt or design.format,
            mapping=mapping or (None if machine else design.mapping),
        )
    if machine is None and not usual_target:
        raise PenstockError(
            f"{options.file} is a cascade, and no machine is given",
            fix="add --target T, or give a design.json",
        )
    return remap(
        source.cascade,
        machine or usual_target,
        shapes=source.shapes,
        constants=source.constants,
        fmt=fmt,
        mapping=mapping,
    )
