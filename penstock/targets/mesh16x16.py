"""A 16x16 array with a 16-lane vector unit."""

from __future__ import annotations

from penstock.targets.mesh import mesh

__all__ = ["TARGET"]

TARGET = mesh(16, 16)
