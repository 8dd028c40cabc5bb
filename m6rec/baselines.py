"""Baselines that fit and score like the model: counts and their mixtures, networks that predict the next item, DIN."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from m6rec.config import MODALITIES, Array, Config, InputError, choose, pick_device
from m6rec.data.context import Context, Fields, encode_events, target_context, training_batches
from m6rec.data.cooccurrence import DECAY, WINDOW, following, scaled
from m6rec.data.dataset import Dataset, Split, Targets, training_matrix
from m6rec.data.features import Features
from m6rec.data.prompts import Ratings
from m6rec.data.text import words
from m6rec.evaluate import evaluate
from m6rec.model.attention import Attended, Block, Stack, attend, causal_mask
from m6rec.train.fit import Epoch, Stage, fit, train_epoch
from m6rec.train.losses import first_class, full_softmax, sampled_logits

BLOCK = 1_024  # scored items at a time


class Count:
    """Scores = history profile (B, N) x weights (N, N): row = item of the history, column = item scored.

    A sparse profile is summed in one order: scores do not depend on the chunk."""

    weights: Array | sp.csr_array | None = None
    profile_decay: float | None = None

    def fit(self, data: Dataset, split: Split) -> Self:
        self.weights, self.fitted_on = self.count(data, split), (data, split)
        return self

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: sums of profile_decay ^ events ago (0: the last event alone); without one 1 for each item."""
        if self.profile_decay is None:
            return sp.csr_array(users.seen(), dtype=np.float32)
        history = users.history(None if self.profile_decay else 1)  # (B, T), -1 before the first
        rows, positions = np.nonzero(history >= 0)
        gains = self.profile_decay ** (history.shape[1] - 1 - positions.astype(float))
        shape = (len(users), users.data.n_items)
        return sp.csr_array((gains.astype(np.float32), (rows, history[rows, positions])), shape=shape)

    def scores(self, users: Targets) -> Array:
        """(B, N) float32. InputError before `fit`."""
        if self.weights is None:
            raise InputError(f"{type(self).__name__} has no weights yet: call fit(data, split) first")
        scores = self.profile(users) @ self.weights
        return scores.toarray() if sp.issparse(scores) else scores


class Popularity(Count):
    """Score = number of users with the item in training."""

    def count(self, data: Dataset, split: Split) -> Array:
        return training_matrix(data, split).sum(axis=0, dtype=np.float32)[None]  # (1, N)

    def profile(self, users: Targets) -> Array:
        return np.ones((len(users), 1), np.float32)


@dataclass(eq=False)
class ItemKNN(Count):
    """similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrink), for the `neighbours` nearest i of each scored item j.

    n_ij: users with both. The defaults have ML-100K's best validation NDCG@10 among 20 to 1000 and 0 to 200."""

    neighbours: int = 300
    shrink: float = 5.0

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        users_items = training_matrix(data, split)
        both, norms = (users_items.T @ users_items).tocsr(), np.sqrt(users_items.sum(0))

        def similar(to):
            return both[to].toarray() / np.maximum(np.outer(norms[to], norms) + self.shrink, 1e-9)

        return _nearest(similar, data.n_items, self.neighbours).astype(np.float32)


@dataclass(eq=False)
class EASE(Count):
    """argmin_B |X - XB|^2 + l2 |B|^2 with diag(B) = 0: P = (X'X + l2 I)^-1, B = I - P / diag(P) (Steck 2019).

    The default has ML-100K's best validation NDCG@10 among 20 to 5000."""

    l2: float = 100.0

    def count(self, data: Dataset, split: Split) -> Array:
        users_items = training_matrix(data, split)
        gram = (users_items.T @ users_items).toarray().astype(float)
        gram[np.diag_indices_from(gram)] += self.l2
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return weights.astype(np.float32)


@dataclass(eq=False)
class RP3Beta(Count):
    """Two hops, item to user to item: P(j | i) by a random walk / j's users ^ beta (Paudel et al. 2017)."""

    beta: float = 0.6

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        users_items = training_matrix(data, split)
        walk = normalize(users_items.T, "l1") @ normalize(users_items, "l1")
        return (walk @ sp.diags_array(np.maximum(users_items.sum(0), 1) ** -self.beta)).astype(np.float32)


