"""Semantic IDs: a balanced tree over item vectors. A path of digits from the root to a leaf names one item.

Nodes of a level have nearly equally many items. Free leaves are spread: a new item finds one near its content."""

import copy
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from m6rec.config import Array, Config, InputError, Rng
from m6rec.model.attention import KVCache, Run, Stack, causal_mask

ROUNDS = 12  # of k-means, at most


class Tree(NamedTuple):
    """The leaf of each item, numbered by its digits: ((d₁ · W₂) + d₂) · W₃ + d₃."""

    widths: tuple[int, ...]  # (G,) children of a node at each level
    leaf: Tensor  # (N,) the leaf of each item
    item: Tensor  # (leaves,) the item of each leaf, -1 where free

    @classmethod
    def of(cls, digits: Array, widths: tuple[int, ...] | None = None) -> "Tree":
        """From semantic IDs (N, G), by default as wide as they need. InputError where two are equal."""
        widths = widths or tuple((digits.max(0) + 1).tolist())
        leaf, item = np.ravel_multi_index(tuple(digits.T), widths), np.full(math.prod(widths), -1)
        item[leaf] = np.arange(len(leaf))
        if (item >= 0).sum() < len(leaf):
            raise InputError("two items have the same semantic ID: add a digit that tells them apart.")
        return cls(widths, torch.from_numpy(leaf), torch.from_numpy(item))

    def digits(self, items: Tensor) -> Tensor:
        """Item codes (...,) -> (..., G)."""
        return self.prefixes(items) % torch.tensor(self.widths, device=self.leaf.device)

    def prefixes(self, items: Tensor) -> Tensor:
        """Nodes on the way to items, numbered within their level: codes (...,) -> (..., G)."""
        leaves = [math.prod(self.widths[g + 1 :]) for g in range(len(self.widths))]  # below a node of each level
        leaf = self.leaf[items].unsqueeze(-1)
        return leaf // torch.tensor(leaves, device=leaf.device)

    def valid_nodes(self, allowed: Tensor | None = None) -> list[Tensor]:
        """The trie mask, G × (..., nodes) bool: which nodes lead to an item; `allowed` (..., N) narrows them."""
        leaves, levels = self.item >= 0, []
        if allowed is not None:
            leaves = leaves & allowed[..., self.item.clamp(min=0)]
        for width in reversed(self.widths):
            levels.append(leaves)
            leaves = leaves.unflatten(-1, (-1, width)).any(-1)
        return levels[::-1]

    def successors(self, level: int, node: Tensor) -> Tensor:
        """Nodes (n,) of the level above, at level 0 the root -> their children (n, W)."""
        return node[:, None] * self.widths[level] + torch.arange(self.widths[level], device=node.device)


def widths_for(items: int, digits: int, free: float) -> tuple[int, ...]:
    """The smallest equal ones whose leaves hold all items and the share of free ones."""
    width = 2
    while width**digits * (1 - free) < items:
        width += 1
    return (width,) * digits


def build_tree(vectors: Array, widths: tuple[int, ...], seed: int = 0) -> Tree:
    """Capacity-limited k-means of item vectors (N, D) at every node, from the root down.

    Our own: residual k-means (Rajput et al. 2023) fills nodes unevenly, and items may share all digits."""
    n = len(vectors)
    if not np.isfinite(vectors).all():
        raise InputError("item vectors hold NaN or infinity, so no tree grows: train again at a lower learning rate.")
    rng, digits, nodes = np.random.default_rng(seed), np.zeros((n, len(widths)), np.int64), [np.arange(n)]
    for level, width in enumerate(widths):
        for members in nodes:
            digits[members, level] = _balanced(vectors[members], width, rng)
        nodes = [members[digits[members, level] == c] for members in nodes for c in range(width)]
    return Tree.of(digits, widths)


