"""Generated text, token by token: a text model's answers, and what a gap in an item's text is missing."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.data.features import Features
from m6rec.data.text import BOS, EOS, PAD, PROMPT_SPECIAL, SEP, SPECIAL, Prompt, Tokenizer, pad
from m6rec.errors import InputError
from m6rec.generate.beam import Step, Trie, best_path, search
from m6rec.model.attention import Run
from m6rec.model.network import Network
from m6rec.train.text import SOURCE, Backbone

CHUNK = 64  # texts that are written together


class Writer:
    """Words as a beam's decoder and tree: a node is the word last written or, under a trie, its node there.

    first: logits (B, V) of the first word, and the caches of all that is read before it. read: words (n, 1), how many
    were written before, their caches -> logits (n, 1, V) of the next word, and the caches. never: words that are not
    written.
    """

    def __init__(
        self, first: tuple[Tensor, Run], read: Callable[[Tensor, int, list], tuple[Tensor, Run]], never: Sequence[int],
        trie: Trie | None = None,
    ):  # fmt: skip
        self.first, self.read, self.trie = first, read, trie
        words = torch.arange(first[0].shape[1], device=first[0].device)
        self.open, self.pad = words.index_fill(0, torch.tensor(never, device=words.device), -1), words == PAD

    def write(self, length: int, start: Tensor, beam: int = 1, **options: object) -> list[Step]:
        """The steps of a beam of at most `length` words from the nodes start (B,); options: of `search`."""
        rows = torch.arange(len(start), device=start.device)
        return search(self, self, rows, start, [beam] * length, ended=self.ended, **options)

    def ended(self, node: Tensor) -> Tensor:
        """Whether [EOS] is written: only padding follows."""
        return (self._word(node) == EOS) | (self._word(node) == PAD)

    def successors(self, level: int, node: Tensor) -> Tensor:
        """Nodes (n,) -> those that each word leads to (n, V), -1 where it may not follow."""
        after = self.trie.successors(level, node) if self.trie else self.open
        return torch.where(self.ended(node)[:, None], torch.where(self.pad, node[:, None], -1), after)

    def step(
        self, row: Tensor, level: int, node: Tensor, past: list | None, *, weights: bool = False
    ) -> tuple[Tensor, Run]:
        """Rows of the batch (n,), the nodes reached (n,), the caches so far -> logits (n, V) of the next word."""
        if past is None:
            logits, (states, caches, seen) = self.first
            return logits[row], Run(states, [cache.index_select(row) for cache in caches], [w[row] for w in seen])
        logits, run = self.read(self._word(node)[:, None], level, past)
        padding = torch.where(self.pad, 0.0, float("-inf"))
        return torch.where(self.ended(node)[:, None], padding, logits[:, -1]), run

    def _word(self, node: Tensor) -> Tensor:
        return node if self.trie is None else self.trie.token[node]


def begun(text: Prompt, turn: int) -> tuple[str, ...]:
    """The target's segments before an answer: 0 the first, -1 the last, such as a dialogue with all earlier answers."""
    answers = [i for i, part in enumerate(text.target) if not part.endswith(":")]
    return text.target[: answers[turn]] if answers else text.target


def trie(tokenizer: Tokenizer, sets: Sequence[Sequence[str]]) -> Trie:
    """Of the sentences that may be said, from a root for each set. InputError for an empty set or sentence."""
    said = [(root, tokenizer.ids(sentence)) for root, some in enumerate(sets) for sentence in some]
    if not all(sets) or not all(ids for _, ids in said):
        raise InputError("nothing may be said: give sentences to choose among, and none that is empty.")
    rows = pad([(*ids, SEP, EOS) for _, ids in said])
    rows[rows == PAD] = -1
    tree = Trie(rows, [len(tokenizer)] * rows.shape[1], np.array([root for root, _ in said]))
    tree.token[: len(sets)] = BOS  # at a root nothing is written yet
    return tree


@torch.no_grad()
def write(
    made: Backbone,
    texts: Sequence[Prompt],
    length: int = 24,
    turn: int = 0,
    among: Sequence[Sequence[str]] | None = None,
    *,
    trace: list[Step] | None = None,
    weights: bool = False,
    **options: object,
) -> list[list[str]]:
    """The segments that are written for an answer (see `begun`): the likeliest tokens, at most `length`, up to [EOS].

    among: for each text the whole sentences that may be its answer, however long. Their trie masks all other tokens
    before one is chosen, as a beam's trie does with semantic IDs. trace: a list that receives one `Step` per token, for
    64 texts at a time. weights: with the attention of each to source and target. options: beam, and of `search`.
    """
    network, tokenizer, out = made.network, made.tokenizer, []
    never = [i for i in range(len(PROMPT_SPECIAL)) if i not in (EOS, SEP)]
    sets = {id(some): some for some in among or ()}
    tree = trie(tokenizer, list(sets.values())).to(network.device) if among else None
    roots = {key: root for root, key in enumerate(sets)}

    def read(words: Tensor, level: int, past: list) -> tuple[Tensor, Run]:
        said = network.decode_step(words, past[0], weights=weights)
        return said.logits, Run(said.hidden, [said.cache], said.weights)

    for at in range(0, len(texts), CHUNK):
        part = texts[at : at + CHUNK]
        source = torch.from_numpy(tokenizer.encode(part, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(begun(text, turn)) for text in part])).to(network.device)
        start = [roots[id(some)] for some in among[at : at + CHUNK]] if among else [BOS] * len(part)
        said, last = network(source, given, weights=weights), (given != PAD).sum(1) - 1
        row = torch.arange(len(part), device=network.device)
        seen = [w[row, :, source.shape[1] + last, None] for w in said.weights]  # (B, H, 1, S + T)
        writer = Writer((said.logits[row, last], Run(said.hidden, [said.cache], seen)), read, never, tree)
        start = torch.tensor(start, device=network.device)
        steps = writer.write(len(tree.widths) if tree else length, start, weights=weights, **options)
        out += [tokenizer.decode(words) for words in best_path(steps).tolist()]
        if trace is not None:
            trace += steps
    return out


@torch.no_grad()
def fill(network: Network, source: Features, length: int = 12, **options: object) -> Tensor:
    """Write the span that [MASK] stands for in each item's text -> token ids (B, length), 0 after the end.

    A text that is [MASK] alone is written from the image and the sound: a caption. Special tokens are never written.
    options: of `search`. temperature 0 takes the likeliest token each time; above it, tokens are sampled.
    """
    decoder, start = network.text_decoder, torch.full_like(source.text[:, 0], BOS)
    logits, cache, first = decoder.write(network.items, source, start[:, None])

    def read(words: Tensor, level: int, past: list) -> tuple[Tensor, Run]:
        logits, cache = decoder.decode_step(network.items, words, past[0], first + level)
        return logits, Run(logits, [cache], [])

    writer = Writer((logits[:, -1], Run(logits, [cache], [])), read, [i for i in range(len(SPECIAL)) if i != EOS])
    words = best_path(writer.write(length, start, **options))
    return F.pad(words.masked_fill(words == EOS, PAD), (0, length - words.shape[1]))
