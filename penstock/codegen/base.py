"""`Artifact`: generated text. Generating is pure; `Artifact.save` writes all of it or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from penstock.errors import FileError, os_reason

__all__ = ["Artifact", "digest"]


@dataclass(frozen=True)
class Artifact:
    """Files by relative path (POSIX); bytes for binary ones. Nothing is written until `save`."""

    files: Mapping[str, str | bytes]

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write every file below `folder`, or, if anything fails, none of them.

        Returns:
            The paths written, in order.

        Raises:
            FileError: the folder cannot be written.
        """
        root = Path(folder)
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        except OSError as error:
            raise _refused(root, error) from error
        try:
            for name, content in self.files.items():
                path = staging / PurePosixPath(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            return self._move(staging, root)
        except OSError as error:
            raise _refused(root, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _move(self, staging: Path, root: Path) -> tuple[Path, ...]:
        if not root.exists():
            staging.chmod(0o755)
            os.replace(staging, root)  # noqa: PTH105 - atomic, and the folder must not exist
        else:
            for name in self.files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            for name in self.files:
                os.replace(staging / name, root / name)  # noqa: PTH105
        return tuple(root / name for name in self.files)


def _refused(root: Path, error: OSError) -> FileError:
    return FileError(
        f"cannot write to {root}: {os_reason(error)}", fix="choose a folder you may write to"
    )


def digest(*texts: str) -> str:
    """Return the first 12 hex digits of the SHA-256 of the texts."""
    joined = "\0".join(texts)
    return hashlib.sha256(joined.encode()).hexdigest()[:12]
