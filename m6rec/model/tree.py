"""Semantic IDs: a balanced tree over item vectors. A path of digits from the root to a leaf names one item.

Nodes of a level have nearly equally many items. Free leaves are spread, so that a new item finds one near its content.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from sklearn.cluster import KMeans
from torch import Tensor

from m6rec.errors import InputError

MAX_UNUSED, MAX_CROWDED = 0.05, 1.5  # share of a level's nodes; multiple of a node's even share of the items
ROUNDS = 12  # of k-means, at most


class Tree(NamedTuple):
    """The leaf of each item, numbered by its digits: ((d₁ · W₂) + d₂) · W₃ + d₃."""

    widths: tuple[int, ...]  # (G,) children of a node at each level
    leaf: Tensor  # (N,) the leaf of each item
    item: Tensor  # (leaves,) the item of each leaf, -1 where free

    @classmethod
    def of(cls, digits: np.ndarray, widths: tuple[int, ...] | None = None) -> "Tree":
        """From semantic IDs (N, G), as wide as they need by default. InputError where two are equal."""
        widths = widths or tuple((digits.max(0) + 1).tolist())
        leaf, item = np.ravel_multi_index(tuple(digits.T), widths), np.full(math.prod(widths), -1)
        item[leaf] = np.arange(len(leaf))
        if (item >= 0).sum() < len(leaf):
            raise InputError("two items have the same semantic ID: add a digit that tells them apart.")
        return cls(widths, torch.from_numpy(leaf), torch.from_numpy(item))

    def digits(self, items: Tensor) -> Tensor:
        """Item codes (...,) -> (..., G)."""
        return torch.stack(torch.unravel_index(self.leaf[items], self.widths), -1)

    def prefixes(self, items: Tensor) -> Tensor:
        """The nodes on the way to items, numbered within their level: codes (...,) -> (..., G)."""
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


def insert(tree: Tree, nodes: list[np.ndarray], vectors: np.ndarray) -> Tree:
    """New items (n, D) take free leaves: from the root down, the nearest node with a free leaf below it.

    nodes: vectors (nodes, D) of each level. InputError where no leaf is left.
    """
    item, leaf = tree.item.numpy().copy(), tree.leaf.tolist()
    if len(vectors) > (item < 0).sum():
        raise InputError(
            f"the tree has {(item < 0).sum()} free leaves, too few for {len(vectors)} new items: train with a larger "
            f"free_leaves, or on data that hold the items."
        )
    for vector in vectors:
        at = 0
        for level, width in enumerate(tree.widths):
            children = np.arange(at * width, (at + 1) * width)
            free = (item < 0).reshape(len(nodes[level]), -1).any(1)[children]
            distance = ((nodes[level][children] - vector) ** 2).sum(1)
            at = int(children[np.where(free, distance, np.inf).argmin()])
        item[at] = len(leaf)
        leaf.append(at)
    return Tree(tree.widths, torch.tensor(leaf), torch.from_numpy(item))


def health(tree: Tree) -> pd.DataFrame:
    """How evenly the items fill each level. entropy: 1 is perfectly even. dead: nodes without items.

    smallest, largest: the items of one node. unique: the share of items whose digits so far are.
    """
    rows, n = [], len(tree.leaf)
    for level, nodes in enumerate(tree.prefixes(torch.arange(n)).T.cpu().numpy(), 1):
        counts = np.bincount(nodes, minlength=math.prod(tree.widths[:level]))
        used, even = counts[counts > 0], entr(counts / n).sum() / np.log(len(counts))
        rows.append((len(used), len(counts) - len(used), even, used.min(), used.max(), (counts == 1).sum() / n))
    names, levels = ["nodes", "dead", "entropy", "smallest", "largest", "unique"], range(1, len(rows) + 1)
    return pd.DataFrame(rows, pd.Index(levels, name="level"), names)


def alarms(table: pd.DataFrame) -> list[str]:
    """Signs of collapse, one sentence each. Where nodes outnumber the items, some must stay empty."""
    wrong, last = [], table.iloc[-1]
    for level, row in table.iloc[:-1].iterrows():
        nodes = int(row["nodes"] + row["dead"])
        share = math.ceil(last["nodes"] / nodes)
        if row["dead"] - max(0, nodes - last["nodes"]) > MAX_UNUSED * nodes:
            wrong.append(f"digit {level} leaves {row['dead']:.0f} of its {nodes} nodes unused")
        if row["largest"] > MAX_CROWDED * share:
            wrong.append(f"digit {level} crowds {row['largest']:.0f} items below one node, where {share} are its share")
    if last["unique"] < 1:
        wrong.append(f"{1 - last['unique']:.1%} of the items share all their digits with another")
    return wrong


def widths_for(items: int, digits: int, free: float) -> tuple[int, ...]:
    """The smallest equal widths whose leaves hold all items and the share of free ones."""
    width = 2
    while width**digits * (1 - free) < items:
        width += 1
    return (width,) * digits


def build_tree(vectors: np.ndarray, widths: tuple[int, ...], seed: int = 0) -> Tree:
    """Capacity-limited k-means of item vectors (N, D) at every node, from the root down.

    Our own: residual k-means (Rajput et al. 2023) fills nodes unevenly, and some items share all their digits.
    """
    n, leaves = len(vectors), math.prod(widths)
    if n > leaves:
        raise InputError(f"a tree of widths {widths} has {leaves} leaves, too few for {n} items: take wider levels.")
    if not np.isfinite(vectors).all():
        raise InputError(
            "item vectors hold NaN or infinity, so no tree can be built: lower the learning rate and train again."
        )
    rng, digits, nodes = np.random.default_rng(seed), np.zeros((n, len(widths)), np.int64), [np.arange(n)]
    for level, width in enumerate(widths):
        for members in nodes:
            digits[members, level] = _balanced(vectors[members], width, rng)
        nodes = [members[digits[members, level] == c] for members in nodes for c in range(width)]
    return Tree.of(digits, widths)


def _balanced(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
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


def _assign(vectors: np.ndarray, centres: np.ndarray, capacity: int) -> np.ndarray:
    """Members propose to their nearest centre; a full centre keeps the nearest (Gale & Shapley 1962).

    At most n·k proposals, and nobody is left out while n ≤ k·capacity.
    """
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


def semantic_ids(vectors: np.ndarray, codes: int, seed: int = 0, levels: int = 3) -> np.ndarray:
    """Residual k-means (TIGER) of vectors (N, D), and a digit that tells equal ones apart: (N, levels + 1).

    Each level clusters what the level before left over, with fewer codes where fewer vectors differ.
    """
    digits, left = pd.DataFrame(index=range(len(vectors))), vectors.astype(np.float64)
    for level in range(levels):
        left = left.round(6)  # what is alike but for rounding is one vector
        clusters = KMeans(min(codes, len(np.unique(left, axis=0))), n_init=1, random_state=seed).fit(left)
        digits[level] = clusters.labels_
        left = left - clusters.cluster_centers_[clusters.labels_]
    return digits.assign(last=digits.groupby(list(digits)).cumcount()).to_numpy(np.int64)
