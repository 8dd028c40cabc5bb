"""Other people's code, run as its users run it: each in an environment of its own, all on the same events and split.

What goes over and what comes back are files: events.csv and task.json, then scores.npy, valid_scores.npy and log.json.
The environments are kept beside the other caches; what cannot be installed or fails is told in its row.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from m6rec.data.dataset import Dataset
from m6rec.data.sources import home
from m6rec.data.splits import Split, Targets
from m6rec.errors import InputError
from m6rec.runs.bench.environments import Failed, ask, environment
from m6rec.runs.bench.speed import BATCHES

GRACE = 300.0  # seconds beyond the cap for reading the data and for scoring, after which a peer is ended


class Peer(NamedTuple):
    """A model of somebody else's: its environment, the script that runs it, its name there and its settings."""

    environment: str
    script: Path
    model: str
    options: dict[str, Any]


SCRIPTS = Path(__file__).with_name("peers")
PEERS = {
    "recbole_sasrec": Peer("recbole", SCRIPTS / "recbole_peer.py", "SASRec", {}),
    "recbole_gru4rec": Peer("recbole", SCRIPTS / "recbole_peer.py", "GRU4Rec", {}),
    "recbole_ease": Peer("recbole", SCRIPTS / "recbole_peer.py", "EASE", {}),
    "rectools_sasrec": Peer("rectools", SCRIPTS / "rectools_peer.py", "SASRec", {"epochs": 40}),
}


class Given:
    """A model whose scores were computed elsewhere: `m6rec.evaluate` ranks it as all others."""

    def __init__(self, name: str, *parts: tuple[np.ndarray, np.ndarray]):
        """parts: (target events (U,), scores (U, N)) of each part of the split."""
        self.name = name
        self._rows = {int(event): row for events, rows in parts for event, row in zip(events, rows, strict=True)}

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, in the order of the users asked for."""
        missing = [event for event in users.events.tolist() if event not in self._rows]
        if missing:
            raise InputError(f"{self.name} has no scores for the target event {missing[0]}; ask for the split's own.")
        return np.stack([self._rows[event] for event in users.events.tolist()])


class Outcome(NamedTuple):
    """What became of a peer. Scores are None, and the numbers 0, where status is "failed"; note says why."""

    name: str
    status: str
    """ "done", "capped" (scored at the best epoch before the cap) or "failed"."""
    scores: np.ndarray | None
    """(U, N) float32 for the targets of split.test, in their order; -inf for an item that the peer does not know."""
    valid_scores: np.ndarray | None
    """The same for split.valid."""
    seconds: float
    """Of training, as the peer's users run it."""
    curve: list[tuple[float, float]]
    """After each epoch: seconds since the start of training, validation NDCG@10 with seen items left in."""
    parameters: int
    memory: int
    """Peak bytes of the peer's process."""
    note: str

    def model(self, split: Split) -> Given:
        """The scores as a model that can be evaluated on both parts of the split it was run on."""
        if self.scores is None:
            raise InputError(f"{self.name} has no scores ({self.note}); show its status instead.")
        return Given(self.name, (split.valid, self.valid_scores), (split.test, self.scores))


class Decoded(NamedTuple):
    """How fast a peer decodes: status "done" or "failed", its best lists a second, and those of each batch size."""

    status: str
    rate: float
    rates: dict[int, float]
    parameters: int
    memory: int
    note: str


