import copy
import importlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from m6rec.cache import key, whole
from m6rec.config import MODALITIES, Array, Config, Frame, InputError, at_least, choose, conform, pick_device, typed
from m6rec.data import context as contexts
from m6rec.data.context import Context, Fields
from m6rec.data.cooccurrence import neighbourhood, spectral
from m6rec.data.dataset import REPEATS, Dataset, Targets
from m6rec.data.features import FILE_MODALITIES, Features, Media, preprocess, table
from m6rec.data.prompts import domain
from m6rec.data.sources import home, load, shipped
from m6rec.data.tables import as_frame, listed, texts
from m6rec.data.text import PROMPT_SPECIAL, SPECIAL, Tokenizer
from m6rec.evaluate import evaluate
from m6rec.explain.explainers import reasons
from m6rec.generate import Generated, Scorer, best_items, check_length, generate
from m6rec.model.network import Fused, Network
from m6rec.model.tree import build_tree
from m6rec.train import losses
from m6rec.train.fit import Epoch, Log, Stage, fit, foreign, load_model, save_model, version
from m6rec.train.text import Backbone

History = Iterable[object] | Frame | None  # any table or sequence: see `listed`
Values = Mapping[str, object] | None
UPDATE_RATE = 0.3  # of the learning rate, in `M6Rec.update`


CARD = """---
library_name: m6rec
tags: [recommendation]
---
# m6rec on {0}
```
{1}
```
`m6rec.M6Rec.from_pretrained("folder or repository", data)` loads it; data is the `m6rec.Dataset` {0}.
"""


class Person(NamedTuple):
    context: Context  # B = Q = 1
    history: list[int]  # all item codes, oldest first; only the last ones are encoded
    new: list[Mapping[str, object]]  # items that the catalogue lacks; their codes are N, N + 1, …


