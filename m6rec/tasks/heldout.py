"""How well a model ranks items and users that training has never seen.

`ColdStart` is for an `M6Rec`; `OpenDomain` for a text backbone, which ranks by the items' words alone: zero-shot
(`Likelihood`, M6-Rec section 3.2, or `DotProduct`), after a few events (few-shot), or by retrieval.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec import baselines
from m6rec.config import Config, InputError, pick_device
from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.prompts import HISTORY, Domain, domain
from m6rec.data.text import PAD, Prompt, pad
from m6rec.evaluate import evaluate
from m6rec.model.network import TextTransformer
from m6rec.train.fit import train_epoch
from m6rec.train.losses import TEMPERATURE, info_nce, text_vectors
from m6rec.train.text import SOURCE, Backbone, fine_tune

# Few-shot passes and step sizes, chosen on the validation users of bazaar's jingled garments; from scratch, separately.
PASSES, SCRATCH_RATE = 10, 3e-3
SMALL, SMALL_RATE, RATE = 30, 3e-4, 1e-3  # with fewer examples, smaller steps

CANDIDATES_CHUNK, PROMPTS_CHUNK = 512, 64
WIDTH = 128


@torch.no_grad()
def states(backbone: Backbone, prompts: Sequence[Prompt], *, target: bool = False) -> Tensor:
    """The state (n, D) of each prompt's [EOS'], or at the last token of its target."""
    network, tokenizer, rows = backbone.network, backbone.tokenizer, []
    for start in range(0, len(prompts), PROMPTS_CHUNK):
        part = prompts[start : start + PROMPTS_CHUNK]
        source = torch.from_numpy(tokenizer.encode(part, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(prompt.target) for prompt in part])) if target else None
        rows.append(network.read(source, given))
    return torch.cat(rows)


@torch.no_grad()
def log_likelihood(backbone: Backbone, prompt: Prompt, candidates: Sequence[str]) -> np.ndarray:
    """Mean log-likelihood (N,) of each candidate's tokens after a prompt and its target."""
    network, tokenizer = backbone.network, backbone.tokenizer
    given = tokenizer.given(prompt.target)
    source = torch.tensor([tokenizer.source(prompt, SOURCE)])
    # The last given token begins each candidate: it predicts the first one.
    cache = network(source, torch.tensor([given[:-1]], dtype=torch.long), logits=False).cache
    rows = torch.from_numpy(pad([(given[-1], *tokenizer.segment(words)) for words in candidates]))  # (N, T)
    means = []
    for part in rows.to(network.device).split(CANDIDATES_CHUNK):
        token = part[:, 1:]  # (n, T - 1)
        log_prob = network.decode_step(part[:, :-1], cache).logits.log_softmax(-1)
        log_prob = log_prob.gather(-1, token[..., None])[..., 0]
        means.append((log_prob * (token != PAD)).sum(1) / (token != PAD).sum(1))
    return torch.cat(means).cpu().numpy()


def target_prompts(domain: Domain, users: Targets, history: int = HISTORY) -> list[Prompt]:
    return [one._replace(target=one.target[:-1]) for one in domain.prompts(users.events, history)]


class Likelihood:
    """For `evaluate`: mean log-likelihoods of items' tokens after profile, history and request.

    candidates: the item codes that are scored; the others get -inf.
    """

    name = "zero-shot"

    def __init__(self, backbone: Backbone, domain: Domain, candidates: np.ndarray):
        self.backbone, self.domain, self.candidates = backbone, domain, candidates
        self.words, self.back = np.unique(domain.items[candidates].astype(str), return_inverse=True)  # scored once

    def scores(self, users: Targets) -> np.ndarray:
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, prompt in zip(out, target_prompts(self.domain, users), strict=True):
            row[self.candidates] = log_likelihood(self.backbone, prompt, self.words)[self.back]
        return out


