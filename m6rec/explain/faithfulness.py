"""What is left of an item's probability without the tokens that an explainer names.

Sources: deletion and insertion, Petsiuk et al. 2018; randomisation, Adebayo et al. 2018; uniform attention, Wiegreffe &
Pinter 2019.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn

from m6rec.data.context import Context
from m6rec.explain.explainers import EXPLAINERS, Explainer, Model, logits_of, one, target_log_prob, tokens, top_item

STEPS = 20  # of a curve: 5 % of the tokens each


class Faithfulness(NamedTuple):
    table: pd.DataFrame  # explainer × (deletion, insertion, milliseconds), means over users, best deletion first
    deletion: dict[str, np.ndarray]  # (U, STEPS + 1) share of the probability left
    insertion: dict[str, np.ndarray]  # the same, from the start token alone


def faithfulness(model: Model, contexts: Context, explainers: Mapping[str, Explainer] = EXPLAINERS) -> Faithfulness:
    """Evaluate explainers on the top item of each row's last target (B = U).

    deletion: area under the curve as the named tokens go (lower is better). insertion: as they come (higher).
    milliseconds: of one explanation. All use the removal that defines leave-one-out.
    """
    spent, curves = [], []
    for context, item in _targets(model, contexts, least=2):
        ranks, times = [], [time.perf_counter()]
        for explain in explainers.values():
            ranks.append([-1, *np.argsort(-explain(model, context, item)[1:], kind="stable").argsort()])
            times.append(time.perf_counter())
        rank = np.array(ranks)[:, None]  # (explainers, 1, n - 1); the start stays
        gone = rank < np.round(np.linspace(0, rank.shape[2] - 1, STEPS + 1)).astype(int)[:, None]
        retained = np.stack((~gone, gone)) | (rank == -1)  # (2, explainers, STEPS + 1, n - 1)
        logits = logits_of(model, context, retained.reshape(-1, rank.shape[2]))
        left = np.exp(target_log_prob(logits, item).cpu().numpy()).reshape(retained.shape[:3])
        spent.append(np.diff(times) * 1000)
        curves.append(left / left[0, 0, 0])
    both = np.stack(curves, 2)  # (2, explainers, U, STEPS + 1)
    measures = (*np.trapezoid(both, dx=1 / STEPS).mean(2), np.mean(spent, 0))
    table = pd.DataFrame(measures, ["deletion", "insertion", "milliseconds"], list(explainers)).T
    return Faithfulness(table.sort_values("deletion"), *(dict(zip(explainers, part, strict=True)) for part in both))


def _targets(model: Model, contexts: Context, least: int) -> Iterator[tuple[Context, int]]:
    """Contexts with at least `least` tokens, and their top items."""
    for context in (one(contexts, row) for row in range(len(contexts.item))):
        if len(tokens(context)[0]) >= least:
            yield context, top_item(model, context)


def randomise_parameters(model: Model, seed: int = 0) -> Model:
    """The model with random layers after the last joint block's attention.

    The head's matrix is the items' vectors, which are also input: the state is rotated at random instead.
    """
    other = _copied(model)
    fusion, block = other.network.fusion, other.network.fusion.joint[-1]
    torch.manual_seed(seed)
    for layer in (block.out, block.gate, *block.ffn, block.ffn_gate):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    rotation = nn.Linear(block.out.out_features, block.out.out_features, bias=False)
    nn.init.orthogonal_(rotation.weight)
    fusion.norm = nn.Sequential(fusion.norm, rotation.to(model.device))
    return other


def uniform_attention(model: Model) -> Model:
    """The joint layers attend uniformly."""
    other = _copied(model)
    for block in other.network.fusion.joint:
        nn.init.zeros_(block.q.weight)
    return other


def agreement(
    model: Model, other: Model, contexts: Context, explainers: Mapping[str, Explainer]
) -> dict[str, np.ndarray]:
    """Spearman's correlation (U,) of effects on two models, for the first's top items.

    U: users with three tokens or more beside the start.
    """
    targets = list(_targets(model, contexts, least=4))
    pairs = {n: [[explain(m, *t)[1:] for m in (model, other)] for t in targets] for n, explain in explainers.items()}
    return {name: np.array([spearmanr(*pair).statistic for pair in both]) for name, both in pairs.items()}


def _copied(model: Model) -> Model:
    other = copy.copy(model)
    other.network = copy.deepcopy(model.network)
    return other
