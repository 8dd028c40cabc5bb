"""Beam search under a trie with cached keys and values: over digits or words, greedy or sampled."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.config import Array, InputError, choose, typed
from m6rec.data.context import Context
from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.features import Features
from m6rec.data.text import BOS, EOS, PAD, SEP, SPECIAL, Prompt, Tokenizer, pad
from m6rec.model.attention import Run
from m6rec.model.network import Network, TextCache, TextOutput, TextTransformer
from m6rec.train.fit import version
from m6rec.train.text import SOURCE, Backbone

CHUNK = 64  # texts written together
MIN_SKIPPED = 2**8  # beams: fewer are not worth a second step
MAX_PREFIXES = 2**14  # stepped at a time: about 100 MB at a width of 64
METHODS = ("generated", "dense", "exact", "hybrid")


class Generated(NamedTuple):
    """Items, best first: distinct and allowed."""

    items: Tensor  # (B, K) item codes, -1 where there are not so many
    scores: Tensor  # (B, K) log-likelihood, -inf where there is no item

    @classmethod
    def of(cls, items: Tensor, scores: Tensor) -> "Generated":
        return cls(items.masked_fill(scores == -torch.inf, -1), scores)

    def table(self, n_items: int) -> Tensor:
        """(B, N) scores, -inf where not listed."""
        out = self.scores.new_full((len(self.scores), n_items + 1), -torch.inf)
        return out.scatter(1, self.items % (n_items + 1), self.scores)[:, :-1]  # what is no item falls off the end


class Step(NamedTuple):
    nodes: Tensor  # (B, K) nodes kept at this level
    scores: Tensor  # (B, K) log-likelihood so far
    tokens: Tensor  # (B, K) the digit or word that led to each
    parents: Tensor  # (B, K) of the nodes before
    weights: Sequence[Tensor] = ()  # of each layer (B, K, H, Tk), if asked for


class Trie(nn.Module):
    """The sequences (N, G) of tokens that may be generated. Sparse, unlike `Tree`: there are few.

    widths: tokens of each level. roots (N,): where each sequence starts, for several tries in one."""

    def __init__(self, sequences: Array, widths: Sequence[int], roots: Array | None = None):
        super().__init__()
        self.widths, largest = tuple(widths), max(widths)
        node = np.zeros(len(sequences), np.int64) if roots is None else roots
        token, above = [np.zeros(int(node.max()) + 1, np.int64)], []
        for level in sequences.T:
            edge, at = np.unique(node * largest + level, return_inverse=True)
            node = sum(map(len, token)) + at
            token.append(edge % largest)
            above.append(edge // largest)
        count = sum(map(len, token))
        first = np.searchsorted(np.concatenate(above), np.arange(count + 1)) + len(token[0])
        self.register_buffer("token", torch.from_numpy(np.concatenate(token)), persistent=False)  # (nodes,)
        self.register_buffer("first", torch.from_numpy(first), persistent=False)  # (nodes + 1,) the first child

    def successors(self, level: int, node: Tensor) -> Tensor:
        """Nodes (n,) -> where each token leads (n, W), -1 for nowhere."""
        counts = self.first[node + 1] - self.first[node]
        row = torch.arange(len(node), device=node.device).repeat_interleave(counts)
        child = torch.arange(len(row), device=node.device) - (counts.cumsum(0) - counts - self.first[node])[row]
        return node.new_full((len(node), self.widths[level]), -1).index_put((row, self.token[child]), child)


@typed
def generate(
    decoder: Any, state: Tensor, k: int, *, beam: int = 50, allowed: Tensor | None = None,
    trace: list[Step] | None = None, short: bool = False, **options: object,
) -> Generated:  # fmt: skip
    """k items for each state (B, D).

    allowed (B, N) bool masks the trie, so nothing is filtered afterwards. trace, options: of `search`. InputError for
    fewer than k allowed items; with `short`, such a row ends in -1."""
    tree = decoder.built_tree
    check_length(k, len(tree.leaf) if allowed is None or short else int(allowed.sum(-1).min()))
    valid = None if allowed is None else tree.valid_nodes(allowed.to(state.device))
    # Beyond k, the beam after the last digit matters to a trace alone.
    sizes = [max(beam, k)] * (len(tree.widths) - 1) + [k if trace is None else max(beam, k)]
    root = torch.zeros(len(state), dtype=torch.long, device=state.device)
    steps = search(decoder.step, tree.successors, state, root, sizes, valid=valid, trace=trace, **options)
    return Generated.of(tree.item[steps[-1].nodes[:, :k]], steps[-1].scores[:, :k])


def check_length(k: int, possible: int) -> None:
    """InputError where k is too large, or 0."""
    if not 1 <= k <= possible:
        raise InputError(f"k={k} does not fit: only {possible} can be recommended here, so take 1 to {possible}.")


@torch.no_grad()
@typed
def search(
    step: Callable[..., tuple[Tensor, Run]], successors: Callable[[int, Tensor], Tensor], state: Tensor, start: Tensor,
    sizes: Sequence[int], *, past: list | None = None, valid: list[Tensor] | None = None,
    ended: Callable[[Tensor], Tensor] | None = None, temperature: float = 0.0, seed: int = 0, weights: bool = False,
    trace: list[Step] | None = None,
) -> list[Step]:  # fmt: skip
    """The likeliest sequences of each state (B, ...) from the nodes start (B,): sizes[level] at a level.

    step(states, level, nodes (n,), past) gives logits (n, W) and the `Run` whose caches are the next `past`; successors
    is as in `Trie`. valid: of each level (B, nodes) bool. ended: of nodes, whether nothing follows. temperature: above
    0, sequences are sampled without replacement, by seed. weights: with every step's attention. trace: receives the
    steps. Scores are always log-likelihoods."""
    if temperature < 0:
        raise InputError(f"temperature={temperature} is no temperature: take 0 for the likeliest, or more to sample.")
    row = torch.arange(len(state), device=state.device)[:, None]
    rows, zero, steps = row, torch.zeros_like(row), []  # rows (B, K): where in the cache each beam's parent is
    last = Step(start[:, None], zero.float(), zero, zero)
    if temperature:  # double: a rare item's key is a difference of large numbers
        log_probs = gumbels = zero.double()  # (B, K)
        noise = torch.Generator(device=state.device).manual_seed(seed)

    def children(level, index):
        """Of the beams at index (n,) among B·K: logits and log-likelihoods (n, W)."""
        owner, node = index // rows.shape[1], last.nodes.flatten()[index]
        own = past and [cache.index_select(rows.flatten()[index]) for cache in past]
        logits, run = step(state.index_select(0, owner), level, node, own, weights=weights)
        # Below an impossible beam all logits are -inf, and -inf - (-inf) is NaN.
        log_probs = logits - logits.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        child = successors(level, node)
        closed = child < 0
        if valid is not None:
            closed |= ~valid[level][owner[:, None], child.clamp(min=0)]
        logits, log_probs = (x.masked_fill(closed, -torch.inf) for x in (logits, log_probs))
        return logits, last.scores.flatten()[index, None] + log_probs, run

    for level, size in enumerate(sizes):
        with torch.inference_mode():
            b, k = rows.shape
            first = k if temperature or weights or b * (k - size) <= MIN_SKIPPED else size
            index = torch.arange(b * k, device=rows.device).view(b, k)
            logits, scores, run = children(level, index[:, :first].flatten())
            logits, scores = logits.unflatten(0, (b, first)), scores.unflatten(0, (b, first))  # (B, K, W)
            if first < k:
                # No child is likelier than its parent: few other beams can have one of the likeliest.
                least = scores.flatten(1).topk(size).values[:, -1:]
                more = index[:, first:][last.scores[:, first:] > least]
                scores = nn.functional.pad(scores, (0, 0, 0, k - first), value=-torch.inf)
                scores.view(b * k, -1)[more] = children(level, more)[1]
        # Where the beam is wider than the possible nodes, its rest stays at -inf.
        keys, past, width = scores, run.caches, scores.shape[-1]
        if temperature:
            log_probs, keys = gumbel_top_k(logits.double() / temperature, log_probs, gumbels, noise)
        best = keys.flatten(1).topk(min(size, k * width)).indices  # (B, K) among the beams' children
        if temperature:
            log_probs, gumbels = (x.flatten(1).gather(1, best) for x in (log_probs, keys))
        parent, token = best // width, best % width
        rows = parent + row * k
        after = successors(level, last.nodes.gather(1, parent).flatten())
        node = after.gather(1, token.view(-1, 1)).view_as(token).clamp(min=0)  # -1 stands at -inf: as good as any
        attended = [w.squeeze(2)[rows] for w in run.weights]
        last = Step(node, scores.flatten(1).gather(1, best), token, parent, attended)
        steps.append(last)
        if ended is not None and ended(last.nodes).all():
            break
    if trace is not None:
        trace += steps
    return steps


def best_paths(steps: Sequence[Step], count: int = 1) -> Tensor:
    """The tokens (B, count, T) of each row's best sequences."""
    last = steps[-1].tokens
    tokens, at = [], torch.arange(count, device=last.device).expand(len(last), -1)
    for step in reversed(steps):
        tokens.append(step.tokens.gather(1, at))
        at = step.parents.gather(1, at)
    return torch.stack(tokens[::-1], 2)


