import re

import numpy as np
import pytest

from bench import compare, read_results
from bench.cells import CELL
from bench.comparisons import bold_cells
from bench.report.figures import INKS, headline_figure, numbered, pairs_figure
from bench.report.parts import grids
from bench.report.verdict import verdict
from bench.tables import result_table, value_text
from tests.bench.results_by_hand import hand_run, write_ranks


@pytest.fixture(scope="module")
def frames(written_study):
    rows = read_results(written_study)
    return rows, result_table(rows), compare(written_study, rows)


@pytest.fixture(scope="module")
def figures(frames):
    _, table, comparisons = frames
    every = {
        "headline": headline_figure(comparisons, method="ridge", evaluation="held-out"),
        "pairs": pairs_figure(table, "ridge"),
    }
    return dict(zip(every, numbered(every.values()), strict=True))


def test_the_headline_says_what_the_comparisons_say(frames, figures):
    rows = frames[2].filter(
        comparison="over-chance", n_pairs="0", metric="top-1", direction="image→name"
    )
    assert set(rows["source"]) == {"head", "random", "shuffled"}
    figure = figures["headline"]
    for row in rows.iter_rows(named=True):
        drawn = figure.data.filter(method=row["method"], source=row["source"]).to_dicts()[0]
        assert drawn["value"] == row["a"]
        ends = [min(max(row["b"] + row[end], 0), 1) for end in ("low", "high")]
        assert [drawn["low"], drawn["high"]] == ends
        assert f">{value_text('top-1', row['a'])}</text>" in figure.inline()
    ridge = rows.filter(method="ridge", source="head")
    assert f"Ridge on the head alone reaches {value_text('top-1', ridge['a'].item())} % top-1" in (
        figure.title
    )
    assert figure.data["value"][:2].is_sorted(descending=True)
    assert figure.data.height == rows.height
    assert headline_figure(frames[2], method="csa", evaluation="held-out") is None


def test_the_curve_says_what_the_table_says(frames, figures):
    table = frames[1]
    top = figures["pairs"].data.filter(metric="top-1")
    assert dict(top.group_by("line").len().iter_rows()) == {
        "real pairs": 2, "real + head weights": 3, "real + random rows": 3,
        "real + head, names shuffled": 3, "ConSE": 1, "chance": 1,
    }  # fmt: skip
    cells = {
        (row["source"], row["n_pairs"]): row["top-1"]
        for row in table.filter(method="ridge", direction="image→name").iter_rows(named=True)
    }
    for source, k, count in (("head", "0", 0), ("head", "all", 50), ("none", "16", 16)):
        assert top.filter(source=source, pairs=str(count))["mean"].item() == cells[source, k]
    assert pairs_figure(table, "conse") is None


def test_a_figure_has_ids_of_its_own_and_a_pdf_its_fonts(figures):
    inline = figures["headline"].inline()
    ids = re.findall(r' id="([^"]+)"', inline)
    assert {name.split("-")[0] for name in ids} == {"headline"}
    assert not [text for text in ("<style", "<metadata", *(ink.light for ink in INKS.values()))
                if text in inline]  # fmt: skip
    pdf = figures["headline"].pdf()
    assert b"/FontFile2" in pdf
    assert not re.search(rb"/Type3|CreationDate", pdf)


def test_a_part_of_a_head_is_no_answer_and_a_row_of_its_own(tmp_path, rng):
    names = [f"q{i}" for i in range(60)]
    for source, fields, share in (
        ("head", {}, 0.6), ("head", {"head_size": 5}, 0.0), ("random", {}, 0.05),
        ("shuffled-within", {"clusters": 9}, 0.9), ("shuffled-within", {"clusters": 3}, 0.1),
        ("head", {"leave_seen": True}, 0.3),
    ):  # fmt: skip
        for seed in range(4 if source != "head" else 1):
            run = hand_run(source, seed=seed, eval="all-names", **fields)
            write_ranks(tmp_path, run, np.where(rng.random(60) < share, 1, 9), queries=names)
    rows = read_results(tmp_path)
    comparisons, table = compare(tmp_path, rows), result_table(rows)
    found = verdict(comparisons, table)
    assert found.tone == "better"
    assert [row["source"] for row in found.controls] == ["random"]
    (grid,) = (one for one in grids(table) if one["direction"] == "image→name")
    assert {line["source"] for _, lines in grid["groups"] for line in lines} == {
        "", "head weights", "head weights (5 classes)", "head weights (none that the images have)",
        "random rows", "head, names shuffled within clusters (9 clusters)",
        "head, names shuffled within clusters (3 clusters)",
    }  # fmt: skip
    over = comparisons.filter(comparison="over-control", metric="top-1")
    # The whole head is compared with every dose; its parts with controls of the same part only.
    assert sorted(over["side_b"]) == [
        "head, names shuffled within clusters (3 clusters)",
        "head, names shuffled within clusters (9 clusters)", "random rows",
    ]  # fmt: skip
    assert set(over["side_a"]) == {"head weights"}


def test_a_cell_that_wins_its_primary_comparisons_is_bold(written_study):
    rows = read_results(written_study)
    bold = bold_cells(compare(written_study, rows), ["top-1"])
    shown = grids(result_table(rows), bold)
    marked = {
        (grid["direction"], line["method"], line["source"], column)
        for grid in shown
        for _, lines in grid["groups"]
        for line in lines
        for column, cell in zip(grid["columns"], line["cells"], strict=True)
        if any(one["bold"] for one in cell)
    }
    pairs = {"0": "0", "16": "16", "all": "all (50)"}
    places = [CELL.index(name) for name in ("direction", "method", "n_pairs")]
    wanted = {tuple(cell[place] for place in places) for _, cell in bold}
    assert marked == {(way, one, "+ head weights", pairs[k]) for way, one, k in wanted}
    assert marked
