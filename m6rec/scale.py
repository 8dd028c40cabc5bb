"""How much a notebook computes: `smoke` proves that it runs, `quick` teaches in a minute, `full` is reported."""

from typing import NamedTuple

from m6rec.data import Dataset, load
from m6rec.errors import InputError
from m6rec.recommender import M6Rec


class Scale(NamedTuple):
    """A size by name; `m6rec.scale("quick", seed=0)` makes one."""

    name: str
    seeds: tuple[int, ...]  # one training each
    preset: str
    changes: dict[str, object]  # to the preset
    users: int | None  # a subset of whole users, or None for all

    def load(self, name: str) -> Dataset:
        """The data set, or at smoke scale a part of it with all of its items."""
        data = load(name)
        return data if self.users is None else data.subset(self.users)

    def model(self, data: Dataset, *, seed: int | None = None, **changes: object) -> M6Rec:
        """A trained model of this size, from the cache or trained now: it says which."""
        seed = self.seeds[0] if seed is None else seed
        return M6Rec.cached(data, self.preset, seed=seed, **{**self.changes, **changes})


def scale(name: str, seed: int = 0) -> Scale:
    """smoke: 60 users, two epochs. quick: everyone, the tiny preset. full: the small preset, three seeds."""
    smoke = {"pretrain_epochs": 1, "finetune_epochs": 1, "validate_every": 1}
    sizes = {
        "smoke": Scale("smoke", (seed,), "tiny", smoke, 60),
        "quick": Scale("quick", (seed,), "tiny", {}, None),
        "full": Scale("full", (seed, seed + 1, seed + 2), "small", {}, None),
    }
    if name not in sizes:
        raise InputError(f'scale="{name}" is unknown: take {", ".join(sizes)}.')
    return sizes[name]
