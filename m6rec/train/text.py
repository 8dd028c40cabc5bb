"""Pretraining on behaviour as plain text: what follows is written, and spans that are hidden are filled in.

The same backbone serves every domain that it is given; it is trained once for its texts, config and code, and kept.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec import cache
from m6rec.config import Config, pick_device
from m6rec.data.cooccurrence import cooccurrence_init
from m6rec.data.prompts import Domain
from m6rec.data.sources import home
from m6rec.data.text import EOS, MASK, PAD, PROMPT_SPECIAL, Prompt, PromptTokenizer, Tokens
from m6rec.model.text_model import TextTransformer
from m6rec.train import checkpoint
from m6rec.train.fit import Stage, fit
from m6rec.train.losses import Catalogue, item_contrast

INFILL = 0.2  # share of the examples in which a span of the history is hidden
SPAN = 8  # tokens of a hidden span, at most
SOURCE, TARGET = 96, 80  # tokens of an example's regions, at most
# Sizes by name: a backbone trains in half a minute on one core, in five minutes, or just runs.
SIZES = {
    "smoke": {"width": 32, "heads": 2, "joint_layers": 2, "pretrain_epochs": 1, "vocabulary": 600},
    "quick": {"dropout": 0.0, "width": 64, "heads": 4, "joint_layers": 2, "pretrain_epochs": 2, "vocabulary": 1000},
    "full": {"width": 64, "heads": 4, "joint_layers": 4, "pretrain_epochs": 6, "vocabulary": 1000},
}


class Batch(NamedTuple):
    """Examples as tensors."""

    source: Tensor  # (B, S)
    target: Tensor  # (B, T)
    loss_mask: Tensor  # (B, T) bool

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        return Batch(*(part.to(device) for part in self))


class Backbone(NamedTuple):
    """A pretrained network and the tokenizer that belongs to it."""

    network: TextTransformer
    tokenizer: PromptTokenizer
    config: Config
    key: str  # the checkpoint's: another one, another model


def config(size: str, seed: int = 0, **changes: object) -> Config:
    """The backbone's settings at "smoke", "quick" or "full" size."""
    common = {"dropout": 0.1, "batch": 16, "learning_rate": 3e-3, "average": 0.98, "validate_every": 1}
    return Config(**{**common, **SIZES[size], "seed": seed, **changes})


def batch(tokens: Tokens) -> Batch:
    """Token ids as tensors."""
    return Batch(*(torch.from_numpy(part) for part in tokens))


def losses(network: TextTransformer, some: Batch, catalogue: Catalogue | None = None) -> dict[str, Tensor]:
    """`write`: mean cross-entropy of the taught tokens, each from those before it. `meet`: `item_contrast`. In nats."""
    begun = some.target[:, :-1]
    truth = some.target[:, 1:].masked_fill(~some.loss_mask[:, 1:], PAD)
    hidden = network(some.source, begun, logits=False).hidden[:, some.source.shape[1] :]
    there = truth != PAD  # logits are most of the work: only where there is a loss
    write = F.cross_entropy(network.logits(hidden[there]), truth[there])
    return {"write": write, "meet": item_contrast(network, hidden, begun, truth, catalogue)}


def examples(domains: Sequence[Domain], rng: np.random.Generator, share: float = 1.0) -> list[Prompt]:
    """One epoch's renderings, shuffled over the domains."""
    texts = [text for domain in domains for text in domain.windows(rng)]
    return [texts[i] for i in rng.permutation(len(texts))[: max(1, int(share * len(texts)))]]


def hide(tokens: Tokens, rng: np.random.Generator) -> Tokens:
    """Text infilling: in a share of the rows one span of the source becomes [MASK], and the span is the target."""
    source, target, loss_mask = (part.copy() for part in tokens)
    for row in np.flatnonzero(rng.random(len(source)) < INFILL):
        there = source[row][source[row] != PAD]
        size = int(rng.integers(1, SPAN + 1))
        if len(there) < size + 3:
            continue
        start = int(rng.integers(1, len(there) - size))
        span = there[start : start + size]
        written = [target[row, 0], *span, EOS][: target.shape[1]]
        rest = [*there[:start], MASK, *there[start + size :]]
        source[row], target[row], loss_mask[row] = PAD, PAD, False
        source[row, : len(rest)], target[row, : len(written)] = rest, written
        loss_mask[row, 1 : len(written)] = True
    return Tokens(source, target, loss_mask)


def stage(texts: Sequence[Domain], tokenizer: PromptTokenizer, config: Config, whole: bool = False) -> Stage:
    """The stage for `fit`: epochs over the domains' windows, judged by the texts of users kept apart.

    whole: items meet all items of the domains, not those of the batch alone.
    """
    catalogue = Catalogue.of(_had(texts), tokenizer).to(pick_device(config.device)) if whole else None
    apart = [_users(domain, kept=False) for domain in texts]
    train = [_users(domain, kept=True) for domain in texts]
    judged = examples(apart, np.random.default_rng(0))[:256]

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
        rows = _alike(examples(train, rng), config.batch)
        for i in rng.permutation(len(rows)):
            yield batch(hide(tokenizer.encode(rows[i], SOURCE, TARGET), rng))

    @torch.no_grad()
    def validate(network: nn.Module) -> float:
        parts = [batch(tokenizer.encode(judged[i : i + 64], SOURCE, TARGET)) for i in range(0, len(judged), 64)]
        parts = [part.to(network.device) for part in parts]
        return -float(torch.stack([losses(network, part)["write"] for part in parts]).mean())

    return Stage(
        name="text",
        epochs=config.pretrain_epochs,
        batches=batches,
        losses=lambda network, some, rng: losses(network, some, catalogue),
        validate=validate,
    )


