"""Default mappings: legal for any cascade on any target, and equal in value to the interpreter."""

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import Evaluator, interpret
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.fusion import pointwise
from penstock.mapper.nodes import Compute, Nest, leaves
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.samples import random_inputs
from penstock.targets import TARGETS
from penstock.targets.base import Array, Axis, Memory, Target

FP64 = parse_format("fp64")
COSTS = tuple((op, 1.0) for op in ("mac", *OPERATORS))
NO_DIVIDER = tuple(row for row in COSTS if row[0] != "/")

SPATIAL = Target(
    "toy_spatial",
    "spatial",
    1e9,
    (
        Memory("dram", float("inf"), 64.0),
        Memory("gb", 4096.0, 64.0),
        Memory("rf2d", 64.0, array="pe2d", instances=16),
        Memory("rf1d", 64.0, array="pe1d", instances=4),
    ),
    (
        Array("pe2d", (Axis("cols", 4, "pe"), Axis("rows", 4, "pe", reduces=True)), NO_DIVIDER),
        Array("pe1d", (Axis("lanes", 4, "pe"),), COSTS),
    ),
    "fp16",
    "made up",
)
FPGA = Target(
    "toy_fpga",
    "fpga",
    3e8,
    (Memory("hbm", 8e9, 64.0), Memory("bram", 1e5)),
    (Array("pes", (Axis("lanes", 8, "pe"),), COSTS),),
    "fp32",
    "made up",
)
GPU = Target(
    "toy_gpu",
    "gpu",
    1e9,
    (Memory("hbm", 8e10, 1000.0), Memory("registers", 256.0, array="sm", instances=4096)),
    (Array("sm", (Axis("blocks", 8, "block", folds=True), Axis("threads", 64, "thread")), COSTS),),
    "fp16",
    "made up",
)
CPU = Target(
    "toy_cpu",
    "cpu",
    1e9,
    (Memory("dram", 8e10, 20.0), Memory("l3", 1e6), Memory("l2", 1e4, instances=4)),
    (
        Array(
            "cores",
            (Axis("cores", 4, "core", folds=True), Axis("simd", 4, "simd", reduces=True)),
            COSTS,
        ),
    ),
    "fp32",
    "made up",
)
TOYS = (SPATIAL, FPGA, GPU, CPU)

