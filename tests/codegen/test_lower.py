"""Lowered programs, run by the loops interpreter, against the interpreter of cascades."""

import random
from dataclasses import replace

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import For, walk_statements
from penstock.codegen.loops.print import show
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.nodes import Var, variables
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, MappingError
from penstock.mapper.fusion import Flow, steps_of
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import build
from penstock.mapper.search.forest import Level, forest, stepping
from penstock.mapper.search.plan import Recipe
from penstock.samples import random_inputs
from penstock.targets import TARGETS

FORMATS = ("fp32", "fp64", "fp16", "fixed<16,8>")
TOLERANCE = {"fp32": 1e-5, "fp64": 1e-12, "fp16": 1e-2, "fixed<16,8>": 0.0}

ZOO_SHAPES = dict(b=1, h=2, g=1, p=7, m=11, e=3, f=5, d=3, c=4, o=3, m0=4, k=5, n=6)

ODD = """
p=5 m=7: cascade several(A[p,m]) -> S[p], X[p], N[m]
  S[p] = A[p,m]
  X[p] = A[p,m] :: max[m]
  N[m] = A[p,m] :: min[p]
p=5 m=3: cascade product(A[p,m]) -> S[p]
  S[p] = A[p,m] :: prod[m]
p=5 m=7: cascade means(A[p,m]) -> S[p], T[p]
  S[p] = A[p,m] :: mean[m]
  T[p] = A[p,m] :: mean[m] s.t. m < p
p=6 m=5: cascade extremes_of_few(A[p,m]) -> S[p], T[p]
  S[p] = A[p,m] :: max[m] s.t. m < p - 1
  T[p] = A[p,m] :: prod[m] s.t. m < p - 1 and m > p - 4
p=6 m=7 r=5 f=3: cascade table(A[p,m], B[r], V[m,f]) -> O[p,f]
  const C = 2
  Z[p,m] = A[p,m] + B[p - m + C]
  G[p] = Z[p,m] :: max[m]
  E[p,m] = exp(Z[p,m] - G[p])
  D[p] = E[p,m]
  O[p,f] = E[p,m]/D[p]*V[m,f]
n=9 k=3 x=5: cascade strided(V[n], W[k]) -> O[x]
  O[x] = V[2*x + k - 1] * W[k]
n=9 k=3: cascade halo(V[n], W[k]) -> O[n]
  S[n] = V[n] * V[n]
  O[n] = S[n + k - 1] * W[k]
n=9: cascade backwards(V[n]) -> O[n]
  S[n] = V[n] * V[n]
  O[n] = S[n] + S[n - 1] * 2
h=6 g=3 p=3 m=4 e=2: cascade groups(Q[h,p,e], K[g,m,e]) -> S[h,p,m]
  const R = H // G
  S[h,p,m] = Q[h,p,e] * K[h//R,m,e]
i=4 p=3: cascade history(A[i,p]) -> X[i,p], Y[p]
  init X[0,p] = 1
  loop i:
    X[i+1,p] = X[i,p] * 0.5 + A[i,p]
  Y[p] = X[I,p] - X[0,p]
i=5 p=4: cascade history_inside(A[i,p]) -> Y[i,p]
  init X[0,p] = 1
  loop i:
    X[i+1,p] = X[i,p] * 0.5 + A[i,p]
  Y[i,p] = X[i,p] * 2 + X[i+1,p]
i=5 p=4: cascade lagged(A[i,p]) -> Y[p]
  init X[0,p] = 1
  loop i:
    X[i+1,p] = X[i,p] * 0.5 + fill(X[i-1,p], 3) + A[i,p]
  Y[p] = X[I,p]
i=3 d=4 e=4: cascade matrix_power(A[d,e], B[d]) -> Y[d]
  init S[0,d] = B[d]
  loop i:
    S[i+1,d] = S[i,e] * A[d,e] * 0.25
  Y[d] = S[I,d]
i=3 d=5: cascade shifted(B[d]) -> Y[d]
  init S[0,d] = B[d]
  loop i:
    S[i+1,d] = S[i,d-1] + 1
  Y[d] = S[I,d]
t=4 d=3 f=2: cascade memory(K[t,d], V[t,f], Q[t,d], N[t], TH[t], AL[t]) -> O[t,f]
  init S[0,d,f] = 0
  init W[0,d,f] = 0
  loop t:
    ER[t,f] = W[t,d,f]*K[t,d]
    G[t,d,f] = 2*K[t,d]*(ER[t,f]-V[t,f])
    S[t+1,d,f] = N[t]*S[t,d,f]-TH[t]*G[t,d,f]
    W[t+1,d,f] = (1-AL[t])*W[t,d,f]+S[t+1,d,f]
  O[t,f] = W[t+1,d,f]*Q[t,d]
l=2 u=5 y=6 c=2: cascade growing(X0[y,c], WL[l,u,c]) -> O[y,c]
  init CX[0,y,c] = X0[y,c]
  loop l:
    CD[l,y,c] = CX[l,y+u-2,c]*WL[l,u,c] :: sum[u] s.t. abs(u-2)<=l+1
    CX[l+1,y,c] = relu(CD[l,y,c])
  GS[y,c] = CX[l+1,y,c] * 0.5 :: sum[l]
  GL[c] = CX[L,y,c] :: mean[y]
  O[y,c] = GS[y,c] + GL[c]
p=6 m=5 e=2 f=3: cascade masked_rows(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
  QK[p,m] = Q[p,e]*K[m,e] :: sum[e] s.t. m < p - 1
  G[p] = QK[p,m] :: max[m]
  E[p,m] = exp(QK[p,m]-G[p])
  D[p] = E[p,m]
  O[p,f] = E[p,m]/D[p]*V[m,f]
p=6 m=3: cascade stored(A[p,m], T[m]) -> O[p], Q[p], X[p], N[p]
  B[p,m] = A[p,m] s.t. A[p,m] > T[m]
  O[p] = B[p,m]
  Q[p] = fill(O[p], 7) * 2
  X[p] = B[p,m] :: min[m]
  N[p] = B[p,m] :: mean[m]
i=4 p=5: cascade stored_state(A[i,p]) -> Y[p], Z[i,p]
  B[i,p] = A[i,p] s.t. A[i,p] > 0
  init M[0,p] = A[0,p] s.t. A[1,p] > 0
  loop i:
    M[i+1,p] = max(fill(M[i,p], -3), B[i,p])
  Y[p] = M[I,p]
  Z[i,p] = fill(B[i,p], -1)
i=4 p=5: cascade no_init(A[i,p]) -> Y[p]
  loop i:
    M[i+1,p] = max(fill(M[i,p], A[i,p]), A[i,p])
  Y[p] = M[I,p]
i=3 p=4 m=3: cascade reduced_state(A[i,p,m]) -> Y[p]
  B[i,p,m] = A[i,p,m] s.t. A[i,p,m] > 1
  init S[0,p] = A[0,p,m] :: max[m] s.t. m > 0
  loop i:
    S[i+1,p] = S[i,p] * 0.5 + B[i,p,m] :: sum[m]
  Y[p] = S[I,p]
i=1 p=4: cascade one_step(A[i,p]) -> Y[p]
  init S[0,p] = 2
  loop i:
    F[i,p] = S[i,p] + A[i,p]
    S[i+1,p] = S[i,p] * A[i,p]
    R[i,p] = F[i,p] * S[i+1,p]
  Y[p] = S[I,p] + R[0,p]
p=5: cascade scalar(A[p]) -> T[], Y[p]
  T[] = A[p]
  Y[p] = A[p] / T[]
p=5 m=6 f=2 j=3: cascade gather(A[m,f], J[p,j]) -> O[p,f]
  O[p,f] = A[J[p,j],f] :: sum[j]
p=6 m=6: cascade segments(Q[p], K[m], J[p], JM[m]) -> O[p]
  S[p,m] = Q[p]*K[m] s.t. J[p] == JM[m] and m <= p
  X[p] = S[p,m] :: max[m]
  O[p] = fill(X[p], -5)
p=6 m=5: cascade chosen(A[p,m], T[p]) -> O[p,m], Q[p,m]
  B[p,m] = A[p,m] s.t. m <= p
  O[p,m] = where(p - m > 2, A[p,m], fill(B[p,m], A[p,m-1] * 3))
  C[p,m] = A[p,m] s.t. A[p,m] > T[p]
  D[p,m] = A[p,m] s.t. A[p,m] < 1
  Q[p,m] = where(A[p,m] > 0, C[p,m], fill(D[p,m], C[p,m]*2))
p=6 m=5: cascade coordinates(A[p,m]) -> O[p,m], R[p,m]
  O[p,m] = A[p,m] * (p - m) + (p + m) % 3 - p // 2
  R[p,m] = A[p,m] s.t. abs(p - m) <= 0.5 * p and m / 2 <= p
p=4 m=5 e=2 f=3: cascade two_pass(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
  QK[p,m] = Q[p,e]*K[m,e]
  init B[p,0] = -1000
  init S[p,0] = 0
  loop m:
    B[p,m+1] = max(B[p,m], QK[p,m])
    S[p,m+1] = S[p,m]*exp(B[p,m]-B[p,m+1]) + exp(QK[p,m]-B[p,m+1])
  O[p,f] = exp(QK[p,m]-B[p,M])/S[p,M]*V[m,f]
h=2 t=6 e=2 f=2 p=2 m=2 i=3: cascade chunked(Q[h,t,e], K[h,t,e], V[h,t,f], SL[h]) -> O[h,i,p,f]
  const B = 2
  init KV[h,0,e,f] = 0
  S[h,i,p,m] = Q[h,i*B+p,e]*K[h,i*B+m,e]*exp(-SL[h]*(p-m)) :: sum[e] s.t. m<=p
  OI[h,i,p,f] = S[h,i,p,m]*V[h,i*B+m,f]
  KB[h,i,e,f] = exp(-SL[h]*(B-1-m))*K[h,i*B+m,e]*V[h,i*B+m,f]
  loop i:
    OX[h,i,p,f] = exp(-SL[h]*(p+1))*Q[h,i*B+p,e]*KV[h,i,e,f]
    KV[h,i+1,e,f] = exp(-SL[h]*B)*KV[h,i,e,f]+KB[h,i,e,f]
  O[h,i,p,f] = OI[h,i,p,f]+OX[h,i,p,f]
i=4 j=4 s=3 n=3: cascade radial(A[i,j,s,n]) -> O[i,s]
  B[i,j,s,n] = A[i,j,s,n] s.t. j == 0 or abs(i-j) <= 1 or abs(s-n)*abs(i-j) <= 4 and (i-j)%2 == 0
  O[i,s] = B[i,j,s,n]
y=9 u=9: cascade dilated(A[y,u]) -> O[y]
  O[y] = A[y,u] s.t. (y-u)%2 == 0 and u//2 - clamp(y//2-1, 0, 2) < 3 and u//2 >= clamp(y//2-1, 0, 2)
p=9 g=3 s=3 m=9 f=2: cascade landmark(QK[p,g,s], V[m,f]) -> O[p,f]
  const B = 3
  ZL[p,g] = QK[p,g,B-1] s.t. g < p//B
  ZO[p,s] = QK[p,p//B,s] s.t. (p//B)*B + s <= p
  ML[p] = ZL[p,g] :: max[g]
  MO[p] = ZO[p,s] :: max[s]
  GM[p] = max(fill(ML[p],-100),MO[p])
  EL[p,g] = exp(ZL[p,g]-GM[p])
  EO[p,s] = exp(ZO[p,s]-GM[p])
  DL[p] = EL[p,g]
  DO[p] = EO[p,s]
  NO[p,f] = EO[p,s]*V[(p//B)*B+s,f]
  O[p,f] = NO[p,f]/(fill(DL[p],0)+DO[p])
"""


