"""docs/results.md says what docs/data/trained.json holds, and no more."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bench.corpus import read_corpus
from bench.suites.demo import create_smoke_store, demo_bases
from featstore import open_store
from fitters import PRESETS
from tests.accuracy import trained, trained_controls
from tests.accuracy.trained_controls import SOURCES, Cell

CELL = tuple(Cell.__annotations__)

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def data():
    return trained.read()


def test_the_data_are_whole(data):
    n = len(data["clusters"])
    assert n == 570
    assert all(len(run["places"]) == n for run in data["runs"])
    names = ("aligner", "rows", "precision", "most_epochs", "seed")
    keys = [tuple(run.get(name) for name in names) for run in data["runs"]]
    assert len(set(keys)) == len(keys)


def test_places_become_hits_and_a_mean():
    runs = [
        {"places": trained.places_of(np.array(ranks))} for ranks in ([1, 5, 10, 11], [2, 6, 1, 400])
    ]
    assert [run["places"] for run in runs] == ["15a.", "261."]
    assert trained.hits(runs, "top-1").tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert trained.hits(runs, "top-5").tolist() == [[1, 1, 0, 0], [1, 0, 1, 0]]
    assert trained.hits(runs, "top-10").tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]


def test_the_controls_of_a_trained_head_are_measured_once_and_paired_by_query(tmp_path):
    """A tiny run of the command on a store of the demo's shape, twice: the second fits nothing."""
    create_smoke_store(tmp_path / "store")
    store, data = open_store(tmp_path / "store"), tmp_path / "c.json"
    base = demo_bases(store, "task", dataset="smoke")[0].changed(eval="held-out")
    corpus = read_corpus(store, base)
    wanted = [
        Cell("paper-mlp", source, k, seed, "steps")
        for seed, k, source in product((0, 1), (0, 16), SOURCES)
        if (source, k) != ("none", 0)
    ]
    trained_controls.measure(base, corpus, wanted[:9], data, steps=4)
    written = data.read_text("utf-8")
    trained_controls.measure(base, corpus, wanted[:9], data, steps=4)
    assert data.read_text("utf-8") == written
    trained_controls.measure(base, corpus, wanted, data, steps=4)
    found = trained_controls.read(data)
    assert {Cell(**{name: run[name] for name in CELL}) for run in found["runs"]} == set(wanted)
    head, none = ({"source": source, "n_pairs": 16} for source in ("head", "none"))
    n_draws, mean, low, high = trained_controls.gap(found, head, none)
    tops = {
        source: [
            place == "1"
            for run in found["runs"]
            if (run["source"], run["n_pairs"]) == (source, 16)
            for place in run["places"]
        ]
        for source in ("head", "none")
    }
    assert mean == pytest.approx(np.mean(tops["head"]) - np.mean(tops["none"]))
    assert n_draws == 2
    assert low < mean < high
    text = "\n".join(trained_controls.render(found))
    assert "| real pairs + shuffled |" in text
    assert "**" not in text
    empty = {"clusters": {}, "runs": []}
    assert trained_controls.render(empty)[0].startswith("Not run yet")


def test_every_fit_at_equal_steps_makes_the_steps_of_the_presets_on_a_head_alone():
    """1,000 rows in batches of 512 are two steps an epoch, 1,256 three, 256 and 16 one each."""
    epochs = {
        (cell.source == "none", cell.n_pairs): cell.epochs(1_000)
        for cell in trained_controls.cells(range(1))
        if cell.equal == "steps"
    }
    assert epochs == {
        (False, 0): 2_500, (False, 16): 2_500, (False, 256): 1_667, (True, 16): 5_000,
        (True, 256): 5_000,
    }  # fmt: skip
    assert len(list(trained_controls.cells())) == 66


def test_the_measured_controls_are_fits_of_the_plan():
    runs = trained_controls.read()["runs"]
    keys = [Cell(**{name: run[name] for name in CELL}) for run in runs]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(trained_controls.cells())


def test_the_figure_was_drawn_from_the_data_that_lie_beside_it():
    assert trained_controls.digest_of() in trained_controls.FIGURE.read_text("utf-8")
    assert trained_controls.draw() == trained_controls.draw()


CONTRASTIVE = {"sail", "freeze-align", "structure", "devise"}


def test_the_claims_of_the_page_follow_from_its_data(data):
    """Kernel ridge and the paper's MLP are not told apart on rows of one kind, in any column."""
    clusters = np.array(data["clusters"])

    def runs(name, rows):
        return [run for run in data["runs"] if (run["aligner"], run["rows"]) == (name, rows)]

    for rows in ("centred", "as published"):
        for metric in trained.TOP:
            kernel, mlp = (trained.hits(runs(name, rows), metric) for name in trained.COMPARED)
            _, low, high = trained.paired_interval(kernel - mlp, clusters)
            assert low < 0 < high
            # What else is trained stays below the MLP on the same rows.
            others = {run["aligner"] for run in data["runs"] if run["rows"] == rows}
            for name in (others & set(PRESETS)) - {"paper-mlp"}:
                assert trained.hits(runs(name, rows), metric).mean() < mlp.mean()
            for name in others & CONTRASTIVE:
                ridge = trained.hits(runs("ridge", rows), metric).mean()
                assert trained.hits(runs(name, rows), metric).mean() < ridge
