"""The model that comes with m6rec: trained on bazaar, saved with its card. `make weights` rebuilds it.

About forty minutes on one core. Equal code, data and processor give equal weights, bit for bit.
"""

from pathlib import Path

import numpy as np

import m6rec
from m6rec.baselines import Popularity
from m6rec.data.prompts import domain
from m6rec.tasks.heldout import JOINT, Bazaar
from m6rec.tasks.text import DotProduct

FOLDER = Path(__file__).parent / "weights" / "bazaar"
CARD = """# m6rec, trained on bazaar

One M6-Rec ({parameters:,} parameters, {megabytes:.1f} MB) for every task. It reads an item's text, photograph and
recording, a user's profile and history, and the request. It scores items densely, generates their semantic IDs, writes
captions and restores patches. The same weights read and write prompts: the next item, and what it is taught to answer.
It has no ID embeddings, so that it recommends items that it has never seen.

    model = m6rec.M6Rec.from_pretrained("bazaar")
    model.text  # the same weights for prompts

**Data.** bazaar, which comes with m6rec (`data/README.md`): real photographs (Fashion-MNIST, MIT), recordings
(Sonic Pi, CC0) and texts (WordNet), and **simulated users**. No rating is in them.

**Held out.** {held_items} items and {held_users} users, listed below: no event of theirs was read. Of the other users
the last two events were not read, either.

**Training.** `m6rec.tasks.heldout.JOINT`: item contents first (masked words, masked patches, alignment, spectral
embedding); then these beside the next event and the next item in words; then the semantic IDs, while the item encoder
stays as it is.

**Terms.** Apache-2.0, as m6rec; the media's licences are in `data/licences`. Made for teaching: it knows invented
preferences, and nothing of real people.

**Figures.** One training. NDCG@10 of the last event of {users:,} users among {items:,} items, seen items masked:
{dense:.3f} dense, {generated:.3f} generated, {popularity:.3f} popularity, {ceiling:.3f} at most (the Bayes-optimal
ranking). Held-out items, ranked among themselves: {cold:.3f} dense, {words:.3f} from their words alone,
{cold_ceiling:.3f} at most. 02_fusion and 07_open_domain have the other tasks.

`make weights` trains it anew and writes this card.

Items held out: {listed_items}

Users held out: {listed_users}
"""


def main() -> None:
    shop = Bazaar()
    model = m6rec.M6Rec.cached(shop.train, "small", **JOINT)
    model.data = shop.data  # the whole catalogue and everyone's history; the weights have not seen what is held out
    model.save_pretrained(FOLDER)

    def ndcg(scorer: object, case: str = "warm") -> float:
        return shop.ndcg([scorer], case).mean()

    card = CARD.format(
        parameters=sum(p.numel() for p in model.network.parameters()),
        megabytes=sum(file.stat().st_size for file in FOLDER.iterdir()) / 1e6,
        users=len(shop.cases["warm"][0]),
        items=shop.data.n_items,
        held_items=len(shop.items),
        held_users=int(shop.truth.cold_users.sum()),
        dense=ndcg(model.scorer()),
        generated=ndcg(model.scorer("generated")),
        popularity=ndcg(Popularity().fit(shop.train, shop.train.split())),
        ceiling=ndcg(shop.ceiling),
        cold=ndcg(model.scorer(), "cold"),
        words=ndcg(DotProduct(model.text, domain(shop.data)), "cold"),
        cold_ceiling=ndcg(shop.ceiling, "cold"),
        listed_items=" ".join(shop.data.items["item_id"].iloc[shop.items]),
        listed_users=" ".join(shop.data.users["user_id"][np.flatnonzero(shop.truth.cold_users)]),
    )
    (FOLDER / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
