"""How the README groups and names what is recorded, and the one figure of each notebook that comes first."""

from __future__ import annotations

HEADLINES = (  # one figure of each notebook: what it is, its name, and what stands beside it
    ("nats per event, MovieLens-100K", "ml100k.nats.valid.pretrained", "popularity", "ml100k.nats.valid.popularity"),
    ("NDCG@10 from text, image and sound, bazaar", "bazaar.ndcg10.all", "the best possible", "bazaar.ndcg10.ceiling"),
    ("NDCG@10 with context / without, bazaar", "context.bazaar.ratio", "the best possible",
     "context.bazaar.ceiling_ratio"),
    ("NDCG@10 generated / dense head, MovieLens-100K", "ml100k.generated_over_dense", "", ""),
    ("AUC of option-adapter tuning, MovieLens-100K", "auc.option_adapter", "full fine-tuning", "auc.full"),
    ("time of a cached request / the whole pass", "late.ratio", "AUC lost", "late.auc_loss"),
    ("zero-shot NDCG@10 in goods of a kind never seen, bazaar", "open.zero_shot", "text cosine", "open.text_cosine"),
    ("NDCG@10, MovieLens-100K, with the prior", "bench.ml100k.ndcg10.m6rec", "the strongest peer, the prior alone",
     "bench.ml100k.ndcg10.cooccurrence_content"),
    ("area under deletion by leave-one-out / by chance, MovieLens-100K", "deletion.ml100k.over_random", "/ by recency",
     "deletion.ml100k.over_recency"),
)  # fmt: skip
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
    "m6rec": "M6-Rec, dense head with the prior",
    "m6rec_ensemble": "an ensemble of all trainings, with the prior",
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
    "cooccurrence_content": "the prior alone: co-occurrence and content-kNN, settings by validation",
    "cooccurrence": "decayed co-occurrence, settings by validation",
    "markov": "Markov chain",
    "ease": "EASE",
    "itemknn": "item-kNN",
    "popularity": "popularity",
}
HEADS = {
    "nodes": "a vector for every node of the tree over learnt vectors (M6-Rec's form)",
    "nodes_no_teacher": "the same, without the dense head as teacher",
    "nodes_whole_prefix": "the same, with all events to look at",
    "nodes_of_words": "a vector for every node, tree over words",
    "nodes_at_random": "a vector for every node, tree at random",
    "nodes_residual": "a vector for every node, residual k-means",
    "shared": "a vector for every code of a level, tree over learnt vectors",
    "shared_residual": "a vector for every code of a level, residual k-means",
    "shared_residual_no_teacher": "the same, without the dense head as teacher",
    "parallel": "sixteen digits at once, taught digit by digit",
    "parallel_by_item": "sixteen digits at once, taught by the items that they name",
}
WORTH = {
    "tree": "the tree over learnt vectors, less one at random",
    "tree_over_residual": "the tree over learnt vectors, less residual k-means",
    "vectors_over_codes": "a vector for every node, less one for every code (residual k-means)",
    "teacher": "the dense head as teacher of node vectors",
    "teacher_of_codes": "the dense head as teacher of codes (residual k-means)",
    "prefix": "all events to look at, less the state alone",
    "items_over_codes": "sixteen digits taught by items, less digit by digit",
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
OPEN = {
    "zero_shot": "M6-Rec, zero-shot: the state meets the words",
    "with_cosine": "the same and text cosine, multiplied",
    "spelled_out": "M6-Rec, zero-shot: mean token log-likelihood (some people)",
    "ten_shot": "M6-Rec after ten examples",
    "hundred_shot": "M6-Rec after a hundred examples",
    "from_scratch": "untrained weights after a hundred examples",
    "from_scratch.ten": "untrained weights after ten examples",
    "text_cosine": "text cosine",
    "content_knn": "content-kNN",
    "popularity": "popularity, which has counted the domain's own events",
    "random": "guessing",
    "lead_over_cosine": "zero-shot − text cosine, paired over people",
}
WRITTEN = {
    "retrieval": "retrieval, Recall@100", "scoring": "scoring, bought above drawn (AUC)",
    "zero_shot": "zero-shot ranking, NDCG@10", "explanation": "explanation, the true feature is named",
    "design": "product design, right category", "query": "query, words that are true",
    "conversation": "conversation, what was bought is offered", "next": "next item, ROUGE-L",
}  # fmt: skip
SAID = {
    "match": "features named that the item has", "hallucinated": "features named that were never read",
    "fmr": "the true feature is named (FMR)", "cause": "the true cause is named", "fcr": "features used at all (FCR)",
    "div": "overlap of two explanations (DIV, lower is better)", "usr": "unique sentences (USR)",
    "bleu": "BLEU-4", "rouge": "ROUGE-L",
}  # fmt: skip
BY = {
    "leave_one_out": "leave-one-out", "integrated": "integrated gradients",
    "gradient_weighted": "weighted by gradients",
    "rollout": "rollout", "attention": "attention", "recency": "recency", "random": "chance",
}  # fmt: skip
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
    "MovieLens-100K, the bench, what else it says": {
        "bench.ml100k.hit10.m6rec": "M6-Rec with the prior, HR@10",
        "bench.ml100k.lead.low": "its lead over the strongest peer, lower end (Holm)",
        "bench.ml100k.generated_over_dense": "generated / dense head",
        "bench.ml100k.hybrid_over_dense": "hybrid / dense head",
        "bench.beam.exact": "people for whom a beam of 50 finds the exact ten",
        "bench.beam.invalid": "items that may not be on a list, in generated lists",
        "bench.cold.recall50.hybrid": "Recall@50 of films held out, hybrid, lifted for the best product of both",
        "bench.cold.recall50.hybrid_unlifted": "the same, not lifted",
        "bench.cold.recall50.content_knn": "the same, content-kNN",
        "bench.cold.known_ndcg10.hybrid": "NDCG@10 of the films known, hybrid, new ones lifted",
        "bench.cold.known_ndcg10.hybrid_unlifted": "the same, not lifted",
        "bench.cold.known_ndcg10.content_knn": "the same, content-kNN",
    },
    "MovieLens-100K, digit heads over one frozen trunk, exact scores / dense head, NDCG@10": {
        f"bench.heads.{key}.{when}": f"{label}: {said}"
        for key, label in HEADS.items()
        for when, said in (("untaught", "untaught"), ("taught", "after six epochs"))
    },
    "MovieLens-100K, what of a digit head is worth what: NDCG@10, paired over users": {
        f"bench.heads.worth.{key}": label for key, label in WORTH.items()
    },
    "Amazon Beauty, the bench, NDCG@10, seen items masked": {
        f"bench.beauty.ndcg10.{key}": label for key, label in BENCH.items()
    },
    "Amazon Beauty, the bench, Recall@10, seen items masked": {
        f"bench.beauty.recall10.{key}": label for key, label in BENCH.items()
    },
    "Amazon Beauty, one against the other, NDCG@10": {
        "bench.beauty.lead.low": "M6-Rec with the prior: its lead over the strongest peer, lower end (Holm)",
        "bench.beauty.generated_over_dense": "generated / dense head",
        "bench.beauty.hybrid_over_dense": "hybrid / dense head",
    },
    "Speed, on one or two cores": {
        "time_to_quality.ratio": "time to the best quality of RecBole's SASRec / its own",
        "time_to_quality.rectools": "time to the best quality of RecTools' SASRec / its own",
        "decode.ratio": "lists a second / Hugging Face's constrained generate",
        "growth.generated": "a generated list, 1,000,000 items / 1,000",
        "growth.dense": "a dense list, 1,000,000 items / 1,000",
        "step.gemm_fraction": "share of a training step that is matrix products",
        "view.ms": "a slider's move to the new picture, ms",
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
    "Photographs in 64 numbers, squared error on held-out ones": {
        "autoencoder.mse": "the autoencoder, mended",
        "pca.mse": "PCA",
    },
    "MovieLens-100K, will it be liked: AUC": LIKED,
    **{
        f"MovieLens-100K, will it be liked: AUC of a backbone adapted with {said}": {
            f"auc.{way}{n}": label for way, label in WAYS_TO_ADAPT.items()
        }
        for n, said in ((".100", "100 labels"), (".1000", "1,000"), (".10000", "10,000"), ("", "all"))
    },
    "Adaptation: what is trained, as a share of the backbone's parameters": {
        f"trained_share.{way}": label for way, label in WAYS_TO_ADAPT.items()
    },
    "Adaptation: processor milliseconds of a step of 64 examples": {
        f"step_milliseconds.{way}": label for way, label in WAYS_TO_ADAPT.items()
    },
    "MovieLens-100K, will it be liked: late interaction and M6-Edge": EDGE,
    "bazaar, a kind of goods never seen: NDCG@10 among them": {f"open.{key}": label for key, label in OPEN.items()},
    **{
        f"bazaar, a kind of goods never seen, by who is new: {who.replace('_', ' ')}": {
            f"open.{who}.{key}": OPEN[key] for key in ("zero_shot", "text_cosine", "popularity")
        }
        for who in ("goods_unknown", "both_unknown", "people_unknown")
    },
    "MovieLens-100K, of which not a film was read: NDCG@10": {
        f"open.films.{key}": label for key, label in OPEN.items()
    },
    "bazaar, eight tasks of one checkpoint, people never read": {
        f"tasks.{key}{end}": f"{label}{words}"
        for key, label in WRITTEN.items()
        for end, words in (("", ""), (".baseline", " – baseline"))
    },
    **{
        f"bazaar, explanations {how}": {f"explain.{key}{end}": label for key, label in SAID.items()}
        for end, how in (("", "under a trie"), (".free", "written freely"))
    },
    **{
        f"{data}, area under deletion by leave-one-out": {
            f"deletion.{key}.over_random": "/ by chance",
            f"deletion.{key}.over_recency": "/ by recency",
            f"even.{key}.lost": "share of NDCG@10 lost when all tokens are looked at alike",
        }
        for key, data in (("ml100k", "MovieLens-100K"), ("bazaar", "bazaar"))
    },
    "The worse of both data sets, area under deletion by leave-one-out": {
        "deletion.over_random": "/ by chance",
        "deletion.over_recency": "/ by recency",
    },
    "Output layers drawn anew: rank correlation with what was said before": {
        f"randomise.{key}": label for key, label in BY.items()
    },
    **{
        f"bazaar, planted cause named first, {where}": {
            name.format(key): label for key, label in {"best": "the best guess", **BY}.items()
        }
        for name, where in (
            ("planted.{}.top1", "of a purchase's events and fields"),
            ("planted.{}.context", "among the request's fields"),
            ("planted.sure.{}", "of both, where the best guess is sure"),
        )
    },
    "Reasons in words": {
        "reasons.hold": "reasons whose causes, removed, lower the item",
        "reasons.coverage": "share of the effect that the named causes cover",
        "reasons.answered": "items for which there is enough evidence for a reason",
        "reasons.ml100k.places_over_random": "places lost beyond as many random events, MovieLens-100K",
        "reasons.bazaar.places_over_random": "places lost beyond as many random events, bazaar",
    },
}
