"""Controls and a picture that follows them; without a kernel the picture alone.

Redraws have their own lock and grad mode: JupyterLab's callbacks run on another thread. Data are escaped."""

import html
import threading
from collections.abc import Callable, Iterable, Mapping

import ipywidgets
import torch
import traitlets

from m6rec.config import InputError, choose, plain, typed
from m6rec.explain.explainers import Record, one
from m6rec.recommender import M6Rec, Person
from m6rec.view.figures import Picture, attention_map, beam_tree, check, rank_moves, translated

STYLE = {"description_width": "9em"}
VIEWS = {"every token": "tokens", "the target's heads": "target", "by group": "groups", "rollout": "rollout"}
BEAMS = (1, 2, 5, 10, 20, 50, 100)


class Panel:
    """controls: name -> ipywidget; draw(**values) runs at once and at every move."""

    def __init__(self, title: str, controls: Mapping[str, ipywidgets.ValueWidget], draw: Callable[..., Picture]):
        self.title, self.controls, self._draw = translated(title), dict(controls), draw
        self._lock, self._quiet = threading.RLock(), False
        heading = ipywidgets.HTML(f"<div><strong>{html.escape(plain(self.title, 160))}</strong></div>")
        self._error = ipywidgets.HTML()
        self._image = ipywidgets.HTML(layout=ipywidgets.Layout(align_self="flex-start"))
        every = self.controls.values()
        buttons = [c for c in every if isinstance(c, ipywidgets.ToggleButton)]
        wrapped = ipywidgets.Box(buttons, layout=ipywidgets.Layout(flex_flow="row wrap", max_height="9em"))
        rows = (c for c in every if c not in buttons)
        self.box = ipywidgets.VBox([heading, *rows, wrapped, self._error, self._image])
        self._redraw()
        for control in every:
            control.observe(self._moved, names="value")

    def goto(self, **values: object) -> "Panel":
        """Move controls, redraw once. InputError for an unknown one or value: nothing moves."""
        with self._lock:
            before, self._quiet = self.values, True
            try:
                for name, value in values.items():
                    choose("control", name, self.controls)
                    self.controls[name].value = self.read(name, value)
                self._redraw()
            except Exception as error:
                for old, stood in before.items():
                    self.controls[old].value = stood
                if not isinstance(error, traitlets.TraitError):
                    raise
                options = ", ".join(repr(option) for _, option in getattr(self.controls[name], "options", ()))
                fix = f"one of {options}" if options else "a value of its type"
                raise InputError(f"{name}={value!r} is not there: take {fix}.") from None
            finally:
                self._quiet = False
        return self

    @property
    def data(self) -> object:
        """The picture's table."""
        return self.picture.data

    values = property(lambda self: {name: control.value for name, control in self.controls.items()})

    def read(self, name: str, value: object) -> object:
        """A user's value -> the control's."""
        return value

    def _moved(self, _: object) -> None:
        with self._lock:
            try:
                if not self._quiet:
                    self._redraw()
            except InputError as error:  # what was typed; the picture stays
                self._error.value = f'<p role="alert">{html.escape(plain(error, 300))}</p>'

    @torch.no_grad()
    def _redraw(self) -> None:
        self.picture = self._draw(**self.values)
        self._image.value, self._error.value = self.picture.html(), ""

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        still, metadata = self.picture._repr_mimebundle_()
        return {**self.box._repr_mimebundle_(**options), **still, "text/plain": repr(self)}, metadata

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {plain(self.title, 160)} Numbers: {self.picture.digest}"


def slider(description: str, options: Iterable, value: object) -> ipywidgets.SelectionSlider:
    """Over numbers or (name, value)."""
    return ipywidgets.SelectionSlider(
        options=[option if isinstance(option, tuple) else (str(option), option) for option in options],
        value=value, description=plain(description, 40), continuous_update=False, style=STYLE,
        layout=ipywidgets.Layout(width="40em"),
    )  # fmt: skip


@typed
class HeadsAndLayers(Panel):
    """goto(view="tokens" | "target" | "groups" | "rollout", layer=1, head=2); 0 is the mean over all.

    recent: events that are drawn; earlier ones are one token."""

    def __init__(self, record: Record, title: str = "Heads and layers", *, recent: int = 16):
        check(record)
        folded, (layers, heads) = record.fold(recent), record.weights.shape[:2]

        def picture(view, layer, head):
            where = f"layer {layer}" if layer else "all layers"
            head_too = f"{where}, {f'head {head}' if head else 'all heads'}"
            shown = {"tokens": head_too, "target": where, "groups": "by group", "rollout": "rollout"}[view]
            return attention_map(folded, f"{title}: {shown}", view, layer=layer, head=head)

        controls = {
            "view": ipywidgets.ToggleButtons(options=list(VIEWS.items()), value="tokens", description="show"),
            "layer": slider("layer (0: all)", range(layers + 1), 0),
            "head": slider("head (0: all)", range(heads + 1), 0),
        }
        super().__init__(title, controls, picture)


