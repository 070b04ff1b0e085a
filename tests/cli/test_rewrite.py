"""``penstock rewrite``."""

import json
from pathlib import Path

import numpy as np
import pytest

import penstock
from penstock import parse, zoo
from penstock.cli import main
from penstock.cli.rewrite import side_by_side
from penstock.einsum_ir.passes import pass_table

CORPUS = Path(__file__).parents[1] / "rewrite" / "corpus"


def said(capsys, *argv):
    assert main(["rewrite", *argv]) == 0
    return capsys.readouterr().out


def refused(capsys, *argv):
    assert main(["rewrite", *argv]) == 1
    return capsys.readouterr().err


def test_before_and_after_are_beside_each_other_and_fit(capsys):
    out = said(capsys, "attention", "--passes", "1")
    assert max(len(line) for line in out.splitlines()) <= 100
    heads = next(line for line in out.splitlines() if "|" in line).split(" | ")
    assert [each.strip() for each in heads] == ["as written: 3 passes", "derived: 1 pass"]
    assert "SD * exp(GM' - GM)" in out
    assert "O = O_R / SD" in out
    assert "SD[h, p] != 0" in out
    assert "gate in fp32: " in out
    rejected = out[out.index("refused: ") :]
    assert "defers GM, SD): O has error inf in family 'big'" in rejected
    chosen = next(line for line in out.splitlines() if " * " in line and " v" in line).split()[0]
    assert f"refused: {chosen} " not in rejected


def test_a_narrow_terminal_has_them_below_each_other(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "72")
    out = said(capsys, "attention", "--passes", "1")
    written, _, derived = out.partition("derived: 1 pass\n---------------\n")
    assert "|" not in written
    assert "GM_R[h, p, m1 + 1] = max(GM_R[h, p, m1], GM_T[h, p, m1])" in derived


@pytest.mark.parametrize("width", [60, 87, 100])
def test_folding_keeps_every_word(width):
    texts = (str(zoo.load("attention")), str(zoo.load("attention_1pass")))
    lines = side_by_side(("a", "b"), texts, width)
    assert max(map(len, lines)) <= width
    if width < 87:
        assert "".join("".join(lines).split()) == "".join("a-{}b-{}".format(*texts).split())
        return
    middle = lines[0].index("|")
    columns = [line[:middle] for line in lines[2:]], [line[middle + 1 :] for line in lines[2:]]
    for column, text in zip(columns, texts, strict=True):
        assert "".join("".join(column).split()) == "".join(text.split())


def test_what_is_written_is_what_runs(capsys, tmp_path):
    file = tmp_path / "one.einsum"
    said(capsys, "attention", "--passes", "1", "--tile", "16", "-o", str(file))
    derived = parse(file.read_text())
    assert derived.shape["m0"] == 16
    assert penstock.count_passes(derived, "K", "m") == 1
    random = np.random.default_rng(0).standard_normal
    given = {"Q": random((2, 5, 4)), "K": random((2, 37, 4)), "V": random((2, 37, 3))}
    wanted = penstock.run(zoo.load("attention"), given)["O"]
    np.testing.assert_allclose(penstock.run(derived, given)["O"], wanted, rtol=1e-6)


def test_the_tree(capsys, tmp_path):
    file = tmp_path / "tree.einsum"
    out = said(capsys, "attention", "--tree", "-o", str(file))
    assert "after the last part" in out
    tree = parse(file.read_text())
    assert not tree.iterative
    assert "GM_C[h, p, m1] = exp(GM_T[h, p, m1] - GM_R[h, p])" in str(tree)


