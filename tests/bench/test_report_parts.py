import numpy as np
import polars as pl

from bench import compare, read_results
from bench.cells import CELL
from bench.comparisons import bold_cells
from bench.report.parts import grids
from bench.report.verdict import verdict
from bench.tables import result_table
from tests.bench.results_by_hand import hand_run, write_ranks


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
    over = comparisons.filter(
        (pl.col("comparison") == "over-control") & (pl.col("metric") == "top-1")
    )
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
