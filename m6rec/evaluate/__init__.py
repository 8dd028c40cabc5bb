"""Ranks the whole catalogue, with intervals of the figures."""

from m6rec.evaluate.ranking import Evaluation, Interpolation, Precomputed, evaluate, leaks
from m6rec.evaluate.statistics import by_slice, compare, difference_interval, mean_interval, ratio_interval, slices
