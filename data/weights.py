"""The model that comes with m6rec: trained on bazaar, saved with its card. `make weights` rebuilds it.

About ten minutes on one core. Equal code, data and processor give equal weights, bit for bit.
"""

from pathlib import Path

import m6rec
from m6rec.baselines import Popularity
from m6rec.tasks.heldout import CONTENTS

FOLDER = Path(__file__).parent / "weights" / "bazaar"
CHANGES = {**CONTENTS, "smoothing": 0.0, "pretrain_epochs": 8, "finetune_epochs": 3}
CARD = """# m6rec, trained on bazaar

A small M6-Rec ({parameters:,} parameters, {megabytes:.1f} MB) that reads a good's text, photograph and recording, a
shopper's profile and purchases, and the request; it scores goods densely and generates their semantic IDs. It has no
vector of a good's own, so that it recommends goods that it has never seen.

    model = m6rec.M6Rec.from_pretrained("bazaar")

**Data.** bazaar, which comes with m6rec (`data/README.md`): real photographs (Fashion-MNIST, MIT), recordings
(Sonic Pi, CC0) and texts (WordNet), and **simulated shoppers**. Trained on every shopper's purchases but the last two.

**Terms.** Apache-2.0, as m6rec; the media's licences are in `data/licences`. Made for teaching: it knows invented
tastes, and nothing of real people.

**Figures.** Leave-one-out, the last purchase of {users:,} shoppers among {items:,} goods, seen goods masked, one
training: NDCG@10 {dense:.3f} dense, {generated:.3f} generated, {popularity:.3f} popularity.

`make weights` trains it anew and writes this card.
"""


def main() -> None:
    data = m6rec.load("bazaar")
    model = m6rec.M6Rec.cached(data, "small", **CHANGES)
    ndcg = {how: m6rec.evaluate(model.scorer(how), data).metrics["ndcg@10"] for how in ("dense", "generated")}
    popularity = m6rec.evaluate(Popularity().fit(data, data.split()), data).metrics["ndcg@10"]
    model.save_pretrained(FOLDER)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.network.parameters()),
        megabytes=sum(file.stat().st_size for file in FOLDER.iterdir()) / 1e6,
        users=data.n_users,
        items=data.n_items,
        popularity=popularity,
        **ndcg,
    )
    (FOLDER / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
