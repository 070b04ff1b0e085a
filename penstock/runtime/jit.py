"""`jit(cascade)(q, k, v)`: compile a cascade for the shapes of its arguments, and call it.

Arguments are PyTorch CPU tensors or NumPy arrays, which are read where they lie; the result is of
the same kind. A kernel is compiled once for each choice of shapes and format, and kept on disk by
digest (``$PENSTOCK_CACHE``, else ``~/.cache/penstock``): a later process only loads it. With
PyTorch each jitted cascade is an operator of `torch.library` that ``torch.compile`` sees.

Excluded on purpose: derivatives, devices other than the CPU, arrays that are not contiguous.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from penstock.codegen.base import digest
from penstock.codegen.loops.nodes import Buffer, Program
from penstock.codegen.tvm.env import TVM_VERSION, cores
from penstock.codegen.tvm.library import Entry, build_library, load_library
from penstock.einsum_ir.cascade import Cascade
from penstock.errors import DataError, MappingError, nearest
from penstock.files import write_whole
from penstock.mapper.nodes import Mapping as LoopForest
from penstock.runtime.tiles import Tiles
from penstock.runtime.tuned import Trial, cache_folder, database, fastest, kernel_digits
from penstock.targets import TARGETS
from penstock.targets.base import Target
from penstock.targets.serial import to_json

__all__ = ["Jitted", "jit", "kernel_program"]

_FORMATS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A kernel for given shapes and types, loaded."""

    entry: Entry
    shapes: tuple[tuple[int, ...], ...]
    elements: tuple[str, ...]


def jit(
    cascade: Cascade,
    *,
    constants: Mapping[str, float] | None = None,
    shapes: Mapping[str, int] | None = None,
    target: Target | str = "cpu",
    mapping: LoopForest | None = None,
    tiles: Tiles | None = None,
    threads: int = 0,
) -> Jitted:
    """Return a function that computes a cascade with compiled code.

    Args:
        cascade: any that the mapper maps to a CPU.
        constants: upper-case name → value.
        shapes: rank variable → extent, for ranks that no argument has.
        target: a machine of the family ``cpu``.
        mapping: of the cascade as given; if left out, the form with the fewest passes is derived
            and gets the default mapping.
        tiles: sizes of tiles of what is streamed over; if neither they nor a mapping are given,
            those that `penstock tune` found fastest are used, where it was run.
        threads: on which a call runs; 0: as many as PyTorch is set to, or, for NumPy, cores.

    Example:
        ``penstock.jit(penstock.zoo.load("sliding_window"), constants={"W": 256})(q, k, v)``
    """
    machine = target if isinstance(target, Target) else TARGETS.get(target)
    made = cascade.with_constants(**constants) if constants else cascade
    return Jitted(made, dict(shapes or {}), machine, mapping, tiles, threads)


