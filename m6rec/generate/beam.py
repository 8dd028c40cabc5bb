"""Generated recommendations: one batched beam over the tree, under a trie mask, with cached keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.errors import InputError
from m6rec.generate.sample import Draw
from m6rec.model.attention import KVCache
from m6rec.model.heads import DigitDecoder

SPARED = 2**8  # beams: fewer are not worth a second step, which takes as long however few they are


class Generated(NamedTuple):
    """Items, best first. They are distinct, in the catalogue, and allowed."""

    items: Tensor  # (B, K) item codes, -1 where there are not so many
    scores: Tensor  # (B, K) log-likelihood of the item's digits, -inf where there is no item

    @classmethod
    def of(cls, items: Tensor, scores: Tensor) -> Generated:
        """Whatever has a score of -inf is no item."""
        return cls(items.masked_fill(scores == float("-inf"), -1), scores)


class Beams(NamedTuple):
    """Where the search stands before a digit is said."""

    nodes: Tensor  # (B, K) within the level above
    scores: Tensor  # (B, K) log-likelihood so far
    rows: Tensor  # (B, K) where in the cache each one's parent is
    cache: list[KVCache] | None


class Step(NamedTuple):
    """One level of a beam, kept for those who want to see it."""

    nodes: Tensor  # (B, K) nodes kept at this level
    scores: Tensor  # (B, K) log-likelihood so far


@torch.no_grad()
def generate(
    decoder: DigitDecoder,
    state: Tensor,
    k: int,
    *,
    beam: int = 50,
    allowed: Tensor | None = None,
    trace: list[Step] | None = None,
    short: bool = False,
    temperature: float = 0.0,
    diversity: float = 0.0,
    seed: int = 0,
) -> Generated:
    """Generate k items for each state (B, D). The source document's `generate`.

    allowed: (B, N) bool, which items may be said; without it, the whole catalogue. The mask is the trie's: a digit is
    possible only if it leads to an allowed item, so nothing has to be filtered afterwards. trace: a list that receives
    one `Step` per level. temperature: above 0, items are drawn without replacement, in the order of the draws, the same
    ones for the same seed (see `sample`). diversity: what a node loses for each sibling ahead of it, so that one parent
    does not fill the list (Li, Monroe & Jurafsky 2016). Whatever decides who stays, scores are log-likelihoods.
    Raises `InputError` for a model without a tree, and where fewer than k items are allowed; with `short`, such a row
    ends in -1 at -inf instead.
    """
    if temperature < 0 or diversity < 0 or (temperature and diversity):
        raise InputError(
            f"temperature={temperature} and diversity={diversity} do not go together: take one above 0, the other 0."
        )
    tree, b, beam = decoder.built_tree, len(state), max(beam, k)
    valid_nodes = None if allowed is None else tree.valid_nodes(allowed)
    possible = len(tree.leaf) if allowed is None else int(allowed.sum(-1).min())
    if k < 1 or (possible < k and not short):
        raise InputError(
            f"k={k} items were asked for, but only {possible} can be recommended here: take 1 ≤ k ≤ {possible}."
        )
    draw = Draw(b, temperature, seed, state.device) if temperature else None
    root = torch.zeros(b, 1, dtype=torch.long, device=state.device)
    beams = Beams(root, root.to(state), root, None)
    for level, width in enumerate(tree.widths):
        # What is left of the beam after the last digit interests only those who look on.
        last = level + 1 == len(tree.widths) and trace is None and not (draw or diversity)
        most = min(k if last else beam, beams.nodes.shape[1] * width)
        with torch.inference_mode():
            logits, ahead, cache = _children(decoder, state, level, beams, most if last else beam, valid_nodes)
        # Where fewer nodes are possible than the beam is wide, the rest of it stays at -inf and never comes back.
        keys = ahead
        if draw:
            keys = draw.extend(logits)
        elif diversity:
            keys = ahead - diversity * ahead.argsort(-1, descending=True).argsort(-1)
        best = keys.flatten(1).topk(most).indices
        if draw:
            draw.keep(best)
        parent = best // width  # (B, K) among the beams
        nodes, scores = beams.nodes.gather(1, parent) * width + best % width, ahead.flatten(1).gather(1, best)
        rows = parent + torch.arange(b, device=state.device)[:, None] * beams.nodes.shape[1]
        beams = Beams(nodes, scores, rows, cache)
        if trace is not None:
            trace.append(Step(nodes, scores))
    return Generated.of(tree.item[beams.nodes[:, :k]], beams.scores[:, :k])


def _children(
    decoder: DigitDecoder, state: Tensor, level: int, beams: Beams, most: int, valid_nodes: list[Tensor] | None
) -> tuple[Tensor, Tensor, list[KVCache]]:
    """Logits and log-likelihoods (B, K, W) of the children that can be among the `most` likeliest, the new cache."""
    b, kept = beams.nodes.shape
    first = most if b * (kept - most) > SPARED else kept
    places = torch.arange(b * kept, device=state.device).view(b, kept)
    logits, ahead, cache = _step(decoder, state, level, beams, places[:, :first].flatten(), valid_nodes)
    logits, ahead = logits.unflatten(0, (b, first)), ahead.unflatten(0, (b, first))
    if first < kept:
        # No child is likelier than its parent, so few of the other beams can still have one among the likeliest.
        least = ahead.flatten(1).topk(most).values[:, -1:]
        more = places[:, first:][beams.scores[:, first:] > least]
        ahead = F.pad(ahead, (0, 0, 0, kept - first), value=float("-inf"))
        ahead.view(b * kept, -1)[more] = _step(decoder, state, level, beams, more, valid_nodes)[1]
    return logits, ahead, cache


def _step(
    decoder: DigitDecoder, state: Tensor, level: int, beams: Beams, places: Tensor, valid_nodes: list[Tensor] | None
) -> tuple[Tensor, Tensor, list[KVCache]]:
    """Of the beams at places (n,) among B·K: logits and log-likelihoods of the children (n, W), the new cache."""
    owner, node = places // beams.nodes.shape[1], beams.nodes.flatten()[places]
    cache = beams.cache and [memory.index_select(beams.rows.flatten()[places]) for memory in beams.cache]
    logits, cache = decoder.step(state.index_select(0, owner), level, node, cache)
    # Below a beam that is not possible there is nothing: without the limit it would be -inf - (-inf).
    said = logits - logits.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    if valid_nodes is not None:
        may = valid_nodes[level].unflatten(1, (-1, decoder.widths[level]))  # (B, nodes, W)
        closed = ~may.flatten(0, 1).index_select(0, owner * may.shape[1] + node)
        logits, said = logits.masked_fill(closed, float("-inf")), said.masked_fill(closed, float("-inf"))
    return logits, beams.scores.flatten()[places, None] + said, cache
