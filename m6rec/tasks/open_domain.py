"""Open domain: a kind of goods, or a whole site, that no training has seen, and how well it is served all the same.

Zero-shot reads it; few-shot goes on training with a handful of its events. Both pretraining losses go on then, and the
domain's items are the catalogue that is met. Passes and step sizes were chosen on the validation people of bazaar's
jingled garments, for untrained weights by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from m6rec.baselines import ContentKNN, Popularity
from m6rec.data.dataset import Dataset
from m6rec.errors import InputError
from m6rec.evaluate import evaluate
from m6rec.model.text_model import TextTransformer
from m6rec.tasks.heldout import HeldOut
from m6rec.tasks.zero_shot import Meeting
from m6rec.train.plain import Backbone, teach

PASSES, SCRATCH_RATE = 10, 3e-3
SMALL, SMALL_RATE, RATE = 30, 3e-4, 1e-3  # with fewer examples, smaller steps


class OpenDomain:
    """What is held out of a data set, and its targets (rows of events) by who is new.

    `cases`: "everyone" of whom a held-out item is asked, "goods unknown" (known people), "both unknown", and "people
    unknown", who then have an item that training knows; each with the items that are ranked.
    """

    def __init__(self, data: Dataset, out: HeldOut):
        self.data, self.out = data, out
        user, item = out.whole.user, out.whole.item
        asked, known = out.split.test, np.unique(out.seen.item)
        last = np.append(user[1:] != user[:-1], True) & (np.arange(len(user)) > data.offsets[user])
        # Nothing is new: the last events of people who were read, if they are later than all that was read of them.
        self.known = np.flatnonzero(last & ~out.train & ~out.cold_users[user] & np.isin(item, known))
        new = out.cold_users[user[asked]]
        self.cases = {
            "everyone": (asked, out.items),
            "goods unknown": (asked[~new], out.items),
            "both unknown": (asked[new], out.items),
            "people unknown": (np.flatnonzero(last & out.cold_users[user] & np.isin(item, known)), known),
        }

    @property
    def chance(self) -> float:
        """The NDCG@10 that guessing among the held-out items would have."""
        return float((1 / np.log2(np.arange(2, 12))).sum() / len(self.out.items))

    @cached_property
    def rivals(self) -> dict[str, Any]:
        """What reads texts without learning, and popularity, which has counted the held-out items' own events."""
        models = {
            "text_cosine": ContentKNN(neighbours=self.data.n_items), "content_knn": ContentKNN(),
            "popularity": Popularity(),
        }  # fmt: skip
        return {name: model.fit(self.data, self.out.split) for name, model in models.items()}

    def ndcg(self, models: Sequence[object], case: str = "everyone", first: int | None = None) -> np.ndarray:
        """NDCG@10 (S, U): a row for each model (a seed, say), a column for each target of a case or its first so many.

        InputError for another case.
        """
        if case not in self.cases:
            raise InputError(f"the case {case!r} is unknown: take one of {', '.join(self.cases)}.")
        rows, pool = self.cases[case]
        split = self.out.split._replace(test=rows[:first])
        return np.stack([evaluate(m, self.data, split=split, pool=pool).per_user["ndcg"].to_numpy() for m in models])

    def taught(self, backbones: Sequence[Backbone], count: int, *, scratch: bool = False) -> list[Meeting]:
        """A scorer of each backbone after `few_shot`, the draw's seed counted from 0."""
        some = [few_shot(made, self.out, count, scratch=scratch, seed=seed) for seed, made in enumerate(backbones)]
        return [Meeting(made, self.out.whole) for made in some]


def few_shot(made: Backbone, out: HeldOut, count: int, *, scratch: bool = False, seed: int = 0) -> Backbone:
    """Teach it `count` of the held-out domain's events, drawn by seed: more are always a superset of fewer.

    scratch: begin with untrained weights instead; the tokens are all that is left of pretraining.
    """
    items = sorted(set(out.whole.items[out.items]))
    rate = SMALL_RATE if count < SMALL else RATE
    if scratch:
        torch.manual_seed(seed)
        made, rate = (
            made._replace(network=TextTransformer(made.config, len(made.tokenizer)), key="untrained"),
            SCRATCH_RATE,
        )
    return teach(made, out.few(count, seed), PASSES, rate, seed, items)
