"""Ranks any object with scores(users) over the whole catalogue, and says how sure its figures are."""

from m6rec.evaluate.blend import Averaged, Blended, Once, Precomputed
from m6rec.evaluate.comparisons import compare
from m6rec.evaluate.leaks import fit_leaks, leaks
from m6rec.evaluate.lists import inverse_propensity
from m6rec.evaluate.ranking import Evaluation, evaluate
from m6rec.evaluate.sampled import sampled
from m6rec.evaluate.sequence import shuffled
from m6rec.evaluate.slices import by_slice, slices
from m6rec.evaluate.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    ratio_interval,
    seeds_interval,
)
from m6rec.evaluate.tuning import climb, judge

__all__ = [
    "Averaged",
    "Blended",
    "Evaluation",
    "Interval",
    "Once",
    "Precomputed",
    "by_slice",
    "climb",
    "compare",
    "difference_interval",
    "evaluate",
    "fit_leaks",
    "inverse_propensity",
    "judge",
    "leaks",
    "mean_interval",
    "ratio_interval",
    "sampled",
    "seeds_interval",
    "shuffled",
    "slices",
]
