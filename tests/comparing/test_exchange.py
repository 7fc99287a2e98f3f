"""Two guides before and after a swap, as text and as stored values."""

import json
import math
from dataclasses import replace

from ppl_text.comparing.exchange import BeforeAfter, GuideFigures, label

BEFORE = GuideFigures("diagonal", -20.0, 0.01, -19.5, 0.02, 0.5, 0.015, 4.0, 0.9, 0.06, 0.04, 29616)
POINT = replace(
    BEFORE, guide="my/file.py:Point", elbo=-math.inf, elbo_se=math.nan, iw=-math.inf, gap=math.nan, kl=math.inf
)


def pair(after=POINT):
    return BeforeAfter(BEFORE, after, particles=8, sentences=1000, seed=3, noun="word")


def test_the_figures_stand_side_by_side():
    assert pair().header() == ("quantity", "before: diagonal", "after: file.py:Point")
    rows = {name: cells for name, *cells in pair(BEFORE).rows()}
    assert rows["ELBO"] == ["-20.000 ± 0.010"] * 2
    assert rows["importance-weighted bound, K = 8"] == ["-19.500 ± 0.020"] * 2
    assert rows["gap: IW - ELBO"] == ["0.500 ± 0.015"] * 2
    assert rows["words with k̂ < 0.5"] == ["90.0%"] * 2
    assert rows["k̂ > 0.7"] == ["4.0%"] * 2
    assert rows["parameters of the guide"] == ["29,616"] * 2
    assert pair().how() == (
        "Nats per word ± Monte-Carlo s.e., the same 1,000 test words and seed 3 for both; Pareto k̂ of the same 8 draws."
    )


def test_errors_that_claim_no_coverage_are_marked_and_the_mark_is_explained():
    found = pair(replace(BEFORE, khat_bad=0.6))
    rows = {name: cells for name, *cells in found.rows()}
    assert rows["importance-weighted bound, K = 8"] == ["-19.500 ± 0.020", "-19.500 ± 0.020 †"]
    assert rows["gap: IW - ELBO"] == ["0.500 ± 0.015", "0.500 ± 0.015 †"]
    assert rows["ELBO"] == ["-20.000 ± 0.010"] * 2
    assert found.how().endswith(
        "† unreliable: k̂ > 0.7 on more than a third of the words, so the error claims no coverage."
    )
    assert "†" not in pair(replace(BEFORE, khat_bad=math.nan)).how()


def test_figures_of_an_older_version_are_read():
    stored = {**pair().as_json(), "khat_sentences": 256, "khat_draws": 100}
    assert BeforeAfter.from_json(stored).before == BEFORE
    del stored["before"]["parameters"]
    assert BeforeAfter.from_json(stored).rows()[-1] == ("parameters of the guide", "–", "29,616")


def test_what_is_stored_is_strict_json_and_comes_back_but_for_infinities():
    stored = json.loads(json.dumps(pair().as_json(), allow_nan=False))
    assert stored["after"]["kl"] is None
    back = BeforeAfter.from_json(stored)
    assert back.before == BEFORE
    assert (back.particles, back.seed, back.after.guide) == (8, 3, POINT.guide)
    assert math.isnan(back.after.elbo)
    assert math.isnan(back.after.kl)


def test_a_guide_from_a_file_is_named_without_its_folder():
    assert [label("tril"), label("/a/b/mine.py:Mine")] == ["tril", "mine.py:Mine"]