class DotProduct:
    """For `evaluate`: ⟨the state before an item, the item's words⟩, which contrastive pretraining has aligned."""

    name = "zero-shot, dot product"

    def __init__(self, backbone: Backbone, domain: Domain, *, history: int = HISTORY):
        self.backbone, self.domain, self.history = backbone, domain, history
        tokens = torch.from_numpy(pad([backbone.tokenizer.ids(words) for words in domain.items]))
        with torch.no_grad():
            self.items = text_vectors(backbone.network, tokens.to(backbone.network.device))  # (N, D)

    def scores(self, users: Targets) -> Tensor:
        return states(self.backbone, target_prompts(self.domain, users, self.history), target=True) @ self.items.T


class Pairs(NamedTuple):
    users: Tensor  # (n, D)
    item: Tensor  # (n,) rows of `items`
    items: Tensor  # (N, D)


def pairs(backbone: Backbone, domain: Domain, rows: np.ndarray) -> Pairs:
    """States before events `rows`, and of all items."""
    users = states(backbone, [prompt._replace(target=()) for prompt in domain.prompts(rows, in_source=True)])
    items = states(backbone, [Prompt(candidate=words) for words in domain.items])
    return Pairs(users, torch.tensor(domain.item[rows], device=items.device), items)


class TwoMaps(nn.Module):
    """users (n, D), items (N, D) -> cosines (n, N): retrieval by WIDTH numbers."""

    def __init__(self, users: int, items: int):
        super().__init__()
        self.users, self.items = nn.Linear(users, WIDTH), nn.Linear(items, WIDTH)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return F.normalize(self.users(users), dim=-1) @ F.normalize(self.items(items), dim=-1).T


