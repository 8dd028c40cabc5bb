"""Pretraining on behaviour as plain text: what follows is written, and spans that are hidden are filled in.

The same backbone serves every domain that it is given; it is trained once for its texts, config and code, and kept.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.cache import key
from m6rec.config import Config, pick_device
from m6rec.data.cooccurrence import cooccurrence_init
from m6rec.data.prompts import Domain
from m6rec.data.text import EOS, MASK, PAD, PROMPT_SPECIAL, Prompt, Tokenizer, Tokens
from m6rec.model.text_model import TextTransformer
from m6rec.train.fit import Stage, fit, fit_once
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


class Backbone(NamedTuple):
    """A pretrained network and the tokenizer that belongs to it."""

    network: TextTransformer
    tokenizer: Tokenizer
    config: Config
    key: str  # the checkpoint's: another one, another model


def config(size: str, seed: int = 0, **changes: object) -> Config:
    """The backbone's settings at "smoke", "quick" or "full" size."""
    common = {"dropout": 0.1, "batch": 16, "learning_rate": 3e-3, "average": 0.98, "validate_every": 1}
    return Config(**{**common, **SIZES[size], "seed": seed, **changes})


def tensors(tokens: Tokens) -> Tokens:
    """The same token ids as tensors."""
    return Tokens(*map(torch.from_numpy, tokens))


def losses(network: TextTransformer, some: Tokens, catalogue: Catalogue | None = None) -> dict[str, Tensor]:
    """In nats: cross-entropy of the generated tokens, each from those before it, and `item_contrast`."""
    source, target, loss_mask = (torch.as_tensor(part, device=network.device) for part in some)
    begun, truth = target[:, :-1], target[:, 1:].masked_fill(~loss_mask[:, 1:], PAD)
    hidden = network(source, begun, logits=False).hidden[:, source.shape[1] :]
    there = truth != PAD  # logits are most of the work: only where there is a loss
    tokens = F.cross_entropy(network.logits(hidden[there]), truth[there])
    return {"tokens": tokens, "contrastive": item_contrast(network, hidden, begun, truth, catalogue)}


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


def pretrain(
    domains: Sequence[Domain], config: Config, whole: bool = False, *, keep: bool = False, **options: object
) -> Backbone:
    """A backbone trained on the windows of these domains, judged by the texts of users kept apart.

    whole: the negatives of an item are all items of the domains, not those of the batch alone. keep: in the cache, or
    taken from it. options: `folder`, `resume`, `log` and `on_epoch` of `fit`.
    """
    tokenizer = Tokenizer.fit(_words(domains), config.vocabulary)
    torch.manual_seed(config.seed)
    network = TextTransformer(config, len(tokenizer))
    with torch.no_grad():
        start = cooccurrence_init(domains, tokenizer, config.width, config.seed)
        network.tokens.weight[len(PROMPT_SPECIAL) :] = start[len(PROMPT_SPECIAL) :]
    had = {words for domain in domains for words in domain.items[np.unique(domain.item)]}  # others are no negatives
    catalogue = Catalogue.of(had, tokenizer).to(pick_device(config.device)) if whole else None
    train, apart = ([domain.only((domain.user % 20 == 7) == held) for domain in domains] for held in (False, True))
    judged = _windows(apart, np.random.default_rng(0))[:256]

    @torch.no_grad()
    def validate(network: nn.Module) -> float:
        parts = [tokenizer.encode(judged[i : i + 64], SOURCE, TARGET) for i in range(0, len(judged), 64)]
        return -float(torch.stack([losses(network, part)["tokens"] for part in parts]).mean())

    stage = Stage(
        "text",
        config.pretrain_epochs,
        lambda rng: (tensors(hide(tokens, rng)) for tokens in _batches(_windows(train, rng), tokenizer, config, rng)),
        lambda network, some, rng: losses(network, some, catalogue),
        validate,
    )
    parts = (whole, *(domain.fingerprint for domain in domains))
    if keep:
        rows = fit_once(network, stage, config, *parts, code=(pretrain,))
        print(f"trained text model of {', '.join(domain.name for domain in domains)} in {rows[-1].seconds:.0f} s")
    else:
        fit(network, stage, config, **options)
    return Backbone(network.eval(), tokenizer, config, key(config.fingerprint, *parts, code=(pretrain,)))


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
    catalogue = Catalogue.of(items, tokenizer).to(pick_device(config.device)) if items is not None else None

    def batches(rng: np.random.Generator) -> Iterator[Tokens]:
        return map(tensors, _batches([prompts[i] for i in rng.permutation(len(prompts))], tokenizer, config, rng))

    def loss(network: TextTransformer, some: Tokens, rng: np.random.Generator) -> dict[str, Tensor]:
        both = losses(network, some, catalogue)
        return both if catalogue else {"tokens": both["tokens"]}

    fit(network, Stage("fine_tune", epochs, batches, loss, keep="last"), config)
    known = key(backbone.key, config.fingerprint, *prompts, *sorted(items or ()), code=(fine_tune,))
    return Backbone(network.eval(), tokenizer, config, known)


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
        yield from (domain.event(row) for row in range(len(domain.item)))
        yield from domain.profiles
        yield from (f"{request}:" for request in np.unique(domain.requests))
