"""Contexts with less in them: what a model says when tokens are really taken away, and the few that hold up an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import Record, capture, evidence, one, tokens, within

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

PAIRS = 2**22  # pairs of tokens that are computed at a time: a history of 100 is left out of 400 times in one pass


def unseen(context: Context, n_items: int) -> np.ndarray:
    """Which items (N,) bool the first row's history does not hold: those that are recommended."""
    allowed = np.ones(n_items, bool)
    allowed[context.item[0][context.item[0] >= 0].cpu().numpy()] = False
    return allowed


def leader(model: M6Rec, context: Context) -> int:
    """The item that leads one target's list: the code of the best that the history does not hold."""
    kept = np.ones((1, len(tokens(one(context))[0])), bool)
    logits = logits_of(model, context, kept)[0].cpu().numpy()
    return int(np.where(unseen(one(context), len(logits)), logits, -np.inf).argmax())


def without(context: Context, kept: np.ndarray) -> Context:
    """One target's context (B = Q = 1) in K versions: kept (K, n - 1) bool says which of its tokens stay.

    Fields that go are absent; events that go are removed, later ones close up. What stays keeps its codes: the gap of
    the event after a removed one still names the pause before it. The start always stays.
    """
    kinds, places, _ = tokens(context)
    kind, place, k = np.array(kinds), np.array(places), len(kept)

    def grid(name: str, size: int) -> Tensor:
        there = np.zeros((k, size), dtype=bool)
        there[:, place[kind == name]] = kept[:, kind == name]
        return torch.from_numpy(there).to(context.item.device)

    stays = grid("history", context.item.shape[1])  # (K, T)
    order = (~stays).long().argsort(dim=1, stable=True)  # events that stay come first, in their order
    count = stays.sum(1, keepdim=True)  # (K, 1)
    inside = torch.arange(stays.shape[1], device=stays.device) < count

    def closed(part: Tensor, absent: int) -> Tensor:
        return part.expand(k, -1).gather(1, order).where(inside, torch.as_tensor(absent, device=part.device))

    return Context(
        closed(context.item, -1), closed(context.value, 0), closed(context.gap, 0),
        context.profile * grid("profile", context.profile.shape[1]),
        context.request * grid("request", context.request.shape[2])[:, None], count,
    )  # fmt: skip


@torch.no_grad()
def logits_of(model: M6Rec, context: Context, kept: np.ndarray, vectors: Tensor | None = None) -> Tensor:
    """Logits (K, N) with some tokens (K, n - 1) kept; so many rows at a time that memory does not grow with T².

    vectors: those of the catalogue and of new items of the history, where they are not `model.item_vectors()`.
    """
    context, items = one(context).to(model.device), model.item_vectors() if vectors is None else vectors
    within(context, items)
    rows = max(1, PAIRS // (context.item.shape[1] + context.profile.shape[1]) ** 2)
    parts = [kept[at : at + rows] for at in range(0, len(kept), rows)]
    states = [model.network.eval().fuse(without(context, part), items).state[:, 0] for part in parts]
    return model.network.score(torch.cat(states), items[: model.data.n_items])


def scores_of(model: M6Rec, context: Context, kept: np.ndarray, item: int, against: int | None = None) -> np.ndarray:
    """`evidence` (K,) for an item, in nats, with some tokens (K, n - 1) kept."""
    return evidence(logits_of(model, context, kept), item, against).cpu().numpy()


class Removal(NamedTuple):
    """The few tokens without which another item would lead the list."""

    tokens: list[int]  # in the order of removal, as places in the record; those of the attempt where it failed
    labels: list[str]
    before: int  # the leading item
    after: int | None  # who leads then; None where no removal of so many tokens was enough


def smallest_removal(model: M6Rec, context: Context, *, most: int = 10) -> Removal:
    """Greedily remove the token whose going hurts the leading item most, until another one leads.

    What is in the history leads no list, removed or not. At most `most` tokens are tried.
    """
    record: Record = capture(model, context)
    context, n = one(context), len(record.labels) - 1
    allowed = unseen(context, len(record.logits))
    before = leader(model, context)
    kept, gone = np.ones(n, bool), []
    for _ in range(min(most, n - 1)):
        left = np.flatnonzero(kept[1:]) + 1  # the start stays
        tries = np.tile(kept, (len(left), 1))
        tries[np.arange(len(left)), left] = False
        logits = logits_of(model, context, tries)
        hurt = int(evidence(logits, before).argmin())
        kept[left[hurt]] = False
        gone.append(int(left[hurt]))
        first = int(np.where(allowed, logits[hurt].cpu().numpy(), -np.inf).argmax())
        if first != before:
            return Removal(gone, [record.labels[i] for i in gone], before, first)
    return Removal(gone, [record.labels[i] for i in gone], before, None)
