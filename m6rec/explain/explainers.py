"""Where a model attends, what each token contributes to an item, whether that holds, what it knows of contents.

An explainer is (model, context, item code, against) -> (n - 1,): the larger the more, nats where a score is taken
apart; `against` a foil, of the difference of two logits.

Tests: deletion and insertion, Petsiuk et al. 2018; randomisation, Adebayo et al. 2018; uniform attention, Wiegreffe &
Pinter 2019."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor, nn

from m6rec.config import MODALITIES, Array, Frame, InputError, plain
from m6rec.data.context import Context
from m6rec.data.features import Features
from m6rec.data.text import words
from m6rec.generate import fill
from m6rec.train import losses

TYPES = ("profile", "history", "request")  # of tokens, in the order of the weights
Model = Any  # an M6Rec


class Record(NamedTuple):
    """Attention over the n present tokens of a target, itself last: where, not yet why."""

    labels: list[str]  # (n,)
    types: list[str]  # (n,) start | profile | history | request | target
    positions: Array  # (n,) among its type; -1 for start and target
    weights: Array  # (L, H, n, n): rows attend and sum to 1; identity where a layer computes none
    logits: Array  # (N,) of the dense head, empty for another model
    gradients: Array | None = None  # (L, H, n, n) of an item's log-probability
    note: str = ""  # what the weights are, and do not show, if not attention

    @classmethod
    def from_tensors(
        cls, tokens: Sequence[object], weights: Any, *, types: Sequence[str] = (), row: int = 0
    ) -> "Record":
        """Of any model's attention; the last token is the target.

        weights: (n, n), (H, n, n) or (L, H, n, n), or for each layer (H, n, n) or (B, H, n, n), as Hugging Face's
        `attentions`, of which `row` is taken. types: by default "token". InputError for what does not fit."""
        n = len(tokens := [*tokens])
        try:
            parts = [np.asarray(torch.as_tensor(part).detach().cpu().float()) for part in weights]
            stacked = np.stack([part[row] if part.ndim == 4 else part for part in parts])
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            due = f"give an array of (layers, heads, {n}, {n}), or the tuple of one forward pass, and a row that it has"
            raise InputError(f"weights are no attention of one pass ({error}): {due}.") from None
        stacked = stacked[(None,) * (4 - stacked.ndim)]
        labels, types = [str(token) for token in tokens], [*types] or ["token"] * n
        record = checked(cls(labels, types, np.arange(n), stacked, np.zeros(0)), within=1e-2)
        return record._replace(weights=stacked / stacked.sum(-1, keepdims=True))  # half precision sums to about 1

    @property
    def attended(self) -> Array:
        """The target's: (L, H, n - 1), rows sum to 1."""
        return self.weights[..., -1, :-1]

    def fold(self, recent: int) -> "Record":
        """All but the last `recent` events as one token: columns summed, rows averaged, no gradients."""
        events = [i for i, token in enumerate(self.types) if token == "history"]
        old = events[: len(events) - recent] if recent < len(events) else []
        if len(old) < 2:
            return self._replace(gradients=None)
        group = np.arange(len(self.labels))
        group[old] = old[0]
        first = np.unique(group)  # (n',)
        member = (first[:, None] == group).astype(self.weights.dtype)  # (n', n)
        weights = member @ self.weights @ member.T / member.sum(1)[:, None]
        labels = [f"{len(old)} earlier events" if i == old[0] else self.labels[i] for i in first]
        types, positions = [self.types[i] for i in first], self.positions[first]
        return self._replace(labels=labels, types=types, positions=positions, weights=weights, gradients=None)


def absent(weights: Array) -> Array:
    """(L, H, n) bool: rows that no layer computes."""
    alone = np.diagonal(weights, axis1=2, axis2=3) == 1
    alone[..., 0] = alone[..., 1:-1].all(-1)  # the start attends to itself: its row is computed where others are
    return alone


