"""What the network is taught: the next event, missing text, digits by the true path and by the dense head.

Each loss is a mean in nats, unweighted; the stages add them with the config's weights. Targets of -1 teach nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.config import Config
from m6rec.data.batches import Batch
from m6rec.data.context import Context
from m6rec.data.features import BOS, EOS, MASK
from m6rec.model.network import Network

REQUEST_DROPOUT = 0.1  # share of request fields hidden while training, so that a request may leave them open
INFILL_ITEMS = 64  # texts per step


def pretraining(
    network: Network, batch: Batch, config: Config, texts: np.ndarray, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Next event over the whole catalogue, and text infilling. texts (n, L): the token rows of training items."""
    losses = {"next": next_event(*predict(network, batch)[1:])}
    if config.text and config.infill_weight:
        losses["infill"] = infilling(network, texts, rng)
    return losses


def finetuning(
    network: Network, batch: Batch, config: Config, texts: np.ndarray, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The dense head goes on learning; the digits learn from the true path and from the dense head."""
    state, logits, target = predict(network, batch)
    path, teacher = digits(network, state, logits, target)
    return {"next": next_event(logits, target), "digits": path, "teacher": teacher}


def predict(network: Network, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """States (n, D), dense logits (n, N) and targets (n,) of all positions of a batch that have a target."""
    items = network.encode_items().vectors
    there = batch.target >= 0
    state = network.fuse(hide(batch.context), items).state[there]
    return state, network.score(state, items), batch.target[there]


def next_event(logits: Tensor, target: Tensor) -> Tensor:
    """Full-softmax cross-entropy: logits (n, N), targets (n,)."""
    return F.cross_entropy(logits, target)


def digits(network: Network, state: Tensor, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the true path's digits, and of the dense head's own distribution summed over each subtree.

    state (n, D), dense logits (n, N), target (n,). The second lets all items teach at every position; it differs from
    the KL divergence by the teacher's entropy, which no weight changes. -> means over positions, summed over levels.
    """
    tree = network.digits.tree
    path, taught = state.new_zeros(()), state.new_zeros(())
    mass = tree.by_leaf(logits.detach().softmax(-1))  # (n, leaves)
    digits_of = tree.digits(target)
    for level, student in enumerate(network.digits.teach(state, target)):
        width = tree.widths[level]
        here = mass.view(len(mass), width, -1)  # the subtrees below the node reached so far
        teacher = here.sum(-1)
        teacher = teacher / teacher.sum(-1, keepdim=True).clamp(min=1e-9)
        spoken = student.log_softmax(-1).clamp(min=-100)  # a free leaf is -inf, and 0 · -inf is not a number
        path = path - spoken.gather(1, digits_of[:, level, None]).mean()
        taught = taught - (teacher * spoken).sum(-1).mean()
        mass = here[torch.arange(len(here), device=here.device), digits_of[:, level]]  # (n, leaves below)
    return path, taught


def infilling(network: Network, texts: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Mean cross-entropy per token of spans cut out of item texts and written anew (T5's objective, M6's mask)."""
    source, target = corrupt(texts[rng.integers(len(texts), size=INFILL_ITEMS)], rng)
    device = network.text.device
    source, target = torch.from_numpy(source).to(device), torch.from_numpy(target).to(device)
    logits = network.writer(network.items.tokens, network.items.local, source, target[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)


def corrupt(texts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Replace one random span of each text, a third of it on average, by [MASK].

    texts (n, L) -> source (n, L + 1) and target (n, L + 2) = [BOS] span [EOS], padded with 0.
    """
    n, length = texts.shape
    source, target = np.zeros((n, length + 1), np.int64), np.zeros((n, length + 2), np.int64)
    for row, tokens in enumerate(texts):
        tokens = tokens[tokens > 0]
        size = int(rng.integers(1, max(2, 2 * len(tokens) // 3 + 1)))
        start = int(rng.integers(0, max(1, len(tokens) - size + 1)))
        span = tokens[start : start + size]
        kept = [*tokens[:start], MASK, *tokens[start + size :]]
        source[row, : len(kept)] = kept
        target[row, : len(span) + 2] = [BOS, *span, EOS]
    return source, target


def hide(context: Context) -> Context:
    """Make some request fields absent, each on its own."""
    kept = torch.rand(context.request.shape, device=context.request.device) >= REQUEST_DROPOUT
    return context._replace(request=context.request * kept)