class Jitted:
    """A cascade that is compiled for the shapes it is called with; see `jit`."""

    def __init__(
        self,
        cascade: Cascade,
        shapes: dict[str, int],
        target: Target,
        mapping: LoopForest | None,
        tiles: Tiles | None,
        threads: int,
    ) -> None:
        self.cascade, self.target, self.mapping, self.tiles = cascade, target, mapping, tiles
        self.threads = threads
        self.names = tuple(each.tensor for each in cascade.inputs)
        self._given = shapes
        self._compiled: dict[Any, _Compiled] = {}
        text = f"{cascade} {sorted(shapes.items())} {mapping} {tiles}"
        self._machine = to_json(target)
        self._digest = digest(text, self._machine, _fingerprint())
        self._operator: Callable[..., Any] | None = None
        if "torch" in sys.modules:
            self._operator = self.operator()

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Compute the outputs: one array, or a tuple in the order of the cascade.

        Raises:
            DataError: an argument is missing or superfluous, or has a shape, element type, device
                or layout that the kernel cannot take.
        """
        if named or len(arrays) != len(self.names):
            arrays = self._ordered(arrays, named)
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(arrays[0], torch.Tensor):
            made = self._numpy(arrays)
        elif torch.compiler.is_compiling():
            made = self.operator()(*arrays)
            made = made if isinstance(made, tuple | list) else (made,)
        else:
            made = self._torch(torch, arrays)
        return made[0] if len(made) == 1 else tuple(made)

    def _ordered(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        listed = ", ".join(str(each) for each in self.cascade.inputs)
        for name in named:
            if name not in self.names:
                near = nearest(name, self.names)
                raise DataError(
                    f"{self.cascade.name} has no input {name} (inputs: {listed})",
                    fix=f"did you mean {near}?" if near else f"leave out {name}",
                )
        if len(arrays) + len(named) != len(self.names) or named.keys() & set(
            self.names[: len(arrays)]
        ):
            raise DataError(
                f"{self.cascade.name} takes {len(self.names)} arrays ({listed}), and was given "
                f"{len(arrays) + len(named)}",
                fix=f"call it with ({', '.join(self.names)})",
            )
        return (*arrays, *(named[name] for name in self.names[len(arrays) :]))

    # -- NumPy and PyTorch ---------------------------------------------------------------------

    def _numpy(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        for name, each in zip(self.names, arrays, strict=True):
            if not isinstance(each, np.ndarray):
                raise DataError(
                    f"argument {name} is a {type(each).__name__}",
                    fix="give NumPy arrays, or PyTorch tensors, all of one kind",
                )
            if not each.flags.c_contiguous:
                raise self._scattered(name, each.shape, f"np.ascontiguousarray({name})")
        key = tuple((each.shape, each.dtype) for each in arrays)
        kernel = self._compiled.get(key)
        if kernel is None:
            kernel = self._find(key, [(each.shape, each.dtype.name) for each in arrays])
        if "bfloat16" in kernel.elements:
            raise DataError("NumPy has no bfloat16", fix="give PyTorch tensors")
        made = tuple(map(np.empty, kernel.shapes, kernel.elements))
        addresses = [each.ctypes.data for each in (*arrays, *made)]
        kernel.entry(addresses, self.threads or cores())
        return made

    def _torch(self, torch: Any, arrays: Sequence[Any]) -> tuple[Any, ...]:
        key = tuple([(each.shape, each.dtype) for each in arrays])
        kernel = self._compiled.get(key)
        if kernel is None:
            self._check_torch(torch, arrays)
            listed = [(tuple(each.shape), str(each.dtype)[6:]) for each in arrays]
            kernel = self._find(key, listed)
        for each in arrays:
            if not (each.is_cpu and each.is_contiguous()) or each.requires_grad:
                self._check_torch(torch, arrays)
        made = tuple(
            torch.empty(shape, dtype=getattr(torch, element))
            for shape, element in zip(kernel.shapes, kernel.elements, strict=True)
        )
        addresses = [each.data_ptr() for each in (*arrays, *made)]
        kernel.entry(addresses, self.threads or torch.get_num_threads())
        return made

    def _check_torch(self, torch: Any, arrays: Sequence[Any]) -> None:
        for name, each in zip(self.names, arrays, strict=True):
            if not isinstance(each, torch.Tensor):
                raise DataError(
                    f"argument {name} is a {type(each).__name__}, and others are tensors",
                    fix="give NumPy arrays, or PyTorch tensors, all of one kind",
                )
            if not each.is_cpu:
                raise DataError(
                    f"argument {name} is on {each.device}: this kernel is for the CPU",
                    fix=f"give {name}.cpu()",
                )
            if not each.is_contiguous():
                raise self._scattered(name, tuple(each.shape), f"{name}.contiguous()")
            if each.requires_grad and torch.is_grad_enabled():
                raise DataError(
                    f"argument {name} asks for a derivative, which {self.cascade.name} has not",
                    fix=f"give {name}.detach(), or call under torch.no_grad()",
                )

    def _scattered(self, name: str, shape: tuple[int, ...], fix: str) -> DataError:
        return DataError(
            f"argument {name} {shape} is not contiguous: rows of its last rank do not follow each "
            "other in memory",
            fix=f"give {fix}",
        )

    # -- compiling -----------------------------------------------------------------------------

    def extents(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """Return the extent of each rank, read off the shapes of the arguments.

        Raises:
            DataError: an argument has too many or too few dimensions, or two disagree.
        """
        found, source = dict(self._given), {name: f"{name}=" for name in self._given}
        for declaration, shape in zip(self.cascade.inputs, shapes, strict=True):
            if len(shape) != len(declaration.ranks):
                raise DataError(
                    f"argument {declaration.tensor} has {len(shape)} dimensions {tuple(shape)}, "
                    f"input {declaration} has {len(declaration.ranks)} ranks",
                    fix="give an array with one dimension for each rank, in that order",
                )
            for rank, size in zip(declaration.ranks, shape, strict=True):
                if found.setdefault(rank, size) != size:
                    raise DataError(
                        f"argument {declaration} has size {size} along rank {rank}, which is "
                        f"{found[rank]} in {source[rank]}",
                        fix=f"give arrays with the same size along {rank}",
                    )
                source.setdefault(rank, str(declaration))
        return found

    def _find(self, key: Any, arguments: Sequence[tuple[tuple[int, ...], str]]) -> _Compiled:
        """Return the kernel for arguments of these shapes and types, compiled if need be."""
        extents = self.extents([shape for shape, _ in arguments])
        types = [element for _, element in arguments]
        fmt = self._format(types)
        trial = self._tuned(fmt, extents)
        tuned = "" if trial is None else f"{trial.tile} {trial.block}"
        name = digest(self._digest, str(sorted(extents.items())), str(types), tuned)
        path = cache_folder() / f"{self.cascade.name}-{name}.so"
        about = path.with_suffix(".json")
        if not (path.exists() and about.exists()):
            program = self._program(extents, fmt, trial)
            build_library(program, path)
            write_whole(about, _description(program))
        found = json.loads(about.read_text(encoding="utf-8"))
        for (_, element), wanted, tensor in zip(arguments, found["types"], self.names, strict=True):
            if element != wanted:
                raise DataError(
                    f"argument {tensor} has elements of type {element}, the kernel wants {wanted}",
                    fix=f"convert {tensor} to {wanted}",
                )
        shapes = tuple(tuple(shape) for shape in found["shapes"])
        made = _Compiled(load_library(path), shapes, tuple(found["made"]))
        self._compiled[key] = made
        return made

    def _format(self, types: Sequence[str]) -> str:
        own = dict(self.cascade.formats)
        given = zip(self.names, types, strict=True)
        floats = sorted({each for name, each in given if each in _FORMATS and name not in own})
        if len(floats) > 1:
            raise DataError(
                f"the arguments have elements of different types: {', '.join(floats)}",
                fix="give floats of one type",
            )
        return _FORMATS[floats[0]] if floats else "fp32"

    def _tuned(self, fmt: str, extents: Mapping[str, int]) -> Trial | None:
        """Return what was measured for a kernel like this one; None if nothing was."""
        if self.mapping is not None or self.tiles is not None:
            return None
        return fastest(database(), kernel_digits(self.cascade, fmt, self._machine), extents)

    def _program(self, extents: Mapping[str, int], fmt: str, trial: Trial | None) -> Program:
        given = self.cascade, extents, self.target, fmt
        if trial is not None:
            try:
                return kernel_program(*given, None, Tiles(*3 * [trial.tile]), trial.block)
            except MappingError as error:
                warnings.warn(
                    f"what was measured for {trial.extents} does not fit {dict(extents)}, which "
                    f"get the default mapping: {error.what}",
                    stacklevel=2,
                )
        return kernel_program(*given, self.mapping, self.tiles)

    # -- PyTorch's operator --------------------------------------------------------------------

    def operator(self) -> Callable[..., Any]:
        """Return the cascade as an operator of PyTorch; `torch.compile` does not look inside."""
        if self._operator is None:
            self._operator = _operator(self)
        return self._operator

    def outputs(self, arrays: Sequence[Any]) -> list[tuple[tuple[int, ...], str]]:
        """Return the shape and element type of each output for tensors, which are not read."""
        from penstock.codegen.tvm.expr import element_type
        from penstock.einsum_ir.formats import parse_format, tensor_formats
        from penstock.runtime.streaming import streamed

        fmt = parse_format(self._format([str(each.dtype)[6:] for each in arrays]))
        extents = self.extents([tuple(int(n) for n in each.shape) for each in arrays])
        bound = streamed(self.cascade, extents, tiles=self.tiles)
        own, found = tensor_formats(self.cascade.formats), []
        for tensor in (each.tensor for each in self.cascade.outputs):
            selects = self.cascade.einsum(tensor).selects
            kind: Literal["index", "data"] = "index" if selects else "data"
            buffer = Buffer(tensor, bound.dims[tensor], kind, own=own.get(tensor))
            found.append((buffer.shape, element_type(buffer, fmt)))
        return found


def kernel_program(
    cascade: Cascade,
    extents: Mapping[str, int],
    target: Target,
    fmt: str,
    mapping: LoopForest | None = None,
    tiles: Tiles | None = None,
    block: int = 0,
) -> Program:
    """Return the loops of which a kernel is compiled.

    Inputs and outputs of 16 bits are read and written as they are; all values between are fp32.

    Args as for `jit`, and `block`: coordinates of a core's block; 0: the default mapping's.
    """
    from penstock.codegen.lower.program import (
        lower,  # what compiles is not loaded to call a kept kernel
    )
    from penstock.einsum_ir.formats import parse_format
    from penstock.einsum_ir.shapes import bind
    from penstock.mapper.check import check
    from penstock.mapper.search.build import default_mapping
    from penstock.runtime.streaming import blocked_mapping, stored_in, streamed

    if mapping is None:
        bound, inner = stored_in(streamed(cascade, extents, tiles=tiles), parse_format(fmt), target)
        mapping = default_mapping(bound, target, inner)
        if block:
            mapping = blocked_mapping(bound, target, inner, block)
            check(mapping, bound, target, inner)
    else:
        bound, inner = stored_in(bind(cascade, shapes=extents), parse_format(fmt), target)
    return lower(bound, mapping, target, inner)


def _operator(jitted: Jitted) -> Callable[..., Any]:
    torch = sys.modules["torch"]
    outputs = len(jitted.cascade.outputs)
    returned = ", ".join("Tensor" for _ in range(outputs))
    arguments = ", ".join(f"Tensor t{n}" for n, _ in enumerate(jitted.names))
    schema = f"({arguments}) -> {f'({returned})' if outputs > 1 else returned}"

    def real(*arrays: Any) -> Any:
        made = jitted._torch(torch, [each.contiguous() for each in arrays])
        return made if outputs > 1 else made[0]

    def fake(*arrays: Any) -> Any:
        made = tuple(
            torch.empty(shape, dtype=getattr(torch, element), device=arrays[0].device)
            for shape, element in jitted.outputs(arrays)
        )
        return made if outputs > 1 else made[0]

    name = f"penstock::{jitted.cascade.name}_{jitted._digest}"
    made = torch.library.custom_op(name, real, mutates_args=(), schema=schema)
    made.register_fake(fake)
    operator: Callable[..., Any] = made
    return operator


def _description(program: Program) -> str:
    from penstock.codegen.tvm.expr import element_type

    types, made = (
        [element_type(each, program.format) for each in given]
        for given in (program.inputs, program.outputs)
    )
    shapes = [each.shape for each in program.outputs]
    return json.dumps({"types": types, "shapes": shapes, "made": made}) + "\n"


@functools.cache
def _fingerprint() -> str:
    """Return digits that change with the machine's instructions and with this package's code."""
    state = hashlib.sha256(f"{TVM_VERSION} {platform.machine()}".encode())
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        state.update(
            "".join(sorted({e for e in lines if e.startswith(("flags", "Feat"))})).encode()
        )
    root = Path(__file__).parents[1]  # the whole package
    for path in sorted(root.rglob("*.py")):
        status = path.stat()
        state.update(f"{path.relative_to(root)} {status.st_mtime_ns} {status.st_size}".encode())
    return state.hexdigest()[:16]
