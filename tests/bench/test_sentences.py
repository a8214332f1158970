"""Every sentence about results, on planted populations: none says more than was tested."""

import re

import numpy as np
import polars as pl
import pytest

from bench import compare, read_results
from bench.evaluated import Results
from bench.options import ZeroShot
from bench.report.figures import pairs_figure
from bench.report.parts import Words
from bench.report.screen import Scene
from bench.report.verdict import standing, verdict
from bench.statistics import holm
from bench.tables import result_table, summary
from tests.bench.results_by_hand import hand_run, write_ranks
from tests.typed import headstock

#: Names to choose from, images and images of a class.
GALLERY, IMAGES = 20, 200

#: What is planted: the hit rates of the head, of each control, of pairs alone and of both, the
#: draws of controls and of splits, and the images of a class.
POPULATIONS = {
    "null": {"head": 0.3, "random": 0.3, "shuffled": 0.3},
    "small gain": {"head": 0.33, "random": 0.3, "shuffled": 0.3},
    "gain": {"head": 0.6, "random": 0.05, "shuffled": 0.05},
    "loss": {"head": 0.1, "random": 0.5, "shuffled": 0.5},
    "one control better": {"head": 0.3, "random": 0.05, "shuffled": 0.6},
    "no control": {"head": 0.6},
    "one draw": {"head": 0.6, "random": 0.05, "draws": 1},
    "few draws": {"head": 0.6, "random": 0.05, "shuffled": 0.05, "draws": 3},
    "one split": {"head": 0.6, "random": 0.05, "none": 0.4, "both": 0.7, "splits": 1},
    "splits": {"head": 0.4, "random": 0.05, "none": 0.4, "both": 0.7, "splits": 10},
    "pairs in vain": {"head": 0.4, "random": 0.05, "none": 0.5, "both": 0.5, "splits": 10},
    "few classes": {"head": 0.6, "random": 0.05, "shuffled": 0.05, "classes": 5},
}


class Planted:
    """Results of a planted population, with what the generators of sentences take."""

    def __init__(self, root, name):
        self.root, self.plan = root, {"draws": 19, "splits": 0, "classes": 100} | POPULATIONS[name]
        rng = np.random.default_rng([*name.encode()])
        splits = self.plan["splits"]
        for seed in range(splits or 1):
            for source, k in (("head", 0), ("none", 16), ("head", 16)):
                key = "both" if (source, k) == ("head", 16) else source
                if key in self.plan:
                    self._write(rng, source, k, seed, key)
            if not splits or seed == 0:
                self._write(rng, "head", 0, seed, "head", method="conse")
        for source in ("random", "shuffled"):
            for seed in range(splits or self.plan["draws"]):
                if source in self.plan:
                    self._write(rng, source, 0, seed, source)
        self.rows = read_results(root).with_columns(n_prototypes=pl.lit(100))
        self.table, self.comparisons = result_table(self.rows), compare(root, self.rows)
        self.found = verdict(self.comparisons, self.table)
        self.scene = Scene(self.found, self.rows, self.table, "ImageNet")

    def _write(self, rng, source, k, seed, key, method="ridge"):
        evaluation = "held-out" if self.plan["splits"] else "all-names"
        run = hand_run(source, k, seed, method=method, eval=evaluation)
        # A draw of a control, and a split, has a level of its own.
        level = self.plan[key] + 0.02 * rng.standard_normal()
        ranks = np.where(rng.random(IMAGES) < level, 1, rng.integers(2, GALLERY + 1, IMAGES))
        classes = [f"c{i % self.plan['classes']}" for i in range(IMAGES)]
        queries = None if self.plan["splits"] else [f"q{i:03d}" for i in range(IMAGES)]
        write_ranks(self.root, run, ranks, clusters=classes, queries=queries, gallery=GALLERY)


@pytest.fixture(scope="module", params=POPULATIONS)
def planted(request, tmp_path_factory):
    return request.param, Planted(tmp_path_factory.mktemp("planted"), request.param)


#: How the head stands in each population, by design.
TONES = {
    "null": "same", "small gain": "same", "gain": "better", "loss": "worse",
    "one control better": "worse", "no control": "unknown", "one draw": "unknown",
    "few draws": "better", "one split": "unknown", "splits": "better", "pairs in vain": "better",
    "few classes": "better",
}  # fmt: skip