@dataclass(eq=False)
class CoOccurrence(Count):
    """Σ_k profile_decay ^ k · weights[i_k, j] over the events i_k, k = 0 the last.

    C[i, j] gains decay ^ (d - 1) when j comes d <= window events after i in a training history, and `backward` times
    that when before. weights[i, j] = C[i, j] / (C's row sum i ^ row * C's column sum j ^ col).
    alpha: log(1 + C[i, j] / (C's row sum i ^ row * alpha p_j ^ col)) instead, p the shares of training events, and
    scores are the softmax of the sum + popularity · log p_j (after PCTM, Petrov et al. 2026)."""

    window: int = WINDOW
    decay: float = DECAY
    backward: float = 0.3
    row: float = 0.5
    col: float = 0.3
    profile_decay: float = 0.8
    alpha: float | None = None
    popularity: float = 0.0

    def count(self, data: Dataset, split: Split) -> Array | sp.csr_array:
        return self.weigh(following(data, split, self.window, self.decay), shares(data, split)).weights

    def weigh(self, forward: sp.csr_array, share: Array) -> Self:
        """Fit to counts (N, N) that `following` made with this window and decay, and to `shares`."""
        counts = sp.csr_array(forward + self.backward * forward.T)
        weights = scaled(counts, self.row, 0 if self.alpha else self.col)
        if self.alpha:
            weights.data = np.log1p(weights.data / (self.alpha * share[weights.indices] ** self.col))
            self.bias = self.popularity * np.log(np.maximum(share, 1e-9)).astype(np.float32)  # (N,)
        weights = weights.astype(np.float32)
        dense = weights.nnz > 0.1 * np.prod(weights.shape)  # it is faster, then
        self.weights = weights.toarray() if dense else weights
        return self

    def scores(self, users: Targets) -> Array:
        """(B, N) float32 of 0 or more. InputError before `fit`."""
        scores = super().scores(users)
        return softmax(scores + self.bias, 1) if self.alpha else scores


# Dirichlet smoothing: (n_ij + alpha p_j) / (n_i + alpha), n_ij the times that j comes next after i.
Markov = partial(CoOccurrence, 1, backward=0, row=0, col=1, profile_decay=0, alpha=10, popularity=1)


def shares(data: Dataset, split: Split) -> Array:
    """(N,) of training events."""
    item = data.events["item"].to_numpy()[split.train]
    return np.bincount(item, minlength=data.n_items) / len(item)


@dataclass(eq=False)
class ContentKNN(Count):
    """weights[i, j] = cosine of the texts' TF-IDF for the `neighbours` nearest i of each scored item j.

    vectors: (N, F), instead of the TF-IDF. The defaults are within .001 of ML-100K's best validation NDCG@10."""

    neighbours: int = 500
    profile_decay: float = 0.8
    vectors: Array | None = None

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        rows = tfidf(data) if self.vectors is None else sp.csr_array(normalize(self.vectors))
        return _nearest(lambda to: (rows[to] @ rows.T).toarray(), data.n_items, self.neighbours)


@dataclass(eq=False)
class Mixture:
    """Linear interpolation (Jelinek & Mercer 1980) of scores of 0 or more: Σ share · scores / their sum."""

    parts: Sequence[tuple[Any, float]]  # fitted baselines, each with its share

    def scores(self, users: Targets) -> Array:
        """(B, N), whose rows sum to 1, or less where a part has counted nothing."""
        mixed = np.zeros((len(users), users.data.n_items))
        for model, share in self.parts:
            counts = np.asarray(model.scores(users), float)
            mixed += share / np.maximum(counts.sum(1, keepdims=True), 1e-12) * counts
        return mixed


def tfidf(data: Dataset) -> sp.csr_array:
    """(N, words) float32, unit rows. InputError where no text has a word."""
    try:
        bag = TfidfVectorizer(analyzer=words, dtype=np.float32).fit_transform(data.items["text"])
    except ValueError as error:
        raise InputError(f"no item of {data.name} has a word in its text: give items a title or a text.") from error
    return sp.csr_array(bag)


