"""Machines to map to: one file each, data only; `TARGETS` lists them."""

from __future__ import annotations

from importlib import import_module

from penstock.registry import Registry
from penstock.targets.base import Target

__all__ = ["TARGETS"]


def _stock(name: str) -> Target:
    target: Target = import_module(f"penstock.targets.{name}").TARGET
    return target


def _this_cpu() -> Target:
    from penstock.targets.cpu import this_machine

    return this_machine()


TARGETS: Registry[Target] = Registry(
    "target",
    {
        "cpu": _this_cpu,
        "flat": lambda: _stock("flat"),
        "fusemax": lambda: _stock("fusemax"),
        "h200": lambda: _stock("h200"),
        "mesh4x4": lambda: _stock("mesh4x4"),
        "u280": lambda: _stock("u280"),
    },
    group="penstock.targets",
)
