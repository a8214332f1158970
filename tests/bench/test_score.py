"""A saved alignment, scored: the same numbers as in the run that it was fitted by."""

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench.cli.main import cli
from bench.corpus import read_corpus
from bench.execution import execute
from bench.fits import fit_run
from bench.scoring import Scoring
from featstore import open_store
from featstore.command_line import run_command
from fitters import Alignment, save_alignment
from fitters.moments.transform import SideTransform

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


@pytest.fixture
def score(saved, smoke_store, capsys):
    """Run `bench score` and return exit code, stdout and stderr."""

    def call(*words, names=TEXTS[0], captions=TEXTS[1]):
        sets = ["--images", IMAGES, "--names", names]
        sets += ["--captions", captions] if captions else []
        command = ["score", saved, "--store", smoke_store, *sets, *words]
        code = run_command(cli, "bench", [str(word) for word in command])
        return (code, *capsys.readouterr())

    return call


def test_a_saved_alignment_has_the_numbers_of_its_run(score, run, smoke_store, tmp_path):
    out = tmp_path / "scores.parquet"
    code, text, _ = score("--relevance", run.protocol.relevance, "-o", out, "--json")
    assert code == 0
    scores = pl.read_parquet(out)
    assert json.loads(text) == scores.to_dicts()
    tasks = [run.changed(task="zero_shot"), run.changed(task="retrieval")]
    corpus = read_corpus(open_store(smoke_store), run)
    rows = pl.concat(frame for _, frame, _ in execute(tasks, corpus))
    assert set(rows["direction"]) == {"image→name", "image→caption", "caption→image"}
    # What is saved has one mean; the run leaves the fold of an image out of its own.
    whole = fit_run(run, corpus, None).alignment
    whole.x = SideTransform(**whole.x.to_dict())
    scoring = Scoring(corpus, None)
    values = [
        value for task in tasks for o in scoring.score(task, whole) for value in o.values.values()
    ]
    assert_frame_equal(scores, rows.select(scores.columns).with_columns(value=pl.Series(values)))


def test_tasks_and_options_are_named(score):
    code, text, _ = score("--task", "hubness", "-O", "k=3", names=TEXTS[0])
    assert code == 0
    assert [line.split()[3] for line in text.splitlines()[2:]] == [
        "hub-skew", "hub-max", "hub-never",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sets", "message"),
    [
        (["--task", "few_shot"], {}, "zero_shot, generalised, retrieval, hubness"),
        ([], {"names": "", "captions": ""}, "Give --names or --captions"),
        (["-O", "shots=1"], {}, "No option named 'shots' for the task"),
        ([], {"names": IMAGES}, "lies in the space of the other side"),
        (["--task", "generalised"], {}, "head"),
    ],
)
def test_what_cannot_be_scored_is_refused(score, words, sets, message):
    code, _, err = score(*words, **sets)
    assert code != 0
    assert message in err


def test_a_set_of_another_space_is_refused(saved, smoke_store, capsys):
    words = ["score", saved, "--store", smoke_store, "--images", "smokehead/head_weight/synthetic",
             "--names", TEXTS[0]]  # fmt: skip
    assert run_command(cli, "bench", [str(word) for word in words]) != 0
    capsys.readouterr()
