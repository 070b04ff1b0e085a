"""What a project's files say of its kernel: ports and their channels, tasks, streams, buffers.

Excluded: the kernel itself, templates.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from penstock.codegen.backends import Provenance, Timing
from penstock.codegen.hls.data import file_type, memory_type, type_name
from penstock.codegen.hls.pragmas import bundles
from penstock.codegen.hls.print import KernelText, token_type
from penstock.codegen.hls.resources import NAMES, Use, element_bits, in_words
from penstock.codegen.hls.split import Task, Tasks
from penstock.codegen.loops.nodes import Alloc, Buffer, Program, walk_statements
from penstock.errors import TargetError
from penstock.targets.base import Memory, Target

__all__ = [
    "Port",
    "depths",
    "described_tasks",
    "local_buffers",
    "longest",
    "ports",
    "report",
    "streams",
]

_PORTS_OF_A_BANK = {"DDR": 16}
"""AXI ports that can share a bank: slaves of one SmartConnect (AMD PG247). Others have one."""


@dataclass(frozen=True, slots=True)
class Port:
    """One pointer of the kernel, as the testbench, the hosts and the README name it.

    ``stored`` and ``held`` are the C++ types of an element in files and in the memory, the dtypes
    those of NumPy. ``channel`` is the linker's name of its part of the memory, "" if it has none.
    """

    name: str
    file: str
    type: str
    dims: str
    shape: str
    role: str
    bundle: str
    channel: str
    count: int
    bytes: int
    extents: tuple[int, ...]
    stored: str
    held: str
    file_dtype: str
    dtype: str


def ports(tasks: Tasks, text: KernelText, target: Target | None = None) -> tuple[Port, ...]:
    """Return the ports of a kernel, in the order of its parameters.

    Args:
        tasks: of the kernel.
        text: of it.
        target: gives the channels of the outer memory; no channels without.

    Raises:
        TargetError: there are more ports than the memory's channels have.
    """
    program = tasks.program
    found = bundles(program)
    channels = _channels(target.dram, len(found), target.name) if target else [""] * len(found)
    return tuple(
        _port(program, text, *each, channel) for each, channel in zip(found, channels, strict=True)
    )


def _channels(memory: Memory, wanted: int, target: str) -> list[str]:
    """Give every port a channel; they are dealt out in turn."""
    if not memory.bank:
        return [""] * wanted
    each = _PORTS_OF_A_BANK.get(memory.bank, 1)
    if wanted > each * memory.channels:
        raise TargetError(
            f"the kernel has {wanted} ports to {memory.name}, but {target} has "
            f"{memory.channels} channels of {each} port{'s' if each > 1 else ''} each",
            fix="keep intermediate tensors in a memory on the chip, or choose a machine with more",
        )
    return [f"{memory.bank}[{number % memory.channels}]" for number in range(wanted)]


def _port(
    program: Program, text: KernelText, buffer: Buffer, role: str, bundle: str, channel: str
) -> Port:
    stored, file_dtype = file_type(buffer, program.format)
    held, dtype = memory_type(buffer, program.format)
    count = math.prod(buffer.shape)
    return Port(
        name=text.names[buffer.name],
        file=buffer.name,
        type=type_name(buffer.kind, buffer.own),
        dims="".join(f"[{extent}]" for extent in buffer.shape) or "[1]",
        shape=_shape(buffer),
        role=role,
        bundle=bundle,
        channel=channel,
        count=count,
        bytes=count * int(dtype[-1]),
        extents=buffer.shape or (1,),
        stored=stored,
        held=held,
        file_dtype=file_dtype,
        dtype=dtype,
    )


def _shape(buffer: Buffer) -> str:
    return " x ".join(str(extent) for extent in buffer.shape) or "scalar"


def described_tasks(tasks: Tasks, text: KernelText, source: Provenance) -> list[dict[str, str]]:
    """Return a name and a sentence for each task."""
    return [
        {"name": name, "text": _sentence(task, source)}
        for task, name in zip(tasks.tasks, text.tasks, strict=True)
    ]


def longest(timing: Timing) -> str:
    """Return the task that does most of its own: it ends late without waiting."""
    waited = dict.fromkeys(timing.ends, 0)
    for task, _, _, cycles in timing.stalls:
        waited[task] += cycles
    return max(timing.ends, key=lambda task: timing.ends[task] - waited[task])


def _sentence(task: Task, source: Provenance) -> str:
    timing = source.timing
    if timing is None:
        return ""
    waits = [
        f"{cycles:,} for {stream} ({state})"
        for name, stream, state, cycles in timing.stalls
        if name == task.name
    ]
    waited = f", of which it waits {', '.join(waits)}" if waits else ""
    return f": ends in cycle {timing.ends[task.name]:,}{waited}"


def streams(tasks: Tasks, text: KernelText, source: Provenance) -> list[dict[str, Any]]:
    """Return a row for each stream."""
    timing = source.timing
    return [
        {
            "name": text.names[each.name],
            "token": token_type(each),
            "lanes": each.lanes,
            "depth": each.depth,
            "least": timing.minimal[each.name] if timing else "-",
            "reason": each.reason,
        }
        for each in tasks.streams.values()
    ]


def depths(tasks: Tasks, text: KernelText, source: Provenance) -> tuple[str, str]:
    """Return the streams' depths, and the least ones, as the bounded simulation takes them."""
    if source.timing is None:
        return "", ""
    least = source.timing.minimal
    both = [
        (text.names[each.name], each.depth, least[each.name]) for each in tasks.streams.values()
    ]
    return (
        ",".join(f"{name}={depth}" for name, depth, _ in both),
        ",".join(f"{name}={depth}" for name, _, depth in both),
    )


