"""Views to be touched: each has controls, a picture that follows them, and a static twin where no kernel answers."""

from m6rec.view.widgets.asking import ContextWhatIf, HistoryEditor
from m6rec.view.widgets.looking import HeadsAndLayers
from m6rec.view.widgets.panel import Panel, milliseconds
from m6rec.view.widgets.searching import BeamTree
from m6rec.view.widgets.why import WhyThis

__all__ = ["BeamTree", "ContextWhatIf", "HeadsAndLayers", "HistoryEditor", "Panel", "WhyThis", "milliseconds"]
