"""What if: the same person in another situation, or with another history, and what moves on their list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import ipywidgets
import torch

from m6rec.person import Person, Who
from m6rec.view.figures import rank_moves
from m6rec.view.picture import Picture, plain
from m6rec.view.widgets.controls import Marked, Several, line, slider
from m6rec.view.widgets.panel import Panel

if TYPE_CHECKING:
    from m6rec.data.dataset import Dataset
    from m6rec.data.fields import Field
    from m6rec.recommender import M6Rec

OFFERED = 5000  # titles that a catalogue may have to be offered while one types


def offered(data: Dataset) -> list[str]:
    """Titles to be offered while one types; none where there are too many."""
    titles = [title for title in dict.fromkeys(data.items["title"]) if len(title) <= 200]
    return titles if len(titles) <= OFFERED else []


class Beside(Panel):
    """The list as it was beside the list as it is: what two panels share."""

    def listed(self, **changed: object) -> list[int]:
        """The codes of the list, in another context, without some modalities, or after another history."""
        return self.person.best(self.k, self.method, **changed).items[0].tolist()

    def moves(self, now: Sequence[int], changed: Sequence[str]) -> Picture:
        """Both lists, under the words of what was changed between them."""
        title = f"{self.title} {plain(', '.join(changed), 120)}" if changed else self.title
        names = ([self.person.titles[code] for code in codes] for codes in (self.before, now))
        return rank_moves(*names, ("as it was", "as it is"), title)


class ContextWhatIf(Beside):
    """Change the request, the profile, or what is seen of items; beside the list as it was stands the list as it is.

    goto(hour=21, age=34, mute=("text",)): values as `recommend` takes them, None for unknown. The first list is of the
    context that was given.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        k: int = 10,
        method: str = "generated",
        title: str = "What if?",
        **who: Unpack[Who],
    ) -> None:
        self.person = Person(model, user, **who)
        self.k, self.method = k, method
        start, fields = self.person.context, model.fields
        self.fields = {f.name: f for f in fields.request}
        self.profile = {f"profile_{f.name}" if f.name in self.fields else f.name: f for f in fields.profile}
        codes = [*start.request[0, -1].tolist(), *start.profile[0].tolist()]
        every = {**self.fields, **self.profile}
        controls = {name: _control(f, code) for (name, f), code in zip(every.items(), codes, strict=True)}
        if model.network.items.modalities:
            controls["mute"] = Several("without", [(m, m) for m in model.network.items.modalities])
        self.before = self.listed()
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
        now = self.listed(context=context, mute=tuple(mute))
        given = [*start.request[0, -1].tolist(), *start.profile[0].tolist()]
        every = {**self.fields, **self.profile}
        changed = [
            f.describe(codes[name]) for (name, f), c in zip(every.items(), given, strict=True) if codes[name] != c
        ]
        return self.moves(now, [*changed, *(f"without {m}" for m in mute)])


class HistoryEditor(Beside):
    """Leave events out and add one; beside the list as it was stands the list as it is.

    goto(without=(0, 3), add="Fargo"): places among the events that the model reads, from 0, the oldest first; and an id
    or a title that comes last. An event that is left out is gone: those around it close up.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        k: int = 10,
        method: str = "generated",
        title: str = "Another history",
        **who: Unpack[Who],
    ) -> None:
        self.person = Person(model, user, **who)
        self.k, self.method, start = k, method, self.person.context
        self.events = start.item[0, : int(start.position[0, -1])].tolist()
        named = [(f"{place + 1}. {self.person.titles[code]}", place) for place, code in enumerate(self.events)]
        controls = {
            "without": Marked("events", "leave out", named),
            "add": line("and then", offered(model.data)),
        }
        self.before = self.listed()
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
        now = self.listed(context=start._replace(**rows, position=position), had=had)
        changed = [f"{len(without)} left out"] if without else []
        changed += [f"and then {plain(self.person.titles[had[-1]], 40)}"] if add.strip() else []
        return self.moves(now, changed)


def _control(field: Field, code: int) -> ipywidgets.SelectionSlider:
    """A slider over a field's values; the first one is: not known."""
    return slider(field.name, [(field.describe(c).removeprefix(f"{field.name} "), c) for c in range(field.size)], code)
