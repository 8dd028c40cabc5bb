"""Ranks any object with scores(users) over the whole catalogue, and says how sure its figures are."""

from m6rec.evaluate.ranking import Evaluation, evaluate
from m6rec.evaluate.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    ratio_interval,
    seeds_interval,
)

__all__ = [
    "Evaluation",
    "Interval",
    "difference_interval",
    "evaluate",
    "mean_interval",
    "ratio_interval",
    "seeds_interval",
]
