"""Each rule of a mapping, broken once: the exact message."""

import math

import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind, rank_variables
from penstock.errors import MappingError, UnknownNameError
from penstock.mapper.check import check
from penstock.mapper.mappings import load_mapping, mapping_names
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest
from penstock.mapper.notation import parse_mapping
from penstock.reproduce import load_cascade
from penstock.targets import TARGETS
from penstock.targets.base import Array, Axis, Memory, Target

FP16 = parse_format("fp16")
COSTS = (("mac", 1.0), ("*", 1.0), ("+", 1.0), ("-", 1.0), ("max", 1.0), ("exp", 6.0))
TOY = Target(
    "toy",
    "spatial",
    1e9,
    (
        Memory("dram", math.inf),
        Memory("gb", 4096.0),
        Memory("rf2d", 8.0, array="pe2d", instances=16),
    ),
    (
        Array("pe2d", (Axis("rows", 4, "pe", reduces=True), Axis("cols", 4, "pe")), COSTS),
        Array("pe1d", (Axis("lanes", 4, "pe"),), (*COSTS, ("/", 1.0))),
    ),
    "fp16",
    "made up",
)
ATTENTION = """
cascade c(Q[p,e], K[m,e]) -> O[p]
  QK[p,m] = Q[p,e]*K[m,e]
  GM[p]   = QK[p,m] :: max[m]
  SN[p,m] = exp(QK[p,m] - GM[p])
  O[p]    = SN[p,m]
"""
SHAPES = {"p": 8, "m": 8, "e": 4}
GOOD = """
for p by 4
  keep QK, SN in gb
  keep GM in gb
  QK on pe2d: m by 4, p@cols, m@rows, e
  GM on pe2d: p@cols, m
  SN on pe2d: p@cols, m
  O on pe1d: p@lanes, m
"""
STATE = """
cascade c(X[i,p]) -> Z[p]
  init S[0,p] = 0
  init W[0,p] = 0
  loop i:
    T[i,p] = S[i,p]*X[i,p]
    S[i+1,p] = T[i,p] + W[i,p]
    W[i+1,p] = max(W[i,p], S[i+1,p])
  Z[p] = S[I,p]*W[I,p]
"""
LOCKSTEP = """
for p by 4
  keep S, W in gb
  for i
    keep T in gb
    T on pe2d: p@cols
    S on pe2d: p@cols
    W on pe2d: p@cols
  Z on pe1d: p@lanes
"""


def run(body, text=ATTENTION, shapes=SHAPES, target=TOY, file="m.mapping"):
    bound = bind(parse(text), shapes=shapes)
    mapping = body
    if isinstance(body, str):
        mapping = parse_mapping(f"mapping t for c on toy\n{body.strip()}\n", file=file)
    check(mapping, bound, target, FP16)


def message(body, text=ATTENTION, shapes=SHAPES, target=TOY, error=MappingError):
    with pytest.raises(error) as caught:
        run(body, text, shapes, target)
    return str(caught.value)


def test_good_mappings_pass():
    run(GOOD)
    run(LOCKSTEP, STATE, {"i": 5, "p": 6})
    run(GOOD.replace("by 4\n  keep", "by 100\n  keep").replace("p@", "p by 4, p@"))


@pytest.mark.parametrize("name", mapping_names())
def test_mappings_in_files_are_legal(name):
    mapping = load_mapping(name)
    cascade = load_cascade(mapping.cascade)
    shapes = {"b": 2, "h": 3, "p": 700, "m": 1024, "e": 64, "f": 64, "m0": 256}
    shapes |= {"r": 700, "d": 768, "n": 768, "s": 3072}
    used = rank_variables(cascade)
    shapes = {name: size for name, size in shapes.items() if name in used}
    check(mapping, bind(cascade, shapes=shapes), TARGETS.get(mapping.target), FP16)


