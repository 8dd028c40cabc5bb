"""Lists under load: valid and distinct whatever the mask, drawn with the right frequencies, and re-ranked rightly."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from fixtures import small_model

from m6rec import Config, InputError, evaluate
from m6rec import generate as generation
from m6rec.generate import best_items, exact_scores, generate
from m6rec.model.attention import causal_mask
from m6rec.model.tree import DigitDecoder, build_tree, widths_for

WAYS = ({}, {"temperature": 1.0}, {"temperature": 0.3})


def random_decoder(items: int, seed: int = 0, digits: int = 3) -> DigitDecoder:
    """A decoder with loud weights over a tree with free leaves."""
    torch.manual_seed(seed)
    config = Config(width=16, digits=digits, dropout=0.0)
    decoder, vectors = DigitDecoder(config, widths_for(items, digits, 0.15), items), torch.randn(items, 16)
    decoder.init_from_tree(build_tree(vectors.numpy(), decoder.widths), vectors)
    torch.nn.init.normal_(decoder.project.weight, std=0.3)
    return decoder.eval()


@pytest.mark.parametrize("way", WAYS)
def test_no_list_holds_an_item_twice_or_one_that_is_not_allowed(way):
    for seed, (items, digits, k) in enumerate([(30, 3, 4), (200, 3, 10), (200, 2, 10), (9, 1, 9)]):
        decoder = random_decoder(items, seed, digits)
        state, share = torch.randn(500, 16), torch.rand(500, 1)
        allowed = torch.rand(500, items) < share  # from nearly nothing to nearly everything
        allowed.scatter_(1, torch.rand(500, items).argsort(1)[:, :k], True)
        found = generate(decoder, state, k, beam=k, allowed=allowed, **way)
        assert allowed.gather(1, found.items).all() and (found.items >= 0).all()
        assert (found.items.sort(1).values.diff(dim=1) > 0).all()
        torch.testing.assert_close(found.scores, exact_scores(decoder, state).gather(1, found.items), rtol=0, atol=1e-3)


def test_a_row_is_filled_to_the_last_item_that_it_may_hold():
    decoder, allowed = random_decoder(30), torch.zeros(2, 30, dtype=torch.bool)
    allowed[0, [3, 17, 29]] = allowed[1, [0, 1, 2]] = True
    for way in WAYS:
        found = generate(decoder, torch.randn(2, 16), 3, allowed=allowed, **way)
        assert [sorted(row) for row in found.items.tolist()] == [[3, 17, 29], [0, 1, 2]]


def test_the_best_of_a_wide_beam_are_the_exact_best():
    decoder, state = random_decoder(200), torch.randn(300, 16)
    best = exact_scores(decoder, state).topk(10)
    torch.testing.assert_close(generate(decoder, state, 10, beam=200).items, best.indices)
    narrow = generate(decoder, state, 10, beam=50).items
    same = (narrow.sort(1).values == best.indices.sort(1).values).all(1)
    assert same.float().mean() >= 0.97  # measured: .99


def test_beams_that_are_not_stepped_change_no_list(monkeypatch):
    decoder, state = random_decoder(200), torch.randn(300, 16)
    allowed = torch.rand(300, 200) < torch.rand(300, 1)
    allowed[:, :5] = True
    for mask, beam in itertools.product((None, allowed), (5, 8, 40)):
        lists = []
        for spared in (0, 10**9):
            monkeypatch.setattr(generation, "MIN_SKIPPED", spared)
            lists.append(generate(decoder, state, 5, beam=beam, allowed=mask))
        torch.testing.assert_close(lists[0].items, lists[1].items)
        torch.testing.assert_close(lists[0].scores, lists[1].scores, rtol=1e-5, atol=1e-5)


def test_attention_comes_with_every_digit_and_is_that_of_all_digits_at_once():
    decoder, state, steps = random_decoder(30), torch.randn(4, 16), []
    found = generate(decoder, state, 3, beam=5, trace=steps, weights=True)
    prefixes = decoder.tree.prefixes(found.items[:, 0])
    before = [state] + [state + decoder.nodes[level][prefixes[:, level]] for level in range(2)]
    whole = decoder.blocks(torch.stack(before, 1), causal_mask(3), torch.arange(3), weights=True).weights
    at = torch.zeros(4, 1, dtype=torch.long)  # back from the best item to the root
    for level in (2, 1, 0):
        for seen, full in zip(steps[level].weights, whole, strict=True):
            torch.testing.assert_close(seen[torch.arange(4), at[:, 0]], full[:, :, level, : level + 1])
        at = steps[level].parents.gather(1, at)


def test_what_was_generated_can_be_learned_from():
    """No tensor of a search, and nothing that the decoder remembers of it, stands in the way of a gradient."""
    decoder = random_decoder(30)
    found = generate(decoder, torch.randn(4, 16), 3)
    state, table = torch.randn(4, 16, requires_grad=True), torch.randn(30, 16, requires_grad=True)
    said = decoder.teacher_forced(state, found.items[:, 0])[-1].log_softmax(-1).amax()
    loss = said + (torch.nn.functional.embedding(found.items, table).sum(-1) * found.scores).sum()
    loss.backward()
    assert state.grad.abs().sum() > 0 and table.grad.abs().sum() > 0


def test_a_step_does_not_depend_on_what_was_computed_for_the_tree_before():
    """Which nodes live is remembered, and has to be forgotten when the tree is planted or loaded anew."""
    decoder, other, state = random_decoder(30), random_decoder(30, seed=1), torch.randn(4, 16)
    before, expected = generate(decoder, state, 30), generate(other, state, 30)
    decoder.load_state_dict(other.state_dict())
    after = generate(decoder, state, 30)
    assert not torch.equal(before.items, after.items) and torch.equal(after.items, expected.items)
    tree = other.tree
    decoder.item.fill_(-1)
    decoder.item[tree.leaf[:3]] = torch.arange(3)
    assert decoder.tree.valid_nodes()[-1].sum() == 3


# ---- drawing -----------------------------------------------------------------------------------------------------


def chances(said: np.ndarray, drawn: int) -> np.ndarray:
    """Each item's chance to be among the first `drawn`, without replacement: all orders, added up."""
    p, chance = np.exp(said), np.zeros(len(said))
    for order in itertools.permutations(range(len(p)), drawn):
        taken = np.concatenate([[0], np.cumsum(p[list(order)])[:-1]])
        chance[list(order)] += np.prod(p[list(order)] / (1 - taken))
    return chance