def frozen_features(data: Dataset, content: Features, size: int = 32) -> dict[str, Array]:
    """Each of the data's modalities (N, size), untrained: SVD of the texts' TF-IDF, PCA of pixels and of log-mels.

    Rows are 0 where it is absent; the others have a mean square of 1."""
    bag = tfidf(data)
    found = {"text": TruncatedSVD(min(size, bag.shape[1]), random_state=0).fit_transform(bag)}
    for name in data.modalities[1:]:
        there, found[name] = content.present[:, MODALITIES.index(name)], np.zeros((data.n_items, size))
        raw = getattr(content, name)[there].reshape(there.sum(), np.prod(getattr(content, name).shape[1:]))
        if min(raw.shape) > size:
            found[name][there] = PCA(size, random_state=0).fit_transform(raw)
    return {m: (x / np.sqrt((x[x.any(1)] ** 2).mean() + 1e-12)).astype(np.float32) for m, x in found.items()}


def _nearest(similar: Callable[[slice], Array], items: int, neighbours: int) -> sp.csr_array:
    """(N, N): a column has its `neighbours`, and ties with the last."""
    blocks = []
    for start in range(0, items, BLOCK):
        block = similar(slice(start, start + BLOCK))
        block[np.arange(len(block)), start + np.arange(len(block))] = 0  # no item is its own neighbour
        least = torch.from_numpy(block).topk(min(neighbours, items)).values[:, -1:].numpy()
        blocks.append(sp.csr_array(np.where(block >= least, block, 0)))
    return sp.vstack(blocks).T.tocsr()


@dataclass(eq=False)
class Sequential:
    """Fits with the model's loop, windows, averaging and early stopping."""

    architecture: ClassVar[Callable[[nn.Embedding, Config], nn.Module]]
    network: ClassVar[nn.Module | None] = None
    log: ClassVar[list[Epoch]]
    config: Config  # this and later fields decide what is learnt
    context: bool = False  # reads stars, gaps, profile and request, if the config lets M6Rec
    features: Array | None = field(default=None, repr=False)  # (N, F) beside the ID embeddings
    fuse: str = "sum"  # see `FrozenFeatures`

    def build(self, data: Dataset) -> nn.Module:
        """Item ids (B, T), -1 on the right, -> states (B, T, D). InputError for features of other items."""
        if self.features is None:
            return self.architecture(nn.Embedding(data.n_items, self.config.width), self.config)
        choose("fuse", self.fuse, ("sum", "concat", "gated"))
        if (rows := len(self.features)) != data.n_items:
            raise InputError(f"{rows} rows of features do not fit {data.n_items} items: give a row for each.")
        return self.architecture(FrozenFeatures(self.features, self.config.width, self.fuse), self.config)

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """Mean loss of the items (n,) that came after states (n, D)."""
        return full_softmax(states, network.embedding.weight, target)

    def rank(self, network: nn.Module, states: Tensor, users: Targets) -> Tensor:
        """States (B, D) -> scores (B, N)."""
        return states @ network.embedding.weight.T

    @torch.random.fork_rng()
    def fit(self, data: Dataset, split: Split, **options: object) -> Self:
        """options: of `m6rec.train.fit`."""
        config = self.config
        torch.manual_seed(config.seed)
        network = self.build(data)
        read = config if self.context else replace(config, history_fields=False, profile=False, request=False)
        self.fields = Fields.fit(data, split, read)
        network.context = ContextSums(self.fields, read)
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

        def losses(network, batch, rng):
            past = Context(*(x[:, :-1] for x in batch[:3]), batch.profile, batch.request[:, 1:], batch.position[:, 1:])
            states, target = self.states(network, past), batch.item[:, 1:]
            return {"next": self.loss(network, states[target >= 0], target[target >= 0])}

        def validate(average):
            self.network = average
            return evaluate(self, data, split=split, part="valid").metrics["ndcg@10"]

        codes = encode_events(data, self.fields)
        batches = partial(training_batches, data, split, codes, config.history, config.batch)
        judge = validate if len(split.valid) else None
        stage = Stage(type(self).__name__, config.pretrain_epochs, batches, losses, judge)
        parts = data.fingerprint, np.concatenate(split[1:]).tobytes(), self
        self.log = fit(network, stage, config, *parts, code=(type(self),), **options)
        self.network, self.fitted_on = network, (data, split)
        return self

    def states(self, network: nn.Module, context: Context) -> Tensor:
        """(B, Q, D): after each event (Q = T), or for one target after the last event."""
        states = network(context.item, network.context.events(context))
        if context.position.shape[1] < states.shape[1]:
            last = (context.position - 1).clamp(min=0).unsqueeze(-1)
            states = states.gather(1, last.expand(-1, -1, states.shape[-1]))
        return network.context.ask(states, context.request)

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """(B, N), of `config.history` - 1 events: no window's last position is learnt. InputError before `fit`."""
        if self.network is None:
            raise InputError(f"{type(self).__name__} has no network yet: call fit(data, split) first")
        codes, device = encode_events(users.data, self.fields), next(self.network.parameters()).device
        context = target_context(users.data, codes, users.events, self.config.history - 1).to(device)
        return self.rank(self.network, self.states(self.network, context)[:, 0], users)