# (what is changed in GOOD, into what, the message)
NAMES = [
    (
        "SN on pe2d",
        "SM on pe2d",
        (
            "unknown Einsum 'SM' (known: GM, O, QK, SN)\nm.mapping:7:3\n  SM on pe2d: p@cols, m\n"
            "  ^^^^^^^^^^^^^^^^^^^^^"
        ),
    ),
    (
        "SN on pe2d",
        "SN on pe3d",
        (
            "unknown array of toy 'pe3d' (known: pe1d, pe2d)\nm.mapping:7:3\n"
            "  SN on pe3d: p@cols, m\n"
            "  ^^^^^^^^^^^^^^^^^^^^^\nfix: did you mean 'pe2d' or 'pe1d'?"
        ),
    ),
    (
        "keep GM in gb",
        "keep GM in gc",
        (
            "unknown memory of toy 'gc' (known: dram, gb, rf2d)\nm.mapping:4:3\n  keep GM in gc\n"
            "  ^^^^^^^^^^^^^"
        ),
    ),
    (
        "keep GM in gb",
        "keep GN in gb",
        (
            "unknown tensor 'GN' (known: GM, K, O, Q, QK, SN)\nm.mapping:4:3\n  keep GN in gb\n"
            "  ^^^^^^^^^^^^^"
        ),
    ),
    (
        "O on pe1d: p@lanes",
        "O on pe1d: p@lines",
        (
            "unknown axis of pe1d 'lines' (known: lanes)\nm.mapping:8:3\n  O on pe1d: p@lines, m\n"
            "  ^^^^^^^^^^^^^^^^^^^^^\nfix: did you mean 'lanes'?"
        ),
    ),
    (
        "for p by 4",
        "for q by 4",
        "unknown rank variable 'q' (known: e, m, p)\nm.mapping:2:1\n  for q by 4\n  ^^^^^^^^^^",
    ),
    (
        "p@lanes, m",
        "p@lanes, n",
        (
            "unknown rank variable 'n' (known: e, m, p)\nm.mapping:8:3\n  O on pe1d: p@lanes, n\n"
            "  ^^^^^^^^^^^^^^^^^^^^^"
        ),
    ),
]


@pytest.mark.parametrize(("old", "new", "want"), NAMES, ids=[row[1] for row in NAMES])
def test_unknown_names(old, new, want):
    assert message(GOOD.replace(old, new), error=UnknownNameError) == want


