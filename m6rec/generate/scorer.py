"""Networks that rank, by `Scorer`, and late interaction that is served, by `SegmentCache`."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.data.dataset import Targets
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.generate.beam import Generated, generate
from m6rec.model.network import Network, TextTransformer
from m6rec.model.tree import DigitDecoder

METHODS = ("generated", "dense", "exact", "hybrid")
MAX_PREFIXES = 2**14  # stepped at a time: about 100 MB at a width of 64


def exact_scores(decoder: DigitDecoder, state: Tensor) -> Tensor:
    """Log-likelihood of all items: states (B, D) -> (B, N). The beam is as wide as the tree."""
    n, leaves, prefixes = len(decoder.built_tree.leaf), len(decoder.item), math.prod(decoder.widths[:-1])
    parts = state.split(max(1, MAX_PREFIXES // prefixes))
    return torch.cat([generate(decoder, part, n, beam=leaves).table(n) for part in parts])


def check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f'method="{method}" is unknown: take one of {", ".join(METHODS)}.')


@torch.no_grad()
def item_scores(network: Network, state: Tensor, items: Tensor, method: str, cold_boost: float = 0.0) -> Tensor:
    """Log-probabilities (B, N) of all items, "exact" or of the dense head. cold_boost: added to those of cold items."""
    scores = exact_scores(network.digits, state) if method == "exact" else network.score(state, items).log_softmax(-1)
    return scores + cold_boost * (network.codes < 0)


@torch.no_grad()
def best_items(
    network: Network, state: Tensor, items: Tensor, k: int, method: str, *, allowed: Tensor, beam: int = 50,
    cold_boost: float = 0.0,
) -> Generated:  # fmt: skip
    """The k best allowed (B, N) of items (N, D), by any of METHODS: states (B, D).

    "hybrid" is the dense head's order of what the beam finds and of the cold items, whose digits no event has taught.
    A row with fewer allowed items ends in -1 at -inf. cold_boost: as in `item_scores`, of all methods but "generated".
    """
    check_method(method)
    if method == "generated":
        return generate(network.digits, state, k, beam=beam, allowed=allowed, short=True)
    if method == "hybrid":
        widest = min(max(beam, k), len(items))
        found = generate(network.digits, state, widest, beam=beam, allowed=allowed, short=True)
        allowed = (found.table(len(items)) > -torch.inf) | (allowed & (network.codes < 0))
    scores = item_scores(network, state, items, method, cold_boost)
    best = scores.masked_fill(~allowed, -torch.inf).topk(k)
    return Generated.of(best.indices, best.values)


class Scorer:
    """scores(users) -> (B, N), the form that `evaluate` takes.

    context: gives the contexts of targets. drop: modalities that no item has. mask_seen: generated and hybrid lists
    hold nothing that was seen, for data without repeats; for other methods `evaluate` masks that. beam, cold_boost: of
    `best_items`.
    """

    def __init__(
        self, network: Network, context: Callable[[Targets], Context], method: str = "dense", *,
        mask_seen: bool = True, beam: int = 50, drop: Sequence[str] = (), cold_boost: float = 0.0,
    ):  # fmt: skip
        check_method(method)
        self.network, self.context, self.method, self.mask_seen = network, context, method, mask_seen
        self.name = f"m6rec {method}" + (f" without {' and '.join(drop)}" if drop else "")
        self.beam, self.cold_boost = beam, cold_boost
        with torch.no_grad():
            self.items = network.encode_items(drop=tuple(drop)).vectors
        self.longest = beam if method in ("generated", "hybrid") else len(self.items)  # of its lists

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-inf for all that generated and hybrid lists, of up to `beam` items, do not hold."""
        network, items, n = self.network, self.items, len(self.items)
        state = network.fusion(self.context(users).to(items.device), items).state[:, -1]
        if self.method in ("dense", "exact"):
            return item_scores(network, state, items, self.method, self.cold_boost)
        allowed = torch.ones(len(users), n, dtype=torch.bool)
        if self.mask_seen:
            allowed[users.seen().nonzero()] = False
        options = {"allowed": allowed.to(state.device), "beam": self.beam, "cold_boost": self.cold_boost}
        return best_items(network, state, items, min(self.longest, n), self.method, **options).table(n)


class SegmentCache:
    """States (L, D) of the `capacity` segments asked for most recently, after `local_layers` layers.

    A key is a segment's content and the model's version: states of other weights are never used.
    """

    def __init__(self, network: TextTransformer, local_layers: int, capacity: int = 4096):
        self.network, self.local_layers, self.capacity = network, local_layers, capacity
        self.hits = self.misses = 0
        self._states: OrderedDict[tuple[int, bytes], Tensor] = OrderedDict()  # the least recent first

    def __len__(self) -> int:
        return len(self._states)

    @property
    def version(self) -> int:
        """Of the network's weights. PyTorch counts all writes to them but those through `.data`."""
        return hash(tuple((id(w), w.data_ptr(), w._version) for w in self.network.parameters()))

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Segments (n, L) -> states (n, L, D)."""
        if self.network.training:
            raise InputError("the network is in training mode, and dropout would be kept: call network.eval() first.")
        version = self.version
        keys = [(version, row.tobytes()) for row in tokens.cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._states}
        if (distinct := len(set(keys))) > self.capacity:
            raise InputError(f"one request has {distinct} segments, and the cache holds {self.capacity}: enlarge it.")
        self.hits, self.misses = self.hits + len(keys) - len(new), self.misses + len(new)
        if new:
            computed = self.network.local(tokens[list(new.values())], self.local_layers)
            self._states |= {key: state.clone() for key, state in zip(new, computed, strict=True)}
        for key in keys:
            self._states.move_to_end(key)
        for _ in range(len(self._states) - self.capacity):
            self._states.popitem(last=False)
        return torch.stack([self._states[key] for key in keys])


@torch.no_grad()
def score(cache: SegmentCache, source: Tensor, candidates: Tensor) -> Tensor:
    """One request: source (S, L), candidates (C, L) -> logits (C,). Only the joint layers are run."""
    segments = torch.cat((source, candidates)).to(cache.network.device)
    states = cache.states(segments).unsqueeze(0)  # (1, S + C, L, D)
    *_, last = cache.network.joint(states, (segments != PAD).unsqueeze(0), len(source), cache.local_layers)
    return last[0]
