"""`penstock.jit`: right on arrays and tensors, kept on disk, clear about what it cannot take."""

import subprocess
import sys

import numpy as np
import pytest

import penstock
from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError
from penstock.runtime import jit as jitted
from penstock.samples import random_inputs
from penstock.targets import TARGETS
from penstock.targets.cpu import adds_pairs

NAIVE = """cascade scaled(A[m, k], B[k, n], S[m]) -> C[m, n], D[m]
  C[m, n] = A[m, k] * B[k, n] * S[m] :: sum[k]
  D[m]    = C[m, n]                  :: max[n]
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kernels")
        patch.setenv("PENSTOCK_CACHE", str(folder))
        yield folder


def arrays(*shapes, dtype=np.float32):
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.slow
def test_windows_of_odd_sizes_with_large_logits(cache):
    """3 heads, 150 queries, 200 keys, values 37 wide: tiles have rests in every direction."""
    q, k, v = (
        np.round(each * 16) / 16 for each in arrays((3, 150, 64), (3, 200, 64), (3, 200, 37))
    )
    inputs = {"Q": (q * 256).astype(float), "K": k.astype(float), "V": v.astype(float)}
    found = penstock.jit(zoo.load("sliding_window"), constants={"W": 60})(q * 256, k, v)
    wanted = penstock.run(zoo.load("sliding_window"), inputs, constants={"W": 60})["O"]
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.slow
def test_tensors_arrays_and_a_later_process_share_one_kernel(cache):
    torch = pytest.importorskip("torch")
    a, b, s = arrays((5, 7), (7, 6), (5,))
    made = penstock.jit(parse(NAIVE))
    found, largest = made(a, b, S=s)
    np.testing.assert_allclose(found, (a @ b) * s[:, None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(largest, found.max(1))
    tensors = [torch.from_numpy(each) for each in (a, b, s)]
    again, _ = made(*tensors)
    assert isinstance(again, torch.Tensor)
    assert np.array_equal(again.numpy(), found)
    kept = sorted(each.name for each in cache.iterdir() if each.name.startswith("scaled"))
    assert [name.rpartition(".")[2] for name in kept] == ["json", "so"]
    code = f"""
import sys, numpy as np, penstock
made = penstock.jit(penstock.parse({NAIVE!r}))
made(np.ones((5, 7), 'f4'), np.ones((7, 6), 'f4'), np.ones(5, 'f4'))
print([name for name in ('tvm', 'torch') if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"  # nothing was compiled
    assert sorted(e.name for e in cache.iterdir() if e.name.startswith("scaled")) == kept
    torch.library.opcheck(made.operator(), tensors)


SIXTEEN = [("causal_attention", "bfloat16", 8), ("causal_attention", "float16", 11)]
SIXTEEN += [(name, "bfloat16", 8) for name in ("alibi", "gla", "topk_attention")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "bits"), SIXTEEN)
def test_sixteen_bits_outside_fp32_between(cache, name, kind, bits):
    """Within 2 ulp of the output's type: several passes over 37 keys, or tiles of 150.

    Where products of bf16 numbers are added in pairs a factor is rounded too: half a unit of it.
    """
    torch = pytest.importorskip("torch")
    cascade, long = zoo.load(name), 150 if name == "causal_attention" else 37
    sizes = {"h": 2, "p": long, "m": long, "t": long, "e": 16, "f": 16}
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    more = {"j": 9} if name == "topk_attention" else {}
    bound = bind(cascade, shapes={r: n for r, n in sizes.items() if r in ranks} | more)
    given = random_inputs(bound, parse_format("fp32"))
    tensors = [torch.from_numpy(each).to(getattr(torch, kind)) for each in given.values()]
    made = penstock.jit(cascade, shapes=more)(*tensors)
    exact = {name: each.double().numpy() for name, each in zip(given, tensors, strict=True)}
    wanted = interpret(bound, exact, parse_format("fp64")).values()
    pairs = kind == "bfloat16" and adds_pairs(TARGETS.get("cpu"), "bf16")
    limit = 1e-5 + 2**-9 * pairs
    for found, want in zip(made if isinstance(made, tuple) else [made], wanted, strict=True):
        ulp = np.ldexp(1.0, np.frexp(want)[1] - bits)
        off = np.abs(found.double().numpy() - want)
        assert (off <= 2 * ulp + limit * np.abs(want).max()).all()


@pytest.mark.slow
def test_a_compiled_function_decodes_with_a_cache_of_int8(cache):
    """Formats of single tensors, and outputs of two types as `torch.compile` sees them."""
    torch = pytest.importorskip("torch")
    cascade = zoo.load("int8_decode")
    bound = bind(cascade, shapes={"h": 4, "g": 2, "e": 8, "f": 8, "m": 21})
    drawn = {**random_inputs(bound, parse_format("fp32")), "T": np.full((), 9.0, np.float32)}
    given = {name: np.rint(each) if "8" in name else each for name, each in drawn.items()}
    own = {"K8": np.int8, "V8": np.int8}
    tensors = [torch.from_numpy(e.astype(own.get(name, np.float32))) for name, e in given.items()]
    made = penstock.jit(cascade)
    step = torch.compile(lambda *given: made(*given)[0] * 2, fullgraph=True, backend="aot_eager")
    wanted = interpret(bound, given, parse_format("fp32"))
    for out, (name, want) in zip(made(*tensors), wanted.items(), strict=True):
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-5, atol=1e-6, err_msg=name)
        assert str(out.dtype)[6:] == str(want.dtype)
    np.testing.assert_allclose(step(*tensors), 2 * wanted["O"], rtol=1e-5, atol=1e-6)
    torch.library.opcheck(made.operator(), tensors)


