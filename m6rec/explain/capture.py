"""Attention record of one prediction target: each visible token in words, and every layer's and head's weights.

Weights say where the model attended, not why it recommends. Views draw a `Record` and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from m6rec.data.context import Context, Fields
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.model.network import Network


class Model(Protocol):
    """What explanations need of a model; `M6Rec` has it."""

    network: Network
    fields: Fields
    data: Dataset
    device: torch.device
    features: Features  # this and the tokenizer: for `content` alone
    tokenizer: Tokenizer

    def item_vectors(self) -> Tensor:
        """The catalogue's vectors (N, D)."""


class Record(NamedTuple):
    """Attention of one target over its n tokens, the target last; absent tokens are left out."""

    labels: list[str]  # (n,) what each token is: "age ≥ 44 and < 50", a title, "hour 21"
    types: list[str]  # (n,) start | profile | history | request | target
    positions: np.ndarray  # (n,) index among its context's profile fields, events or request fields; else -1
    weights: np.ndarray  # (L, H, n, n): row attends to column, rows sum to 1; identity where a layer computes no row
    logits: np.ndarray  # (N,) of the dense head
    gradients: np.ndarray | None = None  # (L, H, n, n) of one item's log-probability (nats) by weight, else 0

    @property
    def attended(self) -> np.ndarray:
        """The target's own weights: (L, H, n - 1), rows sum to 1."""
        return self.weights[..., -1, :-1]

    def fold(self, recent: int) -> Record:
        """All but the last `recent` events as one token: columns are summed, rows averaged; no gradients."""
        events = [i for i, token in enumerate(self.types) if token == "history"]
        old = events[: max(0, len(events) - recent)]
        if len(old) < 2:
            return self._replace(gradients=None)
        group = np.arange(len(self.labels))
        group[old] = old[0]
        first = np.unique(group)  # (n',) the first token of each group
        member = (first[:, None] == group).astype(self.weights.dtype)  # (n', n)
        weights = member @ self.weights @ member.T / member.sum(1)[:, None]
        labels = [f"{len(old)} earlier events" if i == old[0] else self.labels[i] for i in first]
        return Record(labels, [self.types[i] for i in first], self.positions[first], weights, self.logits)


def capture(
    model: Model,
    context: Context,
    *,
    row: int = 0,
    item: int | None = None,
    against: int | None = None,
) -> Record:
    """Attention of the last target of a context's row, in each joint layer.

    item: also the gradients of this code's `target_log_prob`. InputError for an unknown row, item or foil (`against`).
    """
    context = one(context, row).to(model.device)
    with torch.set_grad_enabled(item is not None):
        items = model.item_vectors()
        check_history(context, items)
        fused = model.network.eval().fuse(context, items, weights=True)
        logits = model.network.score(fused.state[:, 0], items)  # (1, N)
        if item is not None:
            maps = (*fused.weights, *fused.history)
            slopes = torch.autograd.grad(target_log_prob(logits, item, against).sum(), maps, allow_unused=True)
            slopes = [torch.zeros_like(m) if s is None else s for m, s in zip(maps, slopes, strict=True)]
    types, positions, columns = tokens(context)
    chosen = np.ix_([*columns, -1], [*columns, -1])
    layers = len(fused.weights)
    return Record(
        [*labels(model, context), "next item"],
        [*types, "target"],
        np.array([*positions, -1]),
        _square(fused.weights, fused.history, rest=1.0)[..., chosen[0], chosen[1]],
        logits[0].detach().cpu().numpy(),
        None if item is None else _square(slopes[:layers], slopes[layers:], rest=0.0)[..., chosen[0], chosen[1]],
    )


def one(context: Context, row: int = 0) -> Context:
    """The last target of one row and the events that it may attend to: B = Q = 1, T at least 1."""
    if not 0 <= row < len(context.item):
        raise InputError(f"row {row} is not in this context: it has the rows 0 to {len(context.item) - 1}.")
    here, seen = slice(row, row + 1), max(1, int(context.position[row, -1]))
    return Context(
        context.item[here, :seen], context.value[here, :seen], context.gap[here, :seen], context.profile[here],
        context.request[here, -1:], context.position[here, -1:],
    )  # fmt: skip


def tokens(context: Context) -> tuple[list[str], list[int], list[int]]:
    """Types, positions and columns of the weights of one target's (B = Q = 1) present tokens, without the target."""
    parts = {"profile": context.profile[0] > 0, "history": context.item[0] >= 0, "request": context.request[0, 0] > 0}
    every = [("start", -1, True)]
    every += [(name, i, present) for name, part in parts.items() for i, present in enumerate(part.tolist())]
    found = [(name, i, column) for column, (name, i, present) in enumerate(every) if present]
    return tuple(map(list, zip(*found, strict=True)))


def target_log_prob(logits: Tensor, item: int, against: int | None = None) -> Tensor:
    """What is explained, in nats: an item's log-probability, or its logit minus a foil's. (..., N) -> (...)."""
    for code in (item, against):
        if code is not None and not 0 <= code < logits.shape[-1]:
            raise InputError(f"item code {code} is not in the catalogue: take one of 0 to {logits.shape[-1] - 1}.")
    return logits[..., item] - (logits.logsumexp(-1) if against is None else logits[..., against])


def check_history(context: Context, items: Tensor) -> None:
    """InputError for events whose items have no vectors among items (N, D)."""
    if int(context.item.max()) >= len(items):
        raise InputError("the history has items that the catalogue lacks: add them with with_items first.")


def labels(model: Model, context: Context) -> list[str]:
    """Each present token of one target in words: a title, "hour 21", "age ≥ 44 and < 50"."""
    titles = model.data.items["title"]
    codes = context.item[0][context.item[0] >= 0].tolist()
    events = [titles.iloc[code] if code < len(titles) else "an item new to the catalogue" for code in codes]
    profile, request = (
        [field.describe(code) for field, code in zip(fields, part.tolist(), strict=True) if code]
        for fields, part in ((model.fields.profile, context.profile[0]), (model.fields.request, context.request[0, 0]))
    )
    return ["start", *profile, *events, *request]


def _square(target: list[Tensor], history: list[Tensor], rest: float) -> np.ndarray:
    """Both streams as (L, H, W + 1, W + 1): W = C + T + R tokens, then the target. rest: diagonal of other rows."""
    rows = torch.stack([m[0, :, 0] for m in target]).detach().cpu().numpy()  # L × (1, H, 1, W) -> (L, H, W)
    layers, heads, width = rows.shape
    grid = np.zeros((layers, heads, width + 1, width + 1), rows.dtype)
    np.einsum("lhii->lhi", grid)[:] = rest
    for layer, weights in enumerate(history):
        n = weights.shape[-1]
        grid[layer, :, :n, :n] = weights[0].detach().cpu().numpy()
    grid[..., -1, :-1], grid[..., -1, -1] = rows, 0
    return grid
