"""Pretraining on behaviour as plain text: what follows is written, and spans that are hidden are filled in.

The same backbone serves every domain that it is given; it is trained once for its texts, config and code, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.domains import Domain
from m6rec.data.plaintext import Speller, Text, Tokens
from m6rec.data.sources import home
from m6rec.data.text import EOS, MASK, PAD
from m6rec.model.plain import PlainText
from m6rec.train import checkpoint
from m6rec.train.fit import Stage, fit

INFILL = 0.2  # share of the examples in which a span of the history is hidden
SPAN = 8  # tokens of a hidden span, at most
SOURCE, TARGET = 96, 80  # tokens of an example's regions, at most
CODE = (
    "data/text.py", "data/plaintext.py", "data/domains.py", "model/attention.py", "model/masks.py", "model/plain.py",
    "train/fit.py", "train/plain.py",
)  # fmt: skip
# Sizes by name: a backbone trains in half a minute on one core, in five minutes, or just runs.
SIZES = {
    "smoke": {"width": 32, "heads": 2, "joint_layers": 2, "pretrain_epochs": 1, "vocabulary": 600},
    "quick": {"width": 64, "heads": 4, "joint_layers": 3, "pretrain_epochs": 1, "vocabulary": 1500},
    "full": {"width": 64, "heads": 4, "joint_layers": 4, "pretrain_epochs": 5, "vocabulary": 1500},
}


class Batch(NamedTuple):
    """Examples as tensors."""

    source: Tensor  # (B, S)
    target: Tensor  # (B, T)
    taught: Tensor  # (B, T) bool


class Backbone(NamedTuple):
    """A pretrained network and the speller that belongs to it."""

    network: PlainText
    speller: Speller
    config: Config
    key: str  # the checkpoint's: another one, another model


def config(size: str, seed: int = 0, **changes: object) -> Config:
    """The backbone's settings at "smoke", "quick" or "full" size."""
    common = {"dropout": 0.1, "batch": 32, "learning_rate": 3e-3, "average": 0.98, "validate_every": 1, "device": "cpu"}
    return Config(**{**common, **SIZES[size], "seed": seed, **changes})


def batch(tokens: Tokens) -> Batch:
    """Token ids as tensors."""
    return Batch(*(torch.from_numpy(part) for part in tokens))


def loss(network: PlainText, some: Batch) -> Tensor:
    """Mean cross-entropy of the taught tokens, each from those before it, in nats."""
    logits = network(some.source, some.target[:, :-1]).logits
    truth = some.target[:, 1:].masked_fill(~some.taught[:, 1:], PAD)
    return F.cross_entropy(logits.flatten(0, 1), truth.flatten(), ignore_index=PAD)


def examples(domains: Sequence[Domain], rng: np.random.Generator, share: float = 1.0) -> list[Text]:
    """One epoch's renderings, shuffled over the domains."""
    texts = [text for domain in domains for text in domain.windows(rng)]
    return [texts[i] for i in rng.permutation(len(texts))[: max(1, int(share * len(texts)))]]


def hide(tokens: Tokens, rng: np.random.Generator) -> Tokens:
    """Text infilling: in a share of the rows one span of the source becomes [MASK], and the span is the target."""
    source, target, taught = (part.copy() for part in tokens)
    for row in np.flatnonzero(rng.random(len(source)) < INFILL):
        there = source[row][source[row] != PAD]
        size = int(rng.integers(1, SPAN + 1))
        if len(there) < size + 3:
            continue
        start = int(rng.integers(1, len(there) - size))
        span = there[start : start + size]
        written = [target[row, 0], *span, EOS][: target.shape[1]]
        rest = [*there[:start], MASK, *there[start + size :]]
        source[row], target[row], taught[row] = PAD, PAD, False
        source[row, : len(rest)], target[row, : len(written)], taught[row, 1 : len(written)] = rest, written, True
    return Tokens(source, target, taught)


