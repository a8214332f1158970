"""docs/results.md says what docs/data/trained.json holds, and no more."""

import numpy as np
import pytest

from fitters import PRESETS
from tests.accuracy import trained


@pytest.fixture(scope="module")
def data():
    return trained.read()


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
