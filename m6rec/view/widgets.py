"""Views that can be touched, which view.js draws in JupyterLab, in exports and in saved pages.

Callbacks have their own lock and grad mode: JupyterLab's run on another thread. Data reach the page as text."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from m6rec.config import InputError, choose, plain, typed
from m6rec.data.context import Context
from m6rec.data.dataset import REPEATS
from m6rec.explain.explainers import Record, capture, one
from m6rec.recommender import M6Rec, Person
from m6rec.view import page
from m6rec.view.figures import NOTE, Picture, attention_map, beam_tree, rank_moves, translated, views_of
from m6rec.view.front import Front


class Control(NamedTuple):
    """options: (name, value); without them a flag is switched, or a text typed."""

    label: str
    value: object
    options: Sequence[tuple[str, object]] = ()
    kind: str = "range"  # choice | range | toggle | text

    def encode(self, name: str, value: object) -> object:
        """The front end's value. InputError for one that is not there."""
        for index, (_, option) in enumerate(self.options):
            if np.ndim(value) == 0 and value == option and isinstance(value, bool) == isinstance(option, bool):
                return index
        if not self.options and type(value) is type(self.value):
            return value
        fix = f"one of {', '.join(repr(o) for _, o in self.options)}" if self.options else "a value of its type"
        raise InputError(f"{name}={value!r} is not there: take {fix}.")

    def decode(self, name: str, code: object) -> object:
        values = [option for _, option in self.options]
        return values[code] if values and code in range(len(values)) else self.value if values else code

    def spec(self, name: str) -> dict[str, object]:
        options = [plain(text, 40) for text, _ in self.options] or ["a title or an id"]
        return {"name": name, "label": plain(self.label, 40), "kind": self.kind, "options": options}


class Panel:
    """Controls and a view that follows them. draw(**values) runs at once and at every move; its picture has a spec.

    local: the front end draws every state from the same spec, with or without a kernel."""

    local = False

    def __init__(self, title: str, controls: Mapping[str, Control], draw: Callable[..., Picture]):
        self.title, self.controls, self._draw = translated(title), dict(controls), draw
        self._lock, self.widget = threading.RLock(), Front()
        self._show({name: control.encode(name, control.value) for name, control in controls.items()})
        self.widget.observe(self._moved, names="values")

    def goto(self, **values: object) -> "Panel":
        """Redraws once. InputError for an unknown control or value: nothing moves."""
        with self._lock:
            codes = dict(self._codes)
            for name, value in values.items():
                choose("control", name, self.controls)
                codes[name] = self.controls[name].encode(name, self.read(name, value))
            self._show(codes)
        return self

    @property
    def values(self) -> dict[str, object]:
        return {name: control.decode(name, self._codes[name]) for name, control in self.controls.items()}

    @property
    def picture(self) -> Picture:
        """As a figure, of what is shown."""
        with self._lock:
            self._picture = self._picture or self._draw(**self.values)
            return self._picture

    data = property(lambda self: self.picture.data)

    def save(self, path: str | Path) -> Path:
        """See `Picture.save`."""
        return self.picture._replace(spec=self.widget.whole()).save(path)

    def read(self, name: str, value: object) -> object:
        """A user's value -> the control's."""
        return value

    def _moved(self, change: object) -> None:
        with self._lock:
            try:
                if change.new != self._codes:
                    new = {name: change.new.get(name) for name in self._codes}
                    self._show({n: new[n] if type(new[n]) is type(old) else old for n, old in self._codes.items()})
            except InputError as error:  # what was typed; the view stays
                self.widget.error = plain(error, 300)

    @torch.no_grad()
    def _show(self, codes: dict[str, object]) -> None:
        values = {name: control.decode(name, codes[name]) for name, control in self.controls.items()}
        picture = None if self.local and self.widget.spec else self._draw(**values)
        self._codes, self._picture = codes, picture
        with self.widget.hold_sync():
            if picture:
                own = [] if self.local else [control.spec(name) for name, control in self.controls.items()]
                self.widget.spec = {**picture.spec, "controls": own}
            self.widget.values, self.widget.error = dict(codes), ""

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        """Alive with a kernel and in an exported page; elsewhere the picture stands."""
        shown, _ = self.picture._replace(spec=None)._repr_mimebundle_()
        return self.widget.beside({**shown, "text/plain": repr(self)}, self.picture.alt)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {plain(self.title, 160)} Numbers: {self.picture.digest}"


@typed
class HeadsAndLayers(Panel):
    """goto(view="heads" | "tokens" | "target" | "groups" | "rollout", layer=1, head=2); 0 is the mean over all.

    recent: events that are drawn; earlier ones are one token."""

    local = True

    def __init__(self, record: Record, title: str = "Heads and layers", *, recent: int = 16):
        folded = record.fold(recent)

        def picture(view, layer, head):
            at = [f"{name} {i}" if i else f"all {name}s" for name, i in (("layer", layer), ("head", head))]
            shown = f"{title}: {view if view == 'rollout' else ', '.join(at)}"
            drawn = attention_map(folded, shown, view, layer=layer, head=head)
            return drawn._replace(spec={**drawn.spec, "title": plain(self.title, 160)})

        layers, heads = ([(str(i or "mean"), i) for i in range(count + 1)] for count in record.weights.shape[:2])
        controls = {
            "view": Control("show", "heads", [(name, view) for view, name in views_of(record).items()], "choice"),
            "layer": Control("layer", 0, layers),
            "head": Control("head", 0, heads),
        }
        super().__init__(title, controls, picture)


