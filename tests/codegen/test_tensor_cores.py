"""Tensor-core kernels: emulated, PTX operation by operation, against fp64; mutated; compiled."""

import json
import shutil
from dataclasses import replace

import cuda_on_cpu
import numpy as np
import pytest

from penstock import parse, zoo
from penstock.codegen.backends import BACKENDS, Provenance
from penstock.codegen.gpu import fragment
from penstock.codegen.gpu.plain import plain
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cuda import PRODUCTS as PRODUCTS_KIND
from penstock.codegen.tvm.cuda import compile_cubin, cuda_module, tensor_module
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.numerics import quantise
from penstock.einsum_ir.rewrite.places import placed
from penstock.einsum_ir.shapes import bind
from penstock.mapper.fusion import Flow
from penstock.mapper.nodes import Compute, Keep, Nest
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import build, default_mapping
from penstock.mapper.search.explore import explore
from penstock.mapper.search.plan import Recipe
from penstock.runtime.streaming import parted, streamed
from penstock.runtime.tiles import Tiles
from penstock.samples import random_inputs
from penstock.targets import TARGETS

LIMIT = {"bf16": 2.0**-7, "fp16": 2.0**-10}
"""Largest error over largest value: two roundings of 2^-8 (2^-11) relative, of the weights and of
the result; sums and scores are fp32."""

TOY = {"h": 2, "p": 70, "m": 101, "e": 16, "f": 16, "g": 1}

UNSEEN = parse("""
cascade unseen(Q[h, p, e], K[h, m, e], V[h, m, f], B[m], G[h]) -> (O[h, p, f], L[h, p])
  S[h, p, m] = Q[h, p, e] * K[h, m, e] / 4 s.t. (p + 2 * m) % 3 != 1 and m <= p + 40
  T[h, p, m] = S[h, p, m] + B[m] * sigmoid(S[h, p, m]) - G[h] * abs(p - m) / 16
  X[h, p] = T[h, p, m] :: max[m]
  N[h, p, m] = exp(T[h, p, m] - X[h, p])
  L[h, p] = N[h, p, m] :: sum[m]
  O[h, p, f] = N[h, p, m] / L[h, p] * V[h, m, f] :: sum[m]
""")

LATENT = parse("""
cascade latent(Q[h, p, e], C[m, e]) -> O[h, p, f]
  S[h, p, m] = Q[h, p, e] * C[m, e] / 24 s.t. m <= p + M - P
  X[h, p] = S[h, p, m] :: max[m]
  N[h, p, m] = exp(S[h, p, m] - X[h, p])
  L[h, p] = N[h, p, m] :: sum[m]
  O[h, p, f] = N[h, p, m] / L[h, p] * C[m, f] :: sum[m]
""")
"""A latent vector is the key, and its first elements are the value (MLA, arXiv:2405.04434)."""

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def staged(body, buffers, overlap):
    """The mapping's body with that many buffers; sums in a later stage where they overlap."""
    found = []
    for node in body:
        if isinstance(node, Nest):
            node = replace(node, body=staged(node.body, buffers, overlap))
        elif isinstance(node, Keep):
            node = replace(node, buffers=buffers)
        elif isinstance(node, Compute) and overlap and node.einsum == "O_T":
            node = replace(node, stage=2)
        found.append(node)
    return tuple(found)


def made(cascade, machine, fmt="bf16", tile=32, constants=None, buffers=1, overlap=True, **shapes):
    """(the cascade as written, its streaming program with plain leaves, the target)."""
    target, form = TARGETS.get(machine), parse_format(fmt)
    written = zoo.load(cascade) if isinstance(cascade, str) else cascade
    used = {v for each in written.einsums for v in each.variables}
    used |= {rank for each in written.inputs for rank in each.ranks}
    sizes = {name: size for name, size in {**TOY, **shapes}.items() if name in used}
    constants = constants or {}
    exact = bind(written.with_constants(**constants) if constants else written, shapes=sizes)
    changed = placed(exact)
    if changed is not exact:
        written, sizes, constants = changed.cascade, {}, {}
    bound = streamed(written, sizes, constants, Tiles(tile, tile, tile), always=True)
    mapping, _ = build(bound, target, form, Flow(bound.cascade), Recipe())
    mapping = plain(replace(mapping, body=staged(mapping.body, buffers, overlap)), bound, target)
    return exact, lower(bound, mapping, target, form), target