def agree(counts: np.ndarray, chance: np.ndarray, draws: int) -> bool:
    """No frequency lies further from its chance than five standard errors (and the expected number suffices)."""
    error = np.sqrt(draws * chance * (1 - chance)).clip(min=1e-9)
    return bool((np.abs(counts - draws * chance) < 5 * error + 1).all())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("drawn", [1, 3])
def test_draws_have_the_frequencies_of_the_exact_probabilities(temperature, drawn):
    decoder, draws = random_decoder(9, digits=2), 20_000
    state = 0.4 * torch.randn(1, 16)  # so that every item has a fair chance
    found = generate(decoder, state.expand(draws, -1), drawn, beam=drawn, temperature=temperature, seed=7)
    counts = np.bincount(found.items.flatten(), minlength=9)
    by_hand = digit_by_digit(decoder, state, torch.ones(9, dtype=torch.bool), temperature)
    if temperature == 1:
        np.testing.assert_allclose(by_hand, exact_scores(decoder, state)[0], rtol=1e-4, atol=1e-4)
    assert agree(counts, chances(by_hand, drawn), draws)
    cold = digit_by_digit(decoder, state, torch.ones(9, dtype=torch.bool), temperature * 1.15)
    assert not agree(counts, chances(cold, drawn), draws)  # so the test can tell


def digit_by_digit(decoder: DigitDecoder, state: torch.Tensor, allowed: torch.Tensor, temperature: float) -> np.ndarray:
    """Log-probability of each item of a two-digit tree, the mask narrowing each digit."""
    items = torch.arange(len(allowed))
    logits, digits = decoder.teacher_forced(state.expand(len(items), -1), items, allowed), decoder.tree.digits(items)
    said = [(level / temperature).log_softmax(-1).gather(1, digits[:, [g]])[:, 0] for g, level in enumerate(logits)]
    return sum(said).nan_to_num(nan=-np.inf).double().detach().numpy()


def test_what_is_forbidden_leaves_its_chance_to_its_siblings():
    decoder, draws = random_decoder(9, digits=2), 20_000
    state, allowed = 0.4 * torch.randn(1, 16), torch.ones(1, 9, dtype=torch.bool)
    allowed[0, [1, 4, 5]] = False
    found = generate(
        decoder, state.expand(draws, -1), 2, beam=5, allowed=allowed.expand(draws, -1), temperature=1.0, seed=3
    )
    said = digit_by_digit(decoder, state, allowed[0], 1.0)
    assert agree(np.bincount(found.items.flatten(), minlength=9), chances(said, 2), draws)


