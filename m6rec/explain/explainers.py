"""Explainers: what each token of a context contributes to one item. All have one signature -> (n - 1,).

The larger the more; nats where a score is taken apart. Reasons are rendered from `leave_one_out`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import Model, capture, one, prepared, spread, target_log_prob, tokens
from m6rec.explain.removal import scores_of


def attention(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """The target's attention, mean over layers and heads: (n - 1,), sums to 1; the same for every item."""
    return capture(model, context).attended.mean((0, 1))


def rollout(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Attention rollout, half residual: (n - 1,); the same for every item. The target's own share is left out.

    Source: Abnar & Zuidema 2020, eq. 1.
    """
    return rolled(capture(model, context).weights.mean(1), residual=0.5)[-1]


def gradient_weighted(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Rollout of attention times its gradient, where positive, mean over heads: (n - 1,).

    Source: Chefer et al. 2021 (Generic Attention-model Explainability), eq. 5 and 6.
    """
    record = capture(model, context, item=item, against=against)
    return rolled((record.weights * record.gradients).clip(min=0).mean(1), residual=None)[-1]


def rolled(layers: np.ndarray, residual: float | None) -> np.ndarray:
    """The target's row of the product of the layers (L, n, n) up to each: (L, n - 1), without the target itself.

    residual: the identity's share in each layer; None adds the identity unweighted.
    """
    identity = np.eye(layers.shape[-1])
    path, rows = identity, []
    for layer in layers:
        path = (layer + identity if residual is None else (1 - residual) * layer + residual * identity) @ path
        rows.append(path[-1, :-1])
    return np.stack(rows)


def integrate(
    model: Model, context: Context, item: int, against: int | None = None, *, steps: int = 32
) -> tuple[np.ndarray, float]:
    """Integrated gradients from average tokens to the context's own, with one path factor a token: (n - 1,) nats.

    Beside them the completeness gap in nats: how far their sum is from the difference of the scores at both ends.
    The average is over the catalogue or a field's levels, not 0: the norms have no slope at 0.
    Source: Sundararajan et al. 2017, eq. 1.
    """
    context, items = prepared(model, context)
    factors = torch.cat(((torch.arange(steps) + 0.5) / steps, torch.tensor([0.0, 1.0])))  # midpoints, then both ends
    scale = factors.to(model.device)[:, None].repeat(1, len(tokens(context)[0])).requires_grad_()
    scores = target_log_prob(_between(model, context, items, scale), item, against)
    (slopes,) = torch.autograd.grad(scores[:steps].sum(), scale)
    effects, (start, end) = slopes[:steps].mean(0).cpu().numpy(), scores[steps:].tolist()
    return effects, abs(float(effects.sum()) - (end - start))


def integrated(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """The effects of `integrate`."""
    return integrate(model, context, item, against)[0]


def _between(model: Model, context: Context, items: Tensor, scale: Tensor) -> Tensor:
    """Logits (K, N) of one context whose tokens lie between average ones (scale 0) and themselves (1): (K, n - 1)."""
    rows = Context(*(part.expand(len(scale), *part.shape[1:]) for part in context))
    profile, history, request = spread(context, scale, absent=1.0)

    def mixed(own: Tensor, average: Tensor, by: Tensor) -> Tensor:
        return average + by.reshape(*by.shape, *[1] * (own.dim() - by.dim())) * (own - average)

    fusion = copy.deepcopy(model.network.fusion.eval())  # the hooks are for this call alone
    hooked = [(fusion.value, history), (fusion.gap, history)]
    hooked += zip([*fusion.profile, *fusion.request], [*profile.unbind(1), *request.unbind(1)], strict=True)
    for module, by in hooked:
        average = module.weight[1:].mean(0).detach()  # code 0 is no level
        module.register_forward_hook(lambda _, __, own, average=average, by=by: mixed(own, average, by))
    events = mixed(items[rows.item.clamp(min=0)], items.mean(0), history)  # (K, T, D)
    return model.network.score(fusion(rows, events).state[:, 0], items)


def leave_one_out(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """What the item's score loses without each token: (n - 1,) nats, positive where the token helps; 0 for the start.

    An event is really removed and the history closes up. All are left out in one pass.
    """
    n = len(tokens(one(context))[0])
    scores = scores_of(model, context, np.concatenate((np.ones((1, n), bool), ~np.eye(n, dtype=bool))), item, against)
    return np.where(np.arange(n) == 0, 0, scores[0] - scores[1:])  # else the start's is rounding


def recency(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """The later the event the more: (n - 1,), 0 for tokens that are no event."""
    types, positions, _ = tokens(one(context))
    return np.where(types == "history", positions + 1.0, 0)


def random(model: Model, context: Context, item: int, against: int | None = None) -> np.ndarray:
    """Random numbers: (n - 1,), the same ones for the same item and number of tokens."""
    n = len(tokens(one(context))[0])
    return np.random.default_rng((item, n)).random(n)


Explainer = Callable[..., np.ndarray]
EXPLAINERS: dict[str, Explainer] = {
    e.__name__: e for e in (leave_one_out, integrated, gradient_weighted, rollout, attention, recency, random)
}
