"""Further mechanisms of the literature, and what they are checked with."""

import more_references as loops
from looped import K3, ODD, QKV, Mechanism, below, bits, gates, given, uniform


def negative(random, shape):
    return -random.uniform(0.1, 1.5, shape)


def tenths(random, shape):
    return random.integers(0, 10, shape) / 10


def router(random, shape):
    """Weights that with positive inputs choose the dense mask for an even width."""
    return random.uniform(-0.2, 1, shape) * (1 if shape[0] % 2 == 0 else -1)


MECHANISMS = {
    "swin": Mechanism(
        "",
        loops.swin,
        (
            dict(QKV, z=8, w=12, t=8, v=12, r=7, s=7, B=4, SH=2),
            dict(ODD, z=9, w=6, t=9, v=6, r=5, s=5, B=3, SH=1),
            dict(ODD, z=6, w=9, t=6, v=9, r=5, s=5, B=3, SH=0),
        ),
        (("K", "t", 3), ("K", "v", 3)),
    ),
    "hidiffusion": Mechanism(
        "hidiffusion",
        loops.hidiffusion,
        (
            dict(QKV, h=1, z=4, w=4, t=4, v=4, B=2, SH=1),
            dict(ODD, z=6, w=9, t=6, v=9, B=3, SH=2),
        ),
        (("K", "t", 3), ("K", "v", 3)),
    ),
    "shifted_groups": Mechanism(
        "sinklora_sf",
        loops.shifted_groups,
        (dict(QKV, p=8, m=8, B=4), dict(ODD, p=15, m=15, B=5)),
        K3,
        draw={"SH": given(0, 2)},
    ),
    "sparsifiner": Mechanism(
        "sparsifiner",
        loops.sparsifiner,
        (dict(QKV, c=2, j=3, m=8, p=8, r=3), dict(ODD, c=2, j=4, m=11, p=6, r=5)),
        (("K", "m", 4),),
        naive=5,
    ),
    "medusa": Mechanism(
        "medusa",
        loops.medusa,
        (dict(c=4, y=4, x=4, k=3, l=3), dict(c=3, y=7, x=5, k=3, l=3)),
        (("X", "c", 2),),
        hot=(),
        grown="X",
        naive=1,
    ),
    "l2vit": Mechanism(
        "l2vit",
        loops.l2vit,
        (dict(QKV, k=3, m=8, p=8), dict(ODD, k=3, m=7, p=9)),
        (("K", "m", 1),),
    ),
    "hyperzzw": Mechanism(
        "hyperzzw",
        loops.hyperzzw,
        (dict(c=4, r=3, u=4, v=4, x=4, y=4), dict(c=2, r=3, u=5, v=6, x=6, y=7)),
        (("Z", "y", 1),),
        hot=(),
        grown="Z",
    ),
    "rswa": Mechanism(
        "rswa",
        loops.rswa,
        (dict(e=4, f=4, n=8), dict(e=3, f=5, n=11)),
        (("K", "l", 3), ("K", "n", 1)),
    ),
    "convsharevit": Mechanism(
        "convsharevit",
        loops.convsharevit,
        (
            dict(p=5, u=5, v=5, k=3, l=3, y=3, x=3),
            dict(p=4, u=5, v=6, k=2, l=3, y=4, x=4),
        ),
        (("X", "p", 4),),
        hot=(),
        grown="X",
        times=20.0,
        naive=3,
    ),
    "flux_attention": Mechanism(
        "flux_attn",
        loops.flux_attention,
        (
            dict(QKV, c=4, m=10, p=10, SINK=1, W=3),
            dict(ODD, c=3, m=12, p=7, SINK=2, W=4),
            dict(ODD, c=5, m=4, p=7, SINK=1, W=2),
        ),
        K3,
        draw={"X": uniform, "WR": router},
    ),
    "bam": Mechanism(
        "bam",
        loops.bam,
        (
            dict(c=4, e=4, f=4, m=8, o=4, p=8, a=3),
            dict(c=3, e=2, f=5, m=9, o=4, p=5, a=4),
            dict(c=3, e=2, f=5, m=3, o=4, p=5, a=2),
        ),
        K3,
        hot=(("K", "WQ", "e"),),
    ),
    "eca": Mechanism(
        "eca",
        loops.eca,
        (dict(n=8, c=4, k=3), dict(n=5, c=9, k=5), dict(n=5, c=2, k=5)),
        (("X", "n", 2),),
        hot=(),
        grown="X",
    ),
    "rekv": Mechanism(
        "rekv",
        loops.rekv,
        (
            dict(e=4, f=4, j=2, m=8, n=12, p=3, s=3, NI=2),
            dict(e=2, f=3, j=1, m=4, n=7, p=2, s=3, NI=1),
            dict(e=3, f=5, j=3, m=17, n=21, p=4, s=4, NI=5),
        ),
        (("K", "n", 4),),
    ),
    "lazy_eviction": Mechanism(
        "lazy_eviction",
        loops.lazy_eviction,
        (dict(t=6, m=8, e=4, j=3, AL=0.6), dict(t=12, m=11, e=3, j=5, AL=0.8)),
        (("A", "t", 1), ("K", "m", 1)),
        hot=(),
        draw={"A": tenths},
        grown="K",
    ),
    "favit": Mechanism(
        "favit",
        loops.favit,
        (
            dict(c=4, d=4, k=3, n=10, p=8, s=2, DI=2),
            dict(c=3, d=5, k=2, n=14, p=6, s=3, DI=3),
        ),
        (("X", "u", 3),),
        hot=(("Q", "X", "c"), ("Q2", "Y", "d")),
    ),
    "spikmamba": Mechanism(
        "spikmamba",
        loops.spikmamba,
        (
            dict(t=3, n=8, e=4, f=4, TAU=2, TH=0.2),
            dict(t=7, n=5, e=6, f=3, TAU=3, TH=0.1),
        ),
        (("X", "n", 2),),
        hot=(),
        grown="V",
    ),
    "contrast": Mechanism(
        "contrast_sr",
        loops.contrast,
        (dict(t=6, d=4, s=3, p=3, m=3), dict(t=14, d=3, s=5, p=4, m=4)),
        (("X", "t", 4),),
        hot=(),
        draw={"DT": gates, "AA": negative},
        grown="X",
        times=100.0,
        naive=3,
    ),
    "gaussian_attention": Mechanism(
        "gaam",
        loops.gaussian_attention,
        (dict(n=8, k=3), dict(n=13, k=2)),
        (("X", "n", 3),),
        hot=(),
        draw={"CS": uniform},
        grown="X",
    ),
    "longlive": Mechanism(
        "longlive",
        loops.longlive,
        (dict(QKV, p=12, m=12, T=2, W=2, SINK=1), dict(ODD, p=20, m=20, T=3, W=1, SINK=2)),
        K3,
    ),
    "moa": Mechanism(
        "moa_elastic",
        loops.moa,
        (dict(QKV, p=12, m=12, B=2), dict(ODD, p=22, m=22, B=3)),
        K3,
        draw={"AH": given(0, 2), "BH": given(0.5, 0.25)},
    ),
    "diffqkv": Mechanism(
        "diffqkv",
        loops.diffqkv,
        (
            dict(h=8, g=2, w=4, d=4, e=4, f=4, j=4, m=8, p=8),
            dict(h=4, g=1, w=2, d=3, e=2, f=5, j=3, m=11, p=6),
            dict(h=4, g=1, w=2, d=3, e=2, f=5, j=3, m=4, p=6),
        ),
        (("K", "m", 4),),
        hot=(("WA", "K", "e"),),
    ),
    "acmil": Mechanism(
        "acmil",
        loops.acmil,
        (dict(n=8, d=4, r=3, b=2), dict(n=11, d=5, r=2, b=3)),
        (("X", "n", 3),),
        hot=(),
        grown="WW",
    ),
    "motionclr": Mechanism(
        "motionclr",
        loops.motionclr,
        (dict(QKV, p=8, m=8), dict(ODD, p=5, m=9)),
        K3,
        draw={"RW": uniform},
    ),
    "danet": Mechanism(
        "ms_guided",
        loops.danet,
        (dict(p=8, m=8, e=4, c=4), dict(p=7, m=5, e=3, c=6)),
        K3,
        hot=(("Q", "K", "e"),),
    ),
    "token_prompts": Mechanism(
        "tcpa",
        loops.token_prompts,
        (
            dict(c=4, e=4, f=4, j=2, m=9, n=5, p=5, r=4),
            dict(c=3, e=2, f=5, j=3, m=13, n=7, p=6, r=6),
        ),
        (("K", "n", 3), ("PK", "r", 3)),
    ),
    "efficient_probing": Mechanism(
        "ep_probe",
        loops.efficient_probing,
        (dict(c=4, f=4, n=8, q=2), dict(c=5, f=3, n=11, q=4)),
        (("X", "n", 3),),
        hot=(("QL", "X", "c"),),
    ),
    "modality_mutual": Mechanism(
        "aki_mma",
        loops.modality_mutual,
        (dict(QKV, p=10, m=10), dict(ODD, p=13, m=13)),
        K3,
        draw={"IS": given(1), "TS": given(5), "TE": given(8)},
    ),
    "proxy_tokens": Mechanism(
        "pt_dit",
        loops.proxy_tokens,
        (
            dict(c=4, d=4, e=4, h=2, p=12, u=4, w=4),
            dict(c=3, d=3, e=2, h=3, p=15, u=5, w=5),
        ),
        (("X", "p", 7),),
        hot=(("WQ", "X", "c"),),
        draw={"RI": below(3)},
        naive=6,
    ),
    "ultragen": Mechanism(
        "ultragen",
        loops.ultragen,
        (dict(QKV, s=4, p=8, m=8, B=4), dict(ODD, s=3, p=11, m=11, B=4)),
        K3,
    ),
    "lscenellm": Mechanism(
        "lscenellm",
        loops.lscenellm,
        (dict(QKV, j=3, m=8, p=8, s=3), dict(ODD, j=4, m=9, p=5, s=2)),
        (("K", "m", 3), ("KF", "m", 3)),
        naive=6,
    ),
    "maniqa": Mechanism(
        "maniqa",
        loops.maniqa,
        (dict(c=4, n=8, o=8), dict(c=6, n=5, o=5)),
        (("X", "c", 4),),
        hot=(("WQ", "X", "n"),),
        naive=1,
    ),
    "ulsam": Mechanism(
        "ulsam",
        loops.ulsam,
        (dict(g=2, y=4, x=4, c=4), dict(g=3, y=7, x=5, c=2)),
        (("X", "y", 3),),
        hot=(),
        grown="WP",
    ),
    "transrefer3d": Mechanism(
        "transrefer3d",
        loops.transrefer3d,
        (dict(p=4, c=4, e=4, f=4, m=8), dict(p=5, c=3, e=2, f=5, m=7)),
        K3,
        hot=(("K", "WR", "e"),),
    ),
    "lamic": Mechanism(
        "lamic",
        loops.lamic,
        (dict(QKV, p=8, m=8, a=3, b=3), dict(ODD, p=12, m=9, a=4, b=2)),
        K3,
        draw={"MT": bits, "SP": below(3), "SM": below(2)},
    ),
    "tlob": Mechanism(
        "tlob",
        loops.tlob,
        (dict(h=2, p=8, c=4, e=4), dict(h=3, p=6, c=5, e=2)),
        (("X", "p", 5),),
        hot=(),
        grown="X",
        times=20.0,
        naive=3,
    ),
    "soft_perturbed": Mechanism(
        "softpag",
        loops.soft_perturbed,
        (dict(QKV, p=8, m=8), dict(ODD, p=9, m=9)),
        K3,
        draw={"GH": given(0.25, 1)},
    ),
}
