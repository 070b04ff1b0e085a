"""The C file with which compiled loops become a library: its one function, and a small runtime.

Excluded on purpose: compiling and loading (`tvm/library.py`).
"""

from __future__ import annotations

from penstock.codegen.loops.nodes import Buffer, Program
from penstock.codegen.tvm.expr import memory_type

__all__ = ["entry_source"]

_CODES = {"float64": (2, 64), "float32": (2, 32), "float16": (2, 16)}
_CODES |= {f"int{bits}": (0, bits) for bits in (8, 16, 32)}
_CODES |= {f"uint{bits}": (1, bits) for bits in (8, 16, 32)}


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