def test_the_verdict_is_what_the_tests_say(planted):
    name, own = planted
    assert own.found.tone == TONES[name]
    tested = [row for row in own.found.controls if row["p"] is not None]
    lower = holm(np.array([row["p_below"] for row in tested]))
    worse = any(row["high"] < 0 and p < 0.05 for row, p in zip(tested, lower, strict=True))
    every = own.found.controls and len(tested) == len(own.found.controls)
    assert ("A control did better" in own.found.sentence) == worse
    claims = "Random vectors would not have done as well" in own.found.sentence
    assert claims == bool(every and all(row["low"] > 0 and row["p"] < 0.05 for row in tested))
    for row in tested:
        # p is of the side that the head is on, and its sentence says which.
        assert ("of doing worse, Holm" in standing(row)) == (row["difference"] < 0)


def test_a_tick_needs_a_test_that_is_corrected_and_no_but(planted):
    name, own = planted
    scene, found = own.scene, own.found
    assert scene.weights().settled == (found.tone == "better")
    fitting = scene.fitting()
    assert not fitting.settled  # never corrected
    assert fitting.answer.startswith(("Perhaps", "Not shown", "Not tested"))
    parts = found.rows.filter(comparison="over-parts")
    pairs = scene.real_pairs()
    assert pairs.settled == any(row["bold"] and row["difference"] > 0 for row in parts.to_dicts())
    assert pairs.settled == (name == "splits")
    quote = scene.quotable("")
    assert quote.settled == (quote.answer.startswith("Yes") and found.tone == "better")
    assert not scene.known_names(own.root, Words({}, {}, {})).settled


def test_a_head_that_ties_with_all_draws_is_above_none():
    row = {"p_lower": 1.0, "p": 1.0, "n_controls": 3, "control_rank": 4, "difference": 0.0}
    assert standing(row) == "rank 4 of 4, p 1"


def test_sentences_and_summaries_are_of_one_gallery(tmp_path, capsys):
    """The same method among 20 names, then among the 5 that are seen, with fewer draws there."""
    queries = [f"q{i}" for i in range(8)]
    for fields, gallery, hits in (({}, 20, 2), ({"options": ZeroShot(classes="seen")}, 5, 4)):
        for source, seed, own in (("head", 0, hits), ("random", 0, 0), ("random", 1, 0)):
            run = hand_run(source, seed=seed, eval="all-names", **fields)
            ranks = [1] * own + [4] * (8 - own)
            write_ranks(tmp_path, run, ranks, gallery=gallery, queries=queries)
    rows = read_results(tmp_path)
    table, found = result_table(rows), verdict(compare(tmp_path, rows), result_table(rows))
    assert [row["source"] for row in found.controls] == ["random"]
    assert "25.0 % of images right among 20 names (chance 5.0 %)" in found.headline
    made = summary(table)
    assert "among 20 candidates" in made.caption
    assert [line[-1] for line in made.table.lines] == ["25.0", "0.0 ± 0.0"]
    assert headstock("show", f"{tmp_path}:ridge/head/0") == 0
    found = dict(re.findall(r"  (.*?) *image→name top-1 +(\S+)", capsys.readouterr().out))
    assert found == {'{"classes":"seen"}': "0.5", "": "0.25"}


#: What may not be said without an equivalence test, and no generator has one.
NO_DIFFERENCE = re.compile(
    r"no difference(?! by the head is shown)|as good as|not beyond|equal to|≈|no effect|no gain",
    re.I,
)


def test_no_sentence_claims_that_there_is_no_difference(planted):
    name, own = planted
    scene = own.scene
    doubts = (scene.weights(), scene.fitting(), scene.real_pairs(), scene.quotable(""))
    curve = pairs_figure(own.table, "ridge")
    texts = [
        own.found.sentence,
        *(f"{doubt.answer} {doubt.detail}" for doubt in doubts),
        "" if curve is None else curve.title,
        summary(own.table).sentence, Results(own.root).verdict,
    ]  # fmt: skip
    for text in texts:
        assert not NO_DIFFERENCE.search(text), text
    if name == "pairs in vain":
        assert scene.real_pairs().answer.startswith("Not shown")
