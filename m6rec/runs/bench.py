"""m6rec, baselines and blends on one data set."""

import copy
import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.benchmark import Timer, timer

from m6rec import Config, Dataset, M6Rec, baselines
from m6rec.config import Array, Frame
from m6rec.data.cooccurrence import following
from m6rec.data.dataset import Split
from m6rec.data.text import words
from m6rec.evaluate import Interpolation, evaluate, mean_interval, mid_ranks, ndcg, scored
from m6rec.model.tree import DigitDecoder, Tree, widths_for
from m6rec.record import Figure, record
from m6rec.train.fit import Log

SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
COUNTS = (baselines.Popularity, baselines.ItemKNN, baselines.EASE, baselines.RP3Beta)
COUNTS = {of.__name__.lower(): of for of in COUNTS} | {"markov": baselines.Markov}
METHODS = "dense", "generated", "hybrid"
TRAINED = {of.__name__.lower(): of for of in (baselines.GRU4Rec, baselines.SASRec, baselines.ESASRec, baselines.BSARec)}


class Entry(NamedTuple):
    make: Callable[[int], Any]  # seed -> what is ranked
    inputs: str = "ids"  # what it reads
    seeds: int | None = None  # at most


class Table(NamedTuple):
    rows: Frame
    per_user: dict[str, dict[str, Array]]  # name -> column of `Evaluation.per_user` -> (seeds, U)

    def record(self, start: str, column: str = "ndcg") -> dict[str, Figure]:
        """Of each row."""
        rows = self.per_user.items()
        return {n: record(f"{start}.{n}", per_user=v[column], label=self.rows["inputs"][n]) for n, v in rows}


def bench(
    models: Mapping[str, Any], data: Dataset, seeds: Sequence[int] = (0,), split: str | Split = "leave_one_out",
    **options,
) -> Table:  # fmt: skip
    """Rank all models on the same targets. models: name -> an `Entry`, or a fitted model with scores(users).

    options: of `evaluate`. low, high: NDCG's 95 % interval over users and seeds."""
    rows, per_user, split = {}, {}, data.split(split) if isinstance(split, str) else split
    for name, entry in models.items():
        if not isinstance(entry, Entry):
            entry = Entry(lambda _, model=entry: model, getattr(entry, "inputs", "–"), 1)
        found = [evaluate(entry.make(seed), data, split=split, **options) for seed in seeds[: entry.seeds]]
        columns = found[0].per_user.columns[2:]
        per_user[name] = {column: np.stack([one.per_user[column] for one in found]) for column in columns}
        _, low, high, *_ = mean_interval(per_user[name]["ndcg"])
        means = Frame([one.metrics for one in found]).mean()
        rows[name] = {"inputs": entry.inputs, "seeds": len(found), **means, "low": low, "high": high}
    return Table(Frame.from_dict(rows, "index"), per_user)


