"""A `Panel`: controls beside a picture that follows them, and the same picture wherever no kernel answers.

- pictures stand in an HTML widget with an alternative text, so that an error in a redraw is an error of its cell
- every redraw has a lock and a grad mode of its own: in JupyterLab, callbacks run on another thread
- whatever comes from the data is escaped before it enters a page
"""

from __future__ import annotations

import base64
import html
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
import torch
from traitlets import TraitError

from m6rec.errors import InputError
from m6rec.view.picture import Picture, plain


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
        self._said = ipywidgets.HTML()
        self._image = ipywidgets.HTML(layout=ipywidgets.Layout(align_self="flex-start"))
        self.box = ipywidgets.VBox([heading, *self.controls.values(), self._said, self._image])
        self._redraw()
        for control in self.controls.values():
            control.observe(self._moved, names="value")

    def goto(self, **values: object) -> Panel:
        """Move controls, redraw once. `InputError` for a control or a value that is not there: nothing moves then."""
        with self._lock:
            before = {name: control.value for name, control in self.controls.items()}
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
        """A value as a person writes it -> as the control holds it."""
        return value

    def _set(self, name: str, value: object) -> None:
        if name not in self.controls:
            raise InputError(f"{type(self).__name__} has no control {name!r}: it has {', '.join(self.controls)}.")
        try:
            self.controls[name].value = self.read(name, value)
        except TraitError:
            there = ", ".join(repr(option) for _, option in getattr(self.controls[name], "options", ()))
            known = f"take one of {plain(there, 200)}" if there else "take a value of its kind"
            raise InputError(f"{name}={plain(repr(value))} is not there: {known}.") from None

    def _moved(self, _: object) -> None:
        with self._lock:
            if self._quiet:
                return
            try:
                self._redraw()
            except InputError as error:  # of what was typed: said beside the controls, the picture stays
                self._said.value = f'<p role="alert">{html.escape(plain(error, 300))}</p>'

    def _redraw(self) -> None:
        with self._lock, torch.no_grad():
            self.picture = self._draw(**self.values)
            self._image.value = self.picture.html()
            self._said.value = ""

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        png = base64.b64encode(self.picture.png()).decode()
        live = self.box._repr_mimebundle_(**options)
        return {**live, "image/png": png, "text/plain": repr(self)}, {"image/png": {"alt": self.picture.alt}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {plain(self.title, 160)}"


def milliseconds(panel: Panel, name: str, values: Sequence[object]) -> np.ndarray:
    """From a control's move to the new picture: (n,) one for each value, on the kernel's side.

    The panel is moved once before, and is left at the last value.
    """
    panel.goto(**{name: values[-1]})
    taken = []
    for value in values:
        start = time.perf_counter()
        panel.goto(**{name: value})
        taken.append(1000 * (time.perf_counter() - start))
    return np.array(taken)
