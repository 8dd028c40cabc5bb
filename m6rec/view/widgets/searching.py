"""The beam as a tree that can be opened digit by digit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from m6rec.generate.beam import Step, generate
from m6rec.person import Person, Who
from m6rec.view.beam import beam_tree
from m6rec.view.picture import Picture
from m6rec.view.widgets.controls import slider
from m6rec.view.widgets.panel import Panel

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

BEAMS = (1, 2, 5, 10, 20, 50, 100)


class BeamTree(Panel):
    """How a list is generated: goto(digit=2) opens so many digits, goto(beam=10) keeps so many nodes at each.

    goto(place=3) follows the third of the list from the root (0: none). Arguments as `recommend`.
    """

    def __init__(
        self,
        model: M6Rec,
        user: object = None,
        *,
        k: int = 10,
        title: str = "The beam as a tree",
        **who: Unpack[Who],
    ) -> None:
        self.person = Person(model, user, **who)
        self.allowed, self.k = self.person.open(k), k
        self.state = model.fuse(self.person.context, self.person.items()).state[:, -1]
        self._walks: dict[int, list[Step]] = {}
        digits = len(model.network.digits.widths)
        wide = [b for b in BEAMS if b >= k] or [k]
        controls = {
            "digit": slider("digits", [(str(d), d) for d in range(1, digits + 1)], digits),
            "beam": slider("beam", [(str(b), b) for b in wide], min(wide, key=lambda b: abs(b - 50))),
            "place": slider("follow", [("none", 0), *((f"place {p}", p) for p in range(1, k + 1))], 0),
        }
        super().__init__(title, controls, self._picture)

    def _picture(self, digit: int, beam: int, place: int) -> Picture:
        digits = self.person.model.network.digits
        if beam not in self._walks:
            self._walks[beam] = []
            generate(digits, self.state, self.k, beam=beam, allowed=self.allowed, trace=self._walks[beam])
        steps, tree = self._walks[beam], digits.tree
        leaves = steps[-1].nodes[0, : self.k].tolist()
        names = {leaf: self.person.titles[int(tree.item[leaf])] for leaf in leaves}
        chosen = leaves[place - 1] if place else None
        return beam_tree(steps, tree.widths, names, self.title, show=self.k, depth=digit, chosen=chosen)
