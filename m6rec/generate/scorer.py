"""Networks that rank, by `Scorer`, and late interaction that is served, by `SegmentCache`."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.data.dataset import Targets
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.generate.beam import Generated, Step, generate
from m6rec.model.attention import KVCache
from m6rec.model.network import DigitDecoder, Network, TextTransformer
from m6rec.train.fit import version

METHODS = ("generated", "dense", "exact", "hybrid")
MAX_PREFIXES = 2**14  # stepped at a time: about 100 MB at a width of 64


@torch.no_grad()
def exact_scores(decoder: DigitDecoder, state: Tensor) -> Tensor:
    """Log-likelihood of all items: states (B, D) -> (B, N). Every prefix is computed once."""
    tree, parts = decoder.built_tree, []
    for part in state.split(max(1, MAX_PREFIXES // math.prod(decoder.widths[:-1]))):
        scores, cache = part.new_zeros(len(part), 1), None  # (b, nodes)
        for level, width in enumerate(tree.widths):
            if level:
                cache = [KVCache(*(x.repeat_interleave(tree.widths[level - 1], 0) for x in past)) for past in cache]
            nodes = scores.shape[1]
            parents = torch.arange(nodes, device=part.device).repeat(len(part))
            logits, run = decoder.step(part.repeat_interleave(nodes, 0), level, parents, cache)
            cache = run.caches
            # Below a prefix without items leaves stay at -inf rather than NaN.
            log_probs = logits.log_softmax(-1).nan_to_num(nan=float("-inf"))
            scores = (scores[..., None] + log_probs.view(len(part), nodes, width)).flatten(1)
        parts.append(scores[:, tree.leaf])
    return torch.cat(parts)


@torch.no_grad()
def hybrid(
    network: Network,
    state: Tensor,
    items: Tensor,
    k: int,
    *,
    allowed: Tensor | None = None,
    cold_boost: float = 0.0,
    **options: object,
) -> Generated:
    """The dense head's k best of what the beam finds and of the cold items: states (B, D), items (N, D).

    No event has taught cold items' digits. cold_boost: added to their log-probabilities. options: of `generate`.
    """
    cold = (network.codes < 0).nonzero().squeeze(1)
    trace: list[Step] = []
    generate(network.digits, state, k, allowed=allowed, trace=trace, **options)
    beam = Generated.of(network.digits.item[trace[-1].nodes], trace[-1].scores)
    pool = beam.table(len(items)) > float("-inf")
    pool[:, cold] = True if allowed is None else allowed[:, cold]
    scores = network.score(state, items).log_softmax(-1)
    scores[:, cold] += cold_boost
    best = scores.masked_fill(~pool, float("-inf")).topk(k)
    return Generated.of(best.indices, best.values)


def item_scores(network: Network, state: Tensor, items: Tensor, method: str) -> Tensor:
    """Log-probabilities (B, N) of all items, "dense" or "exact"."""
    if method == "exact":
        return exact_scores(network.digits, state)
    return network.score(state, items).log_softmax(-1)


def check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f'method="{method}" is unknown: take one of {", ".join(METHODS)}.')


@torch.no_grad()
def best_items(
    network: Network, state: Tensor, items: Tensor, k: int, method: str, *, allowed: Tensor, **options: object
) -> Generated:
    """The k best allowed (B, N) of items (N, D), by any of METHODS; options: of `generate` or `hybrid`."""
    check_method(method)
    if method == "generated":
        return generate(network.digits, state, k, allowed=allowed, **options)
    if method == "hybrid":
        return hybrid(network, state, items, k, allowed=allowed, **options)
    best = item_scores(network, state, items, method).masked_fill(~allowed, float("-inf")).topk(k)
    return Generated.of(best.indices, best.values)


class Scorer:
    """scores(users) -> (B, N), the form that `evaluate` takes.

    context: gives the contexts of targets. drop: modalities that no item has. mask_seen: generated and hybrid lists
    hold nothing that was seen, for data without repeats; for other methods `evaluate` masks that.
    """

    def __init__(
        self,
        network: Network,
        context: Callable[[Targets], Context],
        method: str = "dense",
        *,
        mask_seen: bool = True,
        beam: int = 50,
        drop: Sequence[str] = (),
        cold_boost: float = 0.0,
    ):
        check_method(method)
        self.network, self.context, self.method, self.mask_seen = network, context, method, mask_seen
        self.name = f"m6rec {method}" + (f" without {' and '.join(drop)}" if drop else "")
        self.options = {"beam": beam, **({"cold_boost": cold_boost} if method == "hybrid" else {})}
        with torch.no_grad():
            self.items = network.encode_items(drop=tuple(drop)).vectors
        self.longest = beam if method in ("generated", "hybrid") else len(self.items)  # of its lists

    @property
    def unmasked(self) -> "Scorer":
        other = copy.copy(self)
        other.mask_seen = False
        return other

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-inf for all that generated and hybrid lists, of up to `beam` items, do not hold."""
        state = self.network.fuse(self.context(users).to(self.items.device), self.items).state[:, -1]
        if self.method in ("dense", "exact"):
            return item_scores(self.network, state, self.items, self.method)
        allowed = torch.ones(len(users), len(self.items), dtype=torch.bool)
        if self.mask_seen:
            allowed[users.seen().nonzero()] = False
        # short: a user who has had nearly everything shortens nobody else's list
        options = {**self.options, "allowed": allowed.to(state.device), "short": True}
        k = min(self.longest, allowed.shape[1])
        return best_items(self.network, state, self.items, k, self.method, **options).table(allowed.shape[1])


