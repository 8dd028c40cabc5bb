"""m6rec, baselines and blends on one data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property, lru_cache, partial
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.benchmark import Timer, timer

from m6rec import Config, Dataset, M6Rec, baselines
from m6rec.config import Array, Frame
from m6rec.data.cooccurrence import following
from m6rec.data.text import words
from m6rec.evaluate import Interpolation, compare, evaluate, mid_ranks, ndcg, scored
from m6rec.model.tree import DigitDecoder, Tree, widths_for

COUNTS = {of.__name__.lower(): of for of in (baselines.Popularity, baselines.ItemKNN, baselines.EASE, baselines.Markov)}
TUNED = ("cooccurrence", "cooccurrence_content")  # counts with settings chosen on validation
METHODS = {"m6rec_no_prior": "dense", "generated": "generated", "hybrid": "hybrid"}
OURS = ("m6rec", *METHODS)
UNTIMED = {"request": False, "finetune_epochs": 0}  # no peer has the request's time; a dense head needs no digits
TRAINED = {of.__name__.lower(): of for of in (baselines.GRU4Rec, baselines.SASRec, baselines.ESASRec)}
PEERS_TRAIN = {"pretrain_epochs": 100, "patience": 6}  # validation ends training
LARGE = 5_000  # items from which on Beauty's SETTINGS hold, chosen on its validation
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
Rows = dict[str, list[Frame]]  # name -> `Evaluation.per_user` of the test targets, for each seed


class Bench:
    """`models[name](seed)` makes what is ranked; add your own. changes: of the preset."""

    def __init__(self, data: Dataset, preset: str = "small", seeds: Sequence[int] = (0,), **changes: object):
        self.data, self.preset, self.seeds, self.split = data, preset, tuple(seeds), data.split()
        self.changes = {**(SETTINGS if data.n_items >= LARGE else {}), **changes}
        events = np.sort(np.random.default_rng(0).permutation(self.split.valid)[:5_000])
        self._chunks = [data.targets(events[start : start + 256]) for start in range(0, len(events), 256)]
        self._grid = GRID | CONTENT if any(map(words, data.items["text"])) else GRID
        pairs = cache(partial(following, data, self.split))
        # A search moves one setting at a time.
        self._count = lru_cache(4)(lambda **at: baselines.CoOccurrence(**at).weigh(pairs(at["window"], at["decay"])))
        self._near = lru_cache(4)(lambda neighbours: baselines.ContentKNN(neighbours).fit(data, self.split))
        self._cached = lru_cache(4)(remembered)
        self.model = cache(lambda seed, **more: M6Rec.cached(data, preset, seed=seed, **{**self.changes, **more}))
        blends = cache(lambda **more: self.blend([self._scorer("dense", seed, **more) for seed in self.seeds]))
        self.models: dict[str, Callable[[int], object]] = {
            **{name: lambda seed, of=of: of().fit(data, self.split) for name, of in COUNTS.items()},
            "cooccurrence": lambda seed: self.cooccurrence(),
            "cooccurrence_content": lambda seed: self.prior(),
            "m6rec": lambda seed, **more: blends(**more)[self.seeds.index(seed)],
            **{name: partial(self._scorer, method) for name, method in METHODS.items()},
        }
        for name in ("m6rec", "m6rec_no_prior") if data.timed else ():
            self.models[name.replace("m6rec", "m6rec_no_request_time")] = partial(self.models[name], **UNTIMED)
        config = partial(Config.preset, preset, **{**self.changes, **PEERS_TRAIN})
        for name, of in TRAINED.items():
            self.models[name] = lambda seed, of=of: of(config(seed=seed)).fit(data, self.split, keep=True)

    def rows(self, names: Iterable[str], seeds: Sequence[int] | None = None) -> Rows:
        """Seen items are masked. Counts have one seed."""
        found, seeds = {}, self.seeds if seeds is None else seeds
        for name in names:
            made = [self.models[name](seed) for seed in (seeds[:1] if name in (*COUNTS, *TUNED) else seeds)]
            found[name] = [evaluate(model, self.data, split=self.split).per_user for model in made]
        return found

    def cooccurrence(self) -> baselines.CoOccurrence:
        """With the settings that are best on validation."""
        return self._count(**self._alone)

    def prior(self) -> baselines.Mixture:
        """The count mixed with content-kNN, with the settings that are best on validation when it ranks alone."""
        return self._mixture(self._mixed)

    def blend(self, models: Sequence[object]) -> list[Interpolation]:
        """Models, each with a prior; its settings and weight are one choice, by the mean on validation."""
        own = [remembered(model) for model in models]

        def score(at):
            prior = remembered(self._mixture(at, self._cached))
            return float(np.mean([self._valid(Interpolation(model, prior, at["weight"])) for model in own]))

        starts = ({**START, **NO_CONTENT}, self._mixed)  # two, since a search ends at a local maximum
        grid = {"weight": WEIGHTS, **self._grid}
        found = max((coordinate_ascent(score, {"weight": 1.0, **start}, grid) for start in starts), key=score)
        return [Interpolation(model, self._mixture(found), found["weight"]) for model in models]

    def _valid(self, model: object) -> float:
        """NDCG@10 as `evaluate`'s, on at most 5,000 validation targets."""
        ranks = [mid_ranks(scored(model, users), users, mask_seen=True) for users in self._chunks]
        return float(ndcg(np.concatenate(ranks)).mean())

    def _scorer(self, method: str, seed: int, **more: object) -> object:
        return self.model(seed, **more).scorer(method)

    @cached_property
    def _alone(self) -> dict[str, float]:
        return coordinate_ascent(lambda at: self._valid(self._count(**at)), START, GRID)

    @cached_property
    def _mixed(self) -> dict[str, float]:
        start = {**self._alone, **NO_CONTENT}
        return coordinate_ascent(lambda at: self._valid(self._mixture(at, self._cached)), start, self._grid)

    def _mixture(self, at: dict[str, float], wrapped: Callable = lambda part: part) -> baselines.Mixture:
        parts = [(wrapped(self._count(**{name: at[name] for name in START})), 1 - at["content"])]
        if at["content"]:
            parts.append((wrapped(self._near(at["neighbours"])), at["content"]))
        return baselines.Mixture(parts)


