"""How soon a quality is reached: the first epoch counts, and the curve is judged with nothing masked."""

from __future__ import annotations

from fixtures import CONFIG, small_data

import m6rec
from m6rec.config import Config
from m6rec.runs.bench.quality import curve, seconds_to


def test_the_first_epoch_that_reaches_the_target_counts():
    reached = [(1.0, 0.1), (2.0, 0.3), (3.0, 0.2), (4.0, 0.4)]
    assert seconds_to(0.2, reached) == 2.0
    assert seconds_to(0.5, reached) is None


def test_the_curve_is_judged_after_every_epoch_with_nothing_masked():
    data, config = small_data(), Config.preset("small", **CONFIG | {"pretrain_epochs": 2, "validate_every": 1})
    found = curve(data, config)
    assert len(found) == 2 and 0 < found[0][0] < found[1][0]
    model = m6rec.M6Rec(data, config=config)
    model.pretrain()  # the same training; it ends with the epoch that was best with the seen items masked
    ranked = m6rec.evaluate(model.scorer("dense"), data, part="valid", mask_seen=False)
    assert ranked.metrics["ndcg@10"] in [value for _, value in found]
