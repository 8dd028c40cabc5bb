"""What the request is worth: one network that attends to it, gates or adds it, and one without any context."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from m6rec.config import CONTEXT_FUSIONS
from m6rec.evaluate.statistics import mean_interval, ratio_interval
from m6rec.model.network import ContextFusion
from m6rec.recommender import M6Rec
from m6rec.tasks.heldout import ColdStart

VARIANTS: dict[str, dict[str, object]] = {way: {"context_fusion": way} for way in CONTEXT_FUSIONS}
VARIANTS["none"] = {"request": False, "profile": False}  # the history alone
# All variants at full size train on next events alone; on bazaar as in 02_fusion, whose models are "attention" here.
# No smoothing over neighbours there: these come from histories, and items are to be known by their content.
SETTINGS: dict[str, dict[str, object]] = {
    "ml100k": {"finetune_epochs": 0, "recency": 0.0, "spectral": 0.0, "smoothing": 0.0},
    "bazaar": {
        "finetune_epochs": 0, "smoothing": 0.0, "patch_weight": 0.0, "align_weight": 0.0,
        "identity": False, "dropout": 0.1, "text_length": 16, "pretrain_epochs": 16, "learning_rate": 4e-3, "batch": 32,
        "validate_every": 2,
    },
}  # fmt: skip


def rankings(
    train: Callable[..., M6Rec], trial: ColdStart, seeds: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """NDCG@10 of the warm targets by variant: (S, U) each. train(seed=…, **changes) gives a model of `trial.train`."""
    return {v: trial.ndcg([train(seed=s, **VARIANTS[v]).scorer("dense") for s in some]) for v, some in seeds.items()}


def table(ndcg: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """By variant: seeds, NDCG@10, and its ratio to "none" with the paired 95 % interval, over the seeds of both."""
    rows = {}
    for variant, values in ndcg.items():
        same = min(len(values), len(ndcg["none"]))
        over = ratio_interval(values[:same], ndcg["none"][:same])
        rows[variant] = len(values), mean_interval(values).value, over.value, over.low, over.high
    return pd.DataFrame(rows, index=["seeds", "NDCG@10", "over none", "low", "high"]).T


def parameters(model: M6Rec) -> dict[str, int]:
    """Parameters of the context fusion by variant, for this model's fields; the rest of the network is the same."""
    sizes = {}
    for variant, changes in VARIANTS.items():
        config, fields = dataclasses.replace(model.config, **changes), model.fields
        if not config.request:
            fields = dataclasses.replace(fields, request=(), profile=())
        sizes[variant] = sum(p.numel() for p in ContextFusion(config, fields).parameters())
    return sizes
