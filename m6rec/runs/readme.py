"""The parts of the README that are measured, rendered from notebooks/results/ and from the notebooks themselves.

Each stands between two comments, <!-- results --> and <!-- /results -->; make readme writes what is between them, and
copies the picture of the notebook cell that is tagged "readme" to notebooks/results/readme.png.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from m6rec.errors import InputError
from m6rec.runs import notebooks, results
from m6rec.runs.record import short

METHODS = {
    "dense": "M6-Rec, dense head",
    "generated": "M6-Rec, generated",
    "dense_no_request_time": "M6-Rec, dense head, without the request's own time",
    "sasrec": "SASRec, full softmax",
    "cooccurrence": "decayed co-occurrence",
    "ease": "EASE",
    "itemknn": "item-kNN",
    "popularity": "popularity",
}
BENCH = {
    "m6rec": "M6-Rec, dense head with the co-occurrence prior",
    "m6rec_no_prior": "M6-Rec, dense head",
    "generated": "M6-Rec, generated",
    "hybrid": "M6-Rec, hybrid",
    "m6rec_no_request_time": "M6-Rec with the prior, without the request's own time",
    "m6rec_no_request_time_no_prior": "M6-Rec, dense head, without the request's own time",
    "rectools_sasrec": "RecTools' SASRec",
    "recbole_sasrec": "RecBole's SASRec",
    "recbole_gru4rec": "RecBole's GRU4Rec",
    "recbole_ease": "RecBole's EASE",
    "esasrec": "eSASRec (LiGR, sampled softmax)",
    "sasrec": "SASRec, full softmax",
    "gru4rec": "GRU4Rec, full softmax",
    "tiger": "TIGER-style (residual k-means digits)",
    "cooccurrence": "decayed co-occurrence, settings by validation",
    "markov": "Markov chain",
    "ease": "EASE",
    "itemknn": "item-kNN",
    "popularity": "popularity",
}
BAZAAR = {
    "ceiling": "the best possible (true tastes known)",
    "all": "M6-Rec, text, image and sound",
    "best_two": "M6-Rec, the best two of the three",
    "best_one": "M6-Rec, the best one of the three",
    "sasrec": "SASRec, full softmax",
    "cooccurrence": "decayed co-occurrence",
    "ease": "EASE",
    "popularity": "popularity",
}
WAYS = {
    "attention": "attended to (added, and its tokens are looked at)",
    "gating": "gated",
    "adding": "added",
    "none": "neither request nor profile",
}
SUBSETS = ("text_image_sound", "text_image", "text_sound", "image_sound", "text", "image", "sound")
PICTURE = "results/readme.png"
EDGE = {
    "late.auc.full": "the whole pass, AUC",
    "late.auc_loss": "late interaction, AUC lost",
    "late.ratio": "late interaction, a cached request's time / the whole pass's",
    "late.hit_rate": "late interaction, segments that the cache had",
    "late.max_diff": "late interaction, largest difference of a logit, cached or not",
    "edge.smaller": "student, times fewer parameters",
    "edge.quality": "student, share of the AUC",
    "pruned.quality": "four fifths pruned, share of the AUC",
    "exit.saved": "early exits, share of the layers saved",
    "exit.quality": "early exits, share of the AUC",
    "int8.auc_loss": "student in int8, AUC lost",
}
WAYS_TO_ADAPT = {
    "full": "full tuning",
    "option_adapter": "option-adapter tuning",
    "option": "option tuning",
    "prompt": "prompt tuning",
    "adapter": "adapters and a head",
    "lora": "LoRA and a head",
    "head": "head alone",
}
LIKED = {
    "auc.zero_shot": "M6-Rec, text, before any label",
    "ml100k.auc": "M6-Rec, text, option-adapter tuning",
    "ml100k.auc.din": "DIN-like attention over ids",
    "ml100k.auc.din_numbers": "the same, with the five numbers",
    "ml100k.auc.logistic": "logistic regression on the numbers",
    "ml100k.auc.item_mean": "the film's mean",
}
LAYOUT = {  # rows in their groups: a label for each recorded name. Names that stand in no group come last.
    "MovieLens-100K, NDCG@10, seen items masked": {f"ml100k.ndcg10.{key}": label for key, label in METHODS.items()},
    "MovieLens-100K, HR@10, seen items masked": {f"ml100k.hit10.{key}": label for key, label in METHODS.items()},
    "MovieLens-100K, one against the other, NDCG@10, seen items masked": {
        "ml100k.generated_over_dense": "generated / dense head",
        "ml100k.ndcg10.lead_over_best_baseline": "dense head − the best baseline, paired over users",
    },
    "MovieLens-100K, validation, nats per event": {
        "ml100k.nats.valid.pretrained": "M6-Rec, pretrained",
        "ml100k.nats.valid.popularity": "popularity",
        "ml100k.nats.valid.guessing": "guessing",
    },
    "MovieLens-100K, what the request is worth to the same weights, NDCG@10": {
        "ml100k.context.ndcg10.request_given": "request given",
        "ml100k.context.ndcg10.clock_absent": "without its hour and weekday",
        "ml100k.context.ndcg10.gap_absent": "without its gap",
        "ml100k.context.ndcg10.request_absent": "without all of it",
    },
    "MovieLens-100K, NDCG@10, nothing masked": {
        f"ml100k.ndcg10.{key}.unmasked": label for key, label in METHODS.items()
    },
    "MovieLens-100K, HR@10, nothing masked": {f"ml100k.hit10.{key}.unmasked": label for key, label in METHODS.items()},
    "MovieLens-100K, the bench, NDCG@10, seen items masked": {
        f"bench.ml100k.ndcg10.{key}": label for key, label in BENCH.items()
    },
    "bazaar (simulated shoppers), NDCG@10, known people and goods": {
        f"bazaar.ndcg10.{key}": label for key, label in BAZAAR.items()
    },
    "bazaar, NDCG@10, the difference": {
        "bazaar.lead.all_over_best_two": "all three over the best two",
        "bazaar.lead.best_two_over_best_one": "the best two over the best one",
        **{f"bazaar.lead.all_over_{key}": f"all three over {BAZAAR[key]}" for key in [*BAZAAR][4:]},
    },
    "bazaar, NDCG@10 among the goods never seen in training": {
        "bazaar.ndcg10.cold_ceiling": "the best possible",
        "bazaar.ndcg10.cold": "M6-Rec, text, image and sound",
        "bazaar.ndcg10.cold_random": "guessing",
        "bazaar.ndcg10.cold_popularity": "popularity, which has counted nothing of them",
    },
    "bazaar, NDCG@10, people never seen: profile and request alone": {
        "bazaar.ndcg10.newcomers_ceiling": "the best possible",
        "bazaar.ndcg10.newcomers": "M6-Rec, text, image and sound",
        "bazaar.ndcg10.newcomers_popularity": "popularity",
    },
    **{
        f"bazaar, NDCG@10 of what is left, {kind} goods, the rest {way}": {
            f"bazaar.grid.{kind}.{way}.{subset}": subset.replace("_", " + ") for subset in SUBSETS
        }
        for kind in ("warm", "cold")
        for way in ("muted", "retrained")
    },
    "bazaar, muting and the planted truth": {
        "bazaar.mute_over_retrain": "largest relative cost of muting over retraining",
        "bazaar.share.spearman": "shoppers' modality shares by muting, Spearman with the true ones",
        "bazaar.share.spearman_attention": "the same by the encoder's attention",
    },
    "bazaar, NDCG@10 by fusion (one seed)": {f"bazaar.ndcg10.{key}": key for key in ("joint", "gated", "cross")},
    "Context's worth: NDCG@10 with request and profile / trained without them": {
        "context.bazaar.ratio": "bazaar",
        "context.bazaar.ceiling_ratio": "bazaar, the best ranking possible, with the request / without",
        "context.ml100k.ratio": "MovieLens-100K (one seed)",
    },
    "bazaar, NDCG@10 by how a request meets its target": {f"context.bazaar.ndcg10.{w}": n for w, n in WAYS.items()},
    "MovieLens-100K, NDCG@10 by how a request meets its target (one seed, next events alone)": {
        f"context.ml100k.ndcg10.{w}": n for w, n in WAYS.items()
    },
    "bazaar, content never seen in training": {
        "restore.image": "hidden patches of photographs, error over the mean patch's",
        "restore.sound": "hidden patches of spectrograms, error over the mean patch's",
        "caption.class_accuracy": "captions that name the right class of ten",
    },
    "MovieLens-100K, NDCG@10 of films that were in training, a tenth held out": {
        "fusion.ml100k.ndcg10.id_text": "IDs and texts",
        "fusion.ml100k.ndcg10.id": "IDs alone",
        "fusion.ml100k.ndcg10.text": "texts alone",
    },
    "MovieLens-100K, NDCG@10 among the films held out": {
        "fusion.ml100k.cold.ndcg10.id_text": "IDs and texts",
        "fusion.ml100k.cold.ndcg10.text": "texts alone",
        "fusion.ml100k.cold.ndcg10.id": "IDs alone, which say nothing of them",
        "fusion.ml100k.cold.ndcg10.random": "guessing",
    },
    "MovieLens-100K, will it be liked: AUC": LIKED,
    **{
        f"MovieLens-100K, will it be liked: AUC of a backbone adapted with {said}": {
            f"auc.{way}{n}": label for way, label in WAYS_TO_ADAPT.items()
        }
        for n, said in ((".100", "100 labels"), (".1000", "1,000"), (".10000", "10,000"), ("", "all"))
    },
    "what is trained, as a share of the backbone's parameters": {
        f"trained_share.{way}": label for way, label in WAYS_TO_ADAPT.items()
    },
    "processor milliseconds of a step of 64 examples": {
        f"step_milliseconds.{way}": label for way, label in WAYS_TO_ADAPT.items()
    },
    "MovieLens-100K, will it be liked: late interaction and M6-Edge": EDGE,
}


def render_readme(text: str, folder: Path) -> str:
    """The README's text with its measured parts as they are now (folder: notebooks/). InputError without the marks."""
    text = _between(text, "results", results_table(folder / "results"))
    return _between(text, "notebooks", notebooks_table(folder)) if "<!-- notebooks -->" in text else text