ODD = {
    "titans": """
cascade titans(K[t,d], V[t,f], Q[t,d], AL[t]) -> O[t,f]
  init S[0,d,f] = 0
  init W[0,d,f] = 0
  loop t:
    ER[t,f] = W[t,d,f]*K[t,d] :: sum[d]
    G[t,d,f] = 0.01*K[t,d]*(ER[t,f]-V[t,f])
    S[t+1,d,f] = 0.5*S[t,d,f] - G[t,d,f]
    W[t+1,d,f] = 0.9*W[t,d,f] + 0.01*S[t+1,d,f]
  O[t,f] = W[t+1,d,f]*Q[t,d] :: sum[d]
""",
    "levels": """
cascade levels(X[y,x,c], WL[l,u,v,c], GA[y,x,l]) -> O[y,x,c], GL[c]
  init CX[0,y,x,c] = X[y,x,c]
  loop l:
    CD[l,y,x,c] = CX[l,y+u-2,x+v-2,c]*WL[l,u,v,c] :: sum[u,v] s.t. abs(u-2)<=l+1
    CX[l+1,y,x,c] = relu(CD[l,y,x,c])
  GS[y,x,c] = CX[l+1,y,x,c]*GA[y,x,l] :: sum[l]
  GL[c] = CX[L,y,x,c] :: mean[y,x]
  O[y,x,c] = GS[y,x,c] + relu(GL[c])
""",
    "separate": """
cascade separate(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
  shape m0 = 2
  QK[p,m1,m0] = Q[p,e]*K[m1*M0+m0,e]
  LM[p,m1] = QK[p,m1,m0] :: max[m0]
  init RM[p,0] = -1e30
  RM[p,m1+1] = max(RM[p,m1], LM[p,m1])
  SLN[p,m1,m0] = exp(QK[p,m1,m0] - RM[p,m1+1])
  SLD[p,m1] = SLN[p,m1,m0] :: sum[m0]
  PRM[p,m1] = exp(RM[p,m1] - RM[p,m1+1])
  init RD[p,0] = 0
  RD[p,m1+1] = PRM[p,m1]*RD[p,m1] + SLD[p,m1]
  init RNV[p,0,f] = 0
  SLNV[p,m1,f] = SLN[p,m1,m0]*V[m1*M0+m0,f]
  RNV[p,m1+1,f] = PRM[p,m1]*RNV[p,m1,f] + SLNV[p,m1,f]
  O[p,f] = RNV[p,M1,f]/RD[p,M1]
""",
    "mixing": """
cascade mixing(X[t,c], W[c,d]) -> Y[t,d]
  init S[0,d] = 1
  loop t:
    Z[t,d] = S[t,c]*W[c,d] :: sum[c]
    S[t+1,d] = 0.01*Z[t,d] + X[t,d]
  Y[t,d] = S[t+1,d]
""",
    "two_groups": """
cascade two_groups(A[h,t], B[h,s]) -> O[h], N[h,t]
  init S[h,0] = 0
  S[h,t+1] = S[h,t] + A[h,t]
  N[h,t] = S[h,t+1] - S[h,T]
  init R[h,0] = S[h,T]
  R[h,s+1] = max(R[h,s], B[h,s])
  O[h] = R[h,S]
""",
    "scalars": """
cascade scalars(X[m], C[]) -> Y[m], T[]
  T[] = X[m] :: sum[m]
  D[] = T[] * C[]
  Y[m] = X[m] - D[]
""",
    "grouped": """
cascade grouped(X[m,c], WK[g,c,e], Q[h,p,e]) -> O[h,p,m]
  const R = H // G
  K[g,m,e] = X[m,c]*WK[g,c,e]
  O[h,p,m] = Q[h,p,e]*K[h//R,m,e] s.t. m <= p
""",
    "shifted": """
cascade shifted(X[p,c]) -> O[p,c]
  Y[p,c] = X[p,c]*2
  Z[p,c] = Y[p+1,c] - Y[p-1,c]
  O[p,c] = Z[p,c] + Y[p,c] s.t. p % 2 == 0
""",
    "transposed": """
cascade transposed(X[p,q]) -> O[p,q]
  Y[p,q] = X[p,q]*2
  O[p,q] = Y[q,p] + Y[p,q]
""",
    "windows": """
cascade windows(Q[n,e], K[n,e], V[n,f]) -> O[w,p,f]
  const B = 4
  QK[w,p,m] = Q[w*B+p,e]*K[w*B+m,e]
  GM[w,p] = QK[w,p,m] :: max[m]
  SN[w,p,m] = exp(QK[w,p,m]-GM[w,p])
  SD[w,p] = SN[w,p,m]
  O[w,p,f] = SN[w,p,m]/SD[w,p]*V[w*B+m,f] :: sum[m]
""",
}
ODD_SHAPES = {
    "titans": {"t": 5, "d": 3, "f": 6},
    "levels": {"y": 4, "x": 5, "c": 3, "l": 2, "u": 5, "v": 5},
    "separate": {"p": 7, "e": 3, "m": 5, "f": 4},
    "mixing": {"t": 4, "c": 5, "d": 5},
    "two_groups": {"h": 3, "t": 4, "s": 5},
    "scalars": {"m": 7},
    "grouped": {"h": 6, "g": 3, "p": 5, "m": 9, "c": 2, "e": 3},
    "shifted": {"p": 9, "c": 3},
    "transposed": {"p": 6, "q": 6},
    "windows": {"n": 20, "e": 3, "f": 5, "w": 5, "p": 4, "m": 4},
}


def cascade_of(name):
    return parse(ODD[name]) if name in ODD else zoo.load(name)


