"""Token removal: what a model outputs when tokens are really taken away, and the few that decide the top item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import Model, check_history, one, spread, target_log_prob, tokens

MAX_PAIRS = 2**22  # token pairs computed at a time: about 400 versions of a history of 100


def candidate_mask(context: Context, n_items: int) -> np.ndarray:
    """Items (N,) bool that can be recommended: those not in the first row's history."""
    allowed = np.ones(n_items, bool)
    allowed[context.item[0][context.item[0] >= 0].cpu().numpy()] = False
    return allowed


def top_item(model: Model, context: Context) -> int:
    """The code of the best item that is not in the history (dense head)."""
    context = one(context)
    logits = logits_of(model, context, np.ones((1, len(tokens(context)[0])), bool))[0].cpu().numpy()
    return int(np.where(candidate_mask(context, len(logits)), logits, -np.inf).argmax())


def keep_tokens(context: Context, kept: np.ndarray) -> Context:
    """One target's context (B = Q = 1) in K versions: kept (K, n - 1) bool says which of its tokens stay.

    Removed fields become absent, later events close up; what stays keeps its codes, its gap too. The start stays.
    """
    k, device = len(kept), context.item.device
    profile, stays, request = spread(context, torch.from_numpy(kept).to(device), absent=False)
    order = (~stays).long().argsort(dim=1, stable=True)  # events that stay come first, in their order
    count = stays.sum(1, keepdim=True)  # (K, 1)
    inside = torch.arange(stays.shape[1], device=device) < count

    def closed(part: Tensor, absent: int) -> Tensor:
        return part.expand(k, -1).gather(1, order).masked_fill(~inside, absent)

    return Context(
        closed(context.item, -1), closed(context.value, 0), closed(context.gap, 0),
        context.profile * profile, context.request * request[:, None], count,
    )  # fmt: skip


@torch.no_grad()
def logits_of(model: Model, context: Context, kept: np.ndarray, vectors: Tensor | None = None) -> Tensor:
    """Logits (K, N) with some tokens (K, n - 1) kept, computed in pieces.

    vectors: of the catalogue and behind them of new items in the history; by default `model.item_vectors()`.
    """
    context, items = one(context).to(model.device), model.item_vectors() if vectors is None else vectors
    check_history(context, items)
    rows = max(1, MAX_PAIRS // (context.item.shape[1] + context.profile.shape[1]) ** 2)
    parts = [kept[at : at + rows] for at in range(0, len(kept), rows)]
    states = [model.network.eval().fuse(keep_tokens(context, part), items).state[:, 0] for part in parts]
    return model.network.score(torch.cat(states), items[: model.data.n_items])


def scores_of(model: Model, context: Context, kept: np.ndarray, item: int, against: int | None = None) -> np.ndarray:
    """`target_log_prob` (K,) of an item, in nats, with some tokens (K, n - 1) kept."""
    return target_log_prob(logits_of(model, context, kept), item, against).cpu().numpy()


class Removal(NamedTuple):
    """The few tokens without which another item is on top."""

    tokens: list[int]  # indices in the record, in the order of removal; those tried where it failed
    before: int  # the top item
    after: int | None  # the top item without the tokens; None where removing `most` tokens was not enough


def smallest_removal(model: Model, context: Context, *, most: int = 10) -> Removal:
    """Greedily remove the token that lowers the top item most, until another is on top or `most` are gone.

    Items of the history are no candidates, removed or not.
    """
    context = one(context)
    before, allowed = top_item(model, context), candidate_mask(context, model.data.n_items)
    kept, gone, after = np.ones(len(tokens(context)[0]), bool), [], None
    while after is None and len(gone) < min(most, len(kept) - 1):
        left = np.flatnonzero(kept[1:]) + 1  # the start stays
        tries = np.tile(kept, (len(left), 1))
        tries[np.arange(len(left)), left] = False
        logits = logits_of(model, context, tries)
        lowest = int(target_log_prob(logits, before).argmin())
        kept[left[lowest]] = False
        gone.append(int(left[lowest]))
        first = int(np.where(allowed, logits[lowest].cpu().numpy(), -np.inf).argmax())
        after = None if first == before else first
    return Removal(gone, before, after)
