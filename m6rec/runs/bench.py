"""m6rec, its baselines and their blends on one data set."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer, timer

from m6rec import baselines
from m6rec.config import Config
from m6rec.data.cooccurrence import following
from m6rec.data.dataset import Dataset, Split
from m6rec.data.text import words
from m6rec.evaluate import Interpolation, compare, evaluate
from m6rec.evaluate.ranking import coordinate_ascent, remembered, validation_ndcg
from m6rec.model.network import DigitDecoder
from m6rec.model.tree import Tree, widths_for
from m6rec.recommender import M6Rec
from m6rec.tasks.heldout import ColdStart
from m6rec.train import losses
from m6rec.train.fit import fit

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes to stderr

COUNTS = {of.__name__.lower(): of for of in (baselines.Popularity, baselines.ItemKNN, baselines.EASE, baselines.Markov)}
TUNED = ("cooccurrence", "cooccurrence_content")  # counts with settings chosen on validation
OURS = ("m6rec", "m6rec_no_prior", "generated", "hybrid")
UNTIMED = ("m6rec_no_request_time", "m6rec_no_request_time_no_prior")  # no peer uses the request's own time
TRAINED = {of.__name__.lower(): of for of in (baselines.GRU4Rec, baselines.SASRec, baselines.ESASRec)}
PEERS_TRAIN = {"pretrain_epochs": 100, "patience": 6}  # validation ends training
LARGE = 5_000  # items from which on SETTINGS hold: Beauty's, chosen on its validation
SETTINGS = {
    "history": 50, "batch": 128, "width": 128, "spectral": 0.05, "smoothing": 0.0, "dropout": 0.4, "weight_decay": 0.3,
    "learning_rate": 2e-3, "pretrain_epochs": 6, "finetune_epochs": 6, "validate_every": 1, "patience": 2,
}  # fmt: skip
START = {"window": 10, "decay": 0.8, "backward": 0.3, "row": 0.5, "col": 0.3, "profile_decay": 0.8}
GRID = {
    "row": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "col": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "profile_decay": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95), "decay": (0.6, 0.7, 0.8, 0.9, 0.95),
    "backward": (0.1, 0.3, 0.5, 0.7, 0.9), "window": (5, 10, 20, 40),
}  # fmt: skip
NO_CONTENT = {"content": 0.0, "neighbours": 100}  # share and size of the content-kNN in the count
CONTENT = {"content": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "neighbours": (30, 100, 300)}
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # of the prior in a blend
BOOSTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # of cold items in hybrid lists


class Row(NamedTuple):
    """One model on the test targets, in their order."""

    name: str
    seed: int
    ndcg: np.ndarray  # (U,) NDCG@10, seen items masked
    hit: np.ndarray  # (U,) HR@10
    seconds: float  # of training
    parameters: int


def rank(
    name: str, seed: int, model: Any, data: Dataset, split: Split | None = None, seconds: float = 0, parameters: int = 0
) -> Row:
    found = evaluate(model, data, split=split).per_user
    return Row(name, seed, found["ndcg"].to_numpy(), found["hit"].to_numpy(), seconds, parameters)


class Bench:
    """`models` can be measured, `rows` measures those that are named.

    seeds: one training each, of m6rec; peer_seeds: of trained baselines, by default the same.
    """

    def __init__(
        self, data: Dataset, preset: str = "small", seeds: Sequence[int] = (0,),
        peer_seeds: Sequence[int] | None = None, **changes: Any,
    ):  # fmt: skip
        self.data, self.preset, self.seeds, self.split = data, preset, tuple(seeds), data.split()
        ours = (*OURS, *(UNTIMED if data.timed else ()))
        peers = self.seeds if peer_seeds is None else tuple(peer_seeds)
        self.models = dict.fromkeys((*COUNTS, *TUNED), (0,)) | dict.fromkeys(ours, self.seeds)
        self.models |= dict.fromkeys(TRAINED, peers)
        self.changes = {**(SETTINGS if data.n_items >= LARGE else {}), **changes}
        self._valid = validation_ndcg(data, self.split)
        self._grid = GRID | CONTENT if any(map(words, data.items["text"])) else GRID
        pairs = cache(partial(following, data, self.split))
        # A search moves one setting at a time: the last counts and scores are kept.
        self._count = lru_cache(4)(lambda **at: baselines.CoOccurrence(**at).weigh(pairs(at["window"], at["decay"])))
        self._near = lru_cache(4)(lambda neighbours: baselines.ContentKNN(neighbours).fit(data, self.split))
        self._cached = lru_cache(4)(remembered)
        self.model = cache(lambda seed, **more: M6Rec.cached(data, preset, seed=seed, **{**self.changes, **more}))
        self._blends = cache(lambda **more: self.blend([self.model(s, **more).scorer("dense") for s in self.seeds]))

    def rows(self, names: Iterable[str]) -> Iterator[Row]:
        for name in names:
            for seed in self.models[name]:
                begun = time.perf_counter()
                model, seconds, network = self._fitted(name, seed)
                seconds = seconds or time.perf_counter() - begun
                parameters = sum(p.numel() for p in network.parameters()) if network else 0
                yield rank(name, seed, model, self.data, self.split, seconds, parameters)

    def cooccurrence(self) -> baselines.CoOccurrence:
        """The count, with the settings that are best on validation."""
        return self._count(**self._alone)

    def prior(self) -> baselines.Mixture:
        """The count mixed with content-kNN, with the settings that are best on validation when it ranks alone."""
        return self._mixture(self._mixed)

    def blend(self, models: Sequence[Any]) -> list[Interpolation]:
        """Models with a prior, each; its settings and weight are one choice for all, by their mean on validation."""
        own = [remembered(model) for model in models]

        def score(at: dict[str, float]) -> float:
            prior = remembered(self._mixture(at, self._cached))
            return float(np.mean([self._valid(Interpolation(model, prior, at["weight"])) for model in own]))

        starts = ({**START, **NO_CONTENT}, self._mixed)  # two, since a search ends at a local maximum
        grid = {"weight": WEIGHTS, **self._grid}
        found = max((coordinate_ascent(score, {"weight": 1.0, **start}, grid) for start in starts), key=score)
        return [Interpolation(model, self._mixture(found), found["weight"]) for model in models]

    def _fitted(self, name: str, seed: int) -> tuple[Any, float, nn.Module | None]:
        """What is ranked, its seconds of training (0: as long as making it takes) and network."""
        if name in COUNTS:
            return COUNTS[name]().fit(self.data, self.split), 0, None
        if name in TUNED:
            return self.cooccurrence() if name == "cooccurrence" else self.prior(), 0, None
        if name in TRAINED:
            config = Config.preset(self.preset, seed=seed, **{**self.changes, **PEERS_TRAIN})
            peer = TRAINED[name](config).fit(self.data, self.split, keep=True)
            return peer, peer.log[-1].seconds, peer.network
        # Only the dense head is ranked, which needs no digits.
        changes = {"request": False, "finetune_epochs": 0} if name in UNTIMED else {}
        model = self.model(seed, **changes)
        if name in ("m6rec", "m6rec_no_request_time"):
            scorer = self._blends(**changes)[self.seeds.index(seed)]
        else:
            scorer = model.scorer("dense" if name.endswith("no_prior") else name)
        seconds = sum(epochs[-1].seconds for epochs in model.stages.values() if epochs)
        return scorer, seconds, model.network

    @cached_property
    def _alone(self) -> dict[str, float]:
        return coordinate_ascent(lambda at: self._valid(self._count(**at)), START, GRID)

    @cached_property
    def _mixed(self) -> dict[str, float]:
        start = {**self._alone, **NO_CONTENT}
        return coordinate_ascent(lambda at: self._valid(self._mixture(at, self._cached)), start, self._grid)

    def _mixture(self, at: dict[str, float], wrapped: Callable[[Any], Any] = lambda part: part) -> baselines.Mixture:
        parts = [(wrapped(self._count(**{name: at[name] for name in START})), 1 - at["content"])]
        if at["content"]:
            parts.append((wrapped(self._near(at["neighbours"])), at["content"]))
        return baselines.Mixture(parts)


def per_user(rows: Sequence[Row], metric: str = "ndcg") -> dict[str, np.ndarray]:
    """name -> (seeds, U)."""
    names = dict.fromkeys(row.name for row in rows)
    return {name: np.stack([getattr(row, metric) for row in rows if row.name == name]) for name in names}


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    columns = {"NDCG@10": "ndcg", "HR@10": "hit", "seconds": "seconds", "parameters": "parameters"}
    found = {label: [np.mean(getattr(row, metric)) for row in rows] for label, metric in columns.items()}
    by_model = pd.DataFrame(found).groupby([row.name for row in rows], sort=False)
    return by_model.mean().assign(seeds=by_model.size())


def versus(rows: Sequence[Row], ours: str = "m6rec") -> pd.DataFrame:
    """Ours against every other model, paired over users, Holm-corrected (`m6rec.evaluate.compare`)."""
    found = per_user(rows)
    return compare(found[ours], {n: v for n, v in found.items() if n not in OURS and not n.startswith("m6rec")})


def lead(against: pd.DataFrame) -> float:
    """The lower, Holm-corrected end of the difference to the best peer in `versus`."""
    return float(against.loc[against["peer_mean"].idxmax(), "holm_low"])


def tune_cold_boost(model: M6Rec, films: ColdStart) -> float:
    """The score bonus of cold items in hybrid lists with the best product of warm and cold validation NDCG@10."""
    splits = [films.split._replace(test=films.cases[case][0]) for case in ("valid", "valid_cold")]

    def both(boost: float) -> float:
        scorer = model.scorer("hybrid", cold_boost=boost)
        return float(np.prod([evaluate(scorer, films.data, split=s).metrics["ndcg@10"] for s in splits]))

    return max(BOOSTS, key=both)


def learning_curve(data: Dataset, config: Config) -> list[tuple[float, float]]:
    """After each epoch: seconds of training, and validation NDCG@10 with nothing masked, as outside peers validate."""
    model = M6Rec(data, config=config)

    def validate(network: nn.Module) -> float:
        scorer = model.scorer("dense", network=network)
        return evaluate(scorer, data, split=model.split, part="valid", mask_seen=False).metrics["ndcg@10"]

    stage = model.stage("pretrain", config.pretrain_epochs, losses.pretraining, "dense")._replace(validate=validate)
    return [(row.seconds, row.validation) for row in fit(model.network, stage, config) if row.validation is not None]


def synthetic_decoder(items: int, width: int = 64) -> tuple[DigitDecoder, Tensor]:
    """A digit decoder over random item vectors (N, width) in a balanced tree, and these, to measure speed."""
    vectors, widths = torch.randn(items, width), widths_for(items, 3, free=0.15)
    leaves = np.arange(items) * np.prod(widths) // items
    decoder = DigitDecoder(Config(width=width), widths, items)
    decoder.init_from_tree(Tree.of(np.stack(np.unravel_index(leaves, widths), 1)), vectors)
    return decoder.eval(), vectors


def milliseconds(run: Callable[[], Any], seconds: float, clock: Callable[[], float] = timer) -> np.ndarray:
    """Of a call in each block of calls, over at least so many seconds."""
    measured = Timer("run()", globals={"run": run}, timer=clock, num_threads=torch.get_num_threads())
    return 1000 * np.array(measured.blocked_autorange(min_run_time=seconds).times)
