"""What context is worth: the same network with a request that it attends to, gates or adds, and without any context.

All four are trained alike. On bazaar the truth says how much there is to win: the best ranking without the request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from m6rec.config import CONTEXT_FUSIONS
from m6rec.data import bazaar
from m6rec.evaluate.statistics import mean_interval, ratio_interval
from m6rec.explain.trial import Trial
from m6rec.model.network import ContextFusion

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

WAYS: dict[str, dict[str, object]] = {way: {"context_fusion": way} for way in CONTEXT_FUSIONS}
WAYS["none"] = {"request": False, "profile": False}  # the history alone
# How all ways are trained at full size: on next events alone. On bazaar as the ranking of 02_fusion is, so that its
# models of all three modalities are "attention" here, and are not trained twice. No target is
# shared among neighbours: those are told by histories, and items are to be known by their content.
SETTINGS: dict[str, dict[str, object]] = {
    "ml100k": {"finetune_epochs": 0, "infill_weight": 0.0, "smoothing": 0.0},
    "bazaar": {
        "finetune_epochs": 0, "smoothing": 0.0, "infill_weight": 0.0, "patch_weight": 0.0, "align_weight": 0.0,
        "identity": False, "dropout": 0.1, "text_length": 16, "pretrain_epochs": 16, "learning_rate": 4e-3, "batch": 32,
        "validate_every": 2,
    },
}  # fmt: skip


def rankings(train: Callable[..., M6Rec], trial: Trial, seeds: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """NDCG@10 of the trial's known people and goods by way of `seeds`: (S, U) each.

    train(seed=…, **changes) gives a trained model, such as `functools.partial(size.model, trial.train)`.
    """
    return {
        way: trial.ndcg([train(seed=seed, **WAYS[way]).scorer("dense") for seed in some]) for way, some in seeds.items()
    }


def table(ndcg: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row a way: seeds, NDCG@10, and how many times that of "none" it is, with the paired 95 % interval.

    Both sides of a quotient have the same seeds, the first ones that both were trained with.
    """
    rows = {}
    for way, values in ndcg.items():
        same = min(len(values), len(ndcg["none"]))
        over = ratio_interval(values[:same], ndcg["none"][:same])
        value = mean_interval(values).value
        rows[way] = {
            "seeds": len(values),
            "NDCG@10": value,
            "over none": over.value,
            "low": over.low,
            "high": over.high,
        }
    return pd.DataFrame(rows).T


def parameters(model: M6Rec) -> dict[str, int]:
    """How many numbers the context fusion has by way, for this model's fields; the rest of the network is the same."""
    sizes = {}
    for way, changes in WAYS.items():
        config, fields = dataclasses.replace(model.config, **changes), model.fields
        if not config.request:
            fields = dataclasses.replace(fields, request=(), profile=())
        sizes[way] = sum(p.numel() for p in ContextFusion(config, fields).parameters())
    return sizes


def unasked(truth: bazaar.Truth) -> bazaar.Ceiling:
    """bazaar's ranking by true tastes and purchases of one who does not know the request: no field pulls anywhere."""
    silent = {field: np.zeros_like(places) for field, places in truth.requests.items()}
    return bazaar.Ceiling(truth._replace(requests=silent))
