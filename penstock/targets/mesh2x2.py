"""A 2x2 array with a 2-lane vector unit."""

from __future__ import annotations

from penstock.targets.mesh import mesh

__all__ = ["TARGET"]

TARGET = mesh(2, 2)
