"""Baselines: each fits on a split's training events, and scores like the model."""

from m6rec.baselines.counts import EASE, ContentKNN, CoOccurrence, ItemKNN, Markov, Mixture, Popularity
from m6rec.baselines.sequential import ESASRec, GRU4Rec, SASRec
