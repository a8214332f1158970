"""Tables of results by hand, and the series that they show."""

import csv
import io
import os

import numpy as np
import polars as pl
import pytest

from bench import read_results
from bench.cells import CELL, only_series, series_table
from bench.errors import NoResultsError
from bench.options import Neighbours
from bench.results import file_of
from bench.tables import comma_separated, result_table, summary, value_text
from tests.bench.results_by_hand import hand_run, write_ranks


def test_mean_and_deviation_over_seeds(tmp_path):
    hits = {0: [1, 1, 2, 2], 1: [1, 2, 2, 2], 2: [1, 1, 1, 2]}
    for seed, ranks in hits.items():
        write_ranks(tmp_path, hand_run("head", 16, seed), ranks)
    table = result_table(read_results(tmp_path), ["top-1", "median_rank"])
    row = table.filter(method="ridge").row(0, named=True)
    shares = [np.mean(np.array(ranks) == 1) for ranks in hits.values()]
    assert row["top-1"] == pytest.approx(np.mean(shares))
    assert row["top-1_sd"] == pytest.approx(np.std(shares, ddof=1))
    assert (row["n_seeds"], row["gallery"], row["n_images_fitted"]) == (3, 20.0, 16.0)
    assert row["median_rank"] == pytest.approx(np.mean([1.5, 2.0, 1.0]))


def test_a_share_that_is_not_nothing_is_not_shown_as_nothing():
    shares = [1 / 3_000, 1 / 21_000, 0.0005, 0.2, 0.0, 1e-17]
    texts = ["0.03", "0.005", "0.1", "20.0", "0.0", "0.0"]
    assert [value_text("top-1", share) for share in shares] == texts
    assert value_text("top-1", 0.2, 0.0003) == "20.0 ± 0.03"


@pytest.mark.parametrize("metric", ["mean_rank", "median_rank"])
def test_a_summary_of_ranks_begins_with_the_lowest(metric, tmp_path):
    for method, rank in (("ridge", 9), ("procrustes", 2), ("csa", 5)):
        write_ranks(tmp_path, hand_run("head", 0, 0, method=method), [rank] * 4)
    rows = read_results(tmp_path).filter(metric="median_rank").with_columns(metric=pl.lit(metric))
    found = summary(result_table(rows, [metric]))
    assert found.sentence == ""
    assert [line[0] for line in found.table.lines] == ["Procrustes", "CSA", "Ridge"]


def test_a_summary_is_method_by_pairs_of_the_first_metric(tmp_path):
    """By hand: who finds how many of four queries first."""
    found = {("ridge", "none", 4): 2, ("ridge", "random", 0): 0, ("ridge", "head", 0): 1,
             ("ridge", "head", 4): 3, ("conse", "head", 0): 4}  # fmt: skip
    for (method, source, n_pairs), hits in found.items():
        for seed in (0, 1):
            run = hand_run(source, n_pairs, seed, method=method)
            write_ranks(tmp_path, run, [1] * hits + [2] * (4 - hits))
    run = hand_run("head", 0, 0, task="retrieval", eval="held-out")  # an arena of fewer K
    write_ranks(tmp_path, run, [1, 2])
    table = result_table(read_results(tmp_path), ["top-1", "R@1"])
    cell = table.filter(source="head", n_pairs="4").row(0, named=True)
    made = summary(table, {("top-1", tuple(cell[name] for name in CELL))})
    assert made.table.headings == ["method", "fitted on", "K = 0", "K = 4"]
    assert made.table.lines == [
        ["ConSE", "head weights", "100.0 ± 0.0", ""],
        ["Ridge", "head weights", "25.0 ± 0.0", "75.0 ± 0.0*"],
        ["Ridge", "real pairs", "", "50.0 ± 0.0"],
        ["Ridge", "random rows", "0.0 ± 0.0", ""],
    ]
    styles = [[getattr(cell, "style", None) for cell in line] for line in made.table.lines]
    assert styles[1:] == [[None] * 3 + [{"bold": True}], [None] * 4, [{"dim": True}] * 4]
    assert (made.left_out, made.caption) == (
        0,
        "image→name, held-out: top-1 %, mean ± sd over 2 draws, among 20 candidates; K real pairs.",
    )  # fmt: skip
    assert made.sentence == (
        "Head weights alone, without a real pair, reach top-1 100.0 % (ConSE), 25.0 % (Ridge) "
        "among 20 candidates; the best control 0.0 %, chance 5.0 %."
    )


