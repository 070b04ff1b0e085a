"""`Program` → shared library that needs neither TVM nor Python: compiled loops and a C entry.

TVM compiles the schedule to an object file. Its few calls into a runtime (threads, workspace,
errors) are answered by a page of C, which is linked with it and has one function::

    int penstock_run(void **data, int threads);   /* inputs, then outputs; 0, or -1 and: */
    const char *penstock_error(void);

Threads are OpenMP's. Excluded on purpose: what is compiled (`tvm/cpu.py`), arrays
(`runtime/jit.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import GeneratedCodeError, ToolError

if TYPE_CHECKING:
    from penstock.codegen.loops.nodes import Program

__all__ = ["Entry", "build_library", "load_library"]

Entry = Callable[[Sequence[int], int], None]
"""Called with the addresses of inputs and outputs, in order, and a number of threads."""

FLAGS = ("-O2", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden", "-Wl,-Bsymbolic")


def build_library(program: Program, path: Path) -> None:
    """Compile a program for this machine and write the library; all of it or nothing.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
        ToolError: TVM or a C compiler is missing, or the compiler fails.
    """
    import shutil  # a caller of a kept library loads none of these
    import subprocess
    import tempfile

    from penstock.codegen.tvm.cpu import compiled
    from penstock.codegen.tvm.entry import entry_source

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ToolError(
            "no C compiler is installed: it links the compiled loops",
            fix="install one, e.g. apt-get install gcc",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as name:
        folder = Path(name)
        loops, entry, made = folder / "loops.o", folder / "entry.c", folder / "kernel.so"
        compiled(program).mod.write_to_file(str(loops), "o")
        entry.write_text(entry_source(program), encoding="utf-8")
        command = [compiler, *FLAGS, str(entry), str(loops), "-lm", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            head = "\n".join(done.stderr.splitlines()[:10])
            raise ToolError(
                f"{compiler} cannot link the compiled loops:\n{head}",
                fix="install gcc with OpenMP, e.g. apt-get install gcc",
            )
        made.replace(path)  # atomic: another process sees all of it or nothing


def load_library(path: Path) -> Entry:
    """Load a library that `build_library` wrote.

    Raises:
        ToolError: it cannot be loaded here.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ToolError(
            f"cannot load {path}: {error}", fix=f"remove {path} and try again"
        ) from error
    run, error_text = library.penstock_run, library.penstock_error
    error_text.restype = ctypes.c_char_p

    def entry(addresses: Sequence[int], threads: int) -> None:
        if run((ctypes.c_void_p * len(addresses))(*addresses), threads):
            raise GeneratedCodeError(
                f"the compiled kernel failed: {error_text().decode(errors='replace')}",
                fix="this is a defect of the generated code: please report it with the cascade",
            )

    return entry
