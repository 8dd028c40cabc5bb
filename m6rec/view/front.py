"""The front end in JupyterLab: anywidget carries a view's spec, and its script once for all views of a notebook."""

from functools import cache

import anywidget
import ipywidgets
import traitlets

from m6rec.view import page


@cache
def code() -> ipywidgets.Widget:
    """Holds view.js; never shown."""
    return ipywidgets.Textarea(value=page.module())


class Front(anywidget.AnyWidget):
    _esm = """
const urls = (globalThis.m6recViews ??= new Map());
export default { async render({ model, el }) {
  const holder = await model.widget_manager.get_model(model.get("code").slice("IPY_MODEL_".length));
  const code = holder.get("value");
  if (!urls.has(code)) urls.set(code, URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return (await import(urls.get(code))).render({ model, el });
} };"""
    code = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)
    spec = traitlets.Dict().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)  # of its controls: name -> an option's index, a flag or a text
    error = traitlets.Unicode().tag(sync=True)

    def __init__(self, **state: object):
        super().__init__(code=code(), **state)

    def whole(self) -> dict[str, object]:
        """A spec for a page: this state."""
        return {**self.spec, "values": self.values}

    def beside(self, shown: dict[str, object], alt: str) -> tuple[dict, dict]:
        """A bundle: alive with a kernel and, by its metadata, in an exported page; else a picture."""
        live = self._repr_mimebundle_()
        return {**(live[0] if isinstance(live, tuple) else live), **shown}, {
            "image/png": {"alt": alt, "view": self.whole()}
        }
