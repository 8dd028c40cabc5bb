"""Inside the joint layers: which state, head or age of event matters. Tables carry their view's note, unit and sign.

Tokens are those of a `Record`; layers count from 1."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from m6rec.config import Array, Frame, InputError
from m6rec.data import Targets
from m6rec.data.context import Context, encode_events, target_context
from m6rec.explain.explainers import Model, Record, absent, capture, labels, one, prepared, target_log_prob, tokens


def table(values: Array, rows: Sequence[str], columns: Sequence[str], note: str, unit: str = "", **more) -> Frame:
    made = Frame(values, rows, columns)
    made.attrs = {"note": note, "unit": unit, **more}
    return made


def difference(before: Record, after: Record) -> Record:
    """Attention after minus before, over the tokens of either; 0 for what one lacks.

    Events are the same by title, other tokens by type and position. InputError for other layers or heads."""
    if before.weights.shape[:2] != after.weights.shape[:2]:
        shapes = f"{before.weights.shape[:2]} and {after.weights.shape[:2]}"
        raise InputError(f"the records have {shapes} layers and heads: give two of the same model.")
    grids, names = [], []
    for record in (before, after):
        keys, twice = {}, Counter()  # an event may happen twice
        for label, kind, position in zip(record.labels, record.types, record.positions.tolist(), strict=True):
            twice[label] += 1
            keys[(kind, label, twice[label]) if kind == "history" else (kind, "", position)] = label
        names.append(keys)
    old, new = names
    kinds = [*dict.fromkeys(kind for kind, *_ in (*new, *old)), "target"]
    union = sorted({**old, **new}, key=lambda key: (kinds.index(key[0]), 0 if key[1] else key[2], key in new))
    for record, keys in zip((before, after), names, strict=True):
        grid = np.broadcast_to(np.eye(len(union)), (*record.weights.shape[:2], len(union), len(union))).copy()
        at = [union.index(key) for key in keys]
        grid[..., at, :] = 0
        grid[(..., *np.ix_(at, at))] = record.weights
        grids.append(grid)
    none = absent(grids[0]) & absent(grids[1])
    weights = np.where(none[..., None], np.eye(len(union)), grids[1] - grids[0])
    said = [" → ".join(dict.fromkeys(part[key] for part in names if key in part)) for key in union]
    note = "attention of the second minus the first, which does not say what changes the list"
    return Record(said, [kind for kind, *_ in union], np.arange(len(union)), weights, np.zeros(0), note=note)


def _run(
    model: Model, context: Context, items: Tensor, patch: Tensor | None = None, other: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Tensor]]:
    """States (B, D) of the target, and what entered each joint layer: history, request, target (B, C + T + R + 1, D).

    patch: (B, L, C + T + R + 1) bool, of a row's states that are replaced by `other`, L × (C + T + R + 1, D)."""
    blocks, seen = [*model.network.eval().fusion.joint], []

    def replaced(layer, part, x):
        if patch is None:
            return x
        end = patch.shape[2] - (part == 2)  # history, target, request, in the order of the calls
        at = slice(0, x.shape[1]) if part == 0 else slice(end - x.shape[1], end)
        return torch.where(patch[:, layer, at, None], other[layer][at], x)

    with torch.no_grad(), ExitStack() as hooks:
        for layer, block in enumerate(blocks):
            seen.append(calls := [])

            def entering(_, args, layer=layer, calls=calls):
                return replaced(layer, min(len(calls), 1), args[0]), *args[1:]

            def normed(_, args, layer=layer, calls=calls):
                part, (x,) = len(calls), args  # the last block only hands on the history's keys: it enters here
                calls.append(replaced(layer, part, x) if part == 2 or part == 0 == len(blocks) - 1 - layer else x)
                return (calls[-1],)

            for module, hook in ((block, entering), (block.norm, normed)):
                hooks.callback(module.register_forward_pre_hook(hook).remove)
        state = model.network.fusion(context, items).state[:, 0]
    return state, [torch.cat((history, request, target), 1) for history, target, request in seen]


