"""The bench: m6rec and every peer on the same events, one row each, and what they say of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from m6rec import baselines
from m6rec.baselines import ContentKNN, CoOccurrence
from m6rec.config import Config
from m6rec.data.cooccurrence import following
from m6rec.data.dataset import Dataset
from m6rec.data.text import clean
from m6rec.evaluate import Averaged, Blended, Once, climb, compare, evaluate, judge
from m6rec.generate.beam import generate
from m6rec.recommender import M6Rec
from m6rec.runs.bench.outside import PEERS
from m6rec.runs.bench.rows import Fitted, Row, outside_row, row

if TYPE_CHECKING:  # else each edit of trials would make all rows stale
    from m6rec.explain.trial import Trial

COUNTS = {
    "popularity": baselines.Popularity,
    "itemknn": baselines.ItemKNN,
    "ease": baselines.EASE,
    "markov": baselines.Markov,
}
CHOSEN = ("cooccurrence", "cooccurrence_content")  # with settings that are chosen on validation
TRAINED = {
    "gru4rec": baselines.GRU4Rec,
    "sasrec": baselines.SASRec,
    "esasrec": baselines.ESASRec,
    "tiger": baselines.Tiger,
}
SLOW = ("tiger",)  # of one seed: its validation generates, which takes a quarter of an hour on ML-100K
START = {"window": 10, "decay": 0.8, "backward": 0.3, "row": 0.5, "col": 0.3, "profile_decay": 0.8}
GRID = {  # the co-occurrence count's settings among which validation chooses
    "row": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "col": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "profile_decay": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95), "decay": (0.6, 0.7, 0.8, 0.9, 0.95),
    "backward": (0.1, 0.3, 0.5, 0.7, 0.9), "window": (5, 10, 20, 40),
}  # fmt: skip
NONE = {"content": 0.0, "neighbours": 100}  # of the content-kNN that is mixed into the count: its share and its size
CONTENT = {"content": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "neighbours": (30, 100, 300)}
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # of the prior in a blend
OURS = ("m6rec", "m6rec_no_prior", "generated", "hybrid")
ENSEMBLE = "m6rec_ensemble"  # of all seeds, with the prior
BLENDED = ("m6rec", "m6rec_no_request_time", ENSEMBLE)  # with a prior that is chosen for all seeds at once
LARGE = 5_000  # items from which on the settings below hold: Beauty's, chosen on its validation
SETTINGS = {
    "history": 50, "batch": 128, "width": 128, "spectral": 0.05, "smoothing": 0.0, "dropout": 0.4, "weight_decay": 0.3,
    "learning_rate": 2e-3, "pretrain_epochs": 6, "finetune_epochs": 6, "validate_every": 1, "patience": 2,
}  # fmt: skip
KEPT = 4  # counts, and their scores of the validation targets, that a climb keeps at hand
LIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # of items never seen in training, in hybrid lists
BATCH = 500  # lists that are generated at a time
PEERS_TRAIN = {"pretrain_epochs": 100, "patience": 6}  # the trained baselines: until validation ends it


class Bench:
    """One data set, one split, one size: `rows` measures what is asked for and says so, a line per model.

    seeds: one training each, of m6rec; peer_seeds: of trained baselines (SLOW ones: the first), by default the same.
    """

    def __init__(
        self,
        data: Dataset,
        preset: str = "small",
        seeds: Sequence[int] = (0,),
        say: Callable[[str], Any] = print,
        peer_seeds: Sequence[int] | None = None,
        **changes: Any,
    ):
        self.data, self.preset, self.seeds, self.say = data, preset, tuple(seeds), say
        self.peer_seeds = self.seeds if peer_seeds is None else tuple(peer_seeds)
        self.changes = {**(SETTINGS if data.n_items >= LARGE else {}), **changes}
        self.split = data.split()
        self._judge = judge(data, self.split)
        self._following = cache(partial(following, data, self.split))
        self._count = lru_cache(KEPT)(lambda **at: CoOccurrence(**at).weigh(self._following(at["window"], at["decay"])))
        self._near = lru_cache(KEPT)(lambda neighbours: ContentKNN(neighbours).fit(data, self.split))
        self._once = lru_cache(KEPT)(Once)
        self._models: dict[str, M6Rec] = {}
        self._blends: dict[str, list[Blended]] = {}

    def rows(self, names: Sequence[str], **options: Any) -> Iterator[Row]:
        """A row a model and seed; counts and outside code have one seed. options: of `outside.run` (cap, threads)."""
        for name in names:
            for seed in self._seeds(name):
                if name in PEERS:
                    done = outside_row(name, self.data, self.split, say=self.say, **options)
                else:
                    settings = [self._config(s).fingerprint for s in (self.seeds if name in BLENDED else (seed,))]
                    done = row(name, seed, lambda n=name, s=seed: self._fit(n, s), self.data, self.split, *settings)
                found = done.note if done.ranks is None else f"NDCG@10 {done.ndcg().mean():.4f}, {done.seconds:.0f} s"
                self.say(f"{name}, seed {seed}: {found}")
                yield done

    def _seeds(self, name: str) -> Sequence[int]:
        if name in TRAINED:
            return self.peer_seeds[:1] if name in SLOW else self.peer_seeds
        return self.seeds if name in (*OURS, *self._without_time) else (0,)

    @property
    def _without_time(self) -> tuple[str, ...]:
        """Where events have a time, also m6rec without the request's own, which peers do not use."""
        return ("m6rec_no_request_time", "m6rec_no_request_time_no_prior") if self.data.timed else ()

    @property
    def names(self) -> tuple[str, ...]:
        """All rows but the outside ones."""
        ensemble = (ENSEMBLE,) if len(self.seeds) > 1 else ()
        return (*COUNTS, *CHOSEN, *OURS, *ensemble, *self._without_time, *TRAINED)

    def cooccurrence(self) -> CoOccurrence:
        """The co-occurrence count, with the settings that are best on validation."""
        return self._count(**self._alone)

    def prior(self) -> baselines.Mixture:
        """That count mixed with content-kNN, with the settings that are best on validation when it ranks alone."""
        return self._mixture(self._mixed)

    def blend(self, models: Sequence[Any]) -> list[Blended]:
        """Models with a prior, each; its settings and weight are one choice for all, by their mean on validation.

        The prior's best settings alone need not add most, and a choice of each seed's own follows that seed's luck.
        """
        own = [Once(model) for model in models]

        def score(at: dict[str, float]) -> float:
            prior = Once(self._remembered(at))
            return float(np.mean([self._judge(Blended(model, prior, at["weight"])) for model in own]))

        # Two starts, for a climb ends on the hill that it starts on.
        ends = [
            climb(score, {"weight": 1.0, **start}, {"weight": WEIGHTS, **self._grid})
            for start in ({**START, **NONE}, self._mixed)
        ]
        found = max(ends, key=score)
        return [Blended(model, self._mixture(found), found["weight"]) for model in models]

    @cached_property
    def _alone(self) -> dict[str, float]:
        return climb(lambda settings: self._judge(self._count(**settings)), START, GRID)

    @cached_property
    def _mixed(self) -> dict[str, float]:
        return climb(lambda settings: self._judge(self._remembered(settings)), {**self._alone, **NONE}, self._grid)

    @cached_property
    def _grid(self) -> dict[str, Sequence[float]]:
        """Without words there is no content to mix."""
        words = self.data.items["text"].map(clean).str.contains(r"\w").any()
        return {**GRID, **(CONTENT if words else {})}

    def _mixture(self, settings: dict[str, float]) -> baselines.Mixture:
        parts = [(self._count(**{name: settings[name] for name in START}), 1 - settings["content"])]
        if settings["content"]:
            parts.append((self._near(settings["neighbours"]), settings["content"]))
        return baselines.Mixture(parts)

    def _remembered(self, settings: dict[str, float]) -> baselines.Mixture:
        """The same, of parts whose scores are kept, for a climb moves one setting at a time."""
        return baselines.Mixture([(self._once(part), share) for part, share in self._mixture(settings).parts])

    def model(self, seed: int, **changes: Any) -> M6Rec:
        """m6rec itself: the one that stands here, or from the cache, or trained now."""
        config = self._config(seed, **changes)
        if config.fingerprint not in self._models:
            made = M6Rec.cached(self.data, self.preset, seed=seed, **{**self.changes, **changes})
            self._models[config.fingerprint] = made
        return self._models[config.fingerprint]

    def _config(self, seed: int, **changes: Any) -> Config:
        return Config.preset(self.preset, seed=seed, **{**self.changes, **changes})

    def _fit(self, name: str, seed: int) -> Fitted:
        if name in COUNTS:
            return Fitted(COUNTS[name]().fit(self.data, self.split), 0.0)
        if name == "cooccurrence":
            return Fitted(self.cooccurrence(), 0.0)
        if name == "cooccurrence_content":
            return Fitted(self.prior(), 0.0)
        if name in TRAINED:
            config = self._config(seed, **PEERS_TRAIN)
            fitted = TRAINED[name](config).cached(self.data, self.split)
            return Fitted(fitted, fitted.log[-1].seconds, fitted.parameters)
        # Without the request's time only the dense head is asked, which needs no digits.
        changes = {"request": False, "finetune_epochs": 0} if "no_request_time" in name else {}
        if name == ENSEMBLE:
            return Fitted(self.blend([Averaged([self.model(s).scorer("dense") for s in self.seeds])])[0], 0.0)
        model = self.model(seed, **changes)
        scorer = model.scorer(name if name in ("generated", "hybrid") else "dense")
        if name in BLENDED:
            if name not in self._blends:
                self._blends[name] = self.blend([self.model(s, **changes).scorer("dense") for s in self.seeds])
            scorer = self._blends[name][self.seeds.index(seed)]
        seconds = sum(epochs[-1].seconds for epochs in model.stages.values() if epochs)
        return Fitted(scorer, seconds, sum(p.numel() for p in model.network.parameters()))


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    """A line a model, seeds averaged: NDCG@10 and HR@10 masked and not, seconds, parameters, speed, memory, seeds."""
    lines = {}
    for name, runs in by_name(rows).items():
        lines[name] = {
            "NDCG@10": np.mean([r.ndcg().mean() for r in runs]),
            "HR@10": np.mean([r.hit().mean() for r in runs]),
            "NDCG@10 unmasked": np.mean([r.ndcg(False).mean() for r in runs]),
            "seconds": np.mean([r.seconds for r in runs]),
            "parameters": runs[0].parameters,
            "lists/s": np.mean([r.lists_per_second for r in runs]) or np.nan,
            "peak MB": runs[0].memory / 1e6 or np.nan,
            "seeds": len(runs),
        }
    return pd.DataFrame(lines).T


