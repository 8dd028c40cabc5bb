"""Late interaction and M6-Edge: training the segment network, its small variants, early exits, int8 and ONNX.

All variants of one seed begin from one network of full depth, each is trained once and kept; where two are compared,
both have had as many steps with labels. Source: M6-Rec section 4.2.
"""

import copy
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.utils import parametrize

from m6rec.config import Config
from m6rec.data.ratings import RatingWindows, Windows
from m6rec.errors import InputError
from m6rec.model.text_model import TextTransformer
from m6rec.train.checkpoint import version
from m6rec.train.fit import Stage, fit, fit_once
from m6rec.train.losses import SegmentLoss, distillation, exit_losses, relation_distillation

STEPS = 50  # of one epoch, which is only what a checkpoint is kept after
CANDIDATES = 24  # judged by one history while training


def train(
    network: TextTransformer,
    data: RatingWindows,
    loss: SegmentLoss,
    config: Config,
    *,
    name: str,
    epochs: int,
    origin: str = "",
    steps: int = STEPS,
    keep: bool = True,
) -> TextTransformer:
    """Train in place for so many epochs of so many steps, or take what the cache kept of the same; -> the network.

    The averaged weights of the end are kept: nothing is chosen by the test or by the validation. keep: in the cache,
    by name, config, data, the weights that it starts from, and `origin`: what else decides, such as the teacher.
    """  # fmt: skip
    stage = Stage(
        name=name,
        epochs=epochs,
        batches=lambda rng: data.batches(rng, steps=steps, size=config.batch, candidates=CANDIDATES),
        losses=lambda net, windows, rng: loss(net, windows),
        keep="last",
    )
    if keep:
        parts = (epochs, steps, origin, data.fingerprint, version(network))
        fit_once(network, stage, config, *parts, code=(Variants,))
    else:
        fit(network, stage, config)
    return network


@torch.no_grad()
def logits(
    network: TextTransformer, data: RatingWindows, part: np.ndarray, *, local_layers: int = 0, every: bool = False
) -> np.ndarray:
    """Logits (W, C) of a part's rows (W, C), or (K, W, C) of every exit after the layers alone."""
    rows = []
    for at in range(0, len(part), 32):
        windows = data.windows(part[at : at + 32])
        said = [step.logits for step in network.eval().exits(windows, local_layers)]
        rows.append(torch.stack(said if every else said[-1:]))
    out = torch.cat(rows, 1).cpu().numpy()
    return out if every else out[0]


def labels(data: RatingWindows, part: np.ndarray) -> np.ndarray:
    """(W, C) bool: liked, that is rated 4 or 5."""
    return data.liked[part] > 0


def auc(scores: np.ndarray, liked: np.ndarray) -> float:
    """The chance that a liked candidate scores above one that is not, over all users' candidates at once."""
    return float(roc_auc_score(liked.ravel(), scores.ravel()))


class Variant(NamedTuple):
    """A network, and how many of its layers read each segment alone."""

    network: TextTransformer
    local_layers: int

    def auc(self, data: RatingWindows, part: np.ndarray) -> float:
        """Over a part's candidates."""
        return auc(logits(self.network, data, part, local_layers=self.local_layers), labels(data, part))


