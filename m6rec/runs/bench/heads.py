"""Digit heads that differ in one thing at a time: trees, vectors, teachers, what is looked at, digits at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn
from torch.nn.utils import parametrize

from m6rec.baselines.contentknn import tfidf
from m6rec.baselines.tiger import semantic_ids
from m6rec.generate.exact import exact_scores
from m6rec.model import masks
from m6rec.model.attention import KVCache
from m6rec.model.heads import DigitDecoder
from m6rec.model.tree import Tree, build_tree
from m6rec.recommender import M6Rec
from m6rec.train import losses, softmax, whole

CHANNELS = 32  # of the words' TF-IDF
PARALLEL, CODES = 16, 32  # digits that are said all at once, and the codes of each


class Read(NamedTuple):
    """Positions as the frozen trunk reads them: n of some windows' W."""

    state: Tensor  # (n, D)
    target: Tensor  # (n,) item codes
    events: Tensor  # (W, 1 + T, D) what the trunk was given: the start token and the events
    window: Tensor  # (n,) of each position
    position: Tensor  # (n,) the last event that it may see


class Head(NamedTuple):
    """A way to say items: what learns, what teaches it, and how it scores every item."""

    module: nn.Module
    losses: Callable[[nn.Module, Read], dict[str, Tensor]]
    scores: Callable[[nn.Module, Read], Tensor]  # -> (n, N)
    teacher: float = 1.0  # weight of the dense head's teaching


class Shared(nn.Module):
    """One table of codes for a level, whatever the digits before: (W, ...) -> (nodes above · W, ...)."""

    def __init__(self, above: int):
        super().__init__()
        self.above = above

    def forward(self, codes: Tensor) -> Tensor:
        """The table once for each node above."""
        return codes.repeat(self.above, *[1] * (codes.dim() - 1))

    def right_inverse(self, nodes: Tensor) -> Tensor:
        """The mean of what the nodes hold, empty ones included."""
        return nodes.unflatten(0, (self.above, -1)).mean(0)


class PrefixDecoder(DigitDecoder):
    """Digits that look, besides the state, at the events before it, as they came into the trunk."""

    read: Read  # what `decode` looks at
    before: list[KVCache]  # of each block: the events that `step` begins with, for one state

    def within(self, read: Read) -> PrefixDecoder:
        """The same decoder over these positions."""
        other = copy.copy(self)
        other.read = read
        return other

    def decode(self, x: Tensor) -> Tensor:
        """The digits so far, and before them the events that each position may see: (n, G, D) -> (n, G, D)."""
        _, _, events, window, position = self.read
        (count, length, width), digits = events.shape, x.shape[1]
        cell, at = window * length + position, torch.arange(length, device=x.device)
        grid = x.new_zeros(count * length, digits, width).index_copy(0, cell, x)
        x, owner = grid.view(count, -1, width), at.repeat_interleave(digits)  # (W, L·G, D), (L·G,)
        own = (owner[:, None] == owner) & masks.causal(len(owner), x.device)
        mask, here = (
            torch.cat((at <= owner[:, None], own), 1),
            owner + torch.arange(digits, device=x.device).repeat(length),
        )
        for block in self.blocks:
            memory = block.prefill(events, at).extend(block.prefill(x, here))
            x = block(x, memory, mask, here).out
        return x.view(-1, digits, width)[cell]

    def step(
        self, state: Tensor, level: int, parent: Tensor, cache: list[KVCache] | None
    ) -> tuple[Tensor, list[KVCache]]:
        """As the decoder's own, but it begins with the events."""
        return super().step(state, level, parent, cache or self.before)

    def scores(self, read: Read) -> Tensor:
        """One position after the other, for each has events of its own: -> (n, N)."""
        rows = []
        for state, window, position in zip(read.state, read.window, read.position.tolist(), strict=True):
            events = read.events[window, None, : position + 1]
            places = torch.arange(-position, 1, device=events.device)  # the last event stands where the state does
            one = copy.copy(self)
            one.before = [block.prefill(events, places) for block in self.blocks]
            rows.append(exact_scores(one, state[None]))
        return torch.cat(rows)


class ParallelDigits(nn.Module):
    """Digits of product quantisation (Jégou et al. 2011), said from the state alone and all at once.

    Untaught, an item's score is the state's product with its quantised vector. Source: Hou et al. 2025 (RPG).
    """

    def __init__(self, vectors: np.ndarray, seed: int):
        super().__init__()
        width = vectors.shape[1]
        found = [
            KMeans(min(CODES, len(part)), n_init=1, random_state=seed).fit(part)
            for part in np.split(vectors, math.gcd(PARALLEL, width), axis=1)
        ]
        digits = np.stack([clusters.labels_ for clusters in found], 1)
        self.register_buffer("digits", torch.from_numpy(digits).long())  # (N, G)
        self.codes = nn.Parameter(torch.from_numpy(np.stack([clusters.cluster_centers_ for clusters in found])))
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, state: Tensor) -> Tensor:
        """Log-probabilities of every code of every digit: (B, D) -> (B, G, W)."""
        parts = (state + self.project(state)).unflatten(1, (len(self.codes), -1))
        return torch.einsum("bgd,gwd->bgw", parts, self.codes).log_softmax(-1)

    def scores(self, state: Tensor) -> Tensor:
        """Log-likelihood of all items: (B, D) -> (B, N)."""
        said = self(state)
        return sum(said[:, level, digit] for level, digit in enumerate(self.digits.unbind(1)))


