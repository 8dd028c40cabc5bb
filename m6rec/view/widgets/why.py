"""Why this, and why not that: what each token does to an item's score, or to its lead over another item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from m6rec.explain.capture import capture
from m6rec.explain.explainers import EXPLAINERS, Explainer
from m6rec.person import Person, Who
from m6rec.view.attention import SAID
from m6rec.view.evidence import contributions
from m6rec.view.picture import Picture, plain
from m6rec.view.widgets.asking import offered
from m6rec.view.widgets.controls import line, slider
from m6rec.view.widgets.panel import Panel

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

LOOKS = ("attention", "rollout")  # they know no item, and so no reason


class WhyThis(Panel):
    """goto(place=2) explains the second of the list, goto(foil="Fargo") asks why it and not that.

    foil: an id, a title, or None. goto(explainer="integrated"): one of `explainers`. Other arguments as `recommend`.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        k: int = 10,
        method: str = "generated",
        explainers: Mapping[str, Explainer] = EXPLAINERS,
        title: str = "Why this?",
        **who: Unpack[Who],
    ) -> None:
        self.person = Person(model, user, **who)
        self.explainers, self.codes = explainers, self.person.best(k, method).items[0].tolist()
        self.labels = capture(model, self.person.context).labels[:-1]
        listed = [(f"{place}. {self.person.titles[code]}", place) for place, code in enumerate(self.codes, 1)]
        named = [(name.replace("_", " "), name) for name in explainers]
        controls = {
            "place": slider("why", listed, 1),
            "foil": line("and not", offered(model.data)),
            "explainer": slider("says", named, next(iter(explainers))),
        }
        super().__init__(title, controls, self._picture)

    def read(self, name: str, value: object) -> object:
        """No foil is None or an empty text."""
        return str(value or "") if name == "foil" else value

    def _picture(self, place: int, foil: str, explainer: str) -> Picture:
        model, item = self.person.model, self.codes[place - 1]
        against = int(model.data.history_codes([foil])[0]) if foil.strip() else None
        scores = self.explainers[explainer](model, self.person.context, item, against)
        title = f"{plain(self.person.titles[item], 40)}, by {explainer.replace('_', ' ')}"
        if against is not None:
            title = f"{plain(self.person.titles[item], 30)} and not {plain(self.person.titles[against], 30)}"
        return contributions(scores, self.labels, f"{title} ({SAID})" if explainer in LOOKS else title)
