"""`Tiles`: the sizes of tiles that a streaming kernel may have. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tiles"]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Coordinates of a tile of the rank that is streamed over: at least, usually, at most."""

    least: int = 32
    usual: int = 64
    most: int = 128
