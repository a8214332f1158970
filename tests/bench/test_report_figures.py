import re
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import compare, read_results
from bench.cells import whole_heads
from bench.doses import SCHEMA, dose_table
from bench.geometry import Example, Geometry, Side
from bench.report.curves import mixing_figure, pairs_figure
from bench.report.figures import (
    PAPER,
    controls_figure,
    head_rows_figure,
    headline_figure,
    numbered,
    paper_files,
)
from bench.report.theme import INKS, NARROW, TEXT, Figure, canvas, measured, spread, wrapped
from bench.tables import result_table, value_text
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks

#: Names that are no plain words: markup, another direction, no glyph in the typeface, no end.
NAMES = ["<b>&amp;</b>", "שלום עולם", "寿司と刺身", "a name of " + 20 * "many words ", "$x_1$"]


@pytest.fixture(scope="module")
def frames(written_study):
    rows = read_results(written_study)
    return rows, result_table(rows), compare(written_study, rows)


def mixing_rows(weights=(0.1, 1.0, 10.0), *, auto=0.5):
    """Results of fixed weights, of which 1 is the best with 0.6, and of the automatic one."""
    own = {"method": "ridge", "direction": "image→name", "metric": "top-1", "gallery": 20.0,
           "eval": "held-out", "n_queries": 10}  # fmt: skip
    rows = []
    for k, images in (("16", 16.0), ("all", 50.0)):
        for seed in range(3):
            here = own | {"n_pairs": k, "seed": seed, "n_images_fitted": images}
            rows.append(here | {"source": "none", "mix": "1.0", "penalty": "0.3", "value": 0.2})
            for source, peak in (("head", 0.6), ("random", 0.2)):
                rows += [
                    here | {"source": source, "mix": str(w), "penalty": "0.3",
                            "value": peak - 0.1 * abs(np.log10(w)), "mix_chosen": w}
                    for w in weights
                ]  # fmt: skip
            rows.append(
                here | {"source": "head", "mix": "auto", "penalty": "auto", "value": auto,
                        "mix_chosen": 0.5 * (1 + seed)}
            )  # fmt: skip
    rows += [
        own | {"n_pairs": "0", "seed": seed, "source": "head", "mix": "auto", "penalty": "auto",
               "value": 0.4, "n_images_fitted": 0.0}
        for seed in range(3)
    ]  # fmt: skip
    frame = pl.DataFrame(rows, infer_schema_length=None)
    fixed = frame.filter(pl.col("mix") != "auto")
    return fixed, frame.filter(pl.col("mix") == "auto")


def geometry(n=40):
    cosines = np.linspace(0.9, -0.2, n)
    ids = [f"c{i}" for i in range(n)]
    side = Side(ids=ids, cosines=cosines.tolist(), other=[-0.1, 0.0, 0.2], area=0.875)
    examples = [Example("c0", 0.9, 1, [("c0", 0.9), ("c1", 0.5), ("c2", 0.1)])]
    return Geometry(penalty=0.3, head=side, images=side, examples=examples, nearest=[])


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
        "mixing": mixing_figure(*mixing_rows()),
        "controls": controls_figure(whole_heads(rows), table, dose_rows(), evaluation="held-out"),
        "strip": head_rows_figure(geometry(), lambda c: NAMES[int(c[1:]) % len(NAMES)]),
    }
    return dict(zip(every, numbered(every.values()), strict=True))


def plain(text):
    """A text with ordinary blanks."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def boxes(figure, width, text):
    """Return the place of every text on a sheet in pixels, and the sheet's size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with canvas(width, text) as sheet:
        figure.draw(sheet)
        surface = FigureCanvasAgg(sheet.figure)
        renderer = surface.get_renderer()
        sheet.figure.draw_without_rendering()
        found = [
            (one.get_text(), Text.get_window_extent(one, renderer))
            for one in sheet.figure.findobj(Text)
            if one.get_visible() and one.get_text()
        ]
        return found, sheet.figure.bbox


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@pytest.mark.parametrize(
    ("width", "text"), [(None, TEXT), (NARROW, TEXT), (234.0, 8.0), (486.0, 8.0)]
)
@pytest.mark.parametrize("name", ["headline", "pairs", "mixing", "controls", "strip"])
def test_no_text_is_cut_and_none_lies_on_another(figures, name, width, text):
    figure = figures[name]
    found, sheet = boxes(figure, width or figure.width, text)
    assert len(found) > 8
    for label, box in found:
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < sheet.x1 + 1 and box.y1 < sheet.y1 + 1
        assert inside, (label, box, sheet)
    for place, (label, box) in enumerate(found):
        for other, beside in found[:place]:
            across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            down = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert across < 1 or down < 0.3 * text, (label, other, box, beside)


