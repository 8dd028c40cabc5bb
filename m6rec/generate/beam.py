"""Beam search over the tree of semantic IDs, under a trie mask, with cached keys and values; and sampling from it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.errors import InputError
from m6rec.model.attention import KVCache
from m6rec.model.network import DigitDecoder

MIN_SKIPPED = 2**8  # beams: fewer are not worth a second step, which takes as long however few they are


class Generated(NamedTuple):
    """Items, best first. They are distinct, in the catalogue, and allowed."""

    items: Tensor  # (B, K) item codes, -1 where there are not so many
    scores: Tensor  # (B, K) log-likelihood of the item's digits, -inf where there is no item

    @classmethod
    def of(cls, items: Tensor, scores: Tensor) -> "Generated":
        """Whatever has a score of -inf is no item."""
        return cls(items.masked_fill(scores == float("-inf"), -1), scores)


class Step(NamedTuple):
    """One level of a beam."""

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

    allowed: (B, N) bool, the candidates; without it, the whole catalogue. It masks the trie: a digit is possible only
    if it leads to an allowed item, so nothing is filtered afterwards. trace: a list that receives one `Step` per level.
    temperature: above 0, items are sampled without replacement, in the order of the draws, the same for the same seed.
    diversity: what a node loses for each sibling ahead of it, so that one parent does not fill the list (Li, Monroe &
    Jurafsky 2016). Scores are always log-likelihoods. Raises `InputError` for a model without a tree, and where fewer
    than k items are allowed; with `short`, such a row ends in -1 at -inf instead.
    """
    if temperature < 0 or diversity < 0 or (temperature and diversity):
        raise InputError(
            f"temperature={temperature} and diversity={diversity} do not go together: take one above 0, the other 0."
        )
    tree, b, beam = decoder.built_tree, len(state), max(beam, k)
    allowed = None if allowed is None else allowed.to(state.device)
    valid_nodes = None if allowed is None else tree.valid_nodes(allowed)
    check_length(k, len(tree.leaf) if allowed is None or short else int(allowed.sum(-1).min()))
    rows = torch.zeros(b, 1, dtype=torch.long, device=state.device)  # (B, K) where in the cache each beam's parent is
    step, cache = Step(rows, rows.to(state)), None
    if temperature:  # in double precision: a rare item's key is a difference of large numbers
        log_probs = gumbels = rows.double()  # (B, K)
        noise = torch.Generator(device=state.device).manual_seed(seed)
    for level, width in enumerate(tree.widths):
        # Beyond k, the beam after the last digit matters to a trace alone.
        last = level + 1 == len(tree.widths) and trace is None and not (temperature or diversity)
        most = min(k if last else beam, step.nodes.shape[1] * width)
        with torch.inference_mode():
            logits, scores, cache = _children(
                decoder, state, level, step, rows, cache, valid_nodes, most if last else beam
            )
        # Where fewer nodes are possible than the beam is wide, the rest of it stays at -inf.
        keys = scores
        if temperature:
            log_probs, keys = gumbel_top_k(logits.double() / temperature, log_probs, gumbels, noise)
        elif diversity:
            keys = scores - diversity * scores.argsort(-1, descending=True).argsort(-1)
        best = keys.flatten(1).topk(most).indices
        if temperature:
            log_probs, gumbels = log_probs.flatten(1).gather(1, best), keys.flatten(1).gather(1, best)
        parent = best // width  # (B, K) among the beams
        rows = parent + torch.arange(b, device=state.device)[:, None] * step.nodes.shape[1]
        step = Step(step.nodes.gather(1, parent) * width + best % width, scores.flatten(1).gather(1, best))
        if trace is not None:
            trace.append(step)
    return Generated.of(tree.item[step.nodes[:, :k]], step.scores[:, :k])


def check_length(k: int, possible: int) -> None:
    """`InputError` for a list of k items where only so many can be recommended."""
    if not 1 <= k <= possible:
        raise InputError(f"k={k} does not fit: only {possible} can be recommended here, so take 1 to {possible}.")


def _children(
    decoder: DigitDecoder, state: Tensor, level: int, step: Step, rows: Tensor, cache: list[KVCache] | None,
    valid_nodes: list[Tensor] | None, most: int,
) -> tuple[Tensor, Tensor, list[KVCache]]:  # fmt: skip
    """Logits and log-likelihoods (B, K, W) of children that can be among the `most` likeliest, the new cache."""
    b, k = rows.shape

    def children(index: Tensor) -> tuple[Tensor, Tensor, list[KVCache]]:
        """Of the beams at index (n,) among B·K: (n, W) each."""
        owner, node = index // k, step.nodes.flatten()[index]
        past = cache and [past.index_select(rows.flatten()[index]) for past in cache]
        logits, run = decoder.step(state.index_select(0, owner), level, node, past)
        # Below an impossible beam all logits are -inf: without the limit it would be -inf - (-inf).
        log_probs = logits - logits.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        if valid_nodes is not None:
            valid = valid_nodes[level].unflatten(1, (-1, decoder.widths[level]))  # (B, nodes, W)
            closed = ~valid.flatten(0, 1).index_select(0, owner * valid.shape[1] + node)
            logits, log_probs = (x.masked_fill(closed, float("-inf")) for x in (logits, log_probs))
        return logits, step.scores.flatten()[index, None] + log_probs, run.caches

    first = most if b * (k - most) > MIN_SKIPPED else k
    index = torch.arange(b * k, device=rows.device).view(b, k)
    logits, scores, new = children(index[:, :first].flatten())
    logits, scores = logits.unflatten(0, (b, first)), scores.unflatten(0, (b, first))
    if first < k:
        # No child is likelier than its parent, so few of the other beams can still have one among the likeliest.
        least = scores.flatten(1).topk(most).values[:, -1:]
        more = index[:, first:][step.scores[:, first:] > least]
        scores = F.pad(scores, (0, 0, 0, k - first), value=float("-inf"))
        scores.view(b * k, -1)[more] = children(more)[1]
    return logits, scores, new


def gumbel_top_k(logits: Tensor, above: Tensor, most: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampling without replacement: children's log-probabilities and keys, (B, K, W) each; the k largest are k draws.

    logits (B, K, W), -inf for invalid children; above, most: (B, K) log-probabilities and keys of their parents.
    A leaf's key is its log-probability plus Gumbel noise. A node's key is the largest key below it, so it is known
    before the leaves are, and each step of the beam is exact. Source: Kool, van Hoof & Welling 2019.
    """
    log_probs = above[..., None] + logits.log_softmax(-1)
    log_probs = log_probs.nan_to_num(nan=float("-inf"))  # NaN: below an invalid node
    gumbel = log_probs - torch.empty_like(log_probs).exponential_(generator=noise).log()
    # Gumbels on the condition that the largest of each parent's children is the parent's key: appendix B.3.
    v = most[..., None] - gumbel + torch.log1p(-(gumbel - gumbel.amax(-1, keepdim=True)).exp())
    keys = most[..., None] - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return log_probs, keys.masked_fill(log_probs == float("-inf"), float("-inf"))