@torch.no_grad()
def logit_lens(model: Model, context: Context, items: Sequence[int]) -> Frame:
    """Probability of items (codes) if the target's state were read around each layer (nostalgebraist 2020)."""
    context, vectors = prepared(model, context)
    state, entered = _run(model, context, vectors)
    states = [*(model.network.fusion.norm(x[:, -1]) for x in entered), state]
    logits = [model.network.score(read, vectors)[0] for read in states]
    said = [[float(target_log_prob(each, item).exp()) for item in items] for each in logits]
    rows = ["before layer 1", *(f"after layer {i}" for i in range(1, len(states)))]
    names = model.data.items["title"].iloc[list(items)]
    note = "the item vectors are trained to read the last state only: earlier rows need not be what the model uses"
    return table(np.array(said), rows, [*names], note)


@torch.no_grad()
def value_weighted(model: Model, context: Context) -> Record:
    """Attention times the norm of the value after the output matrix, scaled to 1 (Kobayashi et al. 2020)."""
    record = capture(model, context)
    context, vectors = prepared(model, context)
    _, entered = _run(model, context, vectors)
    columns, norms = [*tokens(context)[2], -1], []
    for block, x in zip(model.network.fusion.joint, entered, strict=True):
        v = block.kv(block.norm(x[0])).chunk(2, -1)[1].unflatten(-1, (block.heads, -1))  # (W, H, d)
        out = block.out.weight.unflatten(1, (block.heads, -1))  # (D, H, d)
        norms.append(torch.einsum("whd,ehd->hwe", v, out).norm(dim=-1)[:, columns])
    weights = record.weights * torch.stack(norms).cpu().numpy()[:, :, None]
    note = "attention times the size of what it moves, not its direction: what moves much need not help the item"
    total = weights.sum(-1, keepdims=True).clip(min=1e-12)  # 0 where an untrained layer moves nothing
    return record._replace(weights=weights / total, note=note)


def head_ablation(model: Model, contexts: Context, items: Sequence[int]) -> Frame:
    """Nats that items (B,) lose in each row's last target, on average, when one head's output is 0."""
    contexts, vectors = contexts.to(model.device), model.item_vectors()
    code, lost = torch.as_tensor(items, device=model.device)[:, None], []
    if len(code) != len(contexts.item) or not 0 <= code.min() <= code.max() < len(vectors):
        raise InputError(f"items do not fit: give {len(contexts.item)} codes, one for each row, below {len(vectors)}.")

    @torch.no_grad()
    def score():
        state = model.network.eval().fusion(contexts, vectors).state[:, -1]
        return float(model.network.score(state, vectors).log_softmax(-1).gather(1, code).mean())

    whole, blocks = score(), model.network.fusion.joint
    for block in blocks:
        size = block.out.in_features // block.heads
        for head in range(block.heads):
            gone = torch.arange(block.out.in_features, device=model.device) // size == head
            with block.out.register_forward_pre_hook(lambda _, args, gone=gone: (args[0].masked_fill(gone, 0),)):
                lost.append(whole - score())
    shape = len(blocks), blocks[0].heads
    rows, columns = ([f"{name} {i}" for i in range(1, n + 1)] for name, n in zip(("layer", "head"), shape, strict=True))
    note = "without one head at a time, and without training again: heads that do the same hide each other"
    return table(np.reshape(lost, shape), rows, columns, note, "nats", signed=True)


