"""What the search finds for FuseMax's cases, beside +binding.

Given are the machine, the 3-pass cascade, and its 2-pass form of the paper's section IV-D (the
division after the sum), which no rewrite derives yet; the variants are these and what
`reduce_passes` derives, with every size of the key tiles. Excluded: the published mappings
(`fusemax.py`), what is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.rewrite.plan import PassPlan
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.shapes import rank_variables
from penstock.mapper.model.evaluate import Evaluation
from penstock.mapper.search.explore import SearchResult, explore_variants
from penstock.mapper.search.variants import bind_variants
from penstock.reproduce import load_cascade
from penstock.reproduce.fusemax import CONFIGURATIONS, FIXED, LENGTHS, MODELS
from penstock.reproduce.study import count, problems
from penstock.targets import TARGETS

__all__ = ["Beside", "beside"]

TARGET = TARGETS.get("fusemax")
NAMES = tuple(each.name for each in MODELS)
BINDING = next(each for each in CONFIGURATIONS if each.name == "+binding")


@dataclass(frozen=True)
class Beside:
    """The best mapping found for one case, and +binding.

    Args:
        model, seq_len: the case.
        published: what the model says of +binding.
        found: of the search.
        seconds: wall time, from the text of the cascade to the mapping.
        own_s: time of the process in it.
    """

    model: str
    seq_len: str
    published: Evaluation
    found: SearchResult
    seconds: float
    own_s: float

    @property
    def faster(self) -> float:
        """The latency of +binding over that of the mapping found."""
        return self.published.latency_cycles / self.found.evaluation.latency_cycles

    @property
    def form(self) -> str:
        """The cascade that won, with the keys of a tile if it has tiles."""
        tile = self.found.bound.extents.get("m0")
        return f"1 pass, m0 = {tile:,}" if tile else self.found.bound.cascade.name

    def per_tile(self, said: Evaluation) -> dict[str, dict[str, float]]:
        """Return array → Einsum → cycles for 256 x 256 scores."""
        extents = self.found.bound.extents
        scores = extents["b"] * extents["h"] * LENGTHS[self.seq_len] ** 2
        side = TARGET.arrays[0].places
        found: dict[str, dict[str, float]] = {}
        for leaf in said.leaves:
            found.setdefault(leaf.array, {})[leaf.einsum] = leaf.cycles / scores * side
        return found

    def to_json(self) -> dict[str, object]:
        """Return the case as a JSON object."""
        return {
            "model": self.model,
            "seq_len": self.seq_len,
            "published_latency_s": self.published.latency_s,
            "latency_s": self.found.evaluation.latency_s,
            "faster": self.faster,
            "seconds": self.seconds,
            "own_s": self.own_s,
            "cascade": self.form,
            "cycles_per_tile": self.per_tile(self.found.evaluation),
            "published_cycles_per_tile": self.per_tile(self.published),
            "mapping": str(self.found.mapping),
            "search": self.found.to_json(),
        }


def beside(
    lengths: Sequence[str] = tuple(LENGTHS),
    models: Sequence[str] = NAMES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Beside, ...]:
    """Search the cases of some lengths and models.

    Args:
        lengths: their names.
        models: likewise.
        progress: called with (cases done, cases in all).
    """
    chosen = [each for each in MODELS if each.name in models]
    wanted = list(problems(chosen, {name: LENGTHS[name] for name in lengths}, FIXED))
    made: list[Beside] = []
    for model, length, extents in wanted:
        made.append(_search(model, length, extents))
        if progress is not None:
            progress(len(made), len(wanted))
    return tuple(made)


def _search(model: str, length: str, extents: Mapping[str, int]) -> Beside:
    published = count(BINDING, extents, ()).found
    started, worked = time.perf_counter(), time.process_time()
    cascade = load_cascade("attention_3pass")
    plan = reduce_passes(cascade, "m")
    assert isinstance(plan, PassPlan)
    cascades = [cascade, load_cascade("attention_deferred"), plan.cascade]
    ranks = rank_variables(cascade)
    shapes = {name: extents[name] for name in ranks}
    fmt = parse_format(TARGET.format)
    found = explore_variants(bind_variants(cascades, TARGET, shapes=shapes), TARGET, fmt)
    seconds, own = time.perf_counter() - started, time.process_time() - worked
    return Beside(model, length, published, found, seconds, own)
