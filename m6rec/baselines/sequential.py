"""Networks that predict the next item, and baselines that predict likes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from m6rec.config import Config, pick_device
from m6rec.data.context import Context, EventCodes, training_batches
from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.prompts import Ratings
from m6rec.errors import InputError
from m6rec.evaluate import evaluate
from m6rec.model import masks
from m6rec.model.attention import Attended, Block, Stack, attend
from m6rec.train.fit import Epoch, Stage, fit, train_epoch
from m6rec.train.losses import first_class, full_softmax, sampled_logits


@dataclass(eq=False)
class Sequential:
    """Fits with the model's loop, windows, averaging and early stopping."""

    name: ClassVar[str]
    architecture: ClassVar[Callable[[nn.Embedding, Config], nn.Module]]
    network: ClassVar[nn.Module | None] = None
    log: ClassVar[list[Epoch]]
    config: Config  # this and later fields decide what is learnt

    def build(self, data: Dataset) -> nn.Module:
        """Item ids (B, T), padded on the right with -1, -> states (B, T, D)."""
        return self.architecture(nn.Embedding(data.n_items, self.config.width), self.config)

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """Mean full softmax loss of the items (n,) that came after states (n, D)."""
        return full_softmax(states, network.embedding.weight, target)

    def rank(self, network: nn.Module, states: Tensor, users: Targets) -> Tensor:
        """States (B, D) -> scores (B, N)."""
        return states @ network.embedding.weight.T

    def fit(self, data: Dataset, split: Split, **options: object) -> Self:
        """options: `m6rec.train.fit`'s; `keep=True` takes what was kept of the same data, split, fields and code."""
        config = self.config
        torch.manual_seed(config.seed)
        network = self.build(data)
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        no = np.zeros(data.n_events, np.int64)
        codes = EventCodes(no, no, np.zeros((data.n_events, 0), np.int64), np.zeros((data.n_users, 0), np.int64))

        def losses(network: nn.Module, batch: Context, rng: np.random.Generator) -> dict[str, Tensor]:
            states, target = network(batch.item[:, :-1]), batch.item[:, 1:]
            return {"next": self.loss(network, states[target >= 0], target[target >= 0])}

        def validate(average: nn.Module) -> float:
            self.network = average
            return evaluate(self, data, split=split, part="valid").metrics["ndcg@10"]

        batches = partial(training_batches, data, split, codes, length=config.history, batch=config.batch)
        stage = Stage(self.name, config.pretrain_epochs, lambda rng: batches(rng=rng), losses, validate)
        parts = data.fingerprint, hashlib.sha256(np.concatenate(split[1:])).hexdigest(), self
        self.log = fit(network, stage, config, *parts, code=(type(self),), **options)
        self.network = network
        return self

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better, after `config.history` - 1 events: a window's last position is never learnt.

        InputError before `fit`.
        """
        if self.network is None:
            raise InputError(f"{self.name} has no network yet: call fit(data, split) before it is asked")
        history = users.history(self.config.history - 1)  # (B, T), padded on the left
        counts = (history >= 0).sum(1)
        packed = np.take_along_axis(history, (history < 0).argsort(1, kind="stable"), 1)  # padding moves to the right
        device = next(self.network.parameters()).device
        states = self.network(torch.from_numpy(packed).to(device))
        last = torch.from_numpy(np.maximum(counts, 1) - 1).to(device)
        return self.rank(self.network, states[torch.arange(len(users), device=device), last], users)


class GRU4RecNetwork(nn.Module):
    def __init__(self, embedding: nn.Module, config: Config):
        super().__init__()
        self.embedding = embedding
        between = config.dropout if config.joint_layers > 1 else 0.0  # or PyTorch warns
        self.gru = nn.GRU(config.width, config.width, config.joint_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, item: Tensor) -> Tensor:
        x = self.dropout(self.embedding(item.clamp(min=0)))
        return self.dropout(self.gru(x)[0])


class GRU4Rec(Sequential):
    """Hidasi et al. 2016, with shared item vectors (Hidasi & Karatzoglou 2018) and the full softmax."""

    name = "GRU4Rec"
    architecture = GRU4RecNetwork


class Layer(nn.Module):
    """SASRec's: LayerNorm first, a ReLU net, no gates."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, *_: object, **options: object) -> Attended:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        x = x + self.dropout(self.out(attend(q, k, v, mask).out.transpose(1, 2).flatten(2)))
        return Attended(x + self.dropout(self.ffn(self.ffn_norm(x))), None)