def checked(record: Record, within: float = 1e-3) -> Record:
    """InputError for what is no record: attention whose rows sum to 1, or with a note any finite numbers."""
    n, weights = len(record.labels), np.asarray(record.weights)
    fits = n > 1 and len(record.types) == n and weights.ndim == 4 and weights.shape[2:] == (n, n) and weights.size
    finite = fits and np.isfinite(weights).all()
    if not finite or not (record.note or (weights.min() >= 0 and np.abs(weights.sum(-1) - 1).max() <= within)):
        due = f"a type each and weights of (layers, heads, {n}, {n}), without NaN, whose rows sum to 1"
        raise InputError(f"{n} tokens need {due}, not {weights.shape}: give the probabilities after the softmax.")
    return record


def capture(model: Model, context: Context, *, item: int | None = None, against: int | None = None) -> Record:
    """Attention of the last target of the first row, in each joint layer.

    item: also gradients of its `target_log_prob`. InputError for an unknown item or foil."""
    with torch.set_grad_enabled(item is not None):
        context, items = prepared(model, context)
        fused = model.network.eval().fusion(context, items, weights=True)
        logits = model.network.score(fused.state[:, 0], items)  # (1, N)
        if item is not None:
            maps = (*fused.weights, *fused.history)
            slopes = torch.autograd.grad(target_log_prob(logits, item, against).sum(), maps, materialize_grads=True)
    types, positions, columns = tokens(context)
    present, split = np.ix_([*columns, -1], [*columns, -1]), len(fused.weights)
    return Record(
        [*labels(model, context), "next item"],
        [*types.tolist(), "target"],
        np.append(positions, -1),
        _square(fused.weights, fused.history, rest=1.0)[..., *present],
        logits[0].detach().cpu().numpy(),
        None if item is None else _square(slopes[:split], slopes[split:], rest=0.0)[..., *present],
    )


def one(context: Context, row: int = 0) -> Context:
    """The last target of a row and the events before it: B = Q = 1, T at least 1."""
    if not 0 <= row < len(context.item):
        raise InputError(f"row {row} is not in this context: it has the rows 0 to {len(context.item) - 1}.")
    here, seen = slice(row, row + 1), max(1, int(context.position[row, -1]))
    events = (part[here, :seen] for part in context[:3])
    return Context(*events, context.profile[here], context.request[here, -1:], context.position[here, -1:])


def tokens(context: Context) -> tuple[Array, Array, Array]:
    """Types, positions and weights' columns (n - 1,) of one target's (B = Q = 1) present tokens before it."""
    parts = [(part > 0).cpu().numpy() for part in (context.profile[0], context.item[0] + 1, context.request[0, 0])]
    types, positions = np.repeat(["start", *TYPES], [1, *map(len, parts)]), [np.arange(len(part)) for part in parts]
    columns = np.flatnonzero(np.concatenate([[True], *parts]))
    return types[columns], np.concatenate([[-1], *positions])[columns], columns


def spread(context: Context, values: Tensor, absent: float) -> tuple[Tensor, ...]:
    """Values (K, n - 1) of present tokens -> profile (K, C), history (K, T), request (K, R)."""
    sizes = [1, *(part.shape[-1] for part in (context.profile, context.item, context.request))]
    columns = torch.from_numpy(tokens(context)[2]).to(values.device)
    return values.new_full((len(values), sum(sizes)), absent).index_copy(1, columns, values).split(sizes, 1)[1:]


def target_log_prob(logits: Tensor, item: int, against: int | None = None) -> Tensor:
    """An item's log-probability, or its logit minus a foil's, in nats: (..., N) -> (...)."""
    for code in (item, against):
        if code is not None and not 0 <= code < logits.shape[-1]:
            raise InputError(f"item code {code} is not in the catalogue: take one of 0 to {logits.shape[-1] - 1}.")
    return logits[..., item] - (logits.logsumexp(-1) if against is None else logits[..., against])


