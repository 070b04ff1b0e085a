"""penstock's search beside AccelForge's on the same cascades and machines, in one run.

    python benchmarks/mapper/peers.py --accelforge 'PYTHON' --zigzag 'PYTHON' [CASE ...]

PYTHON is the command of an interpreter >= 3.12 in an environment of its own with ``pip install
accelforge`` and Graphviz (``dot``), or with ``pip install zigzag-dse six``. Without one of them
the others run. Each tool maps
each case in a process of its own, with its defaults, for latency; printed are the result, the wall
time of the search alone (imports aside), and CPU time and peak memory of the one process.

What AccelForge is given is derived from our `Bound` and `Target` by `spec`, never by hand: one
``!Memory`` for each memory that all arrays share (the same bytes, bandwidth, energy); one
``!Container`` for each array, with a fan-out for each axis, and in it one ``!Compute`` for each
number of cycles that a point of some Einsum takes there; one Einsum for each Einsum, its accesses
as projections. It has no iterative ranks, predicates or index arithmetic: those are refused.

The common counting rules are AccelForge's: an Einsum takes the larger of its compute cycles and of
its bytes at each memory over the bandwidth, and Einsums come one after another. Our winner is
counted again by them (`in_turn`); where a tensor has several readers its bytes are charged on top
of everything, against us. Our own model also overlaps Einsums: the second number. Memories of an
array's own places (register files) are left out for both, since the tools fill them by rules that
do not compare; with unlimited bandwidth inside they would not change a latency.
"""

import argparse
import json
import math
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from zigzag_spec import InexpressibleError
from zigzag_spec import spec as zigzag_spec

from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.nodes import Var
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import output_ops, point_ops
from penstock.mapper.leaf import arrays_for
from penstock.mapper.search.explore import explore
from penstock.targets import TARGETS

PLAIN = """
cascade plain(Q[h, p, e], K[h, m, e], V[h, m, f]) -> O[h, p, f]
  QK[h, p, m] = Q[h, p, e] * K[h, m, e]  :: sum[e]
  A[h, p, m]  = exp(QK[h, p, m])
  O[h, p, f]  = A[h, p, m] * V[h, m, f]  :: sum[m]
"""
THREE_PASS = """
cascade three_pass(Q[h, p, e], K[h, m, e], V[h, m, f]) -> O[h, p, f]
  QK[h, p, m] = Q[h, p, e] * K[h, m, e]  :: sum[e]
  GM[h, p]    = QK[h, p, m]              :: max[m]
  SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
  SD[h, p]    = SN[h, p, m]              :: sum[m]
  A[h, p, m]  = SN[h, p, m] / SD[h, p]
  O[h, p, f]  = A[h, p, m] * V[h, m, f]  :: sum[m]
"""
CHAIN = """
cascade chain(A[m, k], B[k, n], C[n, q]) -> Z[m, q]
  T[m, n] = A[m, k] * B[k, n]
  Z[m, q] = T[m, n] * C[n, q]
"""
BERT_4K = {"h": 12, "p": 4096, "m": 4096, "e": 64, "f": 64}


def shared(target, arrays=()):
    """Return a machine without memories of an array's own, and perhaps with some arrays only."""
    kept = tuple(each for each in target.arrays if not arrays or each.name in arrays)
    return replace(target, memories=tuple(m for m in target.memories if not m.array), arrays=kept)


def cases():
    """Return name → (cascade with its extents, machine)."""
    fusemax, mesh = TARGETS.get("fusemax"), TARGETS.get("mesh4x4")
    one = shared(fusemax, ("pe2d",))
    small = {"h": 1, "p": 64, "m": 64, "e": 16, "f": 16}
    tight = one.override("gb.capacity_bytes", 2**20)
    one_pass = {"b": 1, **BERT_4K, "m0": 256}
    return {
        "smallest attention, 4x4": (bind(parse(PLAIN), shapes=small), shared(mesh, ("pe2d",))),
        "two matmuls 1K, 1 MB": (
            bind(parse(CHAIN), shapes=dict.fromkeys("mknq", 1024)),
            tight,
        ),
        "BERT 4K, one scalar Einsum": (bind(parse(PLAIN), shapes=BERT_4K), one),
        "BERT 4K, 3-pass": (bind(parse(THREE_PASS), shapes=BERT_4K), shared(fusemax)),
        "BERT 4K, 1-pass": (bind(zoo.load("attention_1pass"), shapes=one_pass), shared(fusemax)),
    }