def drawn(bound, form, scale):
    """Inputs that the format holds exactly, and whole numbers where they are coordinates."""
    random = np.random.default_rng(7)
    inputs = {
        name: quantise(np.asarray(each), form) for name, each in random_inputs(bound, form).items()
    }
    for name in inputs.keys() & {"Q", "K"}:
        inputs[name] = quantise(inputs[name] * scale, form)
    if "D" in inputs:
        inputs["D"] = np.sort(random.integers(-1, 4, inputs["D"].shape))
    return inputs


def emulated(module, program, bound, folder, scale=1.0):
    """The largest error over the largest value, of all outputs."""
    inputs = drawn(bound, program.format, scale)
    found = cuda_on_cpu.run(module, program, inputs, folder)
    exact = {name: np.asarray(each, float) for name, each in inputs.items()}
    errors = [0.0]
    for name, want in interpret(bound, exact, parse_format("fp64")).items():
        error = np.abs(found[name] - want).max() / np.abs(want).max()
        errors.append(error if error == error else np.inf)
    return max(errors)


def kinds(module):
    return [each.kind for each in module.steps if each.kind != "plain"]


def launches(steps):
    for each in steps:
        yield from launches(each.steps) if hasattr(each, "steps") else (each,)


CASES = [
    ("soft_cap", "h200", {"e": 128, "f": 48, "buffers": 3, "overlap": False}),
    ("attention", "a100", {"fmt": "fp16", "e": 64, "f": 64, "buffers": 3}),
    ("sliding_window", "h200", {"constants": {"W": 20.0}, "p": 130, "m": 130, "tile": 16}),
    ("gqa_causal", "a100", {"h": 4, "g": 2}),
    ("soft_cap", "h200", {"fmt": "fp16", "e": 96, "f": 96, "tile": 48}),
    ("attention_sink", "h200", {"e": 71, "f": 71, "p": 40, "m": 70}),
    ("document_mask", "h200", {"p": 101}),
    ("sigmoid_attention", "h200", {}),
    ("sigmoid_attention", "a100", {"fmt": "fp16"}),
    (UNSEEN, "h200", {}),
    ("neighborhood", "h200", {"m": 75, "p": 75, "r": 13, "tile": 16}),
    ("neighborhood_2d", "a100", {"h": 1, "y": 8, "x": 19, "r": 13, "c": 13, "tile": 1}),
]


@needs_gxx
@pytest.mark.parametrize(("cascade", "machine", "more"), CASES)
def test_emulated_kernels_agree_with_fp64(tmp_path, cascade, machine, more):
    bound, program, target = made(cascade, machine, **more)
    module = cuda_module(program, target)
    odd = more.get("e", 16) % 8  # lines that no TMA box covers
    assert kinds(module) == ["wgmma" if machine == "h200" and not odd else "mma.sync"]
    assert emulated(module, program, bound, tmp_path) < LIMIT[program.format.name]


CUT = [
    (LATENT, "h200", {"e": 576, "f": 512, "p": 40, "m": 90}),
    (LATENT, "a100", {"e": 576, "f": 512, "p": 40, "m": 90, "fmt": "fp16"}),
    (UNSEEN, "h200", {"f": 256, "tile": 48, "p": 37}),
    (UNSEEN, "a100", {"f": 264, "e": 71, "tile": 48, "p": 37}),
]


@needs_gxx
@pytest.mark.parametrize(("cascade", "machine", "more"), CUT)
def test_results_wider_than_registers_are_cut_into_columns(
    tmp_path, monkeypatch, cascade, machine, more
):
    """Two warps have the same rows; large logits, and NaN in keys that rows do not see."""
    if cascade is not LATENT:  # which is wide indeed
        monkeypatch.setattr(fragment, "_MOST_HELD", 100)
    bound, program, target = made(cascade, machine, **more)
    module = cuda_module(program, target)
    assert kinds(module) == ["wgmma" if machine == "h200" else "mma.sync"]
    assert "ps_across(" in module.source
    assert module.source.count("// 2 of") == (1 if cascade is LATENT else 2)  # one ring, two
    assert emulated(module, program, bound, tmp_path, scale=8.0) < LIMIT[program.format.name]