class Variants:
    """`config.joint_layers` is the full depth; epochs and tune count passes of so many steps.

    Every method trains a network or takes it from the cache.
    """

    def __init__(self, data: RatingWindows, config: Config, *, epochs: int, tune: int, steps: int = STEPS):
        self.data, self.config, self.epochs, self.tune, self.steps = data, config, epochs, tune, steps
        self._trained: dict[str, TextTransformer] = {}

    def members(self, joints: Sequence[int]) -> dict[str, Variant]:
        """Whole passes, late interaction and distilled networks of these depths, by name."""
        late = {f"late {k}": Variant(self.late(k), self.config.joint_layers - k) for k in joints}
        distilled = {f"distilled {k}": Variant(self.distilled(k), 0) for k in joints}
        return {"full": Variant(self.full(), 0), **late, **distilled}

    def full(self) -> TextTransformer:
        """All layers see all segments; an exit at every layer."""
        return self._once("full", lambda: copy.deepcopy(self._base()), exit_losses(), self.tune)

    def late(self, joint: int) -> TextTransformer:
        """The base, tuned with segments that interact in the last `joint` layers only: as many steps as `full`."""
        loss = exit_losses(self.config.joint_layers - joint)
        return self._once(f"late-{joint}", lambda: copy.deepcopy(self._base()), loss, self.tune)

    def distilled(self, depth: int) -> TextTransformer:
        """The first layers of `full`, distilled from it: as deep as what late interaction runs at request time."""
        teacher = self.full()
        config = dataclasses.replace(self.config, joint_layers=depth)
        start = lambda: first_layers(teacher, config)  # noqa: E731
        return self._once(f"distilled-{depth}", start, distillation(teacher), self.tune, version(teacher))

    def edge(self, depth: int = 6, embedding_size: int = 4) -> TextTransformer:
        """One shared block and a factorised token table (Lan et al. 2020): relations first, then labels and logits.

        The paper distils relations while pretraining. Here scoring is all that is learnt, so what is left of that is
        the order: no label is seen before the relations.
        """
        teacher = self.full()

        def start() -> TextTransformer:
            torch.manual_seed(self.config.seed)
            config = dataclasses.replace(self.config, joint_layers=depth)
            small = TextTransformer(
                config, len(self.data.tokenizer), scores=True, shared=True, embedding_size=embedding_size
            )
            return self._train("edge-relations", small, relation_distillation(teacher), self.tune, version(teacher))

        return self._once("edge", start, distillation(teacher), 2 * self.tune, version(teacher))

    def pruned(self, share: float = 0.8) -> TextTransformer:
        """`full` with the smallest of every matrix cut while it is tuned on."""
        if (name := f"pruned-{share}") not in self._trained:
            network, learn = copy.deepcopy(self.full()), exit_losses()
            pruning = Pruning(network, share, self.tune * self.steps)

            def loss(net: TextTransformer, windows: Windows) -> dict[str, Tensor]:
                pruning.step()
                return learn(net, windows)

            self._trained[name] = self._train(name, network, loss, self.tune)
            pruning.finish()
        return self._trained[name]

    def _base(self) -> TextTransformer:
        def start() -> TextTransformer:
            torch.manual_seed(self.config.seed)
            return TextTransformer(self.config, len(self.data.tokenizer), scores=True)

        return self._once("base", start, exit_losses(), self.epochs)

    def _once(
        self, name: str, start: Callable[[], TextTransformer], loss: SegmentLoss, epochs: int, origin: str = ""
    ) -> TextTransformer:
        if name not in self._trained:
            self._trained[name] = self._train(name, start(), loss, epochs, origin)
        return self._trained[name]

    def _train(
        self, name: str, network: TextTransformer, loss: SegmentLoss, epochs: int, origin: str = ""
    ) -> TextTransformer:
        options = {"name": name, "epochs": epochs, "origin": origin, "steps": self.steps}
        return train(network, self.data, loss, self.config, **options)


def first_layers(teacher: TextTransformer, config: Config) -> TextTransformer:
    """A network of `config.joint_layers` that begins as the teacher's first ones."""
    small = TextTransformer(config, teacher.tokens.num_embeddings, scores=True)
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
def serve_early_exit(network: TextTransformer, windows: Windows, threshold: float) -> tuple[Tensor, int]:
    """The same rule, served: logits (B, C), and how many layers were run until all candidates were sure."""
    out = torch.zeros_like(windows.liked, device=network.device)
    open_ = torch.ones_like(out, dtype=torch.bool)
    for count, step in enumerate(network.exits(windows), 1):
        leaving = open_ & ((step.logits.abs() >= threshold) | (count == network.depth))
        out, open_ = torch.where(leaving, step.logits, out), open_ & ~leaving
        if not open_.any():
            break
    return out, count


class _Exported(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, network: TextTransformer):
        super().__init__()
        self.network = network

    def forward(self, source: Tensor, candidates: Tensor) -> Tensor:
        return self.network.scores(Windows(source, candidates, candidates[:, :, 0]))


def export(network: TextTransformer, windows: Windows, file: Path) -> Path:
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