def shapes_for(cascade, **chosen):
    """Small extents for the ranks of the inputs that the cascade leaves open."""
    usual = {"b": 2, "h": 4, "g": 2, "p": 9, "m": 7, "e": 4, "f": 5, "d": 3, "c": 3, "o": 4}
    names = {rank for each in cascade.inputs for rank in each.ranks} | {"m0"}
    known = {rank for each in cascade.inputs for rank in each.ranks} | cascade.shape.keys()
    wanted = {**usual, "k": 4, "n": 5, "m0": 3, **chosen}
    return {name: wanted.get(name, 3) for name in names if name in known}


def bound_of(name, **chosen):
    cascade = cascade_of(name)
    shapes = ODD_SHAPES[name] if name in ODD else shapes_for(cascade, **chosen)
    return bind(cascade, shapes=shapes)


def walk(mapping, bound, inputs, fmt):
    """Run the loops of a mapping one after the other, box by box."""
    machine = Evaluator(bound, inputs, fmt)
    inits = {each.name: each for each in bound.cascade.einsums if each.init}
    makers = {each.name: each for each in bound.cascade.einsums if not each.init}

    def visit(body, box):
        for node in body:
            match node:
                case Nest(loop):
                    enter(node, loop, box)
                case Compute():
                    einsum = makers[node.einsum]
                    mine = {name: box[name] for name in einsum.variables}
                    machine.compute(einsum, mine)
                    if einsum.reduce is not None:
                        machine.finish(einsum, mine)

    def enter(nest, loop, box):
        start, stop = box[loop.variable]
        for _, leaf in leaves(nest.body):
            if makers[leaf.einsum].iterative == loop.variable and leaf.einsum in inits:
                init = inits[leaf.einsum]
                machine.compute(init, init_box(init, makers[leaf.einsum], box))
        for low in range(start, stop, loop.tile):
            visit(nest.body, {**box, loop.variable: (low, min(low + loop.tile, stop))})

    visit(mapping.body, {name: (0, extent) for name, extent in bound.extents.items()})
    return machine.outputs()


def init_box(init, step, box):
    pairs = zip(init.output.indices, step.output.indices, strict=True)
    names = {str(mine): str(theirs) for mine, theirs in pairs}
    return {name: box[names[name]] for name in init.variables if names.get(name) in box}


ALL = (*STOCK_CASCADES, *ODD)
STOCK = tuple(TARGETS.get(name) for name in ("cpu", "flat", "fusemax", "h200", "mesh4x4", "u280"))
SHAPES = (
    {},
    {"p": 1000, "m": 1000, "e": 64, "f": 64, "h": 12, "g": 12, "m0": 64},
    {"p": 1, "m": 1, "e": 96, "f": 96, "h": 71, "g": 71, "b": 1, "m0": 64},
    {"p": 37, "m": 1000, "e": 96, "f": 96, "h": 8, "g": 2, "m0": 64},
    {"p": 1, "m": 37, "e": 64, "f": 64, "m0": 16},
)


@pytest.mark.parametrize("target", [*STOCK, *TOYS], ids=lambda each: each.name)
@pytest.mark.parametrize("name", ALL)
def test_every_mapping_is_legal(name, target):
    fmt = parse_format(target.format)
    for shapes in SHAPES if name not in ODD else SHAPES[:1]:
        bound = bound_of(name, **shapes)
        mapping = default_mapping(bound, target, fmt)
        check(mapping, bound, target, fmt)
        assert default_mapping(bound, target, fmt) == mapping
        assert parse_mapping(str(mapping)) == mapping