# -- what AccelForge is given ----------------------------------------------------------------


def spec(bound, target):
    """Return the architecture and the workload in AccelForge's YAML."""
    bits = int(8 * parse_format(target.format).bytes)
    return "\n".join([*architecture(bound, target), *workload(bound, bits)]) + "\n"


def architecture(bound, target):
    lines = ["arch:", "  nodes:"]
    for number, memory in enumerate(target.memories):
        keep = "{keep: ~Intermediates, may_keep: All}"
        if number:
            keep = f"{{keep: ~{target.memories[number - 1].name}, may_keep: All}}"
        speed = memory.bytes_per_cycle * memory.instances * target.clock_hz * 8
        lines += node("Memory", memory.name, 2)
        lines += [f"    size: {memory.total_bytes * 8}", f"    tensors: {keep}", "    actions:"]
        for action, pj in (("read", memory.read_pj_per_byte), ("write", memory.write_pj_per_byte)):
            energy = f"energy: {pj / 8 * 1e-12}"
            lines.append(f"    - {{name: {action}, {energy}, throughput: {speed}}}")
    for number, array in enumerate(target.arrays):
        last = number == len(target.arrays) - 1
        indent = 2 if last else 4
        if not last:
            lines += ["  - !Fork", "    nodes:"]
        lines += places(bound, target, array, indent)
    return lines


def node(kind, name, indent):
    pad = " " * indent
    zero = [f"{pad}  leak_power: 0", f"{pad}  area: 0"] if kind != "Container" else []
    return [f"{pad}- !{kind}", f"{pad}  name: {name}", *zero]


def places(bound, target, array, indent):
    """Return an array: its places, and a compute for each number of cycles of a point."""
    pad = " " * indent
    lines = [*node("Container", f"{array.name}_places", indent), f"{pad}  spatial:"]
    for axis in array.axes:
        reuse = "" if axis.reduces else ", may_reuse: ~Outputs"
        lines.append(f"{pad}  - {{name: {axis.name}, fanout: {axis.size}{reuse}}}")
    by_cycles = {}
    for einsum in bound.cascade.einsums:
        if array in arrays_for(einsum, bound, target):
            by_cycles.setdefault(cycles(einsum, array), []).append(einsum.name)
    for number, names in by_cycles.items():
        lines += node("Compute", f"{array.name}_{number:g}".replace(".", "_"), indent)
        lines += [f"{pad}  enabled: len(Outputs & ({' | '.join(names)})) > 0", f"{pad}  actions:"]
        rate = target.clock_hz / number
        lines.append(f"{pad}  - {{name: compute, energy: 0, throughput: {rate}}}")
    return lines


def cycles(einsum, array):
    if output_ops(einsum):
        raise InexpressibleError(f"{einsum.name} has operators of its output elements")
    costs = dict(array.cycles)
    return sum(count * costs[op] for op, count in point_ops(einsum).items()) or 1.0


def workload(bound, bits):
    lines = ["workload:", "  iteration_space_shape:"]
    lines += [f"    {name}: 0 <= {name} < {size}" for name, size in bound.extents.items()]
    lines += [f"  bits_per_value: {{All: {bits}}}", "  einsums:"]
    if bound.cascade.iterative:
        raise InexpressibleError(f"iterative rank of {', '.join(bound.cascade.iterative)}")
    for einsum in bound.cascade.einsums:
        if einsum.where is not None:
            raise InexpressibleError(f"predicate of {einsum.name}")
        lines += [f"  - name: {einsum.name}_of", "    tensor_accesses:"]
        for access in dict.fromkeys((*einsum.operands, einsum.output)):
            if not all(isinstance(index, Var) for index in access.indices):
                raise InexpressibleError(f"index arithmetic of {access}")
            names = ", ".join(index.name for index in access.indices)
            out = ", output: True" if access == einsum.output else ""
            lines.append(f"    - {{name: {access.tensor}, projection: [{names}]{out}}}")
    return lines


# -- ours ------------------------------------------------------------------------------------