RULES = [
    (
        "  O on pe1d: p@lanes, m\n",
        "",
        "the mapping computes no O\nfix: add a line 'O on ARRAY: ...'",
    ),
    (
        "  O on",
        "  GM on pe2d: p@cols, m\n  O on",
        (
            "GM is computed twice\nm.mapping:8:3\n  GM on pe2d: p@cols, m\n"
            "  ^^^^^^^^^^^^^^^^^^^^^\n"
            "fix: leave one of the two lines out"
        ),
    ),
    (
        "GM on pe2d: p@cols, m",
        "GM on pe2d: p@cols",
        (
            "the loops of GM leave 8 coordinates of 'm'\nm.mapping:6:3\n  GM on pe2d: p@cols\n"
            "  ^^^^^^^^^^^^^^^^^^\nfix: add 'm' to them"
        ),
    ),
    (
        "GM on pe2d: p@cols, m",
        "GM on pe2d: p@cols, m by 2",
        (
            "the loops of GM leave 2 coordinates of 'm'\nm.mapping:6:3\n"
            "  GM on pe2d: p@cols, m by 2\n"
            "  ^^^^^^^^^^^^^^^^^^^^^^^^^^\nfix: add 'm' to them"
        ),
    ),
    (
        "GM on pe2d: p@cols, m",
        "GM on pe2d: p@cols, m, e",
        (
            "GM has no 'e' to loop over (variables: p, m)\nm.mapping:6:3\n"
            "  GM on pe2d: p@cols, m, e\n"
            "  ^^^^^^^^^^^^^^^^^^^^^^^^\nfix: leave 'e' out"
        ),
    ),
    (
        "GM on pe2d: p@cols, m",
        "GM on pe2d: p, m@cols",
        (
            "GM lays 8 steps along axis cols of pe2d, which has 4 places\nm.mapping:6:3\n"
            "  GM on pe2d: p, m@cols\n  ^^^^^^^^^^^^^^^^^^^^^\n"
            "fix: step 'm' by 4 coordinates in a loop around it"
        ),
    ),
    (
        "GM on pe2d: p@cols, m",
        "GM on pe2d: p, m by 4, m@cols",
        (
            "GM reduces 'm' along axis cols of pe2d, which cannot add up its places\n"
            "m.mapping:6:3\n"
            "  GM on pe2d: p, m by 4, m@cols\n  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
            "fix: loop over 'm' in time"
        ),
    ),
    (
        "  QK on pe2d: m by 4, p@cols, m@rows, e\n  GM on pe2d: p@cols, m\n",
        "  GM on pe2d: p@cols, m\n  QK on pe2d: m by 4, p@cols, m@rows, e\n",
        (
            "GM stands before QK, which it reads\nm.mapping:5:3\n  GM on pe2d: p@cols, m\n"
            "  ^^^^^^^^^^^^^^^^^^^^^\nfix: move QK above GM"
        ),
    ),
    (
        "  keep GM in gb\n  QK on pe2d: m by 4, p@cols, m@rows, e\n",
        "  QK on pe2d: m by 4, p@cols, m@rows, e\n  keep GM in gb\n",
        (
            "'keep GM in gb' stands after 'QK' in its body\nm.mapping:5:3\n  keep GM in gb\n"
            "  ^^^^^^^^^^^^^\nfix: put it first: what it keeps lives there for the whole body"
        ),
    ),
    (
        "keep GM in gb",
        "keep GM in dram",
        (
            "'keep GM in dram' keeps in the outermost memory, where every tensor lives anyway\n"
            "m.mapping:4:3\n  keep GM in dram\n  ^^^^^^^^^^^^^^^\n"
            "fix: leave the line out, or keep in a memory further in"
        ),
    ),
    (
        "keep GM in gb",
        "keep GM in gb x0",
        (
            "'keep GM in gb x0' has 0 buffers\nm.mapping:4:3\n  keep GM in gb x0\n"
            "  ^^^^^^^^^^^^^^^^\nfix: give it at least 1"
        ),
    ),
    (
        "keep GM in gb",
        "keep GM in gb\n  keep GM in rf2d",
        (
            "GM is kept in rf2d inside a body that keeps it in gb: an intermediate lives in "
            "one place\n"
            "m.mapping:5:3\n  keep GM in rf2d\n  ^^^^^^^^^^^^^^^\nfix: leave one of the two out"
        ),
    ),
    (
        "keep GM in gb",
        "keep GM in gb\n  keep K in rf2d\n  keep K in gb",
        (
            "K is kept in gb inside a body that keeps it in rf2d, which is no further out\n"
            "m.mapping:6:3\n  keep K in gb\n  ^^^^^^^^^^^^\n"
            "fix: leave one of the two out, or exchange the memories"
        ),
    ),
    (
        "keep QK, SN in gb",
        "keep SN in rf2d\n  keep QK in gb",
        (
            "O on pe1d reads SN from rf2d, which belongs to pe2d\nm.mapping:9:3\n"
            "  O on pe1d: p@lanes, m\n  ^^^^^^^^^^^^^^^^^^^^^\n"
            "fix: keep SN in a memory that both reach, or run O on pe2d"
        ),
    ),
    (
        "GM on pe2d:",
        "GM on pe2d stage 1:",
        (
            "GM has stage 1, but no loop around it is pipelined\nm.mapping:6:3\n"
            "  GM on pe2d stage 1: p@cols, m\n  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
            "fix: mark a loop with 'pipelined', or leave the stage out"
        ),
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "want"), RULES, ids=[row[2].split("\n")[0] for row in RULES]
)
def test_rules(old, new, want):
    assert old in GOOD
    assert message(GOOD.replace(old, new)) == want


