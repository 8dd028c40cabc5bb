"""Late interaction and M6-Edge (M6-Rec section 4.2): small variants of the segment network, early exits, int8."""

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from m6rec.config import Array, Config, InputError
from m6rec.data.cooccurrence import cooccurrence_init
from m6rec.data.prompts import ClickWindows, Windows, domain
from m6rec.model.network import TextTransformer
from m6rec.train.fit import Stage, fit, version
from m6rec.train.losses import distillation, exit_losses


@torch.no_grad()
def exit_logits(network: TextTransformer, windows: Windows, local_layers: int = 0) -> Array:
    """Logits (K, B, C) of every exit after the local layers."""
    parts = (windows.rows(slice(at, at + 32)) for at in range(0, len(windows.source), 32))
    return torch.cat([torch.stack([*network.eval().exits(part, local_layers)]) for part in parts], 1).cpu().numpy()


def any_cut(network: TextTransformer, windows: Windows) -> dict[str, Tensor]:
    """After a drawn number of local layers: matching is learnt soonest on segments apart."""
    return exit_losses(network, windows, int(torch.randint(network.depth, ())))


class Variants:
    """Each method trains a network or takes it from the cache; the end's averaged weights.

    A network sees labels for `steps` with any number of local layers, then for `tune` more in its own way."""

    def __init__(self, data: ClickWindows, config: Config, *, steps: int, tune: int):
        self.data, self.config, self.steps, self.tune = data, config, steps, tune
        words = [domain(data.data, data.is_train)], data.tokenizer
        self._table = cache(partial(cooccurrence_init, *words, seed=config.seed, power=0.5))  # of tokens, by its width

    def full(self) -> TextTransformer:
        return self.shallow(self.config.joint_layers)

    def late(self, joint: int) -> TextTransformer:
        """Segments interact in the last `joint` layers only."""
        loss = partial(exit_losses, local_layers=self.config.joint_layers - joint)
        return self.train(f"late-{joint}", self._base(self.config.joint_layers), loss)

    def shallow(self, depth: int) -> TextTransformer:
        """Of fewer layers from the first step on."""
        return self.train(f"joint-{depth}", self._base(depth), any_cut)

    def edge(self, depth: int = 4, width: int = 32, embedding_size: int = 6) -> TextTransformer:
        """One shared block and a factorised token table (Lan et al. 2020), distilled from `full`."""
        small = self._base(depth, width, shared=True, embedding_size=embedding_size)
        return self.train("edge", small, partial(distillation, teacher=self.full()), 3 * self.tune)

    def pruned(self, share: float = 0.8) -> TextTransformer:
        """`full`, tuned while more of every matrix is cut, the smallest first (Zhu & Gupta 2017, eq. 1).

        The last fifth of the steps only heals. InputError for a share outside 0..1."""
        if not 0 < share < 1:
            raise InputError(f"share={share} cannot be pruned: take more than 0 and less than 1.")
        network, done = self.full(), itertools.count(1)
        for module in (matrices := _matrices(network)):
            parametrize.register_parametrization(module, "weight", Sparse(module.weight))

        def loss(net, windows):
            left = max(0.0, 1 - next(done) / (0.8 * self.tune))
            for weight in (module.parametrizations.weight for module in matrices):
                weight[0].cut(weight.original, share * (1 - left**3))
            return any_cut(net, windows)

        self.train(f"pruned-{share}", network, loss)
        for module in matrices:
            parametrize.remove_parametrizations(module, "weight")  # with its zeros
        return network

    def train(self, name: str, network: TextTransformer, loss: Callable, steps: int = 0) -> TextTransformer:
        """In place, with loss(network, windows) -> dict[str, Tensor]."""
        steps = steps or self.tune
        batches = partial(self.data.batches, steps=steps, size=self.config.batch)
        stage = Stage(name, 1, batches, lambda net, windows, _: loss(net, windows))
        told = (version(one) if isinstance(one, nn.Module) else one for one in getattr(loss, "keywords", {}).values())
        fit(network, stage, self.config, steps, *told, self.data.fingerprint, keep=True)
        return network

    @torch.random.fork_rng()
    def _base(self, depth: int, width: int = 0, **options: object) -> TextTransformer:
        """Words that follow each other in training histories begin near; attention is a mean."""
        torch.manual_seed(self.config.seed)
        config = replace(self.config, joint_layers=depth, width=width or self.config.width)
        network = TextTransformer(config, len(self.data.tokenizer), scores=True, **options)
        size, eye = network.tokens.embedding_dim, torch.eye(config.width)
        with torch.no_grad():
            network.tokens.weight[1:] = self._table(size)[1:] * size**0.5
            for block in network.blocks:
                block.kv.weight.unflatten(0, (block.heads, 2, -1))[:, 1] = eye.unflatten(0, (block.heads, -1))
                block.out.weight.copy_(eye)
                block.ffn[-1].weight.zero_()
        return self.train("base", network, any_cut, self.steps)


def _matrices(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Embedding))]


def parameters(network: nn.Module) -> int:
    """Pruned ones do not count."""
    return sum(int((p != 0).sum()) for p in network.parameters())


class Sparse(nn.Module):
    """W ⊙ mask, in the gradient, too."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    @torch.no_grad()
    def cut(self, weight: Tensor, share: float) -> None:
        """Mask the smallest, whatever was masked before."""
        if count := round(share * weight.numel()):
            self.mask.copy_(weight.abs() > weight.abs().flatten().kthvalue(count).values)


class Exits(NamedTuple):
    logits: Array  # (...): each from the exit that was sure enough
    layers: Array  # (...): how many layers it took


@torch.no_grad()
def early_exit(exits: Iterable[Tensor | Array], threshold: float) -> Exits:
    """Logits (...) of one exit after the other -> the first whose |logit| reaches the threshold, else the last.

    Once all are sure, later layers of `network.exits(windows)` are not run."""
    for count, logits in enumerate(map(torch.as_tensor, exits), 1):
        if count == 1:
            out, layers, unsure = logits, torch.ones_like(logits), torch.ones_like(logits, dtype=torch.bool)
        out, layers = torch.where(unsure, logits, out), torch.where(unsure, count, layers)
        unsure = unsure & (logits.abs() < threshold)
        if not unsure.any():
            break
    return Exits(out.cpu().numpy(), layers.cpu().numpy())


def exit_threshold(every: Array, quality: Callable[[Array], float], keep: float) -> float:
    """The lowest whose quality is at least `keep` of the last exit's; choose it on validation."""
    wanted, thresholds = keep * quality(every[-1]), np.quantile(np.abs(every), np.linspace(0, 1, 101))
    return next((float(t) for t in thresholds if quality(early_exit(every, t).logits) >= wanted), np.inf)


@torch.no_grad()
def int8(network: TextTransformer) -> TextTransformer:
    """A copy with matrices rounded to 8 bits, a scale for each row. It computes in 32 bits."""
    network = copy.deepcopy(network)
    for module in _matrices(network):
        scale = module.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        module.weight.copy_((module.weight / scale).round() * scale)
    return network
