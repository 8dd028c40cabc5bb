"""What makes digits as good as the dense head: digit heads over one frozen trunk, one thing changed at a time.

The trunk was pretrained alone, so that no head has shaped it. All heads read the same states in the same order, for as
long; what counts is their NDCG@10, every item scored exactly, over that of the trunk's own dense head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn
from torch.nn.utils import parametrize

from m6rec.baselines.contentknn import tfidf
from m6rec.baselines.tiger import semantic_ids
from m6rec.data.batches import training_batches
from m6rec.data.context import Context
from m6rec.data.splits import Targets
from m6rec.evaluate import evaluate
from m6rec.generate.exact import exact_scores
from m6rec.model import masks
from m6rec.model.attention import Memory
from m6rec.model.decoder import DigitDecoder
from m6rec.model.tree import Tree, grow
from m6rec.recommender import M6Rec
from m6rec.train import losses, softmax, whole
from m6rec.train.fit import Stage, fit

CHANNELS = 32  # of the words' TF-IDF
WINDOWS = 16  # of a teaching step
EPOCHS = 6  # of teaching
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


class Said(NamedTuple):
    """NDCG@10 of every person's list, (U,)."""

    untaught: np.ndarray
    taught: np.ndarray


class Shared(nn.Module):
    """One table of codes for a level, whatever the digits before: (W, ...) -> (nodes above · W, ...)."""

    def __init__(self, above: int):
        super().__init__()
        self.above = above

    def forward(self, codes: Tensor) -> Tensor:
        """The table once for each node above."""
        return codes.repeat(self.above, *[1] * (codes.dim() - 1))

    def right_inverse(self, nodes: Tensor) -> Tensor:
        """The table that is nearest to what the nodes hold."""
        return nodes.unflatten(0, (self.above, -1)).mean(0)


class PrefixDecoder(DigitDecoder):
    """Digits that look at all events so far, and not at the state alone: the autoregressive region of UniLM's mask."""

    read: Read  # the events that `teach` looks at
    before: list[Memory]  # of each block: the events that `step` begins with, for one state

    def look(self, x: Tensor) -> Tensor:
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
            memory = block.remember(events, at).extend(block.remember(x, here))
            x = block(x, memory, mask, here).out
        return x.view(-1, digits, width)[cell]

    def step(
        self, state: Tensor, level: int, parent: Tensor, cache: list[Memory] | None
    ) -> tuple[Tensor, list[Memory]]:
        """As the decoder's own, but it begins with the events."""
        return super().step(state, level, parent, cache or self.before)

    def scores(self, read: Read) -> Tensor:
        """One position after the other, for each has events of its own: -> (n, N)."""
        rows = []
        for state, window, position in zip(read.state, read.window, read.position.tolist(), strict=True):
            events = read.events[window, None, : position + 1]
            places = torch.arange(-position, 1, device=events.device)  # the last event stands where the state does
            self.before = [block.remember(events, places) for block in self.blocks]
            rows.append(exact_scores(self, state[None]))
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
            for part in np.split(vectors, min(PARALLEL, width), axis=1)
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