class Bench:
    """The models that are compared on one data set: `entries`, for `bench`.

    changes: of the preset, for all networks. Each has `settings`: those `carried_over`, or what `search` finds.
    tuned_on: at most so many validation targets decide counts and blends. extra: at most so many seeds for other inputs
    than the main ones, and for refits."""

    def __init__(
        self, data: Dataset, preset: str = "small", seeds: Sequence[int] = (0,), split: str = "leave_one_out",
        tuned_on: int = 5_000, extra: int | None = None, **changes: object,
    ):  # fmt: skip
        self.data, self.preset, self.seeds, self.split = data, preset, tuple(seeds), data.split(split)
        self.changes = changes
        own = {name: getattr(Config.preset(preset), name) for name in ("history", "batch")}
        self.published = {name: [own | one for one in starts] for name, starts in SETTINGS["published"].items()}
        self.settings = {name: self.carried_over(name) for name in self.published}
        self.inputs = [*SETTINGS["inputs"]][: 4 if data.timed else 2]
        self.main = self.inputs[1 + data.timed]
        events = np.sort(np.random.default_rng(0).permutation(self.split.valid)[:tuned_on])
        self._chunks = [data.targets(events[start : start + 256]) for start in range(0, len(events), 256)]
        self._still = {} if any(map(words, data.items["text"])) else {"content": 0.0}
        share, pairs = baselines.shares(data, self.split), cache(partial(following, data, self.split))
        self._count = lru_cache(4)(
            lambda **at: baselines.CoOccurrence(**at).weigh(pairs(at["window"], at["decay"]), share)
        )
        self._near = lru_cache(4)(lambda neighbours: baselines.ContentKNN(neighbours).fit(data, self.split))
        self._cached, self._tuned = lru_cache(4)(remembered), cache(self._tune)
        self._features = cache(self._features)
        self.model, self.trained = cache(self.model), cache(self.trained)
        most = dict.fromkeys(self.inputs, extra) | {self.main: None}
        self._blends = cache(
            lambda name, inputs: self.blend([self.trained(name, inputs, s) for s in self.seeds[: most[inputs]]])
        )
        self.entries: dict[str, Entry] = {
            **{name: Entry(lambda _, of=of: of().fit(data, self.split), seeds=1) for name, of in COUNTS.items()},
            "cooccurrence": Entry(lambda _: self.cooccurrence(), seeds=1),
            "cooccurrence_last": Entry(lambda _: self.cooccurrence(profile_decay=0.0), seeds=1),
            "cooccurrence_content": Entry(lambda _: self.prior(), "content", 1),
        }
        for method in METHODS:  # of one training, after its digits
            self.entries[method] = Entry(lambda seed, by=method: self.model(self.main, seed).scorer(by), self.main)
        for inputs, name in product(self.inputs, ("m6rec", *TRAINED)):
            row = inputs if name == "m6rec" else f"{name}_{inputs}"
            self.entries[row] = Entry(partial(self.trained, name, inputs), inputs, most[inputs])
            blended = Entry(
                lambda s, of=(name, inputs): self._blends(*of)[self.seeds.index(s)], f"{inputs}_prior", most[inputs]
            )
            self.entries[f"{row}_prior"] = blended
        keep = self.split.train | np.isin(np.arange(data.n_events), self.split.valid)  # of a last fit
        offsets = np.concatenate(([0], keep.cumsum()))[data.offsets]
        self._rest = dataclasses.replace(data, events=data.events[keep].reset_index(drop=True), offsets=offsets)
        again = {name: one for name, one in self.entries.items() if name not in METHODS}
        for name, (make, inputs, few) in again.items():
            last = Entry(lambda seed, make=make: self.refit(make(seed)), f"{inputs}_refit", few or extra)
            self.entries["refit" if name == f"{self.main}_prior" else f"{name}_refit"] = last

    def carried_over(self, name: str) -> dict[str, object]:
        """Settings without a search, by three means of the training events.

        Fewer than `events_per_item`: the last published settings, else the first. At most `mean_history` a user: the
        last's history, else the first's. The batch is a power of 2 that leaves `steps` an epoch, from 16 to published.
        """
        rule, starts, user = SETTINGS["rule"], self.published[name], self.data.events["user"][self.split.train]
        users, found = user.nunique(), starts[-(len(user) < rule["events_per_item"] * self.data.n_items)]
        history = starts[-(len(user) <= rule["mean_history"] * users)]["history"]
        most = max(16, 2 ** int(np.log2(users / rule["steps"])))
        return {**found, "history": history, "batch": min(found["batch"], most)}

    def model(self, inputs: str, seed: int) -> M6Rec:
        """Ours, pretrained and fine-tuned."""
        model = self.trained("m6rec", inputs, seed)
        tuned, tuned.stages, tuned.network = copy.copy(model), {**model.stages}, copy.deepcopy(model.network)
        tuned.config = dataclasses.replace(model.config, **SETTINGS["digits"])
        tuned.fine_tune(keep=True)
        return tuned

    def trained(self, name: str, inputs: str, seed: int) -> Any:
        """A peer, or ours, pretrained (its dense head ranks)."""
        return self._fit(name, inputs, self.settings[name], seed)

    def search(self, name: str, inputs: str = "ids", n: int = 20, epochs: Sequence[int] = (4, 12, 100)) -> Frame:
        """Successive halving (Jamieson & Talwalkar 2016) of n settings, `carried_over` and published ones among them.

        All train for epochs[0], the best third for epochs[1], and so on. What is carried over always stays: it may
        start slowly. Rows, best first, which is taken: trial, settings, epochs, validation (the best epoch's NDCG@10),
        seconds of all its trainings, which are kept."""
        rng, first = np.random.default_rng(0), self.carried_over(name)
        starts = [first, *(one for one in self.published[name] if one != first)]
        space = SETTINGS["space"] | SETTINGS["space_of"][name]
        drawn = [{name: of[rng.integers(len(of))] for name, of in space.items()} for _ in range(n - len(starts))]
        trials = [*starts, *drawn][:n]
        alive, lost, rows = [*range(len(trials))], [], {}
        for budget in epochs:
            for trial in alive:
                log = _log(self._fit(name, inputs, trials[trial], pretrain_epochs=budget))
                seconds = log[-1].seconds + (rows[trial]["seconds"] if trial in rows else 0)
                seen = {"epochs": len(log), "validation": log.best.validation, "seconds": seconds}
                rows[trial] = {"trial": trial, "settings": trials[trial], **seen}
            alive.sort(key=lambda trial: -rows[trial]["validation"])
            kept = {*alive[: -(-len(alive) // 3)], 0}
            lost = [trial for trial in alive if trial not in kept] + lost
            alive = [trial for trial in alive if trial in kept]
        self.settings[name] = best = trials[alive[0]]
        for made in (self.trained, self.model, self._blends):
            made.cache_clear()
        if best in starts:
            print(f"{name}: no trial is better than its start {best}")
        return Frame([rows[trial] for trial in (*alive, *lost)])

    def _fit(self, name: str, inputs: str, settings: Mapping[str, object], seed: int = 0, **last: object) -> Any:
        own = {} if name == "m6rec" else {f.name for f in dataclasses.fields(TRAINED[name])} & settings.keys()
        changes = {k: v for k, v in settings.items() if k not in own}
        changes = {**changes, **self.changes, **SETTINGS["inputs"][inputs], "seed": seed, **last}
        if name == "m6rec":
            model = M6Rec(self.data, self.preset, split=self.split.name, **changes)
            model.pretrain(keep=True)
            return model
        features, own = None if inputs == "ids" else self._features(), {k: settings[k] for k in own}
        peer = TRAINED[name](Config.preset(self.preset, **changes), True, features, **own)
        return peer.fit(self.data, self.split, keep=True)

    def refit(self, model: Any) -> Any:
        """A model fitted once more, with the targets of validation; epochs and settings stay as chosen."""
        if isinstance(model, Interpolation):
            return model._replace(model=self.refit(model.model), prior=self.refit(model.prior))
        if isinstance(model, baselines.Mixture):
            return baselines.Mixture([(self.refit(part), share) for part, share in model.parts])
        if isinstance(model, M6Rec):
            again = M6Rec(self._rest, config=model.settled, split="all")
            again.pretrain(keep=True)
            return again
        again, options = copy.copy(model), {}
        if isinstance(model, baselines.Sequential):
            again.config = dataclasses.replace(model.config, pretrain_epochs=_log(model).best.epoch)
            options = {"keep": True}
        return again.fit(self._rest, self._rest.split("all"), **options)

    def _features(self) -> Array | None:
        """(N, F) of a peer: the same texts, images and sounds as ours."""
        if self._still:
            return None
        content = M6Rec(self.data, self.preset, spectral=0.0).features
        return np.hstack([*baselines.frozen_features(self.data, content).values()])

    def cooccurrence(self, **fixed: float) -> baselines.CoOccurrence:
        """fixed: these settings are not searched."""
        return self._mixture(self._tuned(content=0.0, **fixed)).parts[0][0]

    def prior(self) -> baselines.Mixture:
        """The count mixed with content-kNN."""
        return self._mixture(self._tuned())

    def blend(self, models: Sequence[object]) -> list[Interpolation]:
        """Models, each with a prior; its settings and weight are chosen for all, by the mean on validation."""
        found = self._tune(models)
        return [Interpolation(model, self._mixture(found), found["weight"]) for model in models]

    def _tune(self, models: Sequence[object] = (), **fixed: float) -> dict[str, float]:
        own, fixed = [remembered(model) for model in models], self._still | fixed

        def score(at):
            prior = remembered(self._mixture(at, self._cached))
            ranked = [Interpolation(model, prior, at["weight"]) for model in own] or [prior]
            return float(np.mean([*map(self._valid, ranked)]))

        starts = [*SETTINGS["count"], *([self._tuned()] if own else [])]  # an ascent ends at a local maximum
        starts = [({"weight": 1.0} if own else {}) | start | fixed for start in starts]
        grid = SETTINGS["grid"] | {name: [value] for name, value in fixed.items()}
        return max((coordinate_ascent(score, start, grid) for start in starts), key=score)

    def _valid(self, model: object) -> float:
        """NDCG@10 as `evaluate`'s."""
        ranks = [mid_ranks(scored(model, users), users, mask_seen=True)[0] for users in self._chunks]
        return float(ndcg(np.concatenate(ranks)).mean())

    def _mixture(self, at: Mapping[str, float], wrapped: Callable = lambda part: part) -> baselines.Mixture:
        count = {name: value for name, value in at.items() if name not in ("content", "neighbours", "weight")}
        parts = [(wrapped(self._count(**count)), 1 - at["content"])]
        if at["content"]:
            parts.append((wrapped(self._near(at["neighbours"])), at["content"]))
        return baselines.Mixture(parts)


def record_search(name: str, trials: Frame) -> Figure:
    """Its seconds; with what was tried and taken."""
    best = ", ".join(f"{key} {value}" for key, value in trials["settings"].iloc[0].items())
    took = f"s, {len(trials)} trials; best {trials['validation'].iloc[0]:.4f} on validation: {best}"
    return record(name, value=trials["seconds"].sum(), label=took)


def record_differences(start: str, against: Frame) -> None:
    """Of `compare`."""
    for name, row in against.iterrows():
        holm = f"Holm {row.holm_low:.4f} to {row.holm_high:.4f}, p {row.p_holm:.3f}, detectable {row.detectable:.4f}"
        record(f"{start}.{name}", value=row["difference"], split="test", label=holm)


def _log(model: Any) -> Log:
    return model.stages["pretrain"] if isinstance(model, M6Rec) else model.log


def remembered(model: object) -> SimpleNamespace:
    """Keeps the scores of each `Targets`."""
    return SimpleNamespace(scores=cache(lambda users: torch.as_tensor(model.scores(users)).cpu()))


def coordinate_ascent(
    score: Callable[[dict[str, float]], float], start: Mapping[str, float], grid: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Move each setting in turn to the best of its grid, until no step helps."""
    value = cache(lambda *settings: score(dict(zip(start, settings, strict=True))))
    best, before = dict(start), None
    while best != before:
        before = best
        for name in start:
            line = [best, *(best | {name: step} for step in grid[name])]
            best = max(line, key=lambda at: value(*at.values()))  # the first of equals
    return best


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
