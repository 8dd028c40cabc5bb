"""attend, Block and the masks."""

from __future__ import annotations

import pytest
import torch

from m6rec.config import InputError
from m6rec.model.attention import Block, KVCache, attend, causal_mask, rotate, target_mask, unilm_mask


def heads(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_attention_equals_the_fused_kernel_under_a_mask():
    q, k, v = heads(2, 3, 5, 8), heads(2, 3, 7, 8), heads(2, 3, 7, 9)
    mask = heads(2, 1, 5, 7) > -0.5
    mask[..., 0] = True
    open_, fast = attend(q, k, v, mask, weights=True), attend(q, k, v, mask)
    torch.testing.assert_close(open_.out, fast.out)
    assert fast.weights is None
    torch.testing.assert_close(open_.weights.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert (open_.weights[~mask.expand_as(open_.weights)] == 0).all()


def test_attention_is_the_formula_by_hand():
    q, k, v = heads(1, 1, 4, 2), heads(1, 1, 3, 2), heads(1, 1, 3, 2)
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for i in range(4):
        scores = torch.stack([(q[0, 0, i] * k[0, 0, j]).sum() / 2**0.5 for j in range(3)])
        share = scores.exp() / scores.exp().sum()
        expected[i] = sum(share[j] * v[0, 0, j] for j in range(3))
    torch.testing.assert_close(attend(q, k, v).out[0, 0], expected)


def test_a_query_that_may_look_nowhere_gets_nothing_on_either_path():
    q, mask = heads(1, 2, 3, 4), torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    for weights in (True, False):
        out = attend(q, q, q, mask, weights=weights).out
        assert (out[:, :, 1] == 0).all() and out[:, :, 0].abs().sum() > 0


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(InputError, match="4 columns for 3 keys"):
        attend(heads(1, 1, 3, 4), heads(1, 1, 3, 4), heads(1, 1, 3, 4), torch.ones(3, 4, dtype=torch.bool))


def test_rotation_knows_only_distances():
    q, k = heads(1, 1, 1, 8), heads(1, 1, 1, 8)

    def product(i: int, j: int) -> torch.Tensor:
        return (rotate(q, torch.tensor([i])) * rotate(k, torch.tensor([j]))).sum()

    torch.testing.assert_close(product(3, 1), product(45, 43), rtol=1e-5, atol=1e-6)
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3
    one_by_one = rotate(heads(2, 1, 3, 8), torch.tensor([[0, 1, 2], [5, 6, 7]]))
    torch.testing.assert_close(one_by_one[1], rotate(heads(2, 1, 3, 8)[1:], torch.tensor([5, 6, 7]))[0])


def test_block_on_a_memory_equals_block_on_the_whole():
    torch.manual_seed(0)
    block, x, places = Block(16, 2).eval(), torch.randn(3, 6, 16), torch.arange(6)
    whole = block(x, mask=causal_mask(6), positions=places).out
    memory = block.prefill(x[:, :4], places[:4]).extend(block.prefill(x[:, 4:], places[4:]))
    tail = block(x[:, 5:], positions=places[5:], past=KVCache(*(part[:, :, :5] for part in memory))).out
    torch.testing.assert_close(tail, whole[:, 5:])
    torch.testing.assert_close(
        block(x[:, 4:], positions=places[4:], keys=(x, places), mask=causal_mask(6)[4:]).out, whole[:, 4:]
    )


def test_unilm_mask_equals_its_slow_definition():
    source = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    target = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    mask = unilm_mask(source, target)[:, 0]
    for b in range(2):
        there = torch.cat((source[b], target[b]))
        for i in range(7):
            for j in range(7):
                may = j < 4 if i < 4 else j <= i
                assert mask[b, i, j] == (may and there[j])


def test_target_mask_equals_its_slow_definition():
    profile, history = torch.tensor([[1, 0], [1, 1]]).bool(), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    fields = torch.tensor([[[1, 0], [1, 1], [0, 0]], [[1, 1], [1, 1], [1, 1]]]).bool()
    position = torch.tensor([[0, 1, 2], [0, 2, 2]])
    mask = target_mask(profile, history, fields, position)[:, 0]
    assert mask.shape == (2, 3, 2 + 3 + 6)
    for b in range(2):
        for q in range(3):
            for j in range(11):
                if j < 2:
                    may = profile[b, j]
                elif j < 5:
                    may = history[b, j - 2] and j - 2 < position[b, q]
                else:
                    owner, field = divmod(j - 5, 2)
                    may = owner == q and fields[b, owner, field]
                assert mask[b, q, j] == may, (b, q, j)
