"""Ranks any object with scores(users) over the whole catalogue, and says how sure its figures are."""

from m6rec.evaluate.ranking import Evaluation, Interpolation, Precomputed, evaluate, fit_leaks, leaks, sampled, shuffled
from m6rec.evaluate.statistics import by_slice, compare, difference_interval, mean_interval, ratio_interval, slices
