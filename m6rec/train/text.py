"""The text backbone: pretrained on behaviour in words, fine-tuned on prompts, adapted to a classification.

Pretraining writes what follows and fills in hidden spans, for all domains in one backbone. Adapting has these METHODS:

- full: everything is trained; head: a linear map of the last state
- prompt: soft tokens before the source; the frozen output reads the answer as words (Lester et al. 2021)
- option: one soft prompt per class, in the input *and* as the class's vector: logit_c = ⟨h, p_c⟩
- option_adapter: that, and FFN(Z) + λ·[σ(Z W1 + b1) W2 + b2] in every layer (M6-Rec section 3.3)
- lora: low-rank updates of the attention's matrices, and a head (Hu et al. 2022)"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Array, Config, InputError, Rng, choose, pick_device
from m6rec.data.cooccurrence import cooccurrence_init
from m6rec.data.prompts import Domain
from m6rec.data.text import EOS, PAD, PROMPT_SPECIAL, Prompt, Tokenizer, Tokens
from m6rec.model.network import TextTransformer
from m6rec.train import losses
from m6rec.train.fit import Stage, fit, version

SOURCE, TARGET = 96, 80  # tokens of an example's regions, at most
# Step sizes for at most FEW examples, and for more: of full and option_adapter the better of two by validation AUC.
METHODS = {
    "full": (1e-3, 1e-3), "head": (1e-2, 1e-2), "prompt": (1e-2, 1e-2), "option": (1e-2, 1e-2),
    "option_adapter": (1e-2, 1e-2), "lora": (5e-3, 5e-3),
}  # fmt: skip
FEW = 1000
PROMPTS = 8  # soft tokens of plain prompt tuning: more than options have
RANK = 8  # channels of an adapter
SCALE = 10.0  # λ at first: an adapter moves faster than the options
LORA_RANK = 2  # of each of the three maps that LoRA changes


class Backbone(NamedTuple):
    network: TextTransformer
    tokenizer: Tokenizer
    config: Config


def config(seed: int = 0, **changes: object) -> Config:
    """Half a minute on one core."""
    size = {"width": 64, "heads": 4, "joint_layers": 2, "vocabulary": 1000, "dropout": 0.0, "batch": 16}
    training = {"pretrain_epochs": 2, "learning_rate": 3e-3, "average": 0.98, "validate_every": 1}
    return Config(**{**size, **training, "seed": seed, **changes})


@torch.random.fork_rng()
def pretrain(
    domains: Sequence[Domain], config: Config, whole: bool = False, *, keep: bool = False, **options: object
) -> Backbone:
    """Of these domains' windows, validated on users kept apart. keep, options: of `fit`.

    whole: negatives are all items of the domains, not the batch's."""
    tokenizer = Tokenizer.fit((text for domain in domains for text in domain.texts()), config.vocabulary)
    torch.manual_seed(config.seed)
    network = TextTransformer(config, len(tokenizer))
    with torch.no_grad():
        start = cooccurrence_init(domains, tokenizer, config.width, config.seed)
        network.tokens.weight[len(PROMPT_SPECIAL) :] = start[len(PROMPT_SPECIAL) :]
    had = {words for domain in domains for words in domain.items[np.unique(domain.item)]}  # others are no negatives
    train, apart = ([domain.only((domain.user % 20 == 7) == held) for domain in domains] for held in (False, True))
    judged = _windows(apart, np.random.default_rng(0))[:256]

    @torch.no_grad()
    def validate(network):
        parts = (tokenizer.encode(judged[i : i + 64], SOURCE, TARGET) for i in range(0, len(judged), 64))
        return -float(torch.stack([losses.text(network, part)["tokens"] for part in parts]).mean())

    catalogue = losses.catalogue_of(had, tokenizer, pick_device(config.device)) if whole else None
    stage = Stage(
        "text",
        config.pretrain_epochs,
        lambda rng: (losses.hide(some, rng) for some in _batches(_windows(train, rng), tokenizer, config, rng)),
        lambda network, some, rng: losses.text(network, some, catalogue),
        validate,
    )
    read = (part.tolist() for domain in domains for part in domain[1:])
    rows = fit(network, stage, config, whole, *read, keep=keep, **options)
    if keep:
        print(f"trained text model of {', '.join(domain.name for domain in domains)} in {rows[-1].seconds:.0f} s")
    return Backbone(network, tokenizer, config)


