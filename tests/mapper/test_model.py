"""The model's counts against a walker that runs every loop, and against counts made by hand."""

import itertools
import json
import math
import random

import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import compulsory_bytes
from penstock.mapper.check import check
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS
from penstock.targets.base import Array, Axis, Memory, Target

FP16 = parse_format("fp16")
COSTS = (("mac", 1.0), ("*", 1.0), ("+", 1.0), ("-", 1.0), ("max", 1.0), ("exp", 6.0), ("/", 2.0))
TOY = Target(
    "toy",
    "spatial",
    1e9,
    (
        Memory("dram", math.inf, 8.0, 10.0, 20.0),
        Memory("gb", 1e6, read_pj_per_byte=1.0, write_pj_per_byte=2.0),
        Memory("rf", 1e5, array="pes", instances=1),
    ),
    (
        Array(
            "pes",
            (Axis("rows", 4, "pe", reduces=True), Axis("cols", 4, "pe", reduces=True)),
            COSTS,
            (("mac", 3.0), ("max", 1.0)),
        ),
        Array("lanes", (Axis("lanes", 4, "pe"),), COSTS, (("mac", 3.0),)),
    ),
    "fp16",
    "made up",
)


# -- the oracle: every iteration of every loop, with sets of elements ------------------------


class Walker:
    """Runs the loops of a mapping and counts what the documented rules say, one step at a time."""

    def __init__(self, mapping, bound, target):
        self.bound, self.target = bound, target
        self.traffic = {}
        self.cycles = {}
        self.points = {}
        self.there = {}
        self.begun = {}
        self.drained = {}
        box = {name: range(extent) for name, extent in bound.extents.items()}
        self.walk(mapping.body, box, {})

    def row(self, tensor, memory):
        return self.traffic.setdefault((tensor, memory), [0, 0, 0, 0])

    def walk(self, body, box, kept):
        kept = dict(kept)
        for node in body:
            if isinstance(node, Keep):
                for tensor in node.tensors:
                    self.enter(node, tensor, body, box, kept.get(tensor, "dram"))
                    kept[tensor] = node.memory
            elif isinstance(node, Nest):
                for inner in self.steps(node.loop, box):
                    self.walk(node.body, inner, kept)
            else:
                self.visit(node, box, kept)

    def steps(self, loop, box):
        left = box[loop.variable]
        for start in range(left.start, left.stop, loop.tile):
            yield {**box, loop.variable: range(start, min(start + loop.tile, left.stop))}

    def touched(self, body, box, tensor, *, written):
        found = set()
        for node in body:
            if isinstance(node, Nest):
                found |= self.touched(node.body, box, tensor, written=written)
            elif isinstance(node, Compute):
                einsum = self.bound.cascade.einsum(node.einsum)
                uses = [einsum.output] if written else einsum.operands
                for access in uses:
                    if access.tensor == tensor:
                        found |= self.block(access, box)
        return found

    def block(self, access, box):
        """The elements of an access over a box: only those in range exist."""
        names = sorted({n for i in access.indices for n, _ in self.form(i).coefficients})
        found = set()
        for point in itertools.product(*(box[name] for name in names)):
            found |= self.element(access, dict(zip(names, point, strict=True)))
        return found

    def form(self, index):
        return affine(index, self.bound.symbols)

    def element(self, access, point):
        place = []
        for index, extent in zip(access.indices, self.bound.dims[access.tensor], strict=True):
            form = self.form(index)
            value = form.constant + sum(f * point[n] for n, f in form.coefficients)
            if not 0 <= value < extent:
                return set()
            place.append(value)
        return {tuple(place)}

    def enter(self, keep, tensor, body, box, outer):
        key = (id(keep), tensor)
        cascade = self.bound.cascade
        made = self.touched(body, box, tensor, written=True)
        is_output = any(each.tensor == tensor for each in cascade.outputs)
        if is_output and made and self.there.get(key) != made:
            self.there[key] = made
            again = made & self.drained.setdefault(key, set())
            self.drained[key] |= made
            self.row(tensor, keep.memory)[0] += len(made)
            self.row(tensor, keep.memory)[3] += len(made)
            self.row(tensor, outer)[1] += len(made)
            self.row(tensor, outer)[0] += len(again)
            self.row(tensor, keep.memory)[1] += len(again)
            self.row(tensor, keep.memory)[2] += len(again)
        if any(each.tensor == tensor for each in cascade.inputs):
            read = self.touched(body, box, tensor, written=False)
            if read and self.there.get(key) != read:
                self.there[key] = read
                self.row(tensor, outer)[0] += len(read)
                self.row(tensor, keep.memory)[1] += len(read)
                self.row(tensor, keep.memory)[2] += len(read)

    def visit(self, leaf, box, kept):
        einsum = self.bound.cascade.einsum(leaf.einsum)
        held, written = {}, None
        for points in self.beats(leaf.loops, {n: box[n] for n in einsum.variables}):
            self.cycles[leaf.einsum] = self.cycles.get(leaf.einsum, 0) + 1
            self.points[leaf.einsum] = self.points.get(leaf.einsum, 0) + len(points)
            for access in {str(each): each for each in einsum.operands}.values():
                wanted = set().union(*(self.element(access, point) for point in points))
                names = {n for i in access.indices for n, _ in self.form(i).coefficients}
                steps = {tuple(point[name] for name in sorted(names)) for point in points}
                if held.get(str(access)) != steps:
                    held[str(access)] = steps
                    self.row(access.tensor, kept.get(access.tensor, "dram"))[0] += len(wanted)
            results = set().union(*(self.element(einsum.output, point) for point in points))
            if results != written:
                written = results
                row = self.row(einsum.name, kept.get(einsum.name, "dram"))
                begun = self.begun.setdefault(einsum.name, set())
                row[1] += len(results)
                row[0] += len(results & begun)
                begun |= results

    def beats(self, loops, box):
        """Yield, for each step in time, the points that the places compute side by side."""
        times = [loop for loop in loops if not loop.spatial]
        counts = [self.length(loops, loop, box) for loop in times]
        for ticks in itertools.product(*(range(count) for count in counts)):
            clock = dict(zip(map(id, times), ticks, strict=True))
            points = list(self.places(loops, box, clock))
            if points:
                yield points

    def length(self, loops, wanted, box):
        left = dict.fromkeys(box, 0) | {name: len(r) for name, r in box.items()}
        for loop in loops:
            if loop is wanted:
                return -(-left[loop.variable] // loop.tile)
            left[loop.variable] = min(left[loop.variable], loop.tile)
        raise AssertionError

    def places(self, loops, box, clock):
        if not loops:
            yield {name: r.start for name, r in box.items()}
            return
        loop, rest = loops[0], loops[1:]
        for number, inner in enumerate(self.steps(loop, box)):
            if loop.spatial or number == clock[id(loop)]:
                yield from self.places(rest, inner, clock)


CASCADES = {
    "product": "cascade c(A[m,k], B[k,n]) -> Z[m,n]\n  Z[m,n] = A[m,k]*B[k,n]",
    "window": "cascade c(A[x], B[k]) -> Z[i]\n  shape x = 9\n  Z[i] = A[i+k]*B[k]",
    "stride": "cascade c(A[x], B[k]) -> Z[i]\n  shape x = 12\n  Z[i] = A[2*i+k]*B[k]",
    "rowmax": "cascade c(A[m,k]) -> Z[m]\n  Z[m] = A[m,k] :: max[k]",
    "chain": "cascade c(A[m,k], B[k,n], C[n]) -> Z[m,n]\n"
    "  Y[m,n] = A[m,k]*B[k,n]\n  Z[m,n] = Y[m,n]*C[n]",
}


def random_loops(rng, extents, *, leaf):
    """Random loops; those of a leaf end with single coordinates."""
    loops, left = [], dict(extents)
    names = [name for name in left for _ in range(rng.choice((0, 1, 1, 2)))]
    rng.shuffle(names)
    for name in names:
        tile = rng.randint(1, left[name])
        loops.append(Loop(name, tile))
        left[name] = min(left[name], tile)
    if not leaf:
        return loops
    axes = ["rows", "cols"]
    closing = [name for name, count in left.items() if count > 1]
    rng.shuffle(closing)
    for name in closing:
        place = rng.randint(0, len(loops)) if name not in names else len(loops)
        spatial = axes and left[name] <= 4 and rng.random() < 0.5
        loops.insert(place, Loop(name, 1, axes.pop() if spatial else ""))
    return loops


def random_mapping(rng, bound):
    """A random legal mapping: one nest around everything that may share it, one leaf each."""
    cascade = bound.cascade
    shared = set.intersection(
        *(
            {n for i in e.output.indices for n, _ in affine(i, {}).coefficients}
            for e in cascade.einsums
        )
    )
    alone = len(cascade.einsums) == 1
    names = bound.extents if alone else {n: bound.extents[n] for n in bound.extents if n in shared}
    used = cascade.einsums[0].variables
    nests = random_loops(rng, {n: e for n, e in names.items() if n in used}, leaf=False)
    left = dict(bound.extents)
    for loop in nests:
        left[loop.variable] = min(left[loop.variable], loop.tile)
    body = []
    for einsum in cascade.einsums:
        loops = random_loops(rng, {n: left[n] for n in einsum.variables}, leaf=True)
        body.append(Compute(einsum.name, "pes", tuple(loops)))
    outer_tensors = [each.tensor for each in (*cascade.inputs, *cascade.outputs)]
    levels = {depth: [] for depth in range(len(nests) + 1)}
    for tensor in outer_tensors:
        depths = sorted(
            rng.sample(range(len(nests) + 1), min(len(nests) + 1, rng.choice((0, 1, 2))))
        )
        for depth, memory in zip(depths, ("gb", "rf"), strict=False):
            levels[depth].append(Keep((tensor,), memory))
    for depth in range(len(nests), -1, -1):
        body = [*levels[depth], *body]
        if depth:
            body = [Nest(nests[depth - 1], tuple(body))]
    return Mapping("random", "c", "toy", tuple(body))


@pytest.mark.parametrize("name", CASCADES)
def test_counts_equal_those_of_walking_every_iteration(name):
    rng = random.Random(name)
    cascade = parse(CASCADES[name])
    for _ in range(60):
        fixed = dict(cascade.shape)
        ranks = sorted({v for e in cascade.einsums for v in e.variables})
        shapes = {each: rng.randint(1, 7) for each in ranks if each not in fixed}
        if name in ("window", "stride"):
            shapes = {"i": rng.randint(1, 5), "k": rng.randint(1, 4)}
        bound = bind(cascade, shapes=shapes)
        mapping = random_mapping(rng, bound)
        check(mapping, bound, TOY, FP16)
        got, want = evaluate(mapping, bound, TOY, FP16), Walker(mapping, bound, TOY)
        for leaf in got.leaves:
            assert leaf.cycles == want.cycles[leaf.einsum], str(mapping)
            assert leaf.points == want.points[leaf.einsum], str(mapping)
        counted = {
            (row.tensor, row.memory): [row.reads, row.writes, row.fills, row.drains]
            for row in got.traffic
        }
        walked = {key: row for key, row in want.traffic.items() if any(row)}
        assert counted == walked, f"{mapping}\n{shapes}"


def rows_of(found):
    return {(row.tensor, row.memory): row for row in found.traffic}


def toy(text, mapping, **shapes):
    """Evaluate a one-line cascade on the toy machine after checking the mapping."""
    bound = bind(parse(text), shapes=shapes)
    parsed = parse_mapping(f"mapping t for c on toy\n{mapping}")
    check(parsed, bound, TOY, FP16)
    return evaluate(parsed, bound, TOY, FP16)


# -- by hand --------------------------------------------------------------------------------

PRODUCT = CASCADES["product"]


def test_product_by_hand():
    # Z 8x8, K = 5; 4x4 places: 2 x 2 tiles of 5 steps. A is read for every n tile (4 rows x 5 x
    # 2 x 2), B likewise; each read serves 4 places. Z is written once.
    nest = "for m by 4\n  for n by 4\n    Z on pes: m@rows, n@cols, k"
    found = toy(PRODUCT, nest, m=8, n=8, k=5)
    rows = rows_of(found)
    assert found.compute_cycles == 20
    assert (rows["A", "dram"].reads, rows["B", "dram"].reads) == (80, 80)
    assert (rows["Z", "dram"].writes, rows["Z", "dram"].reads) == (64, 0)
    # 224 elements of 2 bytes at 8 bytes a cycle
    assert found.memory_cycles["dram"] == 56
    assert (found.latency_cycles, found.binding) == (56, "dram")
    # 320 mac x 3 pJ + 160 elements read x 2 B x 10 pJ + 64 written x 2 B x 20 pJ
    assert found.energy_pj == 320 * 3 + 320 * 10 + 128 * 20
    assert found.energy_by_component() == {"pes": 960.0, "dram": 5760.0}
    assert found.utilisation()["pes"] == pytest.approx(20 / 56)
    assert found.busy()["pes"] == pytest.approx(20 / 56)


def test_a_stationary_operand_is_read_once():
    # n innermost in time does not concern A: each of the 3 x 4 elements is read once
    found = toy(PRODUCT, "Z on pes: m, k, n", m=3, n=5, k=4)
    rows = rows_of(found)
    assert (rows["A", "dram"].reads, rows["B", "dram"].reads) == (12, 60)
    # the output changes each step, so partial sums go out and come back: 60 written, 45 read
    assert (rows["Z", "dram"].writes, rows["Z", "dram"].reads) == (60, 45)


def test_a_kept_output_is_written_out_once_and_partial_sums_stay_inside():
    nest = "for m by 2\n  keep Z in gb\n  for k by 2\n    keep A in rf\n    Z on pes: m, k, n"
    rows = rows_of(toy(PRODUCT, nest, m=3, n=5, k=4))
    assert (rows["Z", "dram"].writes, rows["Z", "dram"].reads) == (15, 0)
    assert (rows["Z", "gb"].writes, rows["Z", "gb"].reads) == (60, 45 + 15)
    assert rows["Z", "gb"].drains == 15


def test_partial_sums_come_back_when_the_output_tile_leaves():
    # k outside: the whole Z goes out and in for each of the 2 k tiles
    nest = "for k by 2\n  for m\n    keep Z in gb\n    Z on pes: n, k"
    rows = rows_of(toy(PRODUCT, nest, m=3, n=5, k=4))
    assert (rows["Z", "dram"].writes, rows["Z", "dram"].reads) == (30, 15)


def test_a_tile_moves_only_when_it_changes():
    # n does not concern A, and nothing inside it does: A is filled once
    assert (
        rows_of(toy(PRODUCT, "for n\n  keep A in gb\n  Z on pes: m, k", m=3, n=5, k=4))[
            "A", "gb"
        ].fills
        == 12
    )
    # m inside n: every n goes over all m again
    nest = "for n\n  for m\n    keep A in gb\n    Z on pes: k"
    assert rows_of(toy(PRODUCT, nest, m=3, n=5, k=4))["A", "gb"].fills == 60
    # ... unless m has one step
    nest = "for n\n  for m by 3\n    keep A in gb\n    Z on pes: m, k"
    assert rows_of(toy(PRODUCT, nest, m=3, n=5, k=4))["A", "gb"].fills == 12


def test_shared_heads_are_loaded_once_for_each_group():
    # 6 query heads read 2 key heads: K of a key head stays while its 3 query heads pass
    text = "cascade c(Q[h,e], K[g,m,e]) -> S[h,m]\n  S[h,m] = Q[h,e]*K[h//3,m,e]"
    nest = "for h\n  keep K in gb\n  S on pes: m@rows, e"
    rows = rows_of(toy(text, nest, h=6, g=2, m=4, e=5))
    assert rows["K", "gb"].fills == 2 * 4 * 5
    # with the keys tiled inside the heads nothing stays: each head loads its keys
    nest = "for h\n  for m by 2\n    keep K in gb\n    S on pes: m@rows, e"
    assert rows_of(toy(text, nest, h=6, g=2, m=4, e=5))["K", "gb"].fills == 6 * 4 * 5


def test_halo_and_border_count_elements_that_exist():
    # 'same' padding: A[i+k-1], 6 elements; tiles of 2 i with a halo of 2, less what is outside
    text = "cascade c(A[x], B[k]) -> Z[i]\n  Z[i] = A[i+k-1]*B[k]"
    nest = "for i by 2\n  keep A in gb\n  Z on pes: i, k"
    rows = rows_of(toy(text, nest, x=6, i=6, k=3))
    assert rows["A", "gb"].fills == 3 + 4 + 3
    # 18 points, 2 of them read outside
    assert rows["A", "gb"].reads == 16


def test_causal_tiles_that_are_empty_are_skipped():
    # 8 queries x 8 keys in 2x2 tiles: 10 of 16 tiles have a point
    text = "cascade c(Q[p,e], K[m,e]) -> S[p,m]\n  S[p,m] = Q[p,e]*K[m,e] :: sum[e] s.t. m <= p"
    nest = "for p by 2\n  for m by 2\n    keep K in gb\n    S on pes: p@rows, m@cols, e"
    found = toy(text, nest, p=8, m=8, e=3)
    (leaf,) = found.leaves
    assert (leaf.visits, leaf.skipped) == (10, 6)
    assert leaf.cycles == 10 * 3
    assert leaf.points == 10 * 4 * 3  # partial tiles are computed whole
    rows = rows_of(found)
    # query tile q goes over key tiles 0..q; the next one starts at 0 again: 1+2+3+4 tiles
    assert rows["K", "gb"].fills == 10 * 2 * 3 - 6  # ... but the first is still there after q = 0
    assert rows["S", "dram"].writes == 64  # what is skipped is written as zeros


def test_guarded_visits_equal_those_of_walking():
    rng = random.Random(7)
    text = (
        "cascade c(Q[p,e], K[m,e]) -> S[p,m]\n"
        "  S[p,m] = Q[p,e]*K[m,e] :: sum[e] s.t. m <= p + 1 and p - m < 4"
    )
    cascade = parse(text)
    for _ in range(40):
        shapes = {"p": rng.randint(1, 9), "m": rng.randint(1, 9), "e": 2}
        bound = bind(cascade, shapes=shapes)
        nests = random_loops(rng, {"p": shapes["p"], "m": shapes["m"]}, leaf=False)
        left = dict(bound.extents)
        for loop in nests:
            left[loop.variable] = min(left[loop.variable], loop.tile)
        body = (Compute("S", "pes", tuple(random_loops(rng, left, leaf=True))),)
        for loop in reversed(nests):
            body = (Nest(loop, body),)
        found = evaluate(Mapping("g", "c", "toy", body), bound, TOY, FP16)
        want, skipped, points = visits_by_walking(nests, shapes)
        (leaf,) = found.leaves
        assert (leaf.visits, leaf.skipped, leaf.points) == (want, skipped, points)


def visits_by_walking(nests, shapes):
    boxes = [{name: range(extent) for name, extent in shapes.items()}]
    for loop in nests:
        boxes = [
            {**box, loop.variable: range(low, min(low + loop.tile, box[loop.variable].stop))}
            for box in boxes
            for low in range(box[loop.variable].start, box[loop.variable].stop, loop.tile)
        ]
    used = [
        box for box in boxes if any(m <= p + 1 and p - m < 4 for p in box["p"] for m in box["m"])
    ]
    points = sum(len(box["p"]) * len(box["m"]) * 2 for box in used)
    return len(used), len(boxes) - len(used), points


# -- schedules ------------------------------------------------------------------------------

PAIR = (
    "cascade c(A[m,k], C[m]) -> Z[m]\n  Y[m] = A[m,k] :: max[k]\n  X[m] = Y[m]*C[m]\n"
    "  Z[m] = X[m] + Y[m]"
)


def pair(stages):
    """Y on one array, X on the other, Z on the first again; 8 iterations of 6, 1 and 1 cycles."""
    y, x, z = stages
    return toy(
        PAIR,
        "for m pipelined\n  keep Y, X in gb\n"
        f"  Y on pes stage {y}: k\n  X on lanes stage {x}\n  Z on pes stage {z}",
        m=8,
        k=6,
    )


def test_interval_is_the_busiest_arrays_work_when_stages_leave_room():
    (pipeline,) = pair((0, 1, 2)).pipelines
    assert pipeline.interval_cycles == 7
    assert pipeline.binding == "array pes"
    assert pipeline.array_cycles == {"pes": 7.0, "lanes": 1.0}
    assert pipeline.cycles == 56


def test_one_stage_for_all_makes_an_array_wait_for_the_other():
    # Y, then X on the other array, then Z, all of one iteration in one interval: 6 + 1 + 1
    (pipeline,) = pair((0, 0, 0)).pipelines
    assert pipeline.interval_cycles == 8
    assert pipeline.binding == "recurrence Y -> X -> Z -> Y"


def test_a_recurrence_sets_the_interval():
    # the state goes through both arrays in each step: nothing can overlap
    text = (
        "cascade c(A[i], B[i]) -> Z[q]\n  init S[0] = 0\n  loop i:\n    T[i] = S[i]*A[i]\n"
        "    S[i+1] = T[i] + B[i]\n  Z[q] = S[I]*B[q]"
    )
    nest = (
        "keep S in gb\nfor i pipelined\n  keep T in gb\n  T on pes\n  S on lanes stage 0\n"
        "Z on pes: q"
    )
    bound = bind(parse(text), shapes={"i": 9, "q": 2})
    mapping = parse_mapping(f"mapping t for c on toy\n{nest}")
    check(mapping, bound, TOY, FP16)
    found = evaluate(mapping, bound, TOY, FP16)
    (pipeline,) = found.pipelines
    assert pipeline.interval_cycles == 2
    assert pipeline.binding.startswith("recurrence")
    assert found.compute_cycles == 9 * 2 + 2


def test_folding_axes_take_rounds():
    machine = Target(
        "m",
        "cpu",
        1e9,
        (Memory("dram", math.inf),),
        (Array("cpu", (Axis("cores", 4, "core", folds=True),), COSTS),),
        "fp32",
        "made up",
    )
    bound = bind(
        parse("cascade c(A[h,m]) -> Z[h,m]\n  Z[h,m] = A[h,m]*A[h,m]"), shapes={"h": 3, "m": 5}
    )

    def cycles(nest):
        mapping = parse_mapping(f"mapping t for c on m\n{nest}")
        check(mapping, bound, machine, FP16)
        return evaluate(mapping, bound, machine, FP16).compute_cycles

    assert cycles("for m@cores\n  Z on cpu: h") == 2 * 3  # 5 steps on 4 cores: 2 rounds of 3
    assert cycles("for h@cores\n  Z on cpu: m") == 5
    assert cycles("for h@cores\n  for m@cores\n    Z on cpu") == 4  # 15 steps together: 4 rounds
    assert cycles("Z on cpu: m by 4@cores, m, h") == 12  # 2 steps side by side, 4 x 3 each


def test_registers_of_places_are_read_by_each_place():
    # A[m] along rows; cols hold copies: 4 x 4 places read their own, the fill writes 4 copies
    machine = TARGETS.get("mesh4x4")
    bound = bind(
        parse("cascade c(A[m], B[n]) -> Z[m,n]\n  Z[m,n] = A[m]*B[n]"), shapes={"m": 4, "n": 4}
    )
    mapping = parse_mapping(
        "mapping t for c on mesh4x4\nkeep A in rf2d\nkeep B in gb\nZ on pe2d: m@rows, n@cols"
    )
    check(mapping, bound, machine, FP16)
    found = evaluate(mapping, bound, machine, FP16)
    rows = rows_of(found)
    assert (rows["A", "rf2d"].reads, rows["A", "rf2d"].writes) == (16, 16)
    assert (rows["A", "dram"].reads, rows["B", "gb"].reads) == (4, 4)
    held = {each.memory: each.needed_bytes for each in found.occupancy}
    assert held["rf2d"] == 2  # one element in each place
    assert held["gb"] == 8


# -- properties -----------------------------------------------------------------------------


def test_latency_falls_with_bandwidth():
    nest = parse_mapping("mapping t for c on toy\nZ on pes: m, k, n")
    bound = bind(parse(PRODUCT), shapes={"m": 6, "n": 6, "k": 6})
    latencies = [
        evaluate(nest, bound, TOY.override("dram.bytes_per_cycle", speed), FP16).latency_cycles
        for speed in (0.5, 1, 2, 4, 8, 64)
    ]
    assert latencies == sorted(latencies, reverse=True)
    assert latencies[-1] == 216
    assert latencies[0] > latencies[-1]


@pytest.mark.parametrize("name", [name for name in STOCK_CASCADES if "2pass" not in name])
def test_the_bound_is_below_the_model(name):
    cascade = zoo.load(name)
    sizes = {"b": 2, "h": 4, "g": 2, "p": 19, "m": 21, "e": 6, "f": 5, "m0": 4}
    ranks = {r for each in cascade.inputs for r in each.ranks}
    ranks |= {v for each in cascade.einsums for v in each.variables}
    shapes = {rank: sizes.get(rank, 7) for rank in ranks if rank in sizes or rank in "dcokn"}
    bound = bind(cascade, shapes=shapes)
    for machine in (TARGETS.get("h200"), TARGETS.get("cpu")):
        mapping = default_mapping(bound, machine, FP16)
        found = evaluate(mapping, bound, machine, FP16)
        limits = {each.name: each.value for each in roofline(bound, machine, FP16)}
        assert all(each.evidence == "bound" for each in roofline(bound, machine, FP16))
        assert found.dram_bytes >= compulsory_bytes(bound, FP16)
        assert limits["latency"] <= found.latency_cycles * (1 + 1e-12)


def test_metrics_and_json():
    found = evaluate(
        load_mapping("fusemax_binding"),
        bind(
            zoo.load("attention_1pass"),
            shapes={"b": 1, "h": 1, "p": 256, "m": 256, "e": 64, "f": 64, "m0": 256},
        ),
        TARGETS.get("fusemax"),
        FP16,
    )
    metrics = {each.name: each for each in found.metrics()}
    assert next(iter(metrics)) == "latency"
    assert {each.evidence for each in metrics.values()} == {"model"}
    # one tile: 256 x 256 elements of 2 bytes of DRAM traffic take longer than 138 + 64 cycles
    memory = 4 * 256 * 64 * 2 / (400 * 2**30 / 940e6)
    assert found.compute_cycles == 138 + 64
    assert found.binding == "dram"
    assert metrics["latency"].value == pytest.approx(memory)
    assert metrics["latency_s"].value == pytest.approx(memory / 940e6)
    assert metrics["dram_bytes"].unit == "bytes"
    assert metrics["utilisation_pe1d"].unit == "of PEs"
    assert metrics["initiation_interval"].value == 138
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["leaves"][0]["einsum"] == "BQK"