def _balanced(vectors: Array, k: int, rng: Rng) -> Array:
    """k-means whose clusters hold at most ⌈n/k⌉: (n, D) -> (n,). Fewer members than k: one each."""
    n = len(vectors)
    if n <= k:  # free leaves lie beside taken ones
        return np.linspace(0, k, n, endpoint=False).astype(np.int64)
    chosen, distance = [int(rng.integers(n))], np.full(n, np.inf)
    for _ in range(k - 1):  # k-means++: in proportion to the squared distance from the centres so far
        distance = np.minimum(distance, ((vectors - vectors[chosen[-1]]) ** 2).sum(1))
        total = distance.sum()
        chosen.append(int(rng.choice(n, p=distance / total if total > 0 else None)))
    centres = vectors[chosen]
    for _ in range(ROUNDS):
        cluster = _assign(vectors, centres, math.ceil(n / k))
        moved = np.stack([vectors[cluster == c].mean(0) if (cluster == c).any() else centres[c] for c in range(k)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return cluster


def _assign(vectors: Array, centres: Array, capacity: int) -> Array:
    """Members propose to their nearest centre; a full centre keeps the nearest (Gale & Shapley 1962).

    At most n·k proposals, and nobody is left out while n ≤ k·capacity."""
    # One matrix product, no (n, k, D) array.
    distance = (vectors**2).sum(1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(1)
    preference, rows = distance.argsort(1, kind="stable"), np.arange(len(vectors))
    choice = np.zeros_like(rows)
    while True:
        cluster = preference[rows, choice]
        full = np.flatnonzero(np.bincount(cluster, minlength=len(centres)) > capacity)
        if not len(full):
            return cluster
        for c in full:
            members = np.flatnonzero(cluster == c)
            choice[members[distance[members, c].argsort(kind="stable")[capacity:]]] += 1


def semantic_ids(vectors: Array, codes: int, seed: int = 0, levels: int = 3) -> Array:
    """Residual k-means (TIGER) of vectors (N, D), and a digit that tells equal ones apart: (N, levels + 1)."""
    digits, left = pd.DataFrame(index=range(len(vectors))), vectors.astype(float)
    for level in range(levels):
        left = left.round(6)  # what is alike but for rounding is one vector
        clusters = KMeans(min(codes, len(np.unique(left, axis=0))), n_init=1, random_state=seed).fit(left)
        digits[level] = clusters.labels_
        left = left - clusters.cluster_centers_[clusters.labels_]
    return digits.assign(last=digits.groupby(list(digits)).cumcount()).to_numpy(np.int64)


class DigitDecoder(nn.Module):
    """States (B, D) and digits so far -> logits of the next."""

    def __init__(self, config: Config, widths: tuple[int, ...], items: int):
        super().__init__()
        self.widths, self.size = widths, items  # size: of the catalogue that it was made for
        nodes = [math.prod(widths[: g + 1]) for g in range(len(widths))]
        self.nodes = nn.ParameterList(torch.empty(n, config.width) for n in nodes)
        self.bias = nn.ParameterList(torch.zeros(n) for n in nodes)
        self.blocks = Stack(config, config.decoder_layers)
        self.project = nn.Linear(config.width, config.width)
        # The tree is saved, loaded and moved with the weights.
        self.register_buffer("leaf", torch.zeros(items, dtype=torch.long))
        self.register_buffer("item", torch.full((math.prod(widths),), -1))

    tree = property(lambda self: Tree(self.widths, self.leaf, self.item))

    @property
    def built_tree(self) -> Tree:
        """The tree; InputError before there is one."""
        if not (self.item >= 0).any():
            raise InputError("this model has no semantic IDs yet: call pretrain() first, or load one that is trained.")
        return self.tree

    @torch.no_grad()
    def init_from_tree(self, tree: Tree, vectors: Tensor) -> None:
        """Nodes start at the mean of their items' vectors (N, D), biases at the log of the number."""
        self.leaf.copy_(tree.leaf)
        self.item.copy_(tree.item)
        prefixes = tree.prefixes(torch.arange(len(vectors), device=tree.leaf.device)).to(vectors.device)
        for at, node, bias in zip(prefixes.T, self.nodes, self.bias, strict=True):
            counts = torch.bincount(at, minlength=len(node)).to(vectors)
            total = torch.zeros_like(node).index_add_(0, at, vectors)
            node.copy_(total / counts.clamp(min=1)[:, None])
            bias.copy_(counts.clamp(min=1).log())
        self.project.weight.zero_()
        self.project.bias.zero_()

    @torch.no_grad()
    def boosted(self, cold: Tensor, boost: float) -> "DigitDecoder":
        """A copy in whose choices a cold (N,) item counts as exp(boost) items, at all nodes above it."""
        other, counts = copy.deepcopy(self), (boost * cold).exp()
        for at, bias in zip(self.tree.prefixes(torch.arange(len(cold), device=cold.device)).T, other.bias, strict=True):
            new, old = (torch.zeros_like(bias).index_add_(0, at, c) for c in (counts, torch.ones_like(counts)))
            bias += torch.where(old > 0, new / old.clamp(min=1), 1).log()
        return other

    @torch.no_grad()
    def insert(self, vectors: Tensor, items: Tensor, state: Tensor) -> None:
        """New items (n, D) take free leaves: from the root down, the nearest node with a free leaf below it.

        A node without items takes its first item's vector, which is not on its trained siblings' scale. Biases make the
        odds of it and of the nodes above, in the mean over states (B, D), those of the dense head, where others have
        the vectors items (N, D). InputError without a tree or a free leaf."""
        if len(vectors) > (free := int((self.built_tree.item < 0).sum())):
            few = f"the tree has {free} free leaves, too few for {len(vectors)} new items"
            raise InputError(f"{few}: train with a larger free_leaves, or on data that hold the items.")
        before, trained, opened = [node.clone() for node in self.nodes], self.tree.valid_nodes(), {}
        above = F.pad(self.tree.prefixes(torch.arange(len(items))), (1, 0))  # of each level; the root is 0

        def apart(level, node, vector):
            """(B,) the dense logit of a vector less that of all items below a node."""
            return state @ vector - (state @ items[above[:, level + 1] == node].T).logsumexp(1)

        for vector in vectors:
            at = 0
            for level, width in enumerate(self.widths):
                children = slice(at * width, (at + 1) * width)
                taken = (self.item >= 0).view(len(before[level]), -1)[children]  # (W, leaves below each)
                distance = ((before[level][children] - vector) ** 2).sum(1)
                child = int(distance.masked_fill(taken.all(1), math.inf).argmin())
                at = at * width + child
                if not taken[child].any():
                    self.nodes[level][at], self.bias[level][at] = vector, 0
                    opened.setdefault(len(self.leaf), (level, at))
                elif trained[level][at]:
                    self.bias[level][at] += apart(level, at, vector).exp().log1p().mean()
            self.item[at] = len(self.leaf)
            self.leaf = torch.cat((self.leaf, self.leaf.new_tensor([at])))
        for item, (level, at) in opened.items():
            parent, child = divmod(at, self.widths[level])
            if (siblings := trained[level].view(-1, self.widths[level])[parent]).any():
                logits = self.teacher_forced(state, torch.full((len(state),), item))[level]
                odds = logits[:, child] - logits[:, siblings].logsumexp(1)
                self.bias[level][at] = (apart(level - 1, parent, vectors[item - len(items)]) - odds).mean()

    def teacher_forced(self, state: Tensor, items: Tensor, allowed: Tensor | None = None) -> list[Tensor]:
        """Logits of every digit of items in one pass: (B, D), (B,) -> G × (B, W).

        allowed (N,) bool: the only positives and negatives."""
        prefixes = self.tree.prefixes(items)  # (B, G)
        digits = [state, *(state + F.embedding(prefixes[:, g], self.nodes[g]) for g in range(len(self.widths) - 1))]
        x, positions = torch.stack(digits, 1), torch.arange(len(digits), device=state.device)  # (B, G, D)
        run = self.blocks(x, causal_mask(len(digits), state.device), positions)
        states = state[:, None] + self.project(run.states)
        parents = torch.cat((torch.zeros_like(prefixes[:, :1]), prefixes[:, :-1]), 1)
        valid = self.tree.valid_nodes(allowed)
        return [self.choices(states[:, g], g, parents[:, g], valid[g]) for g in range(len(self.widths))]

    def step(
        self, state: Tensor, level: int, parent: Tensor, past: list[KVCache] | None, *, weights: bool = False
    ) -> tuple[Tensor, Run]:
        """One digit: states (B, D), the nodes reached (B,), the caches so far -> logits (B, W)."""
        x = state if level == 0 else state + F.embedding(parent, self.nodes[level - 1])
        run = self.blocks(x[:, None], positions=torch.tensor([level], device=x.device), past=past, weights=weights)
        return self.choices(state + self.project(run.states[:, 0]), level, parent), run

    def choices(self, states: Tensor, level: int, parent: Tensor, valid: Tensor | None = None) -> Tensor:
        """Of children: (B, D), parents (B,) in the level above -> (B, W); -inf where not valid (nodes,)."""
        width = self.widths[level]
        valid = (self.tree.valid_nodes()[level] if valid is None else valid).view(-1, width)
        bias, nodes = self.bias[level].view(-1, width), self.nodes[level].view(len(valid), -1)  # (parents, W·D)
        if level == 0:
            logits = states @ nodes.view(width, -1).T + bias[0]
        else:
            own = F.embedding(parent, nodes).unflatten(1, (width, -1))  # (B, W, D)
            logits = torch.einsum("bd,bwd->bw", states, own) + F.embedding(parent, bias)
        return logits.masked_fill(~valid.index_select(0, parent), -torch.inf)