class Use(NamedTuple):
    hits: int
    misses: int
    evicted: int
    held: int
    bytes: int  # of the states of a full cache

    @property
    def hit_rate(self) -> float:
        return self.hits / max(1, self.hits + self.misses)


class SegmentCache:
    """States (L, D) of the `capacity` segments asked for most recently, after `local_layers` layers.

    A key is a segment's content and the model's version: states of other weights are never used.
    """

    def __init__(self, network: TextTransformer, local_layers: int, *, length: int, capacity: int = 4096):
        if not 1 <= local_layers < network.depth:
            raise InputError(
                f"local_layers={local_layers} leaves nothing to cache or to run: take 1 to {network.depth - 1}."
            )
        if capacity < 1:
            raise InputError(f"capacity={capacity} holds nothing: give at least 1 segment, better some thousands.")
        self.network, self.local_layers, self.length, self.capacity = network, local_layers, length, capacity
        self._states: OrderedDict[tuple[str, bytes], Tensor] = OrderedDict()  # the least recent first
        self._hits = self._misses = 0
        self._snapshot = None
        self._update_version()

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Segments (n, L) -> states (n, L, D)."""
        if tokens.shape[1] != self.length:
            raise InputError(f"these segments have {tokens.shape[1]} tokens, and the cache keeps {self.length}.")
        if self.network.training:
            raise InputError("the network is in training mode, and dropout would be kept: call network.eval() first.")
        self._update_version()
        keys = [(self.version, row.tobytes()) for row in tokens.cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._states}
        if (distinct := len(set(keys))) > self.capacity:
            raise InputError(f"one request has {distinct} segments, and the cache holds {self.capacity}: enlarge it.")
        self._hits, self._misses = self._hits + len(keys) - len(new), self._misses + len(new)
        if new:
            computed = self.network.local(tokens[list(new.values())], self.local_layers)
            self._states |= {key: state.clone() for key, state in zip(new, computed, strict=True)}
        for key in keys:
            self._states.move_to_end(key)
        for _ in range(len(self._states) - self.capacity):
            self._states.popitem(last=False)
        return torch.stack([self._states[key] for key in keys])

    def _update_version(self) -> None:
        """PyTorch counts all writes to weights but those through `.data`."""
        snapshot = [(id(weight), weight.data_ptr(), weight._version) for weight in self.network.parameters()]
        if self._snapshot != snapshot:
            self._snapshot, self.version = snapshot, f"{version(self.network)}-{self.local_layers}"

    @property
    def use(self) -> Use:
        size = self.capacity * self.length * self.network.segments.weight[0].nbytes
        held = len(self._states)
        return Use(self._hits, self._misses, self._misses - held, held, size)


@torch.no_grad()
def score(cache: SegmentCache, source: Tensor, candidates: Tensor) -> Tensor:
    """One request: source (S, L), candidates (C, L) -> logits (C,). Only the joint layers are run."""
    segments = torch.cat((source, candidates)).to(cache.network.device)
    states = cache.states(segments).unsqueeze(0)  # (1, S + C, L, D)
    *_, last = cache.network.joint(states, (segments != PAD).unsqueeze(0), len(source), cache.local_layers)
    return last[0]
