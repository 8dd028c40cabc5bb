"""Every setting of a training, three presets, and the error for bad input."""

import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import numpy as np
import pandas as pd
import torch

MODALITIES = ("text", "image", "sound")
FUSIONS = ("joint", "gated", "cross")
CONTEXT_FUSIONS = ("attention", "gating", "adding")
COLUMN_TYPES = ("categorical", "number", "time", "text")
Verb = TypeVar("Verb", bound=Callable)  # a function or class
Array, Frame, Rng = np.ndarray, pd.DataFrame, np.random.Generator


def plain(text: object, length: int = 80) -> str:
    """At most `length` characters of a line; what could steer a terminal becomes a space."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


class InputError(ValueError):
    """One line that names the value, what is wrong, and the fix; the command line exits with 2."""

    def __init__(self, sentence: str):
        ends = plain(sentence, 500), plain(sentence[-300:], 300)
        super().__init__(" ".join(ends) if len(sentence) > 900 else plain(sentence, 900))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence alone."""
        return [f"InputError: {self}"]


def nearest(word: str, known: Iterable[str], n: int = 3, cutoff: float = 0.0) -> list[str]:
    return difflib.get_close_matches(word, known, n, cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""


def choose(name: str, value: object, known: Iterable[str]) -> None:
    """InputError for a value that is not known."""
    if value not in known:
        raise InputError(f'{name}="{value}" is unknown: take one of {", ".join(map(str, known))}.')


def at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name}={value} is too small: take {least} or more.")


