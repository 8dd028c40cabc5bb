"""What is left of an item's probability without the tokens that an explainer names.

Sources: deletion and insertion, Petsiuk et al. 2018; comprehensiveness and sufficiency, DeYoung et al. 2020 (4.1);
violations, Liu et al. 2022; randomisation, Adebayo et al. 2018; uniform attention, Wiegreffe & Pinter 2019.
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
from m6rec.explain.explainers import (
    ENOUGH,
    EXPLAINERS,
    Explainer,
    Model,
    logits_of,
    one,
    reasons,
    target_log_prob,
    tokens,
    top_item,
    unseen,
)

STEPS = 20  # of a curve: 5 % of the tokens each
MEASURES = ("deletion", "insertion", "comprehensiveness", "sufficiency", "violations", "milliseconds")
SHARES = [1, 2, 4, 10]  # steps of comprehensiveness and sufficiency: 5, 10, 20 and 50 %


class Faithfulness(NamedTuple):
    table: pd.DataFrame  # explainer × MEASURES, means over users, best deletion first
    per_user: dict[str, pd.DataFrame]  # user × MEASURES
    deletion: dict[str, np.ndarray]  # (U, STEPS + 1) share of the probability left
    insertion: dict[str, np.ndarray]  # the same, from the start token alone


def faithfulness(model: Model, contexts: Context, explainers: Mapping[str, Explainer] = EXPLAINERS) -> Faithfulness:
    """Evaluate explainers on the top item of each row's last target (B = U).

    deletion: area under the curve as the named tokens go (lower is better). insertion: as they come (higher).
    comprehensiveness: what is lost without the first few. sufficiency: what these alone lack (lower).
    violations: how often the first token does not help. milliseconds: of one explanation.
    """
    users, curves = [], []
    for context, item in _targets(model, contexts, least=2):
        ranks, spent = [], []
        for explain in explainers.values():
            start = time.perf_counter()
            effects = explain(model, context, item)
            spent.append(1000 * (time.perf_counter() - start))
            ranks.append([-1, *np.argsort(-effects[1:], kind="stable").argsort()])  # the start stays
        rank = np.array(ranks)[:, None]  # (explainers, 1, n - 1)
        counts = np.round(np.linspace(0, rank.shape[2] - 1, STEPS + 1)).astype(int)
        gone, stays = rank < counts[:, None], rank == -1
        retained = np.concatenate((~gone | stays, gone | stays, rank != 0), 1)  # (explainers, 2 · STEPS + 3, n - 1)
        logits = logits_of(model, context, retained.reshape(-1, retained.shape[2]))
        left = np.exp(target_log_prob(logits, item).cpu().numpy()).reshape(retained.shape[:2])
        deletion, insertion, first = np.split(left / left[0, 0], [STEPS + 1, 2 * STEPS + 2], axis=1)
        curves.append((deletion, insertion))
        areas = [np.trapezoid(curve) / STEPS for curve in curves[-1]]
        lost = [1 - curve[:, SHARES].mean(1) for curve in curves[-1]]
        users.append([*areas, *lost, first[:, 0] >= 1, spent])  # (measures, explainers)
    measures, names = np.array(users, float), list(explainers)
    per_user = {name: pd.DataFrame(measures[..., i], columns=MEASURES) for i, name in enumerate(names)}
    table = pd.DataFrame(measures.mean(0), MEASURES, names).T.sort_values("deletion")
    deletion, insertion = (dict(zip(names, part, strict=True)) for part in np.array(curves).transpose(1, 2, 0, 3))
    return Faithfulness(table, per_user, deletion, insertion)


def counterfactual_rank_drop(model: Model, contexts: Context, k: int = 10, seed: int = 0) -> pd.DataFrame:
    """For each user, explain the first k items, remove the named causes, and rank again (dense head).

    lowered: share of items whose rank fell, ranks: mean fall; without the causes or as many random events, of items
    with enough evidence (NaN: none). coverage, enough: means over all items.
    """
    rng, rows = np.random.default_rng(seed), []
    for context in (one(contexts, row) for row in range(len(contexts.item))):
        types = tokens(context)[0]
        logits = unseen(logits_of(model, context, np.ones((1, len(types)), bool)), context)[0]
        items = np.argsort(-logits, kind="stable")[:k]
        given = reasons(model, context, items)
        enough = [r.coverage >= ENOUGH for r in given]
        named = [[cause.token for cause in r.causes] for r in given]
        drawn = [rng.permutation(np.flatnonzero(types == "history"))[: len(causes)] for causes in named]
        retained = np.array([~np.isin(np.arange(len(types)), gone) for gone in (*named, *drawn)])
        after = unseen(logits_of(model, context, retained), context)
        rank = (after > after[np.arange(2 * k), np.tile(items, 2), None]).sum(1).reshape(2, k)
        fell = (rank - np.arange(k))[:, enough]  # (named or random, items with enough evidence)
        means = np.stack(((fell > 0).mean(1), fell.mean(1)), 1).ravel() if fell.size else np.full(4, np.nan)
        rows.append((*means, np.mean([r.coverage for r in given]), np.mean(enough)))
    return pd.DataFrame(rows, columns=["lowered", "ranks", "lowered_random", "ranks_random", "coverage", "enough"])


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
