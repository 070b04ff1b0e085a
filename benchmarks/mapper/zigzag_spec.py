"""A cascade of matrix products and a machine as ZigZag is given them, for `peers.py`.

ZigZag maps one layer after the other: O += I * W, each with the machine to itself. Of everything
else (other operators, a third operand, batches that both operands have, several arrays) it has
nothing to say here, and `layers` refuses it. As for AccelForge, only memories that all arrays share
are given; the buffer's port is as wide as it may be, so that only the outermost memory's counts.
"""

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.nodes import Var

WIDE_BITS = 1 << 24
"""More than an array of 256 x 256 takes in a cycle."""
ALL = [f"{operand}, {way}" for operand in ("I1", "I2", "O") for way in ("fh", "tl")]
ALL += ["O, fl", "O, th"]


class InexpressibleError(Exception):
    """The peer has no words for it."""


def spec(bound, target):
    """Return workload, hardware and mapping, as its YAML files have them."""
    bits = int(8 * parse_format(target.format).bytes)
    return {
        "workload": layers(bound, bits),
        "hardware": hardware(target, bits),
        "mapping": [{"name": "default", "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}],
    }


def layers(bound, bits):
    makers = [each.name for each in bound.cascade.einsums]
    return [
        layer(number, einsum, makers, bound.extents, bits)
        for number, einsum in enumerate(bound.cascade.einsums)
    ]


def layer(number, einsum, makers, extents, bits):
    first, second = product(einsum)
    names = {name: name.upper() for name in einsum.variables}
    written, left, right = (
        "".join(f"[{names[index.name].lower()}]" for index in access.indices)
        for access in (einsum.output, first, second)
    )
    source = makers.index(first.tensor) if first.tensor in makers else number
    return {
        "id": number,
        "operator_type": "Gemm",
        "equation": f"O{written}+=I{left}*W{right}",
        "loop_dims": list(names.values()),
        "loop_sizes": [extents[name] for name in names],
        "operand_source": {"I": source, "W": number},
        "operand_precision": dict.fromkeys(("O", "O_final", "W", "I"), bits),
    }


def product(einsum):
    """Return the operands of a sum of products, the one that another Einsum may define first."""
    plain = all(
        isinstance(i, Var) for each in (einsum.output, *einsum.operands) for i in each.indices
    )
    summed = einsum.reduce is not None and einsum.reduce.op == "sum"
    if not (plain and summed and einsum.where is None and len(einsum.operands) == 2):
        raise InexpressibleError(f"{einsum.name} is no sum of products of two operands")
    if str(einsum.body) != f"{einsum.operands[0]} * {einsum.operands[1]}":
        raise InexpressibleError(f"{einsum.name} is more than a product")
    shared = [set(each.indices) for each in (einsum.output, *einsum.operands)]
    if set.intersection(*shared):
        raise InexpressibleError(f"{einsum.name} has a batch")
    return einsum.operands


def hardware(target, bits):
    if len(target.arrays) > 1:
        raise InexpressibleError("more than one array")
    (array,) = target.arrays
    axes = [f"D{number}" for number in range(1, len(array.axes) + 1)]
    found = {}
    for memory in reversed(target.memories):
        speed = memory.bytes_per_cycle * memory.instances * 8
        wide = int(min(speed, WIDE_BITS))
        port = {
            "name": "rw_port_1",
            "type": "read_write",
            "bandwidth_min": bits,
            "bandwidth_max": wide,
            "allocation": ALL,
        }
        found[memory.name] = {
            "size": int(min(memory.total_bytes * 8, 1 << 50)),
            "r_cost": 0.0,
            "w_cost": 0.0,
            "area": 0,
            "latency": 1,
            "auto_cost_extraction": False,
            "operands": ["I1", "I2", "O"],
            "ports": [port],
            "served_dimensions": axes,
        }
    units = {"unit_energy": 0.0, "unit_area": 1, "input_precision": [bits, bits]}
    sizes = [axis.size for axis in array.axes]
    return {
        "name": target.name,
        "memories": found,
        "operational_array": {**units, "dimensions": axes, "sizes": sizes},
    }
