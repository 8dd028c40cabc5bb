"""Ranks any object with scores(users) over the whole catalogue, and says how sure its figures are."""

from m6rec.evaluate.blend import CachedScorer, Ensemble, Interpolation, Precomputed, coordinate_ascent, validation_ndcg
from m6rec.evaluate.leaks import fit_leaks, leaks, shuffled
from m6rec.evaluate.ranking import Evaluation, evaluate, sampled
from m6rec.evaluate.statistics import by_slice, compare, difference_interval, mean_interval, ratio_interval, slices
