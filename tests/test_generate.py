"""The tree, the beam and the oracle: only catalogue items come out, and in the right order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import small_model

from m6rec import InputError
from m6rec.generate import exact_scores, fill, generate
from m6rec.model.tree import Tree, build_tree, widths_for


def vectors(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture(scope="module")
def planted():
    """An untrained decoder with loud weights, over a tree with free leaves."""
    model = small_model()
    torch.manual_seed(2)
    items = torch.randn(model.data.n_items, model.config.width)
    model.network.digits.init_from_tree(build_tree(items.numpy(), model.network.digits.widths), items)
    torch.nn.init.normal_(model.network.digits.project.weight, std=0.3)
    return model.network.digits.eval()


@pytest.mark.parametrize("n", [1, 2, 5, 26, 27, 60, 200])
def test_every_item_has_a_leaf_of_its_own(n):
    tree = build_tree(vectors(n), widths_for(n, 3, 0.0))
    assert len(set(tree.leaf.tolist())) == n
    torch.testing.assert_close(tree.item[tree.leaf], torch.arange(n))
    digits = tree.digits(torch.arange(n))
    folded = torch.zeros(n, dtype=torch.long)
    for g, width in enumerate(tree.widths):
        assert (digits[:, g] < width).all()
        folded = folded * width + digits[:, g]
        torch.testing.assert_close(folded, tree.prefixes(torch.arange(n))[:, g])


def test_the_tree_is_balanced_and_its_free_leaves_are_spread():
    tree = build_tree(vectors(200), widths_for(200, 3, 0.15))
    counts = torch.bincount(tree.digits(torch.arange(200))[:, 0], minlength=tree.widths[0])
    assert counts.max() - counts.min() <= 40 // 5 and counts.min() > 0
    free = (tree.item < 0).view(tree.widths[0], -1).sum(1)
    assert free.min() > 0  # under every first digit there is room for a new item


def test_a_tree_is_that_of_its_digits_and_equal_semantic_ids_are_refused():
    digits = build_tree(vectors(200), widths_for(200, 3, 0.15)).digits(torch.arange(200))
    assert torch.equal(Tree.of(digits.numpy()).digits(torch.arange(200)), digits)
    with pytest.raises(InputError, match="the same semantic ID"):
        Tree.of(np.array([[0, 1], [1, 0], [0, 1]]))


def test_near_items_share_digits():
    centres = vectors(6, seed=1) * 20
    points = np.repeat(centres, 6, axis=0) + vectors(36, seed=2) * 0.01
    digits = build_tree(points, (6, 6)).digits(torch.arange(36))[:, 0].reshape(6, 6)
    assert (digits == digits[:, :1]).all()


def test_a_crowded_tree_and_broken_vectors_are_refused():
    with pytest.raises(InputError, match="the same semantic ID"):
        build_tree(vectors(9), (2, 2, 2))
    with pytest.raises(InputError, match="NaN"):
        build_tree(np.full((3, 2), np.nan), (2, 2))


def test_identical_items_still_get_leaves_of_their_own():
    tree = build_tree(np.zeros((20, 3)), widths_for(20, 3, 0.15))
    assert len(set(tree.leaf.tolist())) == 20


def test_digit_by_digit_equals_all_digits_at_once(planted):
    state, items = torch.randn(7, 16), torch.arange(7) * 4
    at_once = planted.teacher_forced(state, items)
    parent, cache = torch.zeros(7, dtype=torch.long), None
    for level, logits in enumerate(at_once):
        stepped, run = planted.step(state, level, parent, cache)
        torch.testing.assert_close(stepped, logits, rtol=1e-4, atol=1e-5)
        seen, cache = planted.step(state, level, parent, cache, weights=True)[1].weights, run.caches
        assert all(w.shape[2:] == (1, level + 1) for w in seen)
        torch.testing.assert_close(seen[-1].sum(-1), torch.ones(7, 2, 1))
        parent = planted.tree.prefixes(items)[:, level]


def test_exact_scores_are_the_log_likelihood_of_the_digits_and_sum_to_one(planted):
    state = torch.randn(3, 16)
    scores = exact_scores(planted, state)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    for item in (0, 11, 29):
        logits = planted.teacher_forced(state, torch.full((3,), item))
        digits = planted.tree.digits(torch.tensor(item))
        by_hand = sum(level.log_softmax(-1)[:, d] for level, d in zip(logits, digits, strict=True))
        torch.testing.assert_close(scores[:, item], by_hand, rtol=1e-4, atol=1e-4)


def test_a_beam_of_full_width_is_the_exact_order(planted):
    state = torch.randn(5, 16)
    best = exact_scores(planted, state).sort(1, descending=True)
    found = generate(planted, state, 30, beam=200)
    torch.testing.assert_close(found.items, best.indices)
    torch.testing.assert_close(found.scores, best.values, rtol=1e-4, atol=1e-4)


def test_a_narrow_beam_gives_only_allowed_items_and_none_twice(planted):
    state = torch.randn(50, 16)
    allowed = torch.rand(50, 30, generator=torch.Generator().manual_seed(0)) < 0.4
    allowed[:, :4] = True
    found = generate(planted, state, 4, beam=4, allowed=allowed)
    assert allowed.gather(1, found.items).all() and torch.isfinite(found.scores).all()
    assert all(len(set(row)) == 4 for row in found.items.tolist())
    assert (found.scores.diff(dim=1) <= 0).all()


def test_a_list_does_not_depend_on_who_else_is_asked_for(planted):
    state, allowed = torch.randn(2, 16), torch.ones(2, 30, dtype=torch.bool)
    allowed[1, 5:] = False
    together, alone = generate(planted, state, 5, allowed=allowed), generate(planted, state[:1], 5, allowed=allowed[:1])
    torch.testing.assert_close(together.items[:1], alone.items)
    assert sorted(together.items[1].tolist()) == [0, 1, 2, 3, 4]


def test_a_row_with_fewer_items_than_asked_for_ends_early_and_shortens_no_other(planted):
    allowed = torch.ones(3, 30, dtype=torch.bool)
    allowed[1, 4:], allowed[2] = False, False
    state = torch.randn(3, 16)
    found = generate(planted, state, 10, allowed=allowed, short=True)
    assert sorted(found.items[1, :4].tolist()) == [0, 1, 2, 3]
    assert (found.items[1, 4:] == -1).all() and (found.items[2] == -1).all()
    torch.testing.assert_close(found.items < 0, found.scores == -torch.inf)
    torch.testing.assert_close(found.items[:1], generate(planted, state[:1], 10).items)


def test_more_items_than_are_allowed_is_an_error(planted):
    with pytest.raises(InputError, match="only 30 can be recommended"):
        generate(planted, torch.randn(1, 16), 31)


def test_a_planted_decoder_starts_as_a_clustering_of_the_dense_head(trained):
    """Untrained, a node's logit is ⟨state, mean of its items⟩ + log of their number, as the dense head would guess."""
    tree, items = trained.network.digits.tree, trained.item_vectors()
    fresh = small_model(trained.data).network.digits
    fresh.init_from_tree(tree, items)
    state = torch.randn(4, items.shape[1])
    logits = fresh.choices(state, 0, torch.zeros(4, dtype=torch.long))
    below = tree.prefixes(torch.arange(len(items)))[:, 0]
    for node in below.unique():
        members = items[below == node]
        torch.testing.assert_close(
            logits[:, node], state @ members.mean(0) + np.log(len(members)), rtol=1e-4, atol=1e-4
        )


def test_written_text_has_no_special_tokens_and_stops(trained):
    source = trained.network.content.take(torch.arange(5))
    source.text[:, 1] = 2  # [MASK]
    written = fill(trained.network, source, length=6)
    again = fill(trained.network, source, length=6)
    assert written.shape == (5, 6) and torch.equal(written, again)
    assert ((written == 0) | (written > 4)).all()
    after_end = (written == 0).cumsum(1) > 0
    assert (written[after_end] == 0).all()