def fine_tune(
    backbone: Backbone, prompts: list[Prompt], epochs: int = 1, rate: float = 1e-3, seed: int = 0, items: Sequence = ()
) -> Backbone:
    """A copy, after some passes over these targets. items: with which theirs are contrasted, too."""
    config = replace(backbone.config, pretrain_epochs=epochs, learning_rate=rate, seed=seed)
    network, tokenizer = copy.deepcopy(backbone.network), backbone.tokenizer
    catalogue = losses.catalogue_of(items, tokenizer, pick_device(config.device)) if items else None

    def loss(network, some, rng):
        both = losses.text(network, some, catalogue)
        return both if catalogue else {"tokens": both["tokens"]}

    def batches(rng):
        return _batches([prompts[i] for i in rng.permutation(len(prompts))], tokenizer, config, rng)

    fit(network, Stage("fine_tune", epochs, batches, loss), config)
    return Backbone(network, tokenizer, config)


def _windows(domains: Sequence[Domain], rng: Rng) -> list[Prompt]:
    prompts = [prompt for domain in domains for prompt in domain.windows(rng)]
    return [prompts[i] for i in rng.permutation(len(prompts))]


def _batches(prompts: list[Prompt], tokenizer: Tokenizer, config: Config, rng: Rng) -> Iterator[Tokens]:
    """In random order, of prompts of about equal length: little padding."""
    size, rows = config.batch, []
    for start in range(0, len(prompts), 16 * size):
        part = sorted(prompts[start : start + 16 * size], key=lambda prompt: (len(prompt.history), len(prompt.target)))
        rows += [part[i : i + size] for i in range(0, len(part), size)]
    for i in rng.permutation(len(rows)):
        yield tokenizer.encode(rows[i], SOURCE, TARGET)


# ---- adapting


@torch.no_grad()
def add_words(made: Backbone, scales: Sequence[Sequence[str]], seed: int = 0) -> Backbone:
    """A copy with new words, each one token: those of a scale lie on a line, in order, at the others' length.

    A word that is a token already keeps its embedding."""
    network, tokenizer = copy.deepcopy(made.network), made.tokenizer.extended(word for row in scales for word in row)
    old, rng = network.tokens.weight, torch.Generator().manual_seed(seed)
    size, table = float(old.norm(dim=1).median()), F.pad(old, (0, 0, 0, len(tokenizer) - len(old)))
    for row in scales:
        middle, way = F.normalize(torch.randn(2, 1, old.shape[1], generator=rng), dim=-1) * size
        line = middle + torch.linspace(-1, 1, len(row))[:, None] * way
        table[[*map(tokenizer.bpe.token_to_id, row)]] = line.to(old)
    table[: len(old)] = old
    network.tokens = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=PAD)
    return Backbone(network, tokenizer, made.config)


class Examples(NamedTuple):
    source: Tensor  # (n, S) token ids, 0 = padding on the right
    target: Tensor  # (n, T), from [BOS]
    labels: Tensor  # (n,) int64

    def rows(self, rows: Array) -> "Examples":
        """Without padding that none of them needs."""
        source, target, labels = (part[torch.from_numpy(rows)] for part in self)
        return Examples(*(part[:, : int((part != PAD).sum(1).max())] for part in (source, target)), labels)


def examples(tokenizer: Tokenizer, texts: Sequence[Prompt], labels: Sequence[int]) -> Examples:
    """Prompts whose target is judged, without its [EOS], where the paper reads the state: we read the [SEP].

    No loss of pretraining reads [EOS]."""
    tokens = tokenizer.encode(texts, SOURCE, TARGET)
    target = np.where(tokens.target == EOS, PAD, tokens.target)
    return Examples(*map(torch.from_numpy, (tokens.source, target, np.asarray(labels, np.int64))))


class Adapter(nn.Module):
    """λ·[σ(Z W1 + b1) W2 + b2], zero at first, σ the GELU: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, rank: int = RANK):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.scale = nn.Parameter(torch.tensor(SCALE))  # λ
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.up(F.gelu(self.down(z)))

    def beside(self, ffn: nn.Module) -> None:
        """Its outputs are added to the feed-forward net's."""
        ffn.register_forward_hook(self._add)

    def _add(self, _: nn.Module, given: tuple[Tensor, ...], fed: Tensor) -> Tensor:
        return fed + self(*given)


class LowRank(nn.Module):
    """x W + x A B, with B = 0 at first: (..., D) -> (..., D')."""

    def __init__(self, linear: nn.Linear, rank: int = LORA_RANK):
        super().__init__()
        self.linear, self.down = linear, nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


