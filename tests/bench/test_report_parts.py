import numpy as np
import polars as pl
import pytest

from bench import compare, read_results
from bench.cells import method_title
from bench.report.gallery import COUNTS, Words, gallery, read_words
from bench.report.grids import choice_rows, gain_rows, grids
from bench.report.page import curves
from bench.report.theme import INKS
from bench.report.verdict import verdict
from bench.tables import result_lines, result_table
from featstore import open_store
from featstore.store.tables import write_thumbnails
from fitters import METHODS, PRESETS
from tests.bench.results_by_hand import hand_run, write_ranks, write_study


def judge(root):
    rows = read_results(root)
    return verdict(compare(root, rows), result_table(rows))


@pytest.mark.parametrize(
    ("shares", "tone", "answer"),
    [
        ({"head": 0.6, "random": 0.05, "shuffled": 0.05}, "better", "No. Random vectors"),
        ({"head": 0.3, "random": 0.3, "shuffled": 0.05}, "same", "Undecided"),
        ({"head": 0.05, "random": 0.5, "shuffled": 0.05}, "worse", "Yes. A control did better"),
    ],
)
def test_the_verdict_follows_the_intervals(tmp_path, rng, shares, tone, answer):
    write_study(tmp_path, rng, **shares)
    found = judge(tmp_path)
    assert found.tone == tone
    assert found.answer.startswith(answer)
    assert [tile.source for tile in found.tiles] == ["head", "random", "shuffled"]
    assert found.eval == "held-out"
    assert set(found.gains["comparison"]) == {"over-chance", "over-real"}


