"""The one place where `tvm` is imported, after its version and its companion's are checked.

``apache-tvm`` does not bundle the library ``apache-tvm-ffi`` that it is linked against, and a pair
that does not fit does not fail: it crashes the process later on. So the versions are read from
the installed metadata *before* the import. Excluded: everything that TVM is used for.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from penstock.errors import ToolError

__all__ = ["FFI_BELOW", "FFI_FROM", "SPINS", "TVM_VERSION", "require_tvm"]

TVM_VERSION = "0.27.0.post1"
SPINS = "2000"
FFI_FROM, FFI_BELOW = "0.1.14.post0", "0.1.15"

_FIX = (
    f"python -m pip install 'apache-tvm=={TVM_VERSION}' 'apache-tvm-ffi>={FFI_FROM},<{FFI_BELOW}'"
)


def require_tvm() -> Any:
    """Check the installed pair of packages, then import TVM.

    The first call also makes TVM's thread pool as large as the machine, unless
    ``TVM_NUM_THREADS`` says otherwise: its own default is half of the cores. Its threads soon sleep
    (``TVM_THREAD_POOL_SPIN_COUNT``): at its default they ask 300,000 times for work, and on a busy
    machine the process then takes minutes to end.

    Returns:
        The module ``tvm``.

    Raises:
        ToolError: one of the two packages is missing or has another version.
    """
    found = {name: _installed(name) for name in ("apache-tvm", "apache-tvm-ffi")}
    ffi = found["apache-tvm-ffi"]
    if found["apache-tvm"] != TVM_VERSION or ffi is None or not _ffi_fits(ffi):
        listed = ", ".join(f"{name} {each or 'not at all'}" for name, each in found.items())
        raise ToolError(
            f"the TVM backends need apache-tvm {TVM_VERSION} with apache-tvm-ffi from {FFI_FROM} "
            f"to below {FFI_BELOW} (other pairs crash the process); installed: {listed}",
            fix=_FIX,
        )
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPINS)
    return import_module("tvm")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow, and rarely needed

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _ffi_fits(text: str) -> bool:
    """Whether FFI_FROM <= text < FFI_BELOW; a pre-release of FFI_FROM or FFI_BELOW does not fit."""
    head, _, post = text.partition(".post")
    return head == "0.1.14" and post.isdigit()
