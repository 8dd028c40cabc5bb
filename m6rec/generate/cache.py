"""Late interaction, served: a segment's states after the local layers are computed once and cached.

The key is a segment's content and the model's version, so a state of other weights is never used.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.model.network import TextTransformer
from m6rec.train.fit import version


class Use(NamedTuple):
    """Counts over all segments that were asked for."""

    hits: int
    misses: int
    evicted: int
    held: int
    bytes: int  # of the states of a full cache

    @property
    def hit_rate(self) -> float:
        """The share that was found."""
        return self.hits / max(1, self.hits + self.misses)


class SegmentCache:
    """States (L, D) of the `capacity` segments asked for most recently, after `local_layers` layers."""

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
        """Segments of token ids (n, L) -> their states (n, L, D); only those that are not cached are computed."""
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
        """Take a new version where a weight moved: PyTorch counts all writes but those through `.data`."""
        snapshot = [(id(weight), weight.data_ptr(), weight._version) for weight in self.network.parameters()]
        if self._snapshot != snapshot:
            self._snapshot, self.version = snapshot, f"{version(self.network)}-{self.local_layers}"

    @property
    def use(self) -> Use:
        """Hits, misses, and what is held."""
        size = self.capacity * self.length * self.network.segments.weight[0].nbytes
        held = len(self._states)
        return Use(self._hits, self._misses, self._misses - held, held, size)


@torch.no_grad()
def score(cache: SegmentCache, source: Tensor, candidates: Tensor) -> Tensor:
    """One request: source (S, L) and candidates (C, L) token ids -> logits (C,), equal to the network's own.

    The states of all segments come from the cache; only the joint layers are run.
    """
    segments = torch.cat((source, candidates)).to(cache.network.device)
    states = cache.states(segments).unsqueeze(0)  # (1, S + C, L, D)
    *_, last = cache.network.joint(states, (segments != PAD).unsqueeze(0), len(source), cache.local_layers)
    return last[0]
