"""A machine as JSON and back, so that a user can save one, edit it, and use the file."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import Any, get_args

from penstock.errors import TargetError, UnknownNameError
from penstock.targets.base import Array, Axis, AxisKind, Family, Memory, Target

__all__ = ["from_json", "to_json"]

_CLASSES: dict[str, type] = {"memories": Memory, "arrays": Array, "axes": Axis}
_PAIRS = {"cycles", "energy_pj", "resources", "rates", "uses"}
_CHOICES = {"AxisKind": get_args(AxisKind), "Family": get_args(Family)}


def to_json(target: Target) -> str:
    """Return the machine as JSON text; numbers without end are the string ``"inf"``."""
    return json.dumps(_plain(target), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Target | Memory | Array | Axis):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {
            name: _pairs(each)
            if name in _PAIRS
            else [_pairs(one) for one in each]
            if name == "sizings"
            else _plain(each)
            for name, each in named.items()
        }
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        if math.isinf(value):
            return "inf"
        return int(value) if value.is_integer() else value  # one text for 256 and 256.0
    return value


def _pairs(value: Any) -> dict[str, Any]:
    return {key: _plain(number) for key, number in value}


def from_json(text: str, file: str = "target") -> Target:
    """Read a machine.

    Raises:
        TargetError: the text is no machine; names the field.
        UnknownNameError: a field that machines do not have.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(
            f"{file} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            fix="start from 'penstock targets fusemax'",
        ) from None
    target = _build(Target, data, file)
    assert isinstance(target, Target)
    return target


def _build(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise TargetError(f"{where} is no object", fix="start from 'penstock targets fusemax'")
    known = {field.name: field for field in fields(kind)}
    for name in data:
        if name not in known:
            raise UnknownNameError(f"field of {where}", name, known)
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in data:
            values[name] = _value(name, data[name], str(field.type), f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TargetError(f"{where} lacks '{name}'", fix="compare 'penstock targets fusemax'")
    return kind(**values)


def _value(name: str, value: Any, kind: str, where: str) -> Any:
    if name in _CLASSES:
        if not isinstance(value, list):
            raise TargetError(f"{where} is no list", fix="compare 'penstock targets fusemax'")
        built = [_build(_CLASSES[name], each, f"{where}[{n}]") for n, each in enumerate(value)]
        return tuple(built)
    if name in _PAIRS:
        return _read_pairs(value, where)
    if name == "sizings":
        if not isinstance(value, list):
            raise TargetError(f"{where} is no list", fix="compare 'penstock targets u280'")
        return tuple(_read_pairs(each, f"{where}[{n}]") for n, each in enumerate(value))
    if kind == "float":
        return float(_number(value, where))
    if kind == "int":
        return int(_number(value, where))
    if kind == "bool" and not isinstance(value, bool):
        raise TargetError(f"{where} is {value!r}, not true or false", fix="write true or false")
    if kind == "tuple[str, ...]":
        return tuple(str(each) for each in value)
    _check_text(value, kind, where)
    return value


def _read_pairs(value: Any, where: str) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, dict):
        raise TargetError(f"{where} is no object", fix="compare 'penstock targets fusemax'")
    return tuple((str(key), _number(each, f"{where}.{key}")) for key, each in value.items())


def _check_text(value: Any, kind: str, where: str) -> None:
    if kind == "str" and not isinstance(value, str):
        raise TargetError(f"{where} is {value!r}, not a text", fix="write a text in quotes")
    if kind in _CHOICES and value not in _CHOICES[kind]:
        raise TargetError(f"{where} is {value!r}", fix=f"write one of {', '.join(_CHOICES[kind])}")


def _number(value: Any, where: str) -> float:
    if value == "inf":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TargetError(f"{where} is {value!r}", fix="write a number of at least 0, or 'inf'")
    return value
