"""Interactive views: controls beside a picture that follows them, and the same picture wherever no kernel answers.

- pictures stand in an HTML widget with an alternative text, so that an error in a redraw is an error of its cell
- every redraw has a lock and a grad mode of its own: in JupyterLab, callbacks run on another thread
- whatever comes from the data is escaped before it enters a page
- no native menus: their arrow keys are JupyterLab's while a cell is selected
"""

from __future__ import annotations

import base64
import html
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import ipywidgets
import numpy as np
import pandas as pd
import torch
import traitlets

from m6rec.data.context import Context
from m6rec.data.dataset import Dataset
from m6rec.errors import InputError
from m6rec.explain.capture import Record, one, tokens
from m6rec.explain.removal import keep_tokens
from m6rec.generate.beam import Step, generate
from m6rec.recommender import M6Rec, Who
from m6rec.view import heatmap
from m6rec.view.beam import beam_tree
from m6rec.view.figures import rank_moves
from m6rec.view.picture import Picture, plain

Options = Sequence[tuple[str, object]]  # (what is read, the value)
WIDE = {"layout": ipywidgets.Layout(width="40em"), "style": {"description_width": "9em"}}
VIEWS = {"every token": "tokens", "the target's heads": "target", "by group": "groups"}
VIEWS |= {"rollout": "rollout", "flow": "flow"}
BEAMS = (1, 2, 5, 10, 20, 50, 100)
MAX_OFFERED = 5000  # titles that a catalogue may have to be offered while one types