def local_buffers(tasks: Tasks, text: KernelText) -> list[dict[str, str | int]]:
    """Return a row for each array on the chip."""
    program = tasks.program
    outer = {buffer.name for buffer, _, _ in bundles(program)} | tasks.words
    found = (each.buffer for each in walk_statements(program.body) if isinstance(each, Alloc))
    return [
        {
            "name": text.names[buffer.name],
            "shape": _shape(buffer),
            "type": type_name(buffer.kind, buffer.own),
            "memory": buffer.memory or "-",
            "bits": math.prod(buffer.shape) * element_bits(buffer, program),
        }
        for buffer in found
        if buffer.shape and buffer.name not in outer
    ]


def report(
    tasks: Tasks,
    text: KernelText,
    target: Target,
    source: Provenance,
    used: tuple[Use, ...],
    lines: int,
) -> str:
    """Return ``report.json``: what the README says, for programs."""
    timing = source.timing
    content = {
        "penstock": "hls report",
        "design": source.digest,
        "command": source.command,
        "target": target.name,
        "part": target.part,
        "clock_hz": target.clock_hz,
        "format": str(tasks.program.format),
        "kernel_lines": lines,
        "metrics": [each.to_json() for each in source.metrics],
        "pipeline": timing
        and {
            "cycles": timing.cycles,
            "evidence": "model",
            "tasks": dict(timing.ends),
            "stalls": [
                dict(zip(("task", "stream", "state", "cycles"), each, strict=True))
                for each in timing.stalls
            ],
            "loops": [
                dict(zip(("task", "loop", "interval", "why", "steps"), each, strict=True))
                for each in timing.loops
            ],
        },
        "resources": {
            "evidence": "model",
            "has": dict(target.resources),
            "exceeded": in_words(used, dict(target.resources)),
            "tasks": {each.task: dict(zip(NAMES, each.counts, strict=True)) for each in used},
        },
        "streams": streams(tasks, text, source),
        "ports": [
            {"name": each.name, "bundle": each.bundle, "channel": each.channel, "bytes": each.bytes}
            for each in ports(tasks, text, target)
        ],
        "buffers": local_buffers(tasks, text),
    }
    return json.dumps(content, indent=2) + "\n"
