"""One generic table of plug-ins: built-in loaders plus the entry points of other distributions.

It knows nothing of what it holds. Loading is lazy: a name costs nothing until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from penstock.errors import PenstockError, UnknownNameError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A read-only table of loaders, one instance for each kind of plug-in.

    Args:
        kind: what one entry is called in messages, e.g. ``"target"``.
        builtin: name → function that loads the entry. Names are lower case.
        group: the entry-point group in which other distributions add entries.
    """

    def __init__(self, kind: str, builtin: Mapping[str, Callable[[], T]], *, group: str) -> None:
        self._kind, self._builtin, self._group = kind, dict(builtin), group

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._builtin, *self._plugins()})

    def get(self, name: str) -> T:
        """Load one entry.

        Raises:
            UnknownNameError: no such name; lists the nearest and the known ones.
            PenstockError: two distributions claim the name.
        """
        key = name.lower()
        plugins = self._plugins()
        if key in self._builtin:
            return self._builtin[key]()
        if key in plugins:
            loaded: T = plugins[key].load()
            return loaded
        raise UnknownNameError(self._kind, name, self.names())

    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self._group):
            key = entry.name.lower()
            other = found.get(key)
            if key in self._builtin or other is not None:
                owner = other.value if other else "penstock itself"
                raise PenstockError(
                    f"{self._kind} '{key}' is defined by {owner} and by {entry.value}",
                    fix="uninstall one of the two distributions",
                )
            found[key] = entry
        return found
