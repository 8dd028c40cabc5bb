"""Baselines that fit and score like the model."""

from m6rec.baselines.counts import EASE, ContentKNN, CoOccurrence, ItemKNN, Markov, Mixture, Popularity
from m6rec.baselines.sequential import ESASRec, GRU4Rec, SASRec
