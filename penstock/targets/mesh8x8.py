"""A 8x8 array with a 8-lane vector unit."""

from __future__ import annotations

from penstock.targets.mesh import mesh

__all__ = ["TARGET"]

TARGET = mesh(8, 8)
