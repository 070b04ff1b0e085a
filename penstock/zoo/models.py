"""Sizes of attention in published models: ``models.get("llama3-8b")``, ``--model llama3-8b``.

Data only. Sizes are those of one layer, from the ``config.json`` that the model's makers published,
or the paper that is named. Lengths are the user's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.einsum_ir.cascade import Cascade
from penstock.errors import UnknownNameError

__all__ = ["MODELS", "Model", "get"]


@dataclass(frozen=True)
class Model:
    """Attention of one model.

    Args:
        name: as people write it.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: of queries and keys; of their part without rotation, if `rope_dim` says another.
        source: where the numbers stand.
        value_dim: of values, if it is another.
        rope_dim: of the rotated part of queries and keys (multi-head latent attention).
        latent_dim: of the compressed keys and values (multi-head latent attention).
        window: keys that a query sees in the layers with a sliding window; 0 if there are none.
        soft_cap: of the logits; 0 if there is none.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    source: str
    value_dim: int = 0
    rope_dim: int = 0
    latent_dim: int = 0
    window: int = 0
    soft_cap: float = 0.0

    def shapes(self, cascade: Cascade) -> dict[str, int]:
        """Return rank variable → extent, for those of a cascade that the model fixes.

        Stock cascades write h for heads, g for heads of keys, e and f for the widths of keys and
        values, r for the rotated part and c for the latent one.
        """
        known = {"h": self.heads, "g": self.kv_heads, "e": self.head_dim}
        known["f"] = self.value_dim or self.head_dim
        known |= {"r": self.rope_dim, "c": self.latent_dim}
        ranks = {rank for each in cascade.inputs for rank in each.ranks}
        return {rank: extent for rank, extent in known.items() if extent and rank in ranks}

    def constants(self, cascade: Cascade) -> dict[str, float]:
        """Return constant → value: W is a window, CAP a soft cap, where the model has them."""
        known: Mapping[str, float] = {"W": self.window, "CAP": self.soft_cap}
        named = {name for name, _ in cascade.constants}
        return {name: value for name, value in known.items() if value and name in named}


_BERT = "Devlin et al., NAACL 2019, section 3"
_GPT3 = "Brown et al., NeurIPS 2020, table 2.1"

MODELS = {
    model.name: model
    for model in (
        Model("bert-base", 12, 12, 64, _BERT),
        Model("bert-large", 16, 16, 64, _BERT),
        Model("vit-b16", 12, 12, 64, "Dosovitskiy et al., ICLR 2021, table 1"),
        Model("gpt3-175b", 96, 96, 128, _GPT3),
        Model("llama2-7b", 32, 32, 128, "config.json of meta-llama/Llama-2-7b"),
        Model("llama3-8b", 32, 8, 128, "config.json of meta-llama/Meta-Llama-3-8B"),
        Model("llama3-70b", 64, 8, 128, "config.json of meta-llama/Meta-Llama-3-70B"),
        Model("llama3-405b", 128, 8, 128, "config.json of meta-llama/Llama-3.1-405B"),
        Model("mistral-7b", 32, 8, 128, "config.json of mistralai/Mistral-7B-v0.1", window=4096),
        Model("phi3-mini", 32, 32, 96, "config.json of microsoft/Phi-3-mini-4k-instruct"),
        Model("qwen3-8b", 32, 8, 128, "config.json of Qwen/Qwen3-8B"),
        Model("qwen3-32b", 64, 8, 128, "config.json of Qwen/Qwen3-32B"),
        Model("gemma2-2b", 8, 4, 256, "config.json of google/gemma-2-2b", window=4096, soft_cap=50),
        Model(
            "gemma2-9b", 16, 8, 256, "config.json of google/gemma-2-9b", window=4096, soft_cap=50
        ),
        Model(
            "gemma2-27b", 32, 16, 128, "config.json of google/gemma-2-27b", window=4096, soft_cap=50
        ),
        Model(
            "deepseek-v3",
            *(128, 128, 128),
            "config.json of deepseek-ai/DeepSeek-V3",
            value_dim=128,
            rope_dim=64,
            latent_dim=512,
        ),
        Model("gpt-oss-20b", 64, 8, 64, "config.json of openai/gpt-oss-20b", window=128),
        Model("gpt-oss-120b", 64, 8, 64, "config.json of openai/gpt-oss-120b", window=128),
    )
}


def get(name: str) -> Model:
    """Return the model with this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]
