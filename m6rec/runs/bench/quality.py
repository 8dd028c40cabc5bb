"""How soon a quality is reached: validation NDCG@10, nothing masked, after each epoch, and the seconds until then."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from m6rec.config import Config
from m6rec.data.dataset import Dataset
from m6rec.evaluate import evaluate
from m6rec.recommender import M6Rec
from m6rec.train import losses
from m6rec.train.fit import fit

Curve = Sequence[tuple[float, float]]


def curve(data: Dataset, config: Config) -> Curve:
    """m6rec's own (seconds of training, validation included; NDCG@10) after each of the config's pretraining epochs.

    A training of its own, because `fit` otherwise judges with the seen items masked, as we rank and peers do not.
    """
    model = M6Rec(data, config=config)

    def judge(network: nn.Module) -> float:
        scorer = model.scorer("dense", network=network)
        return evaluate(scorer, data, split=model.split, part="valid", mask_seen=False).metrics["ndcg@10"]

    stage = model.stage("pretrain", config.pretrain_epochs, losses.pretraining, "dense")._replace(validate=judge)
    return [(row.seconds, row.validation) for row in fit(model.network, stage, config) if row.validation is not None]


def seconds_to(target: float, reached: Curve) -> float | None:
    """Seconds until a curve first reaches a target; None if it never does."""
    return next((seconds for seconds, value in reached if value >= target), None)
