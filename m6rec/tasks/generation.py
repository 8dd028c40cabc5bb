"""Tasks whose answer is generated: explanation, design, query, conversation, and the next item.

Each has examples as prompts, the sentences that may answer, a metric, and a baseline without a network.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from m6rec.data import bazaar
from m6rec.data import prompts as words
from m6rec.data.dataset import Dataset
from m6rec.data.prompts import Domain
from m6rec.data.text import Prompt
from m6rec.generate import write
from m6rec.train.text import Backbone

Generated = Sequence[Sequence[str]]  # the segments that were generated, for each prompt
CITED = 4  # words by which an explanation names an event
SIGNS = ("your taste", "goes with", "suits the", "by chance")  # of causes
OFFERS = "how about"
QUERY_WORDS = 2
METRICS = {  # what is measured / the baseline; the last three rank, and generate nothing
    "explanation": "true feature named / the item's first",
    "design": "right category / the commonest",
    "query": "true words / the history's usual",
    "conversation": "item bought is offered / any with both wishes",
    "next": "ROUGE-L / the last item again",
    "retrieval": "Recall@100 / two towers of ids",
    "scoring": "AUC / popularity",
    "zero_shot": "NDCG@10 / text cosine",
}


class Task(NamedTuple):
    prompts: list[Prompt]
    metric: Callable[[str, Prompt], float]  # of the first generated segment, 0 to 1
    baseline: "Callable[[Task], list[list[str]]]"  # without a network; the given task may be counted
    allowed: Sequence[Sequence[str]] | None = None  # sentences that may answer each prompt; None: any
    turn: int = 0  # the answer that is generated: the first, or -1 for the last

    def generate(self, backbone: Backbone) -> list[list[str]]:
        return write(backbone, self.prompts, turn=self.turn, among=self.allowed)

    def evaluate(self, generated: Generated) -> np.ndarray:
        pairs = zip((parts[0] if parts else "" for parts in generated), self.prompts, strict=True)
        return np.array([self.metric(answer, prompt) for answer, prompt in pairs], float)


def tasks(domain: Domain, data: Dataset, truth: bazaar.Truth, rows: np.ndarray, seed: int = 0) -> dict[str, Task]:
    """The events `rows` of bazaar; "next" is what pretraining teaches."""
    return {
        "explanation": explanation(domain, rows, truth),
        "design": design(domain, rows, data.items),
        "query": query(domain, rows, set(truth.words)),
        "conversation": conversation(domain, rows, set(truth.words), seed),
        "next": next_item(domain, rows),
    }


def explanation(domain: Domain, rows: np.ndarray, truth: bazaar.Truth) -> Task:
    """Why an item was bought: its noticed word nearest to the stored cause, such as "silk is your taste".

    Metric: FMR, whether the true feature is named (Li et al. 2021, PETER). Baseline: the first feature is the taste.
    """
    features, prompts = set(truth.words), []
    for row, prompt in zip(rows, domain.prompts(rows, 5, in_source=True), strict=True):
        event, noticed = truth.events.iloc[row], _noticed(prompt.target[-1], features) or ["it"]
        cause, pull = "by chance", np.zeros_like(truth.shoppers[0])
        if event.cause == "taste":
            cause, pull = "is your taste", truth.shoppers[domain.user[row]]
        elif event.cause == "event":
            earlier = domain.item[event.cause_event]
            cause, pull = _goes_with(domain.items[earlier]), truth.items[earlier]
        elif event.cause == "request":
            levels, request = bazaar.LEVELS[event.cause_field], prompt.request.replace("workday", "weekday").split()
            level = next(level for level in levels if level in request)
            pull = truth.requests[event.cause_field][levels.index(level)]
            cause = f"suits the {'workday' if level == 'weekday' else level}"
        near = [float(truth.words[w] @ pull[bazaar.BLOCKS["text"]]) if w in features else 0.0 for w in noticed]
        target = "because:", f"{noticed[int(np.argmax(near))]} {cause}"
        prompts.append(prompt._replace(candidate=prompt.target[-1], target=target))
    return Task(
        prompts,
        lambda answer, prompt: _claimed(prompt.target[-1], features) <= _claimed(answer, features),
        lambda _: [[f"{[*_noticed(prompt.candidate, features), 'it'][0]} is your taste"] for prompt in prompts],
        [explanations(prompt, features) for prompt in prompts],
    )


def explanations(prompt: Prompt, features: Collection[str]) -> list[str]:
    """All with a feature of the candidate and a cause in the prompt."""
    causes = ["is your taste", *(f"suits the {word}" for word in prompt.request.split())]
    causes += [_goes_with(event) for event in prompt.history] + ["by chance"]
    return [f"{word} {cause}" for word in _noticed(prompt.candidate, features) or ["it"] for cause in causes]


def explanation_report(prompts: Sequence[Prompt], generated: Generated, features: Collection[str]) -> dict[str, Any]:
    """The metrics of Li et al. 2021 (PETER), and how much of an explanation is invented.

    Each: match (it names features, all of them the item's), hallucinated (share of these that are not in the prompt),
    fmr, cause (the true one), bleu, rouge. All: fcr (features named / all), div (mean overlap of two's features, lower
    is better), usr (share of unique sentences).
    """
    rows, own, sentences = [], [], [" ".join(parts[:1]) for parts in generated]
    for sentence, prompt in zip(sentences, prompts, strict=True):
        true, claimed = prompt.target[-1], _claimed(sentence, features)
        cause, stored = (next((sign for sign in SIGNS if sign in text), "") for text in (sentence, true))
        named, pair = set(_noticed(sentence, features)), (sentence.split(), true.split())
        own.append(claimed)
        rows.append({
            "match": bool(claimed) and claimed <= set(prompt.candidate.split()),
            "hallucinated": len(named - set(" ".join(prompt.segments).split())) / max(1, len(named)),
            "fmr": _claimed(true, features) <= claimed,
            "cause": cause == stored,
            "bleu": bleu(*pair),
            "rouge": rouge(*pair),
        })  # fmt: skip
    overlaps = [len(a & b) for a, b in combinations(own[:200], 2)]
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]} | {
        "fcr": len(set().union(*own)) / len(features),
        "div": float(np.mean(overlaps or [0])),
        "usr": len(set(sentences)) / len(sentences),
    }


def design(domain: Domain, rows: np.ndarray, items: Mapping[str, Iterable[str]]) -> Task:
    """The category that a user buys next, and a title in it that need not exist. Metric: the category.

    Baseline: the commonest category, with its commonest words.
    """
    category, title = ([words.item(text) for text in items[name]] for name in ("category", "title"))
    prompts = [
        prompt._replace(target=("category:", category[item], "title:", title[item]))
        for item, prompt in zip(domain.item[rows], domain.prompts(rows, in_source=True), strict=True)
    ]

    def baseline(train: Task) -> list[list[str]]:
        most = _commonest((prompt.target[1] for prompt in train.prompts), 1)
        has = (word for prompt in train.prompts if prompt.target[1] == most for word in prompt.target[3].split())
        return [[most, "title:", _commonest(has, 3)]] * len(prompts)

    return Task(prompts, lambda answer, prompt: answer == prompt.target[1], baseline)


def query(domain: Domain, rows: np.ndarray, features: Collection[str]) -> Task:
    """What a user types next. Nobody typed in bazaar: by rule, two noticed words of the item bought next.

    Metric: the share of the query's words that are true. Baseline: the noticed words that the history has most.
    """
    prompts = []
    for prompt in domain.prompts(rows, in_source=True):
        typed = [w for w in prompt.target[-1].split() if w in features] or prompt.target[-1].split()
        prompts.append(prompt._replace(target=("query:", " ".join(dict.fromkeys(typed[:QUERY_WORDS])))))

    def metric(answer: str, prompt: Prompt) -> float:
        said = set(answer.split())
        return len(said & set(prompt.target[1].split())) / max(1, len(said))

    def usual(prompt: Prompt) -> str:
        latest = (word for event in reversed(prompt.history) for word in event.split())  # first where they tie
        return _commonest((word for word in latest if word in features), QUERY_WORDS)

    return Task(prompts, metric, lambda _: [[usual(prompt)] for prompt in prompts])


def conversation(domain: Domain, rows: np.ndarray, features: Collection[str], seed: int = 0) -> Task:
    """From templates and real histories: a wish, a question, another wish, an offer.

    The wishes are two noticed words of the item bought. Metric: it is offered. Baseline: any item with both wishes.
    """
    rng, prompts = np.random.default_rng(seed), []
    for prompt in domain.prompts(rows, 6, in_source=True):
        item = prompt.target[-1]
        noticed = _noticed(item, features) or item.split()[:1]
        one, two = (noticed[i] for i in rng.permutation(len(noticed) * 2)[:2] % len(noticed))
        target = f"user: {one} please:", "system:", "what else", f"user: {two} too:", "system:", f"{OFFERS} {item}"
        prompts.append(prompt._replace(target=target))
    allowed = offers(prompts, domain.items)

    def baseline(_: Task) -> list[list[str]]:
        rng = np.random.default_rng(seed)
        return [[some[rng.integers(len(some))]] for some in allowed]

    return Task(prompts, lambda answer, prompt: answer == prompt.target[-1], baseline, allowed, turn=-1)


def offers(prompts: Sequence[Prompt], catalogue: Iterable[str]) -> list[list[str]]:
    """Per dialogue, of every item with both wishes, or of all if there is none."""
    has = {f"{OFFERS} {item}": set(item.split()) for item in sorted(set(catalogue))}
    wishes = ({part.split()[1] for part in prompt.target if part.startswith("user:")} for prompt in prompts)
    return [[offer for offer in has if wished <= has[offer]] or list(has) for wished in wishes]


def next_item(domain: Domain, rows: np.ndarray) -> Task:
    """In words, after the request. Metric: ROUGE-L. Baseline: the last item again."""
    prompts = domain.prompts(rows)
    return Task(
        prompts,
        lambda answer, prompt: rouge(answer.split(), prompt.target[-1].split()),
        lambda _: [[prompt.history[-1]] for prompt in prompts],
        [sorted(set(domain.items))] * len(prompts),
    )


def bleu(said: Sequence[str], truth: Sequence[str], order: int = 4) -> float:
    """Of one sentence; precisions of 1 to 4 words, smoothed by one (Lin & Och 2004)."""
    if not said:
        return 0.0
    logs = []
    for n in range(1, order + 1):
        mine, its = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (said, truth))
        smooth = n > 1
        logs.append(math.log(max(((mine & its).total() + smooth) / (max(mine.total(), 1 - smooth) + smooth), 1e-9)))
    return math.exp(min(0.0, 1 - len(truth) / len(said)) + sum(logs) / order)


def rouge(said: Sequence[str], truth: Sequence[str]) -> float:
    """ROUGE-L: the F1 of the longest common subsequence (Lin 2004)."""
    table = np.zeros((len(said) + 1, len(truth) + 1), int)
    for i, a in enumerate(said):
        for j, b in enumerate(truth):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return 2 * int(table[-1, -1]) / max(1, len(said) + len(truth))


def _noticed(text: str, features: Collection[str]) -> list[str]:
    return list(dict.fromkeys(word for word in text.split() if word in features))


def _claimed(sentence: str, features: Collection[str]) -> set[str]:
    """Features of the item itself, before the cause."""
    return set(_noticed(min((sentence.split(sign)[0] for sign in SIGNS), key=len), features))


def _goes_with(event: str) -> str:
    return " ".join(["goes with", *event.split()[:CITED]])


def _commonest(words: Iterable[str], count: int) -> str:
    return " ".join(word for word, _ in Counter(words).most_common(count))
