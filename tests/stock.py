"""The stock cascades on which every stage is tested; the other mechanisms are read and evaluated.

The mapper, the model and the generators are tested on fixed cascades, so that a new file of
`penstock/zoo` costs its own test and no more.
"""

STOCK_CASCADES = (
    "attention",
    "attention_1pass",
    "attention_2pass",
    "attention_deferred",
    "causal_attention",
    "causal_attention_1pass",
    "cross",
    "gqa_causal",
    "gqa_causal_1pass",
    "linear_attention",
    "matmul",
    "sliding_window",
)
