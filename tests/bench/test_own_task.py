"""A task, a suite, a learner and an aligner in one file of one's own, through every command."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_results, write_report
from bench.cells import only_series
from bench.comparisons import compare
from bench.corpus import read_corpus
from bench.errors import MetricError, ProtocolError
from bench.execution import Scoring
from bench.fits import fit_run
from bench.metrics import Metric
from bench.options import Task
from bench.results import read_ranks, read_sessions, read_sums
from bench.tables import value_text
from bench.tasks.outcome import outcomes_of
from bench.tasks.ranked import score_zero_shot
from featstore import open_store
from featstore.command_line import run_command
from featstore.plugins import register
from headstock.__main__ import cli
from tests.shorthand import task_runs

PLUGIN = '''
from dataclasses import dataclass

import numpy as np

from bench import Run
from bench.metrics import Metric
from featstore.options import option
from featstore.plugins import register
from fitters.few_shot import ClassMeans


@register("aligner", "first-columns")
def first_columns(x, y):
    """Column i of the images beside column i of the texts."""
    r = min(x.shape[1], y.shape[1])
    return np.eye(x.shape[1], r), np.eye(y.shape[1], r)


@register("learner", "means-again")
class MeansAgain(ClassMeans):
    """Class means under another name."""


@dataclass(frozen=True)
class Margin:
    least: float = option(0.0, help="Smallest margin.", at_least=0, below=1)


@register("task", "margin", metrics={
    "nearer": Metric("Share of images nearer to their own name.", chance=0.5),
    "gap": Metric("Mean difference of cosines.", percent=False),
})
def margin(alignment, corpus, options: Margin, rng):
    """Whether an image is nearer to its own name than to a random other, and by how much."""
    x = alignment.project_x(corpus.images.rows)
    y = alignment.project_y(corpus.names.rows)
    own = corpus.names.places_of(corpus.images.classes)
    other = (own + rng.integers(1, len(y), size=len(x))) % len(y)
    gap = np.einsum("nr,nr->n", x, y[own] - y[other])
    return {"nearer": (gap > options.least).astype(float), "gap": float(gap.mean())}


@register("suite", "margins")
def margins(store, *, limit=None, methods=(), sources=()):
    """The margin of two methods."""
    from bench.suites.demo import smoke_runs

    runs = smoke_runs(store)
    base = next(r for r in runs if r.task == "zero_shot" and r.protocol.source == "head"
                and r.protocol.eval == "all-names" and r.fit.method == "ridge")
    return [base.changed(task=t, suite="margins", method=m, penalty=p, source=s)
            for t in ("margin", "zero_shot") for s in ("head", "random")
            for m, p in (("ridge", 1.0), ("first-columns", "auto"))]
'''


@pytest.fixture
def plugin(tmp_path, no_plugins):
    (tmp_path / "margins.py").write_text(PLUGIN)
    return tmp_path / "margins.py"


def run(*args: str | Path) -> int:
    return run_command(cli, "headstock", [str(arg) for arg in args])


TIMES = ["fit_seconds", "score_seconds", "learner_seconds", "finished_at"]


@pytest.mark.usefixtures("forked")
def test_a_file_is_a_suite_with_controls_tables_and_a_report(plugin, smoke_store, tmp_path, capsys):
    suite = ("eval", "run", "margins", "--store", smoke_store, "--plugin", plugin)
    alone, together = tmp_path / "one", tmp_path / "two"
    assert run(*suite, "-o", alone) == 0
    assert run(*suite, "-o", together, "--jobs", "2") == 0  # workers load the file themselves
    one, two = (read_results(root) for root in (alone, together))
    assert_frame_equal(one.drop(TIMES), two.drop(TIMES))
    assert "--plugin PLUGINS" in read_sessions(alone)[0]["command"]

    # Ours has no origin, whatever else is loaded; a task of others has one with our methods too.
    origins = {key: set(part["origin"]) for key, part in one.group_by(["method", "task"])}
    assert origins == {
        ("ridge", "zero_shot"): {""}, ("ridge", "margin"): {"margins.py"},
        ("first-columns", "zero_shot"): {"margins.py"},
        ("first-columns", "margin"): {"margins.py"},
    }  # fmt: skip
    # One series, and one fit of a method and a source for both tasks.
    assert only_series(alone, one)["run_id"].n_unique() == 8

    # The mean of what was found for every image, and of its sums; by hand.
    rows = one.filter((pl.col("task") == "margin") & (pl.col("method") == "first-columns"))
    nearer = rows.filter((pl.col("metric") == "nearer") & (pl.col("source") == "head"))
    ranks = read_ranks(alone, nearer["run_id"])
    sums = read_sums(alone, nearer["run_id"])
    values = ranks["own"].list.get(0)
    assert set(values) <= {0.0, 1.0}
    assert nearer["value"][0] == pytest.approx(values.mean())
    assert sums["own"].list.get(0).sum() == pytest.approx(values.sum())
    assert (nearer["chance"][0], nearer["n_queries"][0]) == (0.5, len(values))
    gap = rows.filter(pl.col("metric") == "gap")
    assert set(gap["direction"]) == {"margin as a whole"}
    assert gap["chance"].null_count() == gap.height

    found = compare(alone, one).filter(pl.col("metric") == "nearer")
    assert set(found["comparison"]) == {"over-chance", "over-control"}
    control = one.filter((pl.col("metric") == "nearer") & (pl.col("source") == "random")
                         & (pl.col("method") == "first-columns"))["value"][0]  # fmt: skip
    over = found.filter((pl.col("comparison") == "over-control")
                        & (pl.col("method") == "first-columns"))  # fmt: skip
    assert over["difference"][0] == pytest.approx(nearer["value"][0] - control)
    assert "gap" not in set(compare(alone, one)["metric"])

    capsys.readouterr()
    assert run("eval", "table", alone, "--all", "--plugin", plugin) == 0
    heading = capsys.readouterr().out.splitlines()[2]
    assert "nearer %" in heading
    assert " gap " in heading
    write_report(alone, store=smoke_store, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nearer %" in page
    assert "Share of images nearer to their own name." in page


def corpus_of(store: Path):
    return read_corpus(open_store(store), task_run(store, "zero_shot"))


def task_run(store: Path, task: str):
    (made,) = task_runs(
        open_store(store), task, images="smoke/image/synthetic", method="ridge", source="head",
        names="smoke/class_name/synthetic", head="smokehead/head_weight/synthetic",
        head_names="smokehead/class_name/synthetic",
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ({"mine": 1.5}, ProtocolError, r"'mine' lies between 1.5 and 1.5. A share lies"),
        ({"mine": float("nan")}, ProtocolError, "'mine' has shape .* it is a finite number"),
        ({"mine": [0.5, 0.5]}, ProtocolError, r"'mine' has shape \(2,\); .* one an image"),
        ({"top-1": 0.5}, MetricError, "'top-1' is a metric of Headstock"),
        ({"a b": 0.5}, MetricError, "'a b' names no metric"),
        (0.5, ProtocolError, "got float"),
        ([], ProtocolError, "got list"),
    ],
)
def test_what_a_task_may_not_return(smoke_store, found, error, message):
    with pytest.raises(error, match=message):
        outcomes_of("mine", found, corpus_of(smoke_store))


def test_a_task_may_return_outcomes_of_ranks(smoke_store, no_plugins):
    corpus = corpus_of(smoke_store)

    def as_zero_shot(alignment, corpus):
        return score_zero_shot(alignment, corpus.images, corpus.names)

    register("task", "as-zero-shot", as_zero_shot)
    register("task", "none", Task(lambda rng: {"low": 3.0}, metrics={
        "low": Metric(percent=False, higher_is_better=False)}))  # fmt: skip
    runs = [task_run(smoke_store, task) for task in ("zero_shot", "as-zero-shot", "none")]
    alignment = fit_run(runs[0], corpus, None).alignment
    ours, theirs, low = (Scoring(corpus, None).score(run, alignment) for run in runs)
    assert {name: theirs[0].values[name] for name in theirs[0].values} == {
        name: ours[0].values[name] for name in theirs[0].values
    }
    assert low[0].values == {"low": 3.0}
    assert value_text("low", 3.0) == "3.0000"