def test_the_headline_says_what_the_comparisons_say(frames, figures):
    rows = frames[2].filter(
        (pl.col("comparison") == "over-chance") & (pl.col("n_pairs") == "0")
        & (pl.col("metric") == "top-1") & (pl.col("direction") == "image→name")
    )  # fmt: skip
    assert set(rows["source"]) == {"head", "random", "shuffled"}
    figure = figures["headline"]
    for row in rows.iter_rows(named=True):
        value = value_text("top-1", row["a"])
        ends = ", ".join(f"{100 * (row['b'] + row[end]) + 0.0:.1f}" for end in ("low", "high"))
        assert f" {value} [{ends.replace('-', '−')}]" in plain(figure.caption)
        assert f">{value}</text>" in figure.inline()
    ridge = rows.filter((pl.col("method") == "ridge") & (pl.col("source") == "head"))
    assert f"Ridge on the head alone names {value_text('top-1', ridge['a'].item())} % of" in plain(
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
        assert f"{value_text('top-1', cells[source, k])} at {count}" in plain(figure.caption)
    gain = comparisons.filter(
        (pl.col("comparison") == "over-real") & (pl.col("source") == "head")
        & (pl.col("n_pairs") == "all") & (pl.col("metric") == "top-1")
    ).row(0, named=True)  # fmt: skip
    text = f"{value_text('top-1', gain['difference'])} points"
    assert plain(figure.title).startswith(
        f"With 50 real pairs the head is {text} higher for this pool of pairs"
    )
    assert f"+{text}" in figure.inline()
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
    assert plain(figure.title).startswith(starts)
    assert " points<" not in figure.svg()


def test_the_mixing_curve_shows_where_the_automatic_weight_lands():
    figure = mixing_figure(*mixing_rows(auto=0.55))
    assert plain(figure.title) == (
        "Mean top-1 of the automatic weight was at most 5.0 points below that of the best fixed "
        "one, among 20 names."
    )
    assert "50 pairs: best fixed weight 60.0, automatic 55.0" in plain(figure.caption)
    assert "Ticks below: the weight that each draw chose" in plain(figure.caption)
    chosen = figure.data.filter(pl.col("line") == "automatic")["chosen"]
    assert set(chosen) == {"0.5 1 1.5"}
    alone = figure.data.filter(pl.col("line") == "head alone")["mean"]
    assert alone.to_list() == [pytest.approx(0.4)] * 2
    better = mixing_figure(*mixing_rows(auto=0.65))
    assert better.title == (
        "No fixed weight had a higher mean top-1 than the automatic one, among 20 names."
    )
    fixed, none = mixing_rows()
    averaged = mixing_figure(fixed, none.with_columns(mix_chosen=pl.lit(None, pl.Float64)))
    assert "averages the fits" in averaged.caption
    without = mixing_figure(fixed, none.clear())
    assert (
        without.title == "The mixing weight moves mean top-1 by up to 10.0 points, among 20 names."
    )
    assert mixing_figure(fixed.filter(pl.col("mix") == "1.0"), none) is None


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
    table, doses = result_table(rows), dose_table(tmp_path, rows)
    figure = controls_figure(rows, table, doses, evaluation="held-out")
    own = figure.data.filter(pl.col("source") == "random")["draw"].to_list()
    assert own == pytest.approx(sorted(hits.sum(axis=1) / 90))
    assert "The best of 2 control draws" in plain(figure.title)


def test_doses_of_another_evaluation_are_not_drawn(tmp_path, rng):
    for eval_ in ("held-out", "all-names"):
        for source in ("head", "random"):
            write_ranks(tmp_path, hand_run(source, eval=eval_), ranks_with(rng, 20, 0.5))
    rows = read_results(tmp_path)
    figure = controls_figure(rows, result_table(rows), dose_rows(), evaluation="all-names")
    assert set(figure.data["dose"]) == {""}


def test_numbers_of_a_text_keep_their_digits():
    def draw(sheet):
        sheet.tall(10)
        sheet.text(1, 1.23456, "0.001 and 0.125")

    figure = Figure("kind", "title", "", "", pl.DataFrame(), draw)
    for drawing in (figure.svg(), figure.inline()):
        assert "0.001 and 0.125" in drawing
        assert not re.search(r'[xy]="\d+\.\d{3}', drawing)


def test_the_controls_say_which_draw_was_the_best(tmp_path, rng):
    for source, share, draws in (("head", 0.6, 1), ("random", 0.05, 4), ("shuffled", 0.1, 4)):
        for seed in range(draws):
            run = hand_run(source, seed=seed, eval="all-names")
            ranks = np.where(rng.random(60) < share, 1, 9)
            write_ranks(tmp_path, run, ranks, queries=[f"q{i}" for i in range(60)])
    rows = read_results(tmp_path)
    table, doses = result_table(rows), dose_table(tmp_path, rows)
    figure = controls_figure(rows, table, doses, evaluation="all-names")
    top = rows.filter(pl.col("metric") == "top-1")
    best = 100 * top.filter(pl.col("source") != "head")["value"].max()
    head = 100 * top.filter(pl.col("source") == "head")["value"].item()
    assert plain(figure.title) == (
        f"The best of 8 control draws names {best:.1f} % of images correctly among 20 names, the "
        f"head {head:.1f} %."
    )
    assert f"Ridge: head {head:.1f} (1), random rows " in plain(figure.caption)
    assert figure.data.filter(pl.col("source") == "random")["draw"].len() == 4
    alone = rows.filter(pl.col("source") == "head")
    assert controls_figure(alone, table, doses, evaluation="all-names") is None


def test_the_strip_counts_rows_above_other_names(figures):
    figure = figures["strip"]
    share = np.mean(np.linspace(0.9, -0.2, 40) > 0.2)
    assert plain(figure.title).startswith(f"{100 * share:.0f} % of the head's 40 rows are closer")
    assert "in 87.5 % of pairs" in plain(figure.caption)
    assert "5 to 95 %: −0.10 to 0.20" in plain(figure.caption)
    assert figure.data["cosine"].is_sorted(descending=True)
    assert "&lt;b&gt;&amp;amp;&lt;/b&gt;" in figure.inline()


def test_a_figure_in_the_page_has_words_and_ids_of_its_own(figures):
    inline = figures["headline"].inline()
    assert inline.count("<svg class=") == 2
    ids = re.findall(r' id="([^"]+)"', inline)
    assert len(ids) == len(set(ids))
    assert {name.split("-")[0] for name in ids} == {"headline"}
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', inline)) <= set(ids)
    assert inline.count(f'</title><desc id="headline-wide-text">{figures["headline"].caption}')
    for text in ("<style", "<metadata", "DejaVu", *(ink.placeholder for ink in INKS.values())):
        assert text not in inline


def test_files_are_on_white_with_their_words_inside(figures):
    figure = figures["headline"]
    files = figure.files()
    svg = files[".svg"].decode()
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in svg
    assert INKS["head"].light in svg
    assert not any(text in svg for text in ("var(--", *(i.placeholder for i in INKS.values())))
    lines = " ".join(re.findall(r">([^<]+)</text>", svg))
    for text in (figure.title, figure.subtitle, f"Figure 1. {figure.caption}"):
        assert text in lines
    size = [float(x) for x in re.search(r'width="([\d.]+)" height="([\d.]+)"', svg).groups()]
    assert files[".png"][:8] == b"\x89PNG\r\n\x1a\n"
    pixels = struct.unpack(">II", files[".png"][16:24])
    assert pixels == tuple(pytest.approx(2.5 * length, abs=2) for length in size)
    assert pl.read_csv(files[".csv"])["value"].to_list() == pytest.approx(
        figure.data["value"].to_list()
    )


def test_a_paper_gets_pdfs_with_their_fonts_and_captions_that_latex_reads(figures):
    figure = figures["headline"]
    files = paper_files([figure])
    assert set(files) == {
        "headline_column.pdf", "headline_page.pdf", "captions.txt", "captions.tex",
    }  # fmt: skip
    for width, inches in PAPER.items():
        pdf = files[f"headline_{width}.pdf"]
        assert f"/MediaBox [ 0 0 {72 * inches:g} ".encode() in pdf
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf
    assert files["headline_column.pdf"] == figure.pdf(3.25)
    assert figure.caption in files["captions.txt"].decode()
    latex = files["captions.tex"].decode()
    assert r"\label{fig:headline}" in latex
    assert r"image $\rightarrow$ name" in latex
    assert r"95~\% intervals" in latex
    commands = re.sub(r"\\(?:[a-z]+|[%_&#{}$])", "", re.sub(r"(?m)^%.*$", "", latex))
    assert not re.search(r"[%_&#\\→−]", commands)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0.1, 5))
def test_spread_keeps_order_and_distance(wanted, gap):
    places = spread(wanted, gap)
    order = np.argsort(wanted, kind="stable")
    steps = np.diff(np.array(places)[order])
    assert (steps > gap - 1e-9).all()
    # Least squares: the mean stays where it was.
    assert np.mean(places) == pytest.approx(np.mean(wanted), abs=1e-9)
    assert spread(places, gap) == pytest.approx(places)
    bounded = spread(wanted, gap, 0.0, 100.0)
    assert min(bounded) >= -1e-9
    assert max(bounded) <= 100 + 1e-9
    assert spread([], gap) == []


@given(st.lists(st.text("abc%", min_size=1, max_size=9), min_size=1, max_size=20))
def test_wrapped_lines_fit_and_lose_nothing(words):
    text = " ".join(words)
    lines = wrapped(text, 8.0)
    assert " ".join(lines) == text
    assert all(measured(line) <= 8.0 or " " not in line for line in lines)