def patching(model: Model, before: Context, after: Context, item: int) -> Frame:
    """Activation patching (Vig et al. 2020): layers × tokens, the share of an item's change of log p from one request
    to the other that a state carries, when it alone, as it enters a layer, is taken over.

    InputError for contexts of other tokens, or an item whose score does not change."""
    (before, vectors), (after, _) = prepared(model, before), prepared(model, after)
    columns, kinds = tokens(before)[2], [tokens(c)[0].tolist() for c in (before, after)]
    if kinds[0] != kinds[1] or before.item.shape != after.item.shape:
        raise InputError("the two contexts have different tokens: give both as many events, and the same fields.")
    (old, _), (new, entered) = _run(model, before, vectors), _run(model, after, vectors)

    def score(state):
        return target_log_prob(model.network.score(state, vectors), item)

    (first,), (second,) = score(old).tolist(), score(new).tolist()
    if abs(second - first) < 1e-4:
        raise InputError(f"item {item} has the same score in both contexts: take one whose score changes.")
    layers, places = len(entered), [*columns, entered[0].shape[1] - 1]
    patch = torch.zeros(layers, len(places), layers, entered[0].shape[1], dtype=torch.bool, device=model.device)
    for row, place in enumerate(places):
        patch[range(layers), row, range(layers), place] = True
    many = Context(*(part.expand(layers * len(places), *part.shape[1:]) for part in before))
    state, _ = _run(model, many, vectors, patch.flatten(0, 1), [x[0] for x in entered])
    share = ((score(state) - first) / (second - first)).reshape(layers, -1).cpu().numpy()
    names = [a if a == b else f"{a} → {b}" for a, b in zip(labels(model, before), labels(model, after), strict=True)]
    note = "one state at a time: shares need not sum to 1, and another state may carry the same change"
    rows = [f"into layer {i}" for i in range(1, layers + 1)]
    return table(share, rows, [*names, "next item"], note, "of the change", signed=True)


@torch.no_grad()
def attention_by_age(model: Model, contexts: Context, most: int = 20) -> Frame:
    """Layers and heads × age (1: the last event): the last target's attention to one event, mean over the rows of
    `contexts` that have an event of that age."""
    contexts = contexts.to(model.device)
    count = contexts.position[:, -1:]  # (B, 1)
    age = torch.arange(1, min(most, int(count.max())) + 1, device=count.device)
    weights = torch.stack(model.fuse(contexts, weights=True).weights)[:, :, :, -1]  # (L, B, H, C + T + Q·R)
    at = (contexts.profile.shape[1] + 1 + count - age).clamp(min=0)  # (B, ages)
    picked = weights.gather(-1, at[None, :, None].expand(*weights.shape[:3], -1))  # (L, B, H, ages)
    has = (age <= count)[None, :, None]
    mean = ((picked * has).sum(1) / has.sum(1)).flatten(0, 1).cpu().numpy()
    rows = [f"layer {a + 1}, head {h + 1}" for a in range(len(weights)) for h in range(weights.shape[2])]
    note = "means over users, who differ; old ages have fewer users; attention is not yet an effect"
    return table(mean, rows, [f"{a} back" if a > 1 else "last event" for a in age.tolist()], note)


@torch.no_grad()
def capture_sequential(baseline: object, users: Targets) -> Record:
    """Attention of a fitted eSASRec before the first of some targets; its last event asks for the next item.

    InputError for what has no attention, and for a target without a past."""
    name, network, seen = type(baseline).__name__, baseline.network, []
    lacks = InputError(f"{name} has no attention to show: fit an ESASRec first.")
    if not hasattr(network, "layers"):
        raise lacks
    data, device, codes = users.data, next(network.parameters()).device, encode_events(users.data, baseline.fields)
    context = one(target_context(data, codes, users.events[:1], baseline.config.history - 1)).to(device)
    if int(context.position) == 0:
        raise InputError("the first target has no event before it: take one of a user with a history.")
    layers = network.eval().layers
    asking = layers.register_forward_pre_hook(lambda _, args, more: (args, more | {"weights": True}), with_kwargs=True)
    with asking, layers.register_forward_hook(lambda *call: seen.extend(call[-1].weights)):
        state = baseline.states(network, context)[:, 0]
    if seen[0] is None:
        raise lacks
    titles = data.items["title"].iloc[context.item[0].tolist()].tolist()
    types = [*["history"] * (len(titles) - 1), "target"]
    logits = baseline.rank(network, state, users)[0].cpu().numpy()
    return Record(titles, types, np.arange(len(titles)), torch.cat(seen).cpu().numpy(), logits)
