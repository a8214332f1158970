"""The pages of a report and of a bridge.

A verdict, a curve or a map over several datasets at once would mean nothing. A suite that reads
many sets has a page for each; what is not shown is named.

The page of a bridge has its verdict, the curve over pairs, the controls, and the numbers.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import polars as pl

from bench.bridge import CONTROLS, NEIGHBOURS, Bridge, percent, shares
from bench.cells import label_set_title, method_title, metric_texts, only_series, whole_heads
from bench.comparisons import bold_cells, compare
from bench.errors import NoResultsError
from bench.report.figures import (
    DASHED,
    DOTTED,
    METHOD,
    Figure,
    colour,
    css_variables,
    data_uri,
    headline_figure,
    numbered,
    pairs_figure,
    with_ticks,
)
from bench.report.parts import gain_rows, gallery, grids, read_words, shown_text
from bench.report.screen import Screen, first_screen
from bench.report.verdict import first_question, verdict
from bench.reproduction import published_lines, published_table
from bench.results import data_notes, read_results, read_sessions, unfinished, versions
from bench.suites.demo import dose_lines, dose_table
from bench.suites.few_shot import few_shot_table, learner_lines
from bench.tables import (
    gain_lines,
    metric_columns,
    result_lines,
    result_table,
)
from featstore.durable import write_output
from featstore.errors import needs_extra, unknown_name
from featstore.store.store import FeatureStore, open_store

_COLUMNS = ("image_set", "head_set", "name_set", "caption_set")


def filter_to_one_choice(
    rows: pl.DataFrame, images: str | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows of one set of images, one head and one set of each kind of texts.

    Parameters
    ----------
    rows : DataFrame
        Of one series.
    images : str, optional
        Key of the images' set, or how it begins, such as the dataset. If left out, the set with
        the most runs.

    Returns
    -------
    rows : DataFrame
        Of every kind of set that with the most runs; of equally many the first by name. Runs
        without a head or without texts of a kind stay.
    others : list of str
        What was left out: sets of images, then heads and texts of the images that are shown.

    Raises
    ------
    NoResultsError
        If no set of images begins so.
    """
    keys = sorted(set(rows["image_set"]))
    if images is not None:
        own = [key for key in keys if key == images or key.startswith(images)]
        if not own:
            raise NoResultsError(unknown_name("image set", images, keys, where="in the results"))
        rows = rows.filter(pl.col("image_set").is_in(own))
    for column in _COLUMNS:
        counts = (
            rows.filter(pl.col(column).fill_null("") != "")
            .group_by(column)
            .agg(n=pl.col("run_id").n_unique())
            .sort("n", column, descending=[True, False])
        )
        if counts.height > 1:
            rows = rows.filter(pl.col(column).fill_null("").is_in(["", counts[column][0]]))
            keys += counts[column].to_list()
    shown = {key for column in _COLUMNS for key in rows[column]}
    return rows, [key for key in dict.fromkeys(keys) if key not in shown]


