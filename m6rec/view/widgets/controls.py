"""The controls of a panel, all to be reached by Tab and moved by arrow keys, Space or typing.

Sliders, buttons and lines to type into: the arrow keys of a native menu are JupyterLab's while a cell is selected.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets
import traitlets

from m6rec.view.picture import plain

Options = Sequence[tuple[str, object]]  # (what is read, the value)
WIDE = {"layout": ipywidgets.Layout(width="40em"), "style": {"description_width": "9em"}}


def slider(description: str, options: Options, value: object) -> ipywidgets.SelectionSlider:
    """A slider over named options: arrow keys move it, and it answers when it stands still."""
    return ipywidgets.SelectionSlider(
        options=_named(options), value=value, description=plain(description, 40), continuous_update=False, **WIDE
    )


def one_of(description: str, options: Options, value: object) -> ipywidgets.ToggleButtons:
    """A button for each option, of which one is pressed."""
    return ipywidgets.ToggleButtons(options=_named(options), value=value, description=plain(description, 40))


def line(description: str, offered: Sequence[str]) -> ipywidgets.Combobox:
    """A line to type into, with titles that are offered."""
    return ipywidgets.Combobox(
        description=description, placeholder="a title", options=tuple(offered), continuous_update=False, **WIDE
    )


class Several(ipywidgets.HBox):
    """A button for each option, of which any number is pressed: `value` holds theirs, in the order of the options."""

    value = traitlets.Tuple()

    def __init__(self, description: str, options: Options) -> None:
        self.options, self._quiet = _named(options), False
        self._buttons = {value: ipywidgets.ToggleButton(description=name) for name, value in self.options}
        super().__init__([ipywidgets.Label(plain(description, 40)), *self._buttons.values()])
        for button in self._buttons.values():
            button.observe(self._pressed, names="value")

    @traitlets.validate("value")
    def _known(self, proposal: dict) -> tuple:
        return _ordered(self.options, proposal["value"])

    @traitlets.observe("value")
    def _show(self, change: dict) -> None:
        self._quiet = True
        for value, button in self._buttons.items():
            button.value = value in change["new"]
        self._quiet = False

    def _pressed(self, _: object) -> None:
        if not self._quiet:
            self.value = tuple(value for value, button in self._buttons.items() if button.value)


class Marked(ipywidgets.VBox):
    """A slider over many options and a button that marks the one it stands at: `value` holds the marked ones."""

    value = traitlets.Tuple()

    def __init__(self, description: str, mark: str, options: Options) -> None:
        self.options = _named(options)
        places = [(name, place) for place, (name, _) in enumerate(self.options)] or [("nothing", 0)]
        self._slider = slider(description, places, 0)
        self._button = ipywidgets.Button(description=mark, tooltip=f"{mark}, or undo it", disabled=not self.options)
        self._list = ipywidgets.HTML()
        super().__init__([self._slider, ipywidgets.HBox([self._button, self._list])])
        self._button.on_click(self._clicked)

    @traitlets.validate("value")
    def _known(self, proposal: dict) -> tuple:
        return _ordered(self.options, proposal["value"])

    @traitlets.observe("value")
    def _show(self, change: dict) -> None:
        marked = [name for name, value in self.options if value in change["new"]]
        self._list.value = html.escape(plain("; ".join(marked), 300))

    def _clicked(self, _: object) -> None:
        here = self.options[self._slider.value][1]
        self.value = tuple(set(self.value) ^ {here})


def _named(options: Options) -> tuple[tuple[str, object], ...]:
    return tuple((plain(name, 40), value) for name, value in options)


def _ordered(options: Options, chosen: Sequence[object]) -> tuple:
    """The chosen values in the order of the options, once each; TraitError for one that is no option."""
    there = [value for _, value in options]
    if not all(value in there for value in chosen):
        raise traitlets.TraitError("not one of the options")
    return tuple(value for value in there if value in chosen)