def run(
    peer: str,
    data: Dataset,
    split: Split,
    *,
    seed: int = 0,
    cap: float = 1200.0,
    threads: int = 1,
    say: Callable[[str], object] = print,
) -> Outcome:
    """Train a peer for at most `cap` seconds and score every item for each target. Never raises for what the peer does.

    peer: one of PEERS. Its environment is made first, if it is not there (about 1.3 GB, one to two minutes).
    """
    if peer not in PEERS:
        raise InputError(f"peer {peer!r} is unknown; use {', '.join(map(repr, PEERS))}.")
    chosen = PEERS[peer]
    task = {"model": chosen.model, "options": chosen.options, "items": data.n_items}
    task |= {"seed": seed, "cap": cap, "threads": threads}
    try:
        python = environment(chosen.environment, say)
        with _folder() as folder:
            write_events(folder, data, split)
            say(f"{peer}: training, at most {cap:,.0f} s")
            log = ask(python, chosen.script, folder, task, threads, cap + GRACE)
            scores, valid = (
                _scores(folder / name, (len(events), data.n_items))
                for name, events in (("scores.npy", split.test), ("valid_scores.npy", split.valid))
            )
    except Failed as reason:
        say(f"{peer}: failed ({reason})")
        return Outcome(peer, "failed", None, None, 0.0, [], 0, 0, str(reason))
    curve = [(seconds, ndcg) for seconds, ndcg in log["curve"]]
    best = max(ndcg for _, ndcg in curve)
    note = f"{len(curve)} epochs, ended by {log['stopped']}; scored with the epoch that was best on validation"
    say(f"{peer}: {len(curve)} epochs in {log['seconds']:,.0f} s, validation NDCG@10 {best:.4f} unmasked")
    status = "capped" if log["stopped"] == "cap" else "done"
    return Outcome(peer, status, scores, valid, log["seconds"], curve, log["parameters"], log["memory"], note)


def decode(
    widths: Sequence[int],
    paths: np.ndarray,
    *,
    width: int = 64,
    heads: int = 2,
    ffn: int = 256,
    layers: int = 1,
    beam: int = 20,
    source: int = 1,
    batches: Sequence[int] = BATCHES,
    seconds: float = 10.0,
    seed: int = 0,
    cap: float = 300.0,
    threads: int = 1,
    say: Callable[[str], object] = print,
) -> Decoded:
    """Lists a second of Hugging Face T5's `generate` inside the trie of paths (N, G), with random weights.

    widths: codes of each level. ffn: width inside the feed-forward net. source: tokens that the encoder reads.
    batches: lists decoded at once. seconds: of measuring, for each of them. cap: seconds after which it is ended.
    """
    task = {"widths": [int(w) for w in widths], "paths": np.asarray(paths).tolist(), "width": width, "heads": heads}
    task |= {"ffn": ffn, "layers": layers, "beam": beam, "source": source, "batches": list(batches)}
    task |= {"seconds": seconds, "seed": seed, "threads": threads}
    try:
        python = environment("t5", say)
        with _folder() as folder:
            log = ask(python, SCRIPTS / "t5_peer.py", folder, task, threads, cap)
    except Failed as reason:
        say(f"t5: failed ({reason})")
        return Decoded("failed", 0.0, {}, 0, 0, str(reason))
    rates = {int(batch): rate for batch, rate in log["rates"].items()}
    best = max(rates, key=rates.__getitem__)
    say(f"t5: {rates[best]:,.0f} lists a second, {best} at once")
    return Decoded("done", rates[best], rates, log["parameters"], log["memory"], f"{best} lists at once")


def write_events(folder: Path, data: Dataset, split: Split) -> None:
    """events.csv: user, item, order (within the user) and part of every event, user by user, in time order."""
    user = data.events["user"].to_numpy()
    part = np.where(split.train, "train", "history").astype(object)  # history: only what precedes a target
    part[split.valid], part[split.test] = "valid", "test"
    order = np.arange(data.n_events) - data.offsets[user]
    frame = pd.DataFrame({"user": user, "item": data.events["item"].to_numpy(), "order": order, "part": part})
    frame.to_csv(folder / "events.csv", index=False)


@contextlib.contextmanager
def _folder():
    """An exchange folder, gone afterwards; with the caches, since /tmp may be too small for all scores."""
    root = home() / "peers"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=root) as folder:
        yield Path(folder)


def _scores(path: Path, shape: tuple[int, int]) -> np.ndarray:
    if not path.exists():
        raise Failed(f"wrote no {path.name}")
    scores = np.load(path, allow_pickle=False)
    if scores.shape != shape or np.isnan(scores).any():
        raise Failed(f"{path.name} has the shape {scores.shape} instead of {shape}, or holds NaN")
    return scores
