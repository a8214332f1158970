import re
from base64 import b64decode

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import compare, read_results
from bench.cells import whole_heads
from bench.doses import SCHEMA
from bench.report.figures import (
    controls_figure,
    doses_figure,
    headline_figure,
    pairs_figure,
)
from bench.report.theme import INKS, end_labels, numbered
from bench.tables import result_table, value_text
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks


@pytest.fixture(scope="module")
def frames(written_study):
    rows = read_results(written_study)
    return rows, result_table(rows), compare(written_study, rows)


def dose_rows():
    fields = dict.fromkeys(SCHEMA)
    return pl.DataFrame(
        [
            fields | {"method": method, "direction": "image→name", "eval": "held-out",
                      "dose": dose, "level": level, "value": level / 2000, "low": level / 2500,
                      "high": level / 1800}
            for method in ("ridge", "procrustes")
            for dose, levels in (("classes", (10, 100, 1000)), ("clusters of names", (1, 300)))
            for level in levels
        ],
        schema=SCHEMA,
    )  # fmt: skip


@pytest.fixture(scope="module")
def figures(frames):
    rows, table, comparisons = frames
    every = {
        "headline": headline_figure(comparisons, method="ridge", evaluation="held-out"),
        "pairs": pairs_figure(table, comparisons, "ridge"),
        "controls": controls_figure(whole_heads(rows), table, evaluation="held-out"),
        "doses": doses_figure(dose_rows(), evaluation="held-out", method="ridge"),
    }
    return dict(zip(every, numbered(every.values()), strict=True))


def test_the_headline_says_what_the_comparisons_say(frames, figures):
    rows = frames[2].filter(
        (pl.col("comparison") == "over-chance") & (pl.col("n_pairs") == "0")
        & (pl.col("metric") == "top-1") & (pl.col("direction") == "image→name")
    )  # fmt: skip
    assert set(rows["source"]) == {"head", "random", "shuffled"}
    figure = figures["headline"]
    for row in rows.iter_rows(named=True):
        drawn = figure.data.filter(method=row["method"], source=row["source"]).to_dicts()[0]
        assert drawn["value"] == row["a"]
        ends = [min(max(row["b"] + row[end], 0), 1) for end in ("low", "high")]
        assert [drawn["low"], drawn["high"]] == ends
        assert f">{value_text('top-1', row['a'])}</text>" in figure.inline()
    ridge = rows.filter((pl.col("method") == "ridge") & (pl.col("source") == "head"))
    assert f"Ridge on the head alone names {value_text('top-1', ridge['a'].item())} % of" in (
        figure.title
    )
    assert figure.data["value"][:2].is_sorted(descending=True)
    assert figure.data.height == rows.height
    assert headline_figure(frames[2], method="csa", evaluation="held-out") is None


def test_the_curve_says_what_the_table_says(frames, figures):
    _, table, comparisons = frames
    figure = figures["pairs"]
    top = figure.data.filter(pl.col("metric") == "top-1")
    assert dict(top.group_by("line").len().iter_rows()) == {
        "real pairs": 2, "real + head weights": 3, "real + random rows": 3,
        "real + head, names shuffled": 3, "ConSE": 1, "chance": 1,
    }  # fmt: skip
    cells = {
        (row["source"], row["n_pairs"]): row["top-1"]
        for row in table.filter(
            (pl.col("method") == "ridge") & (pl.col("direction") == "image→name")
        ).iter_rows(named=True)
    }
    for source, k, count in (("head", "0", 0), ("head", "all", 50), ("none", "16", 16)):
        drawn = top.filter(source=source, pairs=str(count))["mean"].item()
        assert drawn == cells[source, k]
    gain = comparisons.filter(
        (pl.col("comparison") == "over-real") & (pl.col("source") == "head")
        & (pl.col("n_pairs") == "all") & (pl.col("metric") == "top-1")
    ).row(0, named=True)  # fmt: skip
    text = f"{value_text('top-1', gain['difference'])} points"
    assert figure.title.startswith(
        f"With 50 real pairs the head is {text} higher for this pool of pairs"
    )
    assert pairs_figure(table, comparisons, "conse") is None


@pytest.mark.parametrize(
    ("low", "high", "p", "starts"),
    [
        (-0.1, 0.3, 0.4, "With 50 real pairs no difference by the head is shown"),
        (-0.3, -0.1, 0.01, "With 50 real pairs the head is 38.4 points lower for this pool"),
        (0.1, 0.3, 0.06, "With 50 real pairs no difference by the head is shown"),
    ],
)
def test_a_title_claims_no_gain_that_is_not_there(frames, low, high, p, starts):
    _, table, comparisons = frames
    changed = comparisons.with_columns(low=pl.lit(low), high=pl.lit(high), p=pl.lit(p))
    figure = pairs_figure(table, changed, "ridge")
    assert figure.title.startswith(starts)


