"""docs/trained.md says what docs/data/trained.json holds, and no more."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from bench.suites.demo import create_smoke_store
from fitters import PRESETS
from tests.accuracy import trained

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


def test_the_controls_of_a_trained_head_are_told_and_never_bold(tmp_path):
    """A tiny run of the command on a store of the demo's shape, twice: the second runs nothing."""
    store, data = tmp_path / "store", tmp_path / "c.json"
    create_smoke_store(store)
    asked = argparse.Namespace(
        store=store, controls=tmp_path / "results", draws=2, epochs=1, data=data
    )
    trained.write_controls(asked, dataset="smoke", n_pairs=(8, 16))
    written = asked.data.read_text("utf-8")
    trained.write_controls(asked, dataset="smoke", n_pairs=(8, 16))
    assert asked.data.read_text("utf-8") == written
    found = json.loads(written)
    assert [(row["n_pairs"], row["source"]) for row in found["rows"]] == [
        (k, source) for k in ("8", "16") for source in ("random-cov", "random-cov", "head")
    ]
    assert {row["n_seeds"] for row in found["rows"]} == {2}
    text = "\n".join(trained.render_controls(found))
    assert "| 8 | real + head | real + random-cov |" in text
    assert "t over 2 draws" in text
    assert "**" not in text
    assert trained.render_controls({"rows": []})[0].startswith("Not run yet")


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
