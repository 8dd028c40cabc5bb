"""Tasks in words, asked of one text backbone: to rank what it has never read, and to write.

`Likelihood` (M6-Rec section 3.2) and `DotProduct` rank, for `evaluate`. What writes is a `Task`."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from m6rec.config import Array
from m6rec.data.dataset import Dataset, Targets
from m6rec.data.prompts import Domain, item
from m6rec.data.text import PAD, Prompt, pad
from m6rec.evaluate import evaluate
from m6rec.generate import write
from m6rec.model.network import TextTransformer
from m6rec.train.losses import text_vectors
from m6rec.train.text import SOURCE, Backbone, fine_tune

# Few-shot passes and step sizes, chosen on validation users of bazaar's jingled garments; from scratch, separately.
PASSES, SCRATCH_RATE = 10, 3e-3
SMALL, SMALL_RATE, RATE = 30, 3e-4, 1e-3  # with fewer examples, smaller steps

NEW = "it is new"
OFFERS = "how about"
QUERY_WORDS = 2
WRITTEN = 10  # items that are written of what may be next


@torch.no_grad()
def log_likelihood(backbone: Backbone, prompt: Prompt, candidates: Sequence[str]) -> Array:
    """Mean log-likelihood (N,) of candidates' tokens after a prompt."""
    network, tokenizer = backbone.network, backbone.tokenizer
    given = tokenizer.given(prompt.target)
    source = torch.tensor([tokenizer.source(prompt, SOURCE)])
    # The last given token begins each candidate: it predicts the first one.
    cache = network(source, torch.tensor([given[:-1]], dtype=torch.long), logits=False).cache
    rows = torch.from_numpy(pad([(given[-1], *tokenizer.segment(words)) for words in candidates]))  # (N, T)
    means = []
    for part in rows.to(network.device).split(512):
        token = part[:, 1:]  # (n, T - 1)
        log_prob = network.decode_step(part[:, :-1], cache).logits.log_softmax(-1)
        log_prob = log_prob.gather(-1, token[..., None])[..., 0]
        means.append((log_prob * (token != PAD)).sum(1) / (token != PAD).sum(1))
    return torch.cat(means).cpu().numpy()


def target_prompts(domain: Domain, users: Targets) -> list[Prompt]:
    """What stands before each target."""
    return [one._replace(target=one.target[:-1]) for one in domain.prompts(users.events)]


class Likelihood:
    """Mean log-likelihoods of items' tokens after profile, history and request.

    candidates: item codes; others get -inf."""

    name = "zero-shot, token log-likelihood"

    def __init__(self, backbone: Backbone, domain: Domain, candidates: Array):
        self.backbone, self.domain, self.candidates = backbone, domain, candidates

    def scores(self, users: Targets) -> Array:
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, prompt in zip(out, target_prompts(self.domain, users), strict=True):
            row[self.candidates] = log_likelihood(self.backbone, prompt, self.domain.items[self.candidates])
        return out


class DotProduct:
    """⟨the state before an item, the item's words⟩, which contrastive pretraining has aligned."""

    name = "zero-shot, dot product"

    @torch.no_grad()
    def __init__(self, backbone: Backbone, domain: Domain):
        self.backbone, self.domain = backbone, domain
        tokens = torch.from_numpy(pad([backbone.tokenizer.ids(words) for words in domain.items]))
        self.items = text_vectors(backbone.network, tokens.to(backbone.network.device))  # (N, D)

    @torch.no_grad()
    def scores(self, users: Targets) -> torch.Tensor:
        network, tokenizer = self.backbone.network, self.backbone.tokenizer
        prompts = target_prompts(self.domain, users)
        source = torch.from_numpy(tokenizer.encode(prompts, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(prompt.target) for prompt in prompts]))
        return network.read(source, given) @ self.items.T


@torch.random.fork_rng()
def few_shot(
    backbone: Backbone, domain: Domain, rows: Array, items: Array, seed: int = 0, *, scratch: bool = False
) -> DotProduct:
    """Fine-tuned on events `rows`, contrasted with item codes. scratch: from untrained weights."""
    rate = SMALL_RATE if len(rows) < SMALL else RATE
    if scratch:
        torch.manual_seed(seed)
        network = TextTransformer(backbone.config, len(backbone.tokenizer))
        backbone, rate = backbone._replace(network=network), SCRATCH_RATE
    tuned = fine_tune(backbone, domain.prompts(rows), PASSES, rate, seed, sorted(set(domain.items[items])))
    return DotProduct(tuned, domain)


def ranking(model: object, data: Dataset, rows: Array, others: Array, k: int = 100) -> dict[str, Array]:
    """(n,) each, of events `rows`: "retrieval", whether the item is among k; "scoring", whether above others (n,)."""
    targets, line = data.targets(rows), np.arange(len(rows))
    near = evaluate(model, data, split=data.split()._replace(test=rows), k=k).per_user["hit"].to_numpy(float)
    scores = torch.as_tensor(model.scores(targets)).cpu().numpy()
    return {"retrieval": near, "scoring": np.sign(scores[line, targets.items] - scores[line, others]) / 2 + 0.5}


