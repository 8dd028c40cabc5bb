import numpy as np
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import CountVectorizer

from m6rec.data.dataset import Dataset, Split
from m6rec.data.prompts import Domain
from m6rec.data.text import Tokenizer

WINDOW, DECAY = 10, 0.8  # events that count, and how much less each than the one before
TEXT_WINDOW = 12  # the same of events in words
NEIGHBOURS = 20
COMMON = 0.4  # exponent that weakens common items


def following(data: Dataset, split: Split, window: int = WINDOW, decay: float = DECAY) -> sp.csr_array:
    """(N, N): [i, j] gains decay ^ (d - 1) for each time that j comes d <= window training events after i."""
    user, item = data.events[["user", "item"]].to_numpy()[split.train].T
    pairs, gains = [], []
    for distance in range(1, window + 1):
        same = user[distance:] == user[:-distance]
        pairs.append(np.stack([item[:-distance][same], item[distance:][same]]))
        gains.append(np.full(same.sum(), decay ** (distance - 1)))
    return sp.csr_array((np.concatenate(gains), np.concatenate(pairs, axis=1)), shape=(data.n_items, data.n_items))


def scaled(counts: sp.csr_array, row: float, col: float) -> sp.csr_array:
    """Counts (N, N), divided by row sums ^ row and column sums ^ col."""
    rows, columns = ((sums := counts.sum(axis)) + (sums == 0) for axis in (1, 0))  # no pairs, nothing to divide by
    data = np.repeat(rows**-row, np.diff(counts.indptr)) * counts.data * (columns**-col)[counts.indices]
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


def neighbourhood(data: Dataset, split: Split, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (N, K) that share a target's probability, itself first, and their shares (N, K), whose rows sum to 1.

    Each item keeps 1 - share; its nearest divide the rest by co-occurrence, in either order."""
    counts = _symmetric(data, split)
    counts = sp.csr_array(counts @ sp.diags_array(np.maximum(counts.sum(0), 1e-12) ** -COMMON))
    item, shares = np.tile(np.arange(data.n_items)[:, None], NEIGHBOURS + 1), np.zeros((data.n_items, NEIGHBOURS + 1))
    for row, (start, end) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        best = start + np.argsort(-counts.data[start:end], kind="stable")[:NEIGHBOURS]
        item[row, 1 : 1 + len(best)] = counts.indices[best]
        shares[row, 1 : 1 + len(best)] = share * counts.data[best] / max(counts.data[best].sum(), 1e-12)
    shares[:, 0] = 1 - shares.sum(1)
    return torch.from_numpy(item), torch.from_numpy(shares.astype(np.float32))


def spectral(data: Dataset, split: Split, width: int) -> np.ndarray:
    """(N, width) vectors whose products approximate co-occurrence / both items' sums ^ COMMON; standard deviation 1.

    Items without co-occurrence have zeros, and so have channels beyond the number of items."""
    counts, vectors = scaled(_symmetric(data, split), COMMON, COMMON), np.zeros((data.n_items, width), np.float32)
    if counts.nnz:
        rank = min(width, data.n_items - 1)
        size, ways = sp.linalg.eigsh(counts, rank, which="LA", v0=np.ones(data.n_items), rng=0)  # ascending
        vectors[:, :rank] = (ways * np.sqrt(size.clip(min=0)))[:, ::-1]
    return vectors / max(vectors.std(), 1e-12)


def _symmetric(data: Dataset, split: Split) -> sp.csr_array:
    """(N, N) counts of pairs of different items, in either order."""
    counts = following(data, split)
    counts = sp.csr_array(counts + counts.T)
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts


def cooccurrence_init(domains: list[Domain], tokenizer: Tokenizer, width: int, seed=0, power=0.0) -> torch.Tensor:
    """(V, D) from how often the words of an event follow those of its history, request and profile.

    Singular vectors of the counts against chance (correspondence analysis, Greenacre 1984), times singular values to a
    power: rows of mean length 1, and noise of a tenth of it, which keeps apart tokens never counted."""
    size = len(tokenizer)
    bags = CountVectorizer(analyzer=tokenizer.ids, vocabulary=range(size)).transform  # texts -> (n, V) counts
    counts = sp.csr_array((size, size))
    for domain in domains:
        user, events = domain.user, sp.csr_array(bags(domain.items)[domain.item])
        requests = bags([f"{words}:" if words else "" for words in domain.requests])
        known = sp.csr_array(bags(domain.profiles)[user] + requests)
        for back in range(1, TEXT_WINDOW + 1):
            gains = (np.roll(user, -back) == user)[None] * DECAY ** (back - 1)
            known = known + sp.dia_array((gains, [-back]), shape=(len(user), len(user))) @ events
        counts = counts + events.T @ known  # rows: tokens of an event; columns: of what precedes it
    counts = sp.coo_array(counts + counts.T)
    total, each = counts.sum(), counts.sum(0)
    chance = each[counts.row] * each[counts.col] / total
    table = sp.csr_array(((counts.data - chance) / np.sqrt(chance * total), counts.coords), shape=counts.shape)
    out = np.random.default_rng(seed).standard_normal((size, width)) / width**0.5
    rank = min(width, size - 1)
    if table.nnz > rank:
        vectors, values, _ = sp.linalg.svds(table, k=rank, v0=np.ones(size) / size**0.5)
        rows = vectors * values**power
        out *= 0.1
        out[:, :rank] += rows / max(np.linalg.norm(rows, axis=1)[each > 0].mean(), 1e-9)
    return torch.from_numpy(out).float()