def test_csv_keeps_every_digit_and_quotes(written_study):
    rows = read_results(written_study)
    read = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert len(read) == rows.height
    assert [float(row["value"]) for row in read] == rows["value"].to_list()
    assert comma_separated(pl.DataFrame({"a": ['x,"y'], "b": [None]})) == 'a,b\n"x,""y",\n'


def write(root, at, **fields):
    run = hand_run(**fields)
    write_ranks(root, run, [1, 2, 3], finished_at=float(at))
    return run


HEAD = {"source": "head", "n_pairs": 0, "head_set": "l/head_weight/e", "head_name_set": "l/n/t"}


@pytest.mark.parametrize(
    ("of", "revisions"),
    [
        ({"task": "few_shot", "eval": "in-class", "view_set": "a/view/x"},
         {"view_revision": ("1" * 64, "2" * 64)}),
        ({"task": "neighbours", "options": Neighbours(of="pairs"), "layer_sets": ("a/image/l",)},
         {"layer_revisions": (("1" * 64,), ("2" * 64,))}),
        ({}, {"image_revision": ("1" * 64, "2" * 64)}),
        (HEAD, {"head_variants": (("name",), ("lemmas",))}),
        (HEAD, {"head_templates": (("photo",), ("none",))}),
    ],
    ids=["views", "layers", "images", "variants", "templates"],
)  # fmt: skip
def test_two_revisions_of_a_set_are_two_series(tmp_path, of, revisions):
    """They are no seeds of one cell, and the last one is shown."""
    ((name, values),) = revisions.items()
    for seed, value in enumerate(values):
        write(tmp_path, 100 + seed, **of, seed=seed, **{name: value})
    rows = read_results(tmp_path)
    assert series_table(rows)["n_runs"].to_list() == [1, 1]
    assert series_table(rows)["series"].n_unique() == 2
    assert set(only_series(tmp_path, rows)["seed"]) == {1}


def test_results_say_when_they_were_written(tmp_path):
    """A copied folder has other file times."""
    first, last = (hand_run(image_revision=letter * 64) for letter in "ab")
    for run, said, of_file in ((last, 300.0, 10), (first, 200.0, 20)):
        write_ranks(tmp_path, run, [1, 2, 3], finished_at=said)
        os.utime(file_of(tmp_path, "runs", run.run_id), (of_file, of_file))
    rows = read_results(tmp_path)
    assert series_table(rows)["written"].to_list() == [300.0, 200.0]
    assert set(only_series(tmp_path, rows)["run_id"]) == {last.run_id}


def test_a_limited_run_never_mixes_with_full_ones(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, limit=10)
    assert only_series(tmp_path, read_results(tmp_path))["limit"].to_list() == [10] * 5
    write(tmp_path, 3)
    assert only_series(tmp_path, read_results(tmp_path))["limit"].null_count() == 5


def test_several_suites_want_a_name(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, suite="other")
    rows = read_results(tmp_path)
    with pytest.raises(NoResultsError, match=r"2 suites: hand, other\. Name the `suite=`"):
        only_series(tmp_path, rows)
    assert set(only_series(tmp_path, rows, suite="hand")["suite"]) == {"hand"}
    with pytest.raises(NoResultsError, match=r"No suite named 'othr'.*Did you mean 'other'"):
        only_series(tmp_path, rows, suite="othr")
    assert only_series(tmp_path, rows, suite="other").select(pl.col("value")).height == 5


def test_other_prompts_are_another_series_of_that_task_alone(tmp_path):
    """A suite prompts each dataset and task as it likes; the same ones anew start a series."""
    write(tmp_path, 1, task="zero_shot", templates=("paper",), **HEAD)
    kept = [
        write(tmp_path, 2, task="retrieval", templates=("photo",), **HEAD),
        write(tmp_path, 3, task="zero_shot", name_set="other/class_name/t-00000000",
              name_revision="c" * 64, variants=("paper",), **HEAD),
    ]  # fmt: skip
    rows = read_results(tmp_path)
    assert series_table(rows).height == 1
    kept.append(write(tmp_path, 4, task="zero_shot", templates=("none",), seed=1, **HEAD))
    rows = read_results(tmp_path)
    assert set(only_series(tmp_path, rows)["run_id"]) == {run.run_id for run in kept}
    assert series_table(rows).height == 2