def stage(texts: Sequence[Domain], speller: Speller, config: Config) -> Stage:
    """The stage for `fit`: epochs over the domains' windows, judged by the texts of users kept apart."""
    apart = [_users(domain, kept=False) for domain in texts]
    train = [_users(domain, kept=True) for domain in texts]
    judged = examples(apart, np.random.default_rng(0))[:256]

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
        rows = examples(train, rng)
        for start in range(0, len(rows), config.batch):
            yield batch(hide(speller.tokens(rows[start : start + config.batch], SOURCE, TARGET), rng))

    @torch.no_grad()
    def validate(network: nn.Module) -> float:
        parts = [batch(speller.tokens(judged[i : i + 64], SOURCE, TARGET)) for i in range(0, len(judged), 64)]
        return -float(torch.stack([loss(network, part) for part in parts]).mean())

    return Stage(
        name="plain",
        epochs=config.pretrain_epochs,
        batches=batches,
        losses=lambda network, some, rng: {"write": loss(network, some)},
        validate=validate,
        weights={},
    )


def pretrain(domains: Sequence[Domain], config: Config, **options: object) -> Backbone:
    """A backbone trained on these domains' texts; options: `folder`, `resume`, `log` and `on_epoch` of `fit`."""
    speller = Speller.fit(_words(domains), config.vocabulary)
    torch.manual_seed(config.seed)
    network = PlainText(config, len(speller))
    fit(network, stage(domains, speller, config), config, **options)
    return Backbone(network.eval(), speller, config, key(domains, config))


def cached(domains: Sequence[Domain], config: Config, seed: int | None = None) -> Backbone:
    """The kept backbone of these texts, config and code, or a new one that is then kept; says which of the two."""
    if seed is not None:
        config = Config(**{**config.to_dict(), "seed": seed})
    name = key(domains, config)
    folder = home() / "models" / f"plain-{name}"
    if (folder / "config.json").exists():
        print(f"loaded {folder.name}")
        return load(folder)
    work = folder.with_name(folder.name + "-training")
    log: list = []
    made = pretrain(domains, config, folder=work, resume=True, on_epoch=log.append)
    save(made, folder)
    checkpoint.remove(work)
    print(f"trained {folder.name} in {log[-1].seconds if log else 0:.0f} s")
    return made


def save(made: Backbone, folder: Path) -> None:
    """Keep a backbone: weights in safetensors, tokenizer and settings in JSON."""
    values = {"config": made.config.to_dict(), "key": made.key}
    checkpoint.save_model(Path(folder), made.network, made.speller.tokenizer, values)


def load(folder: Path) -> Backbone:
    """A backbone that `save` kept; InputError where it is something else."""
    tensors, tokenizer, values = checkpoint.load_model(Path(folder))
    try:
        config = Config(**values["config"])
        network = PlainText(config, tokenizer.get_vocab_size())
        network.load_state_dict(tensors)
        return Backbone(network.eval(), Speller(tokenizer), config, values["key"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise checkpoint.foreign(Path(folder), error) from error


def key(domains: Sequence[Domain], config: Config) -> str:
    """A hash of texts, config and the code that a backbone is made by."""
    digest = hashlib.sha256(config.fingerprint.encode())
    for domain in domains:
        digest.update(domain.fingerprint.encode())
    for file in CODE:
        digest.update((Path(__file__).parents[1] / file).read_bytes())
    return digest.hexdigest()[:12]


def _users(domain: Domain, *, kept: bool) -> Domain:
    """The domain without one user in twenty, or these alone: they judge."""
    mine = (domain.user % 20 != 7) == kept
    return domain._replace(**{part: getattr(domain, part)[mine] for part in ("user", "item", "requests", "values")})


def _words(domains: Sequence[Domain]) -> Iterator[str]:
    """What the tokenizer reads: items as often as they are had, profiles and requests once."""
    for domain in domains:
        yield from (domain.said(row) for row in range(len(domain.item)))
        yield from domain.profiles
        yield from (f"{request}:" for request in np.unique(domain.requests))