def conform(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`, an annotation, with Python's numbers for NumPy's. InputError where it does not fit."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if Path in kinds and isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise InputError(f"{name}={value[:60]!r} cannot name a file: take other characters.")
    for one in kinds:
        base, of = get_origin(one) or one, get_args(one)
        if numbers := _NUMBERS.get(base):
            flag = isinstance(value, bool | np.bool_)
            if isinstance(value, numbers) and flag == (base is bool) and (base is not float or abs(value) < 1e30):
                return base(value)
        elif base is Mapping and of and isinstance(value, Mapping):
            return {conform(name, key, of[0]): conform(name, one, of[1]) for key, one in value.items()}
        elif base in (tuple, Sequence, Iterable):
            several = isinstance(value, Iterable) and getattr(value, "ndim", 1)
            if several and not isinstance(value, str | bytes | Mapping):
                if not of or of[0] is object:
                    return value
                value = tuple(value)
                each = of if base is tuple and of[-1] is not ... else of[:1] * len(value)
                if len(each) == len(value):
                    return tuple(conform(name, *pair) for pair in zip(value, each, strict=True))
        else:
            fits = base in (Any, inspect.Parameter.empty) or not isinstance(base, type) or isinstance(value, base)
            if fits or (base is Frame and value is not None):  # any table: checked as it is read
                return value
    nouns = [_NOUNS.get(get_origin(one) or one, f"a {getattr(one, '__name__', one)}") for one in kinds]
    due = " or ".join(noun for noun in nouns if noun)
    raise InputError(f"{name}={repr(value)[:60]} is of type {type(value).__name__}: give {due}.")


_NUMBERS = {bool: (bool, np.bool_), int: Integral, float: Real}
_NOUNS = {
    bool: "True or False", int: "a whole number", float: "a finite number", str: "a text", tuple: "a list",
    Sequence: "a list", Iterable: "a list", Mapping: "a dict", NoneType: "",
}  # fmt: skip


def typed(verb: Verb) -> Verb:
    """Checks the arguments of each call, or of a class's public methods, by `conform`.

    InputError also for one that the verb does not take."""
    if isinstance(verb, type):
        for name, one in list(vars(verb).items()):
            if name == "__init__" or not name.startswith("_"):
                if isinstance(one, classmethod | staticmethod):
                    setattr(verb, name, type(one)(typed(one.__func__)))
                elif inspect.isfunction(one):
                    setattr(verb, name, typed(one))
        return verb
    signature, of = inspect.signature(verb), verb.__qualname__.removesuffix(".__init__").lstrip("_")

    @functools.wraps(verb)
    def called(*args: object, **options: object) -> object:
        try:
            given = signature.bind(*args, **options)
        except TypeError as error:
            near = did_you_mean(str(error).rpartition("argument ")[2].strip("'"), signature.parameters)
            raise InputError(f"{of}: {error}{near}.") from None
        for name, value in given.arguments.items():
            parameter = signature.parameters[name]
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                given.arguments[name] = conform(f"{of}: {name}", value, parameter.annotation)
        return verb(*given.args, **given.kwargs)

    return called


@typed
@dataclasses.dataclass(frozen=True)
class Config:
    """InputError for an unknown name or numbers that do not fit together."""

    # --- the network
    width: int = 64  # D
    heads: int = 2  # H
    local_layers: int = 1  # blocks over an item's tokens. 0: a bag of them
    joint_layers: int = 2  # blocks over profile, history and target
    decoder_layers: int = 1  # blocks over the digits, or over text
    dropout: float = 0.2  # share of channels, before and after each sub-layer
    history: int = 100  # T, the latest events that are encoded
    recency: float = 0.8  # a target begins with the events' mean, each this much of the next. 0: the last alone
    # --- what it encodes
    identity: bool = True  # ID embeddings of known items. Off: content alone, as in the paper
    modalities: tuple[str, ...] = MODALITIES
    fusion: str = "joint"  # [ITEM] attends to all tokens; "gated": to each modality apart; "cross": from text to others
    modality_dropout: float = 0.1  # chance that an item lacks a modality; one stays
    catalogue_dropout: float = 0.0  # share of steps in which all items lack the same modalities
    history_fields: bool = True  # stars of past events, and the gaps between them
    profile: bool = True
    request: bool = True  # hour, weekday, gap since the last event, own columns
    # Of season, session, pace, tastes: see `context.derive`
    derived_features: tuple[str, ...] = ()
    # Types of own columns, as {"battery": "number"}: see `context.Field.fit`
    columns: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    context_fusion: str = "attention"  # to the request's tokens, after adding it; or "gating", or "adding" alone
    vocabulary: int = 2048  # V
    text_length: int = 24  # L, per item
    image_size: int = 28  # pixels a side, in patches of 7 × 7
    colour: bool = False
    sound_seconds: float = 1.0  # in patches of 0.128
    # --- semantic IDs
    digits: int = 3  # G, levels of the tree
    free_leaves: float = 0.15  # share of the tree's leaves for new items
    # --- training
    pretrain_epochs: int = 15  # passes over all training events (0: `item_epochs` alone)
    finetune_epochs: int = 5  # more passes, with the digits' losses added
    batch: int = 64  # B, sequences per step
    learning_rate: float = 1e-3  # of AdamW
    weight_decay: float = 0.01  # of AdamW, decoupled
    average: float = 0.99  # decay per step of the weights' average, which is validated and kept
    patience: int = 3  # validations without a better NDCG@10 that end it
    validate_every: int = 5  # epochs
    item_epochs: int = 0  # passes over items' contents alone, before any event
    infill_weight: float = 0.0  # of text infilling and captions: it costs a tenth of the NDCG@10
    patch_weight: float = 0.2  # of masked image and sound patches
    align_weight: float = 0.1  # of the contrast between an item's modalities
    text_weight: float = 0.0  # of prompts in words
    teacher_weight: float = 1.0  # of the dense head's distillation into the digits
    # Standard deviation of `cooccurrence.spectral` vectors: ID embeddings start there, or, with identity=False,
    # contents learn to predict them in `item_epochs`. 0: neither.
    spectral: float = 0.1
    smoothing: float = 0.2  # share of a target's probability for co-occurring items; not with `negatives`
    negatives: int = 0  # per step, of softmax and distillation. 0: all items, but 2,048 above 50,000
    seed: int = 0  # of initialisation, order and dropout
    device: str = "auto"  # see `pick_device`
    # "fp32", "bf16" or "auto": bf16 on a GPU that has it. Weights, losses and lists have 32 bits: in 16, scores tie.
    precision: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        if wrong := next((sentence for holds, sentence in self._checks() if not holds), ""):
            raise InputError(f"{wrong}.")

    def _checks(self) -> Iterator[tuple[object, str]]:
        values = self.to_dict()
        for name, known in _KNOWN.items():
            for one in values[name] if isinstance(values[name], tuple) else (values[name],):
                choose(name, one, known)
        for name, kind in self.columns:
            choose(f"column {name}", kind, COLUMN_TYPES)
        for name, value in values.items():
            if isinstance(value, int | float):
                low, high = _RANGES.get(name, (0, 10**6))
                yield low <= value <= high, f"{name}={value} is outside its range: take {low} to {high}"
        heads, patches = (2 * self.heads, f"heads={self.heads} of an even size"), (7, "patches of 7 × 7 pixels")
        for name, (unit, parts) in (("width", heads), ("image_size", patches)):
            fix = f"take a multiple of {unit}, such as {unit * max(1, values[name] // unit)}"
            yield values[name] % unit == 0, f"{name}={values[name]} cannot be split into {parts}: {fix}"
        yield self.identity or self.modalities, "identity=False and modalities=() leave nothing: switch one on"
        fits = self.local_layers or self.fusion == "joint"
        yield fits, f'local_layers=0 has no layer for "{self.fusion}": take fusion="joint"'

    @classmethod
    def preset(cls, name: str, **changes: object) -> "Config":
        """tiny: a minute on a laptop. small: five, the committed results. base: for a GPU."""
        choose("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **changes})

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @property
    def fingerprint(self) -> str:
        """Of all that decides what is computed: not device and precision."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("device", "precision")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_KNOWN = {
    "fusion": FUSIONS, "context_fusion": CONTEXT_FUSIONS, "precision": ("auto", "fp32", "bf16"),
    "modalities": MODALITIES, "derived_features": ("season", "session", "pace", "tastes"),
}  # fmt: skip
_RANGES = {  # of others 0 to a million: more would fill any memory
    "width": (4, 8_192), "heads": (1, 4_096), "local_layers": (0, 256), "joint_layers": (1, 256),
    "decoder_layers": (1, 256), "history": (2, 10**5), "vocabulary": (300, 10**6), "text_length": (2, 10**4),
    "digits": (1, 16), "batch": (1, 10**6), "patience": (1, 10**6), "validate_every": (1, 10**6), "seed": (0, 2**62),
    "image_size": (14, 112), "sound_seconds": (0.25, 10),
}  # fmt: skip
_SHARES = ("dropout", "modality_dropout", "catalogue_dropout", "free_leaves", "average", "smoothing", "recency")
_RANGES |= dict.fromkeys(_SHARES, (0, 0.9999))
PRESETS: dict[str, dict[str, object]] = {
    # In a hundred steps the average has to follow faster.
    "tiny": dict(history=50, pretrain_epochs=3, finetune_epochs=1, learning_rate=3e-3, average=0.95, validate_every=1),
    "small": {},
    "base": dict(width=256, heads=4, joint_layers=4, local_layers=2, decoder_layers=2, history=200),
}


def pick_device(name: str = "auto") -> torch.device:
    """By name; "auto": $M6REC_DEVICE, else a GPU, else the CPU. InputError where there is none."""
    if (torch.get_default_dtype(), torch.get_default_device().type) != (torch.float32, "cpu"):
        raise InputError("set PyTorch's defaults back to float32 and cpu: Config.device names a GPU.")
    if name == "auto":
        name = os.environ.get("M6REC_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: built without CUDA
        fix = 'take device="auto" or "cpu", or unset M6REC_DEVICE'
        raise InputError(f'device="{name}" was asked for, but PyTorch finds none here: {fix}.') from error


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """See `Config.precision`. InputError for bf16 where there is none."""
    gpu, cpu = device.type == "cuda", device.type == "cpu"
    has = torch.cuda.is_bf16_supported(False) if gpu else cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if name == "bf16" and not has:
        raise InputError(f'precision="bf16" was asked for, but this {device.type} does not have it: take "auto".')
    return torch.bfloat16 if name == "bf16" or (name == "auto" and gpu and has) else torch.float32