LAYOUT = (
    "argument A (5, 7) is not contiguous: rows of its last rank do not follow each other in memory"
)

MISTAKES = {
    "two dimensions": (
        lambda f, a, b, s: f(a[0], b, s),
        "argument A has 1 dimensions (7,), input A[m, k] has 2 ranks",
    ),
    "sizes": (
        lambda f, a, b, s: f(a, b[:5], s),
        "argument B[k, n] has size 5 along rank k, which is 7 in A[m, k]",
    ),
    "layout": (
        lambda f, a, b, s: f(np.asfortranarray(a), b, s),
        LAYOUT,
    ),
    "types": (
        lambda f, a, b, s: f(a, b.astype(float), s),
        "the arguments have elements of different types: float32, float64",
    ),
    "kinds": (lambda f, a, b, s: f(a, b, [1.0]), "argument S is a list"),
    "number": (
        lambda f, a, b, s: f(a, b),
        "scaled takes 3 arrays (A[m, k], B[k, n], S[m]), and was given 2",
    ),
    "name": (
        lambda f, a, b, s: f(a, b, T=s),
        "scaled has no input T (inputs: A[m, k], B[k, n], S[m])",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_it_cannot_take_is_refused(cache, mistake):
    call, said = MISTAKES[mistake]
    a, b, s = arrays((5, 7), (7, 6), (5,))
    with pytest.raises(DataError) as caught:
        call(penstock.jit(parse(NAIVE)), a, b, s)
    assert caught.value.what == said


def test_what_tensors_cannot_be(cache):
    torch = pytest.importorskip("torch")
    a, b, s = (torch.from_numpy(each) for each in arrays((5, 7), (7, 6), (5,)))
    made = penstock.jit(parse(NAIVE))
    for given, said in (
        ((a.requires_grad_(), b, s), "argument A asks for a derivative, which scaled has not"),
        ((a.detach(), b.to("meta"), s), "argument B is on meta: this kernel is for the CPU"),
    ):
        with pytest.raises(DataError) as caught:
            made(*given)
        assert caught.value.what == said


def test_a_kernel_of_other_code_or_sizes_has_another_name(cache, monkeypatch):
    first = penstock.jit(zoo.load("attention"))._digest
    assert penstock.jit(zoo.load("attention"))._digest == first
    assert penstock.jit(zoo.load("alibi"))._digest != first
    assert penstock.jit(zoo.load("attention"), shapes={"m": 4})._digest != first
    monkeypatch.setattr(jitted, "_fingerprint", lambda: "other code")
    assert penstock.jit(zoo.load("attention"))._digest != first
