"""penstock: from an attention algorithm, written as a cascade of Einsums, to checked hardware.

The public names below load on first use, so that ``import penstock`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Builder",
    "Cascade",
    "Design",
    "PenstockError",
    "Target",
    "classify",
    "count_passes",
    "exp",
    "explore",
    "generate",
    "jit",
    "parse",
    "ranks",
    "reduce_max",
    "reduce_passes",
    "run",
    "run_calls",
    "simulate",
    "verify",
    "zoo",
]

if TYPE_CHECKING:
    from penstock import zoo
    from penstock.design import Design, explore, generate, run, run_calls, simulate, verify
    from penstock.einsum_ir.cascade import Cascade
    from penstock.einsum_ir.frontend.dsl import Builder
    from penstock.einsum_ir.frontend.notation import parse
    from penstock.einsum_ir.frontend.terms import exp, ranks, reduce_max
    from penstock.einsum_ir.passes import count_passes
    from penstock.einsum_ir.regions.tiling import classify
    from penstock.einsum_ir.rewrite.reduce import reduce_passes
    from penstock.errors import PenstockError
    from penstock.runtime.jit import jit
    from penstock.targets.base import Target

_HOMES = {
    "Builder": "penstock.einsum_ir.frontend.dsl",
    "Cascade": "penstock.einsum_ir.cascade",
    "Design": "penstock.design",
    "PenstockError": "penstock.errors",
    "Target": "penstock.targets.base",
    "classify": "penstock.einsum_ir.regions.tiling",
    "count_passes": "penstock.einsum_ir.passes",
    "exp": "penstock.einsum_ir.frontend.terms",
    "explore": "penstock.design",
    "generate": "penstock.design",
    "jit": "penstock.runtime.jit",
    "parse": "penstock.einsum_ir.frontend.notation",
    "ranks": "penstock.einsum_ir.frontend.terms",
    "reduce_max": "penstock.einsum_ir.frontend.terms",
    "reduce_passes": "penstock.einsum_ir.rewrite.reduce",
    "run": "penstock.design",
    "run_calls": "penstock.design",
    "simulate": "penstock.design",
    "verify": "penstock.design",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module("penstock.zoo")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock' has no attribute '{name}'")
