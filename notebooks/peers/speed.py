"""How soon m6rec reaches the best validation figure of RecBole's SASRec: the ratio of the seconds that both need.

recbole_peer.py has to have written recbole_sasrec.json: see exchange.py for how to run it. m6rec trains the tiny preset
in small batches, and is evaluated after every epoch as RecBole does: on validation, nothing masked.

    M6REC_RECORD=speed.json python notebooks/peers/speed.py
    python notebooks/refresh.py --full 08_evaluation --only time_to_quality --ran speed.json
"""

import json

import m6rec
from m6rec.data.sources import home
from m6rec.train import fit, losses


def main() -> None:
    data = m6rec.load("ml-100k")
    theirs = json.loads((home() / "peers" / data.name / "recbole_sasrec.json").read_text())["curve"]
    model = m6rec.M6Rec(data, "tiny", text_length=8, batch=32, average=0.97)

    def unmasked(network: object) -> float:
        scorer = model.scorer(network=network)
        return m6rec.evaluate(scorer, data, part="valid", mask_seen=False).metrics["ndcg@10"]

    stage = model.stage("pretrain", 10, losses.pretraining, "dense")._replace(validate=unmasked)
    ours = [(row.seconds, row.validation) for row in fit.fit(model.network, stage, model.config)]
    best = max(value for _, value in theirs)
    took, needed = (next(seconds for seconds, value in curve if value >= best) for curve in (ours, theirs))
    label = "seconds to recbole_sasrec's best / its own"
    print(m6rec.record("time_to_quality.ratio", value=took / needed, label=label))


if __name__ == "__main__":
    main()
