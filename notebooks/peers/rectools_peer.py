# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "rectools[torch]==0.19.0", "pytorch-lightning==2.5.2", "numpy==1.26.4", "pandas==2.3.3",
# ]
# ///
"""RecTools' SASRec at its own settings (softmax loss), for forty epochs: see exchange.py for how to run it."""

import warnings

import exchange
import numpy as np
import pandas as pd
import torch
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.base import TransformerLightningModule

EPOCHS = 40
ROWS = 5_000_000  # of the table of recommendations that is held at once


def main() -> None:
    task = exchange.read()
    torch.set_num_threads(task.threads)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice about workers for loading
    seed_everything(task.seed, verbose=False)
    train, past = _dataset(task, task.rows("train")), _histories(task, "valid")
    epochs = exchange.Epochs(task.cap, lambda: model.torch_model.state_dict())

    class Clocked(TransformerLightningModule):
        def on_train_batch_start(self, *_) -> int | None:
            return -1 if epochs.over else None  # skips the rest of an epoch when the time is up

    model = SASRecModel(epochs=EPOCHS, lightning_module_type=Clocked)
    stopped = "all epochs"
    try:
        for _ in range(EPOCHS):
            model.fit_partial(train, min_epochs=1, max_epochs=1)
            seconds = epochs.seconds
            ndcg = _ndcg(task, model, past)
            epochs.spent += epochs.seconds - seconds  # RecTools itself trains without a look at these lists
            epochs(ndcg)
    except exchange.TimeUp:
        stopped = "cap"
    seconds = epochs.seconds
    model.torch_model.load_state_dict(epochs.best)

    rows, past = task.rows("test"), _histories(task, "test")
    scores = np.full((len(rows), task.items), -np.inf, np.float32)  # where it does not know an item
    known = len(model.data_preparator.get_known_item_ids())
    chunk = max(1, ROWS // known)
    for start in range(0, len(rows), chunk):
        table = _recommend(model, task.user[rows[start : start + chunk]], past, known)
        place = np.searchsorted(task.user[rows], table[Columns.User])
        scores[place, table[Columns.Item]] = table[Columns.Score]
    log = {"seconds": seconds, "curve": epochs.curve, "stopped": stopped}
    exchange.write(task.folder, "rectools_sasrec", scores, **log)


def _dataset(task: exchange.Task, rows: np.ndarray) -> Dataset:
    """Events as RecTools' Dataset; the row is the time, so that no two tie."""
    columns = {Columns.User: task.user[rows], Columns.Item: task.item[rows]}
    frame = pd.DataFrame({**columns, Columns.Weight: 1.0, Columns.Datetime: pd.to_datetime(rows, unit="s")})
    return Dataset.construct(frame)


def _histories(task: exchange.Task, part: str) -> Dataset:
    """The events before each target of a part."""
    target = np.full(task.user.max() + 1, -1)
    rows = task.rows(part)
    target[task.user[rows]] = rows
    return _dataset(task, np.flatnonzero(np.arange(len(task.user)) < target[task.user]))


def _recommend(model: SASRecModel, users: np.ndarray, past: Dataset, k: int) -> pd.DataFrame:
    """The k best items for each user, seen or not; users with nothing that the model knows are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.recommend(users, past, k=k, filter_viewed=False, on_unsupported_targets="ignore")


def _ndcg(task: exchange.Task, model: SASRecModel, past: Dataset) -> float:
    """Validation NDCG@10, unmasked."""
    rows = task.rows("valid")
    table = _recommend(model, task.user[rows], past, 10)
    truth = pd.Series(task.item[rows], task.user[rows])
    hit = table[table[Columns.Item].to_numpy() == truth.loc[table[Columns.User]].to_numpy()]
    return float((1 / np.log2(1 + hit[Columns.Rank])).sum() / len(rows))


if __name__ == "__main__":
    main()
