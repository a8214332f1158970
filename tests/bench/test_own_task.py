"""Files of one's own through --plugin: one with everything, and those of docs/ref/extend.md."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
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
from tests.bench.test_evaluation import SETS as STORED
from tests.bench.test_execution import TIMES
from tests.extend import SETS, write_files
from tests.shorthand import task_runs
from tests.typed import headstock

PLUGIN = '''
from dataclasses import dataclass

import numpy as np

from bench.metrics import Metric
from featstore.options import option
from featstore.plugins import register


@register("aligner", "first-columns")
def first_columns(x, y):
    """Column i of the images beside column i of the texts."""
    r = min(x.shape[1], y.shape[1])
    return np.eye(x.shape[1], r), np.eye(y.shape[1], r)


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


@pytest.mark.usefixtures("forked")
def test_a_file_is_a_suite_with_controls_tables_and_a_report(plugin, smoke_store, tmp_path, capsys):
    suite = ("eval", "run", "margins", "--store", smoke_store, "--plugin", plugin)
    alone, together = tmp_path / "one", tmp_path / "two"
    assert headstock(*suite, "-o", alone) == 0
    assert headstock(*suite, "-o", together, "--jobs", "2") == 0  # workers load the file themselves
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
    rows = one.filter(task="margin", method="first-columns")
    nearer = rows.filter(metric="nearer", source="head")
    ranks = read_ranks(alone, nearer["run_id"])
    sums = read_sums(alone, nearer["run_id"])
    values = ranks["own"].list.get(0)
    assert set(values) <= {0.0, 1.0}
    assert nearer["value"][0] == pytest.approx(values.mean())
    assert sums["own"].list.get(0).sum() == pytest.approx(values.sum())
    assert (nearer["chance"][0], nearer["n_queries"][0]) == (0.5, len(values))
    gap = rows.filter(metric="gap")
    assert set(gap["direction"]) == {"margin as a whole"}
    assert gap["chance"].null_count() == gap.height

    found = compare(alone, one).filter(metric="nearer")
    assert set(found["comparison"]) == {"over-chance", "over-control"}
    control = one.filter(metric="nearer", source="random", method="first-columns")["value"][0]
    over = found.filter(comparison="over-control", method="first-columns")
    assert over["difference"][0] == pytest.approx(nearer["value"][0] - control)
    assert "gap" not in set(compare(alone, one)["metric"])

    capsys.readouterr()
    assert headstock("eval", "table", alone, "--all", "--plugin", plugin) == 0
    heading = re.search("^task .*", capsys.readouterr().out, re.MULTILINE)[0]
    assert "nearer %" in heading
    assert " gap " in heading
    write_report(alone, store=smoke_store, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nearer %" in page
    assert "Share of images nearer to their own name." in page


def corpus_of(store: Path):
    return read_corpus(open_store(store), task_run(store, "zero_shot"))


def task_run(store: Path, task: str):
    (made,) = task_runs(open_store(store), task, method="ridge", source="head", **STORED)
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


@pytest.fixture
def typed(tmp_path, monkeypatch, smoke_store, no_plugins, capfd):
    """Return what runs a command in a folder with the files of the page and the smoke store."""
    write_files(tmp_path)
    (tmp_path / "smoke").symlink_to(smoke_store)
    monkeypatch.chdir(tmp_path)

    def run(command):
        name, *words = shlex.split(command)
        code = run_command(cli, name, words)
        out, err = capfd.readouterr()
        assert code == 0, f"{command}: {err or out}"
        return out

    return run


def test_a_method_of_a_file_is_scored_beside_its_controls(typed, tmp_path):
    what = (
        "headstock eval task zero_shot --plugin mine.py --method mine,ridge --source head,shuffled"
    )
    typed(f"{what} {SETS} --eval held-out --seeds 0-1 -o results")
    rows = read_results(tmp_path / "results")
    origins = dict(rows.select("method", "origin").unique().iter_rows())
    assert origins == {"mine": "mine.py", "ridge": ""}
    means = rows.filter(metric="top-1").group_by("method", "source").agg(pl.col("value").mean())
    found = {(method, source): value for method, source, value in means.iter_rows()}
    assert found["mine", "head"] > 0.7
    assert found["mine", "shuffled"] < 0.3
    # It is the package's ridge; what chooses its penalty is another search.
    assert abs(found["mine", "head"] - found["ridge", "head"]) < 0.1


def test_a_task_and_a_learner_of_files_are_in_one_table(typed, tmp_path):
    typed(
        "headstock eval task margins --plugin margins.py --plugin mine.py -s others=3 --method "
        f"mine --source head,shuffled --eval held-out {SETS} -o results"
    )
    typed(
        "headstock eval task few_shot --plugin prior_means.py -s learner=prior-means "
        f"--source head {SETS} -o results"
    )
    table = typed("headstock eval table results --all --plugin margins.py --plugin mine.py")
    assert "others=3" in table
    assert "learner=prior-means" in table
    rows = read_results(tmp_path / "results")
    origins = dict(rows.select("task", "origin").unique().iter_rows())
    assert origins == {"margins": "mine.py, margins.py", "few_shot": "prior_means.py"}
    values = rows.filter(task="margins", metric="margin").sort("source")["value"].to_list()
    assert values[0] > 0 > values[1]


def test_a_dataset_a_source_and_an_encoder_of_files_make_a_set_without_torch(typed, tmp_path):
    typed("headstock data build swatches --plugin swatches.py -o swatches")
    (tmp_path / "swatches/list.txt").write_text("red-0.png\tA red square.\n")
    listed = "headstock data make swatches/list.txt --as captioned-list -o listed -s split=test"
    assert "image        1  test 1" in typed(f"{listed} --plugin captioned_list.py")
    extract = "extract swatches --kind image --encoder colours:4 --plugin colours.py --store own"
    code = "import sys; sys.modules['torch'] = None; from headstock.__main__ import main; main()"
    subprocess.run([sys.executable, "-c", code, *extract.split()], check=True)
    rows = open_store(tmp_path / "own").view("swatches/image/colours.4").numpy().astype(np.float64)
    # The last shade of red is 255, 0, 0 in every cell.
    np.testing.assert_array_equal(rows[3].reshape(16, 3), np.tile([1.0, 0.0, 0.0], (16, 1)))
