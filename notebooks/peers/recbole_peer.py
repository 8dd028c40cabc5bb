# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "recbole==1.2.1", "numpy==1.26.4", "pandas==2.1.4", "scipy==1.11.4", "scikit-learn==1.9.1",
#   "setuptools==79.0.1", "tensorboard==2.21.0", "ray==2.6.3",
# ]
# ///
"""RecBole's SASRec, GRU4Rec or EASE at RecBole's own settings: see exchange.py for how to run it.

The split is handed over as RecBole's benchmark files, so that it trains on exactly our training events. Sequential
models get what RecBole's own augmentation makes of them: every training event with the 50 items before it.
"""

import contextlib

import exchange
import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_logger, init_seed

LENGTH = 50  # RecBole's MAX_ITEM_LIST_LENGTH
CHUNK = 256


def main() -> None:
    task = exchange.read()
    torch.set_num_threads(task.threads)
    sequential = task.model != "EASE"
    for part in ("train", "valid", "test"):
        _benchmark_file(task, part, sequential)
    config = Config(model=task.model, dataset="events", config_dict=_settings(task, sequential))
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)

    epochs = exchange.Epochs(task.cap, lambda: model.state_dict())
    model = get_model(config["model"])(config, train._dataset).to(config["device"])  # EASE is solved in here
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    loss, within = model.calculate_loss, False

    def watched(batch):
        nonlocal within
        if within := epochs.over:  # an epoch can take minutes
            raise exchange.TimeUp
        return loss(batch)

    model.calculate_loss = watched
    try:
        trainer.fit(train, valid, saved=False, callback_fn=lambda _, ndcg: epochs(ndcg))
        stopped = "early stopping" if len(epochs.curve) < trainer.epochs else "all epochs"
    except exchange.TimeUp:
        stopped = "cap"
    if within:  # what there is of the last epoch still has to be validated
        with contextlib.suppress(exchange.TimeUp):
            epochs(trainer._valid_epoch(valid)[0])
    seconds = epochs.seconds
    model.load_state_dict(epochs.best)
    model.eval()

    codes = np.full(task.items, -1)  # ours -> RecBole's
    names = dataset.field2id_token["item_id"][1:]  # 0 is padding
    codes[names.astype(np.int64)] = np.arange(1, len(names) + 1)
    known = np.flatnonzero(codes >= 0)
    rows = task.rows("test")
    scores = np.full((len(rows), task.items), -np.inf, np.float32)  # where it does not know an item
    score = _sequential_scores if sequential else _linear_scores
    for start in range(0, len(rows), CHUNK):
        pasts = [codes[task.past(row)] for row in rows[start : start + CHUNK]]
        scores[start : start + CHUNK, known] = score(model, config, pasts)[:, codes[known]]
    log = {"seconds": seconds, "curve": epochs.curve, "stopped": stopped}
    exchange.write(task.folder, f"recbole_{task.model.lower()}", scores, **log)


def _settings(task: exchange.Task, sequential: bool) -> dict:
    """RecBole's defaults, but for the data, the seed and the metric by which it stops and keeps the best epoch."""
    settings = {
        "data_path": str(task.folder),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "repeatable": True,  # its validation leaves seen items in
        "metrics": ["NDCG"],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 6,
        "seed": task.seed,
        "show_progress": False,
        "state": "WARNING",
    }
    if sequential:
        settings["load_col"] = {"inter": ["user_id", "item_id_list", "item_id"]}
        settings["alias_of_item_id"] = ["item_id_list"]
        settings["train_neg_sample_args"] = None  # as RecBole asks for with its cross-entropy
    return settings


def _benchmark_file(task: exchange.Task, part: str, sequential: bool) -> None:
    path = task.folder / "events" / f"events.{part}.inter"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        middle = "item_id_list:token_seq\t" if sequential else ""
        file.write(f"user_id:token\t{middle}item_id:token\n")
        for row in task.rows(part):
            past = task.past(row)[-LENGTH:]
            if sequential and not len(past):
                continue  # the first event of a user is predicted from nothing
            middle = " ".join(map(str, past)) + "\t" if sequential else ""
            file.write(f"{task.user[row]}\t{middle}{task.item[row]}\n")


@torch.no_grad()
def _sequential_scores(model, config, pasts: list[np.ndarray]) -> np.ndarray:
    histories = torch.zeros(len(pasts), LENGTH, dtype=torch.long)
    lengths = torch.tensor([min(len(past), LENGTH) for past in pasts])
    for row, past in enumerate(pasts):
        histories[row, : lengths[row]] = torch.from_numpy(past[-LENGTH:])
    batch = Interaction({model.ITEM_SEQ: histories, model.ITEM_SEQ_LEN: lengths}).to(config["device"])
    return model.full_sort_predict(batch).cpu().numpy()


def _linear_scores(model, config, pasts: list[np.ndarray]) -> np.ndarray:
    """All events before the target count, so that the test target's scores see the validation event as all others'."""
    weights = np.asarray(model.item_similarity)
    return np.stack([weights[np.unique(past)].sum(0) for past in pasts])


if __name__ == "__main__":
    main()