SPLIT = """
mapping decode for gqa_causal on {machine}
QS on sm: e@blocks, h@threads
for m1@blocks
  for h by {rows}@blocks
    for m01
      keep QK_T_T, GM_T_T, SN_T_T, SD_T_T, GM_C2, SD_T_P, O_T_T, O_T_P in smem
      keep K, V in smem x2
      QK_T_T on sm: h, m00, e
      GM_T_T on sm: h, m00
      GM_T_R on sm: h
      SN_T_T on sm: h, m00
      SD_T_T on sm: h, m00
      GM_C2 on sm: h
      SD_T_P on sm: h
      SD_T_R on sm: h
      O_T_T on sm stage 2: h, f, m00
      O_T_P on sm: h, f
      O_T_R on sm: h, f
for h by {rows}@blocks
  keep GM_R, GM_C, SD_R, O_R in smem
  GM_R on sm: h@threads, m1
  GM_C on sm: h, m1@threads
  SD_R on sm: h@threads, m1
  O_R on sm: h, f@threads, m1
  O on sm: h, f@threads
"""
"""What `explore` finds for the parted form at larger sizes."""


@needs_gxx
@pytest.mark.parametrize(("machine", "rows", "keys"), [("h200", 8, 230), ("a100", 3, 96)])
def test_decode_packs_heads_that_share_keys_and_splits_them(tmp_path, machine, rows, keys):
    """One query of 2 * rows heads: a group is the rows of a tile, parts of 64 keys are merged."""
    target, form = TARGETS.get(machine), parse_format("bf16")
    written = zoo.load("gqa_causal")
    sizes = {"h": 2 * rows, "g": 2, "p": 1, "m": keys, "e": 16, "f": 24}
    bound = parted(written, sizes, tiles=Tiles(32, 32, 32), part=64)
    mapping = parse_mapping(SPLIT.format(machine=machine, rows=rows))
    program = lower(bound, plain(mapping, bound, target), target, form)
    module = cuda_module(program, target)
    assert kinds(module) == [{"h200": "wgmma", "a100": "mma.sync"}[machine]]
    assert {each.type for each in module.workspace if each.name.endswith("_R")} == {"float32"}
    error = emulated(module, program, bind(written, shapes=sizes), tmp_path)
    assert error < LIMIT["bf16"]


ALONE = """
mapping alone for causal_attention on {machine}
QS on sm: e@blocks, h@threads
for m1@blocks
  for h@blocks
    for m01
      keep QK_T_T, GM_T_T, SN_T_T, SD_T_T, GM_C2, SD_T_P, O_T_T, O_T_P in smem
      keep K, V in smem x2
      QK_T_T on sm: m00, e
      GM_T_T on sm: m00
      GM_T_R on sm
      SN_T_T on sm: m00
      SD_T_T on sm: m00
      GM_C2 on sm
      SD_T_P on sm
      SD_T_R on sm
      O_T_T on sm stage 2: f, m00
      O_T_P on sm: f
      O_T_R on sm: f
for h@blocks
  keep GM_R, GM_C, SD_R, O_R in smem
  GM_R on sm: m1
  GM_C on sm: m1@threads
  SD_R on sm: m1
  O_R on sm: f@threads, m1
  O on sm: f@threads
"""


@needs_gxx
@pytest.mark.parametrize("machine", ["h200", "a100"])
def test_one_query_of_a_head_with_keys_of_its_own_is_a_tile_with_one_row(tmp_path, machine):
    target, form = TARGETS.get(machine), parse_format("bf16")
    written, sizes = zoo.load("causal_attention"), {"h": 2, "p": 1, "m": 150, "e": 16, "f": 24}
    bound = parted(written, sizes, tiles=Tiles(32, 32, 32), part=64)
    mapping = plain(parse_mapping(ALONE.format(machine=machine)), bound, target)
    program = lower(bound, mapping, target, form)
    module = cuda_module(program, target)
    assert kinds(module) == [{"h200": "wgmma", "a100": "mma.sync"}[machine]]
    exact = bind(written, shapes=sizes)
    assert emulated(module, program, exact, tmp_path, scale=8.0) < LIMIT["bf16"]