@typed
class M6Rec:
    """Raw ids and content in, a DataFrame out.

    What is fitted (vocabulary, fields, tree, weights) sees the training events of `data.split()` only."""

    @torch.random.fork_rng()
    def __init__(
        self, data: Dataset, preset: str = "tiny", *, config: Config | None = None, split: str = "leave_one_out",
        fitted: tuple[Fields, Tokenizer] | None = None, added: Features | None = None, **changes: object,
    ):  # fmt: skip
        """split: of `data.split`; "all" trains every event, for a fixed number of epochs, see `settled`.

        fitted: a saved model's fields and tokenizer. added: contents that `with_items` had added."""
        config = config or Config.preset(preset, **changes)
        self.data, self.config, self.split, self.device = data, config, data.split(split), pick_device(config.device)
        trained = np.unique(data.events["item"].to_numpy()[self.split.train])
        if fresh := fitted is None:
            read, special = [*data.items["text"].iloc[trained]], SPECIAL
            if config.text_weight:
                read, special = [*dict.fromkeys([*read, *domain(data, self.split.train).texts()])], PROMPT_SPECIAL
            fitted = Fields.fit(data, self.split, config), Tokenizer.fit(read, config.vocabulary, special)
        self.fields, self.tokenizer = fitted
        self.features = self.preprocess(data.items.iloc[: data.n_items - (len(added.text) if added else 0)], data.media)
        torch.manual_seed(config.seed)
        known = np.isin(np.arange(len(self.features.text)), trained)
        self.network = Network(config, self.fields, self.features, len(self.tokenizer), known).to(self.device).eval()
        if fresh and config.spectral and (config.identity or config.item_epochs):
            self.network.start(self._spectral())
        if added:
            self._add(added)
            self.network.digits.leaf = torch.zeros(data.n_items, dtype=torch.long)
            self.network.to(self.device)
        self.stages: dict[str, list[Epoch]] = {}
        self._pretrained = ""
        self._items: Tensor | None = None

    def __repr__(self) -> str:
        weights = sum(weight.numel() for weight in self.network.parameters())
        trained = [f"{name}: {rows}" for name, rows in self.stages.items()] or ["untrained: call pretrain()"]
        return "\n".join((f"M6Rec, {weights:,} weights on {self.device}, of {self.data}", *trained))

    def _add(self, content: Features) -> None:
        """New items' contents, with a copy of the network on the CPU."""
        self.features = Features(*map(np.concatenate, zip(self.features, content, strict=True)))
        self.network, self._items = self.network.extended(self.features), None

    @property
    def _training_content(self) -> Features:
        return self.features.take(np.unique(self.data.events["item"].to_numpy()[self.split.train]))

    @property
    def settled(self) -> Config:
        """The config with the epochs that validated best, for `split="all"`, which nothing validates."""
        best = {}
        for name, stage in (("pretrain_epochs", "pretrain"), ("finetune_epochs", "fine_tune")):
            if rows := self.stages.get(stage):
                best[name] = max(rows, key=lambda row: (row.validation or 0, row.epoch)).epoch
        return replace(self.config, **best)

    def pretrain(self, **options: object) -> list[Epoch]:
        """Learn what is missing of items and the next event of every prefix; then grow the tree.

        options: of `train.fit.fit`. Source: M6-Rec section 3.1."""
        if self.config.item_epochs:
            own = {"folder": f"{Path(options['folder'])}-items"} if options.get("folder") else {}  # resumes by itself
            self._train(self._items_stage(), {**options, **own})
        rows = self._train(self.stage("pretrain", self.config.pretrain_epochs, losses.pretraining, "dense"), options)
        self._pretrained = version(self.network)  # the tree's vectors follow the number of threads in their last bits
        vectors, digits = self.item_vectors(), self.network.digits
        digits.init_from_tree(build_tree(vectors.cpu().numpy(), digits.widths, self.config.seed), vectors)
        return rows

    def fine_tune(self, **options: object) -> list[Epoch]:
        """Teach the next item's semantic ID, with the dense head as a teacher.

        A model that reads prompts keeps its item encoder, which would forget them."""
        if "pretrain" not in self.stages:
            raise InputError("fine_tune needs a pretrained model: call pretrain() first, or take from_pretrained.")
        stage = self.stage("fine_tune", self.config.finetune_epochs, losses.finetuning, "generated")
        return self._train(stage, {"start": self._pretrained, **options}, frozen=self.config.text_weight)

    def update(self, interactions: Frame, epochs: int = 1) -> Self:
        """This model with new events of known items, as in `Dataset.from_frames`, and a short training on their users.

        Every user's last event validates. Where its NDCG@10 falls, the weights stay, with a warning; the events still
        count as history. `stages["update"]` begins with epoch 0."""
        at_least(1, epochs=epochs)
        model, _ = copy.copy(self), self.network.digits.built_tree  # InputError before training
        model.data = data = self.data.with_events(interactions := as_frame(interactions, "interactions"))
        model.split, model.stages, model.network = data.split("latest"), {**self.stages}, copy.deepcopy(self.network)
        network, items, tuned = model.network, model.network.items, "fine_tune" in self.stages
        among = model.split.train & np.isin(data.events["user"], data.user_codes(interactions["user_id"]))
        new = torch.from_numpy(data.events["item"].to_numpy()[among]).to(self.device)
        new = new[network.codes[new] < 0]  # of these, no event was read before
        network.codes[new] = new
        if items.identity is not None:
            items.identity.weight.data[new] = 0
        loss, judged_by = (losses.finetuning, "generated") if tuned else (losses.pretraining, "dense")
        stage = model.stage("update", epochs, loss, judged_by, among)
        before = Epoch(0, 0.0, {}, stage.validate(network))
        model.config = replace(self.config, learning_rate=UPDATE_RATE * self.config.learning_rate)
        rows = model._train(stage, {}, frozen=tuned and self.config.text_weight)
        model.config, model.stages["update"] = self.config, Log([before, *rows])
        if (after := rows.best.validation) < before.validation:
            model.network = self.network
            said = f"NDCG@10 of the last events would fall from {before.validation:.4f} to {after:.4f}"
            warnings.warn(f"the weights are not updated: {said}. Train anew, or wait for more events.", stacklevel=3)
        return model

    @property
    def text(self) -> Backbone:
        """The same weights for prompts: see `train.text` and `Network.text`."""
        return Backbone(self.network.text, self.tokenizer, self.config)

    def stage(self, name: str, epochs: int, loss: Callable, judged_by: str, among: Array | None = None) -> Stage:
        """On all training events, or those among (E,) bool, validated by a method's NDCG@10."""
        data, split, config = self.data, self.split, self.config
        if split.name != "all" and not (data.n_items >= 10 and len(split.valid)):  # NDCG@10 of validation events
            has = f"{data.n_items} items and {len(split.valid)} users with three events"
            raise InputError(f'{data.name} has {has}: training needs 10 and 1, or M6Rec(data, split="all").')
        taught = split if among is None else split._replace(train=among)
        near = [t.to(self.device) for t in neighbourhood(data, split, config.smoothing)] if config.smoothing else None
        prompts = None
        if config.text_weight:
            read = domain(data, split.train)
            items = losses.catalogue_of(read.items[np.unique(read.item)], self.tokenizer, self.device)
            prompts = losses.Prompts(read, self.tokenizer, items)
        corpus = losses.Corpus(self._training_content, near, prompts, data.repeats < REPEATS)

        def validate(network):
            return evaluate(self.scorer(judged_by, network=network), data, split=split, part="valid").metrics["ndcg@10"]

        def batches(rng):
            return contexts.training_batches(data, taught, self.codes, config.history, config.batch, rng)

        def teach(network, batch, rng):
            return loss(network, batch, config, corpus, rng)

        return Stage(name, epochs, batches, teach, validate if len(split.valid) else None, losses.loss_weights(config))

    def _spectral(self) -> Tensor:
        vectors = self.config.spectral * spectral(self.data, self.split, self.config.width)
        return torch.from_numpy(vectors).to(self.device)

    def _items_stage(self) -> Stage:
        config, content, weights = self.config, self._training_content, losses.loss_weights(self.config)
        start = self._spectral()[self.network.codes >= 0] if config.spectral and not config.identity else None
        read, patches = self.network.items.modalities, self.network.patch_decoder
        taught = "text" in read and weights["infill"], patches and weights["image"], read[1:] and weights["align"]
        if not read or not (any(taught) or start is not None):
            fix = "infill, patch or align_weight > 0, or spectral > 0 without ID embeddings"
            raise InputError(f"item_epochs needs something to teach: modalities, and {fix}.")

        def loss(network, _, rng):
            return losses.item_content(network, content, config, rng, start)

        @torch.no_grad()
        def validate(network):
            rows = [loss(network, None, np.random.default_rng(i)) for i in range(4)]
            return -sum(weights.get(name, 1.0) * float(loss) for row in rows for name, loss in row.items())

        steps = [None] * -(-len(content.present) // losses.ITEMS)
        return Stage("items", config.item_epochs, lambda rng: steps, loss, validate, weights)

    def _train(self, stage: Stage, options: dict, frozen: object = False) -> list[Epoch]:
        """frozen: the item encoder."""
        self.network.items.requires_grad_(not frozen)
        try:
            rows = fit(self.network, stage, self.config, self.data.fingerprint, self.split.name, **options)
        finally:
            self.network.items.requires_grad_(True)
            self.network.eval()
            self._items = None
        self.stages[stage.name] = rows
        return rows

    def recommend(
        self, user: object = None, *, history: History = None, profile: Values = None, context: Values = None,
        k: int = 10, method: str = "generated", seen: bool | None = None, only: Sequence[object] | None = None,
        without: Sequence[object] = (), drop: Sequence[str] = (), explain: bool = False,
    ) -> Frame:  # fmt: skip
        """The k items to show next: rank, item_id, title, score (log-likelihood; dense, hybrid: log-probability).

        user, history, profile, context: see `person`. seen: whether items of the history may be listed; by default
        where `data.repeats` is large. only, without: ids or titles of the candidates, and of what is none. drop:
        modalities to ignore. explain: adds `reason` and the share of the effect that it covers. InputError for what is
        unknown and for too large a k; the list is empty where no candidate is left."""
        person = self.person(user, history=history, profile=profile, context=context)
        if self.data.repeats >= REPEATS if seen is None else seen:
            person = person._replace(history=[])
        found = self.top_items(person, k, method, drop=drop, pool=self.pool(only, without))
        table = self._table(found)[1]
        if explain:
            codes = found.items[0, : len(table)].tolist()
            vectors = self.item_vectors(person.new, drop=drop)
            given = reasons(self, person.context, codes, vectors=vectors) if codes else []
            table["reason"], table["coverage"] = [r.sentence for r in given], [r.coverage for r in given]
        return table

    def _table(self, found: Generated) -> tuple[Array, Frame]:
        """One list below the other: the row (n,) in `found`, and what is shown of each item."""
        items, scores = found.items.cpu().numpy(), found.scores.cpu().double().numpy()
        row, rank = listed = np.nonzero(items >= 0)
        table = self.data.items[["item_id", "title"]].iloc[items[listed]].reset_index(drop=True)
        table.insert(0, "rank", rank + 1)
        return row, table.assign(score=scores[listed])

    def recommend_many(
        self, users: Sequence[object] | Frame | None = None, k: int = 10, *, context: Values = None,
        method: str = "generated", seen: bool | None = None, only: Sequence[object] | None = None,
        without: Sequence[object] = (), folder: str | Path | None = None, chunk: int = 256,
    ) -> Frame:  # fmt: skip
        """The lists that `recommend` gives one by one: user_id, rank, item_id, title, score.

        users: ids, by default all; or a frame. With item_id it holds histories of anybody (user_id, item_id and
        optionally timestamp and value); otherwise each row is a request (user_id and request fields, which override
        `context`). folder: keeps each `chunk` of lists as Parquet; the same call goes on after the last. A user with
        fewer than k items left gets those. InputError as in `recommend`, and for a folder of anything else."""
        check_length(k, self.data.n_items)
        at_least(1, chunk=chunk)
        users = self.data.users[["user_id"]] if users is None else [users] if np.isscalar(users) else users
        if not isinstance(frame := listed(users, "users", "user_id"), Frame):
            self.data.user_codes(frame)
            frame = Frame({"user_id": frame})
        if "user_id" not in frame or frame["user_id"].isna().any():
            raise InputError("the frame of users lacks user_id, as a column or in a row: add it.")
        if "item_id" in frame:
            asked = [(user, past, {}) for user, past in frame.groupby("user_id", sort=False)]
        else:
            requests = frame.drop(columns="user_id").to_dict("records")
            asked = [(user, None, request) for user, request in zip(frame["user_id"], requests, strict=True)]
        options = {"k": k, "method": method, "seen": self.data.repeats >= REPEATS if seen is None else seen}
        pool, equal, parts = self.pool(only, without), {}, []
        kept = key(*map(version, (self.network, pool)), self.data.fingerprint, frame.to_csv(), context, options, chunk)
        folder = None if folder is None else Path(folder)
        if folder and folder.exists() and any(kept not in file.name for file in folder.iterdir()):
            raise InputError(f"{folder} holds lists of another request, or other files: name a new folder.")
        for row, (_, _, request) in enumerate(asked):
            equal.setdefault(repr(request), []).append(row)
        for rows in (same[at : at + chunk] for same in equal.values() for at in range(0, len(same), chunk)):
            file, part = folder and folder / f"lists-{kept}-{rows[0]:09}.parquet", None
            with suppress(OSError, ValueError):  # none yet, or a damaged one
                part = file and pd.read_parquet(file, page_checksum_verification=True)
            if part is None:
                part = self._lists([asked[row] for row in rows], context, pool, **options)
                part.index = np.array(rows)[part.index]
                if file:
                    with whole(file) as new:
                        part.to_parquet(new, write_page_checksum=True)
            parts.append(part)
        empty = Frame(columns=["user_id", "rank", "item_id", "title", "score"])
        return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True) if parts else empty

    def _lists(self, asked: list[tuple], context: Values, pool: Tensor, k: int, method: str, seen: bool) -> Frame:
        """Of users with the same request; the index says whose."""
        data, (user, history, requests) = self.data, zip(*asked, strict=True)
        if history[0] is None:
            code = data.user_codes(user)
            past, size = contexts.past_events(data, code), np.diff(data.offsets)[code]
        else:
            code = texts(data.users["user_id"]).get_indexer(texts(pd.Series(user)))
            pasts = [contexts.past_events(data, [], one) for one in history]
            past, size = pd.concat(pasts), np.array([*map(len, pasts)])
        request = {**(context or {}), **{name: value for name, value in requests[0].items() if not pd.isna(value)}}
        profile = np.where(code[:, None] >= 0, self.codes.profile[code], 0)
        encoded = contexts.people_context(data, self.fields, past, size, request, profile, self.config.history)
        allowed, items = pool.repeat(len(user), 1), self._known(past["item"].to_numpy())
        if not seen:
            allowed[np.repeat(np.arange(len(user)), size), items] = False
        row, table = self._table(self._best(encoded, self.item_vectors(), allowed, k, method))
        table.insert(0, "user_id", np.array(user)[row])
        return table.set_index(row)

    def person(
        self, user: object = None, *, history: History = None, profile: Values = None, context: Values = None
    ) -> Person:
        """Whom to recommend to. InputError for nobody.

        user: a raw id. history (oldest first) and profile ({"age": 34}) replace the user's own. A history has raw
        ids, titles, or dicts with the text, image or sound of new items, whose codes are N, N + 1, …; or it is a frame
        of item_id and optionally timestamp and value. context: request fields, as {"hour": 21}; others are absent.
        {"timestamp": …} gives hour, weekday and every derived feature."""
        if user is None and history is None:
            raise InputError("say for whom: name a user, or give a history ([] for a person without one).")
        code = [] if user is None else self.data.user_codes([user])
        history = None if history is None else listed(history)
        past = contexts.past_events(self.data, code, history)
        own = len(code) and profile is None
        codes = self.codes.profile[code] if own else self.fields.typed("profile", profile)[None]
        of = past, np.array([len(past)]), context, codes, self.config.history
        encoded = contexts.people_context(self.data, self.fields, *of)
        new = [] if history is None else [item for item in history if isinstance(item, Mapping)]
        return Person(encoded, past["item"].tolist(), new)

    def titles(self, person: Person) -> list[str]:
        """The catalogue's, then the person's new ones."""
        return [*self.data.items["title"], *(str(item.get("title", "new item")) for item in person.new)]

    def top_items(
        self, person: Person, k: int, method: str = "generated", *, drop: tuple[str, ...] = (),
        pool: Tensor | None = None,
    ) -> Generated:  # fmt: skip
        allowed, items = self.candidates(person.history, k, pool), self.item_vectors(person.new, drop=drop)
        return self._best(person.context, items, allowed, k, method)

    def _best(self, context: Context, items: Tensor, allowed: Tensor, k: int, method: str) -> Generated:
        state = self.fuse(context, items).state[:, -1]
        return best_items(self.network, state, items[: allowed.shape[1]], k, method, allowed=allowed)

    def pool(self, only: Sequence[object] | None = None, without: Sequence[object] = ()) -> Tensor:
        """(1, N) bool: the candidates, by ids or titles."""
        n = len(self.network.digits.built_tree.leaf)
        allowed = torch.full((1, n), only is None, device=self.device)
        for items, inside in ((() if only is None else only, True), (without, False)):
            items = [*items] if isinstance(items, set) else items
            allowed[0, self._known(self.data.history_codes(items))] = inside
        return allowed

    def _known(self, codes: Array) -> list[int]:
        if (codes >= self.data.n_items).any():
            raise InputError("dicts of new items are for one history alone: add the items by with_items, and name ids.")
        return codes.tolist()

    def candidates(self, history: Sequence[int], k: int, pool: Tensor | None = None) -> Tensor:
        """(1, N) bool: what of a pool may follow a history of item codes. InputError where it is 1 to k - 1 items."""
        allowed = self.pool() if pool is None else pool.clone()
        if allowed.dtype != torch.bool or allowed.ndim != 2:
            raise InputError("pool is not (1, N) bool: take pool(only, without).")
        allowed[0, [code for code in history if code < allowed.shape[1]]] = False
        check_length(k, int(allowed.sum()) or k)
        return allowed

    def similar(self, item: object, k: int = 10) -> Frame:
        """The k items with the largest cosine to an id, a title or, as a dict, a new item."""
        code, new = int(self.data.history_codes([item])[0]), [item] if isinstance(item, Mapping) else []
        allowed, vectors = self.candidates([code], k), normalize(self.item_vectors(new), dim=-1)
        cosine = (vectors[code] @ vectors[: allowed.shape[1]].T).masked_fill(~allowed, -torch.inf).topk(k)
        return self._table(Generated.of(cosine.indices, cosine.values))[1]

    def preprocess(
        self, items: Frame | Sequence[object], media: Media | None = None, *, cache: bool = True
    ) -> Features:
        """A `Dataset`'s items, or texts -> tokens, image and sound patches."""
        frame = items if isinstance(items, Frame) else Frame({"text": [*conform("items", items, tuple)]})
        if "text" not in frame:
            raise InputError("preprocess: items has no column 'text': give a data set's items, or a list of texts.")
        folder = home() / "features" if cache else None
        like = getattr(self, "features", None)
        c = self.config
        sizes = {"image": (c.image_size, c.colour), "sound": (c.sound_seconds,)}
        content = preprocess(frame, media, self.tokenizer, c.text_length, folder, like, sizes)
        return content.drop(*(m for m in MODALITIES if m not in c.modalities))

    def extract_context(
        self, history: History = None, request: Values = None, *, user: object = None, profile: Values = None
    ) -> Context:
        """`person`'s context."""
        return self.person(user, history=history, profile=profile, context=request).context

    @torch.no_grad()
    def fuse(self, context: Context, items: Tensor | None = None, *, weights: bool = False) -> Fused:
        """One state per target (B, Q, D)."""
        items = self.item_vectors() if items is None else items
        if items.ndim != 2 or items.shape[1] != self.config.width or len(items) < self.data.n_items:
            raise InputError(f"items of the shape {tuple(items.shape)} are no vectors: take item_vectors().")
        return self.network.fusion(context.to(self.device), items, weights=weights)

    def generate(self, fused: Fused, k: int = 10, **options: object) -> Generated:
        """k items for each row's last target, with its options."""
        return generate(self.network.digits, fused.state[:, -1], k, **options)

    def scorer(self, method: str = "dense", *, network: Network | None = None, **options: object) -> Scorer:
        """For `evaluate`: "dense", "generated", "hybrid" or "exact", with options of `Scorer`."""
        return Scorer(network or self.network, self.target_context, method, fitted_on=self.fitted_on, **options)

    fitted_on = property(lambda self: (self.data, self.split))

    def scores(self, users: Targets) -> Tensor:
        """(B, N), dense."""
        _ = self.network.digits.built_tree  # InputError before training
        return self.scorer("dense").scores(users)

    @torch.no_grad()
    def item_vectors(self, new: Sequence[Mapping[str, object]] = (), *, drop: tuple[str, ...] = ()) -> Tensor:
        """(N, D) of the catalogue, kept until weights change, then those of new items: see `person`.

        Their image and sound may be a path or bytes. InputError for one that has nothing that the model reads."""
        network = self.network.eval()
        if self._items is None and not drop:
            self._items = network.encode_items().vectors
        items = network.encode_items(drop=drop).vectors if drop else self._items
        if not new:
            return items
        content, read = self.preprocess(table(new), cache=False), network.items.modalities
        if not content.drop(*(m for m in MODALITIES if m not in read)).present.any(1).all():
            raise InputError(f"a new item has nothing that this model reads: give it {' or '.join(read) or 'an id'}.")
        return torch.cat((items, network.items(content.drop(*drop).to(self.device)).vectors))

    def with_items(self, items: Frame, media: str | Path | None = None) -> "M6Rec":
        """This model with more items (as in `Dataset.from_frames`), on free leaves near those of like content."""
        data = self.data.with_items(items := as_frame(items, "items"))
        new = data.items.iloc[self.data.n_items :].assign(**{m: items[m].values for m in FILE_MODALITIES if m in items})
        content = self.preprocess(new, Media(media) if media else None)
        model, items = copy.copy(self), self.item_vectors()
        model.data = data
        model._add(content)
        events = np.unique(np.linspace(0, data.n_events - 1, 64).astype(np.int64))  # enough for a mean
        state = self.fuse(self.target_context(self.data.targets(events)), items).state[:, -1]
        vectors = self.network.items(content.to(self.device)).vectors.detach()
        model.network.digits.insert(vectors.cpu(), items.cpu(), state.cpu())
        model.network.to(self.device)
        return model

    def with_contents(self, features: Features) -> Self:
        """This model with other contents of its items. InputError for those of other items."""
        if [part.shape for part in features] != [part.shape for part in self.features]:
            raise InputError("these contents do not fit the catalogue: give each item one row, as `features`.")
        model = copy.copy(self)
        model.features, model._items, model.network = features, None, self.network.extended(features).to(self.device)
        return model

    def target_context(self, users: Targets) -> Context:
        codes = contexts.encode_events(users.data, self.fields)
        return contexts.target_context(users.data, codes, users.events, self.config.history)

    codes = property(lambda self: contexts.encode_events(self.data, self.fields))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Weights (safetensors) and settings (JSON), and what `with_items` has added."""
        old = self.network.digits.size
        new = self.data.items.iloc[old:].dropna(axis=1, how="all").astype(object)
        new, plain = new.where(new.notna(), None).to_dict("records"), lambda c: getattr(c, "tolist", c.__str__)()
        content = Features(*(part[old:] for part in self.features))._asdict() if new else {}
        values = {
            "split": self.split.name,
            "added": json.loads(json.dumps(new, default=plain)),  # UUIDs and dates as texts
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "config": self.config.to_dict(),
            "fields": self.fields.to_dict(),
            "stages": {name: [row._asdict() for row in rows] for name, rows in self.stages.items()},
        }
        card = CARD.format(self.data.name, self)
        save_model(Path(folder), self.network, self.tokenizer, values, content, card)
        return Path(folder)

    def push_to_hub(self, repo: str, *, private: bool = True, token: str | None = None) -> str:
        """To the Hugging Face Hub as "org/name" -> the address. token: by default of `hf auth login`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            on_hub("create_repo", repo, private=private, token=token, exist_ok=True)
            return on_hub("upload_folder", repo, folder_path=folder, token=token)

    @classmethod
    def from_pretrained(cls, folder: str | Path, data: Dataset | None = None, *, revision: str | None = None) -> Self:
        """Load what `save_pretrained` wrote, or "bazaar", which comes with m6rec, or "org/name" from the Hub.

        data: by default loaded by name. revision: a branch, tag or commit. InputError for a missing or damaged folder,
        and other data."""
        name, folder = str(folder), Path(folder)
        if not (folder / "config.json").exists() and (ours := shipped("weights") / folder).exists():
            folder = ours
        elif not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            folder = Path(on_hub("snapshot_download", name, revision=revision))
        weights, tokenizer, values = load_model(folder)
        try:
            device = "cpu" if values["config"]["device"] == "cpu" else "auto"  # a GPU may not be here
            config = Config(**{**values["config"], "device": device})
            if config.to_dict().keys() != values["config"].keys():
                raise KeyError("config")  # a setting that it lacks is not guessed
            of, fields = values["data"], Fields.from_dict(values["fields"])
        except (KeyError, TypeError, ValueError) as error:
            raise foreign(folder, values) from error
        try:
            data = data or load(of["name"])
        except InputError as error:
            raise InputError(f"{folder} knows the data {of['name']}: pass data=, or --data ({error})") from None
        added = None
        if new := values.get("added"):
            added = Features(*(weights.pop(f"added.{name}").numpy() for name in Features._fields))
            if data.n_items + len(new) == len(weights["digits.leaf"]):
                data = data.with_items(Frame(new))
        if data.fingerprint != of["fingerprint"]:
            raise InputError(f"{folder} was trained on other data than {data.name}: pass data=, as they were then.")
        split = values.get("split", "leave_one_out")
        model = cls(data, config=config, split=split, fitted=(fields, tokenizer), added=added)
        try:
            model.network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"the weights in {folder} do not fit its config: delete it and train again.") from error
        model.stages = {name: Log(Epoch(**row) for row in rows) for name, rows in values["stages"].items()}
        return model

    @classmethod
    def cached(cls, data: Dataset, preset: str = "tiny", **changes: object) -> Self:
        """The kept model of this config, data and code, or one trained now; a training that was cut off goes on."""
        model = cls(data, preset, **changes)
        model.pretrain(keep=True)
        if model.config.finetune_epochs:
            model.fine_tune(keep=True)
        print(f"trained {data.name} in {sum(rows[-1].seconds for rows in model.stages.values() if rows):.0f} s")
        return model


