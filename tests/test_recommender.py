"""The verbs: raw ids in, a DataFrame out, and a clear sentence for everything that cannot be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import small_data, small_model

import m6rec
from m6rec import Config, InputError, evaluate


def test_recommends_for_a_user_a_history_a_title_and_nobody(trained):
    for asked in ({"user": 105}, {"history": [501, 502]}, {"history": ["Film 3", "Film 7 (1957)"]}, {"history": []}):
        table = trained.recommend(**asked, k=5)
        assert list(table.columns) == ["rank", "item_id", "title", "score"]
        assert table["rank"].tolist() == [1, 2, 3, 4, 5] and table["item_id"].is_unique
        assert table["score"].is_monotonic_decreasing


def test_what_was_seen_is_left_out_unless_asked_for(trained):
    data, user = trained.data, 110
    rows = data.events[data.events["user"] == int(data.user_codes([user])[0])]
    seen = set(data.items["item_id"].iloc[rows["item"]])
    rest = data.n_items - len(seen)
    for method in ("generated", "dense", "exact"):
        assert not seen & set(trained.recommend(user, k=rest, method=method)["item_id"])
        assert seen <= set(trained.recommend(user, k=data.n_items, method=method, seen=True)["item_id"])


def test_generated_with_a_wide_beam_and_exact_agree(trained):
    generated, exact = (trained.recommend(105, k=15, method=m) for m in ("generated", "exact"))
    assert generated["item_id"].tolist() == exact["item_id"].tolist()


def test_the_request_moves_the_scores_and_only_named_fields_count(trained):
    at = {hour: trained.recommend(105, context={"hour": hour}, k=15)["score"].tolist() for hour in (3, 21)}
    assert at[3] != at[21]
    assert trained.recommend(105, k=15).equals(trained.recommend(105, context={}, k=15))


def test_steps_by_hand_are_what_recommend_does(trained):
    context = trained.extract_context([501, 502, 503], {"hour": 9})
    fused = trained.fuse(context)
    allowed = torch.ones(1, trained.data.n_items, dtype=torch.bool)
    allowed[0, context.item[0]] = False
    found = trained.generate(fused, 5, allowed=allowed)
    table = trained.recommend(history=[501, 502, 503], context={"hour": 9}, k=5)
    assert trained.data.items["item_id"].to_numpy()[found.items[0]].tolist() == table["item_id"].tolist()


def test_without_request_profile_text_or_identity_the_model_still_works():
    for off in ({"request": False}, {"profile": False}, {"modalities": ()}, {"identity": False}):
        model = small_model(**off, pretrain_epochs=1, finetune_epochs=1)
        model.pretrain()
        model.fine_tune()
        assert len(model.recommend(105, k=3)) == 3, off
        assert evaluate(model, model.data).metrics["ndcg@10"] >= 0
    model = small_model(request=False)
    with pytest.raises(InputError, match="trained without a request"):
        model.recommend(105, context={"hour": 3})


def test_evaluation_ranks_dense_generated_and_exact_by_the_same_code(trained):
    for method in ("dense", "generated", "exact"):
        result = evaluate(trained.scorer(method), trained.data)
        assert result.name == f"m6rec {method}" and 0 <= result.metrics["ndcg@10"] <= 1
    lists = evaluate(trained.scorer("generated"), trained.data).lists
    seen = trained.data.targets(trained.split.test).seen().toarray()
    for row, items in enumerate(lists):
        kept = items[items >= 0]
        assert len(set(kept)) == 10 and not seen[row, kept].any()


def test_generated_lists_are_as_long_as_is_asked_for(trained):
    """With a beam as wide as the catalogue, a long generated list misses nobody that the exact scores find."""
    scorers = [trained.scorer(method, beam=30) for method in ("generated", "exact")]
    generated, exact = (evaluate(scorer, trained.data, k=15, mask_seen=False) for scorer in scorers)
    assert generated.metrics["hit@15"] == exact.metrics["hit@15"] > 0
    assert (generated.lists >= 0).all()


@pytest.fixture(scope="module")
def crowded():
    """A model of data in which one user has had all but one item before the target, and one has had every item."""
    data = small_data()
    events = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
    )[["user_id", "item_id", "timestamp"]]
    heavy = [
        pd.DataFrame({"user_id": 990, "item_id": range(500, 530)}),
        pd.DataFrame({"user_id": 991, "item_id": [*range(500, 530), 500, 501]}),
    ]
    events = pd.concat([events, *(h.assign(timestamp=range(900_000_000, 900_000_000 + len(h))) for h in heavy)])
    model = small_model(m6rec.Dataset.from_frames(data.items, None, events), pretrain_epochs=1, finetune_epochs=1)
    model.pretrain()
    model.fine_tune()
    return model


@pytest.mark.parametrize("method", ["generated", "hybrid", "dense", "exact"])
def test_lists_and_scores_do_not_depend_on_who_else_is_in_the_chunk(crowded, method):
    scorer, data = crowded.scorer(method), crowded.data
    targets = data.targets(data.split().test)
    one = [evaluate(scorer, data, chunk=chunk) for chunk in (1, 7, 256)]
    for other in one[1:]:
        np.testing.assert_array_equal(one[0].lists, other.lists)
        pd.testing.assert_frame_equal(one[0].per_user, other.per_user)
    whole = scorer.scores(targets)
    torch.testing.assert_close(torch.cat([scorer.scores(targets[i : i + 1]) for i in range(len(targets))]), whole)
    if method in ("generated", "hybrid"):  # 29 seen, 30 seen, and people with few
        listed = torch.isfinite(whole).sum(1)
        seen = targets.seen().toarray().sum(1)
        assert listed.tolist() == (data.n_items - seen).tolist() and listed.min() == 0 < listed.median()


def test_a_figure_at_a_k_above_the_beam_is_refused(trained):
    for method in ("generated", "hybrid"):
        with pytest.raises(InputError, match=r"k=15 is more than the 10 items .* scorer\(…, beam=15\)"):
            evaluate(trained.scorer(method, beam=10), trained.data, k=15)
        narrow, wide = (evaluate(trained.scorer(method, beam=b), trained.data, k=10).lists for b in (10, 30))
        assert narrow.shape == wide.shape and (narrow >= 0).all()
    assert evaluate(trained.scorer("exact", beam=10), trained.data, k=15).lists.shape[1] == 15
    assert trained.recommend(105, k=15)["item_id"].is_unique


def test_a_model_that_is_not_trained_recommends_nothing_rather_than_one_item_ten_times():
    def stop(row):
        raise KeyboardInterrupt

    untrained, interrupted = small_model(), small_model()
    with pytest.raises(KeyboardInterrupt):
        interrupted.pretrain(on_epoch=stop)
    assert not interrupted.network.training  # no dropout in what is computed next
    for model in (untrained, interrupted):
        for method in ("generated", "dense", "exact", "hybrid"):
            with pytest.raises(InputError, match=r"no semantic IDs yet: call pretrain\(\) first"):
                model.recommend(105, k=3, method=method)
        for method in ("generated", "exact", "hybrid"):
            with pytest.raises(InputError, match=r"call pretrain\(\) first"):
                evaluate(model.scorer(method), model.data)
    interrupted.pretrain()
    assert interrupted.recommend(105, k=10)["item_id"].is_unique


def test_an_untrained_model_takes_no_new_items():
    with pytest.raises(InputError, match=r"no semantic IDs yet: call pretrain\(\) first"):
        small_model().with_items(pd.DataFrame({"item_id": ["new"]}))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.recommend(user=9), "9"),
        (lambda m: m.recommend(history=["Filn 3"]), "Film 3"),
        (lambda m: m.recommend(history="Film 3"), "is one text"),
        (lambda m: m.recommend(history=5), "history=5 is no list: give a list of ids or titles, oldest first"),
        (lambda m: m.with_items([1]), "items is a list; give a DataFrame of pandas .* with item_id"),
        (lambda m: m.recommend(), "say for whom"),
        (lambda m: m.recommend(105, k=0), "k=0 does not fit"),
        (lambda m: m.recommend(105, k=1000), "k=1000 does not fit"),
        (lambda m: m.recommend(105, context={"hour": 25}), "hour=25 .* take 0 to 23"),
        (lambda m: m.recommend(105, context={"hour": "noon"}), "hour=noon"),
        (lambda m: m.recommend(105, context={"weekday": "Caturday"}), "one of Monday"),
        (lambda m: m.recommend(105, context={"hours": 5}), "'hours' is unknown .* hour, weekday, gap"),
        (lambda m: m.recommend(105, method="magic"), "one of generated, dense, exact"),
        (lambda m: m.scorer("magic"), "one of generated, dense, exact"),
        (lambda m: small_model().fine_tune(), r"call pretrain\(\) first"),
        (lambda m: Config.preset("huge"), "tiny, small, base"),
        (lambda m: Config.preset("tiny", widht=3), "did you mean width"),
        (lambda m: Config.preset("tiny", width=30, heads=4), "width=30 cannot be split into heads=4"),
        (lambda m: Config.preset("tiny", dropout=1.0), "dropout=1.0 is outside"),
        (lambda m: Config.preset("tiny", modalities=(), identity=False), "leave nothing"),
        (lambda m: Config.preset("tiny", batch=0), "batch=0 is outside its range: take 1"),
        (lambda m: small_model(device="tpu"), 'device="tpu"'),
        pytest.param(
            lambda m: small_model(device="cuda"),
            'device="cuda" was asked for',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_gets_one_sentence_with_the_fix(trained, call, says):
    with pytest.raises(InputError, match=says) as error:
        call(trained)
    assert "\n" not in str(error.value)


def test_weekdays_may_be_names_or_numbers_from_monday(trained):
    tables = [trained.recommend(105, context={"weekday": day}, k=5) for day in ("Tuesday", 1)]
    assert tables[0].equals(tables[1])


def test_data_without_timestamps_has_no_request_and_works():
    data = small_data()
    events = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
    )
    untimed = m6rec.Dataset.from_frames(data.items, None, events[["user_id", "item_id"]])
    model = small_model(untimed, pretrain_epochs=1, finetune_epochs=0)
    model.pretrain()
    assert model.fields.request == () and len(model.recommend(105, k=3, method="dense")) == 3
