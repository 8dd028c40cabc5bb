"""All tasks that write, asked of one checkpoint about the same events of bazaar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m6rec.data import bazaar
from m6rec.data.dataset import Dataset
from m6rec.data.prompts import Domain
from m6rec.data.text import Prompt
from m6rec.generate.plain import first_turn, last_turn, write
from m6rec.tasks import conversation, design, explanation, query
from m6rec.train.plain import Backbone

Answers = Mapping[str, Sequence[Sequence[str]]]  # task -> segments that were written, per text
TAUGHT = ("explanation", "design", "query", "conversation")  # "next", the next item, is what pretraining teaches

MEASURES = {  # of every task what is measured / what it is held against; the last three rank, and write nothing
    "explanation": "true feature named / the item's first",
    "design": "right category / the commonest",
    "query": "true words / the history's usual",
    "conversation": "item bought is offered / any with both wishes",
    "next": "ROUGE-L / the last item again",
    "retrieval": "Recall@100 / two towers of ids",
    "scoring": "AUC / popularity",
    "zero_shot": "NDCG@10 / text cosine",
}


class Exam:
    """The events `rows` asked in every way; their items' noticed words are the features."""

    def __init__(self, domain: Domain, data: Dataset, truth: bazaar.Truth, rows: np.ndarray, seed: int = 0):
        self.features, self.titles, self.seed = set(truth.words), data.items["title"], seed
        self.texts = {
            "explanation": explanation.texts(domain, rows, truth),
            "design": design.texts(domain, rows, data.items["category"], self.titles),
            "query": query.texts(domain, rows, self.features),
            "conversation": conversation.texts(domain, rows, self.features, seed),
        }
        self.texts["next"] = [
            text._replace(request="", target=(f"{domain.requests[row]}:", domain.items[domain.item[row]]))
            for text, row in zip(self.texts["query"], rows, strict=True)
        ]
        self.sold = sorted(set(domain.items))

    @property
    def lessons(self) -> list[Prompt]:
        """What a backbone is taught so that it answers in every way."""
        return [text for task in TAUGHT for text in self.texts[task]]

    def answers(self, made: Backbone, tasks: Sequence[str] = (*TAUGHT, "next")) -> dict[str, list[list[str]]]:
        """What a backbone writes. Explanations keep to what was read, offers and next items to what is sold."""
        explained, talked = self.texts["explanation"], self.texts["conversation"]
        among = {
            "explanation": [explanation.sayable(text, self.features) for text in explained],
            "conversation": conversation.offers(talked, self.sold),
            "next": [self.sold] * len(self.texts["next"]),
        }
        turn = {"conversation": last_turn}
        return {
            task: write(made, texts, given=turn.get(task, first_turn), among=among.get(task))
            for task, texts in self.texts.items()
            if task in tasks
        }

    def baselines(self, learnt: Exam) -> dict[str, list[list[str]]]:
        """What answers without a network, where `learnt` may be counted."""
        return {
            "explanation": explanation.first_word(self.texts["explanation"], self.features),
            "design": design.commonest(self.texts["design"], learnt.texts["design"]),
            "query": query.usual(self.texts["query"], self.features),
            "conversation": conversation.search(self.texts["conversation"], self.sold, self.seed),
            "next": [[text.history[-1]] for text in self.texts["next"]],
        }

    def judge(self, said: Answers) -> dict[str, np.ndarray]:
        """One measure of each task, per text: the true feature is named; the category bought; the share of a query's
        words that are true; the item bought is offered; ROUGE-L of the next item."""
        texts, items = self.texts, said["next"]
        return {
            "explanation": explanation.judge(texts["explanation"], said["explanation"], self.features)["fmr"],
            "design": design.judge(texts["design"], said["design"], self.titles)["category"],
            "query": query.judge(texts["query"], said["query"])["words"],
            "conversation": conversation.judge(texts["conversation"], said["conversation"], self.sold)["right"],
            "next": np.array(
                [
                    explanation.rouge(s[0].split(), t.target[-1].split())
                    for s, t in zip(items, texts["next"], strict=True)
                ]
            ),
        }
