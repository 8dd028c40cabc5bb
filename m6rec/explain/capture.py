"""The attention record of one target: every token that it could see, in words, and where each layer and head looked.

It says where the model looked. Why it recommends what it recommends is another question: leave a token out and see.
Views draw a `Record` and nothing else, so a model of one's own can be looked at by filling one by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.errors import InputError

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec


class Record(NamedTuple):
    """One target's attention, token by token (n of them, the target last); absent tokens are left out."""

    labels: list[str]  # (n,) what each token is: "age ≥ 44 and < 50", a title, "hour 21"
    kinds: list[str]  # (n,) start | profile | history | request | target
    places: np.ndarray  # (n,) which profile field, event or request field of its context; -1 for start and target
    weights: np.ndarray  # (L, H, n, n): row looks at column, rows sum to 1; identity where a layer computes no row
    logits: np.ndarray  # (N,) the dense head's
    gradients: np.ndarray | None = None  # (L, H, n, n) of one item's log-probability (nats) by weight, else 0

    @property
    def looked(self) -> np.ndarray:
        """Where the target itself looked: (L, H, n - 1), rows sum to 1."""
        return self.weights[..., -1, :-1]

    def fold(self, recent: int) -> Record:
        """All but the last `recent` events as one token: its column is their sum, its row their mean; no gradients."""
        events = [place for place, kind in enumerate(self.kinds) if kind == "history"]
        old = events[: max(0, len(events) - recent)]
        if len(old) < 2:
            return self._replace(gradients=None)
        first, end = old[0], old[-1] + 1
        w = self.weights
        w = np.concatenate((w[..., :first], w[..., first:end].sum(-1, keepdims=True), w[..., end:]), -1)
        w = np.concatenate((w[..., :first, :], w[..., first:end, :].mean(-2, keepdims=True), w[..., end:, :]), -2)
        return Record(
            [*self.labels[:first], f"{len(old)} earlier events", *self.labels[end:]],
            [*self.kinds[:first], "history", *self.kinds[end:]],
            np.concatenate((self.places[: first + 1], self.places[end:])),
            w,
            self.logits,
        )


def capture(
    model: M6Rec,
    context: Context,
    *,
    row: int = 0,
    recent: int | None = None,
    item: int | None = None,
    against: int | None = None,
) -> Record:
    """The attention of the last target of a context's row, in each joint layer.

    recent: show this many of the last events one by one and add up the earlier ones in one token.
    item: also the gradients of this item's (a code's) log-probability, or of its logit minus the foil's (`against`).
    InputError for a row, an item or a foil that is not there.
    """
    context = one(context, row).to(model.device)
    with torch.set_grad_enabled(item is not None):
        items = model.item_vectors()
        within(context, items)
        fused = model.network.eval().fuse(context, items, weights=True)
        logits = model.network.score(fused.state[:, 0], items)  # (1, N)
        gradients = None
        if item is not None:
            maps = (*fused.weights, *fused.history)
            slopes = torch.autograd.grad(evidence(logits, item, against).sum(), maps, allow_unused=True)
            slopes = [torch.zeros_like(m) if s is None else s for m, s in zip(maps, slopes, strict=True)]
            gradients = _square(slopes[: len(fused.weights)], slopes[len(fused.weights) :], rest=0.0)
    kinds, places, columns = tokens(context)
    chosen = np.ix_([*columns, -1], [*columns, -1])
    record = Record(
        [*labels(model, context, kinds, places), "next item"],
        [*kinds, "target"],
        np.array([*places, -1]),
        _square(fused.weights, fused.history, rest=1.0)[..., chosen[0], chosen[1]],
        logits[0].detach().cpu().numpy(),
        None if gradients is None else gradients[..., chosen[0], chosen[1]],
    )
    return record if recent is None else record.fold(recent)


def one(context: Context, row: int = 0) -> Context:
    """The last target of one row alone, with the events that it may see: B = Q = 1, T at least 1."""
    if not 0 <= row < len(context.item):
        raise InputError(f"row {row} is not in this context: it has the rows 0 to {len(context.item) - 1}.")
    here, seen = slice(row, row + 1), max(1, int(context.position[row, -1]))
    return Context(
        context.item[here, :seen], context.value[here, :seen], context.gap[here, :seen], context.profile[here],
        context.request[here, -1:], context.position[here, -1:],
    )  # fmt: skip


def tokens(context: Context) -> tuple[list[str], list[int], list[int]]:
    """The tokens of one target (B = Q = 1) that are there, but the target: kinds, places and columns of the weights."""
    profile, fields = (context.profile[0] > 0).tolist(), (context.request[0, 0] > 0).tolist()
    events = (context.item[0] >= 0).tolist()
    every = [("start", -1, True)]
    for kind, there in (("profile", profile), ("history", events), ("request", fields)):
        every += [(kind, place, present) for place, present in enumerate(there)]
    found = [(kind, place, column) for column, (kind, place, present) in enumerate(every) if present]
    return tuple(map(list, zip(*found, strict=True)))


def evidence(logits: Tensor, item: int, against: int | None = None) -> Tensor:
    """What is explained, in nats: an item's log-probability, or its logit minus a foil's. (..., N) -> (...)."""
    for code in (item, against):
        if code is not None and not 0 <= code < logits.shape[-1]:
            raise InputError(f"item code {code} is not in the catalogue: take one of 0 to {logits.shape[-1] - 1}.")
    if against is not None:
        return logits[..., item] - logits[..., against]
    return logits[..., item] - logits.logsumexp(-1)


def within(context: Context, items: Tensor) -> None:
    """InputError for a history of items whose vectors are not among items (N, D)."""
    if int(context.item.max()) >= len(items):
        raise InputError("the history has items that the catalogue lacks: give them a place with with_items first.")


def labels(model: M6Rec, context: Context, kinds: list[str], places: list[int]) -> list[str]:
    """What each token of one target is, in words: a title, "hour 21", "age ≥ 44 and < 50"."""
    titles, fields = model.data.items["title"], model.fields

    def title(place: int) -> str:
        code = int(context.item[0, place])
        return titles.iloc[code] if code < len(titles) else "an item new to the catalogue"

    say = {
        "start": lambda _: "start",
        "profile": lambda place: fields.profile[place].describe(int(context.profile[0, place])),
        "history": title,
        "request": lambda place: fields.request[place].describe(int(context.request[0, 0, place])),
    }
    return [say[kind](place) for kind, place in zip(kinds, places, strict=True)]


def _square(target: list[Tensor], history: list[Tensor], rest: float) -> np.ndarray:
    """Both streams in one grid (L, H, W + 1, W + 1) of W = C + T + R tokens and the target; rest: where none looks."""
    looks = torch.stack([m[0, :, 0] for m in target]).detach().cpu().numpy()  # L × (1, H, 1, W) -> (L, H, W)
    layers, heads, width = looks.shape
    grid = np.zeros((layers, heads, width + 1, width + 1), looks.dtype)
    np.einsum("lhii->lhi", grid)[:] = rest
    for layer, seen in enumerate(history):
        n = seen.shape[-1]
        grid[layer, :, :n, :n] = seen[0].detach().cpu().numpy()
    grid[..., -1, :-1], grid[..., -1, -1] = looks, 0
    return grid
