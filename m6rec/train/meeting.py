"""The loss of meeting: before an item is written, the state should know it among other items, by their words alone.

An item is the sum of its tokens' embeddings over the root of their number, so one never seen has a vector too, and the
state there is a dense head that reads. Source: InfoNCE (van den Oord et al. 2018), as in M6-Rec's retrieval task.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.data.text import BOS, EOS, PAD, PROMPT_SPECIAL, SEP, UNK, PromptTokenizer, pad
from m6rec.model.text_model import TextTransformer


class Catalogue(NamedTuple):
    """Items once each, in an order of their own."""

    tokens: Tensor  # (N, L), 0 = padding
    spelled: Tensor  # (N,) what their tokens add up to, ascending

    @classmethod
    def of(cls, items: Iterable[str], tokenizer: PromptTokenizer) -> Catalogue:
        """Items in words -> their tokens."""
        tokens = torch.from_numpy(pad([tokenizer.segment(words)[:-1] for words in sorted(set(items))]))
        spelled, first = np.unique(_spelled(tokens).sum(1).numpy(), return_index=True)
        return cls(tokens[first], torch.from_numpy(spelled))

    def to(self, device: torch.device) -> Catalogue:
        """The same items on a device."""
        return Catalogue(*(part.to(device) for part in self))


def vectors(network: TextTransformer, tokens: Tensor) -> Tensor:
    """Items (N, L) -> (N, D)."""
    size = (tokens != PAD).sum(1, keepdim=True).clamp(min=1)
    return F.embedding_bag(tokens, network.tokens.weight, mode="sum", padding_idx=PAD) / size.sqrt()


def meeting(
    network: TextTransformer, hidden: Tensor, begun: Tensor, truth: Tensor, catalogue: Catalogue | None = None
) -> Tensor:
    """Mean cross-entropy in nats of each segment among the others of the batch, or among a catalogue.

    Shapes: hidden (B, T, D), the tokens that were read and those that come (B, T), 0 where nothing is taught. What is
    in no catalogue, such as a span that was hidden, then teaches nothing.
    """
    first = (truth != PAD) & (truth != EOS) & ((begun == SEP) | (begun == BOS))
    inside = (truth >= len(PROMPT_SPECIAL)) | (truth == UNK)
    number = first.flatten().long().cumsum(0) - 1  # which segment a token belongs to
    number, words = number[inside.flatten()], truth[inside]
    states = hidden[first]  # (n, D)
    n = len(states)
    spelled = number.new_zeros(n).index_add(0, number, _spelled(words))
    if catalogue is not None:
        place = torch.searchsorted(catalogue.spelled, spelled).clamp(max=len(catalogue.spelled) - 1)
        known = catalogue.spelled[place] == spelled
        scores = states[known] @ vectors(network, catalogue.tokens).T
        return F.cross_entropy(scores, place[known], reduction="sum") / known.sum().clamp(min=1)
    size = torch.bincount(number, minlength=n).clamp(min=1)
    bags = hidden.new_zeros(n, hidden.shape[-1]).index_add(0, number, network.tokens(words)) / size[:, None].sqrt()
    own = torch.arange(n, device=number.device)
    twin = (spelled[:, None] == spelled) & (own[:, None] != own)  # the same words are no wrong answer
    return F.cross_entropy((states @ bags.T).masked_fill(twin, float("-inf")), own)


def _spelled(tokens: Tensor) -> Tensor:
    return tokens * tokens * 7919 + tokens
