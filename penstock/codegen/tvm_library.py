"""`Program` → shared library that needs neither TVM nor Python: compiled loops and a C entry.

TVM compiles the schedule to an object file. Its few calls into a runtime (threads, workspace,
errors) are answered by a page of C, which is linked with it and has one function::

    int penstock_run(void **data, int threads);   /* inputs, then outputs; 0, or -1 and: */
    const char *penstock_error(void);

Threads are OpenMP's. Excluded on purpose: what is compiled (`tvm_cpu.py`), arrays (`jitted.py`).
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ToolError

if TYPE_CHECKING:
    from penstock.codegen.loops import Buffer, Program

__all__ = ["Entry", "build_library", "entry_source", "load_library"]

Entry = Callable[[Sequence[int], int], None]
"""Called with the addresses of inputs and outputs, in order, and a number of threads."""

FLAGS = ("-O2", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden", "-Wl,-Bsymbolic")


def build_library(program: Program, path: Path) -> None:
    """Compile a program for this machine and write the library; all of it or nothing.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
        ToolError: TVM or a C compiler is missing, or the compiler fails.
    """
    from penstock.codegen.tvm_cpu import compiled  # a caller of a kept library does not load it

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
            raise ToolError(
                f"the compiled kernel failed: {error_text().decode(errors='replace')}",
                fix="this is a defect of the generated code: please report it with the cascade",
            )

    return entry


_CODES = {"float64": (2, 64), "float32": (2, 32), "float16": (2, 16), "uint16": (1, 16)}
_CODES |= {"int32": (0, 32)}


def entry_source(program: Program) -> str:
    """Return the C source of the entry: its tensors have the program's shapes and types."""
    buffers = (*program.inputs, *program.outputs)
    shapes = "".join(
        f"static int64_t shape{n}[] = {{{', '.join(str(e) for e in each.shape or (1,))}}};"
        f"  /* {each.name} */\n"
        for n, each in enumerate(buffers)
    )
    tensors = "".join(f"        {_tensor(n, each, program)},\n" for n, each in enumerate(buffers))
    return (
        _ENTRY.replace("@SHAPES@", shapes)
        .replace("@TENSORS@", tensors)
        .replace("@COUNT@", str(len(buffers)))
    )


def _tensor(number: int, buffer: Buffer, program: Program) -> str:
    from penstock.codegen.tvm_cpu import memory_type

    code, bits = _CODES[memory_type(buffer, program.format)]
    rank = len(buffer.shape) or 1
    return f"{{data[{number}], {{1, 0}}, {rank}, {{{code}, {bits}, 1}}, shape{number}, 0, 0}}"


_ENTRY = """#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The structures of tvm-ffi's C API and of DLPack that compiled loops read. */
typedef struct { int32_t type; uint32_t zero; union { int64_t whole; void *pointer; } value; } Any;
typedef struct {
    void *data;
    struct { int32_t type, id; } device;
    int32_t rank;
    struct { uint8_t code, bits; uint16_t lanes; } element;
    int64_t *shape, *strides;
    uint64_t offset;
} Tensor;
typedef struct { void *barrier; int32_t tasks; } Group;
typedef int (*Task)(int, Group *, void *);

extern int __tvm_ffi_main(void *, const Any *, int32_t, Any *);
extern int (*__TVMBackendParallelLaunch)(Task, void *, int) __attribute__((weak));
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) __attribute__((weak));
extern int (*__TVMBackendFreeWorkspace)(int, int, void *) __attribute__((weak));

#define PUBLIC __attribute__((visibility("default")))

static _Thread_local int wanted_threads;
static char message[1024];

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    int used = snprintf(message, sizeof message, "%s: ", kind);
    for (int n = 0; n < count && used < (int)sizeof message; ++n)
        if (parts[n]) used += snprintf(message + used, sizeof message - used, "%s", parts[n]);
}

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
    TVMFFIErrorSetRaisedFromCStrParts(kind, &text, 1);
}

static int launch(Task task, void *closure, int tasks) {
    int threads = tasks > 0 ? tasks : wanted_threads, failed = 0;
    if (threads <= 1) {
        Group alone = {0, 1};
        return task(0, &alone, closure);
    }
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Group group = {0, omp_get_num_threads()};
        failed |= task(omp_get_thread_num(), &group, closure) != 0;
    }
    return failed ? -1 : 0;
}

static void *take(int device, int number, uint64_t bytes, int code, int bits) {
    void *memory = 0;
    return posix_memalign(&memory, 64, bytes ? bytes : 64) ? 0 : memory;
}

static int give(int device, int number, void *memory) {
    free(memory);
    return 0;
}

__attribute__((constructor)) static void connect_runtime(void) {
    if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
    if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = take;
    if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = give;
}

@SHAPES@
PUBLIC const char *penstock_error(void) { return message; }

PUBLIC int penstock_run(void **data, int threads) {
    Tensor tensors[] = {
@TENSORS@    };
    Any arguments[@COUNT@], result = {0, 0, {0}};
    for (int n = 0; n < @COUNT@; ++n) {
        arguments[n].type = 7; /* a DLTensor */
        arguments[n].zero = 0;
        arguments[n].value.pointer = &tensors[n];
    }
    wanted_threads = threads;
    return __tvm_ffi_main(0, arguments, @COUNT@, &result);
}
"""
