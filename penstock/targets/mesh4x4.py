"""A 4x4 array with a 4-lane vector unit."""

from __future__ import annotations

from penstock.targets.mesh import mesh

__all__ = ["TARGET"]

TARGET = mesh(4, 4)