def prepared(model: Model, context: Context, vectors: Tensor | None = None) -> tuple[Context, Tensor]:
    """`one` on the model's device, and items' vectors. InputError where an event has none."""
    context, items = one(context).to(model.device), model.item_vectors() if vectors is None else vectors
    if int(context.item.max()) >= len(items):
        raise InputError("the history has items that the catalogue lacks: add them with with_items first.")
    return context, items


def labels(model: Model, context: Context) -> list[str]:
    """Present tokens in words: a title, "hour 21", "age ≥ 44 and < 50"."""
    titles = model.data.items["title"]
    codes = context.item[0][context.item[0] >= 0].tolist()
    events = [titles.iloc[code] if code < len(titles) else "an item new to the catalogue" for code in codes]
    profile, request = (
        [field.describe(code) for field, code in zip(fields, part.tolist(), strict=True) if code]
        for fields, part in ((model.fields.profile, context.profile[0]), (model.fields.request, context.request[0, 0]))
    )
    return ["start", *profile, *events, *request]


def _square(target: list[Tensor], history: list[Tensor], rest: float) -> Array:
    """Both streams as (L, H, W + 1, W + 1): W = C + T + R tokens, the target. rest: diagonal of other rows."""
    rows = torch.stack([m[0, :, 0] for m in target]).detach().cpu().numpy()  # L × (1, H, 1, W) -> (L, H, W)
    layers, heads, width = rows.shape
    grid = np.zeros((layers, heads, width + 1, width + 1), rows.dtype)
    np.einsum("lhii->lhi", grid)[:] = rest
    for layer, weights in enumerate(history):
        n = weights.shape[-1]
        grid[layer, :, :n, :n] = weights[0].detach().cpu().numpy()
    grid[..., -1, :-1], grid[..., -1, -1] = rows, 0
    return grid


class Reconstruction(NamedTuple):
    """Half of the patches, masked and predicted from the rest."""

    true: Array  # (n, P, values)
    predicted: Array  # (n, P, values)
    masked: Array  # (n, P) bool

    def errors(self, instead: Array | None = None) -> Array:
        """Mean squared error of masked patches (n,); of others `instead`."""
        error = ((self.true - (self.predicted if instead is None else instead)) ** 2).mean(-1)
        return np.average(error, 1, self.masked)


@torch.no_grad()
def reconstruct(model: Model, modality: str, items: Array, seed: int = 0) -> Reconstruction:
    """Mask and predict half of the patches of items (codes) that have "image" or "sound".

    InputError for a model that has not learnt to."""
    patches = getattr(model.features, modality).shape[1] if modality in model.network.items.patches else 0
    if patches < 2 or not model.config.patch_weight:
        raise InputError(f"this model cannot restore {modality}: train one with patch_weight > 0 on items with it.")
    content = model.features.take(items).to(model.device)
    true = getattr(content, modality)
    masked = losses.hide_patches(*true.shape[:2], np.random.default_rng(seed)).to(true.device)
    predicted = model.network.patch_decoder.patches(model.network.items, content, {modality: masked})[modality]
    return Reconstruction(*(part.cpu().numpy() for part in (true, predicted, masked)))


def captions(model: Model, items: Array) -> list[str]:
    """Texts of items (codes), from their photographs alone."""
    ids = fill(model.network, _untold(model, items).drop("sound"))
    return [model.tokenizer.bpe.decode(row[row > 0].tolist()) for row in ids]