class Classifier(nn.Module):
    """A copy of a backbone and what a method adds. starts (C, D): the classes' words, where options begin."""

    def __init__(self, backbone: TextTransformer, method: str, starts: Tensor):
        super().__init__()
        (classes, width), self.full, self.options = starts.shape, method == "full", method.startswith("option")
        self.backbone = copy.deepcopy(backbone).requires_grad_(self.full)
        self.prompts = None
        if self.options:
            self.prompts = nn.Parameter(starts.clone())
        else:
            self.head = nn.Linear(width, classes)
            nn.init.zeros_(self.head.weight)
        if method == "prompt":
            self.prompts = nn.Parameter(torch.randn(PROMPTS, width) * width**-0.5)
            self.head.requires_grad_(False).weight.copy_(starts)
            nn.init.zeros_(self.head.bias)
        if method == "option_adapter":
            self.adapters = nn.ModuleList(Adapter(width) for _ in self.backbone.blocks)
            for block, adapter in zip(self.backbone.blocks, self.adapters, strict=True):
                adapter.beside(block.ffn)
        if method == "lora":
            for block in self.backbone.blocks:
                block.q, block.kv, block.out = map(LowRank, (block.q, block.kv, block.out))
        self.to(backbone.device)

    def train(self, mode: bool = True) -> "Classifier":
        """What is frozen drops nothing."""
        super().train(mode)
        self.backbone.train(mode and self.full)
        return self

    def read(self, source: Tensor, target: Tensor) -> Tensor:
        """h (B, D): the state of the target's last token."""
        return self.backbone.read(source, target, self.prompts)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (B, C)."""
        h = self.read(source, target)
        return h @ self.prompts.T if self.options else self.head(h)

    def trained(self) -> int:
        """How many parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


@torch.random.fork_rng()
def adapt(
    made: Backbone, method: str, data: Examples, classes: Sequence[str], *, least: int = 60, batch: int = 64,
    seed: int = 0, keep: bool = False,
) -> Classifier:  # fmt: skip
    """A copy that tells `classes` (a few words each) apart, by one of METHODS; averaged weights.

    Two passes over the examples, but at `least` so many steps. keep: in the cache. InputError for a label outside the
    classes, or a class without examples."""
    labels, known = set(data.labels.tolist()), set(range(len(classes)))
    choose("method", method, METHODS)
    if strange := labels - known:
        raise InputError(f"label {min(strange)} is outside the {len(known)} classes: take 0 to {max(known)}.")
    if missing := known - labels:
        raise InputError(f"class {min(missing)} has no example: give each class at least one.")
    torch.manual_seed(seed)
    network = Classifier(made.network, method, options_of(made, classes))
    n, steps = len(data.labels), max(least, 2 * -(-len(data.labels) // batch))
    lengths = (data.source != PAD).sum(1).numpy()

    def batches(rng):
        rows = np.concatenate([rng.permutation(n) for _ in range(-(-steps * batch // n))])[: steps * batch]
        for block in np.array_split(rows, max(1, steps // 16)):  # little padding
            block = block[np.argsort(lengths[block], kind="stable")]
            parts = np.array_split(block, -(-len(block) // batch))
            yield from (data.rows(parts[i]) for i in rng.permutation(len(parts)))

    def loss(network, some, rng):
        return {"class": F.cross_entropy(network(some.source, some.target), some.labels)}

    average = min(max(1 - 5 / steps, 0.8), 0.998)  # over the last fifth of the steps
    rate = METHODS[method][n > FEW]
    config = replace(made.config, learning_rate=rate, seed=seed, batch=batch, average=average)
    fit(network, Stage(method, 1, batches, loss), config, least, *map(version, data), keep=keep)
    return network


@torch.no_grad()
def options_of(made: Backbone, classes: Sequence[str]) -> Tensor:
    """The mean vector (C, D) by which pretraining writes each class's words."""
    words = made.network.tokens.weight  # (V, D): what a state is multiplied with
    return torch.stack([words[list(made.tokenizer.ids(name))].mean(0) for name in classes])


@torch.no_grad()
def logits(network: Classifier, some: Examples, batch: int = 500) -> Array:
    """(n, C); labels do not matter."""
    parts = (some.rows(rows) for rows in np.array_split(np.arange(len(some.labels)), -(-len(some.labels) // batch)))
    return torch.cat([network.eval()(part.source, part.target) for part in parts]).cpu().numpy()
