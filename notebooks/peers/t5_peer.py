# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "transformers==5.24.0", "numpy==2.4.6"]
# ///
"""How fast Hugging Face's T5 decodes lists of semantic IDs inside a trie: see exchange.py for how to run it.

Random weights, and a balanced trie over as many items as the folder's data set has: only the speed counts. The encoder
reads one token, the least work that it can have, so that what is timed is the constrained beam search. Writes t5.json:
lists a second by the number of lists decoded at once.
"""

import argparse
import json
import time
from pathlib import Path

import exchange
import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

PAD, END, FIRST = 0, 1, 2  # tokens; the digits' codes follow, each level's behind the last's


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, value in {"digits": 3, "width": 64, "heads": 2, "layers": 1, "beam": 20, "threads": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each number of lists")
    task = parser.parse_args()
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    items = json.loads((task.folder / "catalogue.json").read_text())["items"]
    codes = 2
    while 0.85 * codes**task.digits < items:  # m6rec's rule: 15 % of the leaves stay free
        codes += 1
    leaves = np.arange(items) * codes**task.digits // items
    digits = np.stack(np.unravel_index(leaves, (codes,) * task.digits), 1) + FIRST + codes * np.arange(task.digits)
    paths = set(map(tuple, digits.tolist()))
    sizes = {"d_model": task.width, "d_kv": task.width // task.heads, "d_ff": 4 * task.width, "num_heads": task.heads}
    sizes |= {"vocab_size": FIRST + codes * task.digits, "num_layers": task.layers, "num_decoder_layers": task.layers}
    special = {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD}
    model = T5ForConditionalGeneration(T5Config(**sizes, **special)).eval()
    rates = {batch: _rate(model, paths, batch, task) for batch in (1, 16, 64, 256)}
    exchange.write(task.folder, "t5", rates=rates, parameters=sum(p.numel() for p in model.parameters()))


def _rate(model: T5ForConditionalGeneration, paths: set[tuple], batch: int, task: argparse.Namespace) -> float:
    """Lists a second: the fastest of several calls of `generate`, the first of which does not count."""
    trie: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for level, token in enumerate(path):
            trie.setdefault(path[:level], set()).add(token)
    children = {prefix: sorted(tokens) for prefix, tokens in trie.items()}
    source = torch.randint(FIRST, model.config.vocab_size, (batch, 1))
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 4 or (spent < task.seconds and calls < 1000):
        start = time.perf_counter()
        lists = model.generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            num_beams=task.beam,
            num_return_sequences=task.beam,
            max_new_tokens=task.digits,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, tokens: children[tuple(tokens[1:].tolist())],
        )
        seconds = time.perf_counter() - start
        calls += 1
        if calls > 1:
            best, spent = min(best, seconds), spent + seconds
    for row in lists.view(batch, task.beam, -1)[:, :, 1:].tolist():
        if not {tuple(path) for path in row} <= paths:
            raise RuntimeError("generate left the trie")
    print(f"{batch} lists at once: {batch / best:.1f} lists a second", flush=True)
    return batch / best


if __name__ == "__main__":
    main()
