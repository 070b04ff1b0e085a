"""``explore --formats``: what word lengths lose and cost, side by side."""

import json
from dataclasses import replace

import pytest

from penstock import zoo
from penstock.cli import main
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.studies.precision import compare_formats, format_error
from penstock.targets import TARGETS

SHAPES = {"b": 1, "h": 1, "p": 8, "m": 16, "e": 8, "f": 8, "m0": 8}
WORDS = ["explore", "attention_1pass", "--target", "u280"]
WORDS += ["--shape", *(f"{name}={extent}" for name, extent in SHAPES.items())]


def test_wider_words_lose_less_and_cost_more(capsys):
    names = ["fixed<12,6>", "fixed<16,6>", "fixed<24,6>", "fp32"]
    assert main([*WORDS, "--formats", ",".join(names), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["format"] for row in rows] == names
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 < errors[0]
    fixed = rows[:3]
    for part in ("LUT", "FF", "DSP"):
        assert fixed[0]["parts"][part] <= fixed[1]["parts"][part] <= fixed[2]["parts"][part]
    assert rows[1]["hard_error"] > 0.1 > rows[3]["hard_error"]  # logits that 6 bits cannot hold
    assert [row["best"] for row in rows] == [True] * 4


def test_the_table_says_what_its_numbers_are(capsys):
    assert main([*WORDS, "--formats", "fixed<16,6>,fixed<8,4>"]) == 0
    shown = capsys.readouterr().out
    for text in ("fixed<16,6>", "fixed<8,4>", "DSP", "interpreter, measured", "model"):
        assert text in shown


def test_a_format_that_does_not_fit_the_part_says_why():
    product = parse("cascade mm(A[m,k], B[k,n]) -> Z[m,n]\n  Z[m,n] = A[m,k] * B[k,n]")
    part = replace(TARGETS.get("u280"), resources=(("DSP", 2),))
    formats = [parse_format(name) for name in ("fixed<16,6>", "fp32")]
    fits, refused = compare_formats(product, part, formats, shapes={"m": 4, "k": 4, "n": 4})
    assert fits.design is not None
    assert fits.parts["DSP"] == 2
    assert refused.refused.startswith("the operators need 80 DSP, u280 has 2; most take Z on ")
    assert refused.to_json()["latency_cycles"] is None
    assert (fits.best, refused.best) == (True, False)


def test_errors_are_against_fp64():
    bound = bind(zoo.load("attention_1pass"), shapes=SHAPES)
    assert format_error(bound, parse_format("fp64"), hard=True) == 0
    assert format_error(bound, parse_format("fp64"), hard=False) == 0
    assert 1e-5 < format_error(bound, parse_format("bf16"), hard=False) < 0.05


@pytest.mark.parametrize(
    "option", [["--objective", "latency", "--format", "fp32"], ["-o", "x.json"]]
)
def test_what_goes_with_one_format_only_is_refused(option, capsys):
    assert main([*WORDS, "--formats", "fp32", *option]) == 1
    name = "format" if "--format" in option else "out"
    said = capsys.readouterr().err
    assert said == f"penstock: --{name} does not go with --formats\nfix: leave out --{name}\n"