def odd_cases():
    """Return name → (cascade, shapes) of the text above."""
    found, lines = {}, []
    for line in [*ODD.strip().splitlines(), ": end"]:
        if not line.startswith(" ") and lines:
            shapes, _, head = lines[0].partition(": ")
            cascade = parse("\n".join([head, *lines[1:]]))
            extents = dict(each.split("=") for each in shapes.split())
            found[cascade.name] = (cascade, {name: int(n) for name, n in extents.items()})
            lines = []
        lines.append(line)
    return found


def zoo_case(name):
    cascade = zoo.load(name)
    used = {rank for each in cascade.inputs for rank in each.ranks}
    used |= {variable for einsum in cascade.einsums for variable in einsum.variables}
    return cascade, {rank: n for rank, n in ZOO_SHAPES.items() if rank in used}


CASES = {**odd_cases(), **{name: zoo_case(name) for name in STOCK_CASCADES}}


def bound_of(name):
    cascade, shapes = CASES[name]
    small = {"W": 3} if any(each == "W" for each, _ in cascade.constants) else {}
    return bind(cascade, shapes=shapes, constants=small)


def inputs_of(bound, fmt, seed=0):
    """Return multiples of 1/64 up to 2, and coordinates (some out of range) for tensors J, JM."""
    arrays = {name: array / 4 for name, array in random_inputs(bound, fmt, seed).items()}
    generator = np.random.default_rng(seed)
    for name in {"J", "JM"} & arrays.keys():
        arrays[name] = generator.integers(-1, 7, bound.dims[name])
    return arrays