def test_the_same_seed_draws_the_same_items_and_another_one_others():
    decoder, state = random_decoder(200), torch.randn(20, 16)
    first, again, other = (generate(decoder, state, 10, temperature=1.0, seed=s).items for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    rows = generate(decoder, state[:1].expand(20, -1), 10, temperature=1.0).items
    assert len({tuple(row) for row in rows.tolist()}) == 20  # each row has noise of its own


def test_a_temperature_near_zero_draws_the_beam_s_list():
    decoder, state = random_decoder(200), torch.randn(20, 16)
    assert torch.equal(generate(decoder, state, 1, temperature=1e-4).items, generate(decoder, state, 1, beam=1).items)


def test_a_temperature_below_zero_is_refused():
    with pytest.raises(InputError, match="take 0 for the likeliest"):
        generate(random_decoder(9), torch.randn(1, 16), 1, temperature=-1.0)


# ---- exact scores and hybrid lists ---------------------------------------------------------------------------------


def test_exact_scores_do_not_depend_on_how_many_states_are_scored_at_a_time(monkeypatch):
    decoder, state = random_decoder(200), torch.randn(7, 16)
    whole = exact_scores(decoder, state)
    monkeypatch.setattr(generation, "MAX_PREFIXES", 1)
    torch.testing.assert_close(exact_scores(decoder, state), whole, rtol=1e-5, atol=1e-5)
    assert exact_scores(decoder, state[:0]).shape == (0, 200)


@pytest.fixture(scope="module")
def shop():
    """An untrained network over a planted tree; the last five items have no training events."""
    model = small_model()
    network = model.network
    vectors = network.encode_items().vectors.detach()
    network.digits.init_from_tree(build_tree(vectors.numpy(), network.digits.widths), vectors)
    torch.nn.init.normal_(network.digits.project.weight, std=3.0)  # digits that disagree with the dense head
    network.codes[-5:] = -1
    return network.eval(), vectors / vectors.norm(dim=1, keepdim=True)


def test_with_a_beam_as_wide_as_the_catalogue_the_hybrid_list_is_the_dense_list(shop):
    network, vectors = shop
    state, allowed = torch.randn(20, 16), torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed[:, :8], allowed[0, 8:] = True, False  # the first has nothing to spare
    dense = network.score(state, vectors).log_softmax(-1)
    for mask in (torch.ones_like(allowed), allowed):
        found = best_items(network, state, vectors, 8, "hybrid", beam=30, allowed=mask)
        expected = dense.masked_fill(~mask, float("-inf")).topk(8)
        torch.testing.assert_close(found.items, expected.indices)
        torch.testing.assert_close(found.scores, expected.values)


def test_cold_items_are_listed_where_the_dense_head_wants_them_though_no_digit_leads_there(shop):
    network, vectors = shop
    state = 20 * vectors[25:]  # each cold item's own direction
    narrow = generate(network.digits, state, 3, beam=3).items
    assert not (narrow[:, 0] == torch.arange(25, 30)).all()
    every = torch.ones(5, 30, dtype=torch.bool)
    hybrid = partial(best_items, network, state, vectors, method="hybrid")
    assert (hybrid(3, beam=3, allowed=every).items[:, 0] == torch.arange(25, 30)).all()
    lifted = hybrid(30, beam=30, allowed=every, cold_boost=50.0)
    assert (lifted.items[:, :5].sort(1).values == torch.arange(25, 30)).all(), "new items first, all of them"
    plain = hybrid(30, beam=30, allowed=every)
    mine = lifted.scores[:, :5].sort(1).values - 50
    torch.testing.assert_close(mine, plain.scores[plain.items >= 25].view(-1, 5).sort(1).values, atol=1e-4, rtol=1e-4)
    found = hybrid(3, beam=3, allowed=every & (torch.arange(30) < 25))
    assert (found.items < 25).all() and torch.isfinite(found.scores).all()


def test_hybrid_is_a_method_of_the_model_and_of_its_scorer(trained):
    wide = trained.data.n_items
    assert trained.recommend(105, k=5, method="hybrid")["item_id"].tolist() == (
        trained.recommend(105, k=5, method="dense")["item_id"].tolist()
    )  # the catalogue is smaller than the beam
    scorers = [trained.scorer(method, beam=wide) for method in ("hybrid", "dense")]
    lists = [evaluate(scorer, trained.data, k=5, mask_seen=False).lists for scorer in scorers]
    np.testing.assert_array_equal(*lists)


def test_a_cold_item_with_a_bonus_counts_as_several_at_every_node(shop):
    network = copy.deepcopy(shop[0])
    cold, nobody = network.codes < 0, torch.zeros(1, 16)  # a state that prefers nothing: only the counts are left
    network.digits.project.weight.data.zero_()
    likely = exact_scores(network.digits.boosted(cold, 1.5), nobody)
    torch.testing.assert_close(likely, (1.5 * cold).log_softmax(0)[None])
    items, allowed = network.encode_items().vectors, torch.ones(1, 30, dtype=torch.bool)
    for bonus, share in ((0.0, 0), (50.0, 1)):  # from untouched to new items alone
        found = best_items(network, nobody, items, 5, "generated", beam=30, allowed=allowed, cold_boost=bonus)
        assert bool((found.items >= 25).all()) == bool(share)