def test_a_draw_of_a_control_is_one_whatever_splits_it_was_scored_on(tmp_path, rng):
    """Two draws on three splits, of 20, 30 and 40 queries: a draw counts its queries."""
    hits = np.zeros((2, 3))
    for seed, n in enumerate((20, 30, 40)):
        write_ranks(tmp_path, hand_run("head", seed=seed), ranks_with(rng, n, 0.5))
        for draw in range(2):
            ranks = ranks_with(rng, n, 0.3)
            hits[draw, seed] = (ranks == 1).sum()
            write_ranks(tmp_path, hand_run("random", seed=seed, control_draw=draw), ranks)
    rows = read_results(tmp_path)
    table = result_table(rows)
    figure = controls_figure(rows, table, evaluation="held-out")
    own = figure.data.filter(pl.col("source") == "random")["draw"].to_list()
    assert own == pytest.approx(sorted(hits.sum(axis=1) / 90))
    assert "The best of 2 control draws" in figure.title


def test_doses_are_those_of_one_evaluation_and_method(figures):
    doses = dose_rows()
    own = doses.filter(method="ridge")
    figure = figures["doses"]
    assert figure.data["value"].to_list() == own["value"].to_list()
    assert figure.title == "Ridge names 0.5 % with 10 classes, 15.0 % with 300 clusters of names."
    assert doses_figure(doses, evaluation="all-names", method="ridge") is None


def test_the_controls_say_which_draw_was_the_best(tmp_path, rng):
    for source, share, draws in (("head", 0.6, 1), ("random", 0.05, 4), ("shuffled", 0.1, 4)):
        for seed in range(draws):
            run = hand_run(source, seed=seed, eval="all-names")
            ranks = np.where(rng.random(60) < share, 1, 9)
            write_ranks(tmp_path, run, ranks, queries=[f"q{i}" for i in range(60)])
    rows = read_results(tmp_path)
    table = result_table(rows)
    figure = controls_figure(rows, table, evaluation="all-names")
    top = rows.filter(pl.col("metric") == "top-1")
    best = 100 * top.filter(pl.col("source") != "head")["value"].max()
    head = 100 * top.filter(pl.col("source") == "head")["value"].item()
    assert figure.title == (
        f"The best of 8 control draws names {best:.1f} % of images correctly among 20 names, the "
        f"head {head:.1f} %."
    )
    assert figure.data.filter(source="head")["mean"].to_list() == [head / 100]
    assert figure.data.filter(pl.col("source") == "random")["draw"].len() == 4
    alone = rows.filter(pl.col("source") == "head")
    assert controls_figure(alone, table, evaluation="all-names") is None


def test_a_figure_in_the_page_has_words_and_ids_of_its_own(figures):
    inline = figures["headline"].inline()
    ids = re.findall(r' id="([^"]+)"', inline)
    assert len(ids) == len(set(ids))
    assert {name.split("-")[0] for name in ids} == {"headline"}
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', inline)) <= set(ids)
    assert f'</title><desc id="headline-text">{figures["headline"].caption}' in inline
    for text in ("<style", "<metadata", *(ink.light for ink in INKS.values())):
        assert text not in inline


def test_files_have_their_words_inside(figures):
    figure = figures["headline"]
    found = figure.links()
    assert all(address.startswith("data:") for address in found.values())
    picture, numbers = (b64decode(address.split(",")[1]) for address in found.values())
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    pdf = figure.pdf()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert pl.read_csv(numbers)["value"].to_list() == pytest.approx(figure.data["value"].to_list())


def test_labels_keep_their_distance_where_panels_share_an_axis(figures):
    first = figures["pairs"].drawing.axes[0]
    places = sorted(text.xyann[1] for text in first.texts)
    assert len(places) > 2
    assert np.diff(places).min() > np.ptp(first.get_ylim()) / 10 - 1e-6


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_labels_keep_order_and_distance(wanted):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_ylim(-50, 50)
    end_labels(axes, [(value, str(place), "head") for place, value in enumerate(wanted)])
    places = [text.xyann[1] for text in axes.texts]
    assert (np.diff(places) > 10 - 1e-6).all()
    # Least squares: the mean stays where it was.
    assert np.mean(places) == pytest.approx(np.mean(wanted), abs=1e-6)