def captioned(model: Model, item: int) -> tuple[list[str], dict[str, Array]]:
    """The words (W) of a caption from all but an item's text, and what each attended to: image (W, 16), sound (W, 8).

    Means over layers and heads; the rest went to the gap and to earlier words."""
    source = _untold(model, np.array([item]))
    ids = fill(model.network, source, weights=True, trace=(steps := []))[0]
    ids, modality = ids[ids > 0].tolist(), model.network.items.embed(source).modality.cpu().numpy()
    seen = torch.stack([torch.stack(step.weights)[:, 0, 0, :, : len(modality)].mean((0, 1)) for step in steps])
    seen = seen[: len(ids)].cpu().numpy()  # (W, L)
    parts = {m: seen[:, modality == MODALITIES.index(m)] for m in model.network.items.patches}
    return [model.tokenizer.bpe.decode([word]) for word in ids], parts


def _untold(model: Model, items: Array) -> Features:
    """Contents of items (codes), the text a gap. InputError for a model that never learnt to fill one."""
    if not model.config.infill_weight:
        raise InputError("this model cannot write captions: train one with infill_weight > 0.")
    content = model.features.take(items)
    gap, _ = losses.corrupt(content.text, np.random.default_rng(0), whole=np.ones(len(items), bool))
    return content._replace(text=gap).to(model.device)


def distinctive(texts: Sequence[str], groups: Array, show: int = 3) -> pd.Series:
    """A group's words of highest share · log(share / overall share): group -> "a, b, c".

    groups: (N,) of the texts (N,)."""
    counter = CountVectorizer(analyzer=words, binary=True, min_df=8)
    held = counter.fit_transform(texts).toarray().astype(float)  # (N, words)
    shares = {group: held[groups == group].mean(0) for group in np.unique(groups)}
    weights = {group: share * np.log(share.clip(min=1e-9) / held.mean(0)) for group, share in shares.items()}
    names = counter.get_feature_names_out()
    return pd.Series({group: ", ".join(names[np.argsort(-w)[:show]]) for group, w in weights.items()})


MAX_PAIRS = 2**22  # token pairs at a time
MAX_CAUSES = 3  # that a sentence names
WEAKEST = 0.1  # of the strongest cause's effect, to be named
ENOUGH = 0.2  # coverage that is evidence


class Reason(NamedTuple):
    sentence: str
    causes: list[int]  # tokens in the record, the strongest first; may be empty
    coverage: float  # effect of removing them / the context, in 0..1


def unseen(logits: Tensor, context: Context) -> Array:
    """Logits (K, N), -inf for items of the first row's history."""
    codes = context.item[0][context.item[0] >= 0]
    return logits.index_fill(1, codes.to(logits.device), -torch.inf).cpu().numpy()


def top_item(model: Model, context: Context) -> int:
    """The best unseen item's code (dense head)."""
    return int(unseen(torch.as_tensor(capture(model, context).logits)[None], one(context)).argmax())


def keep_tokens(context: Context, retained: Array) -> Context:
    """One target's context in K versions, with tokens `retained` (K, n - 1); the start always stays.

    Removed fields become absent, events close up but keep their gaps."""
    k, device = len(retained), context.item.device
    profile, stays, request = spread(context, torch.from_numpy(retained).to(device), absent=False)
    order = (~stays).long().argsort(dim=1, stable=True)
    count = stays.sum(1, keepdim=True)  # (K, 1)
    gone = torch.arange(stays.shape[1], device=device) >= count
    parts = zip(context[:3], (-1, 0, 0), strict=True)
    events = (part.expand(k, -1).gather(1, order).masked_fill(gone, absent) for part, absent in parts)
    return Context(*events, context.profile * profile, context.request * request[:, None], count)


