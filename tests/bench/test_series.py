import os

import polars as pl
import pytest

from bench import read_results
from bench.cells import only_series, series_table
from bench.errors import NoResultsError
from bench.options import Neighbours
from bench.results import file_of
from tests.bench.results_by_hand import hand_run, write_ranks


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
        ({**HEAD, "more_heads": ("l/head_weight/f@0",)},
         {"more_images": (("a/image/f@1",), ("a/image/f@2",))}),
        ({}, {"image_revision": ("1" * 64, "2" * 64)}),
        (HEAD, {"head_variants": (("name",), ("lemmas",))}),
        (HEAD, {"head_templates": (("photo",), ("none",))}),
    ],
    ids=["views", "layers", "images of further heads", "images", "variants", "templates"],
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
    rows = read_results(tmp_path)
    assert only_series(tmp_path, rows)["limit"].to_list() == [10] * 5
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