def disagreement(bound, mapping, target, fmt, seed=0):
    """Return the largest relative error of the lowered program over all outputs."""
    inputs = inputs_of(bound, fmt, seed)
    want = interpret(bound, inputs, fmt)
    got = run_program(lower(bound, mapping, target, fmt), inputs)
    assert got.keys() == want.keys()
    worst = 0.0
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        first, second = array.astype(float), got[name].astype(float)
        assert np.isfinite(first).all()
        scale = max(np.abs(first).max(), 1e-30)
        worst = max(worst, np.abs(first - second).max() / scale)
    return worst


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", sorted(CASES))
def test_default_mappings_give_what_the_interpreter_gives(name, fmt):
    bound = bound_of(name)
    for machine, recipe in (("cpu", Recipe(outer=3)), ("mesh4x4", Recipe()), ("h200", Recipe())):
        target = TARGETS.get(machine)
        mapping, _ = build(bound, target, parse_format(fmt), Flow(bound.cascade), recipe)
        error = disagreement(bound, mapping, target, parse_format(fmt))
        assert error <= TOLERANCE[fmt], f"{machine}\n{mapping}"


# --- random mappings --------------------------------------------------------------------------


class Dice:
    """Makes random mappings that respect the dependences; the machine is not asked."""

    def __init__(self, bound, target, seed):
        self.rng, self.bound, self.target = random.Random(seed), bound, target
        self.flow, self.steps = Flow(bound.cascade), steps_of(bound.cascade)
        self.stepped = {step.variable for step in self.steps if step.variable}

    def mapping(self):
        names = [name for name in self.bound.extents if name not in self.stepped]
        levels = [
            Level(tuple(Loop(name, self.rng.choice([1, 1, 2, 3, 4, 5])) for name in chosen))
            for _ in range(self.rng.randint(0, 3))
            for chosen in [self.rng.sample(names, min(len(names), self.rng.randint(1, 2)))]
        ]
        for level in stepping(self.steps):
            levels.insert(self.rng.randint(0, len(levels)), level)
        extents = dict(self.bound.extents)
        body = self.shared(forest(self.steps, levels, extents, self.flow), extents)
        body = self.kept(self.leaves(body, extents))
        return Mapping("dice", self.bound.cascade.name, self.target.name, body)

    def inside(self, nest, left):
        name, tile = nest.loop.variable, nest.loop.tile
        return {**left, name: min(left[name], tile)}

    def shared(self, body, left):
        """Share loops with reductions: a consumer folds what a producer made in the same step."""
        out = [
            replace(node, body=self.shared(node.body, self.inside(node, left)))
            if isinstance(node, Nest)
            else node
            for node in body
        ]
        for _ in range(self.rng.randint(0, 3)):
            first = self.rng.randrange(len(out))
            last = self.rng.randint(first + 1, len(out))
            run = tuple(out[first:last])
            name = self.rng.choice(list(left))
            if self.may_share(run, name, left):
                loop = Loop(name, self.rng.choice([1, 1, 2, 3, 4]))
                nest = Nest(loop, run)
                inner = self.shared(run, self.inside(nest, left))
                out[first:last] = [replace(nest, body=inner)]
        return tuple(out)

    def may_share(self, run, name, left):
        if name in self.stepped or left[name] < 2 or any(isinstance(n, Nest) for n in run):
            return False
        einsums = [self.flow.makers[node.einsum] for node in run]
        made = {each.name: each.output for each in einsums}
        return all(name in each.variables for each in einsums) and all(
            self.pointwise(made[access.tensor], access, name)
            for each in einsums
            for access in (*each.operands, *self.flow.init_reads(each))
            if access.tensor in made
        )

    def pointwise(self, output, access, name):
        places = [n for n, index in enumerate(output.indices) if name in variables(index)]
        return bool(places) and access.indices[places[0]] == Var(name)

    def leaves(self, body, left):
        return tuple(
            replace(node, body=self.leaves(node.body, self.inside(node, left)))
            if isinstance(node, Nest)
            else Compute(node.einsum, self.target.arrays[0].name, self.loops(node, left))
            for node in body
        )

    def loops(self, leaf, left):
        einsum = self.flow.makers[leaf.einsum]
        chains = [self.tiles(name, left[name]) for name in einsum.variables]
        axes = [axis.name for axis in self.target.arrays[0].axes]
        loops = []
        while any(chains):
            loop = self.rng.choice([chain for chain in chains if chain]).pop(0)
            if axes and self.rng.random() < 0.3 and loop.variable in variables(einsum.output):
                loop = replace(loop, axis=axes.pop())
            loops.append(loop)
        return tuple(loops)

    def tiles(self, name, size):
        found = []
        while size > 1:
            tile = self.rng.choice([1, 1, 2, 3, 4, 5, 7])
            if tile < size:
                found.append(Loop(name, tile))
                size = tile
        return found

    def kept(self, body):
        nodes = tuple(
            replace(node, body=self.kept(node.body)) if isinstance(node, Nest) else node
            for node in body
        )
        if self.rng.random() < 0.4:
            return nodes
        tensors = list(self.bound.dims)
        chosen = self.rng.sample(tensors, self.rng.randint(1, len(tensors)))
        memory = self.rng.choice(self.target.memories).name
        return (Keep(tuple(chosen), memory), *nodes)


