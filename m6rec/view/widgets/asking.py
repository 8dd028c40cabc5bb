"""What if: the same person in another situation, or with another history, and what moves on their list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from m6rec.data.context import Context
from m6rec.errors import InputError
from m6rec.generate.scorer import best_items
from m6rec.view.figures import rank_moves
from m6rec.view.picture import Picture, plain
from m6rec.view.widgets.controls import Marked, Several, line, slider
from m6rec.view.widgets.panel import Panel

if TYPE_CHECKING:
    from m6rec.data.fields import Field
    from m6rec.recommender import M6Rec

OFFERED = 5000  # titles that a catalogue may have to be offered while one types


class Person:
    """Someone to recommend to, in codes: what they had, who they are, and what they ask. Arguments as `recommend`."""

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        history: Sequence[object] | None = None,
        profile: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None,
    ) -> None:
        self.model, self.context = model, model.extract_context(history, context, user=user, profile=profile)
        new = [item for item in history or () if isinstance(item, Mapping)]
        self.titles = [*model.data.items["title"], *(str(item.get("title", "new item")) for item in new)]
        self.vectors = {(): model.item_vectors(new)}
        self._new = new
        if history is None:
            code = int(model.data.user_codes([user])[0])
            self.had = model.data.events["item"].to_numpy()[slice(*model.data.offsets[code : code + 2])].tolist()
        else:
            self.had = model.data.history_codes(history).tolist()

    def items(self, mute: tuple[str, ...] = ()) -> Tensor:
        """Item vectors without some modalities; each kind is computed once."""
        if mute not in self.vectors:
            self.vectors[mute] = self.model.item_vectors(self._new, mute=mute)
        return self.vectors[mute]

    @property
    def offered(self) -> list[str]:
        """Titles to be offered while one types; none where there are too many."""
        titles = [title for title in dict.fromkeys(self.model.data.items["title"]) if len(title) <= 200]
        return titles if len(titles) <= OFFERED else []

    def open(self, had: Sequence[int]) -> Tensor:
        """What may be recommended to someone who had these: (1, N) bool."""
        allowed = torch.ones(1, self.model.data.n_items, dtype=torch.bool, device=self.model.device)
        allowed[0, [code for code in had if code < allowed.shape[1]]] = False
        return allowed

    def top(
        self,
        k: int,
        method: str,
        *,
        context: Context | None = None,
        mute: tuple[str, ...] = (),
        had: Sequence[int] | None = None,
    ) -> list[int]:
        """The codes of the k best; InputError where so many cannot be recommended."""
        items, allowed = self.items(mute), self.open(self.had if had is None else had)
        if not 1 <= k <= (possible := int(allowed.sum())):
            raise InputError(f"k={k} does not fit: {possible} items can be recommended here, so take 1 to {possible}.")
        state = self.model.fuse(context or self.context, items).state[:, -1]
        network = self.model.network
        found = best_items(network, state, items[: allowed.shape[1]], k, method, allowed=allowed)
        return found.items[0].tolist()

    def moves(self, before: Sequence[int], now: Sequence[int], title: str, changed: Sequence[str]) -> Picture:
        """Two lists of codes beside each other, under the words of what was changed between them."""
        title = f"{title} {plain(', '.join(changed), 120)}" if changed else title
        names = ([self.titles[code] for code in codes] for codes in (before, now))
        return rank_moves(*names, ("as it was", "as it is"), title)


class ContextWhatIf(Panel):
    """Change the request, the profile, or what is seen of items; beside the list as it was stands the list as it is.

    goto(hour=21, age=34, mute=("text",)): values as `recommend` takes them, None for unknown. The first list is of the
    context that was given.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        history: Sequence[object] | None = None,
        profile: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None,
        k: int = 10,
        method: str = "generated",
        title: str = "What if?",
    ) -> None:
        self.person = Person(model, user, history=history, profile=profile, context=context)
        self.k, self.method = k, method
        start, fields = self.person.context, model.fields
        self.fields = {f.name: f for f in fields.request}
        self.profile = {f"profile_{f.name}" if f.name in self.fields else f.name: f for f in fields.profile}
        codes = [*start.request[0, -1].tolist(), *start.profile[0].tolist()]
        every = {**self.fields, **self.profile}
        controls = {name: _control(f, code) for (name, f), code in zip(every.items(), codes, strict=True)}
        if model.network.items.reads:
            controls["mute"] = Several("without", [(m, m) for m in model.network.items.reads])
        self.before = self.person.top(k, method)
        super().__init__(title, controls, self._picture)

    def read(self, name: str, value: object) -> object:
        """Raw values of fields -> their codes."""
        field = {**self.fields, **self.profile}.get(name)
        if field is None:
            return tuple(value) if name == "mute" else value
        return 0 if value is None else field.encode_one(value)

    def _picture(self, mute: tuple[str, ...] = (), **codes: int) -> Picture:
        start = self.person.context
        request = torch.tensor([codes[name] for name in self.fields], dtype=torch.long)
        known = torch.tensor([codes[name] for name in self.profile], dtype=torch.long)
        # (R,) -> (B = 1, Q = 1, R) and (C,) -> (1, C)
        context = start._replace(request=request.view(1, 1, -1), profile=known.view(1, -1))
        now = self.person.top(self.k, self.method, context=context, mute=tuple(mute))
        given = [*start.request[0, -1].tolist(), *start.profile[0].tolist()]
        every = {**self.fields, **self.profile}
        changed = [
            f.describe(codes[name]) for (name, f), c in zip(every.items(), given, strict=True) if codes[name] != c
        ]
        return self.person.moves(self.before, now, self.title, [*changed, *(f"without {m}" for m in mute)])


