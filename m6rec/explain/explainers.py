"""Explainers: what each token of a context did for one item. One signature, one number a token, nats where it is more.

- attention, rollout: where the model looked, whatever the item
- gradient_weighted, integrated: how the item's score moves with what was looked at, and with each token's embedding
- leave_one_out: what is lost when the token is really taken away; the reference that all reasons are rendered from
- random, recency: what an explainer has to beat
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.config import MODALITIES
from m6rec.data.context import Context
from m6rec.explain.capture import capture, evidence, one, tokens
from m6rec.explain.removal import scores_of

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec


def attention(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """The target's attention, mean over layers and heads: (n - 1,), sums to 1. Knows no item: where it looked."""
    return capture(model, context).looked.mean((0, 1))


def rollout(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Attention followed down through the layers, half of each token staying itself: (n - 1,). Knows no item.

    What stays at the target itself is left out. Source: Abnar & Zuidema 2020, eq. 1.
    """
    return rolled(capture(model, context).weights.mean(1), keep=0.5)[-1]


def gradient_weighted(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Attention times its gradient, where positive, mean over heads, followed down through the layers: (n - 1,).

    Source: Chefer et al. 2021 (Generic Attention-model Explainability), eq. 5 and 6.
    """
    record = capture(model, context, item=item, against=against)
    return rolled((record.weights * record.gradients).clip(min=0).mean(1), keep=None)[-1]


def rolled(layers: np.ndarray, keep: float | None) -> np.ndarray:
    """The target's row of the product of the layers (L, n, n) up to each: (L, n - 1), without the target itself.

    keep: the share of a token that stays itself; None adds each layer to what was there before.
    """
    alike = np.eye(layers.shape[-1])
    path, rows = alike, []
    for layer in layers:
        path = (layer + alike if keep is None else (1 - keep) * layer + keep * alike) @ path
        rows.append(path[-1, :-1])
    return np.stack(rows)


class Integrated(NamedTuple):
    """Integrated gradients, and how far they are from adding up to what they should."""

    effects: np.ndarray  # (n - 1,) nats
    gap: float  # |sum of the effects - (score with the tokens - score with average ones in their places)|, nats


def integrate(model: M6Rec, context: Context, item: int, against: int | None = None, *, steps: int = 32) -> Integrated:
    """Gradients along the way from average tokens to the context's own, all at once, times the way.

    The average is over the catalogue or a field's levels, not 0: the norms leave no slope to follow at 0.
    Source: Sundararajan et al. 2017, eq. 1, with one factor a token in place of one a channel (they add up the same).
    """
    context = one(context).to(model.device)
    factors = torch.cat(((torch.arange(steps) + 0.5) / steps, torch.tensor([0.0, 1.0])))  # midpoints, then both ends
    scale = factors.to(model.device)[:, None].repeat(1, len(tokens(context)[0])).requires_grad_()
    scores = evidence(_between(model, context, scale), item, against)
    (slopes,) = torch.autograd.grad(scores[:steps].sum(), scale)
    effects, (start, end) = slopes[:steps].mean(0).cpu().numpy(), scores[steps:].tolist()
    return Integrated(effects, abs(float(effects.sum()) - (end - start)))


def integrated(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Integrated gradients: (n - 1,) nats; `integrate` also says how far they are from complete."""
    return integrate(model, context, item, against).effects


def _between(model: M6Rec, context: Context, scale: Tensor) -> Tensor:
    """Logits (K, N) of one context whose tokens lie between average ones (scale 0) and themselves (1): (K, n - 1)."""
    kinds, places, _ = tokens(context)
    rows = Context(*(part.expand(len(scale), *part.shape[1:]) for part in context))
    sizes = {"profile": rows.profile.shape[1], "history": rows.item.shape[1], "request": rows.request.shape[2]}
    factor = {kind: scale.new_ones(len(scale), size) for kind, size in sizes.items()}  # absent ones stay absent
    for kind, by in factor.items():
        at = [i for i, k in enumerate(kinds) if k == kind]
        by[:, [places[i] for i in at]] = scale[:, at]

    def mixed(own: Tensor, average: Tensor, by: Tensor) -> Tensor:
        return average + by.reshape(*by.shape, *[1] * (own.dim() - by.dim())) * (own - average)

    fusion = copy.deepcopy(model.network.fusion.eval())  # the hooks are for this call alone
    hooked = [(fusion.value, factor["history"]), (fusion.gap, factor["history"])]
    hooked += zip(fusion.profile, factor["profile"].unbind(1), strict=True)
    hooked += zip(fusion.request, factor["request"].unbind(1), strict=True)
    for module, by in hooked:
        average = module.weight[1:].mean(0).detach()  # code 0 is no level
        module.register_forward_hook(lambda _, __, own, average=average, by=by: mixed(own, average, by))
    items = model.item_vectors()
    events = mixed(items[rows.item.clamp(min=0)], items.mean(0), factor["history"])  # (K, T, D)
    return model.network.score(fusion(rows, events).state[:, 0], items)


def leave_one_out(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """What the item's score loses without each token: (n - 1,) nats, positive where the token helps; 0 for the start.

    An event is really removed and the history closes up. All are left out in one pass.
    """
    n = len(tokens(one(context))[0])
    kept = np.concatenate((np.ones((1, n), bool), ~np.eye(n, dtype=bool)))
    scores = scores_of(model, context, kept, item, against)
    return np.where(np.arange(n) == 0, 0, scores[0] - scores[1:])  # else the start's is rounding


def leave_one_modality_out(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """What the item's score loses when no item has a modality: (M,) nats in the order of MODALITIES, 0 if unread."""
    context, lost = one(context), np.zeros(len(MODALITIES))

    def score(mute: tuple[str, ...]) -> float:
        items = model.item_vectors(mute=mute)
        return float(evidence(model.network.score(model.fuse(context, items).state[0, 0], items), item, against))

    for place, modality in enumerate(MODALITIES):
        if modality in model.network.items.modalities:
            lost[place] = score(()) - score((modality,))
    return lost


def recency(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """The later the event the more: (n - 1,), 0 for all that is no event."""
    kinds, places, _ = tokens(one(context))
    return np.array([place + 1.0 if kind == "history" else 0.0 for kind, place in zip(kinds, places, strict=True)])


def random(model: M6Rec, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Any number: (n - 1,), the same ones for the same item and number of tokens."""
    n = len(tokens(one(context))[0])
    return np.random.default_rng((item, n)).random(n)


Explainer = Callable[..., np.ndarray]
EXPLAINERS: dict[str, Explainer] = {
    e.__name__: e for e in (leave_one_out, integrated, gradient_weighted, rollout, attention, recency, random)
}