class SASRecNetwork(nn.Module):
    """layer: see `Stack`, called with tokens and mask."""

    def __init__(
        self, embedding: nn.Module, config: Config, layer: type[nn.Module] = Layer, norm: type[nn.Module] = nn.LayerNorm
    ):
        super().__init__()
        self.embedding = embedding
        self.positions = nn.Embedding(config.history, config.width)
        self.layers = Stack(config, config.joint_layers, block=layer)
        self.norm, self.dropout = norm(config.width), nn.Dropout(config.dropout)

    def embed(self, item: Tensor) -> Tensor:
        return self.embedding(item)

    def forward(self, item: Tensor) -> Tensor:
        positions = torch.arange(item.shape[1], device=item.device)
        x = self.dropout(self.embed(item.clamp(min=0)) + self.positions(positions))
        mask = masks.causal(item.shape[1], item.device)  # hides the padding, too
        return self.norm(self.layers(x, mask).states)


class SASRec(Sequential):
    """Kang & McAuley 2018, with the full softmax (Klenitskiy & Vasilev 2023)."""

    name = "SASRec"
    architecture = SASRecNetwork


@dataclass(eq=False)
class ESASRec(Sequential):
    """Tikhonovich et al. 2025: LiGR layers (`Block`), learnt positions, `negatives` that a step shares."""

    name = "eSASRec"
    architecture = partial(SASRecNetwork, layer=Block)
    negatives: int = 256

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        items = network.embedding.weight
        negatives = torch.randint(len(items), (self.negatives,), device=target.device)
        return first_class(sampled_logits(states, items, target, negatives, len(items)))


def din(ratings: Ratings, rows: np.ndarray, *, epochs: int = 4, seed: int = 0) -> np.ndarray:
    """Log-odds that these rated events (n,) are likes, by a `DINNetwork`; the epoch that validates best counts."""
    torch.manual_seed(seed)
    rng, best, network = np.random.default_rng(seed), -1.0, DINNetwork(ratings).to(pick_device())
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-5)

    def losses(network: nn.Module, rows: np.ndarray) -> dict[str, Tensor]:
        logits = network(rows)
        truth = torch.from_numpy(ratings.liked[rows]).to(logits)
        return {"liked": F.binary_cross_entropy_with_logits(logits, truth)}

    @torch.no_grad()
    def scores(rows: np.ndarray) -> np.ndarray:
        parts = np.array_split(rows, max(1, len(rows) // 1000))
        return np.concatenate([network.eval()(part).cpu().numpy() for part in parts])

    for _ in range(epochs):
        batches = np.array_split(rng.permutation(ratings.train), max(1, len(ratings.train) // 128))
        train_epoch(network, optimizer, batches, losses)
        auc = roc_auc_score(ratings.liked[ratings.valid], scores(ratings.valid))
        if auc >= best:
            best, found = auc, scores(rows)
    return found


class DINNetwork(nn.Module):
    """The candidate c attends to the last twenty items h rated before (Zhou et al. 2018, section 4.3).

    Weights come from an MLP over [h, c, h - c, h · c] and are not normalised. It has all features of `Ratings`, too.
    """

    def __init__(self, ratings: Ratings, width: int = 16):
        super().__init__()
        self.ratings = ratings
        self.register_buffer("genres", torch.from_numpy(ratings.genres.astype(np.float32)))
        sizes = (ratings.data.n_users, ratings.data.n_items, 6)
        self.users, self.items, self.stars = (nn.Embedding(size, width) for size in sizes)
        self.genre = nn.Linear(ratings.genres.shape[1], width, bias=False)
        self.weight = nn.Sequential(nn.Linear(4 * width, 36), nn.PReLU(), nn.Linear(36, 1))
        inputs = 4 * width + ratings.features.shape[1]
        self.head = nn.Sequential(nn.Linear(inputs, 64), nn.PReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.01)

    def forward(self, rows: np.ndarray) -> Tensor:
        """Rated events (B,) -> logits (B,)."""
        known, past = self.ratings, self.ratings.history(rows, 20)  # (B, T), -1 where there are fewer
        stars = np.rint(known.value[past]).astype(np.int64)
        inputs = known.user[rows], known.item[rows], known.item[past], past >= 0, stars, known.features[rows]
        user, item, seen, present, stars, numbers = (torch.from_numpy(x).to(self.genres.device) for x in inputs)
        c, h = (self.items(codes) + self.genre(self.genres[codes]) for codes in (item, seen))  # (B, D), (B, T, D)
        candidate = c[:, None].expand_as(h)
        weights = self.weight(torch.cat((h, candidate, h - candidate, h * candidate), -1)) * present[..., None]
        pooled = (weights * (h + self.stars(stars))).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        return self.head(torch.cat((self.users(user), c, pooled, pooled * c, numbers), -1)).squeeze(-1)