@needs_gxx
@pytest.mark.parametrize("machine", ["h200", "a100"])
def test_large_logits_and_rows_without_a_key(tmp_path, monkeypatch, machine):
    """Logits of thousands; the first rows of 70 see none of 37 keys; everything happens at once."""
    monkeypatch.setenv("PENSTOCK_EAGER", "1")
    bound, program, target = made("causal_attention", machine, fmt="fp16", p=70, m=37, tile=16)
    module = cuda_module(program, target)
    assert emulated(module, program, bound, tmp_path, scale=60.0) < LIMIT["fp16"]


STRANGE = [
    ("causal_attention", "h200", {"p": 101}),
    ("causal_attention", "a100", {"e": 71, "f": 71}),
    ("sliding_window", "h200", {"constants": {"W": 20.0}, "p": 101, "overlap": False}),
    ("document_mask", "a100", {"p": 101}),
    ("causal_attention", "h200", {"f": 256, "p": 64, "m": 64}),
    ("causal_attention", "a100", {"f": 256, "p": 64, "m": 64}),
]


@needs_gxx
@pytest.mark.parametrize(("cascade", "machine", "more"), STRANGE)
def test_masked_keys_that_are_no_number_do_not_leak(tmp_path, monkeypatch, cascade, machine, more):
    """NaN and Inf in K and V of some keys: rows that do not see them are as they would be."""
    if "f" in more:
        monkeypatch.setattr(fragment, "_MOST_HELD", 100)
    bound, program, target = made(cascade, machine, **more)
    inputs = drawn(bound, program.format, 1.0)
    at = [inputs["K"].shape[-2] * tenths // 10 for tenths in (4, 7, 9)]
    inputs["K"][..., at[0], :], inputs["V"][..., at[1], 3:9] = np.nan, np.nan
    inputs["V"][..., at[2], 1], inputs["V"][..., at[2] + 5 :, :] = np.inf, -np.inf
    found = cuda_on_cpu.run(cuda_module(program, target), program, inputs, tmp_path)["O"]
    exact = {name: np.asarray(each, float) for name, each in inputs.items()}
    want = interpret(bound, exact, parse_format("fp64"))["O"]
    finite = np.isfinite(want)
    assert 0.1 < finite.mean() < 0.99
    assert np.array_equal(found[~finite], want[~finite], equal_nan=True)
    assert np.abs(found[finite] - want[finite]).max() < LIMIT["bf16"] * np.abs(want[finite]).max()


MUTANTS = [
    ("a100", "ps_copy_wait<0>();", ""),
    ("a100", "16 * k + ps_lane / 8 % 2 * 8", "16 * k"),
    ("h200", "ps_wgmma_wait<1>();", ""),
    ("h200", "ps_wgmma_wait<0>();", ""),
    ("h200", "ps_wait(full_O_T", "(void)(full_O_T"),
    ("h200", "k % 4 * 32, 0, 1024", "k % 4 * 32, 0, 512"),
]


@needs_gxx
@pytest.mark.parametrize(("machine", "old", "new"), MUTANTS)
def test_a_dropped_wait_or_a_wrong_descriptor_is_noticed(tmp_path, machine, old, new):
    bound, program, target = made("attention", machine, p=128, m=96)
    module = cuda_module(program, target)
    assert old in module.source
    broken = replace(module, source=module.source.replace(old, new))
    assert emulated(broken, program, bound, tmp_path) > 4 * LIMIT["bf16"]


NEIGHBOURS = parse("""
cascade neighbours(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
  const X = 10
  S[p, m] = Q[p, e] * K[m, e] / 4 s.t. abs(p // X - m // X) <= 1 and abs(p % X - m % X) <= 1
  G[p]    = S[p, m] :: max[m]
  T[p, m] = exp(S[p, m] - G[p])
  D[p]    = T[p, m] :: sum[m]
  O[p, f] = T[p, m] / D[p] * V[m, f] :: sum[m]
""")
"""Each place of a grid with 10 columns sees the 9 around it."""


@needs_gxx
@pytest.mark.parametrize(
    ("cascade", "present"),
    [
        ("causal_attention", "(i_m1 * 16) <= "),
        ("attention_sink", "(i_m1 == 0) || "),
        ("document_mask", "(i_m1 * 16) < 150"),
        (NEIGHBOURS, "i_m1 * 16"),
    ],
)
def test_empty_tiles_are_skipped(tmp_path, cascade, present):
    """150 rows in blocks, tiles of 16 keys; masks that are stored, states that follow."""
    bound, program, target = made(cascade, "h200", p=150, m=150, tile=16, h=1)
    module = cuda_module(program, target)
    assert kinds(module) == ["wgmma"]
    test = module.source.partition("while (i_m1 < ps_end && !(")[2].partition(")) ++i_m1;")[0]
    assert present in test
    if cascade != "causal_attention":  # that one runs above
        assert emulated(module, program, bound, tmp_path) < LIMIT["bf16"]


CHUNKS = parse("""
cascade chunks(Q[h, t, e], K[h, t, e], V[h, t, f], G[h]) -> O[h, t, f]
  shape s = 16
  shape u = 16
  init R[h, 0, e, f] = 0
  loop i:
    A[h, i, u, s] = Q[h, i * U + u, e] * K[h, i * U + s, e] :: sum[e] s.t. s <= u
    W[h, i, u, s] = A[h, i, u, s] * exp(-G[h] * (u - s))
    X[h, i, u, e] = Q[h, i * U + u, e] * exp(-G[h] * (u + 1))
    Y[h, i, s, e] = K[h, i * U + s, e] * exp(-G[h] * (U - 1 - s))
    P[h, i, u, f] = W[h, i, u, s] * V[h, i * U + s, f] :: sum[s]
    B[h, i, u, f] = X[h, i, u, e] * R[h, i, e, f] :: sum[e]
    T[h, i, e, f] = Y[h, i, s, e] * V[h, i * U + s, f] :: sum[s]
    R[h, i + 1, e, f] = exp(-U * G[h]) * R[h, i, e, f] + T[h, i, e, f]
  O[h, t, f] = P[h, t // U, t % U, f] + B[h, t // U, t % U, f]
""")
"""Retention in chunks (arXiv:2307.08621), with its decays in elements of their own."""

PRODUCTS = [
    (zoo.load("linear_attention"), "h200", "bf16", {"h": 2, "p": 71, "m": 100, "e": 24, "f": 20}),
    (CHUNKS, "a100", "fp16", {"h": 2, "t": 64, "e": 24, "f": 40}),
    (zoo.load("mla_absorbed"), "h200", "bf16",
     {"h": 8, "p": 7, "m": 64, "c": 40, "r": 8, "e": 16, "f": 24}),
]  # fmt: skip


@needs_gxx
@pytest.mark.parametrize(("cascade", "machine", "fmt", "sizes"), PRODUCTS)
def test_products_on_the_matrix_unit_are_those_of_the_interpreter(
    tmp_path, cascade, machine, fmt, sizes
):
    """Kernels of no pattern: sides as they lie, results and sums as the format has them."""
    target, form = TARGETS.get(machine), parse_format(fmt)
    bound = bind(cascade, shapes=sizes)
    program = lower(bound, explore(bound, target, form).mapping, target, form)
    module = cuda_module(program, target)
    assert PRODUCTS_KIND in {each.kind for each in launches(module.steps)}
    inputs = drawn(bound, form, 1.0)
    if "G" in inputs:  # a decay
        inputs["G"] = np.abs(inputs["G"])
    found = cuda_on_cpu.run(module, program, inputs, tmp_path)
    for name, want in interpret(bound, inputs, form).items():
        assert np.abs(found[name] - want).max() <= LIMIT[fmt] * np.abs(want).max()


@needs_gxx
@pytest.mark.parametrize("care", [True, False])
def test_products_leave_absent_terms_out_where_a_side_is_no_number(tmp_path, care):
    """Rows see keys up to their own; NaN and Inf in later values; without care they would leak."""
    cascade = parse("""
    cascade prefix(W[p, m], V[m, f]) -> O[p, f]
      O[p, f] = W[p, m] * V[m, f] :: sum[m] s.t. m <= p
    """)
    target, form = TARGETS.get("a100"), parse_format("bf16")
    bound = bind(cascade, shapes={"p": 50, "m": 50, "f": 24})
    program = lower(bound, explore(bound, target, form).mapping, target, form)
    module = cuda_module(program, target)
    if not care:
        old = "fabsf(c[n][i]) < PS_INF ?"
        assert old in module.source
        module = replace(module, source=module.source.replace(old, "true ?"))
    inputs = drawn(bound, form, 1.0)
    inputs["V"][30, 3:9], inputs["V"][45, :] = np.nan, np.inf
    found = cuda_on_cpu.run(module, program, inputs, tmp_path)["O"]
    want = interpret(bound, inputs, form)["O"]
    finite = np.isfinite(want)
    assert 0.5 < finite.mean() < 0.95
    same = np.array_equal(np.isnan(found), np.isnan(want))
    assert same == care
    if care:
        error = np.abs(found[finite] - want[finite]).max()
        assert error <= LIMIT["bf16"] * np.abs(want[finite]).max()


def test_mask_code_is_in_partial_tiles_only():
    _, program, target = made("causal_attention", "h200")
    assert "(ps_full || (((i_m1 * 32) + i_m0" in cuda_module(program, target).source


def test_the_stages_of_the_mapping_decide_what_overlaps():
    behind, alone = (
        cuda_module(*made("attention", "h200", overlap=overlap)[1:]).source
        for overlap in (True, False)
    )
    assert "ps_wgmma_wait<1>();" in behind
    assert "ps_wgmma_wait<1>();" not in alone


@pytest.mark.parametrize(
    ("scores", "result"),
    [(":: sum[e] s.t. e <= m % 20", ""), ("", "s.t. f <= m"), ("", "s.t. (f + m) % 3 != p % 3")],
)
def test_conditions_on_elements_of_a_right_side_are_refused(scores, result):
    text = f"""
    cascade odd(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
      S[p, m] = Q[p, e] * K[m, e] / 4 {scores}
      X[p] = S[p, m] :: max[m]
      N[p, m] = exp(S[p, m] - X[p])
      L[p] = N[p, m] :: sum[m]
      O[p, f] = N[p, m] / L[p] * V[m, f] :: sum[m] {result}
    """
    _, program, target = made(parse(text), "a100")
    whys = [each.why for each in cuda_module(program, target).steps]
    assert any("has a condition on elements of" in each for each in whys)


@pytest.mark.parametrize(
    ("cascade", "fmt", "why"),
    [
        ("attention", "fp32", "tensor cores take bf16 and fp16 here, and this is fp32"),
        ("linear_attention", "bf16", "its mapping has no loop over tiles in its blocks"),
    ],
)
def test_what_stays_plain_says_why(cascade, fmt, why):
    target, form = TARGETS.get("h200"), parse_format(fmt)
    written = zoo.load(cascade)
    used = {v for each in written.einsums for v in each.variables}
    used |= {rank for each in written.inputs for rank in each.ranks}
    sizes = {"h": 8, "p": 512, "m": 256, "e": 16, "f": 16, "d": 16}
    bound = streamed(written, {k: v for k, v in sizes.items() if k in used}, {}, Tiles(64, 64, 64))
    mapping = default_mapping(bound, target, form)
    leaves = plain(mapping, bound, target)
    module = tensor_module(
        lower(bound, mapping, target, form),
        target,
        lambda: leaves and lower(bound, leaves, target, form),
    )
    assert {each.kind for each in module.steps} == {"plain"}
    assert why in {each.why for each in module.steps}
    assert f"is plain: {why}\n" in module.source


def test_the_artifact_has_a_loader_and_the_tma_boxes():
    _, program, target = made("causal_attention", "h200")
    source = Provenance("causal", "0123456789ab", plain=lambda: program)
    files = BACKENDS.get("cuda").generate(program, target, source, None).files
    (step,) = json.loads(files["launch.json"])["steps"]
    assert step["kind"] == "wgmma"
    assert [each["box"] for each in step["maps"]] == [[1, 32, 64], [1, 32, 64]]
    assert "cuTensorMapEncodeTiled" in files["launch.py"]
    assert "import penstock" not in files["launch.py"]
    compile(files["launch.py"], "launch.py", "exec")


@needs_nvcc
@pytest.mark.parametrize(("machine", "arch"), [("h200", "sm_90a"), ("a100", "sm_80")])
@pytest.mark.slow
def test_nvcc_compiles_tensor_core_kernels(machine, arch):
    _, program, target = made("causal_attention", machine, e=64, f=64)
    assert target.part == arch
    assert compile_cubin(cuda_module(program, target).source, arch)[:4] == b"\x7fELF"
