"""Baselines: each fits on a split's training events, and scores like the model."""

from m6rec.baselines.cooccurrence import CoOccurrence
from m6rec.baselines.ease import EASE
from m6rec.baselines.itemknn import ItemKNN
from m6rec.baselines.popularity import Popularity
from m6rec.baselines.sasrec import SASRec

__all__ = ["EASE", "CoOccurrence", "ItemKNN", "Popularity", "SASRec"]
