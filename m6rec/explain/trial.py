"""A trial: goods and people that training never meets, and how well a model ranks what is known and what is new.

On bazaar, where the truth is planted, also how much each modality counts for a shopper, by what muting it moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr

from m6rec import baselines
from m6rec.config import MODALITIES, Config
from m6rec.data import bazaar, load
from m6rec.data.dataset import Dataset
from m6rec.errors import InputError
from m6rec.evaluate import evaluate

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

# What may be left of the modalities, all of them first -> what is then muted.
SUBSETS = {
    kept: tuple(m for m in MODALITIES if m not in kept) for n in (3, 2, 1) for kept in combinations(MODALITIES, n)
}
MOMENTS = 10  # requests of a person over which their scores are averaged


class Trial:
    """A data set of which some goods (codes) and people (codes) are held out; `train` is what is left to learn from.

    `events` are the targets, by kind: "warm" (known people and goods), "cold" (known people, goods held out), "valid"
    and "valid_cold" (the same, of the validation part) and "newcomers" (their first event, if it is of a known good).
    """

    def __init__(self, data: Dataset, held_out: np.ndarray, newcomers: Sequence[int] = ()):
        self.data, self.held_out, self.split = data, np.asarray(held_out), data.split()
        self.train = data.without(held_out, newcomers)
        cold = np.isin(data.events["item"], held_out)  # (E,)
        new = np.isin(data.events["user"], newcomers)
        # Who has fewer than three events left is trained on to the last one, and is no target.
        short = (np.diff(self.train.offsets) < 3)[data.events["user"]]
        first = data.offsets[:-1][np.diff(data.offsets) > 0]
        test, valid = self.split.test, self.split.valid
        self.events = {
            "warm": test[~(cold | new | short)[test]], "valid": valid[~(cold | new | short)[valid]],
            "cold": test[(cold & ~new)[test]], "valid_cold": valid[(cold & ~new)[valid]],
            "newcomers": first[(new & ~cold)[first]],
        }  # fmt: skip

    @classmethod
    def drawn(cls, data: Dataset, share: float = 0.1, seed: int = 0) -> Trial:
        """Hold out a share of the goods, drawn at random."""
        return cls(data, np.random.default_rng(seed).permutation(data.n_items)[: round(share * data.n_items)])

    @cached_property
    def chance(self) -> float:
        """The NDCG@10 that guessing among the goods held out would have."""
        return float((1 / np.log2(np.arange(2, 12))).sum() / len(self.held_out))

    def ndcg(self, models: Sequence[object], kind: str = "warm") -> np.ndarray:
        """NDCG@10 of every target of a kind, a row for each model (a seed, say): (S, U).

        Cold goods are ranked among those held out, all others among the whole catalogue. InputError for another kind.
        """
        if kind not in self.events:
            raise InputError(f"targets of the kind {kind!r} are unknown: take one of {', '.join(self.events)}.")
        split = self.split._replace(test=self.events[kind])
        pool = self.held_out if kind.endswith("cold") else None
        return np.stack([evaluate(m, self.data, split=split, pool=pool).per_user["ndcg"].to_numpy() for m in models])

    def rivals(self, preset: str = "small", seeds: Sequence[int] = ()) -> dict[str, list[object]]:
        """The baselines by name, fitted on what is left to learn from; SASRec once for each seed, cached."""
        left = self.train.split()
        simple = {"popularity": baselines.Popularity, "cooccurrence": baselines.CoOccurrence, "ease": baselines.EASE}
        fitted = {name: [baseline().fit(self.train, left)] for name, baseline in simple.items()}
        # As long as it gets better: validation decides, not the number of epochs.
        long = [Config.preset(preset, seed=seed, pretrain_epochs=100) for seed in seeds]
        return fitted | ({"sasrec": [baselines.SASRec(c).cached(self.train, left) for c in long]} if long else {})


class Shop(Trial):
    """bazaar with the goods and people held out that its truth names; users: only the first so many shoppers.

    All codes stay, so that the truth fits. The shoppers are simulated.
    """

    def __init__(self, users: int | None = None):
        data, self.truth = load("bazaar"), bazaar.truth()
        if users is not None:
            data = data.without([], np.arange(users, data.n_users))
        super().__init__(data, np.flatnonzero(self.truth.held_out), np.flatnonzero(self.truth.newcomers))

    @property
    def ceiling(self) -> bazaar.Ceiling:
        """The best ranking there is."""
        return bazaar.Ceiling(self.truth)

    @property
    def shares(self) -> np.ndarray:
        """How much each modality counts for the people of `likes`: (U, M), in the order of MODALITIES."""
        image, sound, text = self.truth.shares[self.data.targets(self.events["valid"]).users].T
        return np.stack([{"text": text, "image": image, "sound": sound}[m] for m in MODALITIES], 1)

    def agreement(self, runs: Sequence[np.ndarray]) -> list[float]:
        """Spearman's correlation of measured shares (U, M) with the true ones, over pairs of person and modality."""
        return [float(spearmanr(shares.ravel(), self.shares.ravel()).statistic) for shares in runs]


@torch.no_grad()
def likes(model: M6Rec, trial: Trial, mute: tuple[str, ...] = ()) -> torch.Tensor:
    """Logits of all goods (U, N) for the people of the validation targets, the mean over their last ten requests.

    Ten, so that no single purchase before decides; of a shorter history, what there is. All ten see one window of it.
    """
    people = trial.data.targets(trial.events["valid"])
    back = np.minimum(np.arange(MOMENTS), (people.events - trial.data.offsets[people.users])[:, None])  # (U, 10)
    context = model.target_context(people)
    context = context._replace(
        request=torch.from_numpy(model.codes_of(trial.data).request[people.events[:, None] - back]),
        position=(context.position - torch.from_numpy(back)).clamp(min=0),
    )
    vectors = model.item_vectors(mute=mute)
    return model.fuse(context, vectors).state.mean(1) @ vectors.T


def shares_by_muting(model: M6Rec, trial: Trial) -> np.ndarray:
    """How much each modality counts for each person of `likes`: (U, M), rows add up to 1, in the order of MODALITIES.

    Muting one moves the logits of all goods; the standard deviation of the move, beside the average person's, is how
    much it mattered. (A move that is the same for all goods changes no list, and does not count.)
    """
    before = likes(model, trial)
    moved = torch.stack([(likes(model, trial, (m,)) - before).std(1) for m in MODALITIES], 1)
    moved = moved / moved.mean(0).clamp(min=1e-9)
    return (moved / moved.sum(1, keepdim=True).clamp(min=1e-9)).cpu().numpy()


@torch.no_grad()
def shares_by_attention(model: M6Rec, trial: Trial, k: int = 50) -> np.ndarray:
    """Where the encoder looks in each person's k likeliest goods: (U, M), rows add up to 1."""
    looks = model.network.encode_items(weights=True).modality_weights()
    return looks[likes(model, trial).topk(k).indices].mean(1).cpu().numpy()
