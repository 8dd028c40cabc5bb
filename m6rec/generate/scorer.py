"""A network as something that can be ranked: the dense head, the beam's or hybrid lists, or the exact digit scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.data.splits import Targets
from m6rec.errors import InputError
from m6rec.generate.beam import Generated, generate
from m6rec.generate.exact import exact_scores
from m6rec.generate.hybrid import hybrid
from m6rec.model.network import Network

METHODS = ("generated", "dense", "exact", "hybrid")


def item_scores(network: Network, state: Tensor, items: Tensor, method: str) -> Tensor:
    """Log-probability of every item by one of the two heads: states (B, D), item vectors (N, D) -> (B, N)."""
    if method == "dense":
        return network.score(state, items).log_softmax(-1)
    if method == "exact":
        return exact_scores(network.digits, state)
    raise InputError(f'method="{method}" is unknown: take one of {", ".join(METHODS)}.')


@torch.no_grad()
def best_items(
    network: Network,
    state: Tensor,
    items: Tensor,
    k: int,
    method: str,
    *,
    allowed: Tensor,
    beam: int = 50,
    lift: float = 0.0,
    short: bool = False,
) -> Generated:
    """The k best allowed items by any of METHODS: states (B, D), item vectors (N, D), allowed (B, N) -> (B, K).

    lift: as in `hybrid`; short: as in `generate`.
    """
    if method == "generated":
        return generate(network.digits, state, k, beam=beam, allowed=allowed, short=short)
    if method == "hybrid":
        return hybrid(network, state, items, k, beam=beam, allowed=allowed, lift=lift, short=short)
    best = item_scores(network, state, items, method).masked_fill(~allowed, float("-inf")).topk(k)
    return Generated.of(best.indices, best.values)


class Scorer:
    """scores(users) -> (B, N), the form that `evaluate` takes. `unmasked` is the same one without the mask.

    context: gives the contexts of targets. mute: modalities that no item has. lift: of hybrid lists, see `hybrid`.
    mask_seen: the beam's trie mask closes what was seen (hybrid: too); the other methods score every item, and leave
    the mask to `evaluate`. So what is chosen a second time cannot be generated, and `evaluate` never masks the truth:
    rank data with repeats, mask_seen=False.
    """

    def __init__(
        self,
        network: Network,
        context: Callable[[Targets], Context],
        method: str = "dense",
        *,
        mask_seen: bool = True,
        beam: int = 50,
        mute: tuple[str, ...] = (),
        lift: float = 0.0,
    ):
        if method not in METHODS:
            raise InputError(f'method="{method}" is unknown: take one of {", ".join(METHODS)}.')
        self.network, self.context, self.method, self.mask_seen, self.beam = network, context, method, mask_seen, beam
        self.mute, self.lift = mute, lift
        self.name = f"m6rec {method}" + (f" without {' and '.join(mute)}" if mute else "")
        with torch.no_grad():
            self.items = network.encode_items(mute=mute).vectors

    @property
    def unmasked(self) -> Scorer:
        """The same network and method, nothing masked."""
        return Scorer(
            self.network, self.context, self.method, mask_seen=False, beam=self.beam, mute=self.mute, lift=self.lift
        )

    @property
    def longest(self) -> int:
        """The length of its lists: no figure at a larger k says anything."""
        return self.beam if self.method in ("generated", "hybrid") else len(self.items)

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-> (B, N). Generated and hybrid: -inf for all that the lists of up to `beam` items do not hold."""
        state = self.network.fuse(self.context(users).to(self.items.device), self.items).state[:, -1]
        if self.method in ("dense", "exact"):
            return item_scores(self.network, state, self.items, self.method)
        allowed = torch.ones(len(users), len(self.items), dtype=torch.bool)
        if self.mask_seen:
            rows, columns = users.seen().nonzero()
            allowed[rows, columns] = False
        found = best_items(
            self.network,
            state,
            self.items,
            min(self.beam, len(self.items)),
            self.method,
            allowed=allowed.to(state.device),
            beam=self.beam,
            lift=self.lift,
            short=True,  # whoever has had nearly everything shortens nobody else's list
        )
        listed = found.items >= 0
        scores = torch.full(allowed.shape, float("-inf"), device=state.device)
        scores[listed.nonzero()[:, 0], found.items[listed]] = found.scores[listed]
        return scores
