"""Someone to recommend to: what is known of them, what they had, and what is best to show them next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

import pandas as pd
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.errors import InputError
from m6rec.generate.beam import Generated
from m6rec.generate.scorer import best_items

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec


class Who(TypedDict, total=False):
    """The arguments that say for whom, beside a raw user id."""

    history: Sequence[object] | pd.DataFrame | None  # instead of the user's own, oldest first
    profile: Mapping[str, object] | None  # likewise: {"age": 34}
    context: Mapping[str, object] | None  # the request: {"hour": 21}


class Person:
    """A person in a model's codes. Arguments as `M6Rec.extract_context`; `InputError` for nobody."""

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        history: Sequence[object] | pd.DataFrame | None = None,
        profile: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None,
    ) -> None:
        self.model, self.context = model, model.extract_context(history, context, user=user, profile=profile)
        if isinstance(history, pd.DataFrame):
            history = history["item_id"].tolist()
        self._new = [item for item in history or () if isinstance(item, Mapping)]
        self._vectors: dict[tuple[str, ...], Tensor] = {}
        if history is None:
            code = int(model.data.user_codes([user])[0])
            self.had = model.data.events["item"].to_numpy()[slice(*model.data.offsets[code : code + 2])].tolist()
        else:
            self.had = model.data.history_codes(history).tolist()  # all of it, however little of it is read

    @cached_property
    def titles(self) -> list[str]:
        """Of the catalogue's items, and behind them of the history's that are not in it."""
        return [*self.model.data.items["title"], *(str(item.get("title", "new item")) for item in self._new)]

    def items(self, mute: tuple[str, ...] = ()) -> Tensor:
        """Vectors of the same items (N + new, D), without some modalities; each kind is computed once."""
        if mute not in self._vectors:
            self._vectors[mute] = self.model.item_vectors(self._new, mute=mute)
        return self._vectors[mute]

    def open(self, k: int, had: Sequence[int] | None = None) -> Tensor:
        """What may be recommended to someone who had these, by default what they had: (1, N) bool.

        InputError where that leaves fewer than k, and for a model that is not trained.
        """
        tree = self.model.network.digits.built_tree
        allowed = torch.ones(1, len(tree.leaf), dtype=torch.bool, device=self.model.device)
        allowed[0, [code for code in (self.had if had is None else had) if code < allowed.shape[1]]] = False
        possible = int(allowed.sum())
        if not 1 <= k <= possible:
            raise InputError(
                f"k={k} does not fit: this catalogue has {possible} items to recommend here, so take 1 to {possible}."
            )
        return allowed

    def best(
        self,
        k: int,
        method: str = "generated",
        *,
        context: Context | None = None,
        mute: tuple[str, ...] = (),
        had: Sequence[int] | None = None,
    ) -> Generated:
        """The k items to show next (1, k) and their scores, in this or another context."""
        allowed, items = self.open(k, had), self.items(mute)
        state = self.model.fuse(context or self.context, items).state[:, -1]
        return best_items(self.model.network, state, items[: allowed.shape[1]], k, method, allowed=allowed)