class ContextSums(nn.Module):
    """Sums of embeddings of events' fields; an MLP adds those of a request to its target's state."""

    def __init__(self, fields: Fields, config: Config):
        super().__init__()
        known = [fields.value, fields.gap] if config.history_fields else []
        self.known, self.profile, self.asked = (
            nn.ModuleList(nn.Embedding(field.size, config.width) for field in of)
            for of in (known, fields.profile, fields.request)
        )
        if self.asked:
            wide = 2 * config.width
            self.mix = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, config.width))

    def events(self, context: Context) -> Tensor | int:
        """(B, T, D), or 0"""
        known = zip(self.known, (context.value, context.gap), strict=False)
        profile = zip(self.profile, context.profile.unbind(1), strict=True)
        return sum(embed(code) for embed, code in known) + sum(embed(code)[:, None] for embed, code in profile)

    def ask(self, states: Tensor, request: Tensor) -> Tensor:
        """States (B, Q, D) and requests (B, Q, R) -> (B, Q, D)."""
        if not self.asked:
            return states
        asked = sum(embed(code) for embed, code in zip(self.asked, request.unbind(-1), strict=True))
        return states + self.mix(torch.cat((states, asked), -1))


class GRU4RecNetwork(nn.Module):
    def __init__(self, embedding: nn.Module, config: Config):
        super().__init__()
        self.embedding = embedding
        between = config.dropout if config.joint_layers > 1 else 0.0  # or PyTorch warns
        self.gru = nn.GRU(config.width, config.width, config.joint_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, item: Tensor, more: Tensor | float = 0.0) -> Tensor:
        x = self.dropout(self.embedding(item.clamp(min=0)) + more)
        return self.dropout(self.gru(x)[0])


class GRU4Rec(Sequential):
    """Hidasi et al. 2016, with shared item vectors (Hidasi & Karatzoglou 2018) and the full softmax."""

    architecture = GRU4RecNetwork


