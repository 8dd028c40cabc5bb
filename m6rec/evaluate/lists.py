"""Beyond accuracy: what lists (U, k) of item codes, -1 where there is none, show of the catalogue and of the user."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from m6rec.data.dataset import Dataset, Targets
from m6rec.data.text import words

_SMOOTH = 0.01  # Steck's alpha: what a list lacks of its history costs much, but not infinitely much


def per_list(lists: np.ndarray, targets: Targets, training: sp.csr_array) -> dict[str, np.ndarray]:
    """Novelty (bits), diversity and miscalibration of the lists (U, k) of these targets; NaN where one is too short."""
    return {
        "novelty": novelty(lists, training),
        "diversity": diversity(lists, normalize(_bag(targets.data.items["text"].map(words)))),
        "miscalibration": miscalibration(lists, targets.seen(), categories(targets.data)),
    }


def coverage(lists: np.ndarray, n_items: int) -> float:
    """The share of the catalogue that is in any list."""
    return len(np.unique(lists[lists >= 0])) / n_items


def gini(lists: np.ndarray, n_items: int) -> float:
    """0 = all items are listed equally often, 1 - 1/N = one alone is; NaN when none is.

    With x ascending: sum of (2i - N - 1) x_i / (N sum of x), i = 1..N.
    """
    shown = np.sort(np.bincount(lists[lists >= 0], minlength=n_items))
    if not shown.any():
        return float("nan")
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ shown / (n_items * shown.sum()))


def novelty(lists: np.ndarray, training: sp.csr_array) -> np.ndarray:
    """(U,) bits: mean of -log2 of the share of users with the item, plus-one smoothed (Zhou et al. 2010).

    training: (users, N), as `training_matrix`. NaN for an empty list.
    """
    share = (training.sum(axis=0).astype(np.float64) + 1) / (training.shape[0] + 1)
    bits, length = np.where(lists >= 0, -np.log2(share)[lists], 0.0), (lists >= 0).sum(1)
    return np.where(length > 0, bits.sum(1) / np.maximum(length, 1), np.nan)


def diversity(lists: np.ndarray, unit: sp.csr_array) -> np.ndarray:
    """(U,) 1 - mean cosine over the pairs of a list, NaN below two items. unit: (N, features), rows of length 1."""
    chosen = _chosen(lists, unit.shape[0])
    # The cosines of all ordered pairs add up to |sum of the unit rows|^2, less each row with itself.
    pairs = (chosen @ unit).power(2).sum(axis=1) - chosen @ unit.power(2).sum(axis=1)
    length = chosen.sum(axis=1)
    return np.where(length > 1, 1 - pairs / np.maximum(length * (length - 1), 1), np.nan)


def miscalibration(lists: np.ndarray, history: sp.csr_array, shares: sp.csr_array) -> np.ndarray:
    """(U,) nats: KL(p | .99 q + .01 p) of the history's mean category shares p and the list's q (Steck 2018).

    history: (U, N), such as `targets.seen()`. shares: (N, categories), as `categories`. NaN where either has none.
    """
    weights = history.astype(np.float64), _chosen(lists, shares.shape[0])
    past, listed = (normalize(rows @ shares, "l1") for rows in weights)  # (U, categories), their sum 1, or empty rows
    # Only categories of the history count: on them the mixture is above 0, so both have the same entries in one order.
    mixed = sp.csr_array(_SMOOTH * past + (1 - _SMOOTH) * listed.multiply(past > 0))
    past.sort_indices()
    mixed.sort_indices()
    terms = sp.csr_array((past.data * np.log(past.data / mixed.data), past.indices, past.indptr), shape=past.shape)
    known = (np.diff(past.indptr) > 0) & (np.diff(listed.indptr) > 0)
    return np.where(known, np.maximum(terms.sum(axis=1), 0), np.nan)  # rounding may leave -1e-17


def categories(data: Dataset) -> sp.csr_array:
    """(N, categories) each item's shares, summing to 1: of its `genres` or `category` if there are any, else words."""
    column = next((name for name in ("genres", "category") if name in data.items.columns), "text")
    names = data.items[column]
    return normalize(_bag(names.map(words) if column == "text" else names.str.lower().str.findall(r"[^\s|,]+")), "l1")


def inverse_propensity(items: np.ndarray, training: sp.csr_array) -> np.ndarray:
    """(U,) weights of targets (U,), 1 / (users + 1): popular items are in the test set too often.

    np.average(hit, weights=weights) is the self-normalised estimate of Yang et al. 2018, with their gamma = 1;
    ratio_interval(weights * hit, weights) is its interval.
    """
    return 1 / (training.sum(axis=0).astype(np.float64) + 1)[items]


def _bag(words: pd.Series) -> sp.csr_array:
    """Lists of words (N,) -> (N, words) 1 where the item has the word, whatever its number."""
    each = words.reset_index(drop=True).explode().dropna()
    codes, vocabulary = pd.factorize(each)
    bag = sp.csr_array((np.ones(len(each)), (each.index, codes)), shape=(len(words), max(len(vocabulary), 1)))
    bag.data[:] = 1
    return bag


def _chosen(lists: np.ndarray, n_items: int) -> sp.csr_array:
    """(U, N) 1 for each listed item."""
    rows, positions = np.nonzero(lists >= 0)
    return sp.csr_array((np.ones(len(rows)), (rows, lists[rows, positions])), shape=(len(lists), n_items))
