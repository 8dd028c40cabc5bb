"""How fast Hugging Face's T5 decodes lists of semantic IDs inside a trie: `python t5_peer.py folder`.

Random weights: only the speed counts. The encoder reads as few tokens as the task says (1 by default, the least work
that it can have), so that what is timed is the constrained beam search.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import exchange
import torch
from transformers import T5Config, T5ForConditionalGeneration

PAD, END, FIRST = 0, 1, 2  # tokens; the digits' codes follow, each level's behind the last's


def main() -> None:
    folder = Path(sys.argv[1])
    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    torch.manual_seed(task["seed"])
    starts = [FIRST + sum(task["widths"][:level]) for level in range(len(task["widths"]))]
    paths = {tuple(start + code for start, code in zip(starts, path, strict=True)) for path in task["paths"]}
    model = _model(FIRST + sum(task["widths"]), task)
    rates = {}
    for batch in task["batches"]:
        rates[batch] = _rate(model, paths, batch, task)
        print(f"{batch} lists at once: {rates[batch]:.1f} lists a second", flush=True)
    exchange.write(folder, rates=rates, parameters=sum(p.numel() for p in model.parameters()))


def _model(vocabulary: int, task: dict) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=task["width"],
        d_kv=task["width"] // task["heads"],
        d_ff=task["ffn"],
        num_layers=task["layers"],
        num_decoder_layers=task["layers"],
        num_heads=task["heads"],
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def _rate(model: T5ForConditionalGeneration, paths: set[tuple[int, ...]], batch: int, task: dict) -> float:
    """Lists a second: the fastest of several calls of `generate`, the first of which does not count."""
    trie: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for level, token in enumerate(path):
            trie.setdefault(path[:level], set()).add(token)
    children = {prefix: sorted(tokens) for prefix, tokens in trie.items()}
    source = torch.randint(FIRST, model.config.vocab_size, (batch, task["source"]))
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 4 or (spent < task["seconds"] and calls < 1000):
        start = time.perf_counter()
        lists = model.generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            num_beams=task["beam"],
            num_return_sequences=task["beam"],
            max_new_tokens=len(task["widths"]),
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, tokens: children[tuple(tokens[1:].tolist())],
        )
        seconds = time.perf_counter() - start
        calls += 1
        if calls > 1:
            best, spent = min(best, seconds), spent + seconds
    for row in lists.view(batch, task["beam"], -1)[:, :, 1:].tolist():
        if not {tuple(path) for path in row} <= paths:
            raise RuntimeError("generate left the trie")
    return batch / best


if __name__ == "__main__":
    main()
