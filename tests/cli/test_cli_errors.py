"""Bad input on the command line: exact text, exit code 1, no traceback, nothing half-written."""

import json

import numpy as np
import pytest

from penstock.cli import main
from penstock.targets import TARGETS

GOOD = """cascade attention(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
  const SC = 0.5
  QK[p,m] = Q[p,e] * K[m,e] * SC
  GM[p]   = QK[p,m]                     :: max[m]
  SN[p,m] = exp(QK[p,m] - GM[p])
  SD[p]   = SN[p,m]                     :: sum[m]
  A[p,m]  = SN[p,m] / SD[p]
  O[p,f]  = A[p,m] * V[m,f]             :: sum[m]
"""

TIGHT = """mapping tight for attention on mesh4x4
for p by 4
  keep QK, GM, SN, SD, A in gb
  QK on pe2d: m by 4, p@cols, m@rows, e
  GM on pe2d: m by 4, p@cols, m@rows
  SN on pe2d: m by 4, p@cols, m@rows
  SD on pe2d: m by 4, p@cols, m@rows
  A on pe1d: m, p@lanes
  O on pe2d: f by 4, p@cols, f@rows, m
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0).standard_normal
    q, k, v = random((5, 4)), random((7, 4)), random((7, 3))
    np.savez("in.npz", Q=q, K=k, V=v)
    np.savez("bad.npz", Q=q, K=random((7, 9)), V=v)
    np.savez("missing.npz", Q=q, K=k)
    files = {
        "a.einsum": GOOD,
        "operator.einsum": GOOD.replace("exp(", "expp("),
        "tensor.einsum": GOOD.replace("* V[m,f]", "* W[m,f]"),
        "rank.einsum": GOOD.replace("QK[p,m] = Q", "QK[p,n] = Q"),
        "twice.einsum": GOOD.replace("SD[p]   = SN", "GM[p]   = SN"),
        "cycle.einsum": "cascade c(Q[p]) -> B[p]\n  A[p] = B[p] + Q[p]\n  B[p] = A[p] * 2\n",
        "constant.einsum": GOOD.replace("  const SC = 0.5\n", ""),
        "tight.mapping": TIGHT,
        "broken.json": '{"penstock": "design", "cascade": 3}',
        "text.json": "{",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


SMALL = ["--shape", "p=4", "m=4", "e=4", "f=4"]

CASES = {
    "operator": (
        ["show", "operator.einsum"],
        """unknown operator 'expp' (known: abs, bitlen, clamp, cos, erf, exp, exp2, fill, floor, \
gelu, log, log2, log_softmax, max, min, relu, round, rsqrt, sigmoid, sign, silu, sin, softmax, \
softplus, sq, sqrt, step, tanh, where)
operator.einsum:5:13
  SN[p,m] = expp(QK[p,m] - GM[p])
            ^^^^
fix: did you mean 'exp' or 'exp2'?""",
    ),
    "tensor": (
        ["passes", "tensor.einsum"],
        """unknown tensor 'W' (known: A, GM, K, O, Q, QK, SD, SN, V)
tensor.einsum:8:22
  O[p,f]  = A[p,m] * W[m,f]             :: sum[m]
                     ^^^^^^
fix: add W to the inputs in the first line, or define it""",
    ),
    "rank": (
        ["explore", "rank.einsum", "--target", "cpu", *SMALL],
        """rank variable 'n' of QK[p, n] has no shape (known: e, f, m, p)
rank.einsum:3:8
  QK[p,n] = Q[p,e] * K[m,e] * SC
       ^
fix: add a line 'shape n = 64', in Python c.shape(n=64), or give --shape n=64""",
    ),
    "missing shape": (
        ["explore", "a.einsum", "--target", "cpu", "--shape", "p=4", "m=4"],
        """rank variable 'e' of Q[p, e] has no shape (known: m, p)
