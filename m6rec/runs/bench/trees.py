"""What a tree's place among the items is worth: trees of one shape, grown over other things, and said untaught."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD

from m6rec.baselines.contentknn import tfidf
from m6rec.evaluate import evaluate
from m6rec.model.tree import grow
from m6rec.recommender import M6Rec

CHANNELS = 32  # of the words' TF-IDF


@torch.no_grad()
def untaught(model: M6Rec, seed: int = 0) -> dict[str, float]:
    """Generated NDCG@10 over the dense head's, where the digits were not taught a single step, by what the tree knows.

    All three trees have the model's own room, and nodes at the mean of its own item vectors; they are grown over those
    vectors, over the texts' TF-IDF, and at random. InputError where no text has a word.
    """
    learnt = model.item_vectors()
    words = TruncatedSVD(CHANNELS, random_state=seed).fit_transform(tfidf(model.data))
    chance = np.random.default_rng(seed).normal(size=learnt.shape)
    dense, shares = evaluate(model.scorer("dense"), model.data).metrics["ndcg@10"], {}
    for name, over in {"learnt_vectors": learnt.cpu().numpy(), "words": words, "chance": chance}.items():
        planted = copy.deepcopy(model.network)
        planted.digits.plant(grow(over, planted.digits.widths, seed), learnt)
        generated = evaluate(model.scorer("generated", network=planted), model.data).metrics["ndcg@10"]
        shares[name] = generated / dense
    return shares
