"""How fast lists are generated, and what the size of the catalogue costs: synthetic catalogues, random weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.generate.beam import generate
from m6rec.model.heads import DigitDecoder
from m6rec.model.tree import Tree, widths_for
from m6rec.train.sampled import DRAWN, WHOLE, first_of, sampled_logits
from m6rec.train.softmax import full_softmax

BATCHES = (1, 16, 64, 256)  # lists at once: ours and a peer's rate are each the best of these
POSITIONS = 1_024  # targets of the training step that is timed


class Rate(NamedTuple):
    """How many lists a second: the fastest call, as for the peer that it is held against."""

    lists_per_second: float
    batch: int  # lists at once
    calls: int
    threads: int


class Growth(NamedTuple):
    """What a catalogue of one size costs. Milliseconds are medians; None where faiss is not installed."""

    items: int
    widths: tuple[int, ...]
    generated_ms: float  # one list
    generated_batch_ms: float  # a batch of lists at once
    dense_ms: float  # every item scored, and the best k of them
    dense_batch_ms: float
    faiss_ms: float | None  # the same, by faiss' IndexFlatIP
    faiss_batch_ms: float | None
    ivf_ms: float | None  # approximately, by its IndexIVFFlat
    ivf_recall: float | None  # the share of the exact k best that IVF finds; random vectors are its hardest case
    bytes_generated: float  # per item: the decoder's nodes, biases and tree
    bytes_dense: float  # per item: its vector
    loss_ms: float  # of a training step of both heads: losses and gradients
    step_ms: float  # the whole step, with AdamW's pass over every weight


def catalogue(
    items: int, *, width: int = 64, digits: int = 3, heads: int = 2, layers: int = 1, seed: int = 0
) -> tuple[DigitDecoder, Tensor]:
    """A decoder over random item vectors (N, D), its widths by the rule of every model, and those vectors.

    The tree is balanced, with its free leaves spread; items lie in it in the order of one random projection, for only
    the speed counts, and growing the model's own over a million items takes minutes.
    """
    rng = torch.Generator().manual_seed(seed)
    config = Config(width=width, heads=heads, decoder_layers=layers, digits=digits)
    widths, vectors = widths_for(items, digits, config.free_leaves), torch.randn(items, width, generator=rng)
    leaves = math.prod(widths)
    leaf, item = torch.empty(items, dtype=torch.long), torch.full((leaves,), -1)
    leaf[vectors[:, 0].argsort()] = torch.arange(items) * leaves // items
    item[leaf] = torch.arange(items)
    decoder = DigitDecoder(config, widths, items)
    decoder.init_from_tree(Tree(widths, leaf, item), vectors)
    return decoder.eval(), vectors


def lists_per_second(decoder: DigitDecoder, state: Tensor, k: int = 10, beam: int = 20, seconds: float = 2.0) -> Rate:
    """Generate lists of k for the states (B, D) at once, again and again for some seconds."""
    took = _timed([lambda: generate(decoder, state, k, beam=beam)], seconds)[0]
    return Rate(len(state) / min(took), len(state), len(took), torch.get_num_threads())


def best_rate(decoder: DigitDecoder, state: Tensor, k: int = 10, beam: int = 20, seconds: float = 2.0) -> Rate:
    """The fastest of all BATCHES, as for the peer: states (B, D), of which as many are taken as there are."""
    rates = [lists_per_second(decoder, state[:batch], k, beam, seconds) for batch in BATCHES]
    return max(rates, key=lambda rate: rate.lists_per_second)


def growth(
    sizes: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000),
    *,
    width: int = 64,
    digits: int = 3,
    k: int = 10,
    beam: int = 20,
    batch: int = 64,
    seconds: float = 1.0,
    seed: int = 0,
) -> list[Growth]:
    """One row for each size of the catalogue; seconds: of measuring each of the figures.

    The number of digits stays and the levels widen with the catalogue: a list takes the same few steps in each. Lists
    of all sizes are generated in turns, so that whatever else the machine does meets all of them.
    """
    made = [catalogue(items, width=width, digits=digits, seed=seed) for items in sizes]
    states = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed + 1))
    generated = [
        medians([lambda d=decoder, s=some: generate(d, s, k, beam=beam) for decoder, _ in made], seconds)
        for some in (states[:1], states)
    ]
    rows = []
    for (decoder, vectors), one_ms, batch_ms in zip(made, *generated, strict=True):
        stored = [*decoder.nodes, *decoder.bias, decoder.leaf, decoder.item]
        dense = [medians([lambda s=s, v=vectors: (s @ v.T).topk(k)], seconds)[0] for s in (states[:1], states)]
        rows.append(
            Growth(
                len(vectors),
                decoder.widths,
                one_ms,
                batch_ms,
                *dense,
                *_faiss(vectors.numpy(), states.numpy(), k, seconds),
                sum(tensor.nbytes for tensor in stored) / len(vectors),
                vectors.nbytes / len(vectors),
                *_steps(decoder, vectors, seconds),
            )
        )
    return rows


def _faiss(
    vectors: np.ndarray, states: np.ndarray, k: int, seconds: float
) -> tuple[float | None, float | None, float | None, float | None]:
    """Flat for one state and for all of them, IVF for one, and IVF's recall of the k best."""
    try:
        import faiss
    except ImportError:
        return None, None, None, None
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    cells = max(1, min(round(math.sqrt(len(vectors))), len(vectors) // 39))  # 39: what faiss wants to see of each
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    ivf.train(vectors[: 50 * cells])
    ivf.add(vectors)
    ivf.nprobe = max(1, cells // 16)
    best, near = flat.search(states, k)[1], ivf.search(states, k)[1]
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(best.tolist(), near.tolist(), strict=True)])
    one = states[:1]
    runs = [lambda: flat.search(one, k), lambda: flat.search(states, k), lambda: ivf.search(one, k)]
    return *(medians([run], seconds)[0] for run in runs), float(recall)


def _steps(decoder: DigitDecoder, vectors: Tensor, seconds: float) -> tuple[float, float]:
    """A training step's milliseconds: losses and gradients of both heads, and all of it."""
    decoder.train()
    items, target = nn.Parameter(vectors), torch.randint(len(vectors), (POSITIONS,))
    states = torch.randn(POSITIONS, vectors.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([items, *decoder.parameters()])

    def gradients() -> None:
        optimizer.zero_grad()
        if len(items) > WHOLE:
            drawn = torch.randint(len(items), (DRAWN,))
            loss = first_of(sampled_logits(states, items, target, drawn, len(items)))
        else:
            loss = full_softmax(states, items, target)
        said, digits = decoder.teach(states, target), decoder.tree.digits(target)
        loss = loss + sum(F.cross_entropy(logits, digits[:, level]) for level, logits in enumerate(said))
        loss.backward()

    def step() -> None:
        gradients()
        optimizer.step()

    return medians([gradients], seconds)[0], medians([step], seconds)[0]


def medians(
    runs: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Milliseconds of each, run in turns: whatever else the machine does meets all of them."""
    return [1000 * float(np.median(took)) for took in _timed(runs, seconds, clock)]


def _timed(
    runs: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each call, in turns, three turns at least; the first two turns warm up and do not count."""
    took: list[list[float]] = [[] for _ in runs]
    turns = 0
    while turns < 5 or sum(map(sum, took)) < seconds * len(runs):
        for run, times in zip(runs, took, strict=True):
            start = clock()
            run()
            if turns > 1:
                times.append(clock() - start)
        turns += 1
    return took