def heads(model: M6Rec, seed: int = 0) -> dict[str, Callable[[], Head]]:
    """What makes each of the heads that are compared, over a model's item vectors; the first is of m6rec's own form.

    All but the parallel ones have three digits; of residual k-means, the third tells apart what shares the other two.
    """
    vectors, widths = model.item_vectors().cpu().numpy(), model.network.digits.widths

    @cache
    def tree(over: str) -> Tree:
        if over == "residual":
            return Tree.of(semantic_ids(vectors, math.ceil(len(vectors) ** 0.5), seed, levels=2))
        if over == "words":
            words = TruncatedSVD(CHANNELS, random_state=seed).fit_transform(tfidf(model.data))
            return build_tree(words, widths, seed)
        chance = np.random.default_rng(seed).normal(size=vectors.shape)
        return build_tree({"learnt": vectors, "chance": chance}[over], widths, seed)

    def nodes(over: str = "learnt", teacher: float = 1.0) -> Head:
        return Head(_planted(model, DigitDecoder, tree(over)), partial(_teach, model), _exact, teacher)

    def shared(over: str = "learnt", teacher: float = 1.0) -> Head:
        head = nodes(over, teacher)
        return head._replace(module=_share(head.module))

    def prefix() -> Head:
        decoder = _planted(model, PrefixDecoder, tree("learnt"))
        return Head(decoder, lambda head, read: _teach(model, head.within(read), read), PrefixDecoder.scores)

    def parallel(taught: Callable) -> Head:
        module = ParallelDigits(vectors, seed).to(model.device)
        return Head(module, partial(taught, model), lambda head, read: head.scores(read.state))

    return {
        "nodes": nodes,
        "nodes_no_teacher": partial(nodes, teacher=0.0),
        "nodes_whole_prefix": prefix,
        "nodes_of_words": partial(nodes, "words"),
        "nodes_at_random": partial(nodes, "chance"),
        "nodes_residual": partial(nodes, "residual"),
        "shared": shared,
        "shared_residual": partial(shared, "residual"),
        "shared_residual_no_teacher": partial(shared, "residual", 0.0),
        "parallel": partial(parallel, _teach_parallel),
        "parallel_by_item": partial(parallel, _teach_items),
    }


def _planted(model: M6Rec, kind: type[DigitDecoder], tree: Tree) -> DigitDecoder:
    """A decoder over a tree, its blocks as the model's own."""
    vectors = model.item_vectors()
    decoder = kind(model.config, tree.widths, len(vectors)).to(model.device)
    decoder.blocks.load_state_dict(model.network.digits.blocks.state_dict())
    decoder.init_from_tree(tree, vectors)
    return decoder


def _share(decoder: DigitDecoder) -> DigitDecoder:
    """The same decoder with one vocabulary for a level, which stands where the nodes of a code are on average."""
    for level in range(len(decoder.widths)):
        for table in (decoder.nodes, decoder.bias):
            shared = Shared(math.prod(decoder.widths[:level]))
            parametrize.register_parametrization(table, str(level), shared)
    return decoder


def _exact(head: DigitDecoder, read: Read) -> Tensor:
    return exact_scores(head, read.state)


def _teach(model: M6Rec, decoder: DigitDecoder, read: Read) -> dict[str, Tensor]:
    """What fine-tuning teaches the digits (`train.losses.digits`), from states that do not move."""
    codes = model.network.codes
    found = whole.Predicted(read.state, model.item_vectors(), read.target, codes >= 0)
    taught = SimpleNamespace(digits=decoder, codes=codes)
    path, teacher = losses.digits(taught, read.state, read.target, whole.subtrees(decoder.tree, found))
    return {"digits": path, "teacher": teacher}


def _teach_parallel(model: M6Rec, head: ParallelDigits, read: Read) -> dict[str, Tensor]:
    """The same of parallel digits: the true codes, and the dense head's distribution summed over each code."""
    said, mass = head(read.state), _dense(model, read)
    path = -said.gather(2, head.digits[read.target][..., None]).squeeze(2).mean(0).sum()
    each = torch.stack([mass @ F.one_hot(digit, said.shape[2]).to(mass) for digit in head.digits.unbind(1)], 1)
    return {"digits": path, "teacher": -(each * said).sum(2).mean(0).sum()}


def _teach_items(model: M6Rec, head: ParallelDigits, read: Read) -> dict[str, Tensor]:
    """Parallel digits by the items that they name: the scores of all items are a softmax of their own."""
    said = head.scores(read.state).log_softmax(1)
    return {"digits": F.nll_loss(said, read.target), "teacher": -(_dense(model, read) * said).sum(1).mean()}


@torch.no_grad()
def _dense(model: M6Rec, read: Read) -> Tensor:
    """The dense head's distribution over the items that are answers: (n, N)."""
    items = model.item_vectors()
    return torch.addmm(softmax.close(model.network.codes >= 0, items), read.state, items.T).softmax(1)
