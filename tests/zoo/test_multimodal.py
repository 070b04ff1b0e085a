"""Mechanisms for several modalities, and pooling and gating ones: each equals a loop reference."""

import multimodal_references as loops
import numpy as np
import pytest
from looped import Mechanism, bits, cases, check, check_passes, gates

QKV = dict(h=2, e=4, f=4)
ODD = dict(h=2, e=3, f=5)
K3 = (("K", "m", 3),)


def whole(limit):
    return lambda random, shape: random.integers(0, limit, shape).astype(float)


def given(*values):
    return lambda random, shape: np.array(values, float).reshape(shape)


MECHANISMS = {
    "rg_attn": Mechanism(
        "rg_attn",
        loops.rg_attn,
        (dict(a=3, e=4, f=4, m=5, n=12, p=4), dict(a=2, e=3, f=5, m=7, n=12, p=5)),
        (("K", "m", 3),),
        draw={"TAB": whole(12)},
    ),
    "csa_action": Mechanism(
        "csa_action",
        loops.csa_action,
        (dict(c=4, g=2, n=8, r=3), dict(c=5, g=3, n=7, r=4)),
        (("S", "n", 1), ("X", "n", 1)),
        hot=(),
        grown="S",
        naive=2,
    ),
    "minimal_transformer": Mechanism(
        "min_transformer",
        loops.minimal_transformer,
        (dict(c=4, d=4, h=2, p=8), dict(c=5, d=3, h=3, p=7)),
        (("X", "p", 4),),
        hot=(),
        grown="WQ",
        times=10.0,
        naive=3,
    ),
    "rcmha": Mechanism(
        "rcmha",
        loops.rcmha,
        (dict(QKV, k=3, m=8, p=8, r=8), dict(ODD, k=2, m=11, p=11, r=11)),
        K3,
    ),
    "video_infinity": Mechanism(
        "video_infinity",
        loops.video_infinity,
        (
            dict(QKV, p=4, n=12, m=11, PD=2, GS=4, BL=0.3, BG=-0.2),
            dict(ODD, p=4, n=8, m=14, PD=3, GS=2, BL=0.3, BG=-0.2),
        ),
        (("K", "n", 3),),
        draw={"START": given(4)},
    ),
    "dcal": Mechanism(
        "dcal",
        loops.dcal,
        (dict(QKV, j=3, m=8, n=16, p=8), dict(ODD, j=4, m=7, n=14, p=9)),
        (("K", "m", 3), ("K2", "m", 3)),
        hot=(("Q", "K", "e"),),
    ),
    "visual_boost": Mechanism(
        "fix_imbalanced",
        loops.visual_boost,
        (
            dict(QKV, m=8, p=8, AL=0.5),
            dict(ODD, m=9, p=6, AL=2.0),
            dict(ODD, m=4, p=7, AL=2.0),
        ),
        K3,
        draw={"HS": gates, "TK": bits},
    ),
    "mocha": Mechanism(
        "mocha_sv",
        loops.mocha,
        (dict(QKV, m=12, p=4, R=3, W=2), dict(ODD, m=9, p=6, R=2, W=0)),
        K3,
    ),
    "lovecon": Mechanism(
        "lovecon",
        loops.lovecon,
        (
            dict(e=4, f=4, i=4, m=9, p=3, s=3),
            dict(e=3, f=5, i=5, m=12, p=7, s=4),
        ),
        (("K", "s", 3),),
        draw={"PV": given(1), "CU": given(2)},
    ),
    "hbformer": Mechanism(
        "hbformer",
        loops.hbformer,
        (
            dict(c=4, d=4, k=3, l=3, x=4, y=4, DI=2),
            dict(c=3, d=3, k=5, l=3, x=6, y=9, DI=3),
        ),
        (("X", "y", 2), ("X", "x", 2)),
        hot=(),
        grown="X",
    ),
    "swap_attention": Mechanism(
        "swap_attn",
        loops.swap_attention,
        (dict(QKV, n=8, p=4, m=4), dict(ODD, n=11, p=4, m=4)),
        (("KT", "n", 3), ("KS", "n", 3)),
        hot=(("QS", "KT", "e"), ("QT", "KS", "e")),
    ),
    "multi_layer_pooling": Mechanism(
        "mlt_pool",
        loops.multi_layer_pooling,
        (dict(d=4, e=4, f=4, h=2, l=3, q=2), dict(d=5, e=3, f=2, h=3, l=7, q=4)),
        (("HS", "l", 3),),
        hot=(("QL", "WK", "e"),),
    ),
    "dyvte": Mechanism(
        "dyvte",
        loops.dyvte,
        (
            dict(QKV, m=8, p=8, NV=3),
            dict(ODD, m=11, p=7, NV=6),
            dict(ODD, m=5, p=7, NV=1),
            dict(ODD, m=6, p=6, NV=2),
        ),
        K3,
        draw={"EX": whole(2)},
    ),
    "attention_routing": Mechanism(
        "attn_moe",
        loops.attention_routing,
        (dict(h=2, e=4, m=8, p=8, c=4, r=4, j=2), dict(h=3, e=2, m=7, p=5, c=3, r=6, j=4)),
        K3,
    ),
    "ee_mllm": Mechanism(
        "ee_mllm",
        loops.ee_mllm,
        (
            dict(QKV, m=9, n=5, p=5, i=4),
            dict(ODD, m=13, n=10, p=6, i=3),
            dict(ODD, m=7, n=3, p=6, i=4),
        ),
        (("K", "n", 3), ("KI", "i", 3)),
    ),
    "lama": Mechanism(
        "lama",
        loops.lama,
        (dict(c=4, d=4, h=2, n=8, r=3), dict(c=3, d=5, h=3, n=11, r=2)),
        (("H", "n", 3),),
        hot=(("H", "WQ", "d"),),
    ),
    "mqsa": Mechanism(
        "mqsa_ted",
        loops.mqsa,
        (
            dict(c=4, e=4, f=4, m=8, p=8, LL=3, AL=0.4),
            dict(c=3, e=2, f=5, m=11, p=11, LL=5, AL=0.7),
        ),
        K3,
    ),
    "crosslmm": Mechanism(
        "crosslmm",
        loops.crosslmm,
        (dict(c=4, f=4, m=8, n=8, p=8, s=4), dict(c=3, f=5, m=7, n=11, p=6, s=4)),
        K3,
        hot=(("X", "K", "c"), ("T", "K", "c")),
    ),
    "apem": Mechanism(
        "apem",
        loops.apem,
        (dict(e=4, f=4, i=2, m=8, p=8), dict(e=3, f=5, i=4, m=7, p=9)),
        (("IN", "i", 3), ("K", "m", 3)),
        hot=(("IN", "K", "e"), ("Q", "V", "f")),
    ),
    "wings": Mechanism(
        "wings",
        loops.wings,
        (
            dict(QKV, c=4, m=8, n=8, p=8, r=3),
            dict(ODD, c=3, m=9, n=5, p=6, r=2),
            dict(ODD, c=3, m=3, n=5, p=6, r=2),
        ),
        (("K", "m", 3), ("VI", "n", 3)),
        hot=(("Q", "K", "e"), ("X", "VI", "c")),
    ),
    "adsc": Mechanism(
        "adsc",
        loops.adsc,
        (dict(c=4, e=4, f=4, n=8, p=8, ST=2), dict(c=3, e=2, f=5, n=11, p=6, ST=3)),
        (("X", "n", 3),),
        hot=(("Q", "WK", "e"),),
    ),
    "vlanet": Mechanism(
        "vlanet",
        loops.vlanet,
        (dict(e=4, m=8, p=8), dict(e=3, m=7, p=5)),
        (("K", "m", 4),),
    ),
}


@pytest.mark.parametrize("hot", [False, True], ids=["small", "1e3"])
@pytest.mark.parametrize(("name", "case"), cases(MECHANISMS))
def test_equals_its_loops(name, case, hot):
    check(name, MECHANISMS[name], case, hot)


@pytest.mark.parametrize("name", MECHANISMS)
def test_passes(name):
    check_passes(name, MECHANISMS[name])
