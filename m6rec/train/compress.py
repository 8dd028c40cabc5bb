"""M6-Edge: a small student, pruned weights, early exits, int8, and a file that runs without PyTorch.

Source: M6-Rec section 4.2. What each step costs is counted in bytes that a file of it would take.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from m6rec.config import Config
from m6rec.data.ratings import Windows
from m6rec.errors import InputError
from m6rec.model.segments import SegmentNetwork


def first_layers(teacher: SegmentNetwork, config: Config) -> SegmentNetwork:
    """A network of `config.joint_layers` that begins as the teacher's first ones."""
    small = SegmentNetwork(config, teacher.tokens.num_embeddings)
    known = teacher.state_dict()
    small.load_state_dict({name: known[name] for name in small.state_dict()})
    return small


def parameters(network: nn.Module) -> int:
    """How many numbers a network has; pruned ones are not counted."""
    return sum(int((p != 0).sum()) for p in network.parameters())


class Sparse(nn.Module):
    """A weight of which only the largest stay: W ⊙ mask, in the forward pass and so in the gradient."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))
        self.register_buffer("done", torch.tensor(0))  # steps so far: here, so that an interrupted training goes on

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Pruning:
    """Gradual magnitude pruning: the share that is cut grows as 1 − (1 − t/T)³, each matrix by its own smallest.

    Call `step()` before every training step, and `finish()` at the end. Source: Zhu & Gupta 2017, eq. 1.
    """

    def __init__(self, network: nn.Module, share: float, steps: int):
        if not 0 < share < 1:
            raise InputError(f"share={share} cannot be pruned: take more than 0 and less than 1.")
        self.share, self.steps, self.done = share, steps, None
        self.places = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Embedding)) and m.weight.ndim == 2]
        for module in self.places:
            parametrize.register_parametrization(module, "weight", Sparse(module.weight.detach()))

    @torch.no_grad()
    def step(self) -> None:
        """Cut what is due now. The last fifth of the steps only heals."""
        if self.done is None:  # read once: after that no step waits for the device
            self.done = int(self.places[0].parametrizations.weight[0].done)
        self.done += 1
        left = max(0.0, 1 - self.done / (0.8 * self.steps))
        for module in self.places:
            sparse, weight = module.parametrizations.weight[0], module.parametrizations.weight.original
            sparse.done.fill_(self.done)
            if count := round(self.share * (1 - left**3) * weight.numel()):
                sparse.mask.copy_(weight.abs() > weight.abs().flatten().kthvalue(count).values)

    def finish(self) -> None:
        """Make the zeros a part of the weights."""
        for module in self.places:
            parametrize.remove_parametrizations(module, "weight")


class Exits(NamedTuple):
    """What a confidence rule does to some candidates."""

    logits: np.ndarray  # (...): each from the exit that was sure enough
    layers: np.ndarray  # (...): how many layers it took

    def saved(self, depth: int) -> float:
        """The share of layers that was not run."""
        return 1 - float(self.layers.mean()) / depth


def early_exit(every: np.ndarray, threshold: float) -> Exits:
    """Logits of every exit (K, ...) -> the first whose |logit| reaches the threshold, else the last."""
    sure = np.abs(every) >= threshold
    sure[-1] = True
    first = sure.argmax(0)
    return Exits(np.take_along_axis(every, first[None], 0)[0], first + 1)


def exit_threshold(every: np.ndarray, quality: Callable[[np.ndarray], float], keep: float) -> float:
    """The lowest threshold whose quality is at least `keep` of the last exit's: to be chosen on validation."""
    wanted = keep * quality(every[-1])
    for threshold in np.quantile(np.abs(every), np.linspace(0, 1, 101)):
        if quality(early_exit(every, threshold).logits) >= wanted:
            return float(threshold)
    return float("inf")


@torch.no_grad()
def serve_early_exit(network: SegmentNetwork, windows: Windows, threshold: float) -> tuple[Tensor, int]:
    """The same rule, served: logits (B, C), and how many layers were run until all candidates were sure."""
    out = torch.zeros_like(windows.liked, device=network.device)
    open_ = torch.ones_like(out, dtype=torch.bool)
    for count, step in enumerate(network.steps(windows), 1):
        leaving = open_ & ((step.logits.abs() >= threshold) | (count == network.depth))
        out, open_ = torch.where(leaving, step.logits, out), open_ & ~leaving
        if not open_.any():
            break
    return out, count


class _Exported(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, network: SegmentNetwork):
        super().__init__()
        self.network = network

    def forward(self, source: Tensor, candidates: Tensor) -> Tensor:
        return self.network(Windows(source, candidates, candidates[:, :, 0]))


def export(network: SegmentNetwork, windows: Windows, file: Path) -> Path:
    """Write the whole pass as ONNX, for any number of windows and candidates, with its weights inside the file."""
    batch, count = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("count", min=1, max=1024)
    with _edge():
        from onnx_ir.passes import common

        program = torch.onnx.export(
            _Exported(copy.deepcopy(network).cpu().eval()),
            (windows.source, windows.candidates),
            input_names=["source", "candidates"],
            output_names=["logits"],
            dynamic_shapes=({0: batch}, {0: batch, 1: count}),
            dynamo=True,
            verbose=False,
        )
    # Stack traces of every node, and one copy of a shared block for each layer, are nine tenths of a small file.
    common.ClearMetadataAndDocStringPass()(program.model)
    common.DeduplicateInitializersPass(size_limit=sys.maxsize)(program.model)
    program.save(file, external_data=False)
    return Path(file)


def quantise(file: Path, to: Path) -> Path:
    """Dynamic int8: weights are rounded once, activations when they are computed."""
    with _edge():
        from onnxruntime import quantization

        quantization.quantize_dynamic(str(file), str(to), weight_type=quantization.QuantType.QInt8, per_channel=True)
    return Path(to)


class Runtime:
    """An ONNX file in onnxruntime, on one thread: windows -> logits (B, C)."""

    def __init__(self, file: Path):
        with _edge():
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, windows: Windows) -> np.ndarray:
        feed = {"source": windows.source.numpy(), "candidates": windows.candidates.numpy()}
        return self.session.run(["logits"], feed)[0]


@contextmanager
def _edge() -> Iterator[None]:
    """The extra's packages: named where they are missing, and without their warnings of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        except ImportError as error:
            raise InputError(f"{error.name} is not installed: pip install 'm6rec[edge]'.") from None
        finally:
            logging.disable(logging.NOTSET)