class Task(NamedTuple):
    measure: str  # what is measured / the baseline
    prompts: list[Prompt]
    metric: Callable[[str, Prompt], float]  # of a written segment, 0 to 1
    baseline: list[list[str]]  # the segments answered without a network
    allowed: Sequence[Sequence[str]] | None = None  # that may answer each prompt; None: any
    turn: int = 0  # of the answer: the first, or -1 for the last
    answers: int = 1  # how many may be written; the best of them counts

    def write(self, backbone: Backbone) -> list[list[str]]:
        return write(backbone, self.prompts, turn=self.turn, among=self.allowed, answers=self.answers)

    def evaluate(self, written: Sequence[Sequence[str]]) -> Array:
        """(n,) of each prompt's segments."""
        pairs = zip((parts[: self.answers] or [""] for parts in written), self.prompts, strict=True)
        return np.array([max(self.metric(part, prompt) for part in parts) for parts, prompt in pairs], float)


def tasks(
    domain: Domain, rows: Array, items: Mapping[str, Iterable[str]], features: Collection[str]
) -> dict[str, Task]:
    """Of events `rows`; "next" is pretraining's. features: the words that are noticed of an item."""
    return {
        "explanation": explanation(domain, rows, features),
        "design": design(domain, rows, items),
        "query": query(domain, rows, features),
        "conversation": conversation(domain, rows, features),
        "next": next_item(domain, rows),
    }


def explanation(domain: Domain, rows: Array, features: Collection[str]) -> Task:
    """What an item shares with an earlier purchase, as in "silk as in silk bag party bold"."""
    prompts = []
    for prompt in domain.prompts(rows, 5, in_source=True):
        prompt = prompt._replace(candidate=prompt.target[-1])
        true = (reason for reason, holds in reasons(prompt, features).items() if holds)
        prompts.append(prompt._replace(target=("because:", next(true))))
    allowed = [list(reasons(prompt, features)) for prompt in prompts]
    measure, first = "true reason / the first feature, as in the last purchase", [some[:1] for some in allowed]
    return Task(measure, prompts, lambda answer, prompt: reasons(prompt, features).get(answer, False), first, allowed)


def reasons(prompt: Prompt, features: Collection[str]) -> dict[str, bool]:
    """Sentences of a candidate's feature and an earlier purchase, the last first -> whether it has it, too."""
    events = [event.split()[:4] for event in reversed(prompt.history)]
    pairs = ((word, event) for event in events for word in _noticed(prompt.candidate, features))
    found = {" ".join([word, "as in", *event]): word in event for word, event in pairs}
    return found | {NEW: not any(found.values())}


def design(domain: Domain, rows: Array, items: Mapping[str, Iterable[str]]) -> Task:
    """The category bought next, and a title in it that need not exist."""
    category, title = (np.array([item(text) for text in items[name]]) for name in ("category", "title"))
    prompts = [
        prompt._replace(target=("category:", str(category[code]), "title:", str(title[code])))
        for code, prompt in zip(domain.item[rows], domain.prompts(rows, in_source=True), strict=True)
    ]
    most = [_commonest(category[domain.item[rows - 1]], 1)]  # of the purchases before
    measure = "right category / the commonest"
    return Task(measure, prompts, lambda said, prompt: said == prompt.target[1], [most] * len(rows))


def query(domain: Domain, rows: Array, features: Collection[str]) -> Task:
    """What a user types next. Nobody typed in bazaar: by rule, two noticed words of the item bought next."""
    prompts, usual = [], []
    for prompt in domain.prompts(rows, in_source=True):
        typed = _noticed(prompt.target[-1], features) or prompt.target[-1].split()
        prompts.append(prompt._replace(target=("query:", " ".join(typed[:QUERY_WORDS]))))
        latest = (word for event in reversed(prompt.history) for word in event.split())  # first where they tie
        usual.append([_commonest((word for word in latest if word in features), QUERY_WORDS)])
    return Task("F1 of words / the history's usual", prompts, _word_f1, usual)


def conversation(domain: Domain, rows: Array, features: Collection[str]) -> Task:
    """By templates: a wish, a question, another wish, an offer with both: the first and last noticed words."""
    has = {f"{OFFERS} {text}": set(text.split()) for text in sorted(set(domain.items))}
    prompts, allowed = [], []
    for prompt in domain.prompts(rows, 6, in_source=True):
        bought = prompt.target[-1]
        noticed = _noticed(bought, features) or bought.split()[:1]
        one, two = noticed[0], noticed[-1]
        target = f"user: {one} please:", "system:", "what else", f"user: {two} too:", "system:", f"{OFFERS} {bought}"
        prompts.append(prompt._replace(target=target))
        allowed.append([offer for offer in has if {one, two} <= has[offer]])
    measure, first = "item bought is offered / the first with both wishes", [some[:1] for some in allowed]
    return Task(measure, prompts, lambda answer, prompt: answer == prompt.target[-1], first, allowed, turn=-1)


def next_item(domain: Domain, rows: Array) -> Task:
    """Ten items in words, after the request: is the one among them that is bought?"""
    prompts, may = domain.prompts(rows), sorted({domain.items[code] for code in np.unique(domain.item)})
    most = [item for item, _ in Counter(domain.items[domain.item[rows - 1]]).most_common(WRITTEN)]
    measure, fixed = "hit rate of ten items / the ten commonest", ([most] * len(rows), [may] * len(rows))
    return Task(measure, prompts, lambda answer, prompt: answer == prompt.target[-1], *fixed, answers=WRITTEN)


def _word_f1(answer: str, prompt: Prompt) -> float:
    said, true = set(answer.split()), set(prompt.target[-1].split())
    return 2 * len(said & true) / max(1, len(said) + len(true))


def _noticed(text: str, features: Collection[str]) -> list[str]:
    return list(dict.fromkeys(word for word in text.split() if word in features))


def _commonest(words: Iterable[str], count: int) -> str:
    return " ".join(word for word, _ in Counter(words).most_common(count))