@typed
class BeamTree(Panel):
    """How a list is generated: goto(digit=2) opens two digits, goto(beam=10) keeps ten nodes at each.

    goto(place=3) follows the third of the list (0: none). Arguments as `recommend`."""

    def __init__(
        self, model: M6Rec, user: object = None, *, k: int = 10, title: str = "The beam as a tree", **who: object
    ):
        person, digits = model.person(user, **who), model.network.digits
        allowed, titles = model.candidates(person.history, k), model.titles(person)
        fused = model.fuse(person.context, model.item_vectors(person.new))

        def picture(digit, beam, place):
            model.generate(fused, k, beam=beam, allowed=allowed, trace=(steps := []))
            leaves = steps[-1].nodes[0, :k].tolist()
            names = {leaf: titles[int(digits.tree.item[leaf])] for leaf in leaves}
            chosen = leaves[place - 1] if place else None
            return beam_tree(steps, digits.tree.widths, names, title, depth=digit, chosen=chosen)

        wide = [b for b in BEAMS if b >= k] or [k]
        controls = {
            "digit": slider("digits", range(1, len(digits.widths) + 1), len(digits.widths)),
            "beam": slider("beam", wide, min(wide, key=lambda b: abs(b - 50))),
            "place": slider("follow (0: none)", range(k + 1), 0),
        }
        super().__init__(title, controls, picture)


@typed
class ContextWhatIf(Panel):
    """Change request, profile, modalities, history: goto(hour=21, age=34, mask_text=True, without_3=True, add="Fargo").

    Values and arguments as `recommend`, None for unknown. without_3: without the third event read (1: the oldest). add:
    an id or title that comes last."""

    def __init__(self, model: M6Rec, user: object = None, *, k: int = 10, title: str = "What if?", **who: object):
        self.model, self.person, self.k = model, model.person(user, **who), k
        self.context, self.titles = one(self.person.context), model.titles(self.person)
        self.events = self.context.item[0, : int(self.context.position)].tolist()
        request = {f.name: f for f in model.fields.request}
        profile = {f"profile_{f.name}" if f.name in request else f.name: f for f in model.fields.profile}
        self.fields, self.modalities = {**request, **profile}, model.network.items.modalities
        codes = [*self.context.request[0, 0].tolist(), *self.context.profile[0].tolist()]
        self.given, controls = dict(zip(self.fields, codes, strict=True)), {}
        for name, field in self.fields.items():  # code 0: not known
            words = (field.describe(code).removeprefix(f"{field.name} ") for code in range(field.size))
            controls[name] = slider(field.name, [(plain(w, 40), c) for c, w in enumerate(words)], self.given[name])
        marks = {f"mask_{m}": f"without {m}" for m in self.modalities}
        marks |= {f"without_{i}": f"without {i}. {self.titles[code]}" for i, code in enumerate(self.events, 1)}
        fit = ipywidgets.Layout(width="auto")
        controls |= {n: ipywidgets.ToggleButton(description=plain(w, 40), layout=fit) for n, w in marks.items()}
        controls["add"] = ipywidgets.Text(
            description="and then", placeholder="a title or an id", continuous_update=False, style=STYLE
        )
        self.before = self._listed(self.person)
        super().__init__(title, controls, self._picture)

    def read(self, name: str, value: object) -> object:
        """Raw values -> codes."""
        if name not in self.fields:
            return str(value or "") if name == "add" else value
        return 0 if value is None else self.fields[name].encode_one(value)

    def _listed(self, person: Person, drop: tuple[str, ...] = ()) -> list[str]:
        codes = self.model.top_items(person, self.k, drop=drop).items[0].tolist()
        return [self.titles[code] for code in codes]

    def _picture(self, add: str, **values: int) -> Picture:
        stay = [i for i in range(len(self.events)) if not values[f"without_{i + 1}"]]
        masked = tuple(m for m in self.modalities if values[f"mask_{m}"])
        changed = [f.describe(values[name]) for name, f in self.fields.items() if values[name] != self.given[name]]
        changed += [f"without {m}" for m in masked]
        changed += [f"{len(self.events) - len(stay)} left out"] * (len(stay) < len(self.events))
        new = self.model.data.history_codes([add])[:1].tolist() if add.strip() else []
        changed += [f"and then {plain(self.titles[code], 40)}" for code in new]
        count = min(len(stay) + len(new), self.model.config.history)
        events = [  # then the new one, or padding
            torch.cat((part[:, stay], part.new_tensor([[end]])), 1)[:, len(stay) + len(new) - count :]
            for part, end in zip(self.context[:3], ((*new, -1)[0], 0, 0), strict=True)
        ]
        codes = torch.tensor([[values[name] for name in self.fields]], dtype=torch.long)
        request, profile = codes.split([self.context.request.shape[2], self.context.profile.shape[1]], 1)
        context = self.context._make((*events, profile, request[None], torch.full_like(self.context.position, count)))
        gone = set(self.events) - {self.events[i] for i in stay}
        person = Person(context, [code for code in self.person.history if code not in gone] + new, self.person.new)
        title = f"{self.title} {plain(', '.join(changed), 120)}" if changed else self.title
        return rank_moves(self.before, self._listed(person, masked), ("as it was", "as it is"), title)