class Layer(nn.Module):
    """SASRec's: LayerNorm first, a ReLU net, no gates.

    filter: history, low_pass and filtered. BSARec's filter reads the past alone, so that each event is a target."""

    def __init__(self, width: int, heads: int, dropout: float, filter: tuple[int, int, float] = (1, 0, 0.0)):
        super().__init__()
        self.heads = heads
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)
        history, low_pass, self.filtered = filter
        if low_pass:
            impulse = torch.fft.irfft((torch.arange(history // 2 + 1) < low_pass).float(), history)  # its response
            lag = torch.arange(history)[:, None] - torch.arange(history)
            self.register_buffer("low", impulse[lag].tril(), persistent=False)
            self.high = nn.Parameter(torch.randn(width))
        else:
            self.low = None

    def forward(self, x: Tensor, mask: Tensor, *_: object, **options: object) -> Attended:
        normed = self.norm(x)
        q, k, v = self.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        mixed = self.out(attend(q, k, v, mask).out.transpose(1, 2).flatten(2))
        if self.low is not None:
            low = self.low[: x.shape[1], : x.shape[1]] @ normed
            mixed = torch.lerp(mixed, low + self.high**2 * (normed - low), self.filtered)
        x = x + self.dropout(mixed)
        return Attended(x + self.dropout(self.ffn(self.ffn_norm(x))), None)


class SASRecNetwork(nn.Module):
    """layer: see `Stack`, called with tokens and mask. more: what else is known of each event (B, T, D)."""

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

    def forward(self, item: Tensor, more: Tensor | float = 0.0) -> Tensor:
        positions = torch.arange(item.shape[1], device=item.device)
        x = self.dropout(self.embed(item.clamp(min=0)) + self.positions(positions) + more)
        mask = causal_mask(item.shape[1], item.device)  # hides the padding, too
        return self.norm(self.layers(x, mask).states)


class FrozenFeatures(nn.Module):
    """Item vectors (N, D) of ID embeddings and an MLP over frozen features (N, F).

    fuse: their "sum", a linear map of both ("concat"), or a "gated" mean of them."""

    def __init__(self, features: Array, width: int, fuse: str):
        super().__init__()
        self.register_buffer("features", torch.as_tensor(features, dtype=torch.float32))  # saved: a cache key has it
        self.identity = nn.Embedding(len(features), width)
        self.project = nn.Sequential(nn.Linear(features.shape[1], width), nn.GELU(), nn.Linear(width, width))
        self.fuse, self.join = fuse, None if fuse == "sum" else nn.Linear(2 * width, width)

    @property
    def weight(self) -> Tensor:
        own, content = self.identity.weight, self.project(self.features)
        if self.fuse == "sum":
            return own + content
        joined = self.join(torch.cat((own, content), 1))
        return joined if self.fuse == "concat" else torch.lerp(own, content, joined.sigmoid())

    def forward(self, item: Tensor) -> Tensor:
        return F.embedding(item, self.weight)


@dataclass(eq=False)
class SASRec(Sequential):
    """Kang & McAuley 2018, with the full softmax (Klenitskiy & Vasilev 2023)."""

    low_pass: int = 0  # lowest frequencies that a filter beside attention tells from the others; 0: no filter
    filtered: float = 0.7  # share of the filter; the rest is attention's

    def architecture(self, embedding: nn.Module, config: Config) -> nn.Module:
        return SASRecNetwork(embedding, config, partial(Layer, filter=(config.history, self.low_pass, self.filtered)))


@dataclass(eq=False)
class BSARec(SASRec):
    """SASRec with a filter (Shin et al. 2024)."""

    low_pass: int = 3


@dataclass(eq=False)
class ESASRec(Sequential):
    """Tikhonovich et al. 2025: LiGR layers (`Block`), learnt positions, `negatives` that a step shares."""

    architecture = partial(SASRecNetwork, layer=Block)
    negatives: int = 256

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        items = network.embedding.weight
        negatives = torch.randint(len(items), (self.negatives,), device=target.device)
        return first_class(sampled_logits(states, items, target, negatives, len(items)))


@torch.random.fork_rng()
def din(ratings: Ratings, rows: Array, train: Array | None = None, *, epochs: int = 4, seed: int = 0) -> Array:
    """Log-odds that rated events (n,) are likes, by a `DINNetwork`; the epoch that validates best counts.

    train: the labelled examples, by default all."""
    train = ratings.train if train is None else train
    torch.manual_seed(seed)
    rng, best, network = np.random.default_rng(seed), -1.0, DINNetwork(ratings).to(pick_device())
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-5)

    def losses(network, rows):
        logits = network(rows)
        truth = torch.from_numpy(ratings.liked[rows]).to(logits)
        return {"liked": F.binary_cross_entropy_with_logits(logits, truth)}

    @torch.no_grad()
    def scores(rows):
        parts = np.array_split(rows, max(1, len(rows) // 1000))
        return np.concatenate([network.eval()(part).cpu().numpy() for part in parts])

    for _ in range(epochs):
        batches = np.array_split(rng.permutation(train), max(1, len(train) // 128))
        train_epoch(network, optimizer, batches, losses)
        auc = roc_auc_score(ratings.liked[ratings.valid], scores(ratings.valid))
        if auc >= best:
            best, found = auc, scores(rows)
    return found


class DINNetwork(nn.Module):
    """The candidate c attends to the last twenty items h rated before (Zhou et al. 2018, section 4.3).

    Weights come from an MLP over [h, c, h - c, h · c], not normalised. It has all features of `Ratings`, too."""

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

    def forward(self, rows: Array) -> Tensor:
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
