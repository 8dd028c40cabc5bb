"""Baselines: each fits on a split's training events, and scores like the model."""

from m6rec.baselines.contentknn import ContentKNN
from m6rec.baselines.cooccurrence import CoOccurrence
from m6rec.baselines.ease import EASE
from m6rec.baselines.esasrec import ESASRec
from m6rec.baselines.gru4rec import GRU4Rec
from m6rec.baselines.itemknn import ItemKNN
from m6rec.baselines.markov import Markov
from m6rec.baselines.mixture import Mixture
from m6rec.baselines.popularity import Popularity
from m6rec.baselines.sasrec import SASRec
from m6rec.baselines.tiger import Tiger

__all__ = [
    "EASE",
    "CoOccurrence",
    "ContentKNN",
    "ESASRec",
    "GRU4Rec",
    "ItemKNN",
    "Markov",
    "Mixture",
    "Popularity",
    "SASRec",
    "Tiger",
]
