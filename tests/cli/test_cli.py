"""Each command on good input: text, JSON, files."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from penstock.cli import main

SMALL = ["--shape", "h=1", "p=8", "m=8", "e=4", "f=4"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *argv):
    assert main(argv) == 0
    return capsys.readouterr().out


def read(capsys, *argv):
    return json.loads(said(capsys, *argv, "--json"))


def test_show_prints_what_parses(capsys):
    from penstock import parse, zoo

    text = said(capsys, "show", "attention_1pass", "--shape", "m=100")
    assert parse(text) == zoo.load("attention_1pass").with_shapes(m=100)


def test_passes(capsys):
    rows = {
        (r["tensor"], r["rank"]): r["passes"] for r in read(capsys, "passes", "attention")["passes"]
    }
    assert rows["K", "m"] == 3
    assert rows["V", "m"] == 1
    rows = {
        (r["tensor"], r["rank"]): r["passes"]
        for r in read(capsys, "passes", "attention_1pass")["passes"]
    }
    assert rows["K", "m"] == 1
    assert rows["K", "m0"] == 2


def test_a_design_goes_through_every_command(folder, capsys):
    found = read(capsys, "explore", "attention", "--target", "mesh4x4", *SMALL, "-o", "d.json")
    metrics = {each["name"]: each for each in found["metrics"]}
    bounds = {each["name"]: each for each in found["bounds"]}
    assert metrics["latency"]["evidence"] == "model"
    assert bounds["latency"]["value"] <= metrics["latency"]["value"]
    simulated = read(capsys, "simulate", "d.json")
    cycles = next(each for each in simulated["metrics"] if each["name"] == "latency")
    assert cycles["evidence"] == "simulation"
    assert cycles["value"] >= metrics["latency"]["value"]
    assert simulated["check"]["verdict"] == "ok"
    checks = read(capsys, "verify", "d.json", "--backend", "loops", "hls", "sim")["checks"]
    assert [each["verdict"] for each in checks] == ["ok"] * 3
    files = read(capsys, "generate", "d.json", "--backend", "loops", "-o", "loops")["files"]
    assert all((folder / "loops" / name).exists() for name in files)
    assert read(capsys, "report", "d.json", "-o", "r.html", "--small", "p=4")["files"]
    assert (folder / "r.html").stat().st_size > 1_000_000
    assert found["mapping"] in said(capsys, "show", "d.json")


@pytest.mark.parametrize("backend", ["loops", "hls", "tvm", "cuda"])
def test_generating_twice_gives_the_same_bytes(backend, folder, capsys):
    command = ["generate", "attention", "--backend", backend, *SMALL]
    first = said(capsys, *command)
    assert first == said(capsys, *command)
    assert "attention" in first
    names = read(capsys, *command, "-o", "out")["files"]
    assert all((folder / "out" / name).exists() for name in names)


@pytest.mark.parametrize("backend", ["interpreter", "loops", "tvm", "hls"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_run_is_the_same_through_every_door(backend, dtype, folder, capsys):
    random = np.random.default_rng(0)
    arrays = {name: random.integers(-8, 9, (2, 5, 3)).astype(dtype) / 4 for name in "QKV"}
    np.savez("in.npz", **arrays)
    said(
        capsys,
        "run",
        "causal_attention",
        "--inputs",
        "in.npz",
        "--out",
        "o.npz",
        "--backend",
        backend,
    )
    got = np.load("o.npz")["O"]
    scores = arrays["Q"].astype(float) @ arrays["K"].astype(float).transpose(0, 2, 1) / np.sqrt(3)
    scores = np.where(np.tril(np.ones((5, 5), dtype=bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ arrays["V"].astype(float)
    assert got.dtype == dtype
    limit = {np.float16: 1e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    assert np.abs(got - want).max() <= limit * np.abs(want).max()


def test_targets_round_trip(folder, capsys):
    (folder / "mine.json").write_text(said(capsys, "targets", "fusemax"))
    first = read(capsys, "explore", "attention", "--target", "mine.json", *SMALL)
    again = read(capsys, "explore", "attention", "--target", "fusemax", *SMALL)
    assert first["metrics"] == again["metrics"]
    assert first["digest"] == again["digest"]
    smaller = read(
        capsys, "explore", "attention", "--target", "fusemax", *SMALL, "--set", "pe2d.rows=2"
    )
    assert smaller["digest"] != again["digest"]
    assert "fusemax" in said(capsys, "targets")


def test_the_best_of_several_cascades(folder, capsys):
    small = ["--target", "mesh4x4", *SMALL]
    alone = read(capsys, "explore", "attention", *small)
    both = read(capsys, "explore", "attention", *small, "--variants", "attention_deferred")
    assert both["cascade"] == "attention_deferred"
    assert both["search"]["variants"] == 2
    latency = {each["name"]: each["value"] for each in both["metrics"]}["latency"]
    assert latency < {each["name"]: each["value"] for each in alone["metrics"]}["latency"]
    sizes = read(capsys, "explore", "attention_2pass", *small, "--variants")
    assert sizes["search"]["variants"] == 3
    assert sizes["shapes"]["m0"] in {2, 4, 8}
    assert main(["explore", "attention", *small, "--variants", "--sweep", "array=4"]) == 1
    assert "--variants does not go with --sweep" in capsys.readouterr().err
    assert main(["explore", "attention", *small, "--tile", "4", "--mapping", "x"]) == 1
    assert "--tile does not go with --mapping" in capsys.readouterr().err
    assert main(["explore", "attention", *small, "--part", "4"]) == 1
    assert "--part is for what is streamed over\nfix: add --tile N" in capsys.readouterr().err


def test_tiles_and_parts_are_asked_for(capsys, tmp_path):
    """Decoding on a GPU: heads that share keys in a block, keys split; one-pass sums over tiles."""
    sizes = ["--shape", "h=8", "g=2", "p=1", "m=4096", "e=64", "f=64", "--format", "bf16"]
    where = ["gqa_causal", "--target", "h200", *sizes]
    said = read(capsys, "explore", *where, "--tile", "64", "--part", "512")
    assert "for m1@blocks" in said["mapping"]
    assert "for h by 4@blocks" in said["mapping"]
    small = ["--target", "mesh4x4", "--shape", "m=4", "n=4", "k=32"]
    assert "for k1" in read(capsys, "explore", "matmul", *small, "--tile", "8")["mapping"]


def test_the_front_of_latency_and_energy(folder, capsys):
    words = ["explore", "attention", "--target", "fusemax", *SMALL, "--objective"]
    found = read(capsys, *words, "front")
    pairs = [(each["latency_cycles"], each["energy_pj"]) for each in found["front"]]
    assert found["optimal"]
    assert pairs == sorted(pairs)
    best = {each["name"]: each["value"] for each in read(capsys, *words, "latency")["metrics"]}
    assert pairs[0][0] == best["latency"]
    shown = said(capsys, *words, "front")
    assert shown.count("mapping explored for attention on fusemax") == len(pairs)
    assert f"the front of this space, {len(pairs)} of" in shown
    assert main([*words, "front", "-o", "d.json"]) == 1
    assert "--out does not go with --objective front" in capsys.readouterr().err


def test_zoo(capsys):
    assert {each["name"] for each in read(capsys, "zoo")} >= {"attention", "attention_1pass"}
    assert "1-pass" in said(capsys, "zoo")


@pytest.mark.slow
def test_demo(folder, capsys):
    result = read(capsys, "demo", "--out", "build")
    verdicts = {each["verdict"] for each in result["checks"]}
    assert verdicts <= {"ok", "not run"}
    assert len(result["checks"]) == 8
    published = next(d for d in result["designs"] if d["published"])
    metrics = {each["name"]: each["value"] for each in published["metrics"]}
    said_by_paper = {each["name"]: each["value"] for each in published["published"]}
    assert metrics["latency_s"] <= said_by_paper["latency_s"] * (1 + 1e-9)
    assert (folder / "build" / "report.html").exists()


LONG = ["attention_2pass", "--variants", "--target", "fusemax", "--objective", "edp"]
LONG += ["--shape", "h=16", "p=3000", "m=3000", "e=64", "f=64"]


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_mapping(folder):
    terminal, slave = pty.openpty()
    command = [sys.executable, "-m", "penstock", "explore", *LONG, "-o", "d.json"]
    process = subprocess.Popen(
        [*command, "--report", "r.html"], stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    shown = b""
    while b"best" not in shown or b"/s" not in shown:  # the bar says both
        shown += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    err = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert process.returncode == 130, err
    assert "penstock: interrupted" in err
    assert "mapping explored for attention_2pass on fusemax" in out
    assert "interrupted; the best of those evaluated" in out
    assert main(["show", "d.json"]) == 0
    assert "Interrupted; the best of those evaluated" in (folder / "r.html").read_text()


@pytest.mark.parametrize("objective", ["latency", "front"])
def test_ctrl_c_at_any_step(folder, capsys, monkeypatch, objective):
    """The key is pressed at the second report; nothing before that is lost."""

    @contextmanager
    def pressed(title):
        reports = []

        def update(done, total, best):
            reports.append(best)
            if len(reports) == 2:
                raise KeyboardInterrupt

        yield update

    monkeypatch.setattr("penstock.cli.output.progress", pressed)
    command = ["explore", "attention", "--target", "mesh4x4", *SMALL, "--objective", objective]
    assert main(command) == 130
    said = capsys.readouterr()
    assert "mapping " in said.out
    assert "interrupted; the " in said.out
    assert said.err == "penstock: interrupted\n"


def test_a_term_that_is_added_up_too_often_is_noted(tmp_path, capsys):
    file = tmp_path / "far.einsum"
    file.write_text(
        "cascade far(Q[p, e], K[m, e], D[p, m]) -> S[p, m]\n"
        "  S[p, m] = Q[p, e] * K[m, e] - (D[p, m] + 1)\n"
    )
    assert main(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(":: sum[e]\n")
    assert err == (
        "note: S adds up 'D[p, m]' once for each e, on which it does not depend; to add it once, "
        "write it in\nan Einsum of its own\n"
    )
    assert main(["show", "attention"]) == 0
    assert not capsys.readouterr().err