def test_json(capsys):
    found = json.loads(said(capsys, "attention", "--json"))
    assert (found["rank"], found["before"], found["after"]) == ("m", 3, 1)
    assert parse(found["derived"]) == penstock.reduce_passes(zoo.load("attention"), "m").cascade
    kept = {each["name"]: each for each in found["accumulators"]}
    assert kept["GM"]["merge"] == "max(GM_A, GM_B)"
    assert kept["GM"]["identity"] == "-inf"
    assert [each["chosen"] for each in found["variants"]].count(True) == 1
    for each in found["variants"]:
        assert 0 < each["gate"]["error"] <= each["gate"]["limit"]
    assert found["rejected"]
    for each in found["rejected"]:
        assert each["passes"] == 1
        assert "defers GM" in each["which"]
        assert float(each["gate"]["error"]) > each["gate"]["limit"]  # may be "inf"
        assert each["gate"]["family"] in each["reason"]


def test_refusals_say_why_and_show_the_certificate(capsys):
    err = refused(capsys, str(CORPUS / "mean_absolute_deviation.einsum"))
    assert "stays at 2 passes" in err
    assert "D must wait for MU: 'abs(X[p, m] - MU[p])' has a kink that moves" in err
    assert "sampled rank" in err


def test_a_refusal_as_json(capsys):
    assert main(["rewrite", str(CORPUS / "mean_absolute_deviation.einsum"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["before"], found["after"]) == (2, 2)
    assert found["certificate"] > 6
    assert found["barriers"][0]["reads"] == ["MU"]
    assert found["rejected"] == []


def test_a_refusal_lists_what_the_gate_refused(capsys):
    err = refused(capsys, str(CORPUS / "sum_of_deviations.einsum"))
    assert "the gate refused v0 (1 pass; MU defers M; D follows MU): 0 families of " in err
    assert main(["rewrite", str(CORPUS / "sum_of_deviations.einsum"), "--json"]) == 1
    for each in json.loads(capsys.readouterr().out)["rejected"]:
        assert each["reason"].startswith("0 families of ")


def test_fewer_passes_than_asked_for_are_no_success(capsys):
    err = refused(capsys, str(CORPUS / "double_softmax.einsum"), "--passes", "1")
    assert "from 5 passes to 2, not to 1" in err
    assert "fix: --passes 2 takes that form" in err
    out = said(capsys, str(CORPUS / "double_softmax.einsum"), "--passes", "2")
    assert "a pass more:" in out


def test_several_ranks(capsys):
    err = refused(capsys, "wings")
    assert "3 passes over each of the ranks m, n" in err
    assert "--rank m or --rank n" in err
    assert "wings over n: 3 passes -> 1" in said(capsys, "wings", "--rank", "n")


def test_nothing_to_save(capsys):
    assert "goes once over each rank" in refused(capsys, "matmul")
    assert "unknown rank variable 'q'" in refused(capsys, "attention", "--rank", "q")
    assert "--tile 0 is not a positive" in refused(capsys, "attention", "--tile", "0")


def test_inputs_of_one_sign(capsys, tmp_path):
    file = tmp_path / "logs.einsum"
    file.write_text(
        """cascade logs(X[p, m]) -> R[p]
  S[p] = X[p, m] :: sum[m]
  R[p] = log(X[p, m] / S[p]) :: sum[m]
"""
    )
    assert "is not known" in refused(capsys, str(file))
    assert "2 passes -> 1" in said(capsys, str(file), "--positive", "X")


def test_passes_say_what_forces_each(capsys):
    assert main(["passes", "attention"]) == 0
    out = capsys.readouterr().out
    assert "K over m: pass 2 as SN needs all of GM; pass 3 as A needs all of SD\n" in out
    assert main(["passes", "attention", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["passes"]
    (row,) = (each for each in rows if (each["tensor"], each["rank"]) == ("K", "m"))
    assert row["waits"] == ["pass 2 as SN needs all of GM", "pass 3 as A needs all of SD"]


@pytest.mark.parametrize("name", zoo.names())
def test_each_pass_but_the_first_has_a_reason(name):
    for row in pass_table(zoo.load(name)):
        assert len(row.waits) == max(row.passes - 1, 0), row