@typed
class BeamTree(Panel):
    """How a list is generated: goto(digit=2, beam=10, place=3) opens two digits, keeps ten nodes at each, follows the
    third of the list (0: none). Arguments as `recommend`."""

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

        def numbers(values):
            return [(str(value), value) for value in values]

        wide = [b for b in (1, 2, 5, 10, 20, 50, 100) if b >= k] or [k]
        controls = {
            "digit": Control("digits", len(digits.widths), numbers(range(1, len(digits.widths) + 1))),
            "beam": Control("beam", min(wide, key=lambda b: abs(b - 50)), numbers(wide)),
            "place": Control("follow (0: none)", 0, numbers(range(k + 1))),
        }
        super().__init__(title, controls, picture)


def field_controls(model: M6Rec, context: Context) -> dict[str, Control]:
    """Of request, then profile."""
    request, profile = model.fields.request, model.fields.profile
    names = [f.name for f in request]
    names += [f"profile_{f.name}" if f.name in names else f.name for f in profile]
    codes, controls = [*context.request[0, 0].tolist(), *context.profile[0].tolist()], {}
    for name, field, given in zip(names, (*request, *profile), codes, strict=True):
        words = [(field.describe(code).removeprefix(f"{field.name} "), code) for code in range(field.size)]
        controls[name] = Control(field.name, given, words)
    return controls


@typed
class ContextWhatIf(Panel):
    """Change request, profile, modalities, history: goto(hour=21, age=34, mask_text=True, without_3=True, add="Fargo").

    Values and arguments as `recommend`. without_3: without the third event. add: what comes last."""

    def __init__(self, model: M6Rec, user: object = None, *, k: int = 10, title: str = "What if?", **who: object):
        self.model, self.person, self.k = model, model.person(user, **who), k
        self.context, self.titles = one(self.person.context), model.titles(self.person)
        self.events = self.context.item[0, : int(self.context.position)].tolist()
        self.modalities, controls = model.network.items.modalities, field_controls(model, self.context)
        self.given = {name: control.value for name, control in controls.items()}
        self.fields = dict(zip(controls, (*model.fields.request, *model.fields.profile), strict=True))
        marks = {f"mask_{m}": f"without {m}" for m in self.modalities}
        marks |= {f"without_{i}": f"without {i}. {self.titles[code]}" for i, code in enumerate(self.events, 1)}
        controls |= {name: Control(words, False, kind="toggle") for name, words in marks.items()}
        controls["add"] = Control("and then", "", kind="text")
        self.before = self._listed(self.person)
        super().__init__(title, controls, self._picture_of)

    def read(self, name: str, value: object) -> object:
        """Raw values -> codes."""
        if name not in self.fields:
            return str(value or "") if name == "add" else value
        return 0 if value is None else self.fields[name].encode_one(value)

    def _listed(self, person: Person, drop: tuple[str, ...] = ()) -> list[str]:
        codes = self.model.top_items(person, self.k, drop=drop).items[0].tolist()
        return [self.titles[code] for code in codes]

    def _picture_of(self, add: str, **values: int) -> Picture:
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


def live(
    model: M6Rec, user: object = None, *, k: int = 10, title: str = "A recommender in this page", **who
) -> Picture:
    """The dense list, computed in the page itself, where history, request and profile are chosen.

    Arguments as `recommend`. InputError for another `context_fusion` than "attention"."""
    if model.config.context_fusion != "attention":
        raise InputError('a page computes context_fusion="attention" only: take a model that was trained with it.')
    title, network, context = translated(title), model.network.fusion, one(model.person(user, **who).context)
    record, controls = capture(model, context), field_controls(model, context)
    codes = context.item, *(part * network.known for part in context[1:3])  # code 0 adds nothing
    events = torch.stack(codes, -1)[0, : int(context.position)].tolist()
    parts = {**network.state_dict(), "items.weight": model.item_vectors()}
    floats = torch.cat([part.cpu().float().flatten() for part in parts.values()]).numpy().tobytes()
    spec = {
        "kind": "live", "title": plain(title, 160), "note": "It scores all items. Nothing leaves the page.",
        "floats": page.base64(floats), "parts": [[name, part.numel()] for name, part in parts.items()],
        "heads": network.joint[0].heads, "recency": network.recency, "history": model.config.history, "k": k,
        "repeats": model.data.repeats >= REPEATS, "titles": [*map(plain, model.data.items["title"])], "events": events,
        "fields": [control.spec(name) for name, control in controls.items()], "requests": len(model.fields.request),
        "values": {"add": "", **{name: control.value for name, control in controls.items()}},
        "views": [*map(list, views_of(record).items())], "where": NOTE,
    }  # fmt: skip
    table = model.recommend(user, k=k, method="dense", **who)
    alt = f"{title}. Its list at first: {', '.join(table['title'])}."
    return attention_map(record.fold(16), title, "heads")._replace(spec=spec, data=table, alt=alt)
