"""Ranks the whole catalogue, with intervals of the figures."""

from m6rec.evaluate.ranking import Evaluation, Interpolation, Precomputed, evaluate, fit_leaks, leaks, sampled, shuffled
from m6rec.evaluate.statistics import by_slice, compare, difference_interval, mean_interval, ratio_interval, slices
