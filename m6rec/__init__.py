"""m6rec: a generative pretrained, multimodal, context-aware recommender for open domains (M6-Rec, arXiv 2205.08084).

Shapes, in every docstring and comment:
B batch, T history events, C context tokens, M modalities, P patches, G digits, D width, H heads, K beam, N items,
V vocabulary; and Q targets, R request fields, L text tokens, U users, E events, S seeds."""

import os
import sys
from types import ModuleType

# Read as torch is loaded. Spinning threads slow everything 3 to 25 times beside another process; without any spinning
# an idle machine takes 1.4 times as long.
if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["Config", "Dataset", "InputError", "M6Rec", "evaluate", "load", "record", "scale"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # All with the first: `--help` does without torch.
    global Config, Dataset, InputError, M6Rec, evaluate, load, record, scale
    if not name.startswith("_"):
        from m6rec.config import Config, InputError
        from m6rec.data import Dataset, load
        from m6rec.evaluate import evaluate
        from m6rec.recommender import M6Rec, scale
        from m6rec.record import record
    if name not in globals():
        raise AttributeError(f"module m6rec has no attribute {name}")
    return globals()[name]


def __dir__() -> list[str]:
    return [*{*globals(), *__all__}]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):  # evaluate and record are functions
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
