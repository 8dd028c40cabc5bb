"""Attention record of one prediction target: where the model attended, which is not yet why it recommends."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context, Fields
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.data.text import Tokenizer
from m6rec.errors import InputError
from m6rec.model.network import Network

TYPES = ("profile", "history", "request")  # of tokens, in the order of the weights, beside start and target


class Model(Protocol):
    """What explanations need of an `M6Rec`."""

    network: Network
    fields: Fields
    data: Dataset
    device: torch.device
    features: Features
    tokenizer: Tokenizer

    def item_vectors(self) -> Tensor: ...


class Record(NamedTuple):
    """Attention over the n present tokens of one target, the target last. All that views draw."""

    labels: list[str]  # (n,) see `labels`
    types: list[str]  # (n,) start | profile | history | request | target
    positions: np.ndarray  # (n,) index among all tokens of its type; -1 for start and target
    weights: np.ndarray  # (L, H, n, n): row attends to column, rows sum to 1; identity where a layer computes no row
    logits: np.ndarray  # (N,) of the dense head
    gradients: np.ndarray | None = None  # (L, H, n, n) of one item's log-probability (nats) by weight, else 0

    @property
    def attended(self) -> np.ndarray:
        """The target's own weights: (L, H, n - 1), rows sum to 1."""
        return self.weights[..., -1, :-1]

    def fold(self, recent: int) -> "Record":
        """All but the last `recent` events as one token: columns summed, rows averaged, no gradients."""
        events = [i for i, token in enumerate(self.types) if token == "history"]
        old = events[: len(events) - recent] if recent < len(events) else []
        if len(old) < 2:
            return self._replace(gradients=None)
        group = np.arange(len(self.labels))
        group[old] = old[0]
        first = np.unique(group)  # (n',) the first token of each group
        member = (first[:, None] == group).astype(self.weights.dtype)  # (n', n)
        weights = member @ self.weights @ member.T / member.sum(1)[:, None]
        labels = [f"{len(old)} earlier events" if i == old[0] else self.labels[i] for i in first]
        return Record(labels, [self.types[i] for i in first], self.positions[first], weights, self.logits)


def capture(model: Model, context: Context, *, item: int | None = None, against: int | None = None) -> Record:
    """Attention of the last target of a context's first row, in each joint layer.

    item: also the gradients of this code's `target_log_prob`. InputError for an unknown item or foil (`against`).
    """
    with torch.set_grad_enabled(item is not None):
        context, items = prepared(model, context)
        fused = model.network.eval().fuse(context, items, weights=True)
        logits = model.network.score(fused.state[:, 0], items)  # (1, N)
        if item is not None:
            maps = (*fused.weights, *fused.history)
            slopes = torch.autograd.grad(target_log_prob(logits, item, against).sum(), maps, materialize_grads=True)
    types, positions, columns = tokens(context)
    present, split = np.ix_([*columns, -1], [*columns, -1]), len(fused.weights)
    return Record(
        [*labels(model, context), "next item"],
        [*types.tolist(), "target"],
        np.append(positions, -1),
        _square(fused.weights, fused.history, rest=1.0)[..., *present],
        logits[0].detach().cpu().numpy(),
        None if item is None else _square(slopes[:split], slopes[split:], rest=0.0)[..., *present],
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


def tokens(context: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One target's (B = Q = 1) present tokens but the target (n - 1,): types, positions, columns of the weights."""
    sizes = [1, context.profile.shape[1], context.item.shape[1], context.request.shape[2]]
    types, positions = np.repeat(["start", *TYPES], sizes), np.concatenate([[-1], *map(np.arange, sizes[1:])])
    present = torch.cat((context.profile[0] > 0, context.item[0] >= 0, context.request[0, 0] > 0)).cpu().numpy()
    columns = np.flatnonzero(np.append(True, present))
    return types[columns], positions[columns], columns


def spread(context: Context, values: Tensor, absent: float) -> tuple[Tensor, ...]:
    """Values (K, n - 1) of one target's present tokens -> of all profile (K, C), history (K, T), request (K, R)."""
    sizes = [1, context.profile.shape[1], context.item.shape[1], context.request.shape[2]]
    columns = torch.from_numpy(tokens(context)[2]).to(values.device)
    return values.new_full((len(values), sum(sizes)), absent).index_copy(1, columns, values).split(sizes, 1)[1:]


def target_log_prob(logits: Tensor, item: int, against: int | None = None) -> Tensor:
    """What is explained, in nats: an item's log-probability, or its logit minus a foil's. (..., N) -> (...)."""
    for code in (item, against):
        if code is not None and not 0 <= code < logits.shape[-1]:
            raise InputError(f"item code {code} is not in the catalogue: take one of 0 to {logits.shape[-1] - 1}.")
    return logits[..., item] - (logits.logsumexp(-1) if against is None else logits[..., against])


def prepared(model: Model, context: Context, vectors: Tensor | None = None) -> tuple[Context, Tensor]:
    """`one` on the model's device, and items' vectors. InputError where events have none."""
    context, items = one(context).to(model.device), model.item_vectors() if vectors is None else vectors
    if int(context.item.max()) >= len(items):
        raise InputError("the history has items that the catalogue lacks: add them with with_items first.")
    return context, items


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
