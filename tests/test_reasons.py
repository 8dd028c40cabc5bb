"""Reasons name what really moves the item, say how much of it they cover, and say nothing where that is little."""

from __future__ import annotations

import numpy as np
import pytest

from m6rec.explain import explainers as words
from m6rec.explain.explainers import capture, leave_one_out, logits_of, reasons, target_log_prob


@pytest.fixture(scope="module")
def context(trained):
    return trained.extract_context(["Film 3", "Film 7", "Film 4"], {"hour": 21, "gap": 5}, user=105)


def test_a_reason_names_the_strongest_tokens_and_how_much_goes_with_them(trained, context):
    for item in range(30):
        given, effects = reasons(trained, context, [item])[0], leave_one_out(trained, context, item)
        strongest = [t for t in np.argsort(-effects, kind="stable")[:3] if effects[t] > max(effects.max() / 10, 0)]
        assert given.causes == strongest
        labels = capture(trained, context).labels
        assert given.coverage < words.ENOUGH or all(labels[t].split()[-1] in given.sentence for t in strongest)
        kept = np.ones((3, len(effects)), bool)
        kept[1, strongest] = kept[2, 1:] = False
        whole, less, none = target_log_prob(logits_of(trained, context, kept), item).tolist()
        share = np.clip((whole - less) / (whole - none), 0, 1) if whole > none and strongest else 0
        assert given.coverage == pytest.approx(share, abs=1e-4)
        assert given.sentence.startswith("Because" if given.coverage >= words.ENOUGH else "Not enough evidence")


def test_a_cause_that_does_next_to_nothing_is_not_named_beside_a_strong_one():
    assert words._strongest(np.array([0, 0.03, 3.7, -1.0, 0.5, 0.6, 0.7])) == [2, 6, 5]
    assert words._strongest(np.array([0, 0.03, 3.7])) == [2] and words._strongest(np.array([0.0, -1.0])) == []


def test_a_list_is_explained_as_its_items_are(trained, context):
    for one_by_one, together in zip(range(9, 14), reasons(trained, context, range(9, 14)), strict=True):
        alone = reasons(trained, context, [one_by_one])[0]
        assert alone.sentence == together.sentence and alone.coverage == pytest.approx(together.coverage, abs=1e-5)
    assert len({r.sentence for r in reasons(trained, context, range(30))}) > 3


def test_sentences_read_like_sentences():
    film, other = ("Fargo (1996)", "history"), ("Heat (1995)", "history")
    hour, age = ("hour 21", "request"), ("age ≥ 44 and < 50", "profile")
    gap, device = ("gap < 20 s", "request"), ("device phone", "request")
    say = words._sentence
    assert say([film, other, hour], 0.9) == "Because you chose Fargo (1996) and Heat (1995), and it is 21 h."
    assert say([film, film, hour], 0.9) == "Because you chose Fargo (1996), and it is 21 h."  # bought twice
    assert say([age], 0.9) == "Because your age is ≥ 44 and < 50."
    assert say([gap, device], 0.9) == "Because your last choice was < 20 s ago, and the device is phone."
    assert say([film], 0.1) == "Not enough evidence: no few causes stand out (the strongest cover 10%)."
    long = say([("x" * 10_000, "history")], 0.9)
    assert len(long) < 100 and "…" in long


def test_who_is_unknown_gets_no_reason(trained):
    given = reasons(trained, trained.extract_context([]), [9])[0]
    assert given.coverage < words.ENOUGH and given.causes == [] and given.coverage == 0


def test_recommendations_bring_their_reasons(trained):
    table = trained.recommend(105, context={"hour": 21}, k=5, explain=True)
    plain = trained.recommend(105, context={"hour": 21}, k=5)
    assert table.drop(columns=["reason", "coverage"]).equals(plain)
    context = trained.extract_context(user=105, request={"hour": 21})
    codes = trained.data.item_codes(table["item_id"])
    assert table["reason"].tolist() == [r.sentence for r in reasons(trained, context, codes)]


def test_an_item_never_seen_can_be_a_reason(trained):
    new = [{"text": "film number 9 | drama | 1959"}] * 3
    table = trained.recommend(history=new, k=20, explain=True)
    assert table["reason"].str.contains("you chose an item new to the catalogue").any()