a.einsum:1:19
  cascade attention(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
                    ^^^^^^
fix: add a line 'shape e = 64', in Python c.shape(e=64), or give --shape e=64""",
    ),
    "constant": (
        ["run", "constant.einsum", "--inputs", "in.npz"],
        """constant SC of QK has no value
constant.einsum:2:31
  QK[p,m] = Q[p,e] * K[m,e] * SC
                              ^^
fix: add a line 'const SC = 1', in Python c.const(SC=1), or give --const SC=1""",
    ),
    "twice": (
        ["show", "twice.einsum"],
        """GM is defined twice
twice.einsum:6:3
  GM[p]   = SN[p,m]                     :: sum[m]
  ^^^^^
fix: give one of the two a name of its own, as GM2""",
    ),
    "cycle": (
        ["show", "cycle.einsum"],
        """tensors depend on each other in a cycle: A -> B -> A
cycle.einsum:2:3
  A[p] = B[p] + Q[p]
  ^^^^^^^^^^^^^^^^^^
fix: break the cycle with a rank that steps, as in A[i+1] = ...""",
    ),
    "shape mismatch": (
        ["run", "a.einsum", "--inputs", "bad.npz", "--out", "out.npz"],
        """array K[m, e] has size 9 along rank e, array Q says 4
a.einsum:1:27
  cascade attention(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
                            ^^^^^^
fix: make both sizes of e equal""",
    ),
    "missing array": (
        ["run", "a.einsum", "--inputs", "missing.npz", "--out", "out.npz"],
        """input V[m, f] has no array (given: K, Q)
a.einsum:1:35
  cascade attention(Q[p,e], K[m,e], V[m,f]) -> O[p,f]
                                    ^^^^^^
fix: add an array 'V'""",
    ),
    "target": (
        ["explore", "a.einsum", "--target", "fusmax", *SMALL],
        (
            f"unknown target 'fusmax' (known: {', '.join(TARGETS.names())})\n"
            "fix: did you mean 'fusemax'?"
        ),
    ),
    "does not fit": (
        [
            *("explore", "a.einsum", "--target", "mesh4x4", "--mapping", "tight.mapping"),
            *("--shape", "p=64", "m=8192", "e=8", "f=8"),
        ],
        """needs 192 KB of gb, mesh4x4 has 64 KB; largest tensors: A (64), QK (64), SN (64)
fix: use smaller tiles, fewer buffers, or keep less""",
    ),
    "backend": (
        ["run", "a.einsum", "--inputs", "in.npz", "--backend", "tmv"],
        """unknown backend 'tmv' (known: cuda, hls, loops, tvm)
fix: did you mean 'tvm'?""",
    ),
    "no file": (
        ["show", "nope.einsum"],
        """cannot read nope.einsum: No such file or directory
fix: check the name of the file""",
    ),
    "no cascade": (
        ["show", "atention"],
        """there is no file and no stock cascade 'atention'
fix: did you mean 'attention' or 'retention'?""",
    ),
    "no arrays": (
        ["run", "a.einsum", "--inputs", "nope.npz"],
        """cannot read nope.npz: No such file or directory
fix: make it with numpy.savez(path, Q=..., K=...)""",
    ),
    "broken design": (
        ["simulate", "broken.json"],
        """broken.json has a wrong field 'cascade'
fix: make it again with 'penstock explore ... -o design.json'""",
    ),
    "no design": (
        ["report", "text.json"],
        """text.json is not JSON: Expecting property name enclosed in double quotes at line 1, \
column 2
fix: make it again with 'penstock explore ... -o design.json'""",
    ),
    "unknown rank": (
        ["run", "a.einsum", "--inputs", "in.npz", "--shape", "x=3"],
        """shape x=3 names no rank of attention (ranks: p, e, m, f)
fix: leave out x""",
    ),
    "zero": (
        ["run", "a.einsum", "--inputs", "in.npz", "--shape", "p=0"],
        """--shape p=0 is not a positive whole number
fix: write it as in --shape p=1024""",
    ),
    "format": (
        ["run", "a.einsum", "--inputs", "in.npz", "--format", "fp33"],
        """unknown number format 'fp33'
fix: use fp64, fp32, fp16, bf16, fp8_e4m3, fp8_e5m2, int8 or uint8 (4 to 32 bits), or \
fixed<16,6>""",
    ),
    "output folder": (
        ["generate", "a.einsum", "--backend", "loops", *SMALL, "-o", "a.einsum/out"],
        """cannot write to a.einsum/out: a part of the path is a file, not a folder
fix: choose a folder you may write to""",
    ),
    "output file": (
        ["run", "a.einsum", "--inputs", "in.npz", "--out", "a.einsum/out.npz"],
        """cannot write a.einsum/out.npz: a part of the path is a file, not a folder
fix: choose a place you may write to""",
    ),
    "no machine": (
        ["simulate", "a.einsum", *SMALL],
        """a.einsum is a cascade, and no machine is given
fix: add --target T, or give a design.json""",
    ),
}


@pytest.mark.parametrize(("argv", "message"), CASES.values(), ids=CASES)
def test_message(argv, message, folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    assert main(argv) == 1
    said = capsys.readouterr()
    assert said.err.rstrip() == f"penstock: {message}"
    assert said.out == ""
    assert sorted(path.name for path in folder.iterdir()) == before


def test_changed_design(folder, capsys):
    out = folder / "d.json"
    assert main(["explore", "a.einsum", "--target", "mesh4x4", *SMALL, "-o", str(out)]) == 0
    data = json.loads(out.read_text())
    data["format"] = "fp32"
    out.write_text(json.dumps(data))
    capsys.readouterr()
    assert main(["simulate", "d.json"]) == 1
    assert "d.json was changed by hand: its digest is" in capsys.readouterr().err


def test_no_compiler(folder, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    command = ["run", "a.einsum", "--inputs", "in.npz", "--backend", "hls", "--out", "out.npz"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("penstock: ")
    assert "g++" in said
    assert "fix: " in said
    assert not (folder / "out.npz").exists()


def test_usage_is_exit_code_2(capsys):
    assert main([]) == 2
    with pytest.raises(SystemExit) as error:
        main(["explore", "attention"])
    assert error.value.code == 2
    assert "--target" in capsys.readouterr().err
