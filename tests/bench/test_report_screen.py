"""The first screen of a report: its verdict, its sentences, its examples and its pictures."""

import numpy as np
import polars as pl
import pytest

from bench import compare, read_results
from bench.report.figures import headline_figure
from bench.report.parts import Words
from bench.report.screen import Scene
from bench.report.verdict import shown_method, verdict
from bench.statistics import DrawSums, proportion_interval
from bench.suites.demo import control_runs
from bench.tables import result_lines, result_table
from featstore import open_store
from tests.bench.results_by_hand import SEEDS, hand_run, ranks_with, write_ranks


def test_the_method_follows_from_what_was_run_and_never_from_how_it_scored(tmp_path, rng):
    names = [f"q{i}" for i in range(30)]
    for method, draws, hits in (("procrustes", 3, 0.9), ("ridge", 3, 0.1), ("asif", 3, 0.95)):
        write_ranks(tmp_path, hand_run("head", method=method, eval="all-names"),
                    ranks_with(rng, 30, hits), queries=names)  # fmt: skip
        for seed in range(draws):
            run = hand_run("random", seed=seed, method=method, eval="all-names")
            write_ranks(tmp_path, run, ranks_with(rng, 30, 0.05), queries=names)
    rows = read_results(tmp_path)
    # Of equally many draws of a control the first of the order, though it scored least.
    assert shown_method(compare(tmp_path, rows)) == "ridge"
    run = hand_run("random", seed=9, method="procrustes", eval="all-names")
    write_ranks(tmp_path, run, ranks_with(rng, 30, 0.05), queries=names)
    rows = read_results(tmp_path)
    assert shown_method(compare(tmp_path, rows)) == "procrustes"


def test_the_verdict_is_on_the_evaluation_that_has_the_controls(tmp_path, rng, smoke_store):
    # The suite `controls` in small: ridge, four draws, three held-out splits.
    runs = control_runs(
        open_store(smoke_store), dataset="smoke", methods=["ridge"],
        sources=["none", "head", "random", "shuffled"],
    )  # fmt: skip
    queries = [f"q{i}" for i in range(60)]
    for run in runs:
        beside = run.protocol.eval == "held-out"
        if run.seed < (3 if beside else 4):
            head = run.protocol.source == "head" and not run.protocol.head_size
            ranks = ranks_with(rng, 60, 0.5 if head or beside else 0.02)
            write_ranks(tmp_path, run, ranks, queries=None if beside else queries)
    rows = read_results(tmp_path)
    table, comparisons = result_table(rows), compare(tmp_path, rows)
    assert set(rows["eval"]) == {"all-names", "held-out"}
    found = verdict(comparisons, table)
    assert (found.eval, found.method) == ("all-names", "ridge")
    assert {row["source"] for row in found.controls} == {"random", "shuffled"}
    figure = headline_figure(comparisons, evaluation=found.eval, method="ridge")
    assert set(figure.data["source"]) == {"head", "random", "shuffled"}


def test_one_setting_is_shown_and_it_is_the_default_whatever_it_scored(tmp_path, rng):
    """The default scores least: a choice by scores or by place in the table would show another."""
    clusters = [f"c{i % 40}" for i in range(80)]
    for seed in SEEDS[:4]:
        for penalty, hits in ((0.001, 0.9), ("auto", 0.2), (10.0, 0.5)):
            for source, share in (("head", hits), ("random", 0.05)):
                ranks = ranks_with(rng, 80, share)
                run = hand_run(source, 0, seed, penalty=penalty)
                write_ranks(tmp_path, run, ranks, clusters=clusters)
    rows = read_results(tmp_path)
    table, comparisons = result_table(rows), compare(tmp_path, rows)
    found = verdict(comparisons, table)
    own = rows.filter(metric="top-1", source="head", penalty="auto")["value"].mean()
    assert found.cells["head"]["top-1"] == pytest.approx(own)
    assert found.of("over-chance")["a"] == pytest.approx(own)
    assert len(found.controls) == 1
    scene = Scene(found, rows, table, "ImageNet")
    assert "Ridge was scored in 3 settings" in scene.quotable("").answer
    assert not scene.quotable("").settled
    figure = headline_figure(comparisons, evaluation=found.eval, method="ridge")
    assert f"{100 * own:.1f} %" in figure.title
    assert figure.data.height == 2


def test_a_head_that_only_stands_beside_real_pairs_chooses_no_method(tmp_path, rng):
    for seed in SEEDS[:3]:
        write_ranks(tmp_path, hand_run("head", 0, seed), ranks_with(rng, 40, 0.5))
        run = hand_run("head", 16, seed, method="kernel-ridge")
        write_ranks(tmp_path, run, ranks_with(rng, 40, 0.5))
    rows = read_results(tmp_path)
    found = verdict(compare(tmp_path, rows), result_table(rows))
    assert (found.method, found.eval) == ("ridge", "held-out")


def test_seen_and_unseen_are_those_of_the_table_with_intervals_over_names(
    tmp_path, rng, smoke_store
):
    known = {f"c{i}" for i in range(20)}
    clusters = [f"c{i}" for i in range(80)]
    ranks = {}
    for source in ("head", "random"):
        for seed in SEEDS[:4] if source == "random" else SEEDS[:1]:
            ranks[source] = np.where(rng.random(80) < (0.5 if source == "head" else 0.02), 1, 9)
            write_ranks(tmp_path, hand_run(source, seed=seed, eval="all-names"), ranks[source],
                        clusters=clusters, queries=clusters)  # fmt: skip
    rows = read_results(tmp_path)
    hit = ranks["head"] == 1
    levels = {"seen": hit[:20].mean(), "unseen": hit[20:].mean()}
    top = rows.filter(metric="top-1", source="head")
    rows = pl.concat(
        [rows, *(top.with_columns(metric=pl.lit(m), value=pl.lit(v)) for m, v in levels.items())]
    ).with_columns(seen_share=pl.lit(0.25))
    table, comparisons = result_table(rows), compare(tmp_path, read_results(tmp_path))
    scene = Scene(verdict(comparisons, table), rows, table, "ImageNet")
    doubt = scene.known_names(tmp_path, Words({}, {}, {}, frozenset(known)))
    assert doubt.answer == (
        f"Partly: {100 * levels['seen']:.1f} % where ImageNet has the name, "
        f"{100 * levels['unseen']:.1f} % where it does not, on average over "
        "names."
    )
    spans = [
        proportion_interval(DrawSums(part[None].astype(float), np.ones((1, len(part)))))
        for part in (hit[:20], hit[20:])
    ]
    texts = [f"[{100 * low:.1f}, {100 * high:.1f}]" for low, high in spans]
    assert doubt.detail.startswith(f"Seen {texts[0]} and unseen {texts[1]}. 25 %")
    assert "among 20 names" in doubt.detail
    assert not doubt.settled
    assert {"seen %", "unseen %"} <= set(result_lines(table).headings)
