"""The 25 mechanisms of the literature that come first, on sizes where every guard acts.

Also on the sizes of the collection that they were taken from.
"""

import first_references as sequences
import first_references_images as images
from looped import K3, QKV, Mechanism, bits, gates

SEVERAL = dict(h=4, g=2, e=3, f=5)  # query heads share heads of keys

MECHANISMS = {
    "radial": Mechanism(
        "radial",
        sequences.radial,
        (
            dict(QKV, i=18, j=18, s=8, n=8, BLK=1, DF=0.5),
            dict(h=1, e=3, f=2, i=21, j=21, s=6, n=6, BLK=2, DF=1.0),
            dict(h=1, e=3, f=2, i=5, j=5, s=20, n=20, BLK=3, DF=0.5),
        ),
        (("K", "j", 3), ("K", "n", 3)),
    ),
    "halonet": Mechanism(
        "halonet",
        images.halonet,
        (
            dict(QKV, z=4, w=4, y=2, x=2, u=4, v=4, r=6, s=6),
            dict(h=2, e=3, f=2, z=7, w=5, y=3, x=2, u=5, v=6, r=8, s=8),
        ),
        (("K", "z", 3), ("K", "w", 3)),
    ),
    "titans": Mechanism(
        "titans",
        sequences.titans,
        (dict(t=6, d=4, f=4), dict(t=11, d=3, f=5)),
        (("K", "t", 1), ("V", "t", 1), ("K", "d", 2)),
        hot=(),
        naive=1,  # over t; in one step the error needs all of K[t], and the gradient K[t] again
        draw={"ETA": gates, "TH": gates, "AL": gates},
        grown="V",
    ),
    "maxvit": Mechanism(
        "maxvit",
        images.maxvit,
        (
            dict(QKV, z=4, w=4, y=2, x=2, u=2, v=2, r=3, s=3),
            dict(h=2, e=3, f=2, z=6, w=8, y=3, x=2, u=3, v=2, r=5, s=3),
        ),
        (("K", "z", 3), ("K", "w", 3)),
    ),
    "mixture_of_heads": Mechanism(
        "moh",
        sequences.mixture_of_heads,
        (
            dict(d=4, e=4, f=4, j=2, m=8, o=4, p=8, r=4),
            dict(d=3, e=2, f=5, j=3, m=7, o=4, p=5, r=6),
            dict(d=3, e=2, f=5, j=1, m=4, o=4, p=5, r=2),
        ),
        K3,
        hot=(("Q", "K", "e"), ("X", "WG", "d")),
    ),
    "landmark": Mechanism(
        "landmark",
        sequences.landmark,
        (
            dict(QKV, p=9, m=9, s=3),
            dict(h=2, e=3, f=2, p=14, m=14, s=4),
            dict(QKV, p=30, m=30, s=2),
        ),
        (("K", "m", 2),),
    ),
    "davit": Mechanism(
        "davit",
        images.davit,
        (
            dict(g=2, n=8, c=4, d=4, p=4, m=4),
            dict(g=2, n=11, c=3, d=3, p=4, m=4),
        ),
        (("K", "n", 3), ("K2", "n", 1), ("V2", "d", 3)),
        hot=(("Q", "K", "c"), ("K2", "V2", "n")),
        naive=2,  # over n of a common input of Q2, K2 and V2, by the channel half
    ),
    "generalized_neighborhood": Mechanism(
        "gna",
        images.generalized_neighborhood,
        (
            dict(h=1, e=4, f=4, y=20, x=20, u=20, v=20, WIN=5, DL=2, ST=4),
            dict(h=2, e=3, f=2, y=11, x=7, u=11, v=7, WIN=3, DL=2, ST=2),
            dict(h=1, e=3, f=2, y=11, x=13, u=11, v=13, WIN=3, DL=3, ST=1),
            dict(h=1, e=3, f=2, y=9, x=8, u=9, v=8, WIN=4, DL=1, ST=4),
            dict(h=1, e=3, f=2, y=9, x=8, u=9, v=8, WIN=4, DL=1, ST=3),
        ),
        (("K", "u", 3), ("K", "v", 3)),
    ),
    "dynamic_mask": Mechanism(
        "dma",
        sequences.dynamic_mask,
        (
            dict(h=4, g=2, e=4, f=4, m=8, p=8, j=3),
            dict(SEVERAL, m=11, p=6, j=4),
            dict(SEVERAL, m=4, p=7, j=2),
        ),
        (("K", "m", 3), ("V", "m", 4)),
    ),
    "inline_attention": Mechanism(
        "inline",
        sequences.inline_attention,
        (dict(QKV, d=4, m=8, p=8, k=3), dict(h=2, e=3, f=5, d=2, m=7, p=7, k=3)),
        (("K", "m", 1), ("V", "m", 1)),
    ),
    "duo_attention": Mechanism(
        "duo",
        sequences.duo_attention,
        (
            dict(h=4, g=2, e=4, f=4, m=10, p=10, SINK=1, REC=3),
            dict(SEVERAL, m=13, p=6, SINK=2, REC=4),
            dict(SEVERAL, m=5, p=8, SINK=1, REC=2),
        ),
        K3,
        draw={"RT": bits},
    ),
    "lightning": Mechanism(
        "lightning_tnl",
        sequences.lightning,
        (
            dict(QKV, t=6, p=2, m=2),
            dict(h=2, e=3, f=5, t=11, p=4, m=4),
        ),
        (("K", "t", 1), ("V", "t", 1)),
        draw={"SL": gates},
    ),
    "dilated_neighborhood": Mechanism(
        "dinat",
        images.dilated_neighborhood,
        (
            dict(h=1, e=4, f=4, y=12, x=12, u=12, v=12, r=5, s=5, WIN=3, DL=3),
            dict(h=2, e=3, f=2, y=11, x=7, u=11, v=7, r=5, s=5, WIN=3, DL=2),
            dict(h=1, e=3, f=2, y=6, x=8, u=6, v=8, r=9, s=9, WIN=5, DL=1),
        ),
        (("K", "u", 3), ("K", "v", 3)),
    ),
    "cswin": Mechanism(
        "cswin",
        images.cswin,
        (
            dict(h=1, e=4, f=4, z=4, x=4, y=2, u=2, k=3, l=3),
            dict(h=2, e=3, f=2, z=5, x=8, y=3, u=3, k=3, l=3),
        ),
        (("K", "z", 3), ("K", "x", 3), ("K2", "z", 3), ("K2", "x", 3)),
        hot=(("Q", "K", "e"), ("Q2", "K2", "e")),
    ),
    "gated_attention": Mechanism(
        "gated_attn",
        sequences.gated_attention,
        (
            dict(h=4, g=2, e=4, f=4, d=4, o=4, m=8, p=8),
            dict(SEVERAL, d=3, o=2, m=9, p=5),
            dict(SEVERAL, d=3, o=2, m=3, p=5),
        ),
        K3,
    ),
    "flashbias": Mechanism(
        "flashbias",
        sequences.flashbias,
        (
            dict(QKV, r=2, m=8, p=8),
            dict(h=2, e=3, f=5, r=3, m=9, p=5),
            dict(h=2, e=3, f=5, r=1, m=3, p=5),
        ),
        K3,
    ),
    "agent_attention": Mechanism(
        "agent",
        sequences.agent_attention,
        (
            dict(QKV, a=2, k=3, m=8, p=8),
            dict(h=2, e=3, f=5, a=3, k=3, m=11, p=11),
        ),
        K3,
    ),
    "core_context": Mechanism(
        "cca",
        sequences.core_context,
        (
            dict(c=4, e=4, f=4, s=3, n=16, m=12, p=12, LS=2),
            dict(c=3, e=2, f=5, s=4, n=20, m=15, p=15, LS=3),
            dict(c=3, e=2, f=5, s=2, n=12, m=8, p=8, LS=20),
        ),
        K3,
    ),
    "focalnet": Mechanism(
        "focalnet",
        images.focalnet,
        (
            dict(c=4, d=4, l=2, u=5, v=5, x=4, y=4, F0=1),
            dict(c=2, d=3, l=3, u=9, v=9, x=7, y=5, F0=2),
        ),
        (("X0", "y", 2), ("X0", "x", 2)),
        hot=(),
        grown="X0",
    ),
    "causal_cross": Mechanism(
        "cab",
        sequences.causal_cross,
        (
            dict(QKV, m=8, p=5),
            dict(h=2, e=3, f=5, m=4, p=9),
            dict(h=2, e=3, f=5, m=9, p=5, OFF=0),
            dict(h=2, e=3, f=5, m=9, p=5, OFF=-2),
        ),
        K3,
    ),
    "attention_1pass": Mechanism(
        "fusemax",
        sequences.attention_1pass,
        (
            dict(b=1, h=1, e=4, f=4, m=8, p=8, m0=2),
            dict(b=2, h=2, e=3, f=5, m=11, p=6, m0=4),
        ),
        (("K", "m", 1),),
    ),
    "biformer": Mechanism(
        "biformer",
        images.biformer,
        (
            dict(c=4, f=4, n=12, p=3, m=3, j=2, k=3),
            dict(c=3, f=5, n=22, p=4, m=4, j=3, k=3),
            dict(c=3, f=5, n=8, p=4, m=4, j=3, k=3),
            dict(c=2, f=5, n=25, p=6, m=6, j=1, k=3),
        ),
        (("K", "n", 4),),
        hot=(("Q", "K", "c"),),
    ),
    "s2_attention": Mechanism(
        "s2_attn",
        sequences.s2_attention,
        (
            dict(h=3, e=4, f=4, m=12, p=12, B=2, LB=2, HS=1, OF=0, ST=3),
            dict(h=5, e=3, f=2, m=25, p=14, B=3, LB=1, HS=2, OF=1, ST=4),
            dict(h=3, e=3, f=2, m=7, p=10, B=2, LB=1, HS=1, OF=2, ST=3),
        ),
        K3,
    ),
    "hilo": Mechanism(
        "hilo",
        images.hilo,
        (
            dict(QKV, g=2, n=8, p=4, m=4),
            dict(h=2, g=3, e=3, f=5, n=11, p=4, m=4),
        ),
        (("K", "n", 3), ("K2", "w", 3)),
        hot=(("Q", "K", "e"), ("Q2", "K2", "e")),
    ),
    "edge_moe": Mechanism(
        "edge_moe",
        sequences.edge_moe,
        (dict(QKV, m=8, p=8), dict(h=2, e=3, f=5, m=11, p=6)),
        (("K", "m", 2),),
    ),
}