def ours(bound, target):
    """Search, and return what AccelForge's side returns."""
    started = time.perf_counter()
    found = explore(bound, target, parse_format(target.format))
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "latency_s": in_turn(found, bound, target) / target.clock_hz,
        "overlapping_s": found.evaluation.latency_s,
        "dram_bytes": found.evaluation.dram_bytes,
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1024,
        "mappings": found.points,
        "optimal": found.optimal,
        "mapping": str(found.mapping),
    }


def in_turn(found, bound, target):
    """Return the cycles of a mapping by AccelForge's rules: Einsums one after another."""
    fmt = parse_format(target.format)
    busy = {leaf.einsum: {"": leaf.cycles + leaf.init_cycles} for leaf in found.evaluation.leaves}
    readers = {}
    for einsum in bound.cascade.einsums:
        for tensor in {access.tensor for access in einsum.operands}:
            readers.setdefault(tensor, []).append(einsum.name)
    on_top = 0.0
    for row in found.evaluation.traffic:
        memory = target.memory(row.memory)
        speed = memory.bytes_per_cycle * memory.instances
        for count, users in ((row.reads, readers.get(row.tensor, [])), (row.writes, [row.tensor])):
            took = count * fmt.bytes / speed
            names = [name for name in users if name in busy]
            if len(names) != 1:
                on_top += took
                continue
            mine = busy[names[0]]
            mine[row.memory] = mine.get(row.memory, 0.0) + took
    return on_top + sum(max(each.values()) for each in busy.values())


# -- both ------------------------------------------------------------------------------------


def measured(command, text, limit):
    """Run one tool's side in a process; return what it printed, or why it did not."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {limit} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def accelforge(bound, target, command, limit):
    """Return what AccelForge says of a case."""
    return measured(command, spec(bound, target), limit)


def zigzag(bound, target, command, limit):
    """Return what ZigZag says of a case: its cycles, loading and waiting for ports included."""
    said = measured(command, json.dumps(zigzag_spec(bound, target)), limit)
    if "failed" not in said:
        said["latency_s"] = said["cycles"] / target.clock_hz
    return said


def show(name, tool, said):
    if "failed" in said:
        print(f"{name:<28}{tool:<12}{said['failed']}", flush=True)
        return
    more = f"{said['overlapping_s'] * 1e3:>12.4f}" if "overlapping_s" in said else " " * 12
    print(
        f"{name:<28}{tool:<12}{said['latency_s'] * 1e3:>12.4f}{more}"
        f"{said.get('dram_bytes', math.nan) / 1e6:>10.2f}{said['seconds']:>9.2f}"
        f"{said['cpu_s']:>9.2f}{said['memory_mb']:>9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CASE", help="cases; all if there are none")
    parser.add_argument("--accelforge", default="", help="command of a Python with AccelForge")
    parser.add_argument("--zigzag", default="", help="command of a Python with ZigZag")
    parser.add_argument("--side", help="file of AccelForge's part, as that Python sees it")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for each search")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--spec", help="print what AccelForge would be given for a case")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    known = cases()
    if options.ours:
        print(json.dumps(ours(*known[options.ours])))
        return
    if options.spec:
        print(spec(*known[options.spec]), end="")
        return
    here = Path(__file__)
    side = options.side or str(here.with_name("accelforge_side.py"))
    tools = (
        ("AccelForge", options.accelforge, side, accelforge),
        ("ZigZag", options.zigzag, str(here.with_name("zigzag_side.py")), zigzag),
    )
    head = f"{'latency ms':>12}{'overlapped':>12}{'DRAM MB':>10}{'wall s':>9}{'CPU s':>9}{'MB':>9}"
    print(f"{'case':<28}{'tool':<12}{head}")
    rows = {}
    for name in options.names or known:
        rows[name] = {
            "penstock": measured([sys.executable, __file__, "--ours", name], "", options.limit)
        }
        show(name, "penstock", rows[name]["penstock"])
        for tool, python, file, run in tools:
            if python:
                command = [*shlex.split(python), file]
                try:
                    rows[name][tool] = run(*known[name], command, options.limit)
                except InexpressibleError as reason:
                    rows[name][tool] = {"failed": f"cannot express it: {reason}"}
                show(name, tool, rows[name][tool])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
