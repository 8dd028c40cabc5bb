"""What the network is taught: the next event, what is missing of an item, digits by the true path and the dense head.

Each loss is unweighted: a mean in nats, for patches a share of the mean patch's error. The stages add them with the
config's weights. Targets of -1 teach nothing, and items that training does not know are no wrong answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.config import MODALITIES, Config
from m6rec.data import image, sound
from m6rec.data.batches import Batch
from m6rec.data.context import EventCodes
from m6rec.data.cooccurrence import Neighbourhood
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.data.splits import Split
from m6rec.data.text import BOS, EOS, MASK
from m6rec.model.network import Network
from m6rec.train import sampled, whole

REQUEST_DROPOUT = 0.1  # share of request fields hidden while training, so that a request may leave them open
ITEMS = 32  # items per step whose content is taught
CAPTIONS = 0.5  # share of the items with something to see or hear whose whole text is the gap
HIDDEN = 0.5  # share of an item's patches that are hidden
TEMPERATURE = 0.07  # of the alignment's softmax: CLIP's (Radford et al. 2021)


class Stream(NamedTuple):
    """What the stages of events read."""

    data: Dataset
    split: Split
    codes: EventCodes
    content: Features  # of the items that have training events
    neighbours: Neighbourhood | None = None


def pretraining(
    network: Network, batch: Batch, config: Config, stream: Stream, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Next event over the whole catalogue, and the losses of the items' content."""
    if count := sampled.negatives(network, config):
        losses = {"next": sampled.next_event(sampled.predict(network, hide(batch), count))}
    else:
        losses = {"next": whole.next_event(whole.predict(network, hide(batch)), stream.neighbours)}
    return losses if config.item_epochs else losses | item_content(network, stream.content, config, rng)


def item_content(network: Network, content: Features, config: Config, rng: np.random.Generator) -> dict[str, Tensor]:
    """Missing text, hidden patches, and the alignment of an item's modalities, for some of the items in `content`."""
    some = augment(content.take(rng.integers(len(content.present), size=ITEMS)), rng)
    reads, losses = network.items.modalities, {}
    if "text" in reads and config.infill_weight:
        losses["infill"] = infilling(network, some, rng)
    if network.patch_decoder and config.patch_weight:
        losses |= restoration(network, some, rng)
    if len(reads) > 1 and config.align_weight:
        losses["align"] = alignment(network, some)
    return losses