def test_operator_that_the_array_lacks():
    text = ATTENTION.replace("O[p]    = SN[p,m]", "O[p] = SN[p,m]/GM[p]")
    assert message(GOOD.replace("O on pe1d: p@lanes", "O on pe2d: p@cols"), text) == (
        "O needs '/', which pe2d does not have (it has *, +, -, exp, mac, max)\nm.mapping:8:3\n"
        "  O on pe2d: p@cols, m\n  ^^^^^^^^^^^^^^^^^^^^\nfix: put it on another array"
    )


def test_a_loop_that_an_einsum_does_not_have():
    text = "cascade c(A[e], B[q]) -> Y[q]\n  Y[q] = B[q]*A[0]"
    assert message("for e\n  Y on pe2d", text, {"q": 1, "e": 2}) == (
        "Y stands in 'for e', but has no 'e': it would be computed again in each step\n"
        "m.mapping:3:3\n  Y on pe2d\n  ^^^^^^^^^\nfix: move it out of the loop"
    )


def test_consumer_inside_the_loop_that_completes_its_operand():
    body = """
for p by 4
  keep GM in gb
  for m by 4
    keep QK, SN in gb
    QK on pe2d: p@cols, m@rows, e
    GM on pe2d: p@cols, m
    SN on pe2d: p@cols, m
    O on pe1d: p@lanes, m
"""
    assert message(body) == (
        "GM and SN share 'for m by 4', but SN needs GM complete: it is reduced over 'm' (GM is in "
        "pass 1 over rank m of K, SN in pass 2)\nm.mapping:8:5\n  SN on pe2d: p@cols, m\n"
        "  ^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: end the loop over 'm' after GM, and begin another for SN"
    )


def test_consumer_that_reads_what_other_steps_compute():
    text = "cascade c(A[m]) -> Z[m]\n  Y[m] = A[m] + 1\n  Z[m] = Y[m+1]*A[m]"
    body = "for m\n  Y on pe2d\n  Z on pe2d"
    assert message(body, text, {"m": 4}) == (
        "Y and Z share 'for m', but Z reads Y[m + 1], which other steps of 'm' compute\n"
        "m.mapping:4:3\n  Z on pe2d\n  ^^^^^^^^^\n"
        "fix: end the loop over 'm' after Y, and begin another for Z"
    )


def test_keep_that_ends_before_a_use():
    body = """
for p by 4
  keep QK in gb
  QK on pe2d: m by 4, p@cols, m@rows, e
  GM on pe2d: p@cols, m
for p by 4
  SN on pe2d: p@cols, m
  O on pe1d: p@lanes, m
"""
    assert message(body) == (
        "'keep QK in gb' ends before SN uses QK\nm.mapping:3:3\n  keep QK in gb\n"
        "  ^^^^^^^^^^^^^\nfix: keep QK further out, around all that uses it"
    )


def test_keep_of_what_nothing_uses():
    body = """
keep K in gb
for p by 4
  keep QK in gb
  QK on pe2d: m by 4, p@cols, m@rows, e
  GM on pe2d: p@cols, m
  SN on pe2d: p@cols, m
for p by 4
  keep K in gb
  O on pe1d: p@lanes, m
"""
    assert message(body) == (
        "'keep K in gb' keeps K, which nothing in its body uses\nm.mapping:9:3\n  keep K in gb\n"
        "  ^^^^^^^^^^^^\nfix: leave K out"
    )


def test_state_kept_inside_its_loop():
    body = LOCKSTEP.replace(
        "keep S, W in gb\n  for i\n    keep T in gb", "keep S in gb\n  for i\n    keep T, W in gb"
    )
    assert message(body, STATE, {"i": 5, "p": 6}) == (
        "'keep T, W in gb' lasts one step of 'i', but W carries its state from step to step\n"
        "m.mapping:5:5\n  keep T, W in gb\n  ^^^^^^^^^^^^^^^\nfix: keep W outside the loop over 'i'"
    )


