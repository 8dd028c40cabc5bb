"""Held-out evaluation: how well a model ranks items and users that training has never seen.

`ColdStart` is for an `M6Rec`; `OpenDomain` for a text backbone, which ranks zero-shot or after a few events (few-shot).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from m6rec import baselines
from m6rec.config import Config
from m6rec.data.dataset import Dataset, Split
from m6rec.data.prompts import domain
from m6rec.data.text import Prompt
from m6rec.errors import InputError
from m6rec.evaluate import evaluate
from m6rec.model.text_model import TextTransformer
from m6rec.tasks.retrieval import DotProduct
from m6rec.train.text import Backbone, fine_tune

# Few-shot passes and step sizes, chosen on the validation users of bazaar's jingled garments; from scratch, separately.
PASSES, SCRATCH_RATE = 10, 3e-3
SMALL, SMALL_RATE, RATE = 30, 3e-4, 1e-3  # with fewer examples, smaller steps


class HeldOut:
    """Targets by case."""

    data: Dataset
    split: Split
    items: np.ndarray  # (n,) held-out codes
    cases: dict[str, tuple[np.ndarray, np.ndarray | None]]  # rows of data.events, the codes that are ranked (None: all)

    @property
    def chance(self) -> float:
        """The expected NDCG@10 of a random ranking of the held-out items."""
        return float((1 / np.log2(np.arange(2, 12))).sum() / len(self.items))

    def ndcg(self, models: Sequence[object], case: str | None = None, first: int | None = None) -> np.ndarray:
        """NDCG@10 (S, U): a row for each model (a seed, say), a column for each of a case's `first` targets.

        By default all targets of the first case. InputError for an unknown one.
        """
        case = next(iter(self.cases)) if case is None else case
        if case not in self.cases:
            raise InputError(f"the case {case!r} is unknown: take one of {', '.join(self.cases)}.")
        rows, pool = self.cases[case]
        split = self.split._replace(test=rows[:first])
        return np.stack([evaluate(m, self.data, split=split, pool=pool).per_user["ndcg"].to_numpy() for m in models])


class ColdStart(HeldOut):
    """Cold start: items and users (codes) of a data set are held out; `train` has the other events.

    Cases: "warm"; "cold" (known users, held-out items, ranked among these); "valid" and "valid_cold" (the same, of the
    validation part); "cold_users" (their first event, if its item is known).
    """

    def __init__(self, data: Dataset, items: np.ndarray, users: Sequence[int] = ()):
        self.data, self.split, self.items = data, data.split(), np.asarray(items)
        self.train = data.without(items, users)
        user, item = data.events["user"].to_numpy(), data.events["item"].to_numpy()
        cold, new = np.isin(item, items), np.isin(user, users)  # (E,)
        # Users with fewer than three events left are trained on to the last one, and are no targets.
        warm = ~(cold | new) & (np.diff(self.train.offsets) >= 3)[user]
        first = np.flatnonzero(np.diff(user, prepend=-1))
        cases = {
            "warm": (self.split.test, warm, None),
            "cold": (self.split.test, cold & ~new, self.items),
            "valid": (self.split.valid, warm, None),
            "valid_cold": (self.split.valid, cold & ~new, self.items),
            "cold_users": (first, new & ~cold, None),
        }
        self.cases = {case: (rows[mask[rows]], pool) for case, (rows, mask, pool) in cases.items()}

    @classmethod
    def drawn(cls, data: Dataset, share: float = 0.1, seed: int = 0) -> "ColdStart":
        """Hold out a share of the items, drawn at random."""
        return cls(data, np.random.default_rng(seed).permutation(data.n_items)[: round(share * data.n_items)])

    def baselines(self, preset: str = "small", seeds: Sequence[int] = ()) -> dict[str, list[object]]:
        """Fitted on `train`, by name; SASRec once for each seed, cached, as long as validation gets better."""
        split = self.train.split()
        counts = {"popularity": baselines.Popularity, "cooccurrence": baselines.CoOccurrence, "ease": baselines.EASE}
        fitted = {name: [model().fit(self.train, split)] for name, model in counts.items()}
        configs = [Config.preset(preset, seed=seed, pretrain_epochs=100) for seed in seeds]
        return fitted | ({"sasrec": [baselines.SASRec(c).cached(self.train, split) for c in configs]} if seeds else {})


class OpenDomain(HeldOut):
    """Items (N,) bool, and users (U,) bool, that a text backbone's training never sees; nor any event after a target.

    A target is every user's last held-out item; `valid` and `test` have half of the users each. With every item held
    out, `seen` is empty: train on another data set. Cases: "all" targets, those of known users ("cold items") and of
    cold users ("cold users and items"), and "cold users", whose last event is of an item that training knows.
    """

    def __init__(self, data: Dataset, items: np.ndarray, cold_users: np.ndarray | None = None, name: str = ""):
        user, held = data.events["user"].to_numpy(), items[data.events["item"]]
        self.data, self.items = data, np.flatnonzero(items)
        self.cold_users = np.zeros(data.n_users, bool) if cold_users is None else cold_users
        cold, target = self.cold_users[user], np.full(data.n_users, data.n_events)
        target[user[held]] = np.flatnonzero(held)  # the last one stays
        before = np.arange(data.n_events) < target[user]
        targets = np.sort(target[(target < data.n_events) & (target > data.offsets[:-1])])  # with a history
        odd = user[targets] % 2 == 1
        self.split = Split("held_out", before, targets[~odd], test := targets[odd])
        self.train = before & ~held & ~cold  # (E,) bool
        self.shots = np.flatnonzero(before & held & ~cold)  # rows that few-shot training draws from
        self.seen = domain(data, self.train, name)  # what may be trained on
        self.whole = domain(data)  # everything, row for row with data.events: histories are read from it
        known = np.unique(self.seen.item)
        last = np.append(user[1:] != user[:-1], True) & (np.diff(user, prepend=-1) == 0)  # with a history
        last &= np.isin(self.whole.item, known)
        # Nothing is cold: the last events of users who were read, if they are later than all that was read of them.
        self.warm = np.flatnonzero(last & ~self.train & ~cold)
        self.cases = {
            "all": (test, self.items),
            "cold items": (test[~cold[test]], self.items),
            "cold users and items": (test[cold[test]], self.items),
            "cold users": (np.flatnonzero(last & cold), known),
        }

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """What reads texts without learning, and popularity, which has counted the held-out items' own events."""
        models = {"text_cosine": baselines.ContentKNN(neighbours=self.data.n_items)}
        models |= {"content_knn": baselines.ContentKNN(), "popularity": baselines.Popularity()}
        return {name: model.fit(self.data, self.split) for name, model in models.items()}

    def few(self, count: int, seed: int = 0) -> list[Prompt]:
        """So many events of the held-out items, drawn by `seed`, to learn from: more are a superset of fewer."""
        return self.whole.prompts(np.random.default_rng(seed).permutation(self.shots)[:count])

    def few_shot(self, backbones: Sequence[Backbone], count: int, *, scratch: bool = False) -> list[DotProduct]:
        """A scorer of each backbone after fine-tuning on `count` events; the seed of the draw counts from 0.

        Both pretraining losses go on, among the held-out items. scratch: begin with untrained weights instead.
        """
        words, rate, scorers = sorted(set(self.whole.items[self.items])), SMALL_RATE if count < SMALL else RATE, []
        for seed, backbone in enumerate(backbones):
            if scratch:
                torch.manual_seed(seed)
                network = TextTransformer(backbone.config, len(backbone.tokenizer))
                backbone, rate = backbone._replace(network=network), SCRATCH_RATE
            tuned = fine_tune(backbone, self.few(count, seed), PASSES, rate, seed, words)
            scorers.append(DotProduct(tuned, self.whole))
        return scorers
