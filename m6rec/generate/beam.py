"""Beam search under a trie with cached keys and values: over digits or words, greedy or sampled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.data.features import Features
from m6rec.data.text import BOS, EOS, PAD, PROMPT_SPECIAL, SEP, SPECIAL, Prompt, Tokenizer, pad
from m6rec.errors import InputError
from m6rec.model.attention import KVCache, Run
from m6rec.model.network import Network
from m6rec.train.text import SOURCE, Backbone

CHUNK = 64  # texts written together
MIN_SKIPPED = 2**8  # beams: fewer are not worth a second step


class Generated(NamedTuple):
    """Items, best first: distinct, in the catalogue, and allowed."""

    items: Tensor  # (B, K) item codes, -1 where there are not so many
    scores: Tensor  # (B, K) log-likelihood of the item's digits, -inf where there is no item

    @classmethod
    def of(cls, items: Tensor, scores: Tensor) -> "Generated":
        return cls(items.masked_fill(scores == float("-inf"), -1), scores)

    def table(self, n_items: int) -> Tensor:
        """(B, N) scores, -inf for items that are not listed."""
        out = self.scores.new_full((len(self.scores), n_items + 1), float("-inf"))
        return out.scatter(1, self.items % (n_items + 1), self.scores)[:, :-1]  # what is no item falls off the end


class Step(NamedTuple):
    nodes: Tensor  # (B, K) nodes kept at this level
    scores: Tensor  # (B, K) log-likelihood so far
    tokens: Tensor  # (B, K) the digit or word that led to each
    parents: Tensor  # (B, K) which of the nodes before each continues
    weights: Sequence[Tensor] = ()  # of each layer (B, K, H, Tk), if asked for


class Trie(nn.Module):
    """The sequences (N, G) of tokens that may be generated, -1 after the end of a shorter one.

    widths: how many tokens each level has. roots (N,): where each sequence starts, for several tries in one. Sparse,
    unlike `Tree`: there are few.
    """

    def __init__(self, sequences: np.ndarray, widths: Sequence[int], roots: np.ndarray | None = None):
        super().__init__()
        self.widths, largest = tuple(widths), max(widths)
        node = np.zeros(len(sequences), np.int64) if roots is None else roots
        count, edges, paths = int(node.max()) + 1, [], []
        token = [np.zeros(count, np.int64)]
        for level in sequences.T:
            there, above = level >= 0, node
            edge, at = np.unique(above[there] * largest + level[there], return_inverse=True)
            node = above.copy()
            node[there] = count + at
            count += len(edge)
            edges.append(edge // largest)
            token.append(edge % largest)
            paths.append(node)
        item = np.full(count, -1)
        item[node] = np.arange(len(node))
        first = np.searchsorted(np.concatenate(edges), np.arange(count + 1)) + len(token[0])
        parts = {"token": np.concatenate(token), "first": first, "item": item, "leaf": node, "paths": np.stack(paths)}
        for name, part in parts.items():  # token and item (nodes,), first child (nodes + 1,), leaf (N,), paths (G, N)
            self.register_buffer(name, torch.from_numpy(part), persistent=False)

    def valid_nodes(self, allowed: Tensor) -> list[Tensor]:
        """Of each level (B, nodes) bool: which lead to an allowed (B, N) sequence."""
        valid = torch.zeros(len(allowed), len(self.token), device=allowed.device)
        for path in self.paths:
            valid.index_add_(1, path, allowed.float())
        return [valid > 0] * len(self.widths)

    def successors(self, level: int, node: Tensor) -> Tensor:
        """Nodes (n,) -> where each token leads (n, W), -1 for nowhere."""
        counts = self.first[node + 1] - self.first[node]
        row = torch.arange(len(node), device=node.device).repeat_interleave(counts)
        child = torch.arange(len(row), device=node.device) - (counts.cumsum(0) - counts - self.first[node])[row]
        return node.new_full((len(node), self.widths[level]), -1).index_put((row, self.token[child]), child)


def generate(
    decoder: Any,
    state: Tensor,
    k: int,
    *,
    beam: int = 50,
    allowed: Tensor | None = None,
    trace: list[Step] | None = None,
    short: bool = False,
    **options: object,
) -> Generated:
    """k items for each state (B, D): the source document's `generate`.

    allowed (B, N) bool masks the trie, so nothing is filtered afterwards. trace: a list that receives one `Step` per
    level. options: of `search`. `InputError` without a tree, and for fewer than k allowed items; with `short`, such a
    row ends in -1 at -inf instead.
    """
    tree = decoder.built_tree
    allowed = None if allowed is None else allowed.to(state.device)
    check_length(k, len(tree.leaf) if allowed is None or short else int(allowed.sum(-1).min()))
    valid = None if allowed is None else tree.valid_nodes(allowed)
    # Beyond k, the beam after the last digit matters to a trace alone.
    sizes = [max(beam, k)] * (len(tree.widths) - 1) + [k if trace is None else max(beam, k)]
    root = torch.zeros(len(state), dtype=torch.long, device=state.device)
    steps = search(decoder, tree, state, root, sizes, valid=valid, **options)
    if trace is not None:
        trace += steps
    return Generated.of(tree.item[steps[-1].nodes[:, :k]], steps[-1].scores[:, :k])


def check_length(k: int, possible: int) -> None:
    """`InputError` where k items are too many, or none."""
    if not 1 <= k <= possible:
        raise InputError(f"k={k} does not fit: only {possible} can be recommended here, so take 1 to {possible}.")


@torch.no_grad()
def search(
    decoder: Any,
    tree: Any,
    state: Tensor,
    start: Tensor,
    sizes: Sequence[int],
    *,
    valid: list[Tensor] | None = None,
    ended: Callable[[Tensor], Tensor] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    weights: bool = False,
) -> list[Step]:
    """The likeliest sequences of each state (B, ...) from the nodes start (B,): sizes[level] of them at a level.

    decoder.step(states, level, nodes (n,), past) gives logits (n, W) and the `Run` whose caches are the next `past`;
    tree.successors is as in `Trie`. valid: of each level (B, nodes) bool. ended: of nodes, whether nothing more
    follows. temperature: above 0, sequences are sampled without replacement, by seed, in the order of the draws.
    weights: with the attention of every step. Scores are always log-likelihoods.
    """
    if temperature < 0:
        raise InputError(f"temperature={temperature} is no temperature: take 0 for the likeliest, or more to sample.")
    b, past, steps = len(state), None, []
    rows = torch.zeros(b, 1, dtype=torch.long, device=state.device)  # (B, K) where in the cache each beam's parent is
    step = Step(start[:, None], rows.float(), rows, rows)
    if temperature:  # double: a rare item's key is a difference of large numbers
        log_probs = gumbels = rows.double()  # (B, K)
        noise = torch.Generator(device=state.device).manual_seed(seed)
    for level, size in enumerate(sizes):
        with torch.inference_mode():
            few = size if not (temperature or weights) else max(sizes)
            logits, scores, run = _ahead(decoder, tree, state, level, step, rows, past, valid, few, weights)
        # Where the beam is wider than the possible nodes, its rest stays at -inf.
        keys, past, width = scores, run.caches, scores.shape[-1]
        if temperature:
            log_probs, keys = gumbel_top_k(logits.double() / temperature, log_probs, gumbels, noise)
        best = keys.flatten(1).topk(min(size, keys[0].numel())).indices  # (B, K) among the beams' children
        if temperature:
            log_probs, gumbels = log_probs.flatten(1).gather(1, best), keys.flatten(1).gather(1, best)
        parent, token = best // width, best % width
        rows = parent + torch.arange(b, device=state.device)[:, None] * step.nodes.shape[1]
        after = tree.successors(level, step.nodes.gather(1, parent).flatten())
        node = after.gather(1, token.view(-1, 1)).view_as(token).clamp(min=0)  # -1 stands at -inf: as good as any
        attended = [w.squeeze(2)[rows] for w in run.weights]
        step = Step(node, scores.flatten(1).gather(1, best), token, parent, attended)
        steps.append(step)
        if ended is not None and ended(step.nodes).all():
            break
    return steps


def best_path(steps: Sequence[Step]) -> Tensor:
    """The tokens (B, T) of each row's best sequence."""
    tokens, at = [], torch.zeros_like(steps[-1].tokens[:, :1])
    for step in reversed(steps):
        tokens.append(step.tokens.gather(1, at))
        at = step.parents.gather(1, at)
    return torch.cat(tokens[::-1], 1)