ROLES = {
    "image": "images",
    "name": "class names",
    "caption": "captions",
    "head": "head weights",
    "head_name": "names of the head's classes",
}


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes
    ----------
    page : Path
    files : tuple of Path
        What else: figures as PDF for a paper, the picture that a link to the page shows.
    answer : str
        The headline, or empty where no head was scored alone.
    """

    page: Path
    files: tuple[Path, ...]
    answer: str


def write_report(
    results: Path | str,
    *,
    store: Path | str,
    out: Path | str,
    suite: str | None = None,
    images: str | None = None,
    paper: Path | str | None = None,
    url: str | None = None,
) -> Written:
    """Write the report of a results folder.

    Parameters
    ----------
    results : Path
        Folder of `headstock eval run`.
    store : path or address
        The store that the runs read: texts and thumbnails come from it.
    out : Path
        The HTML file. It holds all: figures, numbers, thumbnails.
    suite : str, optional
        Which suite, if the folder holds several.
    images : str, optional
        Which set of images, if the suite scored several; see `bench.report.page`.
    paper : Path, optional
        Folder that also gets every figure as PDF.
    url : str, optional
        Where the page will be published. Whoever is sent this address sees the first figure, which
        is written beside the page as PNG and has to be published with it.

    Raises
    ------
    NoResultsError
        If the folder holds no result, or results of several suites and none was named.
    MissingPackageError
        If jinja2 or matplotlib is missing.
    featstore.errors.StoreWriteError
        If a file cannot be written.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> done = run_all(smoke_runs(open_store("smoke"))[:2], "smoke", "results")
    >>> write_report("results", store="smoke", out="report.html").page.name
    'report.html'
    """
    with needs_extra("The report"):  # before any work: they are imported where they are used
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401

    results, out = Path(results), Path(out)
    rows = only_series(results, read_results(results), suite=suite)
    opened = open_store(store)
    picture = out.with_suffix(".png")
    image = "" if url is None else urljoin(url, quote(picture.name))
    page = build_page(results, rows, opened, images=images, image=image)
    # All is drawn before any of it is written: what fails leaves the old page.
    files = {picture: page.figures[0].png()} if image and page.figures else {}
    if paper is not None:
        files |= {Path(paper, f"{figure.name}.pdf"): figure.pdf() for figure in page.figures}
    for path, content in (*files.items(), (out, page.html.encode("utf-8"))):
        write_output(path, [content])
    return Written(out, tuple(files), page.screen.headline)


@dataclass(frozen=True)
class Page:
    """The finished page.

    Attributes
    ----------
    html : str
    figures : tuple of Figure
    screen : Screen
    """

    html: str
    figures: tuple[Figure, ...]
    screen: Screen


def build_page(
    root: Path,
    rows: pl.DataFrame,
    store: FeatureStore,
    *,
    images: str | None = None,
    image: str = "",
) -> Page:
    """Return the page for these result rows.

    Parameters
    ----------
    root : Path
        Results folder; per-query ranks are read from it.
    rows : DataFrame
        Of one series.
    store : FeatureStore
    images : str, optional
        Which set of images, if there are several.
    image : str
        Address of the picture that a link to the page shows; empty for none.
    """
    published = published_table(rows) if rows["suite"][0] == "paper" else None
    rows, others = filter_to_one_choice(rows, images)
    table = result_table(rows)
    comparisons = compare(root, rows)
    found = verdict(comparisons, table)
    whole = whole_heads(rows)
    doses = dose_table(root, rows)
    # A run with a head names every set; one on real pairs alone may name none of it.
    first = rows.sort(pl.col("head_set") == "", maintain_order=True).row(0, named=True)
    words = read_words(store, first)
    figures = numbered(
        [
            None
            if found is None
            else headline_figure(
                comparisons,
                method=found.method,
                evaluation=found.eval,
                direction=found.direction,
                metric=found.metric,
            ),
            *(
                pairs_figure(whole_heads(table), method)
                for method in dict.fromkeys([METHOD, *table["method"]])
            ),
        ]
    )
    screen = first_screen(root, rows, table, found, first_question(comparisons, rows), store, words)
    looked = None
    if found is not None:
        head = label_set_title(str(first["head_set"]).split("/")[0])
        looked = gallery(root, whole, words, found.method, found.direction, head)
    context: dict[str, Any] = {
        "title": screen.title,
        "description": screen.headline,
        "notes": [*unfinished(root, str(rows["suite"][0])), *data_notes(rows)],
        "figures": {
            kind: [figure for figure in figures if figure.kind == kind]
            for kind in dict.fromkeys(figure.kind for figure in figures)
        },
        "image": image if figures else "",
        "others": others,
        "published": None if published is None else published_lines(published),
        "learners": learner_lines(few_shot_table(root, rows)),
        "screen": screen,
        "gallery": looked,
        "doses": dose_lines(doses),
        "sheets": {"cells": result_lines(table), "comparisons": gain_lines(comparisons)},
        **_tables(METHOD if found is None else found.method, table, comparisons, figures),
        "metrics": metric_texts(rows),
        "sets": [
            {"role": label, "key": first[f"{role}_set"], "revision": first[f"{role}_revision"]}
            for role, label in ROLES.items()
            if first[f"{role}_set"]
        ],
        "facts": _facts(rows, first),
        "sessions": read_sessions(root),
        "suite": str(first["suite"]),
    }
    return Page(render("page.html", context), tuple(figures), screen)


def _tables(
    shown: str,
    table: pl.DataFrame,
    comparisons: pl.DataFrame,
    figures: Sequence[Figure],
) -> dict[str, Any]:
    """Return the tables of the page, and the methods to switch between."""
    tables = grids(whole_heads(table), bold_cells(comparisons, metric_columns(table)))
    paired = [one for one in tables if not one["by_metric"]]
    alone = [one for one in tables if one["by_metric"]]
    methods = _methods(shown, figures, tables)
    places = {name: place for place, name in enumerate(methods)}
    fitted = dict(table.select("n_pairs", "n_images_fitted").iter_rows())
    parts = (pl.col("comparison") == "over-parts") & pl.col("metric").is_in(["top-1", "R@1"])
    return {
        "methods": [{"name": name, "title": method_title(name)} for name in methods],
        "places": places,
        "paired": paired,
        "tasks": {(one["direction"], one["eval"]): place for place, one in enumerate(paired)},
        "alone": alone,
        "parts": gain_rows(comparisons.filter(parts), fitted),
        "family": gain_rows(comparisons.filter(pl.col("family").is_not_null()), fitted),
    }


def _methods(
    shown: str, figures: Sequence[Figure], tables: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the methods that a reader can switch between, that of the verdict first."""
    drawn = {figure.method for figure in figures if figure.kind == "accuracy_by_pairs"}
    groups = [group for grid in tables for group in grid["groups"]]
    controlled = {name for name, lines in groups if any(line["control"] for line in lines)}
    every = dict.fromkeys([shown, *(name for name, _ in groups), *sorted(drawn)])
    return [name for name in every if name in drawn | controlled] or [shown]