class Panel:
    """controls: name -> ipywidget with a value; draw(**values) -> `Picture`, called at once and at every move.

    `goto(name=value)` moves controls from Python, `data` holds the numbers of what is shown.
    """

    def __init__(
        self, title: str, controls: Mapping[str, ipywidgets.ValueWidget], draw: Callable[..., Picture]
    ) -> None:
        self.title, self.controls, self._draw = title, dict(controls), draw
        self._lock, self._quiet = threading.RLock(), False
        # A div, not a heading: the notebook's own headings are its contents.
        heading = ipywidgets.HTML(f"<div><strong>{html.escape(plain(title, 160))}</strong></div>")
        self._error = ipywidgets.HTML()
        self._image = ipywidgets.HTML(layout=ipywidgets.Layout(align_self="flex-start"))
        self.box = ipywidgets.VBox([heading, *self.controls.values(), self._error, self._image])
        self._redraw()
        for control in self.controls.values():
            control.observe(self._moved, names="value")

    def goto(self, **values: object) -> Panel:
        """Move controls, redraw once. `InputError` for an unknown control or value: nothing moves then."""
        with self._lock:
            before = self.values
            self._quiet = True
            try:
                for name, value in values.items():
                    self._set(name, value)
                self._redraw()
            except Exception:
                for name, value in before.items():
                    self.controls[name].value = value
                raise
            finally:
                self._quiet = False
        return self

    @property
    def data(self) -> pd.DataFrame:
        """The numbers of what is shown."""
        return self.picture.data

    @property
    def values(self) -> dict[str, object]:
        """Where the controls stand."""
        return {name: control.value for name, control in self.controls.items()}

    def read(self, name: str, value: object) -> object:
        """A value as a user writes it -> as the control holds it."""
        return value

    def _set(self, name: str, value: object) -> None:
        if name not in self.controls:
            raise InputError(f"{type(self).__name__} has no control {name!r}: it has {', '.join(self.controls)}.")
        try:
            self.controls[name].value = self.read(name, value)
        except traitlets.TraitError:
            options = ", ".join(repr(option) for _, option in getattr(self.controls[name], "options", ()))
            fix = f"take one of {plain(options, 200)}" if options else "take a value of its type"
            raise InputError(f"{name}={plain(repr(value))} is not there: {fix}.") from None

    def _moved(self, _: object) -> None:
        with self._lock:
            if self._quiet:
                return
            try:
                self._redraw()
            except InputError as error:  # of what was typed: shown beside the controls, the picture stays
                self._error.value = f'<p role="alert">{html.escape(plain(error, 300))}</p>'

    def _redraw(self) -> None:
        with self._lock, torch.no_grad():
            self.picture = self._draw(**self.values)
            self._image.value = self.picture.html()
            self._error.value = ""

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        png = base64.b64encode(self.picture.png()).decode()
        live = self.box._repr_mimebundle_(**options)
        return {**live, "image/png": png, "text/plain": repr(self)}, {"image/png": {"alt": self.picture.alt}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {plain(self.title, 160)}"


def milliseconds(panel: Panel, name: str, values: Sequence[object]) -> np.ndarray:
    """From a control's move to the new picture, in the kernel: (n,), one a value; a first move warms up."""
    ends = [time.perf_counter() for value in (values[-1], *values) if panel.goto(**{name: value})]
    return 1000 * np.diff(ends)


# ---- controls -----------------------------------------------------------------------------------------------------


def slider(description: str, options: Options, value: object) -> ipywidgets.SelectionSlider:
    """A slider over named options: arrow keys move it, and it answers when it stands still."""
    return ipywidgets.SelectionSlider(
        options=_named(options), value=value, description=plain(description, 40), continuous_update=False, **WIDE
    )


def title_line(description: str, data: Dataset) -> ipywidgets.Combobox:
    """A line to type a title into, with the catalogue's where they are few enough to be offered."""
    titles = tuple(title for title in dict.fromkeys(data.items["title"]) if len(title) <= 200)
    offered = titles if len(titles) <= MAX_OFFERED else ()
    return ipywidgets.Combobox(
        description=description, placeholder="a title", options=offered, continuous_update=False, **WIDE
    )


class Marked(ipywidgets.VBox):
    """A slider over many options and a button that marks the one it stands at: `value` holds the marked ones."""

    value = traitlets.Tuple()

    def __init__(self, description: str, mark: str, options: Options) -> None:
        self.options = _named(options)
        indices = [(name, i) for i, (name, _) in enumerate(self.options)] or [("nothing", 0)]
        self._slider = slider(description, indices, 0)
        self._button = ipywidgets.Button(description=mark, tooltip=f"{mark}, or undo it", disabled=not self.options)
        self._list = ipywidgets.HTML()
        super().__init__([self._slider, ipywidgets.HBox([self._button, self._list])])
        self._button.on_click(self._clicked)

    @traitlets.validate("value")
    def _known(self, proposal: dict) -> tuple:
        values = [value for _, value in self.options]
        if not set(proposal["value"]) <= set(values):
            raise traitlets.TraitError("not one of the options")
        return tuple(value for value in values if value in proposal["value"])  # in order, once each

    @traitlets.observe("value")
    def _show(self, change: dict) -> None:
        marked = [name for name, value in self.options if value in change["new"]]
        self._list.value = html.escape(plain("; ".join(marked), 300))

    def _clicked(self, _: object) -> None:
        self.value = tuple(set(self.value) ^ {self.options[self._slider.value][1]})


def _counted(last: int, zero: str = "", word: str = "") -> Options:
    """Options 1 to last; before them 0, if it has a name."""
    return [*([(zero, 0)] if zero else []), *((f"{word}{i}", i) for i in range(1, last + 1))]


def _named(options: Options) -> tuple[tuple[str, object], ...]:
    return tuple((plain(name, 40), value) for name, value in options)


# ---- panels -------------------------------------------------------------------------------------------------------


class HeadsAndLayers(Panel):
    """Walk through a record: goto(view="tokens" | "target" | "groups" | "rollout" | "flow", layer=1, head=2).

    Layers and heads count from 1; 0 is the mean over all. recent: events drawn one by one, earlier ones are one token.
    """

    def __init__(self, record: Record, title: str = "Heads and layers", *, recent: int = 16) -> None:
        heatmap.check(record, 0, 0)  # refuses what is no record before anything is drawn
        self.record, self.folded = record, record.fold(recent)
        layers, heads = record.weights.shape[:2]
        controls = {
            "view": ipywidgets.ToggleButtons(options=list(VIEWS.items()), value="tokens", description="show"),
            "layer": slider("layer", _counted(layers, "all"), 0),
            "head": slider("head", _counted(heads, "all"), 0),
        }
        super().__init__(title, controls, self._picture)

    def _picture(self, view: str, layer: int, head: int) -> Picture:
        where = f"layer {layer}" if layer else "all layers"
        if view == "tokens":
            title = f"{self.title}: {where}, {f'head {head}' if head else 'all heads'}"
            return heatmap.token_map(self.folded, title, layer=layer, head=head)
        if view == "target":
            return heatmap.target_map(self.folded, f"{self.title}: {where}", layer=layer)
        if view == "groups":
            return heatmap.group_map(self.record, f"{self.title}: by group")
        draw = heatmap.rollout_map if view == "rollout" else heatmap.flow
        return draw(self.folded, f"{self.title}: {view}")


class BeamTree(Panel):
    """How a list is generated: goto(digit=2) opens so many digits, goto(beam=10) keeps so many nodes at each.

    goto(place=3) follows the third of the list from the root (0: none). Arguments as `recommend`.
    """

    def __init__(
        self, model: M6Rec, user: object = None, *, k: int = 10, title: str = "The beam as a tree", **who: Unpack[Who]
    ) -> None:
        person, self.k, self.model = model.person(user, **who), k, model
        self.allowed, self.titles = model.candidates(person.history, k), model.titles(person)
        self.state = model.fuse(person.context, model.item_vectors(person.new)).state[:, -1]
        self._walks: dict[int, list[Step]] = {}
        digits = len(model.network.digits.widths)
        wide = [b for b in BEAMS if b >= k] or [k]
        controls = {
            "digit": slider("digits", _counted(digits), digits),
            "beam": slider("beam", [(str(b), b) for b in wide], min(wide, key=lambda b: abs(b - 50))),
            "place": slider("follow", _counted(k, "none", "place "), 0),
        }
        super().__init__(title, controls, self._picture)

    def _picture(self, digit: int, beam: int, place: int) -> Picture:
        digits = self.model.network.digits
        if beam not in self._walks:
            self._walks[beam] = []
            generate(digits, self.state, self.k, beam=beam, allowed=self.allowed, trace=self._walks[beam])
        steps, tree = self._walks[beam], digits.tree
        leaves = steps[-1].nodes[0, : self.k].tolist()
        names = {leaf: self.titles[int(tree.item[leaf])] for leaf in leaves}
        chosen = leaves[place - 1] if place else None
        return beam_tree(steps, tree.widths, names, self.title, show=self.k, depth=digit, chosen=chosen)


class Beside(Panel):
    """The list as it was beside the list as it is: what two panels share. Arguments as `recommend`."""

    TITLE = ""

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        k: int = 10,
        method: str = "generated",
        title: str | None = None,
        **who: Unpack[Who],
    ) -> None:
        self.model, self.person, self.k, self.method = model, model.person(user, **who), k, method
        self.context, self.titles = one(self.person.context), model.titles(self.person)
        self.before = self._listed(self.context)
        super().__init__(self.TITLE if title is None else title, self._controls(model), self._picture)

    def _listed(self, context: Context, **options: object) -> list[str]:
        codes = self.model.top_items(self.person, self.k, self.method, context=context, **options).items[0].tolist()
        return [self.titles[code] for code in codes]

    def _moves(self, now: Sequence[str], changed: Sequence[str]) -> Picture:
        """Both lists, under the words of what was changed between them."""
        title = f"{self.title} {plain(', '.join(changed), 120)}" if changed else self.title
        return rank_moves(self.before, now, ("as it was", "as it is"), title)


