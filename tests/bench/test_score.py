"""A saved alignment, scored: the same numbers as in the run that it was fitted by."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench.corpus import read_corpus
from bench.errors import ProtocolError
from bench.execution import execute
from bench.fits import fit_run
from bench.suites.single import score_alignment
from featstore import open_store
from fitters import Alignment, read_alignment, save_alignment

IMAGES, TEXTS = "smoke/image/synthetic", ("smoke/class_name/synthetic", "smoke/caption/synthetic")


@pytest.fixture(scope="module")
def run(runs):
    return next(
        run
        for run in runs
        if (run.fit.method, run.protocol.source, run.protocol.eval)
        == ("ridge", "head", "all-names")
    )


@pytest.fixture(scope="module")
def saved(run, smoke_store, tmp_path_factory):
    store = open_store(smoke_store)
    alignment = fit_run(run, read_corpus(store, run), None).alignment
    spaces = {
        f"{side}_space_id": store.info(key).commit.space_id
        for side, key in (("x", run.data.image_set), ("y", run.data.name_set))
    }
    folder = tmp_path_factory.mktemp("saved") / "ridge"
    save_alignment(
        folder, Alignment.of(alignment.x, alignment.y, alignment.aligner, alignment.facts | spaces)
    )
    return folder


def test_a_saved_alignment_has_the_numbers_of_its_run(saved, run, smoke_store):
    store, alignment = open_store(smoke_store), read_alignment(saved)
    tasks = [run.changed(task="zero_shot"), run.changed(task="retrieval")]
    corpus = read_corpus(store, run)
    rows = pl.concat(frame for _, frame, _ in execute(tasks, corpus))
    scores = pl.concat(score_alignment(alignment, store, task) for task in tasks)
    assert set(rows["direction"]) == {"image→name", "image→caption", "caption→image"}
    assert_frame_equal(scores, rows.select(scores.columns))


def test_a_set_of_another_space_is_refused(saved, run, smoke_store):
    alignment, store = read_alignment(saved), open_store(smoke_store)
    with pytest.raises(ProtocolError, match="lies in the space of the other side"):
        score_alignment(alignment, store, run.changed(name_set=IMAGES))