class Ranked:
    """A head of the frozen trunk as something that `evaluate` ranks."""

    def __init__(self, model: M6Rec, name: str, head: Head):
        self.model, self.name, self.head = model, name, head

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-> (B, N)"""
        nobody = torch.zeros(len(users), 1, dtype=torch.long)  # what came is not looked at
        read = _read(self.model, self.model.target_context(users), nobody)
        return self.head.scores(self.head.module, read)


def heads(model: M6Rec, seed: int = 0) -> dict[str, Head]:
    """The heads that are compared, over a model's item vectors; the first is m6rec's own.

    All but the parallel ones have three digits; of residual k-means, the third tells apart what shares the other two.
    InputError where no text has a word.
    """
    learnt, widths = model.item_vectors().cpu().numpy(), model.network.digits.widths
    words = TruncatedSVD(CHANNELS, random_state=seed).fit_transform(tfidf(model.data))
    chance = np.random.default_rng(seed).normal(size=learnt.shape)
    own, over_words, at_random = (grow(vectors, widths, seed) for vectors in (learnt, words, chance))
    residual = Tree.of(semantic_ids(learnt, math.ceil(len(learnt) ** 0.5), seed, levels=2))
    taught, spoken = partial(_teach, model), lambda head, read: exact_scores(head, read.state)
    planted, prefix = (partial(_planted, model, kind) for kind in (DigitDecoder, PrefixDecoder))
    return {
        "nodes": Head(planted(own), taught, spoken),
        "nodes_no_teacher": Head(planted(own), taught, spoken, teacher=0.0),
        "nodes_of_words": Head(planted(over_words), taught, spoken),
        "nodes_at_random": Head(planted(at_random), taught, spoken),
        "nodes_whole_prefix": Head(prefix(own), partial(_teach_prefix, model), PrefixDecoder.scores),
        "shared": Head(_share(planted(own)), taught, spoken),
        "shared_residual": Head(_share(planted(residual)), taught, spoken),
        "shared_residual_no_teacher": Head(_share(planted(residual)), taught, spoken, teacher=0.0),
        "parallel": Head(
            ParallelDigits(learnt, seed), partial(_teach_parallel, model), lambda head, read: head.scores(read.state)
        ),
    }


def said(
    model: M6Rec, names: Iterable[str] = (), epochs: int = EPOCHS, seed: int = 0, say: Callable[[str], Any] = print
) -> dict[str, Said]:
    """What each head's lists are worth to every person, untaught and after epochs of teaching; names: of some heads.

    model: pretrained, and not fine-tuned.
    """
    config = dataclasses.replace(model.config, seed=seed, validate_every=max(1, epochs))
    of = dict(length=config.history, batch=WINDOWS, rng=np.random.default_rng(seed))
    windows = training_batches(model.data, model.split, model.codes, **of)
    positions = [_read(model, window.context, window.target) for window in windows]
    found = {}
    for name, head in heads(model, seed).items():
        if names and name not in names:
            continue
        ndcg = partial(_ndcg, model, name, head)
        stage = Stage(
            name=name,
            epochs=epochs,
            batches=lambda rng: (positions[i] for i in rng.permutation(len(positions))),
            losses=lambda module, read, rng, head=head: head.losses(module, read),
            validate=lambda module, ndcg=ndcg: ndcg(module, "valid").mean(),
            weights={"teacher": head.teacher},
        )
        untaught = ndcg(head.module, "test")
        fit(head.module, stage, config)
        found[name] = Said(untaught, ndcg(head.module, "test"))
        say(f"{name}: NDCG@10 {untaught.mean():.4f}, taught {found[name].taught.mean():.4f}")
    return found


def _ndcg(model: M6Rec, name: str, head: Head, module: nn.Module, part: str) -> np.ndarray:
    ranked = Ranked(model, name, head._replace(module=module.eval()))
    return evaluate(ranked, model.data, split=model.split, part=part).per_user["ndcg"].to_numpy()


@torch.no_grad()
def _read(model: M6Rec, context: Context, target: Tensor) -> Read:
    """All positions of a context that have a target (B, Q), with what the trunk makes of them."""
    fusion, context, target = model.network.fusion, context.to(model.device), target.to(model.device)
    history, there = fusion.read(context, model.item_vectors()), target >= 0
    state = fusion.answer(history, context).state[there]
    return Read(state, target[there], history.events, there.nonzero()[:, 0], context.position[there])


def _planted(model: M6Rec, kind: type[DigitDecoder], tree: Tree) -> DigitDecoder:
    vectors = model.item_vectors()
    torch.manual_seed(model.config.seed)
    decoder = kind(model.config, tree.widths, len(vectors)).to(model.device)
    decoder.plant(tree, vectors)
    return decoder


def _share(decoder: DigitDecoder) -> DigitDecoder:
    """The same decoder with one vocabulary for a level, which stands where the nodes of a code are on average."""
    for level in range(len(decoder.widths)):
        for table in (decoder.nodes, decoder.bias):
            shared = Shared(math.prod(decoder.widths[:level]))
            parametrize.register_parametrization(table, str(level), shared)
    return decoder


def _teach(model: M6Rec, decoder: DigitDecoder, read: Read) -> dict[str, Tensor]:
    """What fine-tuning teaches the digits (`train.losses.digits`), from states that do not move."""
    codes = model.network.codes
    found = whole.Predicted(read.state, model.item_vectors(), read.target, codes >= 0)
    taught = SimpleNamespace(digits=decoder, codes=codes)
    path, teacher = losses.digits(taught, found.state, found.target, whole.subtrees(decoder.tree, found))
    return {"digits": path, "teacher": teacher}


def _teach_prefix(model: M6Rec, decoder: PrefixDecoder, read: Read) -> dict[str, Tensor]:
    """The same, of digits that look at the events, too."""
    decoder.read = read
    return _teach(model, decoder, read)


def _teach_parallel(model: M6Rec, head: ParallelDigits, read: Read) -> dict[str, Tensor]:
    """The same of parallel digits: the true codes, and the dense head's distribution summed over each code."""
    said = head(read.state)
    path = -said.gather(2, head.digits[read.target][..., None]).squeeze(2).mean(0).sum()
    with torch.no_grad():
        closed = softmax.close(model.network.codes >= 0, model.item_vectors())
        mass = torch.addmm(closed, read.state, model.item_vectors().T).softmax(1)  # (n, N)
        each = torch.stack([mass @ F.one_hot(digit, said.shape[2]).to(mass) for digit in head.digits.unbind(1)], 1)
    return {"digits": path, "teacher": -(each * said).sum(2).mean(0).sum()}
