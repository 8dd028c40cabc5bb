"""Ranking: metrics on rows computed by hand and at their limits, ties, masking, chunks, and models of one's own."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from m6rec.config import InputError
from m6rec.data.dataset import Dataset
from m6rec.evaluate import evaluate, gauc

TEXTS = ["red car", "blue car", "red bike", "tall green tree", "old stone", "Red CAR car"]
HISTORIES = {"ann": "abcd", "bob": "bcde", "cat": "fade"}  # the last item is the test target, the one before it valid


def dataset(histories: dict[str, str], texts: list[str] = TEXTS) -> Dataset:
    """Item 0 is "a", item 1 is "b", and so on; events happen in the order written."""
    items = pd.DataFrame({"item_id": [chr(97 + code) for code in range(len(texts))], "text": texts})
    rows = [(user, item, time) for user, history in histories.items() for time, item in enumerate(history)]
    return Dataset.from_frames(items, None, pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))


class Fixed:
    """A model with one row of scores for each raw user id."""

    name = "Fixed"

    def __init__(self, rows: dict[str, list[float]] | list[float]):
        self.rows = rows

    def scores(self, users):
        rows = [self.rows[user] if isinstance(self.rows, dict) else self.rows for user in users]
        return np.array(rows, dtype=np.float32)


class Random:
    """A model with many equal scores, different for each user."""

    def scores(self, users):
        return np.stack([np.random.default_rng(int(user)).integers(0, 6, users.data.n_items) for user in users])


def many(n_users: int, n_items: int, length: int = 6) -> Dataset:
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"item_id": np.arange(n_items), "text": [f"w{i % 7} w{i % 5}" for i in range(n_items)]})
    history = np.concatenate([rng.permutation(n_items)[:length] for _ in range(n_users)])
    users = np.repeat(np.arange(n_users), length)
    times = np.tile(np.arange(length), n_users)
    return Dataset.from_frames(items, None, pd.DataFrame({"user_id": users, "item_id": history, "timestamp": times}))


def test_metrics_equal_those_computed_by_hand():
    data = dataset(HISTORIES)
    model = Fixed(
        {
            "ann": [9, 8, 7, 5, 6, 4],  # target d; a, b, c seen: e, d, f -> rank 2
            "bob": [5, 9, 9, 9, 1, 3],  # target e; b, c, d seen: a, f, e -> rank 3
            "cat": [0, 2, 2, 9, 2, 9],  # target e; f, a, d seen: b, c, e equal -> rank 2
        }
    )
    found = evaluate(model, data, k=2)
    frame = found.per_user
    assert list(frame["user_id"]) == ["ann", "bob", "cat"] and list(frame["item_id"]) == ["d", "e", "e"]
    assert list(frame["rank"]) == [2, 3, 2] and list(frame["hit"]) == [1, 0, 1]
    assert found.name == "Fixed" and found.lists.tolist() == [[4, 3], [0, 5], [1, 2]]
    assert found.metrics["hit@2"] == pytest.approx(2 / 3)
    assert found.metrics["ndcg@2"] == pytest.approx(2 / 3 / np.log2(3))
    assert found.metrics["mrr@2"] == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert found.metrics["coverage@2"] == pytest.approx(6 / 6)
    # cat's target is first, second or third of three equal items.
    orders = [1 / np.log2(3), 0, (1 + 1 / np.log2(3) + 0) / 3]
    assert frame["expected_ndcg"].to_numpy() == pytest.approx(orders)
    # In training ann has a b, bob b c, cat f a: with one added, a 3, b 3, c 2, d 1, e 1, f 2 of 3 + 1 users.
    bits = -np.log2(np.array([3, 3, 2, 1, 1, 2]) / 4)
    expected = [(bits[4] + bits[3]) / 2, (bits[0] + bits[5]) / 2, (bits[1] + bits[2]) / 2]
    assert frame["novelty"].to_numpy() == pytest.approx(expected)
    # No words in common; the same words in another case; "blue car" and "red bike" share none.
    assert frame["diversity"].to_numpy() == pytest.approx([1, 0, 1])


def test_diversity_is_one_minus_the_mean_cosine_over_all_pairs():
    found = evaluate(Fixed([9, 8, 7, 1, 1, 1]), dataset({"ann": "fed"}), k=3, mask_seen=False)
    red_blue, red_bike, blue_bike = 1 / 2, 1 / 2, 0  # "red car" and "blue car" share one of two words each
    assert found.lists.tolist() == [[0, 1, 2]]
    assert found.metrics["diversity@3"] == pytest.approx(1 - (red_blue + red_bike + blue_bike) / 3)


def test_a_perfect_model_scores_one_and_the_worst_none():
    data = dataset(HISTORIES)

    class Oracle:
        def __init__(self, sign):
            self.sign = sign

        def scores(self, users):
            return self.sign * np.eye(users.data.n_items)[users.items]

    best, worst = evaluate(Oracle(1), data, k=1), evaluate(Oracle(-1), data, k=2, mask_seen=False)
    assert [best.metrics[f"{metric}@1"] for metric in ("hit", "ndcg", "mrr")] == [1, 1, 1]
    assert [worst.metrics[f"{metric}@2"] for metric in ("hit", "ndcg", "mrr")] == [0, 0, 0]
    assert list(worst.per_user["rank"]) == [6, 6, 6]


def test_constant_scores_put_every_target_in_the_middle_of_what_is_left():
    data, constant = dataset(HISTORIES), Fixed([1] * 6)
    assert list(evaluate(constant, data, mask_seen=False, k=3).per_user["rank"]) == [3.5] * 3  # of 6
    assert list(evaluate(constant, data, mask_seen=True, k=3).per_user["rank"]) == [2] * 3  # of 6 - 3 seen
    assert evaluate(constant, data, mask_seen=False, k=3).metrics["hit@3"] == 0


def test_equal_scores_are_listed_in_the_order_of_the_catalogue():
    found = evaluate(Fixed([1, 2, 1, 2, 1, 1]), dataset({"ann": "fed"}), mask_seen=False, k=4)
    assert found.lists.tolist() == [[1, 3, 0, 2]]


def test_seen_items_leave_the_ranking_only_when_masked():
    data, model = dataset(HISTORIES), Fixed([9, 8, 7, 6, 5, 4])
    assert list(evaluate(model, data, k=3).per_user["rank"]) == [1, 2, 3]
    assert list(evaluate(model, data, k=3, mask_seen=False).per_user["rank"]) == [4, 5, 5]
    for user, codes in enumerate(evaluate(model, data, k=3).lists):
        assert not set(codes) & set(data.targets(data.split().test[user : user + 1]).seen().indices)


def test_validation_targets_are_ranked_from_what_came_before_them():
    found = evaluate(Fixed([9, 8, 7, 6, 5, 4]), dataset(HISTORIES), part="valid", k=3)
    assert list(found.per_user["item_id"]) == ["c", "d", "d"]
    assert list(found.per_user["rank"]) == [1, 2, 3]  # cat has f and a: b and c stay before d


def test_a_target_seen_before_is_never_masked():
    found = evaluate(Fixed([9, 1, 1, 1, 1, 1]), dataset({"ann": "abca"}), k=1)
    assert list(found.per_user["rank"]) == [1]


def test_a_target_that_is_never_listed_is_a_miss_however_long_the_list():
    nothing, others = [-np.inf] * 6, [3, 2, 1, -np.inf, -np.inf, -np.inf]
    found = evaluate(Fixed({"ann": nothing, "bob": others}), dataset({"ann": "abcd", "bob": "bcde"}), k=6)
    assert list(found.per_user["rank"]) == [np.inf, np.inf]
    assert [found.metrics[f"{metric}@6"] for metric in ("hit", "ndcg", "mrr")] == [0, 0, 0]
    assert found.lists.tolist() == [[-1] * 6, [0, -1, -1, -1, -1, -1]]  # b and c are seen
    assert found.metrics["coverage@6"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_the_chunk_size_changes_nothing(chunk):
    data = many(40, 30)
    whole, found = evaluate(Random(), data, k=5, chunk=40), evaluate(Random(), data, k=5, chunk=chunk)
    pd.testing.assert_frame_equal(found.per_user, whole.per_user, check_exact=True)
    assert found.metrics == whole.metrics and np.array_equal(found.lists, whole.lists)


def test_lists_and_ranks_agree_with_a_slow_definition():
    data = many(40, 30)
    found = evaluate(Random(), data, k=5)
    for row, event in enumerate(data.split().test):
        target = data.targets(np.array([event]))
        scores = Random().scores(target)[0].astype(float)
        history, truth = target.history()[0], target.items[0]
        left = [code for code in range(data.n_items) if code == truth or code not in history]
        assert found.lists[row].tolist() == sorted(left, key=lambda code: (-scores[code], code))[:5]
        higher = sum(scores[code] > scores[truth] for code in left)
        equal = sum(scores[code] == scores[truth] for code in left if code != truth)
        assert found.per_user["rank"][row] == 1 + higher + equal / 2


def test_a_plain_object_that_knows_only_raw_ids_is_ranked_like_any_model():
    class Mine:
        def scores(self, users):
            ids = np.asarray(users)
            assert ids.dtype == np.int64 and list(users) == ids.tolist()
            return np.sin(np.outer(ids + 1, np.arange(30))).astype(np.float32)

    class Torch:
        def scores(self, users):
            return torch.tensor(Mine().scores(users), requires_grad=True)

    mine, same = evaluate(Mine(), many(40, 30), k=5), evaluate(Torch(), many(40, 30), k=5)
    assert mine.name == "Mine" and 0 < mine.metrics["hit@5"] < 1
    pd.testing.assert_frame_equal(mine.per_user, same.per_user, check_exact=True)


def test_half_precision_tensors_are_ranked():
    class Half:
        def scores(self, users):
            return torch.arange(6).to(torch.bfloat16).expand(len(users), 6)

    assert list(evaluate(Half(), dataset(HISTORIES), k=3).per_user["rank"]) == [3, 2, 1]


def test_the_mask_does_not_write_into_the_models_own_scores():
    class Keeps:
        table = np.ones((3, 6))

        def scores(self, users):
            return self.table

    evaluate(Keeps(), dataset(HISTORIES), k=3)
    assert (Keeps.table == 1).all()


def test_memory_does_not_grow_with_users_times_items():
    class Cheap:
        def scores(self, users):
            return np.broadcast_to(np.arange(1500, dtype=np.float32), (len(users), 1500))

    data = many(600, 1500)
    tracemalloc.start()
    evaluate(Cheap(), data, chunk=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600 * 1500 * 8 / 2


def test_a_saved_frame_comes_back_with_what_it_is_about(tmp_path):
    found = evaluate(Fixed([9, 8, 7, 6, 5, 4]), dataset(HISTORIES), k=3, mask_seen=False)
    found.per_user.to_parquet(tmp_path / "fixed.parquet", index=False)
    back = pd.read_parquet(tmp_path / "fixed.parquet")
    pd.testing.assert_frame_equal(back, found.per_user)
    assert back.attrs == {"name": "Fixed", "split": "leave_one_out", "part": "test", "mask_seen": False, "k": 3}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Fixed([1] * 6), {"k": 7}, "k=7 is outside the catalogue of 6"),
        (Fixed([1] * 6), {"k": 0}, "k=0 is outside"),
        (Fixed([1] * 6), {"k": 2, "chunk": 0}, "chunk=0"),
        (Fixed([1] * 6), {"k": 2, "part": "train"}, 'part="train" is unknown'),
        (Fixed([1] * 5), {"k": 2}, r"Fixed.scores gave the shape \(3, 5\) .* return \(3, 6\)"),
        (Fixed([1, 1, 1, 1, np.nan, 1]), {"k": 2}, "Fixed.scores gave NaN, first for user ann and item e"),
        (object(), {"k": 2}, "object cannot be ranked"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(model, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(model, dataset(HISTORIES), **options)


def test_a_part_without_targets_is_refused():
    with pytest.raises(InputError, match="no targets"):
        evaluate(Fixed([1] * 6), dataset({"ann": "ab"}), k=2)


def test_gauc_is_each_rows_auc_without_what_does_not_count():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, (2, 5, 12)).astype(float), rng.integers(-1, 2, (5, 12))
    labels[:, :2] = 0, 1
    found = gauc(scores, labels)
    for head, row in np.ndindex(2, 5):
        counts = labels[row] >= 0
        assert found[head, row] == pytest.approx(roc_auc_score(labels[row][counts], scores[head, row][counts]))