@pytest.mark.parametrize("target", TOYS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", ALL)
def test_the_loops_compute_what_the_interpreter_does(name, target):
    bound = bound_of(name)
    inputs = random_inputs(bound, FP64)
    mapping = default_mapping(bound, target, FP64)
    got = walk(mapping, bound, inputs, FP64)
    for tensor, want in interpret(bound, inputs, FP64).items():
        np.testing.assert_allclose(got[tensor], want, rtol=1e-12, atol=1e-12)


EXTENTS = {"a": 3, "b": 4, "c": 5, "t": 3}


def random_cascade(seed):
    """A random cascade: reductions, shifts, halved indices, transposed reads, recurrences."""
    rng = np.random.default_rng(seed)

    def pick(items):
        return items[rng.integers(len(items))]

    ranks = {"X": ("a", "b"), "Y": ("b", "c"), "Z": ("t", "a")}
    lines = []

    def index(rank):
        return pick([rank] * 6 + [f"{rank}+1", f"{rank}-1", f"{rank}//2", "a"])

    def operand():
        name = pick(sorted(ranks))
        return f"{name}[{', '.join(index(each) for each in ranks[name])}]"

    for number in range(int(rng.integers(2, 7))):
        body = f"{operand()} {pick(['*', '+', '-'])} {operand()}"
        names = sorted({each for each in body if each in EXTENTS})
        kept = [each for each in names if rng.random() < 0.7]
        rng.shuffle(kept)
        over = [each for each in names if each not in kept]
        head = f"T{number}[{', '.join(kept)}]"
        fold = f" :: {pick(['sum', 'max'])}[{', '.join(over)}]" if over else ""
        lines.append(f"{head} = {body}{fold}")
        ranks[f"T{number}"] = tuple(kept)
        if "t" in kept and rng.random() < 0.6:
            rest = [each for each in kept if each != "t"]
            at = [f"S{number}[{', '.join([step, *rest])}]" for step in ("0", "t+1", "t")]
            lines += [f"init {at[0]} = 1", f"{at[1]} = 0.5*{at[2]} + {head}"]
            ranks[f"S{number}"] = ("t", *rest)
    outputs = [name for name in ranks if name[0] == "T"][-2:]
    heads = ", ".join(f"{name}[{', '.join(ranks[name])}]" for name in outputs)
    return parse("\n  ".join([f"cascade random(X[a,b], Y[b,c], Z[t,a]) -> {heads}", *lines]))


@pytest.mark.parametrize("seed", range(60))
def test_random_cascades_are_computed_right(seed):
    cascade = random_cascade(seed)
    bound = bind(cascade, shapes=EXTENTS)
    inputs = random_inputs(bound, FP64, seed)
    want = interpret(bound, inputs, FP64)
    for target in TOYS:
        got = walk(default_mapping(bound, target, FP64), bound, inputs, FP64)
        for tensor, values in want.items():
            np.testing.assert_allclose(got[tensor], values, rtol=1e-12, atol=1e-9)


def test_random_cascades_do_share_loops():
    bounds = [bind(random_cascade(seed), shapes=EXTENTS) for seed in range(60)]
    fused = [
        any(
            isinstance(node, Nest) and sum(1 for _ in leaves((node,))) > 1
            for node in default_mapping(bound, SPATIAL, FP64).body
        )
        for bound in bounds
    ]
    assert sum(fused) > 20


def test_an_operator_that_no_array_has():
    cascade = parse("cascade s(X[p]) -> Y[p]\n  Y[p] = sin(X[p])", file="s.einsum")
    bound = bind(cascade, shapes={"p": 4})
    with pytest.raises(MappingError) as caught:
        default_mapping(bound, TARGETS.get("fusemax"), FP64)
    assert str(caught.value) == (
        "Y cannot run on fusemax: no array has 'sin'\n"
        "s.einsum:2:3\n"
        "  Y[p] = sin(X[p])\n"
        "  ^^^^^^^^^^^^^^^^\n"
        "fix: split the Einsum, or use a machine with these operators: a100, avx2, avx512, cpu, "
        "h100, h200, kv260, l4, pynq_z2, rtx4090, tpu_v4i, u250, u280, u55c, vck190, zcu102, zcu104"
    )


def test_operators_that_no_single_array_has():
    arrays = (
        Array("adder", (Axis("lanes", 4, "pe"),), (("+", 1.0),)),
        Array("divider", (Axis("lanes", 4, "pe"),), (("/", 1.0),)),
    )
    target = Target("split", "spatial", 1e9, (Memory("dram", 1e9, 1.0),), arrays, "fp32", "made up")
    cascade = parse("cascade s(X[p]) -> Y[p]\n  Y[p] = (X[p] + 1) / X[p]", file="s.einsum")
    with pytest.raises(MappingError) as caught:
        default_mapping(bind(cascade, shapes={"p": 4}), target, FP64)
    assert caught.value.what == "Y cannot run on split: no single array has all of '+', '/'"


def test_tensors_that_fit_nowhere():
    bound = bind(zoo.load("matmul"), shapes={"m": 100, "k": 100, "n": 100})
    target = CPU.override("dram.capacity_bytes", 1000)
    with pytest.raises(MappingError, match=r"needs 117.2 KB of dram, toy_cpu has 0.9766 KB"):
        default_mapping(bound, target, parse_format("fp32"))


def test_one_pass_attention_on_a_spatial_array():
    bound = bind(
        zoo.load("attention_1pass"),
        shapes={"b": 2, "h": 3, "p": 512, "m": 1024, "e": 64, "f": 64, "m0": 256},
    )
    assert str(default_mapping(bound, TARGETS.get("fusemax"), parse_format("fp16"))) == ONE_PASS


ONE_PASS = """\
mapping default for attention_1pass on fusemax
for b
  for h
    keep K, V in gb x2
    for p by 256
      keep RM in rf2d
      keep RD, RNV in gb
      keep Q in gb x2
      for m1
        keep BQK, LM, SLN, SLD, PRM, SPD, SPNV in rf2d
        keep SLNV in gb
        BQK on pe2d: m0@rows, p@cols, e
        LM on pe2d: p@cols, m0@rows
        RM on pe2d: p@cols
        SLN on pe2d: m0@rows, p@cols
        SLD on pe2d: p@cols, m0@rows
        SLNV on pe2d: f, p@cols, m0@rows
        PRM on pe2d: p@cols
        SPD on pe2d: p@cols
        RD on pe2d: p@cols
        SPNV on pe2d: f@rows, p@cols
        RNV on pe2d: f@rows, p@cols
      AV on pe1d: f, p@lanes"""


def test_one_pass_attention_on_a_gpu():
    bound = bind(
        zoo.load("causal_attention_1pass"),
        shapes={"h": 3, "p": 512, "m": 1024, "e": 32, "f": 32, "m0": 32},  # 255 registers
    )
    assert str(default_mapping(bound, TARGETS.get("h200"), parse_format("fp32"))) == ON_GPU


ON_GPU = """\
mapping default for causal_attention_1pass on h200
for h@blocks
  for p by 128@blocks
    for p@threads
      keep QS, RM, RD, RNV in regs
      QS on sm: e
      for m1
        keep BQK, LM, SLN, SLD, SLNV, PRM in regs
        BQK on sm: m0, e
        LM on sm: m0
        RM on sm
        SLN on sm: m0
        SLD on sm: m0
        SLNV on sm: f, m0
        PRM on sm
        RD on sm
        RNV on sm: f
      O on sm: f"""


@pytest.mark.parametrize("name", ALL)
def test_a_thread_is_on_its_own(name):
    """On a GPU nothing that a thread makes is read by another thread of the same kernel."""
    bound = bound_of(name)
    makers = {each.name: each for each in bound.cascade.einsums if not each.init}
    for node in default_mapping(bound, GPU, FP64).body:
        names = [leaf.einsum for _, leaf in leaves((node,))]
        spatial = {
            nest.loop.variable
            for nests, _ in leaves((node,))
            for nest in nests
            if nest.loop.spatial
        }
        for reader in names:
            for access in makers[reader].operands:
                if access.tensor in names:
                    for variable in spatial:
                        assert pointwise(makers[access.tensor], access, variable)