class HistoryEditor(Panel):
    """Leave events out and add one; beside the list as it was stands the list as it is.

    goto(without=(0, 3), add="Fargo"): places among the events that the model reads, from 0, the oldest first; and an id
    or a title that comes last. An event that is left out is gone: those around it close up.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        history: Sequence[object] | None = None,
        profile: Mapping[str, object] | None = None,
        context: Mapping[str, object] | None = None,
        k: int = 10,
        method: str = "generated",
        title: str = "Another history",
    ) -> None:
        self.person = Person(model, user, history=history, profile=profile, context=context)
        self.k, self.method, start = k, method, self.person.context
        self.events = start.item[0, : int(start.position[0, -1])].tolist()
        named = [(f"{place + 1}. {self.person.titles[code]}", place) for place, code in enumerate(self.events)]
        controls = {
            "without": Marked("events", "leave out", named),
            "add": line("and then", self.person.offered),
        }
        self.before = self.person.top(k, method)
        super().__init__(title, controls, self._picture)

    def read(self, name: str, value: object) -> object:
        """Places as a tuple; None adds nothing."""
        return tuple(value) if name == "without" else str(value or "")

    def _picture(self, without: tuple[int, ...], add: str) -> Picture:
        kept = [place for place in range(len(self.events)) if place not in without]
        start, last = self.person.context, self.person.model.config.history
        rows = {name: getattr(start, name)[:, kept] for name in ("item", "value", "gap")}
        dropped = {self.events[place] for place in without} - {self.events[place] for place in kept}
        had = [code for code in self.person.had if code not in dropped]
        if add.strip():
            code = int(self.person.model.data.history_codes([add])[0])
            had.append(code)
            end = {"item": code, "value": 0, "gap": 0}
            rows = {name: torch.cat((row, torch.tensor([[end[name]]])), 1) for name, row in rows.items()}
        rows = {name: row[:, -last:] for name, row in rows.items()}
        position = torch.tensor([[rows["item"].shape[1]]])
        if position == 0:  # nobody's history is one column of nothing
            rows = {"item": torch.tensor([[-1]]), "value": torch.zeros(1, 1).long(), "gap": torch.zeros(1, 1).long()}
        now = self.person.top(self.k, self.method, context=start._replace(**rows, position=position), had=had)
        changed = [f"{len(without)} left out"] if without else []
        changed += [f"and then {plain(self.person.titles[had[-1]], 40)}"] if add.strip() else []
        return self.person.moves(self.before, now, self.title, changed)


def _control(field: Field, code: int) -> ipywidgets.SelectionSlider:
    """A slider over a field's values; the first one is: not known."""
    return slider(field.name, [(field.describe(c).removeprefix(f"{field.name} "), c) for c in range(field.size)], code)
