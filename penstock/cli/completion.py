"""Completion in bash, zsh and fish: commands, options, and the names that they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

__all__ = ["cascades", "complete", "completes", "machines", "published", "shell_code"]


def shell_code(shell: str) -> str:
    """Return the lines for a shell's start-up file: ``bash``, ``zsh`` or ``fish``."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["penstock"], shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit; it asks through the environment (argcomplete's protocol)."""
    import argcomplete

    argcomplete.autocomplete(parser)


def completes(action: argparse.Action, names: Callable[[], Iterable[str]]) -> None:
    """Offer names and files for an argument."""

    def matching(prefix: str, **_: object) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [each for each in names() if each.startswith(prefix)] + FilesCompleter()(prefix)

    action.completer = matching  # type: ignore[attr-defined]


def cascades() -> Iterable[str]:
    """Return the names of the stock cascades."""
    from penstock import zoo

    return zoo.names()


def machines() -> Iterable[str]:
    """Return the names of the machines."""
    from penstock.targets import TARGETS

    return TARGETS.names()


def published() -> Iterable[str]:
    """Return the names of the models that --model knows."""
    from penstock.zoo.models import MODELS

    return MODELS