def gumbel_top_k(logits: Tensor, above: Tensor, most: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Children's log-probabilities and keys (B, K, W); the k largest keys are k draws without replacement.

    logits (B, K, W), -inf for invalid children; above, most (B, K): the parents'. A leaf's key is its
    log-probability plus Gumbel noise, a node's the largest below it. Kool, van Hoof & Welling 2019."""
    log_probs = above[..., None] + logits.log_softmax(-1)
    log_probs = log_probs.nan_to_num(nan=-torch.inf)  # NaN: below an invalid node
    gumbel = log_probs - torch.empty_like(log_probs).exponential_(generator=noise).log()
    # Gumbels, given that the largest of a parent's children is its key: appendix B.3.
    v = most[..., None] - gumbel + torch.log1p(-(gumbel - gumbel.amax(-1, keepdim=True)).exp())
    keys = most[..., None] - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return log_probs, keys.masked_fill(log_probs == -torch.inf, -torch.inf)


def write_words(
    read: Callable[..., TextOutput], given: Tensor, start: Tensor, past: TextCache, length: int, special: int,
    vocabulary: int, trie: Trie | None = None, beam: int = 1, **options: object,
) -> list[Step]:  # fmt: skip
    """At most `length` words after the last given ones (B,). start (B,): nodes of a trie, else given.

    read: words (n, 1), how many were written, the cache, with weights? -> what follows. Of the first `special` tokens,
    only [EOS] and [SEP] are written. options: of `search`."""
    words = torch.arange(vocabulary, device=given.device)
    may = torch.where((words < special) & (words != EOS) & (words != SEP), -1, words)
    closed, token = words.masked_fill(words != PAD, -1), words if trie is None else trie.token  # after [EOS]; of nodes

    def ended(node):
        return (token[node] == EOS) | (token[node] == PAD)

    def successors(level, node):
        return torch.where(ended(node)[:, None], closed, may) if trie is None else trie.successors(level, node)

    def step(given, level, node, past, weights):
        said = read((token[node] if level else given)[:, None], level, past[0], weights)
        padding = torch.where(closed < 0, -torch.inf, 0.0)
        logits = torch.where(ended(node)[:, None], padding, said.logits[:, -1])
        return logits, Run(said.hidden, [said.cache], said.weights)

    return search(step, successors, given, start, [beam] * length, past=[past], ended=ended, **options)


def begun(text: Prompt, turn: int) -> tuple[str, ...]:
    """The target's segments before an answer, 0 the first, -1 the last."""
    answers = [i for i, part in enumerate(text.target) if not part.endswith(":")]
    return text.target[: answers[turn]] if answers else text.target


def trie(tokenizer: Tokenizer, sets: Sequence[Sequence[str]]) -> Trie:
    """Of the sentences that may be said, a root for each set. InputError for an empty set or sentence."""
    said = [(root, tokenizer.ids(sentence)) for root, some in enumerate(sets) for sentence in some]
    if not all(sets) or not all(ids for _, ids in said):
        raise InputError("nothing may be said: give sentences to choose among, and none that is empty.")
    rows = pad([(*ids, SEP, EOS) for _, ids in said])
    tree = Trie(rows, [len(tokenizer)] * rows.shape[1], np.array([root for root, _ in said]))
    tree.token[: len(sets)] = BOS  # at a root nothing is written yet
    return tree


@torch.no_grad()
def write(
    made: Backbone, texts: Sequence[Prompt], length: int = 24, turn: int = 0,
    among: Sequence[Sequence[str]] | None = None, answers: int = 1, **options: object,
) -> list[list[str]]:  # fmt: skip
    """An answer's segments (see `begun`): the likeliest tokens, at most `length`, up to [EOS].

    among: for each text the sentences that may answer, of any length: their trie masks all else. answers: those of
    so many, the likeliest first. options: beam, and of `search`, for 64 texts at a time."""
    network, tokenizer, out = made.network, made.tokenizer, []
    tree, sets = None, {id(some): some for some in among or ()}
    if among:
        tree = trie(tokenizer, list(sets.values())).to(network.device)
        length = len(tree.widths)

    def read(words, level, past, weights):
        return network.decode_step(words, past, weights=weights)

    options = {"beam": answers, "special": tokenizer.special, "vocabulary": len(tokenizer), "trie": tree, **options}
    for at in range(0, len(texts), CHUNK):
        part = texts[at : at + CHUNK]
        source = torch.from_numpy(tokenizer.encode(part, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(begun(text, turn)) for text in part])).to(network.device)
        last = (given != PAD).sum(1, keepdim=True) - 1
        past = network(source, given.scatter(1, last, PAD)[:, :-1], logits=False).cache  # the last word comes first
        word = given.gather(1, last)[:, 0]
        start = [list(sets).index(id(some)) for some in among[at : at + CHUNK]] if among else word
        start = torch.as_tensor(start, device=word.device)
        steps = write_words(read, word, start, past, length, **options)
        paths, scores = best_paths(steps, answers).tolist(), steps[-1].scores[:, :answers].tolist()
        out += [[words for path, score in zip(*row, strict=True) if score > -np.inf for words in tokenizer.decode(path)]
                for row in zip(paths, scores, strict=True)]  # fmt: skip
    return out