def check_random_mappings(seeds):
    target = TARGETS.get("mesh4x4")
    for seed in seeds:
        rng = random.Random(seed)
        name, fmt = rng.choice(sorted(CASES)), rng.choice(FORMATS)
        bound = bound_of(name)
        mapping = Dice(bound, target, seed).mapping()
        error = disagreement(bound, mapping, target, parse_format(fmt), seed)
        assert error <= TOLERANCE[fmt], f"seed {seed}: {name} in {fmt}\n{mapping}"


@pytest.mark.parametrize("block", range(4))
def test_random_mappings_give_what_the_interpreter_gives(block):
    check_random_mappings(range(50 * block, 50 * block + 50))


@pytest.mark.slow
def test_many_random_mappings_give_what_the_interpreter_gives():
    check_random_mappings(range(1000, 2000))


# --- mappings written by hand -----------------------------------------------------------------

HAND = {
    "reductions share the loop of their producer": (
        "attention",
        """
        mapping fused for attention on mesh4x4
        for h
          for p by 4
            keep QS, QK, GM, SN, SD, A in gb
            QS on pe2d: p, e
            for m by 3
              keep K in gb
              QK on pe2d: p@cols, m, e
              GM on pe2d: m, p
            for m by 5
              SN on pe2d: p, m
              SD on pe2d: m, p
            for m by 2
              keep V in gb
              A on pe2d: p, m
              for f by 2
                O on pe2d: f, p, m
        """,
    ),
    "a state is kept outside two loops over its rank": (
        "attention_1pass",
        """
        mapping chunks for attention_1pass on mesh4x4
        for b
          for h
            keep RM, RD, RNV in gb
            for m1 by 2
              for p by 3
                for m1
                  keep BQK, SLN, LM, SLD, PRM, SPD, SLNV, SPNV in gb
                  BQK on pe2d: p, m0@rows, e
                  LM on pe2d: p, m0
                  RM on pe2d: p
                  SLN on pe2d: p, m0
                  SLD on pe2d: p, m0
                  SLNV on pe2d: f, p, m0
                  PRM on pe2d: p
                  SPD on pe2d: p
                  RD on pe2d: p
                  SPNV on pe2d: f, p
                  RNV on pe2d: f, p
            AV on pe2d: p, f
        """,
    ),
    "the loop over the rank is the leaf's own": (
        "matrix_power",
        """
        mapping own for matrix_power on mesh4x4
        S on pe2d: i, d, e
        Y on pe2d: d
        """,
    ),
    "a whole history is kept on chip and read back": (
        "history_inside",
        """
        mapping history for history_inside on mesh4x4
        for p by 3
          keep X in gb
          X on pe2d: p, i by 2, i
          for i by 2
            keep X, Y in rf2d
            Y on pe2d: i, p
        """,
    ),
    "an output is read inside the scope that writes it back": (
        "history",
        """
        mapping outputs for history on mesh4x4
        for p by 2
          keep X, Y, A in gb
          X on pe2d: i, p
          Y on pe2d: p
        """,
    ),
    "a window reads what the same loop made before": (
        "halo",
        """
        mapping windows for halo on mesh4x4
        S on pe2d: n by 4, n
        for n by 4
          keep S, W in gb
          for n by 3
            keep S in rf2d
            O on pe2d: k, n
        """,
    ),
    "a window reads what an earlier step of the same loop made": (
        "backwards",
        """
        mapping earlier for backwards on mesh4x4
        for n by 4
          keep S in gb
          S on pe2d: n
          O on pe2d: n
        """,
    ),
    "spatial loops are shared": (
        "masked_rows",
        """
        mapping spatial for masked_rows on mesh4x4
        for p@cols
          keep QK, G, E, D in rf2d
          QK on pe2d: m@rows, e
          G on pe2d: m
          E on pe2d: m
          D on pe2d: m
          O on pe2d: f, m
        """,
    ),
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("title", HAND)
def test_mappings_by_hand(title, fmt):
    name, text = HAND[title]
    mapping = parse_mapping("\n".join(line[8:] for line in text.strip("\n").splitlines()))
    error = disagreement(bound_of(name), mapping, TARGETS.get("mesh4x4"), parse_format(fmt))
    assert error <= TOLERANCE[fmt]


# --- the form of programs ---------------------------------------------------------------------

CAUSAL = """cascade causal(Q[p,e], K[m,e]) -> S[p]
  QK[p,m] = Q[p,e] * K[m,e] :: sum[e] s.t. m <= p
  S[p] = QK[p,m] :: sum[m]
"""

CAUSAL_MAPPING = """mapping tiles for causal on mesh4x4
for p by 4
  keep Q in gb
  for m by 2
    keep QK in gb
    QK on pe2d: p@cols, m@rows, e
    S on pe2d stage 1: p@cols, m
"""

CAUSAL_TEXT = """program causal(Q[6, 2] in dram, K[6, 2] in dram) -> S[6] in dram  # fp32
  for p in 0..2:  # for p by 4
    new Q_gb[4, 2] in gb
    for i in 0..4:  # copy Q in
      for i_1 in 0..2:
        if p * 4 + i < 6:
          Q_gb[i, i_1] = Q[p * 4 + i, i_1]
    for p_3 in 0..min(4, 6 - p * 4):  # start S
      S[p * 4 + p_3] = 0.0
    for m in 0..3:  # for m by 2
      if m * 2 <= p * 4 + min(3, 5 - p * 4):
        new QK[4, 2] in gb
        # QK on pe2d
        for p_1 in 0..4:  # p@cols; pe pe2d.cols
          if p * 4 + p_1 < 6:
            for m_1 in 0..2:  # m@rows; pe pe2d.rows
              if m * 2 + m_1 <= p * 4 + p_1:
                new QK_acc[] acc in gb
                QK_acc[] = 0.0
                for e in 0..2:  # e
                  QK_acc[] = QK_acc[] + Q_gb[p_1, e] * K[m * 2 + m_1, e]
                QK[p_1, m_1] = QK_acc[]
        # S on pe2d stage 1
        for p_2 in 0..4:  # p@cols; pe pe2d.cols
          if p * 4 + p_2 < 6:
            for m_2 in 0..2:  # m
              if m * 2 + m_2 <= p * 4 + p_2:
                S[p * 4 + p_2] = S[p * 4 + p_2] + QK[p_2, m_2]
"""


def test_the_whole_text_of_a_program():
    bound = bind(parse(CAUSAL), shapes={"p": 6, "m": 6, "e": 2})
    mapping = parse_mapping(CAUSAL_MAPPING)
    program = lower(bound, mapping, TARGETS.get("mesh4x4"), parse_format("fp32"))
    assert show(program) == CAUSAL_TEXT


def test_an_accumulator_is_wide_where_the_format_rounds():
    bound = bind(parse(CAUSAL), shapes={"p": 6, "m": 6, "e": 2})
    mapping = parse_mapping(CAUSAL_MAPPING)
    program = lower(bound, mapping, TARGETS.get("mesh4x4"), parse_format("fixed<16,8>"))
    assert "new S_acc[4] acc in dram" in show(program)
    assert program.accumulator_bits == (33, 17)


def test_tiles_beyond_the_diagonal_are_not_entered():
    bound = bind(parse(CAUSAL), shapes={"p": 64, "m": 64, "e": 2})
    mapping = parse_mapping(CAUSAL_MAPPING)
    program = lower(bound, mapping, TARGETS.get("mesh4x4"), parse_format("fp32"))
    text = show(program)
    assert "if m * 2 <= p * 4 + 3:" in text
    assert "min(" not in text  # every tile divides


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("A[J[p],f]", "index data"),
        ("A[p,f] s.t. J[p] == T[f]", "index index"),
        ("A[p,f] s.t. p - J[p] > 2 and T[f] > 0.5", "index data"),
        ("A[p,f] s.t. A[p,f] > T[f] and J[p] == 1", "data data"),
        ("A[J[p],f] * J[p]", "data data"),
        ("A[p,f] s.t. A[p, T[f]] > p", "data index"),
    ],
)
def test_inputs_that_hold_coordinates_are_index_buffers(body, kinds):
    text = f"cascade c(A[p,f], J[p], T[f]) -> O[p,f]\n  O[p,f] = {body}\n"
    bound = bind(parse(text), shapes={"p": 6, "f": 2})
    leaf = Compute("O", "pe2d", (Loop("p"), Loop("f")))
    mapping = Mapping("m", "c", "mesh4x4", (leaf,))
    program = lower(bound, mapping, TARGETS.get("mesh4x4"), parse_format("fp32"))
    assert [each.kind for each in program.inputs] == ["data", *kinds.split()]


