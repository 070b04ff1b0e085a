"""C simulation: compile a program's HLS sources with g++, run them, read the outputs.

The binary is the testbench of the project that `hls.generate` gives, so what runs here is what an
engineer gets. Compiled programs are kept in a cache folder by the digest of their sources; several
processes may use it at once.

Excluded on purpose: any vendor tool. Deadlocks of finite streams do not show in a C simulation.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from penstock.codegen.backends import Arrays, Provenance
from penstock.codegen.base import digest
from penstock.codegen.hls.generate import decode, encode, sources
from penstock.codegen.loops.nodes import Program
from penstock.errors import DataError, GeneratedCodeError, ToolError

__all__ = ["FLAGS", "build", "execute", "header_folder", "run_checked"]

FLAGS = ("-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
"""What the sources are compiled with; any warning is an error."""


_UNIT = '#include "kernel.cpp"\n#include "tb.cpp"\n'
"""Both sources as one, which compiles a third faster than one after the other."""


def execute(
    program: Program, inputs: Arrays, *, flags: Sequence[str] = (), cache: Path | None = None
) -> dict[str, NDArray[Any]]:
    """Run a program as C++.

    Args:
        program: any program.
        inputs: an array for each input buffer; they are rounded to the program's format.
        flags: for g++, after `FLAGS`.
        cache: where compiled programs are kept; a folder of the user's own below the temporary
            one by default.

    Returns:
        Output → array in the type that `numerics.quantise` returns (float64 for fixed formats).

    Raises:
        DataError: an input is missing or has another shape.
        ToolError: g++ or the ap_fixed headers are missing, or the simulation failed.
    """
    binary = build(program, flags=flags, cache=cache)
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        folder, out = Path(name), Path(name) / "out"
        out.mkdir()
        for buffer in program.inputs:
            array = inputs.get(buffer.name)
            if array is None or array.shape != buffer.shape:
                found = "is missing" if array is None else f"has shape {array.shape}"
                raise DataError(
                    f"input {buffer.name} {found}; {program.name} needs {buffer.shape}",
                    fix=f"give {buffer.name} as an array of shape {buffer.shape}",
                )
            content = encode(array, buffer, program.format)
            (folder / f"{buffer.name}.bin").write_bytes(content)
        run_checked([str(binary), str(folder), str(out)], "the C simulation")
        return {
            buffer.name: decode((out / f"{buffer.name}.bin").read_bytes(), buffer, program.format)
            for buffer in program.outputs
        }


def build(program: Program, *, flags: Sequence[str] = (), cache: Path | None = None) -> Path:
    """Compile a program, or find it compiled, and return the path of the binary.

    Raises:
        ToolError: g++ or the ap_fixed headers are missing, or the sources do not compile.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise ToolError(
            "g++ is not installed: it compiles the C simulation",
            fix="install it, e.g. apt-get install g++",
        )
    texts = sources(program, Provenance(program.name, "csim"))
    command = [compiler, *FLAGS, *flags]
    if program.format.exact:
        command += ["-isystem", str(header_folder())]
    folder = cache or _own_folder()
    binary = folder / f"{digest(*command, *texts, *texts.values())}.out"
    if binary.exists():
        return binary
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as name:
        for file, text in texts.items():
            (Path(name) / file).write_text(text, encoding="utf-8")
        unit, made = Path(name) / "unit.cpp", Path(name) / "csim.out"
        unit.write_text(_UNIT, encoding="utf-8")
        run_checked([*command, str(unit), "-o", str(made)], "g++")
        made.replace(binary)  # atomic: another process sees all of it or nothing
    return binary


def header_folder() -> Path:
    """Return the folder of ``ap_fixed.h`` in the hls4ml wheel, which is not imported.

    Raises:
        ToolError: hls4ml is not installed, or its wheel has no such folder.
    """
    spec = importlib.util.find_spec("hls4ml")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_fixed.h").is_file():
            return folder
    raise ToolError(
        "the headers ap_fixed.h and ap_int.h are missing: they come with the hls4ml wheel",
        fix="pip install 'hls4ml>=1.3,<2'",
    )


def _own_folder() -> Path:
    """Return the user's cache folder; nobody else may write to it."""
    folder = Path(tempfile.gettempdir()) / f"penstock-csim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ToolError(
            f"cache folder {folder} belongs to somebody else",
            fix=f"remove {folder}, or set TMPDIR to a folder of your own",
        )
    return folder


def run_checked(command: list[str], what: str) -> None:
    """Run a command that must exit with 0 and warn of nothing.

    Raises:
        GeneratedCodeError: it did not; a read from an empty ``hls::stream`` only warns.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode == 0 and "WARNING" not in said:
        return
    head = "\n".join(said.splitlines()[:20])
    state = f"exited with {done.returncode}" if done.returncode else "warned"
    raise GeneratedCodeError(
        f"{what} {state}: {shlex.join(command)}\n{head}",
        fix="this is a defect of the generated code: please report it with the design",
    )
