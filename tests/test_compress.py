"""M6-Edge: a student, pruned weights, early exits and int8 keep what they say they keep."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from fixtures import DEPTH, SEGMENTS, requests
from sklearn.metrics import roc_auc_score

from m6rec.config import InputError
from m6rec.model.network import TextTransformer
from m6rec.train import compress, losses
from m6rec.train.compress import Variants
from m6rec.train.fit import version


def test_the_student_has_one_block_for_all_layers(segmented, network):
    small = TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True, shared=True, embedding_size=4)
    block = compress.parameters(network.blocks[0])
    assert compress.parameters(network) - compress.parameters(small) > (DEPTH - 1) * block
    assert small.depth == DEPTH and len(small.blocks) == 1
    windows = requests(segmented)
    small.scores(windows).sum().backward()
    assert small.blocks[0].q.weight.grad.abs().sum() > 0


def test_pruning_ends_at_its_share_and_the_zeros_stay(segmented, network, tmp_path, monkeypatch):
    shares, learn = [], losses.exit_losses

    def watched(net, windows, *local):
        shares.append(float((net.blocks[0].q.weight == 0).float().mean()))
        return learn(net, windows, *local)

    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    monkeypatch.setattr(compress, "exit_losses", watched)
    variants = Variants(segmented, SEGMENTS, steps=50, tune=50)
    for head in network.heads:  # which start at zero
        torch.nn.init.normal_(head.weight)
    variants.full = lambda: network
    pruned = variants.pruned(0.8)
    assert shares == sorted(shares) and 0.05 < shares[1] < 0.3 and abs(shares[-1] - 0.8) < 0.01  # gradually
    assert not any("parametriz" in name for name in pruned.state_dict())
    for module in pruned.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            assert abs(float((module.weight == 0).float().mean()) - 0.8) < 0.05
    with pytest.raises(InputError, match="cannot be pruned"):
        variants.pruned(1.0)


def test_pruning_keeps_the_largest():
    weight, sparse = torch.randn(20, 30), compress.Sparse(torch.zeros(20, 30))
    for share in (0.2, 0.5):
        sparse.cut(weight, share)
        kept = sparse(weight) != 0
        assert float(kept.float().mean()) == pytest.approx(1 - share)
        assert weight[kept].abs().min() >= weight[~kept].abs().max()


def test_a_candidate_leaves_at_the_first_exit_that_is_sure():
    every = np.array([[0.1, 2.0, -3.0], [0.2, -0.3, 0.1], [-1.5, 0.0, 0.0], [0.4, 9.0, 9.0]])
    left = compress.early_exit(every, 1.0)
    assert left.logits.tolist() == [-1.5, 2.0, -3.0] and left.layers.tolist() == [3, 1, 1]
    assert compress.early_exit(every, 100.0).layers.tolist() == [4, 4, 4]


def test_the_served_rule_is_the_rule_and_runs_fewer_layers(segmented, network):
    windows = requests(segmented)
    every = compress.exit_logits(network, windows)
    threshold = float(np.quantile(np.abs(every), 0.5))
    wanted = compress.early_exit(every, threshold)
    for row in range(5):
        one, run = type(windows)(*(part[row : row + 1] for part in windows)), []
        served = compress.early_exit((run.append(1) or logits for logits in network.exits(one)), threshold)
        np.testing.assert_allclose(served.logits[0], wanted.logits[row], atol=1e-5)
        assert (served.layers[0] == wanted.layers[row]).all() and len(run) == wanted.layers[row].max()
    assert wanted.layers.min() < DEPTH


def test_the_threshold_keeps_the_quality_that_was_asked_for():
    rng = np.random.default_rng(0)
    liked = rng.random(2000) < 0.5
    every = np.stack([(liked - 0.5) * strength + rng.normal(0, 1, 2000) for strength in (0.5, 1.0, 2.0, 4.0)])
    quality = lambda scores: roc_auc_score(liked, scores)  # noqa: E731
    threshold = compress.exit_threshold(every, quality, keep=0.95)
    left = compress.early_exit(every, threshold)
    assert quality(left.logits) >= 0.95 * quality(every[-1]) and 0.1 < 1 - left.layers.mean() / 4 < 0.75


def test_int8_keeps_each_row_of_a_matrix_to_half_a_step_and_the_network_as_it_was(segmented, network):
    before, windows = version(network), requests(segmented)
    rounded, said = compress.int8(network), network.scores(windows)
    for matrix, whole in zip(compress._matrices(rounded), compress._matrices(network), strict=True):
        step = whole.weight.abs().amax(1, keepdim=True) / 127
        assert (matrix.weight - whole.weight).abs().le(0.501 * step).all()
        assert all(len(row.unique()) <= 255 for row in matrix.weight)
    assert 0 < (rounded.scores(windows) - said).abs().max() < 0.2 * (said.max() - said.min())
    assert version(network) == before


def test_a_family_trains_each_network_once_and_finds_it_again(segmented, tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    config = dataclasses.replace(SEGMENTS, joint_layers=2)

    def versions():
        variants = Variants(segmented, config, steps=4, tune=4)
        made = [variants.full(), variants.late(1), variants.shallow(1), variants.edge(depth=2), variants.pruned(0.5)]
        return [version(network) for network in made]

    first, files = versions(), sorted((tmp_path / "models").iterdir())
    assert len(set(first)) == 5 and len(files) == 8  # and three bases
    assert versions() == first and sorted((tmp_path / "models").iterdir()) == files
    other = Variants(segmented, config, steps=8, tune=4)
    assert version(other.edge(depth=2)) != first[3]  # another teacher
    taught = [
        version(other.train("own", other._base(1), partial(losses.distillation, teacher=teacher)))
        for teacher in (other.full(), other.late(1))
    ]
    assert taught[0] != taught[1]