@torch.no_grad()
def logits_of(model: Model, context: Context, retained: Array, vectors: Tensor | None = None) -> Tensor:
    """Logits (K, N) with tokens (K, n - 1) retained. vectors: of the catalogue, then of the history's new items."""
    context, items = prepared(model, context, vectors)
    rows = max(1, MAX_PAIRS // (context.item.shape[1] + context.profile.shape[1]) ** 2)
    parts = [retained[at : at + rows] for at in range(0, len(retained), rows)]
    states = [model.network.eval().fusion(keep_tokens(context, part), items).state[:, 0] for part in parts]
    return model.network.score(torch.cat(states), items[: model.data.n_items])


def attention(model, context, item, against=None) -> Array:
    """The target's, mean over layers and heads, sums to 1; the same for every item."""
    return capture(model, context).attended.mean((0, 1))


def rollout(model, context, item, against=None) -> Array:
    """Half residual (Abnar & Zuidema 2020, eq. 1), without the target's own share; the same for every item."""
    return rolled(capture(model, context).weights.mean(1), residual=0.5)[-1]


def gradient_weighted(model, context, item, against=None) -> Array:
    """Rollout of positive attention × gradient, mean over heads (Chefer et al. 2021, ICCV, eq. 5 and 6)."""
    record = capture(model, context, item=item, against=against)
    return rolled((record.weights * record.gradients).clip(min=0).mean(1), residual=None)[-1]


def rolled(layers: Array, residual: float | None) -> Array:
    """The target's row of the product of layers (L, n, n) up to each: (L, n - 1).

    residual: the identity's share in each; None adds it unweighted."""
    identity = np.eye(layers.shape[-1])
    steps = layers + identity if residual is None else (1 - residual) * layers + residual * identity
    return np.stack([path[-1, :-1] for path in accumulate(steps, lambda path, step: step @ path)])


def integrate(
    model: Model, context: Context, item: int, against: int | None = None, *, steps: int = 32
) -> tuple[Array, float]:
    """Integrated gradients (n - 1,) and the completeness gap (Sundararajan et al. 2017, eq. 1).

    The path starts at means over the catalogue or a field's levels: the norms have no slope at 0. The gap is |sum of
    effects - difference of the end scores|."""
    context, items = prepared(model, context)
    factors = torch.cat(((torch.arange(steps) + 0.5) / steps, torch.tensor([0.0, 1.0])))  # midpoints, then both ends
    scale = factors.to(model.device)[:, None].repeat(1, len(tokens(context)[0])).requires_grad_()
    scores = target_log_prob(_between(model, context, items, scale), item, against)
    (slopes,) = torch.autograd.grad(scores[:steps].sum(), scale)
    effects, (start, end) = slopes[:steps].mean(0).cpu().numpy(), scores[steps:].tolist()
    return effects, abs(float(effects.sum()) - (end - start))


def integrated(model, context, item, against=None) -> Array:
    return integrate(model, context, item, against)[0]


def _between(model: Model, context: Context, items: Tensor, scale: Tensor) -> Tensor:
    """Logits (K, N). scale: (K, n - 1), from average tokens (0) to the context's own (1)."""
    rows = Context(*(part.expand(len(scale), *part.shape[1:]) for part in context))
    profile, history, request = spread(context, scale, absent=1.0)

    def mixed(own, average, by):
        return average + by.reshape(*by.shape, *[1] * (own.dim() - by.dim())) * (own - average)

    fusion = copy.deepcopy(model.network.fusion.eval())  # the hooks are for this call alone
    hooked = [(fusion.value, history), (fusion.gap, history)]
    hooked += zip([*fusion.profile, *fusion.request], [*profile.unbind(1), *request.unbind(1)], strict=True)
    for module, by in hooked:
        average = module.weight[1:].mean(0).detach()  # code 0 is no level
        module.register_forward_hook(lambda _, __, own, average=average, by=by: mixed(own, average, by))
    events = mixed(items[rows.item.clamp(min=0)], items.mean(0), history)  # (K, T, D)
    return model.network.score(fusion(rows, events).state[:, 0], items)


def leave_one_out(model, context, item, against=None) -> Array:
    """Nats that the item's score loses without each token; 0 for the start. The history closes up."""
    return _removed(model, one(context), [item], against)[0][0]


def _removed(
    model: Model, context: Context, items: Sequence[int], against: int | None = None, vectors: Tensor | None = None
) -> tuple[Array, Array, Array]:
    """What scores (I,) lose without each token (I, n - 1), and without all (I,); the scores."""
    n = len(tokens(context)[0])
    eye = np.eye(n, dtype=bool)
    logits = logits_of(model, context, np.stack((eye.any(0), eye[0], *~eye)), vectors)
    scores = np.stack([target_log_prob(logits, item, against).cpu().numpy() for item in items])  # (I, 2 + n - 1)
    lost = scores[:, :1] - scores
    return np.where(eye[0], 0, lost[:, 2:]), lost[:, 1], scores[:, 0]  # the start's own is rounding


def smallest_removal(model: Model, context: Context, *, most: int = 10) -> tuple[list[int], int | None]:
    """Tokens, removed greedily, without which another item is on top, and it; None if `most` are too few."""
    context = one(context)
    first = before = top_item(model, context)
    retained, gone = np.ones(len(tokens(context)[0]), bool), []
    while first == before and len(gone) < min(most, len(retained) - 1):
        left = np.flatnonzero(retained[1:]) + 1
        tries = retained & ~np.eye(len(retained), dtype=bool)[left]
        logits = logits_of(model, context, tries)
        lowest = int(target_log_prob(logits, before).argmin())
        gone.append(int(left[lowest]))
        retained, first = tries[lowest], int(unseen(logits, context)[lowest].argmax())
    return gone, None if first == before else first


def recency(model, context, item, against=None) -> Array:
    """The later the event the more."""
    types, positions, _ = tokens(one(context))
    return np.where(types == "history", positions + 1.0, 0)


def random(model, context, item, against=None) -> Array:
    n = len(tokens(one(context))[0])
    return np.random.default_rng((item, n)).random(n)


Explainer = Callable[..., Array]
EXPLAINERS: dict[str, Explainer] = {
    e.__name__: e for e in (leave_one_out, integrated, gradient_weighted, rollout, attention, recency, random)
}


def reasons(model: Model, context: Context, items: Sequence[int], vectors: Tensor | None = None) -> list[Reason]:
    """Of items' (codes) log-probability, by removing tokens. vectors: as in `logits_of`."""
    context = one(context).to(model.device)
    types, names = tokens(context)[0], labels(model, context)
    effects, wholes, scores = _removed(model, context, items, vectors=vectors)
    chosen = [_strongest(effect) for effect in effects]
    after = logits_of(model, context, np.stack([~np.isin(np.arange(len(types)), named) for named in chosen]), vectors)
    out = []
    for item, named, whole, score, less in zip(items, chosen, wholes, scores, after, strict=True):
        lost = score - float(target_log_prob(less, item))
        coverage = float(np.clip(lost / whole, 0, 1)) if whole > 0 and named else 0.0
        out.append(Reason(_sentence([(names[t], types[t]) for t in named], coverage), named, coverage))
    return out


def _strongest(effects: Array) -> list[int]:
    """Never the start, whose effect is 0."""
    least = max(WEAKEST * effects.max(), 0)
    return [int(t) for t in np.argsort(-effects, kind="stable")[:MAX_CAUSES] if effects[t] > least]


def _sentence(causes: list[tuple[str, str]], coverage: float) -> str:
    if coverage < ENOUGH:
        return f"Not enough evidence: no few causes stand out (the strongest cover {coverage:.0%})."
    events, clauses = [], []
    for label, kind in causes:
        label = plain(label, 60)
        name, _, value = label.partition(" ")
        special = {"hour": f"it is {value} h", "weekday": f"it is {value}", "gap": f"your last choice was {value} ago"}
        clause = f"your {name} is {value}" if kind == "profile" else special.get(name, f"the {name} is {value}")
        said, part = (events, label) if kind == "history" else (clauses, clause)
        if part not in said:
            said.append(part)
    if events:
        clauses.insert(0, f"you chose {', '.join(events[:-1])}{' and ' * (len(events) > 1)}{events[-1]}")
    return f"Because {', and '.join(clauses)}."


STEPS = 20  # of a curve: 5 % of the tokens each


class Faithfulness(NamedTuple):
    table: Frame  # means over users: explainer × (deletion, insertion, milliseconds), best deletion first
    deletion: dict[str, Array]  # (U, STEPS + 1): the probability left
    insertion: dict[str, Array]  # the same, from the start token alone


def faithfulness(model: Model, contexts: Context, explainers: Mapping[str, Explainer] = EXPLAINERS) -> Faithfulness:
    """On the top item of each row's last target (B = U).

    deletion: area under the curve as named tokens go (lower is better). insertion: as they come (higher). All use the
    removal of leave-one-out."""
    spent, curves = [], []
    for context, item in _targets(model, contexts, least=2):
        ranks, times = [], [time.perf_counter()]
        for explain in explainers.values():
            ranks.append([-1, *np.argsort(-explain(model, context, item)[1:], kind="stable").argsort()])
            times.append(time.perf_counter())
        rank = np.array(ranks)[:, None]  # (explainers, 1, n - 1); the start stays
        gone = rank < np.round(np.linspace(0, rank.shape[2] - 1, STEPS + 1)).astype(int)[:, None]
        retained = np.stack((~gone, gone)) | (rank == -1)  # (2, explainers, STEPS + 1, n - 1)
        logits = logits_of(model, context, retained.reshape(-1, rank.shape[2]))
        left = np.exp(target_log_prob(logits, item).cpu().numpy()).reshape(retained.shape[:3])
        spent.append(np.diff(times) * 1000)
        curves.append(left / left[0, 0, 0])
    both = np.stack(curves, 2)  # (2, explainers, U, STEPS + 1)
    measures = (*np.trapezoid(both, dx=1 / STEPS).mean(2), np.mean(spent, 0))
    table = Frame(measures, ["deletion", "insertion", "milliseconds"], list(explainers)).T
    return Faithfulness(table.sort_values("deletion"), *(dict(zip(explainers, part, strict=True)) for part in both))


def _targets(model: Model, contexts: Context, least: int) -> Iterator[tuple[Context, int]]:
    """Contexts with so many tokens, and their top items."""
    for context in (one(contexts, row) for row in range(len(contexts.item))):
        if len(tokens(context)[0]) >= least:
            yield context, top_item(model, context)


@torch.random.fork_rng()
def randomise_parameters(model: Model, seed: int = 0) -> Model:
    """With random layers after the last joint block's attention; for the head, whose matrix is also input, the state is
    rotated."""
    other = _copied(model)
    fusion, block = other.network.fusion, other.network.fusion.joint[-1]
    torch.manual_seed(seed)
    for layer in (block.out, block.gate, *block.ffn, block.ffn_gate):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    rotation = nn.Linear(block.out.out_features, block.out.out_features, bias=False)
    nn.init.orthogonal_(rotation.weight)
    fusion.norm = nn.Sequential(fusion.norm, rotation.to(model.device))
    return other


def uniform_attention(model: Model) -> Model:
    """The joint layers attend uniformly."""
    other = _copied(model)
    for block in other.network.fusion.joint:
        nn.init.zeros_(block.q.weight)
    return other


def agreement(model: Model, other: Model, contexts: Context, explainers: Mapping[str, Explainer]) -> dict[str, Array]:
    """Spearman's correlation (U,) of effects on two models, for the first's top items; of users with three tokens."""
    targets = list(_targets(model, contexts, least=4))
    both = {n: [np.stack([e(m, *t)[1:] for m in (model, other)], 1) for t in targets] for n, e in explainers.items()}
    return {n: np.array([Frame(x).corr("spearman").iat[0, 1] for x in pairs]) for n, pairs in both.items()}


def _copied(model: Model) -> Model:
    other = copy.copy(model)
    other.network = copy.deepcopy(model.network)
    return other