def remembered(model: object) -> SimpleNamespace:
    """Keeps the scores of each `Targets`."""
    return SimpleNamespace(scores=cache(lambda users: torch.as_tensor(model.scores(users)).cpu()))


def coordinate_ascent(
    score: Callable[[dict[str, float]], float], start: Mapping[str, float], grid: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Move each setting in turn along its grid while the score rises, until no step helps."""
    value = cache(lambda *settings: score(dict(zip(start, settings, strict=True))))
    best, before = dict(start), None
    while best != before:
        before = best
        for name, steps in grid.items():
            for ordered in (steps[::-1], steps):
                for step in ordered[ordered.index(best[name]) + 1 :]:
                    if not value(*(best | {name: step}).values()) > value(*best.values()):
                        break
                    best = best | {name: step}
    return best


def per_user(rows: Rows, metric: str = "ndcg") -> dict[str, Array]:
    """name -> (seeds, U)."""
    return {name: np.stack([found[metric] for found in each]) for name, each in rows.items()}


def summary(rows: Rows) -> Frame:
    columns = {"NDCG@10": per_user(rows), "HR@10": per_user(rows, "hit")}
    means = {label: {name: values.mean() for name, values in found.items()} for label, found in columns.items()}
    return Frame(means).assign(seeds=[len(each) for each in rows.values()])


def versus(rows: Rows) -> Frame:
    """m6rec against its peers, the best first: `m6rec.evaluate.compare`."""
    found = per_user(rows)
    peers = {name: values for name, values in found.items() if name not in OURS and not name.startswith("m6rec")}
    return compare(found["m6rec"], peers).sort_values("peer_mean", ascending=False)


def synthetic_decoder(items: int, width: int = 64) -> tuple[DigitDecoder, torch.Tensor]:
    """To time: a decoder over random item vectors (N, width) in a balanced tree, and these."""
    vectors, widths = torch.randn(items, width), widths_for(items, 3, free=0.15)
    leaves = np.arange(items) * np.prod(widths) // items
    decoder = DigitDecoder(Config(width=width), widths, items)
    decoder.init_from_tree(Tree.of(np.stack(np.unravel_index(leaves, widths), 1)), vectors)
    return decoder.eval(), vectors


def milliseconds(
    run: Callable[[], object], seconds: float, clock: Callable[[], float] = timer, *, threads: int = 0
) -> Array:
    """Of a call, for each block of calls in so many seconds. threads: 0 for PyTorch's."""
    measured = Timer("run()", globals={"run": run}, timer=clock, num_threads=threads or torch.get_num_threads())
    return 1000 * np.array(measured.blocked_autorange(min_run_time=seconds).times)