def versus(rows: Sequence[Row], ours: str = "m6rec") -> pd.DataFrame:
    """Ours against every row that is not ours, paired over users, Holm-corrected (`m6rec.evaluate.compare`)."""
    per_user = {name: np.stack([r.ndcg() for r in runs]) for name, runs in by_name(rows).items()}
    peers = {name: values for name, values in per_user.items() if name not in OURS and not name.startswith("m6rec")}
    return compare(per_user[ours], peers)


def lead(against: pd.DataFrame) -> float:
    """The lower, Holm-corrected end of the difference to the best of the peers that `versus` met."""
    return float(against.loc[against["peer_mean"].idxmax(), "holm_low"])


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """table.csv, versus.csv, and what failed into failed.txt, in a folder; -> the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"table.csv": summary(rows).to_csv(), "versus.csv": versus(rows).to_csv()}
    if failed := [f"{r.name}: {r.note}" for r in rows if r.ranks is None]:
        files["failed.txt"] = "\n".join(failed) + "\n"
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in files]


def by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for r in rows:
        if r.ranks is not None:
            found.setdefault(r.name, []).append(r)
    return found


def balanced_lift(model: M6Rec, films: Trial) -> float:
    """The lift of new items in hybrid lists by validation: the best product of two NDCG@10, of known and new targets.

    What helps one of the two costs the other, and a product asks for the best exchange, share by share: a sum would
    forget the kind with the smaller figures, or give up the other for it.
    """

    def both(lift: float) -> float:
        scorer, product = model.scorer("hybrid", lift=lift), 1.0
        for kind in ("valid", "valid_cold"):
            part = films.split._replace(test=films.events[kind])
            product *= evaluate(scorer, films.data, split=part).metrics["ndcg@10"]
        return product

    return max(LIFTS, key=both)


@torch.no_grad()
def invalid(model: M6Rec, lists: int, k: int = 10, seed: int = 0) -> int:
    """How many generated items repeat one of their list or were not allowed: drawn states, half of the items closed."""
    generator, decoder, wrong = torch.Generator().manual_seed(seed), model.network.digits, 0
    for size in [BATCH] * (lists // BATCH):
        state = torch.randn(size, model.config.width, generator=generator)
        allowed = torch.rand(size, model.data.n_items, generator=generator) < 0.5
        items = generate(decoder, state.to(model.device), k, beam=k, allowed=allowed.to(model.device)).items.cpu()
        ordered = items.sort(1).values
        wrong += int((~allowed.gather(1, items)).sum()) + int((ordered[:, 1:] == ordered[:, :-1]).sum())
    return wrong
