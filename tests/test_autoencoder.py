"""The autoencoder: the printed program's faults are faults, the mended one learns, and its photographs are whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from m6rec.data import image, load
from m6rec.errors import InputError
from m6rec.train.fit import Autoencoder, fitted, pca

RELU = torch.nn.ReLU


@pytest.fixture(scope="module")
def garments() -> torch.Tensor:
    """(320, 784): some of bazaar's photographs, enough to learn something in a second."""
    data = load("bazaar")
    names = data.items["image"].dropna().unique()[:320]
    return torch.from_numpy(np.stack([image.decode(data.media.read(name)).ravel() for name in names]))


# -------------------------------------------------------------------------------------------------- the mended one


def test_a_photograph_goes_through_64_numbers_and_back(garments):
    model = Autoencoder()
    assert model.encoder(garments).shape == (len(garments), 64)
    assert model(garments).shape == garments.shape
    torch.testing.assert_close(model(garments), model.decoder(model.encoder(garments)))
    layers = [tuple(w.shape)[::-1] for w in model.parameters() if w.ndim == 2]
    assert layers == [(784, 256), (256, 128), (128, 64), (64, 128), (128, 256), (256, 784)]


def test_the_loss_goes_down_and_drawings_come_closer_than_the_mean_photograph(garments):
    losses = []

    def watched(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        losses.append(mse_loss(drawn, truth).item())
        return mse_loss(drawn, truth)

    model = fitted(garments, steps=150, loss=watched)
    assert len(losses) == 150 and np.mean(losses[-20:]) < np.mean(losses[:20]) / 4
    mean = garments.mean(0).expand_as(garments)
    assert mse_loss(model(garments), garments) < mse_loss(mean, garments) / 2


def test_one_seed_gives_one_model_and_another_another(garments):
    one, same, other = (fitted(garments, seed=seed, steps=12)(garments) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_training_leaves_the_global_dice_alone(garments):
    dice = torch.manual_seed(7).get_state()
    fitted(garments, steps=2)
    assert torch.equal(torch.get_rng_state(), dice)


def test_an_epoch_meets_every_photograph_once():
    met = []  # the photographs of each step
    pixels = torch.arange(128.0)[:, None].expand(128, 784) / 128

    def watched(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        met.append((truth[:, 0] * 128).round().long().tolist())
        return mse_loss(drawn, truth)

    for seed in (0, 1):
        fitted(pixels, steps=4, loss=watched, seed=seed)
    for first, second in zip(met[::2], met[1::2], strict=True):
        assert sorted(first + second) == list(range(128))
    assert met[0] != met[2] and met[0] != met[4], "each epoch and each seed has an order of its own"


@pytest.mark.parametrize("shape", [(63, 784), (64, 28, 28)])
def test_too_few_photographs_or_squares_are_refused_in_a_sentence(shape):
    with pytest.raises(InputError, match=r"give \(N, 784\) with at least one batch of 64"):
        fitted(torch.zeros(shape), steps=1)


def test_pca_with_as_many_numbers_as_photographs_draws_them_and_with_none_their_mean(garments):
    few = garments[:40]
    torch.testing.assert_close(pca(few, few, 40), few, rtol=0, atol=1e-3)
    errors = [float(mse_loss(pca(few, few, count), few)) for count in (1, 8, 32)]
    assert errors == sorted(errors, reverse=True) and errors[0] < mse_loss(few.mean(0).expand_as(few), few)


# ----------------------------------------------------------------------------------------------- the printed one


def test_cross_entropy_costs_a_perfect_copy_more_than_a_wrong_drawing_and_cannot_see_brightness(garments):
    copy, glaring = cross_entropy(garments, garments), cross_entropy(4 * garments, garments)
    assert glaring < copy and mse_loss(4 * garments, garments) > 1
    torch.testing.assert_close(cross_entropy(garments + 0.5, garments), copy)


def test_a_relu_on_the_output_passes_no_gradient_where_a_drawing_is_dark(garments):
    lit = (garments > 0).any(0)
    for ends, alive in ((RELU, False), (torch.nn.Identity, True)):
        torch.manual_seed(0)
        model = Autoencoder(ends=ends)
        mse_loss(model(garments), garments).backward()
        gradient = model.decoder[-2].bias.grad  # one of each pixel
        assert bool((gradient[lit] != 0).all()) is alive


def test_pixels_that_a_relu_leaves_dark_are_lit_without_it(garments):
    lit = (garments > 0).any(0)
    dark = {}
    for ends in (RELU, torch.nn.Identity):
        model = fitted(garments, steps=60, activation=RELU, ends=ends, peak=None)
        dark[ends] = int(((model(garments) <= 0).all(0) & lit).sum())
    assert dark[RELU] > 100 and dark[torch.nn.Identity] == 0


def test_no_relu_keeps_a_drawing_within_0_and_1(garments):
    model = fitted(garments, steps=80, activation=RELU, ends=RELU, peak=None, loss=cross_entropy)
    assert model(garments).min() >= 0 and model(garments).max() > 1.5
