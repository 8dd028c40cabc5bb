"""Pretraining on behaviour as plain text: what follows is written, and spans that are hidden are filled in.

The same backbone serves every domain that it is given; it is trained once for its texts, config and code, and kept.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.cache import key
from m6rec.config import Config, pick_device
from m6rec.data.cooccurrence import cooccurrence_init
from m6rec.data.prompts import Domain
from m6rec.data.text import PROMPT_SPECIAL, Prompt, Tokenizer, Tokens
from m6rec.model.text_model import TextTransformer
from m6rec.train import losses
from m6rec.train.fit import Stage, fit, fit_once
from m6rec.train.losses import Catalogue

SOURCE, TARGET = 96, 80  # tokens of an example's regions, at most
# Sizes by name: a backbone trains in half a minute on one core, or just runs.
SIZES = {
    "smoke": {"width": 32, "heads": 2, "joint_layers": 2, "pretrain_epochs": 1, "vocabulary": 600},
    "quick": {"dropout": 0.0, "width": 64, "heads": 4, "joint_layers": 2, "pretrain_epochs": 2, "vocabulary": 1000},
}


class Backbone(NamedTuple):
    """A pretrained network and the tokenizer that belongs to it."""

    network: TextTransformer
    tokenizer: Tokenizer
    config: Config
    key: str  # the checkpoint's: another one, another model


def config(size: str, seed: int = 0, **changes: object) -> Config:
    """The backbone's settings at "smoke" or "quick" size."""
    common = {"dropout": 0.1, "batch": 16, "learning_rate": 3e-3, "average": 0.98, "validate_every": 1}
    return Config(**{**common, **SIZES[size], "seed": seed, **changes})


def pretrain(
    domains: Sequence[Domain], config: Config, whole: bool = False, *, keep: bool = False, **options: object
) -> Backbone:
    """A backbone trained on the windows of these domains, judged by the texts of users kept apart.

    whole: the negatives of an item are all items of the domains, not those of the batch alone. keep: in the cache, or
    taken from it. options: `folder`, `resume` and `on_epoch` of `fit`.
    """
    tokenizer = Tokenizer.fit(_words(domains), config.vocabulary)
    torch.manual_seed(config.seed)
    network = TextTransformer(config, len(tokenizer))
    with torch.no_grad():
        start = cooccurrence_init(domains, tokenizer, config.width, config.seed)
        network.tokens.weight[len(PROMPT_SPECIAL) :] = start[len(PROMPT_SPECIAL) :]
    had = {words for domain in domains for words in domain.items[np.unique(domain.item)]}  # others are no negatives
    train, apart = ([domain.only((domain.user % 20 == 7) == held) for domain in domains] for held in (False, True))
    judged = _windows(apart, np.random.default_rng(0))[:256]

    @torch.no_grad()
    def validate(network: nn.Module) -> float:
        parts = (tokenizer.encode(judged[i : i + 64], SOURCE, TARGET) for i in range(0, len(judged), 64))
        return -float(torch.stack([losses.text(network, part)["tokens"] for part in parts]).mean())

    catalogue = Catalogue.of(had, tokenizer, pick_device(config.device)) if whole else None
    stage = Stage(
        "text",
        config.pretrain_epochs,
        lambda rng: (losses.hide(some, rng) for some in _batches(_windows(train, rng), tokenizer, config, rng)),
        lambda network, some, rng: losses.text(network, some, catalogue),
        validate,
    )
    parts = (whole, *(domain.fingerprint for domain in domains))
    rows = fit_once(network, stage, config, *parts, code=(pretrain,), keep=keep, **options)
    if keep:
        print(f"trained text model of {', '.join(domain.name for domain in domains)} in {rows[-1].seconds:.0f} s")
    return Backbone(network, tokenizer, config, key(config.fingerprint, *parts, code=(pretrain,)))


def fine_tune(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    epochs: int = 1,
    rate: float = 1e-3,
    seed: int = 0,
    items: Sequence[str] | None = None,
) -> Backbone:
    """The backbone after some passes over these prompts' targets; the one that is given stays as it is.

    items: a catalogue; with it, the prompts' items are contrasted with all of it, too.
    """
    config = replace(backbone.config, pretrain_epochs=epochs, learning_rate=rate, seed=seed)
    network, tokenizer = copy.deepcopy(backbone.network), backbone.tokenizer
    catalogue = Catalogue.of(items, tokenizer, pick_device(config.device)) if items is not None else None

    def loss(network: TextTransformer, some: Tokens, rng: np.random.Generator) -> dict[str, Tensor]:
        both = losses.text(network, some, catalogue)
        return both if catalogue else {"tokens": both["tokens"]}

    def batches(rng: np.random.Generator) -> Iterator[Tokens]:
        return _batches([prompts[i] for i in rng.permutation(len(prompts))], tokenizer, config, rng)

    fit(network, Stage("fine_tune", epochs, batches, loss), config)
    known = key(backbone.key, config.fingerprint, *prompts, *sorted(items or ()), code=(fine_tune,))
    return Backbone(network, tokenizer, config, known)


def _windows(domains: Sequence[Domain], rng: np.random.Generator) -> list[Prompt]:
    """One epoch's prompts, shuffled over the domains."""
    prompts = [prompt for domain in domains for prompt in domain.windows(rng)]
    return [prompts[i] for i in rng.permutation(len(prompts))]


def _batches(prompts: list[Prompt], tokenizer: Tokenizer, config: Config, rng: np.random.Generator) -> Iterator[Tokens]:
    """Batches in random order, of prompts that are about as long, so that little is padding."""
    size, rows = config.batch, []
    for start in range(0, len(prompts), 16 * size):
        part = sorted(prompts[start : start + 16 * size], key=lambda prompt: (len(prompt.history), len(prompt.target)))
        rows += [part[i : i + size] for i in range(0, len(part), size)]
    for i in rng.permutation(len(rows)):
        yield tokenizer.encode(rows[i], SOURCE, TARGET)


def _words(domains: Sequence[Domain]) -> Iterator[str]:
    """What the tokenizer reads: items as often as they are had, profiles and requests once."""
    for domain in domains:
        yield from map(domain.event, range(len(domain.item)))
        yield from domain.profiles
        yield from (f"{request}:" for request in np.unique(domain.requests))
