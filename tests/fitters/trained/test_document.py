"""docs/trained.md says what docs/data/trained.json holds, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