def finetuning(
    network: Network, batch: Batch, config: Config, stream: Stream, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The dense head goes on learning; the digits learn from the true path and from the dense head."""
    tree = network.digits.tree
    if count := sampled.negatives(network, config):
        found = sampled.predict(network, hide(batch), count)
        correct, masses = sampled.next_event(found), sampled.subtrees(tree, found)
    else:
        found = whole.predict(network, hide(batch))
        correct, masses = whole.next_event(found, stream.neighbours), whole.subtrees(tree, found)
    path, teacher = digits(network, found.state, found.target, masses)
    return {"next": correct, "digits": path, "teacher": teacher}


def digits(network: Network, state: Tensor, target: Tensor, masses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the true path's digits, and of what the dense head gives to each subtree beside the path.

    state (n, D), target (n,), masses G × (n, W). The second lets all items teach at every position; it differs from
    the KL divergence by the teacher's entropy, which no weight changes. -> means over positions, summed over levels.
    """
    path, taught = state.new_zeros(()), state.new_zeros(())
    digits_of = network.digits.tree.digits(target)
    students = network.digits.teacher_forced(state, target, network.codes >= 0)
    for level, (student, mass) in enumerate(zip(students, masses, strict=True)):
        teacher = mass / mass.sum(-1, keepdim=True).clamp(min=1e-9)
        spoken = student.log_softmax(-1).clamp(min=-100)  # a free leaf is -inf, and 0 · -inf is not a number
        path = path - spoken.gather(1, digits_of[:, level, None]).mean()
        taught = taught - (teacher * spoken).sum(-1).mean()
    return path, taught


def infilling(network: Network, content: Features, rng: np.random.Generator) -> Tensor:
    """Mean cross-entropy per token of spans cut out of item texts and written anew (T5's objective, M6's mask).

    Where there is something to see or hear, half of the gaps are the whole text: a caption.
    """
    caption = content.present[:, 1:].any(1) & (rng.random(len(content.present)) < CAPTIONS)
    source, target = corrupt(content.text, rng, whole=caption)
    known = content._replace(text=source).to(network.codes.device)
    target = torch.from_numpy(target).to(network.codes.device)
    logits = network.text_decoder(network.items, known, target[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)


def restoration(network: Network, content: Features, rng: np.random.Generator) -> dict[str, Tensor]:
    """Squared error of hidden patches, drawn from those that are left (He et al. 2022), over the mean patch's error.

    The mean patch is what one draws who knows the training items and not this one.
    """
    sizes = {m: getattr(content, m).shape[1] for m in network.items.patches}
    hidden = {m: hide_patches(len(content.present), size, rng) for m, size in sizes.items()}
    known = content.to(network.codes.device)
    drawn = network.patch_decoder(network.items, known, {m: h.to(known.text.device) for m, h in hidden.items()})
    losses = {}
    for m, anew in drawn.items():
        there, true = known.present[:, MODALITIES.index(m)], getattr(known, m)
        taught = (hidden[m].to(there.device) & there[:, None]).to(anew)  # (N, P)
        error = ((anew - true) ** 2).mean(-1)
        losses[m] = (taught * error).sum() / (taught * network.variance(m)).sum().clamp(min=1e-6)
    return losses


def hide_patches(items: int, patches: int, rng: np.random.Generator) -> Tensor:
    """The same number of patches of each item, at random: (N, P) bool."""
    order = rng.random((items, patches)).argsort(1)
    return torch.from_numpy(order < round(HIDDEN * patches))


def alignment(network: Network, content: Features) -> Tensor:
    """The first modality that is read finds its own others among the step's items, and they it (InfoNCE, both ways)."""
    first, *others = network.items.modalities
    rest = [MODALITIES.index(m) for m in others]
    both = content.present[:, MODALITIES.index(first)] & content.present[:, rest].any(1)
    if both.sum() < 2:
        return 0 * network.items.query.sum()  # nothing to tell apart, and still a loss
    known = content.take(both).to(network.codes.device)
    said, shown = (F.normalize(network.items.content(view).vectors, dim=1) for view in
                   (known.drop(*others), known.drop(first)))  # fmt: skip
    logits, own = said @ shown.T / TEMPERATURE, torch.arange(len(said), device=said.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def augment(content: Features, rng: np.random.Generator) -> Features:
    """Images moved, mirrored and lit anew, sounds with stripes left out: no network learns them by heart."""
    if content.present[:, 1].any():
        content = content._replace(image=image.patches(image.augment(image.unpatch(content.image), rng)))
    if content.present[:, 2].any():
        content = content._replace(sound=sound.patches(sound.augment(sound.unpatch(content.sound), rng)))
    return content


def corrupt(
    texts: np.ndarray, rng: np.random.Generator, whole: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Replace one random span of each text, a third of it on average, by [MASK]; all of it where `whole` (n,) says so.

    texts (n, L) -> source (n, L + 1) and target (n, L + 2) = [BOS] span [EOS], padded with 0.
    """
    n, length = texts.shape
    source, target = np.zeros((n, length + 1), np.int64), np.zeros((n, length + 2), np.int64)
    for row, padded in enumerate(texts):
        tokens = padded[padded > 0]
        size = int(rng.integers(1, max(2, 2 * len(tokens) // 3 + 1)))
        start = int(rng.integers(0, max(1, len(tokens) - size + 1)))
        if whole is not None and whole[row]:
            start, size = 0, len(tokens)
        span = tokens[start : start + size]
        kept = [*tokens[:start], MASK, *tokens[start + size :]]
        source[row, : len(kept)] = kept
        target[row, : len(span) + 2] = [BOS, *span, EOS]
    return source, target


def hide(batch: Batch) -> Batch:
    """Make some request fields absent, each on its own."""
    request = batch.context.request
    kept = torch.rand(request.shape, device=request.device) >= REQUEST_DROPOUT
    return batch._replace(context=batch.context._replace(request=request * kept))