class ContextWhatIf(Beside):
    """Change the request, the profile, or which modalities of items are masked: goto(hour=21, age=34, mask_text=True).

    Values as `recommend` takes them, None for unknown. The list as it was is of the context that was given.
    """

    TITLE = "What if?"

    def _controls(self, model: M6Rec) -> dict[str, ipywidgets.ValueWidget]:
        request = {f.name: f for f in model.fields.request}
        profile = {f"profile_{f.name}" if f.name in request else f.name: f for f in model.fields.profile}
        self.fields, self.modalities = {**request, **profile}, model.network.items.modalities
        codes = [*self.context.request[0, 0].tolist(), *self.context.profile[0].tolist()]
        self.given = dict(zip(self.fields, codes, strict=True))
        controls = {}
        for name, field in self.fields.items():  # the first value of a field is: not known
            options = [(field.describe(c).removeprefix(f"{field.name} "), c) for c in range(field.size)]
            controls[name] = slider(field.name, options, self.given[name])
        return controls | {
            f"mask_{m}": ipywidgets.ToggleButton(False, description=f"without {m}") for m in self.modalities
        }

    def read(self, name: str, value: object) -> object:
        """Raw values of fields -> their codes."""
        if name not in self.fields:
            return value
        return 0 if value is None else self.fields[name].encode_one(value)

    def _picture(self, **values: int) -> Picture:
        codes = torch.tensor([values[name] for name in self.fields], dtype=torch.long)
        request, profile = codes.split([self.context.request.shape[2], self.context.profile.shape[1]])
        context = self.context._replace(request=request[None, None], profile=profile[None])  # (1, 1, R), (1, C)
        masked = tuple(m for m in self.modalities if values[f"mask_{m}"])
        changed = [f.describe(values[name]) for name, f in self.fields.items() if values[name] != self.given[name]]
        return self._moves(self._listed(context, drop=masked), [*changed, *(f"without {m}" for m in masked)])


class HistoryEditor(Beside):
    """Leave events out and add one: goto(without=(0, 3), add="Fargo").

    without: indices of events that the model reads, the oldest first; an event that is left out is gone, those around
    it close up. add: an id or a title that comes last.
    """

    TITLE = "Another history"

    def _controls(self, model: M6Rec) -> dict[str, ipywidgets.ValueWidget]:
        self.events = self.context.item[0, : int(self.context.position)].tolist()
        events = [(f"{i + 1}. {self.titles[code]}", i) for i, code in enumerate(self.events)]
        return {"without": Marked("events", "leave out", events), "add": title_line("and then", model.data)}

    def read(self, name: str, value: object) -> object:
        """Indices as a tuple; None adds nothing."""
        return tuple(value) if name == "without" else str(value or "")

    def _picture(self, without: tuple[int, ...], add: str) -> Picture:
        types, positions, _ = tokens(self.context)
        context = keep_tokens(self.context, (types != "history")[None] | ~np.isin(positions, without))
        n, stay = int(context.position), [code for i, code in enumerate(self.events) if i not in without]
        history = [code for code in self.person.history if code in stay or code not in self.events]
        changed = [f"{len(without)} left out"] if without else []
        if add.strip():
            code = int(self.model.data.history_codes([add])[0])
            parts = [  # behind the last event, as many as the model reads
                torch.cat((part[:, :n], part.new_tensor([[end]])), 1)[:, -self.model.config.history :]
                for part, end in zip(context[:3], (code, 0, 0), strict=True)
            ]
            context = Context(*parts, *context[3:5], context.position.new_tensor([[parts[0].shape[1]]]))
            history.append(code)
            changed.append(f"and then {plain(self.titles[code], 40)}")
        return self._moves(self._listed(context, history=history), changed)