def render(name: str, context: Mapping[str, Any]) -> str:
    """Return a page of this package, with the style sheet and the script that all pages share.

    Raises
    ------
    MissingPackageError
        If jinja2 is missing.
    """
    with needs_extra("A page"):
        from jinja2 import Environment, FunctionLoader, StrictUndefined

    script = resource("table.js")
    shared = {
        "csp": policy(script, "img-src data:", "style-src 'unsafe-inline'"), "script": script,
        "style": f"{css_variables()}\n{resource('style.css')}",
    }  # fmt: skip
    # Everything is escaped but the sheet, the script and the drawings, which come from here.
    environment = Environment(
        loader=FunctionLoader(resource), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "minus": lambda text: text.replace("-", "\N{MINUS SIGN}"),
        "spaced": lambda text: text.replace("→", " → "),
        "shown": shown_text,
        "counted": "{:,}".format,
        "csv_uri": lambda table: data_uri("text/csv", table.csv().encode("utf-8")),
    }
    return environment.get_template(name).render(shared | {**context})


def resource(name: str) -> str:
    """Return a file of this package: a template, a sheet or a script."""
    return resources.files("bench.report").joinpath(name).read_text(encoding="utf-8")


def policy(script: str, *rules: str) -> str:
    """Return the policy of a page with one script: nothing is loaded but what other rules allow."""
    own = f"script-src {digest(script)}"
    return "; ".join(["default-src 'none'", own, *rules, "base-uri 'none'", "form-action 'none'"])


def digest(text: str) -> str:
    """Return a script or a sheet as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _facts(rows: pl.DataFrame, first: dict[str, Any]) -> list[tuple[str, str]]:
    packages = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr", "matplotlib")
    found = [f"{package} {version}" for package, version in versions(packages).items()]
    return [
        ("suite", str(first["suite"])),
        ("runs", f"{rows['run_id'].n_unique():,} in {rows.height:,} rows"),
        ("class text", f"variants {first['variants']}; templates {first['templates']}"),
        ("captions", first["locales"] or "all locales"),
        ("limit", "none" if first["limit"] is None else f"first {first['limit']:,} images"),
        ("metric version", str(first["metric_version"])),
        ("protocol version", str(first["protocol_version"])),
        ("report drawn with", f"Python {platform.python_version()}; {', '.join(found)}"),
    ]


def write_bridge(found: Bridge, out: Path) -> Path:
    """Write one page that says what a bridge keeps; it holds all and asks for nothing.

    Parameters
    ----------
    found : Bridge
    out : Path
        The HTML file.

    Raises
    ------
    MissingPackageError
        If jinja2 or matplotlib is missing.
    featstore.errors.StoreWriteError
        If it cannot be written.
    """
    figures, verdict = numbered([curve_figure(found)]), found.sentences[-1]
    context = {
        "title": f"{verdict} · Headstock", "description": verdict, "image": "",
        "dek": " ".join(found.sentences[:-1]), "figures": figures, "facts": found.facts,
        "rows": found.table,
    }  # fmt: skip
    write_output(out, [render("bridge.html", context).encode("utf-8")])
    return out


def curve_figure(found: Bridge) -> Figure:
    """Draw what is kept by the number of pairs, what more may keep, and the gate."""
    rows = [(n, one.mean, *shares(one), False) for n, one in found.curve.items()]
    rows += [(n, (a + b) / 2, a, b, True) for n, (a, b) in found.predicted.items()]
    data = pl.DataFrame(rows, ["pairs", "kept", "low", "high", "predicted"], orient="row")

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        pairs, kept, low, high, _ = (column.to_numpy() for column in data)
        own, ink = len(found.curve), colour("head")
        axes.fill_between(pairs, 100 * low, 100 * high, color=ink, alpha=0.2, lw=0)
        axes.plot(pairs[:own], 100 * kept[:own], marker="o", color=ink, linewidth=2)
        if found.gate is not None:
            axes.axhline(100 * found.gate, color=colour("random"), linestyle=DASHED)
        shuffled = found.kept[CONTROLS[0], "old items", NEIGHBOURS]
        axes.axhline(100 * shuffled.mean, color=colour("shuffled"), linestyle=DOTTED)
        axes.set_xscale("log", base=2)
        axes.set_xticks(pairs, [f"{n:,}" for n in pairs])
        axes.minorticks_off()
        axes.set_xlabel("pairs, doubling")
        axes.set_ylim(0, 104)
        with_ticks(axes, "y")

    ahead = ", beyond them predictions by power laws of the draws" if found.predicted else ""
    marks = [f"band: 95 % intervals{ahead}", "dotted: shuffled pairs"]
    marks += ["dashed: the gate"] * (found.gate is not None)
    return Figure(
        "bridge_curve",
        f"{found.n_pairs:,} pairs keep {percent(found.own)} of the {NEIGHBOURS} nearest.",
        f"Percent of the {NEIGHBOURS} nearest that new queries find among mapped old items; "
        f"{'; '.join(marks)}.",
        f"What a search keeps by the number of pairs, among {found.gallery:,} items, mean of "
        f"{found.own.n_draws} draws.",
        data, draw, 320, width=600.0,
    )  # fmt: skip
