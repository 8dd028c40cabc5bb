"""Token removal: what a model outputs when tokens are really taken away, and the few that decide the top item."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import Model, one, prepared, spread, target_log_prob, tokens

MAX_PAIRS = 2**22  # token pairs computed at a time: about 400 versions of a history of 100


def unseen(logits: Tensor, context: Context) -> np.ndarray:
    """Logits (K, N), -inf for items of the first row's history: these are not recommended."""
    codes = context.item[0][context.item[0] >= 0]
    return logits.index_fill(1, codes.to(logits.device), -torch.inf).cpu().numpy()


def top_item(model: Model, context: Context) -> int:
    """The code of the best item that is not in the history (dense head)."""
    context = one(context)
    return int(unseen(logits_of(model, context, np.ones((1, len(tokens(context)[0])), bool)), context).argmax())


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
    context, items = prepared(model, context, vectors)
    rows = max(1, MAX_PAIRS // (context.item.shape[1] + context.profile.shape[1]) ** 2)
    parts = [kept[at : at + rows] for at in range(0, len(kept), rows)]
    states = [model.network.eval().fuse(keep_tokens(context, part), items).state[:, 0] for part in parts]
    return model.network.score(torch.cat(states), items[: model.data.n_items])


def scores_of(model: Model, context: Context, kept: np.ndarray, item: int, against: int | None = None) -> np.ndarray:
    """`target_log_prob` (K,) of an item, in nats, with some tokens (K, n - 1) kept."""
    return target_log_prob(logits_of(model, context, kept), item, against).cpu().numpy()


def smallest_removal(model: Model, context: Context, *, most: int = 10) -> tuple[list[int], int | None]:
    """The few tokens without which another item is on top, in the order of removal, and that item.

    Greedily removes the token that lowers the top item most; None where `most` removals were not enough.
    """
    context = one(context)
    first = before = top_item(model, context)
    kept, gone = np.ones(len(tokens(context)[0]), bool), []
    while first == before and len(gone) < min(most, len(kept) - 1):
        left = np.flatnonzero(kept[1:]) + 1  # the start stays
        tries = kept & ~np.eye(len(kept), dtype=bool)[left]
        logits = logits_of(model, context, tries)
        lowest = int(target_log_prob(logits, before).argmin())
        gone.append(int(left[lowest]))
        kept, first = tries[lowest], int(unseen(logits, context)[lowest].argmax())
    return gone, None if first == before else first
