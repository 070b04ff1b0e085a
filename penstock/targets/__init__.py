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
        "a100": lambda: _stock("a100"),
        "avx2": lambda: _stock("avx2"),
        "avx512": lambda: _stock("avx512"),
        "cpu": _this_cpu,
        "flat": lambda: _stock("flat"),
        "fusemax": lambda: _stock("fusemax"),
        "h100": lambda: _stock("h100"),
        "h200": lambda: _stock("h200"),
        "kv260": lambda: _stock("kv260"),
        "l4": lambda: _stock("l4"),
        "mesh16x16": lambda: _stock("mesh16x16"),
        "mesh2x2": lambda: _stock("mesh2x2"),
        "mesh4x4": lambda: _stock("mesh4x4"),
        "mesh8x4": lambda: _stock("mesh8x4"),
        "mesh8x8": lambda: _stock("mesh8x8"),
        "pynq_z2": lambda: _stock("pynq_z2"),
        "rtx4090": lambda: _stock("rtx4090"),
        "tpu_v4i": lambda: _stock("tpu_v4i"),
        "u250": lambda: _stock("u250"),
        "u280": lambda: _stock("u280"),
        "u55c": lambda: _stock("u55c"),
        "vck190": lambda: _stock("vck190"),
        "zcu102": lambda: _stock("zcu102"),
        "zcu104": lambda: _stock("zcu104"),
    },
    group="penstock.targets",
)
