"""The page of a report.

A verdict, a curve or a map over several datasets at once would mean nothing. A suite that reads
many sets has a page for each; what is not shown is named.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import (
    label_set_title,
    method_title,
    metric_texts,
    only_series,
    whole_heads,
)
from bench.comparisons import LEVEL, bold_cells, compare
from bench.doses import dose_table
from bench.errors import BenchError, NoResultsError
from bench.report.figures import (
    METHOD,
    controls_figure,
    headline_figure,
    pairs_figure,
)
from bench.report.gallery import gallery, read_words, shown_text
from bench.report.grids import Grid, gain_rows, grids
from bench.report.screen import Screen, first_screen
from bench.report.theme import Figure, css_variables, numbered
from bench.report.verdict import Verdict, verdict
from bench.results import read_results, read_sessions, unfinished, versions
from bench.suites.few_shot import few_shot_table
from bench.suites.published import published_table
from bench.tables import (
    dose_lines,
    learner_lines,
    metric_columns,
    published_lines,
    result_lines,
    result_table,
)
from featstore.cli.store import describe
from featstore.errors import FeatstoreError, listed, needs_extra
from featstore.store.files import write_file
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
            raise NoResultsError(
                f"No images of {images!r} were scored. There are: {listed(keys, shown=8)}."
            )
        rows = rows.filter(pl.col("image_set").is_in(own))
    for column in _COLUMNS:
        counts = (
            rows.filter(pl.col(column).fill_null("") != "")
            .group_by(column)
            .agg(pl.col("run_id").n_unique().alias("n"))
            .sort("n", column, descending=[True, False])
        )
        if counts.height > 1:
            rows = rows.filter(pl.col(column).fill_null("").is_in(["", counts[column][0]]))
            keys += counts[column].to_list()
    shown = {key for column in _COLUMNS for key in rows[column]}
    return rows, [key for key in dict.fromkeys(keys) if key not in shown]


#: Names that are shown in each part of the list.
SHOWN = 15

ROLES = {
    "image": "images",
    "name": "class names",
    "caption": "captions",
    "head": "head weights",
    "head_name": "names of the head's classes",
}


def set_health(store: FeatureStore, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `headstock show` says of each set of a row that the store has."""
    found = []
    for role, label in ROLES.items():
        key, revision = row[f"{role}_set"], row[f"{role}_revision"]
        # A store may no longer hold what was scored.
        with suppress(FeatstoreError):
            if key:
                facts = describe(store, store.info(key, revision=revision))
                found.append({"role": label, "key": key, **facts})
    return found


