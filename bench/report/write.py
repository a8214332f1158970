"""Assemble the page and write it with its figures, or write nothing."""

from __future__ import annotations

import base64
import hashlib
import platform
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import METHOD_NAMES
from bench.comparisons import compare
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.report.canvas import Figure
from bench.report.choice import one_choice
from bench.report.figures import gain_figure, pairs_figure
from bench.report.gallery import COUNTS, Gallery, Words, gallery, read_words
from bench.report.geometry import Geometry, ambiguous_pairs, geometry
from bench.report.geometry_figures import figures_of
from bench.report.grids import choice_rows, gain_rows, grids
from bench.report.health import ROLES, SHOWN, ambiguous_names, set_health
from bench.report.mixing import mixing_figure
from bench.report.theme import css_variables, file_svg, page_svg
from bench.report.verdict import METHOD, Verdict, verdict
from bench.results import read_results, read_sessions
from bench.series import only_series
from bench.suites.paper import published_table
from bench.tables import comma_separated, published_lines, result_lines, result_table
from featstore.errors import needs_extra
from featstore.store.files import write_file
from featstore.store.opening import open_store
from featstore.store.store import FeatureStore

#: A page above this size is refused: something that is no thumbnail was embedded.
MAX_PAGE_BYTES = 5 * 2**20

DIRECTIONS = ("image→name", "caption→image")


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes
    ----------
    page : Path
    files : tuple of Path
        Figures as SVG, and their numbers as CSV.
    answer : str
        The verdict's sentence, or empty.
    """

    page: Path
    files: tuple[Path, ...]
    answer: str


def write_report(
    results: Path,
    *,
    store: Path | str,
    out: Path,
    suite: str | None = None,
    images: str | None = None,
    command: str = "",
) -> Written:
    """Write the report of a results folder.

    Parameters
    ----------
    results : Path
        Folder of `bench run`.
    store : path or address
        The store that the runs read: texts, thumbnails, the geometry of head rows and names, and
        the health of the data come from it.
    out : Path
        The HTML file. Figures go beside it, into ``<stem>_files/``.
    suite : str, optional
        Which suite, if the folder holds several.
    images : str, optional
        Which set of images, if the suite scored several; see `bench.report.choice`.
    command : str
        What was typed to get this report; shown in it.

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
    """
    _require_packages()
    rows = only_series(results, read_results(results), suite=suite)
    opened = open_store(store)
    page = build_page(results, rows, opened, images=images, command=command)
    folder = out.parent / f"{out.stem}_files"
    files = []
    for figure in page.figures:
        for ending, text in (
            (".svg", file_svg(figure.svg)),
            (".csv", comma_separated(figure.data)),
        ):
            path = folder / f"{figure.name}{ending}"
            write_file(path, [text.encode("utf-8")])
            files.append(path)
    write_file(out, [page.html.encode("utf-8")])
    return Written(out, tuple(files), page.verdict.answer if page.verdict else "")


@dataclass(frozen=True)
class Page:
    """The finished page.

    Attributes
    ----------
    html : str
    figures : tuple of Figure
    verdict : Verdict, optional
    """

    html: str
    figures: tuple[Figure, ...]
    verdict: Verdict | None


def build_page(
    root: Path, rows: pl.DataFrame, store: FeatureStore, *, images: str | None = None, command: str
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
    command : str
    """
    published = published_table(rows) if rows["suite"][0] == "paper" else None
    rows, others = one_choice(rows, images)
    table = result_table(rows)
    comparisons = compare(root, rows)
    found = verdict(comparisons, table)
    figures: dict[str, Figure] = {}
    if found is not None and not found.gains.is_empty():
        figures["gain"] = gain_figure(found.gains, found.sources)
    curves = []
    for method in dict.fromkeys([METHOD, *METHOD_NAMES]):
        figure = pairs_figure(table, method)
        if figure is not None:
            figures[figure.name] = figure
            curves.append({"name": figure.name, "method": METHOD_NAMES[method]})
    mixing = _mixing(root, rows)
    if mixing is not None:
        figures[mixing.name] = mixing
    fitted = {row["n_pairs"]: row["n_images_fitted"] for row in table.iter_rows(named=True)}
    first = rows.row(0, named=True)
    words = read_words(store, first)
    seen = _geometry(store, rows)
    figures |= {figure.name: figure for figure in figures_of(seen, words.describe)}
    galleries = [g for g in (gallery(root, rows, words, d) for d in DIRECTIONS) if g is not None]
    script = _resource("table.js")
    main_gains = (pl.col("comparison") == "over-parts") & pl.col("metric").is_in(["top-1", "R@1"])
    context: dict[str, Any] = {
        "csp": _policy(script),
        "style": _resource("style.css"),
        "light": css_variables("light"),
        "dark": css_variables("dark"),
        "script": script,
        "verdict": found,
        "figures": {
            name: page_svg(figure.svg, prefix=f"f{place}", title=figure.title)
            for place, (name, figure) in enumerate(figures.items())
        },
        "curves": curves,
        "others": others,
        "numeric": {"K", "ours", "theirs", "seeds", "gallery", "ours \N{MINUS SIGN} theirs"},
        "published": None if published is None else published_lines(published),
        "mixing": "" if mixing is None else mixing.name,
        "health": set_health(store, first),
        "ambiguous": ambiguous_names(store, first),
        "nearest": _nearest(seen, words),
        "grids": grids(table),
        "gains": gain_rows(comparisons.filter(main_gains), fitted),
        "all_gains": gain_rows(comparisons.filter(~main_gains), fitted),
        "galleries": galleries,
        "kinds": _kinds(galleries),
        "lines": result_lines(table),
        "choices": choice_rows(rows),
        "metrics": METRICS,
        "sets": _sets(first),
        "facts": _facts(rows, first),
        "sessions": read_sessions(root),
        "command": command,
        "note": str(store.info(first["image_set"]).attributes["facts"].get("note", "")),
    }
    html = _render(context)
    if len(html.encode("utf-8")) > MAX_PAGE_BYTES:
        msg = (
            f"The page would have {len(html) / 2**20:.1f} MiB; at most "
            f"{MAX_PAGE_BYTES / 2**20:.0f} are written. Extract smaller thumbnails."
        )
        raise BenchError(msg)
    return Page(html, tuple(figures.values()), found)