def write_readme(folder: Path) -> bool:
    """Bring the README beside notebooks/ and its picture up to date; whether the text changed."""
    path = folder.parent / "README.md"
    if not path.exists():
        raise InputError(f"{path} is missing: make readme fills its results table, and writes no README of its own.")
    old = path.read_text(encoding="utf-8")
    new = render_readme(old, folder)
    if new != old:
        path.write_text(new, encoding="utf-8")
    if shown := picture(folder):
        (folder / "results").mkdir(exist_ok=True)
        (folder / PICTURE).write_bytes(shown)
    return new != old


def picture(folder: Path) -> bytes | None:
    """The PNG that the README shows: the output of the first cell that is tagged "readme"."""
    for path in notebooks.find(folder):
        for cell in notebooks.tagged(notebooks.read(path), "readme"):
            for output in cell.outputs:
                if shown := output.get("data", {}).get("image/png"):
                    return base64.b64decode(shown)
    return None


def results_table(folder: Path) -> str:
    """Markdown: each recorded figure with its 95 % interval, seeds and the command that measures it."""
    figures = {
        name: (figure, result["run"]["command"])
        for result in results.read(folder).values()
        for name, figure in result.items()
        if name != "run"
    }
    placed = {name for names in LAYOUT.values() for name in names}
    rest = {name: f"`{name}`" for name in figures if name not in placed}
    lines = ["| | value | 95 % interval | seeds | command |", "|---|---|---|---|---|"]
    for group, names in {**LAYOUT, "Also recorded": rest}.items():
        rows = [_row(label, *figures[name]) for name, label in names.items() if name in figures]
        lines += [f"| **{group}** | | | | |", *rows] if rows else []
    return "\n".join(lines) if figures else "Nothing is recorded yet: `make results`."