def _ahead(
    decoder: Any, tree: Any, state: Tensor, level: int, step: Step, rows: Tensor, past: list[KVCache] | None,
    valid: list[Tensor] | None, most: int, weights: bool,
) -> tuple[Tensor, Tensor, Run]:  # fmt: skip
    """Logits and log-likelihoods (B, K, W) of children that can be among the `most` likeliest."""
    b, k = rows.shape

    def children(index: Tensor) -> tuple[Tensor, Tensor, Run]:
        """Of the beams at index (n,) among B·K: (n, W) each."""
        owner, node = index // k, step.nodes.flatten()[index]
        own = past and [cache.index_select(rows.flatten()[index]) for cache in past]
        logits, run = decoder.step(state.index_select(0, owner), level, node, own, weights=weights)
        # Below an impossible beam all logits are -inf, and -inf - (-inf) is NaN.
        log_probs = logits - logits.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        child = tree.successors(level, node)
        closed = child < 0
        if valid is not None:
            closed |= ~valid[level][owner[:, None], child.clamp(min=0)]
        logits, log_probs = (x.masked_fill(closed, float("-inf")) for x in (logits, log_probs))
        return logits, step.scores.flatten()[index, None] + log_probs, run

    first = most if b * (k - most) > MIN_SKIPPED else k
    index = torch.arange(b * k, device=rows.device).view(b, k)
    logits, scores, run = children(index[:, :first].flatten())
    logits, scores = logits.unflatten(0, (b, first)), scores.unflatten(0, (b, first))
    if first < k:
        # No child is likelier than its parent: few of the other beams can have one among the likeliest.
        least = scores.flatten(1).topk(most).values[:, -1:]
        more = index[:, first:][step.scores[:, first:] > least]
        scores = F.pad(scores, (0, 0, 0, k - first), value=float("-inf"))
        scores.view(b * k, -1)[more] = children(more)[1]
    return logits, scores, run


