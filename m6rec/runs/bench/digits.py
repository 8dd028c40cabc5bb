"""What makes digits as good as the dense head: `heads` over one frozen trunk, taught alike.

The trunk was pretrained alone, so that no digits have shaped it. All heads read the same states in the same order, for
as long; what counts is their NDCG@10, every item scored exactly, beside that of the trunk's own dense head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data.batches import training_batches
from m6rec.data.context import Context
from m6rec.data.splits import Targets
from m6rec.evaluate import evaluate
from m6rec.recommender import M6Rec
from m6rec.runs.bench.heads import Head, Read, heads
from m6rec.train.fit import Stage, fit

WINDOWS = 16  # of a teaching step
EPOCHS = 6  # of teaching
PAIRS = {  # what one thing is worth: a head that has it, and its twin without
    "tree": ("nodes", "nodes_at_random"),
    "tree_over_residual": ("nodes", "nodes_residual"),
    "vectors_over_codes": ("nodes_residual", "shared_residual"),
    "teacher": ("nodes", "nodes_no_teacher"),
    "teacher_of_codes": ("shared_residual", "shared_residual_no_teacher"),
    "prefix": ("nodes_whole_prefix", "nodes"),
    "items_over_codes": ("parallel_by_item", "parallel"),
}


class Said(NamedTuple):
    """NDCG@10 of every person's list, (U,)."""

    untaught: np.ndarray
    taught: np.ndarray


class Ranked:
    """A head of the frozen trunk as something that `evaluate` ranks."""

    def __init__(self, model: M6Rec, name: str, head: Head):
        self.model, self.name, self.head = model, name, head

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """-> (B, N)"""
        nobody = torch.zeros(len(users), 1, dtype=torch.long)  # what came is not looked at
        read = _read(self.model, self.model.target_context(users), nobody)
        return self.head.scores(self.head.module, read)


def said(
    model: M6Rec, names: Iterable[str] = (), epochs: int = EPOCHS, seed: int = 0, say: Callable[[str], Any] = print
) -> dict[str, Said]:
    """What each head's lists are worth to every person, untaught and after epochs of teaching; names: of some heads.

    model: pretrained alone, if the heads are to be compared. InputError where no text has a word.
    """
    config = dataclasses.replace(model.config, seed=seed, validate_every=max(1, epochs))
    of = dict(length=config.history, batch=WINDOWS, rng=np.random.default_rng(seed))
    windows = training_batches(model.data, model.split, model.codes, **of)
    positions = [_read(model, window.context, window.target) for window in windows]
    makers, found = heads(model, seed), {}
    for name in names or makers:
        head = makers[name]()
        stage = Stage(
            name=name,
            epochs=epochs,
            batches=lambda rng: (positions[i] for i in rng.permutation(len(positions))),
            losses=lambda module, read, rng, head=head: head.losses(module, read),
            validate=lambda module: 0.0,  # all are taught for as long, and nothing is chosen
            weights={"teacher": head.teacher},
        )
        untaught = _ndcg(model, name, head)
        fit(head.module, stage, config)
        found[name] = Said(untaught, _ndcg(model, name, head))
        say(f"{name}: NDCG@10 {untaught.mean():.4f}, taught {found[name].taught.mean():.4f}")
    return found


def _ndcg(model: M6Rec, name: str, head: Head) -> np.ndarray:
    head.module.eval()
    return evaluate(Ranked(model, name, head), model.data, split=model.split).per_user["ndcg"].to_numpy()


@torch.no_grad()
def _read(model: M6Rec, context: Context, target: Tensor) -> Read:
    """All positions of a context that have a target (B, Q), with what the trunk makes of them."""
    fusion, context, target = model.network.fusion, context.to(model.device), target.to(model.device)
    history, there = fusion.read(context, model.item_vectors()), target >= 0
    state = fusion.answer(history, context).state[there]
    return Read(state, target[there], history.events, there.nonzero()[:, 0], context.position[there])
