"""Heads and layers: one record from every side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m6rec.explain.capture import Record
from m6rec.view import attention
from m6rec.view.picture import Picture
from m6rec.view.widgets.controls import one_of, slider
from m6rec.view.widgets.panel import Panel

VIEWS = {
    "every token": "tokens",
    "the target's heads": "target",
    "by group": "groups",
    "rollout": "rollout",
    "flow": "flow",
}


class HeadsAndLayers(Panel):
    """Walk through a record: goto(view="tokens" | "target" | "groups" | "rollout" | "flow", layer=1, head=2).

    Layers and heads count from 1; 0 is the mean over all. recent: events drawn one by one, the earlier ones are one
    token. shares (n, M) of the record's tokens and the `names` of modalities divide the history in "groups".
    """

    def __init__(
        self,
        record: Record,
        title: str = "Heads and layers",
        *,
        recent: int = 16,
        shares: np.ndarray | None = None,
        names: Sequence[str] = (),
    ) -> None:
        attention.chosen(record, 0, 0)  # refuses what is no record before anything is drawn
        self.record, self.folded, self.shares, self.names = record, record.fold(recent), shares, names
        layers, heads = record.weights.shape[:2]
        controls = {
            "view": one_of("show", list(VIEWS.items()), "tokens"),
            "layer": slider("layer", [("all", 0), *((str(a), a) for a in range(1, layers + 1))], 0),
            "head": slider("head", [("all", 0), *((str(h), h) for h in range(1, heads + 1))], 0),
        }
        super().__init__(title, controls, self._picture)

    def _picture(self, view: str, layer: int, head: int) -> Picture:
        where = f"layer {layer}" if layer else "all layers"
        if view == "tokens":
            title = f"{self.title}: {where}, {f'head {head}' if head else 'all heads'}"
            return attention.token_map(self.folded, title, layer=layer, head=head)
        if view == "target":
            return attention.target_map(self.folded, f"{self.title}: {where}", layer=layer)
        if view == "groups":
            return attention.group_map(self.record, f"{self.title}: by group", shares=self.shares, names=self.names)
        if view == "rollout":
            return attention.rollout_map(self.folded, f"{self.title}: rollout")
        return attention.flow(self.folded, f"{self.title}: flow")