@torch.no_grad()
def fill(network: Network, source: Features, length: int = 12, **options: object) -> Tensor:
    """The span that [MASK] stands for in each item's text -> token ids (B, length), 0 after the end.

    For a text that is [MASK] alone it is a caption. options: of `search`."""
    decoder, given = network.text_decoder, torch.full_like(source.text[:, 0], BOS)
    source_read, first = decoder.write(network.items, source, given[:, None][:, :0])

    def read(words, level, past, weights):
        return decoder.decode_step(network.items, words, past, first + level, weights=weights)

    vocabulary = network.items.tokens.num_embeddings
    steps = write_words(read, given, given, source_read.cache, length, len(SPECIAL), vocabulary, **options)
    words = best_paths(steps)[:, 0]
    return nn.functional.pad(words.masked_fill(words == EOS, PAD), (0, length - words.shape[1]))


def exact_scores(decoder: Any, state: Tensor) -> Tensor:
    """Log-likelihood of all items: states (B, D) -> (B, N). The beam is as wide as the tree."""
    tree = decoder.built_tree
    n, rows = len(tree.leaf), max(1, MAX_PREFIXES // prod(tree.widths[:-1]))
    return torch.cat([generate(decoder, part, n, beam=len(tree.item)).table(n) for part in state.split(rows)])


@torch.no_grad()
def item_scores(network: Network, state: Tensor, items: Tensor, method: str, cold_boost: float = 0.0) -> Tensor:
    """Log-probabilities (B, N), "exact" or of the dense head. cold_boost: added to cold items'."""
    scores = exact_scores(network.digits, state) if method == "exact" else network.score(state, items).log_softmax(-1)
    return scores + cold_boost * (network.codes < 0)


@torch.no_grad()
def best_items(
    network: Network, state: Tensor, items: Tensor, k: int, method: str, *, allowed: Tensor, beam: int = 50,
    cold_boost: float = 0.0,
) -> Generated:  # fmt: skip
    """The k best allowed (B, N) of items (N, D), by any of METHODS: states (B, D).

    "hybrid" is the dense head's order of what the beam finds and of cold items, whose digits no event has taught. A row
    with fewer allowed items ends in -1 at -inf. cold_boost: of `item_scores`; for "generated", `DigitDecoder.boosted`.
    """
    choose("method", method, METHODS)
    if method == "generated":
        digits = network.digits.boosted(network.codes < 0, cold_boost) if cold_boost else network.digits
        return generate(digits, state, k, beam=beam, allowed=allowed, short=True)
    if method == "hybrid":
        widest = min(max(beam, k), len(items))
        found = generate(network.digits, state, widest, beam=beam, allowed=allowed, short=True)
        allowed = (found.table(len(items)) > -torch.inf) | (allowed & (network.codes < 0))
    scores = item_scores(network, state, items, method, cold_boost)
    best = scores.masked_fill(~allowed, -torch.inf).topk(k)
    return Generated.of(best.indices, best.values)


@typed
class Scorer:
    """scores(users) -> (B, N), the form that `evaluate` takes.

    context: of targets. fitted_on: data and split. drop: modalities that no item has. beam, cold_boost: of
    `best_items`. Generated and hybrid lists hold what `users.allowed()` says; the rest is closed in the tree."""

    def __init__(
        self, network: Network, context: Callable[[Targets], Context], method: str = "dense", *,
        fitted_on: tuple[Dataset | None, Split | None] = (None, None), beam: int = 50, drop: Sequence[str] = (),
        cold_boost: float = 0.0,
    ):  # fmt: skip
        choose("method", method, METHODS)
        self.network, self.context, self.method, self.fitted_on = network, context, method, fitted_on
        self.name = f"m6rec {method}" + (f" without {' and '.join(drop)}" if drop else "")
        self.beam, self.cold_boost = beam, cold_boost
        with torch.no_grad():
            self.items = network.encode_items(drop=drop).vectors
        self.longest = beam if method in ("generated", "hybrid") else len(self.items)  # of its lists

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-inf for what generated and hybrid lists, of up to `beam` items, do not hold."""
        network, items, n = self.network, self.items, len(self.items)
        state = network.fusion(self.context(users).to(items.device), items).state[:, -1]
        if self.method in ("dense", "exact"):
            return item_scores(network, state, items, self.method, self.cold_boost)
        own = {"allowed": torch.from_numpy(users.allowed()).to(state.device), "cold_boost": self.cold_boost}
        return best_items(network, state, items, min(self.beam, n), self.method, beam=self.beam, **own).table(n)


class SegmentCache:
    """States (L, D) of the `capacity` latest segments after `local_layers` layers; never those of other weights."""

    def __init__(self, network: TextTransformer, local_layers: int, capacity: int = 4096):
        self.network, self.local_layers, self.capacity = network, local_layers, capacity
        self.hits = self.misses = 0
        self.version, self._writes = "", None
        self._states: dict[tuple[str, bytes], Tensor] = {}  # by version and content, the least recent first

    def __len__(self) -> int:
        return len(self._states)

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Segments (n, L) -> states (n, L, D)."""
        if self.network.training:
            raise InputError("the network is in training mode, and dropout would be kept: call network.eval() first.")
        # PyTorch counts all writes to weights but those through `.data`.
        writes = [(id(w), w.data_ptr(), w._version) for w in self.network.parameters()]
        if writes != self._writes:
            self._writes, self.version = writes, version(self.network)
        keys = [(self.version, row.tobytes()) for row in tokens.cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._states}
        if (distinct := len(set(keys))) > self.capacity:
            raise InputError(f"one request has {distinct} segments, and the cache holds {self.capacity}: enlarge it.")
        self.hits, self.misses = self.hits + len(keys) - len(new), self.misses + len(new)
        if new:
            computed = self.network.local(tokens[list(new.values())], self.local_layers)
            self._states |= {key: state.clone() for key, state in zip(new, computed, strict=True)}
        for key in keys:
            self._states[key] = self._states.pop(key)
        for key in [*self._states][: -self.capacity]:
            del self._states[key]
        return torch.stack([self._states[key] for key in keys])


@torch.no_grad()
def score(cache: SegmentCache, source: Tensor, candidates: Tensor) -> Tensor:
    """One request: source (S, L), candidates (C, L) -> logits (C,). Only the joint layers are run."""
    segments = torch.cat((source, candidates)).to(cache.network.device)
    states = cache.states(segments).unsqueeze(0)  # (1, S + C, L, D)
    *_, last = cache.network.joint(states, (segments != PAD).unsqueeze(0), len(source), cache.local_layers)
    return last[0]