def ambiguous_names(store: FeatureStore, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return which classes share their whole name, ignoring case, per set of class names.

    They are contradictory targets: how many classes share, and the largest groups.
    """
    out = []
    for role in ("head_name", "name"):
        if not row[f"{role}_set"]:
            continue
        try:
            items = store.view(row[f"{role}_set"], revision=row[f"{role}_revision"]).items
        except (FeatstoreError, BenchError):
            continue
        plain = items.filter(pl.col("text").is_not_null())
        if "none" in set(plain["template_id"].drop_nulls()):
            plain = plain.filter(pl.col("template_id") == "none")
        if "name" in set(plain["variant"].drop_nulls()):
            plain = plain.filter(pl.col("variant") == "name")
        classes = plain.unique("class_id", keep="first", maintain_order=True)
        groups = (
            classes.group_by(pl.col("text").str.to_lowercase().alias("name"))
            .agg(pl.col("class_id").sort(), pl.len().alias("n"))
            .filter(pl.col("n") > 1)
            .sort("n", "name", descending=[True, False])
        )
        largest = groups.select("name", "class_id").head(SHOWN).rows()
        out.append(
            {
                "role": ROLES[role],
                "n_classes": classes.height,
                "n_sharing": int(groups["n"].sum()),
                "shared": [(name, listed(ids, shown=8)) for name, ids in largest],
            }
        )
    return out


#: A page above this size is refused: something that is no thumbnail was embedded.
MAX_PAGE_BYTES = 5 * 2**20

#: Headings of the tables of doses and of published numbers whose cells are numbers.
NUMERIC = {
    "level", "own names %", "top-1 %", "seen %", "unseen %", "draws", "K", "ours", "theirs",
    "shots", "published", "seeds", "gallery", "ours \N{MINUS SIGN} theirs",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes
    ----------
    page : Path
    files : tuple of Path
        Figures as SVG and PNG, and their numbers as CSV.
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
) -> Written:
    """Write the report of a results folder.

    Parameters
    ----------
    results : Path
        Folder of `headstock eval run`.
    store : path or address
        The store that the runs read: texts, thumbnails and the health of the data come from it.
    out : Path
        The HTML file. Figures go beside it, into ``<stem>_files/``.
    suite : str, optional
        Which suite, if the folder holds several.
    images : str, optional
        Which set of images, if the suite scored several; see `bench.report.page`.
    paper : Path, optional
        Folder that also gets every figure as PDF.

    Raises
    ------
    NoResultsError
        If the folder holds no result, or results of several suites and none was named.
    MissingPackageError
        If jinja2 or matplotlib is missing.
    BenchError
        If the page would be too large.
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
    _require_packages()
    results, out = Path(results), Path(out)
    rows = only_series(results, read_results(results), suite=suite)
    opened = open_store(store)
    folder = out.parent / f"{out.stem}_files"
    page = build_page(results, rows, opened, images=images, files=folder.name)
    # All is drawn before any of it is written: what fails leaves the old page and its figures.
    files = {
        folder / f"{figure.name}{ending}": content
        for figure in page.figures
        for ending, content in figure.files().items()
    }
    if paper is not None:
        files |= {Path(paper, f"{figure.name}.pdf"): figure.pdf() for figure in page.figures}
    for path, content in files.items():
        write_file(path, [content])
    write_file(out, [page.html.encode("utf-8")])
    return Written(out, tuple(files), page.screen.finding)


@dataclass(frozen=True)
class Page:
    """The finished page.

    Attributes
    ----------
    html : str
    figures : tuple of Figure
    verdict : Verdict, optional
    screen : Screen
    """

    html: str
    figures: tuple[Figure, ...]
    verdict: Verdict | None
    screen: Screen


def build_page(
    root: Path,
    rows: pl.DataFrame,
    store: FeatureStore,
    *,
    images: str | None = None,
    files: str = "report_files",
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
    files : str
        Name of the folder beside the page that the figures' files go into.
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
            *curves(whole_heads(table), comparisons),
            None
            if found is None
            else controls_figure(whole, table, doses, evaluation=found.eval, method=found.method),
        ]
    )
    screen = first_screen(root, rows, table, found, store, words)
    looked = None
    if found is not None:
        head = label_set_title(str(first["head_set"]).split("/")[0])
        looked = gallery(root, whole, words, found.method, found.direction, head)
    health = set_health(store, first)
    context: dict[str, Any] = {
        "verdict": found,
        "unfinished": unfinished(root, str(rows["suite"][0])),
        "figures": {
            kind: [figure for figure in figures if figure.kind == kind]
            for kind in dict.fromkeys(figure.kind for figure in figures)
        },
        "files": files,
        "others": others,
        "numeric": NUMERIC,
        "published": None if published is None else published_lines(published),
        "learners": learner_lines(few_shot_table(root, rows)),
        "health": health,
        "ambiguous": ambiguous_names(store, first),
        "screen": screen,
        "gallery": looked,
        "doses": dose_lines(doses),
        "lines": result_lines(table),
        **_tables(METHOD if found is None else found.method, table, comparisons, figures, health),
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
    html = render("page.html", context)
    if len(html.encode("utf-8")) > MAX_PAGE_BYTES:
        raise BenchError(
            f"The page would have {len(html) / 2**20:.1f} MiB; at most "
            f"{MAX_PAGE_BYTES / 2**20:.0f} are written. Extract smaller thumbnails."
        )
    return Page(html, tuple(figures), found, screen)


def _tables(
    shown: str,
    table: pl.DataFrame,
    comparisons: pl.DataFrame,
    figures: Sequence[Figure],
    health: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the tables of the page, their headings, and the methods to switch between."""
    tables = grids(whole_heads(table), bold_cells(comparisons, metric_columns(table)))
    paired = [one for one in tables if not one.by_metric]
    alone = [one for one in tables if one.by_metric]
    methods = _methods(shown, figures, tables)
    places = {name: place for place, name in enumerate(methods)}
    fitted = dict(table.select("n_pairs", "n_images_fitted").iter_rows())
    parts = (pl.col("comparison") == "over-parts") & pl.col("metric").is_in(["top-1", "R@1"])
    return {
        "methods": [{"name": name, "title": method_title(name)} for name in methods],
        "places": places,
        "findings": _findings(comparisons, health),
        "of_method": {
            place: _of_method(name, comparisons) for name, place in (places or {shown: 0}).items()
        },
        "paired": paired,
        "tasks": {(one.direction, one.eval): place for place, one in enumerate(paired)},
        "alone": alone,
        "parts": gain_rows(comparisons.filter(parts), fitted),
        "family": gain_rows(comparisons.filter(pl.col("family").is_not_null()), fitted),
        "comparisons": gain_rows(comparisons, fitted),
    }


def _methods(shown: str, figures: Sequence[Figure], tables: Sequence[Grid]) -> list[str]:
    """Return the methods that a reader can switch between, that of the verdict first."""
    drawn = {figure.method for figure in figures if figure.kind == "accuracy_by_pairs"}
    controlled = {line.method for grid in tables for line in grid.lines if line.control}
    listed_first = [line.method for grid in tables for line in grid.lines]
    every = dict.fromkeys([shown, *listed_first, *sorted(drawn)])
    return [name for name in every if name in drawn | controlled]


def _findings(comparisons: pl.DataFrame, health: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return headings that say what the data say, or a topic where they say nothing.

    Parameters
    ----------
    comparisons : DataFrame
        Of `bench.comparisons.compare`.
    health : sequence of dict
        Of `set_health`.
    """
    family = comparisons.filter(pl.col("family").is_not_null())
    held, more = _held(family)
    headings = {
        "family": f"{held} comparisons that were named beforehand hold after correction{more}",
        "health": "The store no longer holds the revisions that were scored",
    }
    if health:
        zero = [one["role"] for one in health if one["norms"] and one["norms"]["zero"]]
        faults = {
            "failed items": [one["role"] for one in health if one["failures"]],
            "zero embeddings": zero,
        }
        named = [f"{what} among the {listed(of, shown=5)}" for what, of in faults.items() if of]
        headings["health"] = (
            f"The data have {' and '.join(named)}"
            if named
            else "No item of the data failed, and no embedding is zero"
        )
    return headings


def _held(family: pl.DataFrame) -> tuple[str, str]:
    """Return how many of some primary comparisons hold, and how many more for these draws only."""
    gains = family.filter((pl.col("p_holm") < LEVEL) & (pl.col("difference") > 0))
    held = gains.filter("bold").height
    more = gains.height - held
    return f"{held} of {family.height}", f", and {more} more for these draws only" if more else ""


def _of_method(method: str, comparisons: pl.DataFrame) -> dict[str, str]:
    """Return the headings of the tables that show one method.

    Parameters
    ----------
    method : str
    comparisons : DataFrame
        Of `bench.comparisons.compare`.
    """
    title = method_title(method)
    headings = {
        "alone": f"{title}: the head beside its controls, without real pairs",
        "parts": f"{title}: no comparison with the better of the two was named beforehand",
    }
    parts = comparisons.filter(
        pl.col("family").is_not_null()
        & (pl.col("comparison") == "over-parts")
        & (pl.col("method") == method)
    )
    if parts.height:
        held, more = _held(parts)
        headings["parts"] = (
            f"{title}, head and pairs together over the better of the two: shown after correction "
            f"at {held} numbers of pairs{more}"
        )
    return headings


def curves(table: pl.DataFrame, comparisons: pl.DataFrame) -> list[Figure]:
    """Return the accuracy by number of pairs of every method that has some.

    The verdict's method comes first, the others in the order of `bench.tables.result_table`.
    """
    methods = dict.fromkeys([METHOD, *table["method"]])
    drawn = (pairs_figure(table, comparisons, method) for method in methods)
    return [figure for figure in drawn if figure is not None]


def render(name: str, context: Mapping[str, Any]) -> str:
    """Return a page of this package, with the style sheet and the script that all pages share."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    script = resource("table.js")
    shared = {
        "csp": _policy(script), "style": resource("style.css"), "script": script,
        "light": css_variables("light"), "dark": css_variables("dark"),
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
        "short": "{:.3g}".format,
    }
    return environment.get_template(name).render(shared | {**context})


def resource(name: str) -> str:
    """Return a file of this package: a template, a sheet or a script."""
    return resources.files("bench.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _require_packages() -> None:
    """Before any work: they are imported where they are used."""
    with needs_extra("The report"):
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401


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