def notebooks_table(folder: Path) -> str:
    """Markdown: each notebook, its aim and time as its own opening says, and what comes next."""
    paths = notebooks.find(folder)
    lines = ["| notebook | you will | time | next |", "|---|---|---|---|"]
    for path, after in zip(paths, [*paths[1:], None], strict=True):
        opening = "\n".join(cell.source for cell in notebooks.read(path).cells[:2])
        cells = [_link(folder, path), _said(opening, "You will"), _said(opening, "Time")]
        lines.append("| " + " | ".join([*cells, _link(folder, after) if after else "–"]) + " |")
    return "\n".join(lines)


def _row(label: str, figure: dict, command: str) -> str:
    interval = "–" if figure["low"] is None else f"{short(figure['low'])} to {short(figure['high'])}"
    return f"| {label} | {short(figure['value'])} | {interval} | {figure['seeds']} | `{command}` |"


def _link(folder: Path, path: Path) -> str:
    return f"[{path.stem}]({folder.name}/{path.name})"


def _said(opening: str, words: str) -> str:
    """What an opening says after the bold words: "**Time** 40 s" is "40 s"."""
    found = re.search(rf"\*\*{words}\W*\*\*\W*(.+?)\s*(?:· \*\*|\n|$)", opening)
    return found[1].replace("|", r"\|") if found else "–"


def _between(text: str, mark: str, content: str) -> str:
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"the README has no {start} followed by {end}: put each on its own line, then make readme.")
    return f"{before}{start}\n{content}\n{end}{after}"
