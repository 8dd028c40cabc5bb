import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch

from m6rec.config import MODALITIES, Config, InputError, pick_device
from m6rec.data import context as contexts
from m6rec.data.context import Context, EventCodes, Fields
from m6rec.data.cooccurrence import neighbourhood, spectral
from m6rec.data.dataset import Dataset, Targets
from m6rec.data.features import FILE_MODALITIES, Features, Media, preprocess, table
from m6rec.data.prompts import domain
from m6rec.data.sources import home, load, shipped
from m6rec.data.tables import as_frame, listed
from m6rec.data.text import PROMPT_SPECIAL, SPECIAL, Tokenizer
from m6rec.evaluate import evaluate
from m6rec.explain.explainers import reasons
from m6rec.generate import Generated, Scorer, best_items, check_length, generate
from m6rec.model.network import Fused, Network
from m6rec.model.tree import build_tree
from m6rec.train import losses
from m6rec.train.fit import Epoch, Stage, fit, foreign, load_model, save_model, version
from m6rec.train.text import Backbone

History = Iterable[object] | pd.DataFrame | None  # any table or sequence: see `listed`
Values = Mapping[str, object] | None


class Person(NamedTuple):
    context: Context  # B = Q = 1
    history: list[int]  # all item codes, oldest first; only the last ones are encoded
    new: list[Mapping[str, object]]  # items that the catalogue lacks; their codes are N, N + 1, …


