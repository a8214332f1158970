import shutil

import numpy as np
import polars as pl
import pytest

from bench import compare, read_results
from bench.cells import CELL
from bench.comparisons import bold_cells
from bench.report.gallery import Words, gallery
from bench.report.grids import gain_rows, grids
from bench.report.theme import INKS
from bench.report.verdict import verdict
from bench.tables import result_table
from tests.bench.conftest import thumbnail
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


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("role", [role for role in INKS if role not in {"paper", "rule"}])
def test_every_ink_can_be_read_on_its_paper(role, mode):
    levels = sorted(_luminance(getattr(INKS[name], mode)) for name in (role, "paper"))
    # WCAG 2.2, 1.4.3: 4.5 for text.
    assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5


def test_grids_put_pairs_across_and_metrics_where_there_is_one_number(written_study, tmp_path, rng):
    shutil.copytree(written_study, tmp_path, dirs_exist_ok=True)
    write_ranks(tmp_path, hand_run("head", eval="all-names"), rng.integers(1, 20, size=30))
    table = result_table(read_results(tmp_path))
    shown = {(grid["direction"], grid["eval"]): grid for grid in grids(table)}
    held = shown["image→name", "held-out"]
    assert held["columns"] == ("0", "16", "all (50)")
    assert not held["by_metric"]
    # Methods by their best value; the head before its controls, chance last.
    assert [name for name, _ in held["groups"]] == ["ridge", "conse", "chance"]
    ridge = held["groups"][0][1]
    assert [(line["source"], line["control"]) for line in ridge] == [
        ("real pairs", False), ("+ head weights", False),
        ("+ head, names shuffled", True), ("+ random rows", True),
    ]  # fmt: skip
    head = ridge[1]
    row = table.filter(
        (pl.col("eval") == "held-out") & (pl.col("direction") == "image→name")
        & (pl.col("source") == "head") & (pl.col("method") == "ridge") & (pl.col("n_pairs") == "16")
    ).row(0, named=True)  # fmt: skip
    assert head["cells"][1][0]["text"] == f"{100 * row['top-1']:.1f} ± {100 * row['top-1_sd']:.1f}"
    real = next(line for _, lines in held["groups"] for line in lines if line["role"] == "real")
    assert real["cells"][0][0]["text"] == ""
    every = [line for _, lines in held["groups"] for line in lines]
    assert max(one["weight"] for line in every for cell in line["cells"] for one in cell) == 100
    chance = held["groups"][-1][1][-1]
    assert {one["weight"] for one in chance["cells"][0]} == {0}
    every = shown["image→name", "all-names"]
    assert every["by_metric"]
    assert every["columns"][:2] == ("top-1 %", "top-5 %")


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


def test_only_a_primary_gain_has_a_colour(written_study):
    found = compare(written_study, read_results(written_study), metrics=("top-1", "top-10"))
    rows = gain_rows(found, {})
    assert {row["tone"] for row in rows if not row["family"]} == {""}
    tones = [row["tone"] for row in rows if row["family"]]
    bold = found.filter(pl.col("family").is_not_null())["bold"].to_list()
    assert [tone == "up" for tone in tones] == bold
    assert any(bold)


def test_a_blank_thumbnail_is_no_example(tmp_path):
    """White on white, nearly so, and a picture; without thumbnails every image is one."""
    names = ["flash", "fog", "fly"]
    write_ranks(tmp_path, hand_run("head", eval="all-names"), [1, 1, 1], queries=names)
    pictures = dict(zip(names, map(thumbnail, (255, 250, 0), (255, 255, 255)), strict=True))
    for held, shown in ((pictures, ["fly"]), ({}, names)):
        words = Words(dict(zip(names, names, strict=True)), {}, held)
        found = gallery(tmp_path, read_results(tmp_path), words, "ridge", "image→name", "ImageNet")
        assert (found["hits"], found["total"]) == (3, 3)
        assert {card["text"] for card in found["strip"]} == set(shown)
        assert {card["text"] for group in found["groups"] for card in group["cards"]} == set(shown)
        assert all(bool(card["image"]) == bool(held) for card in found["strip"])