def _alike(texts: list[Prompt], size: int) -> list[list[Prompt]]:
    """Batches of examples that are about as long, so that little is padding."""
    batches = []
    for start in range(0, len(texts), 16 * size):
        part = sorted(texts[start : start + 16 * size], key=lambda text: (len(text.history), len(text.target)))
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    return batches


def pretrain(domains: Sequence[Domain], config: Config, whole: bool = False, **options: object) -> Backbone:
    """A backbone trained on these domains' texts; whole: as in `stage`.

    options: `folder`, `resume`, `log` and `on_epoch` of `fit`.
    """
    tokenizer = PromptTokenizer.fit(_words(domains), config.vocabulary)
    torch.manual_seed(config.seed)
    network = TextTransformer(config, len(tokenizer))
    with torch.no_grad():
        start = cooccurrence_init(domains, tokenizer, config.width, config.seed)
        network.tokens.weight[len(PROMPT_SPECIAL) :] = start[len(PROMPT_SPECIAL) :]
    fit(network, stage(domains, tokenizer, config, whole), config, **options)
    return Backbone(network.eval(), tokenizer, config, key(domains, config, whole))


def fine_tune(
    made: Backbone,
    texts: Sequence[Prompt],
    epochs: int = 1,
    rate: float = 1e-3,
    seed: int = 0,
    items: Sequence[str] | None = None,
) -> Backbone:
    """The backbone after some passes over these texts' targets; the one that is given stays as it is.

    items: a catalogue, among which the texts' items are to be met as well.
    """
    settings = Config(**{**made.config.to_dict(), "pretrain_epochs": epochs, "learning_rate": rate, "seed": seed})
    network = copy.deepcopy(made.network)
    catalogue = Catalogue.of(items, made.tokenizer).to(pick_device(settings.device)) if items is not None else None

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
        rows = _alike([texts[i] for i in rng.permutation(len(texts))], settings.batch)
        for i in rng.permutation(len(rows)):
            yield batch(made.tokenizer.encode(rows[i], SOURCE, TARGET))

    def loss(network: TextTransformer, some: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        both = losses(network, some, catalogue)
        return both if catalogue else {"write": both["write"]}

    fit(network, Stage("fine_tune", epochs, batches, loss, keep="last"), settings)
    known = cache.key(made.key, settings.fingerprint, *texts, *sorted(items or ()), code=(fine_tune,))
    return Backbone(network.eval(), made.tokenizer, settings, known)


def cached(domains: Sequence[Domain], config: Config, seed: int | None = None, whole: bool = False) -> Backbone:
    """The kept backbone of these texts, config and code, or a new one that is then kept; says which of the two."""
    if seed is not None:
        config = Config(**{**config.to_dict(), "seed": seed})
    folder = home() / "models" / f"text-{key(domains, config, whole)}"
    work = folder.with_name(folder.name + "-training")

    def make() -> Backbone:
        log: list = []
        made = pretrain(domains, config, whole, folder=work, resume=True, on_epoch=log.append)
        print(f"trained {folder.name} in {log[-1].seconds if log else 0:.0f} s")
        return made

    def kept(folder: Path) -> Backbone:
        print(f"loaded {folder.name}")
        return load(folder)

    made = cache.cached(folder, make, save, kept)
    shutil.rmtree(work, ignore_errors=True)
    return made


def save(made: Backbone, folder: Path) -> None:
    """Keep a backbone: weights in safetensors, tokenizer and settings in JSON."""
    values = {"config": made.config.to_dict(), "key": made.key}
    checkpoint.save_model(Path(folder), made.network, made.tokenizer.bpe, values)


def load(folder: Path) -> Backbone:
    """A backbone that `save` kept; InputError where it is something else."""
    tensors, tokenizer, values = checkpoint.load_model(Path(folder))
    try:
        config = Config(**{**values["config"], "device": "auto"})  # another device's, too
        network = TextTransformer(config, tokenizer.get_vocab_size()).to(pick_device(config.device))
        network.load_state_dict(tensors)
        return Backbone(network.eval(), PromptTokenizer(tokenizer), config, values["key"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise checkpoint.foreign(Path(folder), values) from error


def key(domains: Sequence[Domain], config: Config, whole: bool = False) -> str:
    """A hash of texts, config and the code that a backbone is made by."""
    return cache.key(config.fingerprint, whole, *(domain.fingerprint for domain in domains), code=(pretrain,))


def _users(domain: Domain, *, kept: bool) -> Domain:
    """The domain without one user in twenty, or these alone: they judge."""
    return domain.only((domain.user % 20 != 7) == kept)


def _had(domains: Sequence[Domain]) -> set[str]:
    """The items that somebody had: one that is held out is no wrong answer."""
    return {words for domain in domains for words in domain.items[np.unique(domain.item)]}


def _words(domains: Sequence[Domain]) -> Iterator[str]:
    """What the tokenizer reads: items as often as they are had, profiles and requests once."""
    for domain in domains:
        yield from (domain.event(row) for row in range(len(domain.item)))
        yield from domain.profiles
        yield from (f"{request}:" for request in np.unique(domain.requests))
