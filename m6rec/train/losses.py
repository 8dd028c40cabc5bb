"""Every loss: unweighted means in nats, of patches a share of the mean patch's error.

Targets of -1 count nowhere; items outside the training set are no negatives."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Array, Config, Rng
from m6rec.data.context import Context
from m6rec.data.features import FILE_MODALITIES, Features
from m6rec.data.prompts import Domain, Windows
from m6rec.data.text import BOS, EOS, MASK, PAD, PROMPT_SPECIAL, SEP, UNK, Tokenizer, Tokens, pad
from m6rec.model.network import Network, TextTransformer
from m6rec.model.tree import Tree

SOFTMAX_CHUNK = 2**19  # logits at a time: 2 MB fit the processor's cache
FULL_SOFTMAX_ITEMS = 50_000  # up to so many, every item is a class
NEGATIVES = 2048  # sampled per step beyond
MOST_SEEN = 0.999  # of the probability that seen items may have: beyond, rounding decides
REQUEST_DROPOUT = 0.1  # share of request fields masked
ITEMS = 32  # items per step whose content is trained
CAPTIONS = 0.5  # share of items with image or sound whose whole text is the gap
HIDDEN = 0.5  # share of an item's patches that are hidden
TEMPERATURE = 0.07  # of cosines in `info_nce`: CLIP's (Radford et al. 2021)
PROMPTS = 24  # drawn in a step, each with up to eight items to write
INFILL = 0.2  # share of the prompts in which a span of the source is hidden
SPAN = 8  # tokens of a hidden span, at most


def loss_weights(config: Config) -> dict[str, float]:
    """Only those that are not 1."""
    names = {"infill": "infill", "image": "patch", "sound": "patch", "align": "align", "teacher": "teacher"}
    names |= {"tokens": "text", "contrastive": "text"}
    return {loss: getattr(config, f"{name}_weight") for loss, name in names.items()}


Smoothed = Sequence[Tensor] | None  # of `cooccurrence.neighbourhood`


class Corpus(NamedTuple):
    """What a step learns beside its events."""

    content: Features  # of the items in training events
    near: Smoothed
    prompts: "Prompts | None"
    once: bool = False  # users take an item once: see `predict`


class Prompts(NamedTuple):
    domain: Domain
    tokenizer: Tokenizer
    items: "Catalogue"  # the negatives of an item


def pretraining(network: Network, batch: Context, config: Config, corpus: Corpus, rng: Rng) -> dict[str, Tensor]:
    """The next event; contents, where they have a weight; prompts in words."""
    losses = {"next": predict(network, mask_request(batch), config, corpus.once).cross_entropy(corpus.near)}
    if config.infill_weight or config.patch_weight or config.align_weight:
        losses |= item_content(network, corpus.content, config, rng)
    if corpus.prompts:
        domain, tokenizer, items = corpus.prompts
        drawn = tokenizer.encode(domain.drawn_windows(PROMPTS, rng))
        losses |= text(network.text, hide(drawn, rng), items)
    return losses


def finetuning(network: Network, batch: Context, config: Config, corpus: Corpus, *_: object) -> dict[str, Tensor]:
    """The dense head learns the next event and teaches the digits."""
    found = predict(network, mask_request(batch), config, corpus.once)
    path, distilled = digits(network, found.state, found.target, found.subtrees(network.digits.tree))
    return {"next": found.cross_entropy(corpus.near), "digits": path, "teacher": distilled}


def mask_request(batch: Context) -> Context:
    rest = torch.rand(batch.request.shape, device=batch.request.device) >= REQUEST_DROPOUT
    return batch._replace(request=batch.request * rest)


def predict(
    network: Network, batch: Context, config: Config, once: bool = False
) -> "FullPrediction | SampledPrediction":
    """Of large catalogues, only histories, true items and sampled negatives are encoded.

    once: the events before a target are no classes, as evaluation masks them. Sampled negatives may hold them."""
    has, count = batch.item >= 0, config.negatives or (NEGATIVES if len(network.codes) > FULL_SOFTMAX_ITEMS else 0)
    target = batch.item[has]
    if not count:
        items = network.encode_items().vectors
        state, seen = network.fusion(batch, items).state, None
        if once:
            same = batch.item[:, None] == batch.item[:, :, None]  # (B, T, T) of target and event
            first = ~same.tril(-1).any(-1)[:, None]  # an item counts once
            shut = (~same & first & has[:, None]).tril(-1)
            logits = state @ F.embedding(batch.item.clamp(min=0), items).mT  # (B, T, T): fewer than of all items
            seen = Seen(batch.item[:, None].where(shut, -1)[has], logits.masked_fill(~shut, -math.inf)[has])
        return FullPrediction(state[has], items, target, network.codes >= 0, seen)
    trained = torch.nonzero(network.codes >= 0)[:, 0]
    negatives = trained[torch.randint(len(trained), (count,), device=trained.device)]
    used = torch.cat((target, negatives)).unique()
    row = torch.full_like(network.codes, -1)
    row[used] = torch.arange(len(used), device=used.device)
    items = network.encode_items(only=used).vectors
    context = batch._replace(item=torch.where(has, row[batch.item.clamp(min=0)], -1))
    state = network.fusion(context, items).state[has]
    logits = sampled_logits(state, items, row[target], row[negatives], len(trained))
    return SampledPrediction(state, logits, target, negatives)


class Seen(NamedTuple):
    """The events before each target that are no classes for it."""

    item: Tensor  # (n, T) codes, -1 for none
    logits: Tensor  # (n, T), -inf for none


class FullPrediction(NamedTuple):
    """Every item is a class, but those seen."""

    state: Tensor  # (n, D)
    items: Tensor  # (N, D)
    target: Tensor  # (n,) item codes
    candidates: Tensor  # (N,) bool: held-out items would be learnt as never bought
    seen: Seen | None = None

    def cross_entropy(self, near: Smoothed = None) -> Tensor:
        return full_softmax(*self[:4], near, self.seen)

    @torch.no_grad()
    def subtrees(self, tree: Tree) -> Iterator[Tensor]:
        """The dense head's probability below each child of the true path: G × (n, W)."""
        of_leaf = tree.item.clamp(min=0)
        leaves = self.items[of_leaf]  # (leaves, D): those of a subtree are adjacent
        bias = candidate_bias((tree.item >= 0) & self.candidates[of_leaf], leaves)
        true, parts, rows = tree.digits(self.target), [], max(1, SOFTMAX_CHUNK // len(leaves))
        shut = true[:, :0]  # (n, T) leaves of what was seen; one past the last for none
        if self.seen:
            shut = tree.leaf[self.seen.item.clamp(min=0)].where(self.seen.item >= 0, len(leaves))
        for state, path, closed in zip(self.state.split(rows), true.split(rows), shut.split(rows), strict=True):
            logits = F.pad(torch.addmm(bias, state, leaves.T), (0, 1)).scatter(1, closed, -math.inf)[:, :-1]
            mass, levels = logits.softmax(1), []  # (rows, leaves)
            for level, width in enumerate(tree.widths):
                below = mass.view(len(mass), width, -1)  # (rows, W, leaves below a child)
                levels.append(below.sum(-1))
                mass = below[torch.arange(len(below), device=below.device), path[:, level]]
            parts.append(levels)
        return map(torch.cat, zip(*parts, strict=True))


def full_softmax(
    state: Tensor, items: Tensor, target: Tensor, candidates: Tensor | None = None, near: Smoothed = None,
    seen: Seen | None = None,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy of states (n, D), targets (n,) among items (N, D), or the `candidates` (N,) bool, less `seen`.

    A few positions at a time, to spare memory. Sums over a catalogue have 32 bits or more."""
    device = state.device.type
    state, items = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (state, items))
    parts = nn.LinearCrossEntropyOptions(batch_chunk_size=max(1, SOFTMAX_CHUNK // len(items)))
    bias = None if candidates is None else candidate_bias(candidates, items)
    halved = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if halved else nullcontext():
        reduction = "none" if seen else "mean"
        loss = F.linear_cross_entropy(state, items, target, linear_bias=bias, reduction=reduction, options=parts)
        if seen:  # their share of the probability is taken out
            total = loss + (state * F.embedding(target, items)).sum(1)  # (n,) log-sum-exp
            share = (seen.logits - total[:, None]).exp().sum(1)
            loss = (loss + torch.log1p(-share.clamp(max=MOST_SEEN))).mean()
        if near is None:
            return loss
        near, shares = (part[target] for part in near)  # (n, K)
        shared = F.embedding_bag(near, items, per_sample_weights=shares.to(items), mode="sum")  # (n, D)
        return loss + (state * (F.embedding(target, items) - shared)).sum(1).mean()  # shares add up to 1


def candidate_bias(candidates: Tensor, items: Tensor) -> Tensor:
    return torch.zeros_like(items[:, 0]).masked_fill(~candidates, float("-inf"))


class SampledPrediction(NamedTuple):
    """The classes are the true item and sampled negatives."""

    state: Tensor  # (n, D)
    logits: Tensor  # (n, 1 + m): the true item's, then the negatives'
    target: Tensor  # (n,) item codes
    negatives: Tensor  # (m,) item codes

    def cross_entropy(self, near: Smoothed = None) -> Tensor:
        """Targets are not smoothed."""
        return first_class(self.logits)

    def subtrees(self, tree: Tree) -> Iterator[Tensor]:
        weights = self.logits.detach().softmax(-1)
        true, weights = weights[:, :1], weights[:, 1:]
        path, others = tree.digits(self.target), tree.digits(self.negatives)  # (n, G), (m, G)
        for level, width in enumerate(tree.widths):
            below = weights @ F.one_hot(others[:, level], width).to(weights)  # (n, m) @ (m, W)
            yield below.to(true).scatter_add(1, path[:, level, None], true)
            weights = weights * (others[:, level] == path[:, level, None])


def sampled_logits(states: Tensor, items: Tensor, target: Tensor, negatives: Tensor, among: int) -> Tensor:
    """States (n, D), items (N, D) -> logits (n, 1 + m) of the true item, then of negatives (m,).

    A negative's gains the log of how many of `among` items it stands for (log-Q correction, Jean et al. 2015)."""
    sampled = negatives == target[:, None]  # (n, m)
    stands_for = (among - 1) / (~sampled).sum(1, keepdim=True).clamp(min=1)  # (n, 1) items
    others = states @ F.embedding(negatives, items).T + stands_for.log()
    true = (states * F.embedding(target, items)).sum(1, keepdim=True)
    return torch.cat((true, others.masked_fill(sampled, -math.inf)), 1)


def first_class(logits: Tensor) -> Tensor:
    """Cross-entropy of column 0 of logits (n, 1 + m)."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def digits(network: Network, state: Tensor, target: Tensor, subtrees: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the true path and of the dense head's `subtrees` G × (n, W), summed over levels."""
    path = distilled = state.new_zeros(())
    true = network.digits.tree.digits(target)
    students = network.digits.teacher_forced(state, target, network.codes >= 0)
    for level, (student, mass) in enumerate(zip(students, subtrees, strict=True)):
        teacher = mass / mass.sum(-1, keepdim=True).clamp(min=1e-9)
        log_p = student.log_softmax(-1).clamp(min=-100)  # a free leaf is -inf, and 0 · -inf is not a number
        path = path - log_p.gather(1, true[:, level, None]).mean()
        distilled = distilled - (teacher * log_p).sum(-1).mean()
    return path, distilled


def item_content(
    network: Network, content: Features, config: Config, rng: Rng, spectral: Tensor | None = None
) -> dict[str, Tensor]:
    """Infilling, patches, alignment of some items. spectral (n, D): what contents predict, in variances."""
    modalities, losses = network.items.modalities, {}
    if spectral is not None:
        rows = rng.integers(len(content.present), size=config.batch)
        known = content.take(rows).drop(*network.items.hidden_modalities()).to(network.codes.device)
        losses["spectral"] = F.mse_loss(network.items(known).vectors, spectral[rows]) / config.spectral**2
    some = augment(content.take(rng.integers(len(content.present), size=ITEMS)), rng)
    if "text" in modalities and config.infill_weight:
        losses["infill"] = infilling(network, some, rng)
    if network.patch_decoder and config.patch_weight:
        losses |= reconstruction(network, some, rng)
    if len(modalities) > 1 and config.align_weight:
        losses["align"] = alignment(network, some)
    return losses


def infilling(network: Network, content: Features, rng: Rng) -> Tensor:
    """Cross-entropy of masked spans of texts (T5's objective), some of them captions."""
    caption = content.present[:, 1:].any(1) & (rng.random(len(content.present)) < CAPTIONS)
    source, target = corrupt(content.text, rng, whole=caption)
    known = content._replace(text=source).to(network.codes.device)
    target = torch.from_numpy(target).to(network.codes.device)
    said, _ = network.text_decoder.write(network.items, known, target[:, :-1])
    return F.cross_entropy(said.logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)


def reconstruction(network: Network, content: Features, rng: Rng) -> dict[str, Tensor]:
    """Squared error of hidden patches (He et al. 2022), over that of the mean patch."""
    known = content.to(network.codes.device)
    sizes = {m: getattr(known, m).shape[1] for m in network.items.patches}
    hidden = {m: hide_patches(len(known.present), n, rng).to(known.text.device) for m, n in sizes.items()}
    losses = {}
    for m, patches in network.patch_decoder.patches(network.items, known, hidden).items():
        scored = (hidden[m] & known.present[:, MODALITIES.index(m), None]).to(patches)  # (N, P)
        error = ((patches - getattr(known, m)) ** 2).mean(-1)
        losses[m] = (scored * error).sum() / (scored * network.items.patches[m].variance).sum().clamp(min=1e-6)
    return losses


def hide_patches(items: int, patches: int, rng: Rng) -> Tensor:
    return torch.from_numpy(rng.random((items, patches)).argsort(1) < round(HIDDEN * patches))


def alignment(network: Network, content: Features) -> Tensor:
    """`info_nce`, both ways, of the first modality and the others."""
    first, *others = network.items.modalities
    rest = [MODALITIES.index(m) for m in others]
    both = content.present[:, MODALITIES.index(first)] & content.present[:, rest].any(1)
    if both.sum() < 2:
        return 0 * network.items.query.sum()  # no negatives: a loss of 0 with a gradient
    known = content.take(both).to(network.codes.device)
    views = known.drop(*others), known.drop(first)
    one, other = (F.normalize(network.items(view).vectors, dim=1) for view in views)
    logits = one @ other.T / TEMPERATURE
    return (info_nce(logits) + info_nce(logits.T)) / 2


def info_nce(logits: Tensor, key: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the diagonal of logits (n, n) in its rows: van den Oord et al. 2018, eq. 4.

    key (n,): equal ones are no negatives of each other."""
    own = torch.arange(len(logits), device=logits.device)
    if key is not None:
        logits = logits.masked_fill((key[:, None] == key) & (own[:, None] != own), -math.inf)
    return F.cross_entropy(logits, own)


def augment(content: Features, rng: Rng) -> Features:
    for name, module in FILE_MODALITIES.items():
        if getattr(content, name).shape[1] > 1 and content.present[:, MODALITIES.index(name)].any():  # no vectors
            moved = module.augment(module.unpatch(getattr(content, name)), rng)
            content = content._replace(**{name: module.patches(moved)})
    return content


def corrupt(texts: Array, rng: Rng, whole: Array | None = None) -> tuple[Array, Array]:
    """A random span of each text, on average a third, becomes [MASK]; all where `whole` (n,) says so.

    texts (n, L) -> source (n, L + 1) and target (n, L + 2) = [BOS] span [EOS], padded with 0."""
    rows = []
    for number, padded in enumerate(texts):
        tokens = padded[padded != PAD]
        size = int(rng.integers(1, max(2, 2 * len(tokens) // 3 + 1)))
        start = int(rng.integers(0, max(1, len(tokens) - size + 1)))
        rows.append(_cut(tokens, 0, len(tokens)) if whole is not None and whole[number] else _cut(tokens, start, size))
    return tuple(pad(part, texts.shape[1] + more) for more, part in enumerate(zip(*rows, strict=True), 1))


def _cut(tokens: Array, start: int, size: int) -> tuple[list[int], list[int]]:
    """[MASK] for a span; [BOS] span [EOS]."""
    return [*tokens[:start], MASK, *tokens[start + size :]], [BOS, *tokens[start : start + size], EOS]


Catalogue = tuple[Tensor, Tensor]  # distinct items: tokens (N, L), 0 = padding, and their bags' keys (N,), ascending


def catalogue_of(items: Iterable[str], tokenizer: Tokenizer, device: torch.device | None = None) -> Catalogue:
    tokens = torch.from_numpy(pad([tokenizer.ids(words) for words in sorted(set(items))]))
    key, first = np.unique(_token_key(tokens).sum(1).numpy(), return_index=True)
    return tokens[first].to(device), torch.from_numpy(key).to(device)


def text_vectors(network: TextTransformer, tokens: Tensor) -> Tensor:
    """Tokens (N, L) -> (N, D): the sum of embeddings over the root of their number."""
    size = (tokens != PAD).sum(1, keepdim=True).clamp(min=1)
    return F.embedding_bag(tokens, network.tokens.weight, mode="sum", padding_idx=PAD) / size.sqrt()


def text(network: TextTransformer, some: Tokens, catalogue: Catalogue | None = None) -> dict[str, Tensor]:
    """Cross-entropy of the target's tokens, and `item_contrast`."""
    source, target, loss_mask = (torch.as_tensor(part, device=network.device) for part in some)
    begun, truth = target[:, :-1], target[:, 1:].masked_fill(~loss_mask[:, 1:], PAD)
    hidden = network(source, begun, logits=False).hidden[:, source.shape[1] :]
    there = truth != PAD  # logits are most of the work
    tokens = F.cross_entropy(network.logits(hidden[there]), truth[there])
    return {"tokens": tokens, "contrastive": item_contrast(network, hidden, begun, truth, catalogue)}


def hide(tokens: Tokens, rng: Rng) -> Tokens:
    """Text infilling: in some rows a span of the source becomes [MASK], and the target."""
    source, target, loss_mask = (part.copy() for part in tokens)
    for row in np.flatnonzero(rng.random(len(source)) < INFILL):
        given = source[row][source[row] != PAD]
        size = int(rng.integers(1, SPAN + 1))
        if len(given) >= size + 3:
            rest, span = _cut(given, int(rng.integers(1, len(given) - size)), size)
            length = target.shape[1]
            source[row], target[row] = pad([rest], source.shape[1]), pad([span[:length]], length)
            loss_mask[row] = (target[row] != PAD) & (target[row] != BOS)
    return Tokens(source, target, loss_mask)


def item_contrast(
    network: TextTransformer, hidden: Tensor, begun: Tensor, truth: Tensor, catalogue: Catalogue | None = None
) -> Tensor:
    """States before items, of hidden (B, T, D), against their words (InfoNCE). Tokens read and to come (B, T).

    Negatives: the batch's other items, or a catalogue's; segments outside it count nowhere."""
    first = (truth != PAD) & (truth != EOS) & ((begun == SEP) | (begun == BOS))
    inside = (truth >= len(PROMPT_SPECIAL)) | (truth == UNK)
    number = first.flatten().long().cumsum(0) - 1  # the segment of each token
    number, words = number[inside.flatten()], truth[inside]
    states = hidden[first]  # (n, D)
    key = number.new_zeros(len(states)).index_add(0, number, _token_key(words))
    if catalogue is not None:
        tokens, keys = catalogue
        row = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        found = keys[row] == key
        scores = states[found] @ text_vectors(network, tokens).T
        return F.cross_entropy(scores, row[found], reduction="sum") / found.sum().clamp(min=1)
    size = torch.bincount(number, minlength=len(states)).clamp(min=1)
    bags = torch.zeros_like(states).index_add(0, number, network.tokens(words)) / size[:, None].sqrt()
    return info_nce(states @ bags.T, key)


def _token_key(tokens: Tensor) -> Tensor:
    """Pseudo-random 64-bit (as in splitmix64), 0 for padding; a bag's key is their sum."""
    key = tokens * -7046029254386353131
    return (key ^ (key >> 31)) * -4658895280553007687


def exit_losses(network: TextTransformer, windows: Windows, local_layers: int = 0) -> dict[str, Tensor]:
    """Labels at every exit after the local layers; weights 2k / (L(L + 1)) sum to 1, M6-Rec's printed do not."""
    total = norm = 0.0
    for k, logits in enumerate(network.exits(windows, local_layers), local_layers + 1):
        weight = 2 * k / (network.depth * (network.depth + 1))
        total, norm = total + weight * clicks(logits, windows.clicked), norm + weight
    return {"exits": total / norm}


def clicks(logits: Tensor, clicked: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, C) and labels or probabilities; -1 counts nowhere."""
    return F.binary_cross_entropy_with_logits(logits[clicked >= 0], clicked[clicked >= 0])


def distillation(network: TextTransformer, windows: Windows, teacher: TextTransformer) -> dict[str, Tensor]:
    """The labels and the teacher's probabilities, after a drawn number of local layers."""
    logits = network.scores(windows, int(torch.randint(network.depth, ())))
    with torch.no_grad():
        soft = teacher.scores(windows).sigmoid().where(windows.clicked >= 0, -1)
    return {"clicked": clicks(logits, windows.clicked), "teacher": clicks(logits, soft)}
