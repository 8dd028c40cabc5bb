"""bazaar's stored causes are found under the right token, and only who names them is right."""

from __future__ import annotations

import numpy as np
import pytest

from m6rec.explain.explainers import capture, one, random, recency
from m6rec.recommender import M6Rec
from m6rec.tasks.heldout import Bazaar, bayes_optimal, caused_events, causes_found


@pytest.fixture(scope="module")
def shop() -> Bazaar:
    return Bazaar(120)


@pytest.fixture(scope="module")
def model(shop: Bazaar) -> M6Rec:
    """Untrained: only where things stand is asked of it."""
    made = M6Rec(shop.train, "tiny", width=16, identity=False, pretrain_epochs=0)
    made.pretrain()  # the tree alone
    return made


@pytest.fixture(scope="module")
def events(model, shop) -> np.ndarray:
    return caused_events([model], shop, top=None)


def test_only_events_with_a_nameable_cause_are_asked_about(model, shop, events):
    causes = shop.truth.events["cause"]
    assert set(causes.iloc[events]) == {"event", "request"} and set(events) <= set(shop.cases["warm"][0])
    few = caused_events([model], shop, top=None, most=9)
    assert len(few) == 9 and set(few) <= set(events) and (few == caused_events([model], shop, top=None, most=9)).all()
    first = caused_events([model, model], shop, top=400)
    targets = shop.data.targets(first)
    scores = model.scores(targets).numpy()
    scores[targets.seen().toarray()] = -np.inf
    assert 0 < len(first) < len(events)
    assert ((scores > scores[np.arange(len(first)), targets.items, None]).sum(1) < 400).all()


def test_who_knows_the_truth_is_always_right_and_who_names_the_last_event_as_often_as_it_is_the_cause(
    model, shop, events
):
    def knows(model, context, item):
        record = capture(model, context)
        at = np.flatnonzero([int(e) == item for e in bought])[0]
        cause = shop.truth.events.iloc[events[at]]
        if cause["cause"] == "request":
            value = shop.data.events.iloc[events[at]]
            names = {"device": value["device"], "season": value["season"]}
            wanted = f"{cause['cause_field']} {names.get(cause['cause_field'], '')}"
        else:
            wanted = shop.data.items["title"].iloc[shop.data.events["item"].iloc[cause["cause_event"]]]
        return np.array([label.startswith(wanted) for label in record.labels[:-1]], float)

    bought = shop.data.targets(events).items
    events = events[np.unique(bought, return_index=True)[1]]  # so that an item tells which event is asked about
    bought = shop.data.targets(events).items
    found = causes_found(model, shop, {"knows": knows, "recency": recency, "random": random}, events)
    assert found["knows"].mean() > 0.95, "but for titles that two goods share"
    last = shop.truth.events["cause_event"].iloc[events].to_numpy() == events - 1
    np.testing.assert_array_equal(found["recency"], last)
    assert 0.1 < last.mean() < 0.6 and found["random"].mean() < 0.3


def test_even_who_knows_all_tastes_and_places_cannot_be_sure_of_the_cause(shop, events):
    first, probability = bayes_optimal(shop, events)
    last = shop.truth.events["cause_event"].iloc[events].to_numpy() == events - 1
    assert last.mean() < first.mean() < 0.7
    assert first[probability > 0.5].mean() > first.mean() + 0.1, "but where it is sure it is right"


def test_the_contexts_of_the_cause_are_those_of_the_model(model, shop, events):
    targets = shop.data.targets(events[:5])
    for row, event in enumerate(events[:5]):
        context = one(model.target_context(targets), row)
        assert context.item[0, -1] == shop.data.events["item"].iloc[event - 1]