def gumbel_top_k(logits: Tensor, above: Tensor, most: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Children's log-probabilities and keys (B, K, W); the k largest keys are k draws without replacement.

    logits (B, K, W), -inf for invalid children; above, most (B, K): the parents' two. A leaf's key is its
    log-probability plus Gumbel noise, a node's the largest below it. Kool, van Hoof & Welling 2019.
    """
    log_probs = above[..., None] + logits.log_softmax(-1)
    log_probs = log_probs.nan_to_num(nan=float("-inf"))  # NaN: below an invalid node
    gumbel = log_probs - torch.empty_like(log_probs).exponential_(generator=noise).log()
    # Gumbels on the condition that the largest of each parent's children is the parent's key: appendix B.3.
    v = most[..., None] - gumbel + torch.log1p(-(gumbel - gumbel.amax(-1, keepdim=True)).exp())
    keys = most[..., None] - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return log_probs, keys.masked_fill(log_probs == float("-inf"), float("-inf"))


class Writer:
    """Words as a beam's decoder and tree: a node is the last word or, under a trie, its node there.

    first: logits (B, V) of the first word, and the caches. read: words (n, 1), how many came before, the caches ->
    logits (n, 1, V) of the next word, and the caches. never: words that are not written.
    """

    def __init__(
        self, first: tuple[Tensor, Run], read: Callable[[Tensor, int, list], tuple[Tensor, Run]], never: Sequence[int],
        trie: Trie | None = None,
    ):  # fmt: skip
        self.first, self.read, self.trie = first, read, trie
        words = torch.arange(first[0].shape[1], device=first[0].device)
        self.open, self.pad = words.index_fill(0, torch.tensor(never, device=words.device), -1), words == PAD

    def write(self, length: int, start: Tensor, beam: int = 1, **options: object) -> list[Step]:
        """At most `length` words from the nodes start (B,); options: of `search`."""
        rows = torch.arange(len(start), device=start.device)
        return search(self, self, rows, start, [beam] * length, ended=self.ended, **options)

    def ended(self, node: Tensor) -> Tensor:
        """Whether only padding follows."""
        return (self._word(node) == EOS) | (self._word(node) == PAD)

    def successors(self, level: int, node: Tensor) -> Tensor:
        """See `Trie`."""
        after = self.trie.successors(level, node) if self.trie else self.open
        return torch.where(self.ended(node)[:, None], torch.where(self.pad, node[:, None], -1), after)

    def step(
        self, row: Tensor, level: int, node: Tensor, past: list | None, *, weights: bool = False
    ) -> tuple[Tensor, Run]:
        """Rows of the batch (n,), their nodes (n,) -> logits (n, V)."""
        if past is None:
            logits, (states, caches, seen) = self.first
            return logits[row], Run(states, [cache.index_select(row) for cache in caches], [w[row] for w in seen])
        logits, run = self.read(self._word(node)[:, None], level, past)
        padding = torch.where(self.pad, 0.0, float("-inf"))
        return torch.where(self.ended(node)[:, None], padding, logits[:, -1]), run

    def _word(self, node: Tensor) -> Tensor:
        return node if self.trie is None else self.trie.token[node]


def begun(text: Prompt, turn: int) -> tuple[str, ...]:
    """The target's segments before an answer, 0 the first, -1 the last."""
    answers = [i for i, part in enumerate(text.target) if not part.endswith(":")]
    return text.target[: answers[turn]] if answers else text.target


def trie(tokenizer: Tokenizer, sets: Sequence[Sequence[str]]) -> Trie:
    """Of the sentences that may be said, with a root for each set. InputError for an empty set or sentence."""
    said = [(root, tokenizer.ids(sentence)) for root, some in enumerate(sets) for sentence in some]
    if not all(sets) or not all(ids for _, ids in said):
        raise InputError("nothing may be said: give sentences to choose among, and none that is empty.")
    rows = pad([(*ids, SEP, EOS) for _, ids in said])
    rows[rows == PAD] = -1
    tree = Trie(rows, [len(tokenizer)] * rows.shape[1], np.array([root for root, _ in said]))
    tree.token[: len(sets)] = BOS  # at a root nothing is written yet
    return tree


@torch.no_grad()
def write(
    made: Backbone,
    texts: Sequence[Prompt],
    length: int = 24,
    turn: int = 0,
    among: Sequence[Sequence[str]] | None = None,
    *,
    trace: list[Step] | None = None,
    weights: bool = False,
    **options: object,
) -> list[list[str]]:
    """The segments of an answer (see `begun`): the likeliest tokens, at most `length`, up to [EOS].

    among: for each text the whole sentences that may answer, however long: their trie masks all else. trace: a list
    that receives one `Step` per token, for 64 texts at a time. options: beam, and of `search`.
    """
    network, tokenizer, out = made.network, made.tokenizer, []
    never = [i for i in range(len(PROMPT_SPECIAL)) if i not in (EOS, SEP)]
    sets = {id(some): some for some in among or ()}
    tree = trie(tokenizer, list(sets.values())).to(network.device) if among else None
    roots = {key: root for root, key in enumerate(sets)}

    def read(words: Tensor, level: int, past: list) -> tuple[Tensor, Run]:
        said = network.decode_step(words, past[0], weights=weights)
        return said.logits, Run(said.hidden, [said.cache], said.weights)

    for at in range(0, len(texts), CHUNK):
        part = texts[at : at + CHUNK]
        source = torch.from_numpy(tokenizer.encode(part, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(begun(text, turn)) for text in part])).to(network.device)
        start = [roots[id(some)] for some in among[at : at + CHUNK]] if among else [BOS] * len(part)
        said, last = network(source, given, weights=weights), (given != PAD).sum(1) - 1
        row = torch.arange(len(part), device=network.device)
        seen = [w[row, :, source.shape[1] + last, None] for w in said.weights]  # (B, H, 1, S + T)
        writer = Writer((said.logits[row, last], Run(said.hidden, [said.cache], seen)), read, never, tree)
        start = torch.tensor(start, device=network.device)
        steps = writer.write(len(tree.widths) if tree else length, start, weights=weights, **options)
        out += [tokenizer.decode(words) for words in best_path(steps).tolist()]
        if trace is not None:
            trace += steps
    return out


@torch.no_grad()
def fill(network: Network, source: Features, length: int = 12, **options: object) -> Tensor:
    """The span that [MASK] stands for in each item's text -> token ids (B, length), 0 after the end.

    For a text that is [MASK] alone it is a caption. options: of `search`.
    """
    decoder, start = network.text_decoder, torch.full_like(source.text[:, 0], BOS)
    logits, cache, first = decoder.write(network.items, source, start[:, None])

    def read(words: Tensor, level: int, past: list) -> tuple[Tensor, Run]:
        logits, cache = decoder.decode_step(network.items, words, past[0], first + level)
        return logits, Run(logits, [cache], [])

    writer = Writer((logits[:, -1], Run(logits, [cache], [])), read, [i for i in range(len(SPECIAL)) if i != EOS])
    words = best_path(writer.write(length, start, **options))
    return F.pad(words.masked_fill(words == EOS, PAD), (0, length - words.shape[1]))