def on_hub(verb: str, name: str, **options: object) -> str:
    """A verb of huggingface_hub, with InputError in place of its errors."""
    try:
        return str(getattr(importlib.import_module("huggingface_hub"), verb)(repo_id=name, **options))
    except Exception as error:  # its own, its HTTP client's, and where it is not installed
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{name} is no folder here, and huggingface_hub.{verb} ends with: {reason}.") from error


class Scale(NamedTuple):
    name: str
    seeds: tuple[int, ...]  # one training each
    preset: str
    changes: Mapping[str, object] = {}
    users: int | None = None  # of a subset

    def load(self, name: str) -> Dataset:
        data = load(name)
        return data if self.users is None else data.subset(self.users)

    def model(self, data: Dataset, *, seed: int | None = None, **changes: object) -> M6Rec:
        seed = self.seeds[0] if seed is None else seed
        return M6Rec.cached(data, self.preset, seed=seed, **{**self.changes, **changes})


@typed
def scale(name: str, seed: int = 0) -> Scale:
    """smoke: 60 users, two epochs. quick: everyone, the tiny preset. full: the small preset, three seeds.

    A sweep's preset and settings, in M6REC_CONFIG as JSON, replace them."""
    own = json.loads(os.environ.get("M6REC_CONFIG") or "{}")
    smoke = {"pretrain_epochs": 1, "finetune_epochs": 1, "validate_every": 1}
    sizes = {
        "smoke": Scale("smoke", (seed,), "tiny", smoke, 60),
        "quick": Scale("quick", (seed,), "tiny"),
        "full": Scale("full", (seed, seed + 1, seed + 2), "small"),
    }
    choose("scale", name, sizes)
    size = sizes[name]
    return size._replace(preset=own.pop("preset", size.preset), changes={**size.changes, **own})