def _mixing(root: Path, rows: pl.DataFrame) -> Figure | None:
    """Return the mixing curve of these rows, or of the sweep of the same images in the folder."""
    own = mixing_figure(rows)
    every = read_results(root)
    if own is not None or "sweep" not in set(every["suite"]):
        return own
    sweep = only_series(root, every, suite="sweep")
    revision = rows["image_revision"][0]
    return mixing_figure(sweep.filter(pl.col("image_revision") == revision))


def _geometry(store: FeatureStore, rows: pl.DataFrame) -> Geometry | None:
    """Return the geometry behind the first run of the verdict's method on head weights alone."""
    own = rows.filter(
        (pl.col("method") == METHOD) & (pl.col("source") == "head") & (pl.col("n_pairs") == "0")
    ).sort(pl.col("eval") != "all-names", "seed", maintain_order=True)
    return None if own.is_empty() else geometry(store, own.row(0, named=True))


def _nearest(seen: Geometry | None, words: Words) -> list[tuple[str, str, str]]:
    if seen is None:
        return []
    ids = seen.head.ids
    found = ambiguous_pairs(seen.names, seen.head.groups, SHOWN)
    return [(words.describe(ids[i]), words.describe(ids[j]), f"{c:.2f}") for i, j, c in found]


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    # Everything is escaped but the sheet, the script and the drawings, which come from here.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["spaced"] = lambda text: text.replace("→", " → ")
    return environment.from_string(_resource("page.html")).render(context)


def _resource(name: str) -> str:
    return resources.files("bench.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _require_packages() -> None:
    """Before any work: both are imported where they are used."""
    with needs_extra("The report"):
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401


def _kinds(galleries: list[Gallery]) -> list[dict[str, str]]:
    names = {
        "far": "far off (rank 6 and beyond)",
        "near": "near misses (rank 2 to 5)",
        "found": "found (rank 1)",
    }
    present = {card.kind for shown in galleries for card in shown.cards}
    return [{"kind": kind, "name": names[kind]} for kind in COUNTS if kind in present]


def _sets(row: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"role": label, "key": row[f"{role}_set"], "revision": row[f"{role}_revision"]}
        for role, label in ROLES.items()
        if row[f"{role}_set"]
    ]


def _facts(rows: pl.DataFrame, first: dict[str, Any]) -> list[tuple[str, str]]:
    packages = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr", "matplotlib")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [
        ("suite", str(first["suite"])),
        ("runs", f"{rows['run_id'].n_unique():,} in {rows.height:,} rows"),
        ("class text", f"variants {first['variants']}; templates {first['templates']}"),
        ("captions", first["locales"] or "all locales"),
        ("limit", "none" if first["limit"] is None else f"first {first['limit']:,} images"),
        ("metric version", str(first["metric_version"])),
        ("protocol version", str(first["protocol_version"])),
        ("report drawn with", f"Python {platform.python_version()}; {', '.join(versions)}"),
    ]
