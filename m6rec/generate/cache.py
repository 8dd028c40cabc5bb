"""Late interaction, served: what a segment is after the layers alone is computed once and kept.

The key is a segment's content and the model's version, so that a state of other weights is never used. Old segments
make room for new ones: the memory is fixed when the cache is made.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from m6rec.data.ratings import Windows
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.model.segments import SegmentNetwork
from m6rec.train.checkpoint import load_tensors, version


class Use(NamedTuple):
    """What became of all the segments that were asked for."""

    hits: int
    misses: int
    evicted: int
    held: int
    bytes: int  # of the states, whether the places are taken or not

    @property
    def hit_rate(self) -> float:
        """The share that was found."""
        return self.hits / max(1, self.hits + self.misses)


class SegmentCache:
    """States (L, D) of the `capacity` segments asked for most recently, after `local_layers` layers."""

    def __init__(self, network: SegmentNetwork, local_layers: int, *, length: int, capacity: int = 4096):
        if not 1 <= local_layers < network.depth:
            raise InputError(
                f"local_layers={local_layers} leaves nothing to cache or to run: take 1 to {network.depth - 1}."
            )
        if capacity < 1:
            raise InputError(f"capacity={capacity} holds nothing: give at least 1 segment, better some thousands.")
        self.network, self.local_layers, self.length, self.capacity = network, local_layers, length, capacity
        self._states = torch.zeros(capacity, length, network.segments.embedding_dim)  # all the memory there will be
        self._slots: OrderedDict[tuple[str, bytes], int] = OrderedDict()  # the least recent first
        self._hits = self._misses = self._evicted = 0
        self._held, self._parts = [], []  # the dictionaries of the network's modules
        self._seen: tuple[list, list] | None = None
        self.version = ""
        self._look()

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Segments of token ids (n, L) -> their states (n, L, D); only those that are not kept are computed."""
        if tokens.shape[1] != self.length:
            raise InputError(f"these segments have {tokens.shape[1]} tokens, and the cache keeps {self.length}.")
        if self.network.training:
            raise InputError("the network is in training mode, and dropout would be kept: call network.eval() first.")
        self._look()
        keys = [(self.version, row.tobytes()) for row in tokens.cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._slots}
        distinct = len(set(keys))
        if distinct > self.capacity:
            raise InputError(f"one request has {distinct} segments, and the cache holds {self.capacity}: enlarge it.")
        self._hits, self._misses = self._hits + len(keys) - len(new), self._misses + len(new)
        for key in keys:  # what this request needs is not what makes room
            if key in self._slots:
                self._slots.move_to_end(key)
        if new:
            computed = self.network.local(tokens[list(new.values())], self.local_layers)
            slots = [self._place(key) for key in new]
            self._states[slots] = computed.cpu()
        return self._states[[self._slots[key] for key in keys]].to(tokens.device)

    def _place(self, key: tuple[str, bytes]) -> int:
        if len(self._slots) < self.capacity:
            slot = len(self._slots)
        else:
            slot = self._slots.popitem(last=False)[1]
            self._evicted += 1
        self._slots[key] = slot
        return slot

    def _look(self) -> None:
        """Take a new version where a weight or a module moved. Every request asks, so it must take no time.

        PyTorch counts every write to a tensor, but for one through `.data`: nobody writes so here.
        """
        if self._snapshot() != self._seen:
            modules = list(self.network.modules())
            self._held, self._parts = [m._parameters for m in modules], [m._modules for m in modules]
            self._seen, self.version = self._snapshot(), f"{version(self.network)}-{self.local_layers}"

    def _snapshot(self) -> tuple[list, list]:
        weights = [(id(p), p.data_ptr(), p._version) for held in self._held for p in held.values() if p is not None]
        return weights, [id(part) for parts in self._parts for part in parts.values()]

    @property
    def use(self) -> Use:
        """Hits, misses, and what is held."""
        return Use(self._hits, self._misses, self._evicted, len(self._slots), self._states.nbytes)

    def save(self, file: Path) -> None:
        """Keep what is held of this version in a safetensors file, the least recent first."""
        kept = [(key, slot) for key, slot in self._slots.items() if key[0] == self.version]
        tokens = torch.tensor([list(memoryview(key[1]).cast("q")) for key, _ in kept], dtype=torch.long)
        tensors = {"tokens": tokens.reshape(-1, self.length), "states": self._states[[slot for _, slot in kept]]}
        save_file(tensors, file, metadata={"version": self.version})

    def load(self, file: Path) -> None:
        """Take over what `save` kept. `InputError` where it came from another version of the model."""
        tensors = load_tensors(file)
        with safe_open(file, "pt") as opened:
            made = (opened.metadata() or {}).get("version")
        self._look()
        if made != self.version or set(tensors) != {"tokens", "states"}:
            raise InputError(
                f"{file} holds states of model version {made}, and this one is {self.version}: "
                "leave it out and let the cache fill itself."
            )
        room = slice(-self.capacity, None)
        for tokens, states in zip(tensors["tokens"][room], tensors["states"][room], strict=True):
            key = (self.version, tokens.numpy().tobytes())
            if key not in self._slots:
                self._states[self._place(key)] = states


@torch.no_grad()
def score(cache: SegmentCache, source: Tensor, candidates: Tensor) -> Tensor:
    """One request: source (S, L) and candidates (C, L) token ids -> logits (C,), equal to the network's own.

    The states of all segments come from the cache; only the layers in which they meet are run.
    """
    segments = torch.cat((source, candidates))
    states = cache.states(segments).unsqueeze(0)  # (1, S + C, L, D)
    *_, last = cache.network.joint(states, (segments != PAD).unsqueeze(0), len(source), cache.local_layers)
    return last.logits[0]


@torch.no_grad()
def largest_difference(network: SegmentNetwork, windows: Windows, *, local_layers: int) -> float:
    """Between any logit of the training path and of serving, where the states are computed and where they are found."""
    n, length = sum(part.shape[0] * part.shape[1] for part in windows[:2]), windows.source.shape[2]
    cache, plain = SegmentCache(network, local_layers, length=length, capacity=n), network(windows, local_layers)
    worst = 0.0
    for _ in range(2):
        served = [score(cache, source, some) for source, some in zip(windows.source, windows.candidates, strict=True)]
        worst = max(worst, float((torch.stack(served) - plain).abs().max()))
    return worst
