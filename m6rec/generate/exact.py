"""Exact scores of every item under the digit decoder: the oracle that the beam is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m6rec.model.attention import KVCache
from m6rec.model.heads import DigitDecoder

PREFIXES = 2**14  # prefixes that are stepped at a time, over all states: about 100 MB at a width of 64


@torch.no_grad()
def exact_scores(decoder: DigitDecoder, state: Tensor) -> Tensor:
    """Log-likelihood of all items: states (B, D) -> (B, N). Every prefix is computed once, whatever hangs below it.

    Some states at a time: beyond the result, memory grows neither with B nor with B · N.
    Mean or sum over the digits makes no difference to the order: all semantic IDs have the same length.
    """
    rows = max(1, PREFIXES // math.prod(decoder.widths[:-1]))
    return torch.cat([_scores(decoder, some) for some in state.split(rows)])


def _scores(decoder: DigitDecoder, state: Tensor) -> Tensor:
    b, tree = len(state), decoder.built_tree
    scores = state.new_zeros(b, 1)
    cache: list[KVCache] | None = None
    for level, width in enumerate(tree.widths):
        nodes = scores.shape[1]
        flat = state.repeat_interleave(nodes, 0)
        parents = torch.arange(nodes, device=state.device).repeat(b)
        logits, cache = decoder.step(flat, level, parents, cache)
        # A prefix without items below has no children that live: its leaves stay at -inf rather than NaN.
        said = logits.log_softmax(-1).nan_to_num(nan=float("-inf"))
        scores = (scores[..., None] + said.view(b, nodes, width)).flatten(1)
        if level + 1 < len(tree.widths):
            cache = [KVCache(m.k.repeat_interleave(width, 0), m.v.repeat_interleave(width, 0)) for m in cache]
    return scores[:, tree.leaf]