def fit_maps(data: Pairs, *, epochs: int = 10, batch: int = 256, rate: float = 3e-3, seed: int = 0) -> TwoMaps:
    """By InfoNCE: the batch's other items are negatives."""
    torch.manual_seed(seed)
    maps = TwoMaps(data.users.shape[1], data.items.shape[1]).to(data.items.device)
    optimizer = torch.optim.AdamW(maps.parameters(), rate, weight_decay=0.01)

    def losses(maps: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        item = data.item[rows]
        return {"contrastive": info_nce(maps(data.users[rows], data.items[item]) / TEMPERATURE, item)}

    for _ in range(epochs):
        train_epoch(maps, optimizer, torch.randperm(len(data.users)).split(batch), losses)
    return maps.eval()


def two_tower(domain: Domain, rows: np.ndarray, train: np.ndarray, **options: object) -> tuple[Tensor, Pairs]:
    """A baseline, the same maps over counts of ids: -> cosines of `rows` (n, N), and the pairs."""
    items = torch.eye(len(domain.items), device=pick_device())

    def counted(events: np.ndarray) -> Pairs:
        users = torch.zeros(len(events), len(items))
        for line, row, start in zip(users, events, np.searchsorted(domain.user, domain.user[events]), strict=True):
            line[torch.tensor(domain.item[max(start, row - HISTORY) : row])] = 1
        return Pairs(users.to(items.device), torch.tensor(domain.item[events], device=items.device), items)

    test, maps = counted(rows), fit_maps(counted(train), **options)
    with torch.no_grad():
        return maps(test.users, items), test


def recall(cosines: Tensor, item: Tensor, k: int = 100) -> np.ndarray:
    """(n,) 1 where the item is among the k nearest."""
    return (cosines.topk(min(k, cosines.shape[1])).indices == item[:, None]).any(1).cpu().numpy().astype(float)


class HeldOut:
    data: Dataset
    split: Split
    items: np.ndarray  # (n,) held-out codes
    cases: dict[str, tuple[np.ndarray, np.ndarray | None]]  # rows of data.events, the codes that are ranked (None: all)

    @property
    def chance(self) -> float:
        """The expected NDCG@10 of a random ranking of the held-out items."""
        return float((1 / np.log2(np.arange(2, 12))).sum() / len(self.items))

    def ndcg(self, models: Sequence[object], case: str | None = None, first: int | None = None) -> np.ndarray:
        """NDCG@10 (S, U) of each model and each of a case's `first` targets, by default of the first case.

        InputError for an unknown case.
        """
        case = next(iter(self.cases)) if case is None else case
        if case not in self.cases:
            raise InputError(f"the case {case!r} is unknown: take one of {', '.join(self.cases)}.")
        rows, pool = self.cases[case]
        split = self.split._replace(test=rows[:first])
        return np.stack([evaluate(m, self.data, split=split, pool=pool).per_user["ndcg"].to_numpy() for m in models])


class ColdStart(HeldOut):
    """Items and users (codes) of a data set are held out; `train` has the other events.

    Cases: "warm"; "cold" (known users, held-out items, ranked among these); "valid" and "valid_cold" (the same, of the
    validation part); "cold_users" (their first event, if its item is known).
    """

    def __init__(self, data: Dataset, items: np.ndarray, users: Sequence[int] = ()):
        self.data, self.split, self.items = data, data.split(), np.asarray(items)
        self.train = data.without(items, users)
        user, item = data.events["user"].to_numpy(), data.events["item"].to_numpy()
        cold, new = np.isin(item, items), np.isin(user, users)  # (E,)
        # Users with fewer than three events left are trained on to the last, and are no targets.
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
        """Hold out a random share of the items."""
        return cls(data, np.random.default_rng(seed).permutation(data.n_items)[: round(share * data.n_items)])

    def baselines(self, preset: str = "small", seeds: Sequence[int] = ()) -> dict[str, list[object]]:
        """Fitted on `train`; SASRec for each seed, cached, as long as validation gets better."""
        split = self.train.split()
        counts = {"popularity": baselines.Popularity, "cooccurrence": baselines.CoOccurrence, "ease": baselines.EASE}
        fitted = {name: [model().fit(self.train, split)] for name, model in counts.items()}
        for seed in seeds:
            sasrec = baselines.SASRec(Config.preset(preset, seed=seed, pretrain_epochs=100))
            fitted.setdefault("sasrec", []).append(sasrec.fit(self.train, split, keep=True))
        return fitted


class OpenDomain(HeldOut):
    """Items (N,) bool, and users (U,) bool, that a backbone's training never sees; nor any event after a target.

    A target is a user's last held-out item; half of the users are for `valid`. With every item held out, `seen` is
    empty. Cases: "all", "cold items" (known users), "cold users and items", and "cold users" (their last event, of a
    known item).
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
        self.whole = domain(data)  # everything, row for row with data.events: for histories
        known = np.unique(self.seen.item)
        last = np.append(user[1:] != user[:-1], True) & (np.diff(user, prepend=-1) == 0)  # with a history
        last &= np.isin(self.whole.item, known)
        # Nothing is cold: users' last events, if they are later than all that was read of them.
        self.warm = np.flatnonzero(last & ~self.train & ~cold)
        self.cases = {
            "all": (test, self.items),
            "cold items": (test[~cold[test]], self.items),
            "cold users and items": (test[cold[test]], self.items),
            "cold users": (np.flatnonzero(last & cold), known),
        }

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """What reads texts without learning; and popularity, from held-out items' own events."""
        models = {"text_cosine": baselines.ContentKNN(neighbours=self.data.n_items)}
        models |= {"content_knn": baselines.ContentKNN(), "popularity": baselines.Popularity()}
        return {name: model.fit(self.data, self.split) for name, model in models.items()}

    def few(self, count: int, seed: int = 0) -> list[Prompt]:
        """So many random events of held-out items to learn from; more are a superset of fewer."""
        return self.whole.prompts(np.random.default_rng(seed).permutation(self.shots)[:count])

    def few_shot(self, backbones: Sequence[Backbone], count: int, *, scratch: bool = False) -> list[DotProduct]:
        """A scorer of each backbone after fine-tuning on `count` events, drawn with seeds from 0.

        scratch: begin with untrained weights.
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