class M6Rec:
    """Raw ids and content in, a DataFrame out.

    What is fitted (vocabulary, fields, tree, weights) sees the training events of `data.split()` only.
    """

    def __init__(
        self, data: Dataset, preset: str = "tiny", *, config: Config | None = None,
        fitted: tuple[Fields, Tokenizer] | None = None, **changes: object,
    ):  # fmt: skip
        """fitted: the fields and tokenizer of a saved model."""
        config = config or Config.preset(preset, **changes)
        self.data, self.config, self.split, self.device = data, config, data.split(), pick_device(config.device)
        trained = np.unique(data.events["item"].to_numpy()[self.split.train])
        if fresh := fitted is None:
            texts, special = [*data.items["text"].iloc[trained]], SPECIAL
            if config.text_weight:
                texts, special = [*dict.fromkeys([*texts, *domain(data, self.split.train).texts()])], PROMPT_SPECIAL
            fitted = Fields.fit(data, self.split, config), Tokenizer.fit(texts, config.vocabulary, special)
        self.fields, self.tokenizer = fitted
        self.features = self.preprocess(data.items, data.media)
        self._training_content = self.features.take(trained)
        torch.manual_seed(config.seed)
        known = np.isin(np.arange(data.n_items), trained)
        self.network = Network(config, self.fields, self.features, len(self.tokenizer), known).to(self.device).eval()
        if fresh and config.spectral and (config.identity or config.item_epochs):
            self.network.start(self._spectral())
        self.stages: dict[str, list[Epoch]] = {}
        self._pretrained = ""
        self._items: torch.Tensor | None = None

    def pretrain(self, **options: object) -> list[Epoch]:
        """Learn what is missing of items, and the next event of every prefix; then grow the tree.

        options: of `train.fit.fit`. Source: M6-Rec section 3.1; the source document's section 3.1.1.
        """
        if self.config.item_epochs:
            folder = options.get("folder") and Path(options["folder"])  # of its own: each resumes by itself
            beside = {"folder": folder.with_name(f"{folder.name}-items")} if folder else {}
            self._train(self._items_stage(), {**options, **beside})
        rows = self._train(self.stage("pretrain", self.config.pretrain_epochs, losses.pretraining, "dense"), options)
        self._pretrained = version(self.network)  # the tree's vectors follow the number of threads in their last bits
        vectors, digits = self.item_vectors(), self.network.digits
        digits.init_from_tree(build_tree(vectors.cpu().numpy(), digits.widths, self.config.seed), vectors)
        return rows

    def fine_tune(self, **options: object) -> list[Epoch]:
        """Teach the next item's semantic ID, with the dense head as a teacher. The source document's section 3.1.2.

        A model that reads prompts keeps its item encoder, which would forget them.
        """
        if "pretrain" not in self.stages:
            raise InputError("fine_tune needs a pretrained model: call pretrain() first, or take from_pretrained.")
        stage = self.stage("fine_tune", self.config.finetune_epochs, losses.finetuning, "generated")
        self.network.items.requires_grad_(not self.config.text_weight)
        try:
            return self._train(stage, {"start": self._pretrained, **options})
        finally:
            self.network.items.requires_grad_(True)

    @property
    def text(self) -> Backbone:
        """The same weights for prompts: see `train.text`, and `Network.text` for errors."""
        return Backbone(self.network.text, self.tokenizer, self.config)

    def stage(self, name: str, epochs: int, loss: Callable, judged_by: str) -> Stage:
        """Training on all events, validated by a method's NDCG@10."""
        data, split, config = self.data, self.split, self.config
        near = [t.to(self.device) for t in neighbourhood(data, split, config.smoothing)] if config.smoothing else None
        sizes, prompts = {"length": config.history, "batch": config.batch}, None
        if config.text_weight:
            read = domain(data, split.train)
            items = losses.catalogue_of(read.items[np.unique(read.item)], self.tokenizer, self.device)
            prompts = losses.Prompts(read, self.tokenizer, items)
        corpus = losses.Corpus(self._training_content, near, prompts)

        def batches(rng: np.random.Generator) -> Iterator[Context]:
            return contexts.training_batches(data, split, self.codes, **sizes, rng=rng)

        def validate(network: Network) -> float:
            return evaluate(self.scorer(judged_by, network=network), data, split=split, part="valid").metrics["ndcg@10"]

        def teach(network: Network, batch: Context, rng: np.random.Generator) -> dict[str, torch.Tensor]:
            return loss(network, batch, config, corpus, rng)

        return Stage(name, epochs, batches, teach, validate, losses.loss_weights(config))

    def _spectral(self) -> torch.Tensor:
        vectors = self.config.spectral * spectral(self.data, self.split, self.config.width)
        return torch.from_numpy(vectors).to(self.device)

    def _items_stage(self) -> Stage:
        config, content, weights = self.config, self._training_content, losses.loss_weights(self.config)
        start = self._spectral()[self.network.codes >= 0] if config.spectral and not config.identity else None
        if not config.modalities or (not any(weights[w] for w in ("infill", "image", "align")) and start is None):
            taught = "infill, patch or align_weight > 0, or spectral > 0 without ID embeddings"
            raise InputError(f"item_epochs needs something to teach: modalities, and {taught}.")

        def loss(network: Network, _: None, rng: np.random.Generator) -> dict[str, torch.Tensor]:
            return losses.item_content(network, content, config, rng, start)

        @torch.no_grad()
        def validate(network: Network) -> float:
            rows = [loss(network, None, np.random.default_rng(i)) for i in range(4)]
            return -sum(weights.get(name, 1.0) * float(loss) for row in rows for name, loss in row.items())

        steps = [None] * -(-len(content.present) // losses.ITEMS)
        return Stage("items", config.item_epochs, lambda rng: steps, loss, validate, weights)

    def _train(self, stage: Stage, options: dict) -> list[Epoch]:
        try:
            self.stages[stage.name] = fit(self.network, stage, self.config, self.data.fingerprint, **options)
        finally:
            self.network.eval()
            self._items = None
        return self.stages[stage.name]

    def recommend(
        self, user: object = None, *, history: History = None, profile: Values = None, context: Values = None,
        k: int = 10, method: str = "generated", seen: bool = False, drop: Sequence[str] = (), explain: bool = False,
    ) -> pd.DataFrame:  # fmt: skip
        """The k items to show next: rank, item_id, title, score (log-likelihood; dense, hybrid: log-probability).

        user, history, profile, context: see `person`. Items of the history are left out unless `seen`. drop: modalities
        to ignore. explain: adds `reason` and the share of the effect that it covers. `InputError` for what is unknown,
        and for a k that is too large.
        """
        person, drop = self.person(user, history=history, profile=profile, context=context), tuple(drop)
        found = self.top_items(person._replace(history=[]) if seen else person, k, method, drop=drop)
        codes = found.items[0].tolist()
        table = self.data.items[["item_id", "title"]].iloc[codes].reset_index(drop=True)
        table.insert(0, "rank", np.arange(1, k + 1))
        table["score"] = found.scores[0].cpu().numpy().astype(float)
        if explain:
            given = reasons(self, person.context, codes, vectors=self.item_vectors(person.new, drop=drop))
            table["reason"], table["coverage"] = [r.sentence for r in given], [r.coverage for r in given]
        return table

    def person(
        self, user: object = None, *, history: History = None, profile: Values = None, context: Values = None
    ) -> Person:
        """Whom to recommend to. The source document's section 3.3.1. `InputError` for nobody.

        user: a raw user id. history (oldest first) and profile ({"age": 34}) replace the user's own. A history has raw
        ids, titles, or dicts with the text, image or sound of new items, whose codes are N, N + 1, …; or it is a frame
        of item_id and optionally timestamp and value. context: request fields, as {"hour": 21}; others are absent.
        {"timestamp": …} stands for hour, weekday and every derived feature.
        """
        if user is None and history is None:
            raise InputError("say for whom: name a user, or give a history of items ([] for a person without one).")
        code = None if user is None else int(self.data.user_codes([user])[0])
        past = contexts.past_events(self.data, code, history := listed(history))
        own = code is not None and profile is None
        codes = self.codes.profile[code] if own else self.fields.typed("profile", profile)
        encoded = contexts.user_context(self.data, self.fields, past, context, codes, self.config.history)
        new = [] if history is None else [item for item in history if isinstance(item, Mapping)]
        return Person(encoded, past["item"].tolist(), new)

    def titles(self, person: Person) -> list[str]:
        """Of the catalogue's items, then of the person's new ones."""
        return [*self.data.items["title"], *(str(item.get("title", "new item")) for item in person.new)]

    def top_items(self, person: Person, k: int, method: str = "generated", *, drop: tuple[str, ...] = ()) -> Generated:
        allowed, items = self.candidates(person.history, k), self.item_vectors(person.new, drop=drop)
        state = self.fuse(person.context, items).state[:, -1]
        return best_items(self.network, state, items[: allowed.shape[1]], k, method, allowed=allowed)

    def candidates(self, history: Sequence[int], k: int) -> torch.Tensor:
        """(1, N) bool: what may follow a history of item codes. `InputError` where it is fewer than k."""
        n = len(self.network.digits.built_tree.leaf)
        allowed = torch.ones(1, n, dtype=torch.bool, device=self.device)
        allowed[0, [code for code in history if code < n]] = False
        check_length(k, int(allowed.sum()))
        return allowed

    def preprocess(
        self, items: pd.DataFrame | Sequence[object], media: Media | None = None, *, cache: bool = True
    ) -> Features:
        """A `Dataset`'s items, or texts -> tokens, image and sound patches. The source document's section 3.2.1."""
        frame = items if isinstance(items, pd.DataFrame) else pd.DataFrame({"text": list(items)})
        folder = home() / "features" if cache else None
        like = getattr(self, "features", None)
        content = preprocess(frame, media, self.tokenizer, self.config.text_length, folder, like)
        return content.drop(*(m for m in MODALITIES if m not in self.config.modalities))

    def extract_context(
        self, history: History = None, request: Values = None, *, user: object = None, profile: Values = None
    ) -> Context:
        """One user now, as in `person`: B = Q = 1."""
        return self.person(user, history=history, profile=profile, context=request).context

    @torch.no_grad()
    def fuse(self, context: Context, items: torch.Tensor | None = None, *, weights: bool = False) -> Fused:
        """One state per target (B, Q, D). The source document's section 3.3.2."""
        items = self.item_vectors() if items is None else items
        return self.network.fusion(context.to(self.device), items, weights=weights)

    def generate(self, fused: Fused, k: int = 10, **options: object) -> Generated:
        """k items for each row's last target, with its options. The source document's section 3.4."""
        return generate(self.network.digits, fused.state[:, -1], k, **options)

    def scorer(self, method: str = "dense", *, network: Network | None = None, **options: object) -> Scorer:
        """For `evaluate`: "dense", "generated" (lists of a beam), "hybrid" or "exact", with options of `Scorer`."""
        return Scorer(network or self.network, self.target_context, method, **options)

    def scores(self, users: Targets) -> torch.Tensor:
        """All items' dense scores -> (B, N)."""
        return self.scorer("dense").scores(users)

    @torch.no_grad()
    def item_vectors(self, new: Sequence[Mapping[str, object]] = (), *, drop: tuple[str, ...] = ()) -> torch.Tensor:
        """(N, D) of the catalogue, kept until weights change, and behind them new items: see `person`.

        Their image and sound may be a path or bytes. `InputError` for one without anything that the model reads; what
        else it has is ignored.
        """
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

    def with_items(self, items: pd.DataFrame, media: str | Path | None = None) -> "M6Rec":
        """This model with more items (as in `Dataset.from_frames`), on free leaves near those of like content."""
        data = self.data.with_items(items := as_frame(items, "items"))
        new = data.items.iloc[self.data.n_items :].assign(**{m: items[m].values for m in FILE_MODALITIES if m in items})
        content = self.preprocess(new, Media(media) if media else None)
        model = copy.copy(self)
        model.data, model._items = data, None
        model.features = Features(*map(np.concatenate, zip(self.features, content, strict=True)))
        vectors = self.network.eval().items(content.to(self.device)).vectors.detach()
        model.network = self.network.extended(model.features, vectors).to(self.device).eval()
        return model

    def with_contents(self, features: Features) -> Self:
        """This model where its items have other contents. InputError for those of other items."""
        if [part.shape for part in features] != [part.shape for part in self.features]:
            raise InputError("these contents do not fit the catalogue: give each of its items one row, as `features`.")
        model = copy.copy(self)
        model.features, model._items, model.network = features, None, self.network.extended(features).to(self.device)
        return model

    def target_context(self, users: Targets) -> Context:
        codes = contexts.encode_events(users.data, self.fields)
        return contexts.target_context(users.data, codes, users.events, self.config.history)

    @property
    def codes(self) -> EventCodes:
        return contexts.encode_events(self.data, self.fields)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save weights (safetensors) and settings (JSON). `InputError` for a catalogue that `with_items` has grown."""
        if len(self.network.codes) != self.network.digits.size:
            raise InputError("a catalogue that with_items grew is not saved: save the model before, and grow it anew.")
        values = {
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "config": self.config.to_dict(),
            "fields": self.fields.to_dict(),
            "stages": {name: [row._asdict() for row in rows] for name, rows in self.stages.items()},
        }
        save_model(Path(folder), self.network, self.tokenizer, values)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, data: Dataset | None = None) -> Self:
        """Load what `save_pretrained` wrote, or "bazaar", which comes with m6rec.

        data: by default loaded by name. `InputError` for a missing or damaged folder, and for other data.
        """
        folder = Path(folder)
        if not folder.exists() and (ours := shipped("weights") / folder).exists():
            folder = ours
        weights, tokenizer, values = load_model(folder)
        try:
            device = "cpu" if values["config"]["device"] == "cpu" else "auto"  # a GPU may not be here
            config = Config(**{**values["config"], "device": device})
            if config.to_dict().keys() != values["config"].keys():
                raise KeyError("config")  # a setting that it lacks is not guessed
            of, fields = values["data"], Fields.from_dict(values["fields"])
        except (KeyError, TypeError) as error:
            raise foreign(folder, values) from error
        data = data or load(of["name"])
        if data.fingerprint != of["fingerprint"]:
            raise InputError(f"{folder} was trained on other data than {data.name}: give {of['name']} as it was then.")
        model = cls(data, config=config, fitted=(fields, tokenizer))
        try:
            model.network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"the weights in {folder} do not fit its config: delete it and train again.") from error
        model.stages = {name: [Epoch(**row) for row in rows] for name, rows in values["stages"].items()}
        return model

    @classmethod
    def cached(cls, data: Dataset, preset: str = "tiny", **changes: object) -> Self:
        """The kept model of this config, data and code, or one trained now. An interrupted training goes on."""
        model = cls(data, preset, **changes)
        model.pretrain(keep=True)
        if model.config.finetune_epochs:
            model.fine_tune(keep=True)
        print(f"trained {data.name} in {sum(rows[-1].seconds for rows in model.stages.values() if rows):.0f} s")
        return model


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


def scale(name: str, seed: int = 0) -> Scale:
    """smoke: 60 users, two epochs. quick: everyone, the tiny preset. full: the small preset, three seeds."""
    smoke = {"pretrain_epochs": 1, "finetune_epochs": 1, "validate_every": 1}
    sizes = {
        "smoke": Scale("smoke", (seed,), "tiny", smoke, 60),
        "quick": Scale("quick", (seed,), "tiny"),
        "full": Scale("full", (seed, seed + 1, seed + 2), "small"),
    }
    if name not in sizes:
        raise InputError(f'scale="{name}" is unknown: take {", ".join(sizes)}.')
    return sizes[name]