def test_loop_variables_are_unique():
    bound = bound_of("attention_1pass")
    target = TARGETS.get("fusemax")
    fmt = parse_format("fp16")
    mapping, _ = build(bound, target, fmt, Flow(bound.cascade), Recipe())
    program = lower(bound, mapping, target, fmt)
    names = [each.variable for each in walk_statements(program.body) if isinstance(each, For)]
    assert len(names) == len(set(names))


def test_a_leaf_that_leaves_coordinates_is_an_error():
    bound = bind(parse(CAUSAL), shapes={"p": 6, "m": 6, "e": 2})
    mapping = Mapping("m", "causal", "mesh4x4", (Compute("QK", "pe2d", (Loop("p"), Loop("e"))),))
    with pytest.raises(MappingError) as error:
        lower(bound, mapping, TARGETS.get("mesh4x4"), parse_format("fp32"))
    assert str(error.value) == (
        "the loops of QK leave 6 coordinates of m at once\nfix: add a loop over m to the line of QK"
    )


def test_a_comparison_that_fixed_point_cannot_decide_is_an_error():
    text = "cascade c(A[p]) -> O[p]\n  O[p] = A[p] s.t. exp(p) < 20\n"
    bound = bind(parse(text), shapes={"p": 6})
    mapping = Mapping("m", "c", "mesh4x4", (Compute("O", "pe2d", (Loop("p"),)),))
    target = TARGETS.get("mesh4x4")
    assert disagreement(bound, mapping, target, parse_format("fp32")) == 0
    with pytest.raises(DataError) as error:
        lower(bound, mapping, target, parse_format("fixed<16,8>"))
    assert error.value.what == (
        "the comparison 'exp(p) < 20' is not one of whole numbers or fractions of them, and "
        "fixed<16,8> cannot decide it"
    )
    assert error.value.fix == "compare sums and multiples of rank variables, or use fp32"
