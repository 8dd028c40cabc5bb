"""Are the reasons real? Take away what an explainer names, and see whether the item goes with it.

Every figure is a share of the item's probability with the whole context, so that users can be averaged.
Sources: deletion and insertion, Petsiuk et al. 2018; comprehensiveness and sufficiency, DeYoung et al. 2020 (section
4.1); violations, Liu et al. 2022; randomised outputs, Adebayo et al. 2018; even attention, Wiegreffe & Pinter 2019.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn

from m6rec.data.context import Context
from m6rec.explain.capture import one, tokens
from m6rec.explain.explainers import EXPLAINERS, Explainer
from m6rec.explain.removal import leader, scores_of

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

STEPS = 20  # of a curve: 5 % of the tokens each
SHARES = (1, 2, 4, 10)  # the steps that comprehensiveness and sufficiency average over: 5, 10, 20 and 50 %


class Faithfulness(NamedTuple):
    """How true each explainer is; the means, and what they are means of."""

    table: pd.DataFrame  # explainer × measure, best deletion first; milliseconds an explanation
    per_user: dict[str, pd.DataFrame]  # explainer -> one row a user, the same measures
    deletion: dict[str, np.ndarray]  # explainer -> (U, STEPS + 1) share of the probability left
    insertion: dict[str, np.ndarray]  # the same, from the start token alone up to the whole context


def faithfulness(
    model: M6Rec,
    contexts: Context,
    explainers: Mapping[str, Explainer] = EXPLAINERS,
    items: Sequence[int] | None = None,
) -> Faithfulness:
    """Judge explainers on the last target of each row of contexts (B = U), for these items or the leading ones.

    deletion: area under the curve while tokens go, named ones first (lower is better). insertion: while they come
    (higher). comprehensiveness: what is lost without the first few named. sufficiency: what these alone lack (lower).
    violations: how often the token named first does not help at all.
    """
    rows = {name: [] for name in explainers}
    curves = {name: [] for name in explainers}
    for row in range(len(contexts.item)):
        context = one(contexts, row)
        if len(tokens(context)[0]) < 2:
            continue  # there is nothing to take away
        item = leader(model, context) if items is None else int(items[row])
        orders, spent = {}, {}
        for name, explain in explainers.items():
            start = time.perf_counter()
            effects = explain(model, context, item)
            spent[name] = 1000 * (time.perf_counter() - start)
            orders[name] = 1 + np.argsort(-effects[1:], kind="stable")  # the start stays
        kept = np.concatenate([_masks(order) for order in orders.values()])
        left = np.exp(scores_of(model, context, kept, item)).reshape(len(orders), -1)  # (explainers, masks)
        for name, shares in zip(orders, left / left[0, 0], strict=True):
            deletion, insertion, first = shares[: STEPS + 1], shares[STEPS + 1 : -1], shares[-1]
            curves[name].append((deletion, insertion))
            rows[name].append(
                {
                    "deletion": np.trapezoid(deletion) / STEPS, "insertion": np.trapezoid(insertion) / STEPS,
                    "comprehensiveness": 1 - deletion[list(SHARES)].mean(),
                    "sufficiency": 1 - insertion[list(SHARES)].mean(),
                    "violations": float(first >= 1), "milliseconds": spent[name],
                }
            )  # fmt: skip
    per_user = {name: pd.DataFrame(found) for name, found in rows.items()}
    table = pd.DataFrame({name: frame.mean() for name, frame in per_user.items()}).T.sort_values("deletion")
    deletion, insertion = ({n: np.array([pair[i] for pair in c]) for n, c in curves.items()} for i in range(2))
    return Faithfulness(table, per_user, deletion, insertion)


def _masks(order: np.ndarray) -> np.ndarray:
    """Which tokens stay, for one order: (2 · STEPS + 3, n - 1), a deletion, an insertion, the first gone."""
    counts = np.round(np.linspace(0, len(order), STEPS + 1)).astype(int)
    place = np.concatenate(([-1], np.argsort(order)))  # each token's place in the order; the start before all
    gone = place[None] < counts[:, None]
    return np.concatenate((~gone | (place == -1), gone | (place == -1), (place != 0)[None]))


def randomised(model: M6Rec, seed: int = 0) -> M6Rec:
    """The model with output layers that know nothing: the last joint block's after its attention, and the head.

    The head's matrix is the items' vectors, which are read as input too: turning the state at random does the same.
    """
    other = _copied(model)
    block, width = other.network.fusion.joint[-1], other.config.width
    torch.manual_seed(seed)
    for layer in (block.out, block.gate, *block.ffn, block.ffn_gate):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    turn = nn.Linear(width, width, bias=False)
    nn.init.orthogonal_(turn.weight)
    other.network.fusion.norm = nn.Sequential(other.network.fusion.norm, turn.to(other.device))
    return other


def even(model: M6Rec) -> M6Rec:
    """The model whose joint layers look at everything that they may see alike: no question, no preference."""
    other = _copied(model)
    with torch.no_grad():
        for block in other.network.fusion.joint:
            block.q.weight.zero_()
    return other


def agreement(
    model: M6Rec,
    other: M6Rec,
    contexts: Context,
    explainers: Mapping[str, Explainer],
    items: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Spearman's correlation (U,) of each explainer's answers on two models, for the first one's leading items.

    People with fewer than three tokens beside the start are left out: there is no order to compare.
    """
    found = {name: [] for name in explainers}
    for row in range(len(contexts.item)):
        context = one(contexts, row)
        if len(tokens(context)[0]) < 4:
            continue
        item = leader(model, context) if items is None else int(items[row])
        for name, explain in explainers.items():
            before, after = (explain(m, context, item)[1:] for m in (model, other))
            found[name].append(float(spearmanr(before, after).statistic))
    return {name: np.array(values) for name, values in found.items()}


def _copied(model: M6Rec) -> M6Rec:
    """A model with a network of its own, and the same item vectors."""
    other = copy.copy(model)
    other._items, other.network = model.item_vectors(), copy.deepcopy(model.network)
    return other