def test_seen_and_unseen_names_stand_beside_every_headline(study):
    rows = read_results(study).with_columns(
        seen_share=pl.when(pl.col("direction") == "image→name").then(0.25)
    )
    top = rows.filter((pl.col("metric") == "top-1") & (pl.col("task") == "zero_shot"))
    levels = {"head": (0.75, 0.125), "random": (0.0, 0.0625)}
    named = [
        top.filter(pl.col("source") == source).with_columns(
            metric=pl.lit(metric), value=pl.lit(value)
        )
        for source, own in levels.items()
        for metric, value in zip(("seen", "unseen"), own, strict=True)
    ]
    both = pl.concat([rows, *named])
    table = result_table(both)
    found = verdict(compare(study, rows), table)
    by_name = {tile.source: tile.by_name for tile in found.tiles}
    assert by_name["head"] == "seen 75.0 %, unseen 12.5 %"
    assert by_name["random"] == "seen 0.0 %, unseen 6.2 %"
    assert by_name["shuffled"] == ""
    assert "has the names of 25 % of the queries (seen)" in found.setting
    # Without names of a head nothing is said of them.
    plain = verdict(compare(study, rows), result_table(read_results(study)))
    assert "seen" not in plain.setting
    assert {tile.by_name for tile in plain.tiles} == {""}
    # In the page's grid they come after the five that the picker shows, in every task.
    shown = {grid.direction: grid for grid in grids(table)}
    assert shown["image→name"].metrics[5:] == ("seen %", "unseen %")
    assert len(shown["image→caption"].metrics) == 5
    assert "25 % of the queries are of names that the head has" in shown["image→name"].note
    text = result_lines(table)
    place = text.headings.index("top-1 %")
    assert text.headings[place + 1 : place + 3] == ["seen %", "unseen %"]


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
    assert found.sources == ("head", "random")
    (grid,) = (one for one in grids(table) if one.direction == "image→name")
    assert {line.source for line in grid.lines} == {
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


def test_the_verdict_says_when_no_control_was_run(tmp_path, rng):
    write_ranks(tmp_path, hand_run("head"), np.where(rng.random(50) < 0.5, 1, 9))
    found = judge(tmp_path)
    assert found.tone == "unknown"
    assert "Run the sources random and shuffled" in found.reason


def test_the_verdict_shows_losses_too(tmp_path, rng):
    write_study(tmp_path, rng, head=0.6, real=0.2, mixed=0.3)
    remarks = " ".join(judge(tmp_path).remarks)
    assert "ConSE reads the same head without fitting" in remarks
    assert "16 pairs −" in remarks
    assert "all (50) pairs −" in remarks


def test_all_names_answer_if_nothing_was_held_out(tmp_path, rng):
    names = [f"q{i}" for i in range(60)]
    for source, share, draws in (("head", 0.6, 1), ("random", 0.05, 4)):
        for seed in range(draws):
            run = hand_run(source, seed=seed, eval="all-names")
            write_ranks(tmp_path, run, np.where(rng.random(60) < share, 1, 9), queries=names)
    found = judge(tmp_path)
    assert (found.eval, found.tone) == ("all-names", "better")
    assert "20 candidate names" in found.setting


def test_a_control_drawn_once_decides_nothing(tmp_path, rng):
    for source, share in (("head", 0.9), ("random", 0.05)):
        run = hand_run(source, eval="all-names")
        write_ranks(
            tmp_path,
            run,
            np.where(rng.random(60) < share, 1, 9),
            queries=[f"q{i}" for i in range(60)],
        )
    found = judge(tmp_path)
    assert (found.tone, found.answer) == ("unknown", "Undecided. A control was drawn only once.")


def test_no_head_no_verdict(tmp_path):
    write_ranks(tmp_path, hand_run("random"), [1, 2])
    assert judge(tmp_path) is None


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


def test_grids_put_pairs_across_and_metrics_where_there_is_one_number(study, rng):
    write_ranks(study, hand_run("head", eval="all-names"), rng.integers(1, 20, size=30))
    table = result_table(read_results(study))
    shown = {(grid.direction, grid.eval): grid for grid in grids(table)}
    held = shown["image→name", "held-out"]
    assert held.columns == ("0", "16", "all (50)")
    assert not held.by_metric
    assert [line.method for line in held.lines] == ["chance", "ConSE"] + ["Ridge"] * 4
    head = next(line for line in held.lines if line.role == "head" and line.method == "Ridge")
    row = table.filter(
        (pl.col("eval") == "held-out") & (pl.col("direction") == "image→name")
        & (pl.col("source") == "head") & (pl.col("method") == "ridge") & (pl.col("n_pairs") == "16")
    ).row(0, named=True)  # fmt: skip
    assert head.cells[1].texts[0] == f"{100 * row['top-1']:.1f} ± {100 * row['top-1_sd']:.1f}"
    real = next(line for line in held.lines if line.role == "real")
    assert real.cells[0].texts[0] == ""
    assert max(w for line in held.lines for cell in line.cells for w in cell.weights) == 100
    chance = next(line for line in held.lines if line.method == "chance")
    assert set(chance.cells[0].weights) == {0}
    every = shown["image→name", "all-names"]
    assert every.by_metric
    assert every.columns[:2] == ("top-1 %", "top-5 %")


def test_bars_share_one_axis_that_holds_zero():
    frame = pl.DataFrame(
        {
            "direction": ["image→name"] * 2, "eval": ["held-out"] * 2, "metric": ["top-1"] * 2,
            "method": ["ridge"] * 2, "n_pairs": ["16", "all"], "side_a": ["x"] * 2,
            "side_b": ["y"] * 2, "a": [0.5, 0.1], "b": [0.3, 0.3], "difference": [0.2, -0.2],
            "low": [0.1, -0.3], "high": [0.3, -0.1], "p": [0.01, None], "n_queries": [10, 10],
            "n_clusters": [5, 5], "gallery": [20.0, 20.0], "chance": [0.05, 0.05],
            "a_sd": [0.02, None], "b_sd": [0.01, None], "relative": [2 / 3, None],
            "n_seeds": [5, 1], "p_holm": [0.02, 0.03], "family": [4, 4], "bold": [True, True],
            "population": ["new classes", "new classes, this pool of pairs"],
        }
    )  # fmt: skip
    up, down = gain_rows(frame, {"all": 344.0})
    assert (up["tone"], down["tone"]) == ("up", "down")
    assert up["bar"].zero == down["bar"].zero == 50.0
    assert (up["bar"].low, up["bar"].width, up["bar"].mean) == (66.67, 33.33, 83.33)
    assert (down["pairs"], down["p"], up["n_clusters"]) == ("all (344)", "", "5")
    assert (up["p_holm"], up["family"], up["population"]) == ("0.02", "of 4", "new classes")
    assert (up["a"], up["relative"], up["n_seeds"]) == ("50.0 ± 2.0", "+67 %", "5")
    assert gain_rows(frame.clear(), {}) == []


def test_only_a_primary_gain_has_a_colour(study):
    found = compare(study, read_results(study), metrics=("top-1", "top-10"))
    rows = gain_rows(found, {})
    assert {row["tone"] for row in rows if not row["family"]} == {""}
    tones = [row["tone"] for row in rows if row["family"]]
    bold = found.filter(pl.col("family").is_not_null())["bold"].to_list()
    assert [tone == "up" for tone in tones] == bold
    assert any(bold)


def test_choices_are_summed_up_with_their_edges(study):
    row = next(
        r for r in choice_rows(read_results(study))
        if (r["source"], r["pairs"]) == ("real + head weights", "16")
    )  # fmt: skip
    assert row["penalty_chosen"] == "0.6 (0.1 to 1)"
    assert row["mix_chosen"] == "1"
    assert row["edges"] == "penalty 1 of 10"
    assert row["flat"] == "1 of 10"


def test_the_gallery_shows_failures_first(tmp_path):
    ranks = np.array([1] * 20 + [2, 3, 5] * 6 + list(range(6, 40)))
    write_ranks(tmp_path, hand_run("head"), ranks, gallery=50)
    words = Words({"x": "a name", "y": "another"}, {}, {})
    shown = gallery(tmp_path, read_results(tmp_path), words, "image→name")
    kinds = [card.kind for card in shown.cards]
    assert kinds == sorted(kinds, key=list(COUNTS).index)
    assert [kinds.count(kind) for kind in COUNTS] == list(COUNTS.values())
    assert [card.rank for card in shown.cards[:3]] == [39, 38, 37]
    assert shown.totals == {"far": 34, "near": 18, "found": 20}
    assert [place.text for place in shown.cards[0].places] == ["a name", "another"]
    assert gallery(tmp_path, read_results(tmp_path), words, "caption→image") is None


def test_the_right_answer_is_marked(smoke_results, smoke_store):
    rows = read_results(smoke_results)
    words = read_words(open_store(smoke_store), rows.row(0, named=True))
    for direction in ("image→name", "caption→image"):
        shown = gallery(smoke_results, rows, words, direction)
        for card in shown.cards:
            marked = [place.right for place in card.places]
            assert (card.rank <= 5) == any(marked)
            if card.rank <= 5:
                assert marked.index(True) == card.rank - 1
    assert len({card.text for card in shown.cards}) == len(shown.cards)


def test_words_and_pictures_come_from_the_store(tmp_path, runs):
    from bench.suites.demo import create_smoke_store

    create_smoke_store(tmp_path)
    write_thumbnails(tmp_path / "smoke" / "image", {"smoke/image-000": b"webp"})
    words = read_words(open_store(tmp_path), runs[0].columns())
    assert words.describe("smoke/image-000") == "class-00"
    assert words.describe("smoke/class-07") == "class-07"
    assert words.describe("smoke/image-000#en") == "This is smoke/class-00."
    assert words.describe("unknown") == "unknown"
    assert words.class_of("smoke/image-000#en") == "smoke/class-00"
    assert words.pictures == {"smoke/image-000": "data:image/webp;base64,d2VicA=="}


def test_every_method_has_a_title_and_a_curve(tmp_path):
    """Also one that was registered in another process."""
    closed = [name for name, spec in METHODS.items() if spec.fitted_on in ("moments", "rows")]
    methods = [*reversed(closed), *PRESETS]
    assert set(methods) == METHODS.keys() - {"conse"}
    for method in [*methods, "of/one's own"]:
        for k in (4, 8):
            write_ranks(tmp_path, hand_run("none", k, method=method), [1, 2, 3])
    rows = read_results(tmp_path)
    table = result_table(rows)
    assert list(dict.fromkeys(table["method"])) == ["chance", *methods, "of/one's own"]
    for method in methods:
        assert method_title(method) not in ("", method)
    assert len({method_title(method) for method in METHODS}) == len(METHODS)
    found = curves(table, compare(tmp_path, rows))
    order = dict.fromkeys(["ridge", *methods, "of_one_s_own"])
    assert [figure.name for figure in found] == [f"accuracy_by_pairs_{m}" for m in order]
    assert found[0].title.startswith("Ridge reaches at most ")
    titles = {figure.title.split(" reaches")[0] for figure in found}
    assert titles >= {"ASIF", "SAIL", "ICIS", "STRUCTURE", "of/one's own"}