def test_lock_step_needs_one_loop():
    body = LOCKSTEP.replace("    W on pe2d: p@cols\n", "").replace(
        "  Z on", "  for i\n    W on pe2d: p@cols\n  Z on"
    )
    assert message(body, STATE, {"i": 5, "p": 6}) == (
        "T and W advance along 'i' in lock step, but share no loop over it that steps by 1\n"
        "m.mapping:9:5\n  W on pe2d: p@cols\n  ^^^^^^^^^^^^^^^^^\nfix: put both into one 'for i'"
    )


def test_iterative_rank_side_by_side():
    text = "cascade c(X[i]) -> Z[q]\n  init S[0] = 0\n  S[i+1] = S[i] + X[i]\n  Z[q] = S[I]*X[q]"
    assert message("S on pe2d: i@cols\nZ on pe1d: q", text, {"i": 4, "q": 2}) == (
        "S advances along 'i', whose steps need each other and cannot run side by side\n"
        "m.mapping:2:1\n  S on pe2d: i@cols\n  ^^^^^^^^^^^^^^^^^\nfix: loop over 'i' in time"
    )


def test_state_that_mixes_a_rank_needs_its_loop_outside():
    text = (
        "cascade c(X[d], W[c,d]) -> Z[d]\n  shape c = 4\n  init S[0,d] = 0\n"
        "  S[i+1,d] = S[i,c]*W[c,d]\n  Z[d] = S[I,d]*X[d]"
    )
    assert message("S on pe2d: d, i, c\nZ on pe1d: d", text, {"i": 3, "d": 4}) == (
        "S reads S[i, c] inside 'for d', but the step of 'i' before is complete only after all of "
        "'d'\nm.mapping:2:1\n  S on pe2d: d, i, c\n  ^^^^^^^^^^^^^^^^^^\n"
        "fix: put the loop over 'i' outside the one over 'd'"
    )
    run("S on pe2d: i, d, c\nZ on pe1d: d", text, {"i": 3, "d": 4})


PIPED = """
for p by 4 pipelined
  keep QK, SN in gb
  keep GM in gb
  QK on pe2d stage 0: m by 4, p@cols, m@rows, e
  GM on pe2d stage 1: p@cols, m
  SN on pe2d stage 1: p@cols, m
  O on pe1d stage 2: p@lanes, m
"""


def test_stages_that_run_backwards():
    run(PIPED)
    assert message(PIPED.replace("SN on pe2d stage 1", "SN on pe2d stage 0")) == (
        "SN works in stage 0, but reads GM[p], which GM computes in stage 1\nm.mapping:7:3\n"
        "  SN on pe2d stage 0: p@cols, m\n  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: put SN into stage 1 or later"
    )


def test_stages_of_a_recurrence():
    body = LOCKSTEP.replace("for i", "for i pipelined")
    run(body, STATE, {"i": 5, "p": 6})
    body = body.replace("S on pe2d", "S on pe2d stage 1").replace("W on pe2d", "W on pe2d stage 2")
    # W is read one step later, so one stage is allowed, two are not
    run(body, STATE, {"i": 5, "p": 6})
    body = body.replace("W on pe2d stage 2", "W on pe2d stage 3")
    assert message(body, STATE, {"i": 5, "p": 6}) == (
        "S works in stage 1, but reads W[i, p], which W computes, 1 iteration(s) ago, in stage 3\n"
        "m.mapping:7:5\n  S on pe2d stage 1: p@cols\n  ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: put S into stage 2 or later"
    )


def test_pipelined_loops():
    assert message(PIPED.replace("by 4 pipelined", "by 4@cols pipelined")) == (
        "'for p by 4@cols' is pipelined, but its steps run side by side\nm.mapping:2:1\n"
        "  for p by 4@cols pipelined\n  ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: pipeline a loop whose steps run one after another"
    )
    nested = "for p by 4 pipelined\n" + PIPED.strip().replace("\n", "\n  ").replace(
        "for", "  for", 1
    )
    assert message(nested.replace("  for p by 4 p", "  for p by 2 p", 1)) == (
        "'for p by 2' is pipelined inside 'for p by 4', which is too\nm.mapping:3:3\n"
        "  for p by 2 pipelined\n  ^^^^^^^^^^^^^^^^^^^^\nfix: pipeline one of the two"
    )


def test_partial_sums_cannot_be_read_back_from_another_array():
    text = "cascade c(A[m], B[m,p]) -> Z[p]\n  Y[p] = A[m]*B[m,p]\n  Z[p] = Y[p] + 1"
    body = "keep Y in rf2d\nfor m by 2\n  Y on pe1d: m, p\nZ on pe2d: p"
    assert message(body, text, {"m": 4, "p": 2}) == (
        "Y on pe1d reads its partial sums back from rf2d, which belongs to pe2d\nm.mapping:4:3\n"
        "  Y on pe1d: m, p\n  ^^^^^^^^^^^^^^^\n"
        "fix: keep Y in a memory that both reach, or run Y on pe2d"
    )
    run(body.replace("for m by 2\n  Y on pe1d: m, p", "Y on pe1d: p, m"), text, {"m": 4, "p": 2})


def test_capacity_of_a_shared_memory():
    body = GOOD.replace("for p by 4\n", "for p by 4\n  keep Q in gb\n").replace(
        "in gb\n  keep GM", "in gb x2\n  keep GM"
    )
    assert message(body, shapes={"p": 8, "m": 300, "e": 4}) == (
        "needs 9.414 KB of gb, toy has 4 KB; largest tensors: QK (4.688), SN (4.688), Q (0.03125)\n"
        "fix: use smaller tiles, fewer buffers, or keep less"
    )


def test_capacity_of_the_places_own_memory():
    # a place of 4 x 4 holds one query (cols) and all 8 keys of QK: 16 bytes, it has 8
    body = GOOD.replace("keep QK, SN in gb", "keep QK in rf2d\n  keep SN in gb").replace(
        "QK on pe2d: m by 4, p@cols, m@rows, e", "QK on pe2d: p@cols, m, e"
    )
    assert message(body) == (
        "needs 16 B of rf2d in each place (rows x cols), toy has 8 B; largest tensors: QK (16)\n"
        "fix: use smaller tiles, fewer buffers, or keep less"
    )


def test_copies_in_flight_take_room():
    # SN is made in stage 1 and read in stage 2: two of them at a time
    body = PIPED.replace("keep QK, SN in gb", "keep SN in rf2d\n  keep QK in gb").replace(
        "O on pe1d stage 2: p@lanes", "O on pe2d stage 2: p@cols"
    )
    run(body.replace("m by 4, p@cols, m@rows, e", "p@cols, m, e"), shapes={"p": 8, "m": 2, "e": 4})
    assert message(body, shapes={"p": 8, "m": 3, "e": 4}).startswith(
        "needs 12 B of rf2d in each place (rows x cols), toy has 8 B; largest tensors: SN (12)"
    )


def test_nodes_that_text_cannot_write():
    leaf = Compute("Z", "pe2d", (Loop("m", 0),))
    text = "cascade c(A[m]) -> Z[m]\n  Z[m] = A[m] + 1"

    def broken(*body):
        return message(Mapping("t", "c", "toy", body), text, {"m": 2})

    assert broken(leaf) == "the loop 'm by 0' steps 0 coordinates at a time\nfix: step at least 1"
    assert broken(Nest(Loop("m"), ())) == "'for m' has no body\nfix: put an Einsum into it"
    assert (
        broken(Keep(("A",), "gb", -1))
        == "'keep A in gb x-1' has -1 buffers\nfix: give it at least 1"
    )
