"""Result tables: one row a cell with mean ± sd over draws, and one row a paired gain.

A mean is over all queries of all draws, here and in every comparison: a draw counts by its queries.

Every row says how large its gallery is and what chance gives there: numbers of different
galleries do not compare.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median_high
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from bench.cells import (
    ARENA,
    CELL,
    CONTROLS,
    HEAD_PARTS,
    Cell,
    in_order,
    mean_over_queries,
    method_title,
    own_metrics,
    pairs_order,
    read_cells,
    set_name,
    source_name,
)
from bench.metrics.confidence import Calibration, calibration
from bench.metrics.summary import CONFIDENCE_METRICS, metric_named
from bench.results import CHOSEN, RUN_COLUMNS, read_ranks
from bench.runs import FIT_SETTINGS
from bench.statistics import two_term
from featstore.command_line import count
from featstore.terminal import TextTable, are_numbers, best, dim

#: Accuracy where the head has the name of the image's class, and where it lacks it.
BY_NAME = ("seen", "unseen")

#: Metrics that a table shows, in this order, where a task has them.
SHOWN = (
    "top-1", *BY_NAME, "top-5", "top-10", "R@1", "R@5", "R@10", "median_rank", "MRR", "mAP",
)  # fmt: skip

#: Metrics that a table also shows if it has runs of task ``generalised``.
SHOWN_GENERALISED = ("balanced-accuracy", *BY_NAME, "harmonic")

#: As typeset; CSV and JSON hold plain numbers.
MINUS = "\N{MINUS SIGN}"


def with_generalised(results: pl.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return the metrics, behind those of generalised zero-shot where runs of it are there.

    Those of tasks of one's own follow.
    """
    own = SHOWN_GENERALISED if "generalised" in set(results["task"]) else ()
    return list(dict.fromkeys([*own, *metrics, *own_metrics(results)]))


def result_table(results: pl.DataFrame, metrics: Sequence[str] | None = None) -> pl.DataFrame:
    """Return one row per cell: columns ``<metric>`` and ``<metric>_sd`` over its runs.

    Metrics are those given, or `SHOWN` and `SHOWN_GENERALISED`, in this order.

    Columns before them: those of `bench.cells.CELL`, n_images_fitted (mean), n_seeds, gallery
    (mean), image_mean, seen_share (of the queries, those whose class the head has), and chosen (the
    settings that were chosen from the training data). A row with method ``"chance"`` is in every
    arena (`bench.cells.ARENA`). sd is null for a single run.
    """
    wanted = with_generalised(results, SHOWN) if metrics is None else metrics
    present = [metric for metric in wanted if metric in set(results["metric"])]
    own = results.filter(pl.col("metric").is_in(present))
    cells = own.group_by([*CELL, "metric"], maintain_order=True).agg(
        pl.col("n_images_fitted").mean(),
        pl.col("image_mean").first(),
        mean_over_queries("gallery"),
        mean_over_queries("seen_share"),
        n_seeds=pl.col("seed").n_unique(),
        mean=mean_over_queries("value"),
        sd=pl.col("value").std(ddof=1),
    )
    once = own.unique([*ARENA, "seed", "metric"], maintain_order=True)
    chance = once.group_by([*ARENA, "metric"], maintain_order=True).agg(
        mean_over_queries("gallery"),
        mean_over_queries("seen_share"),
        n_seeds=pl.col("seed").n_unique(),
        mean=mean_over_queries("chance"),
    )
    nothing = {"method": "chance", "source": "", "n_pairs": "0", "image_mean": ""}
    chance = chance.with_columns(**{name: pl.lit(value) for name, value in nothing.items()})
    both = pl.concat([cells.clear(), chance, cells], how="diagonal")
    texts = chosen_settings(results, CELL)
    chosen = [_chosen_text(row) for row in texts.iter_rows(named=True)]
    both = both.join(
        texts.select(CELL).with_columns(pl.Series("chosen", chosen, pl.String)), on=CELL,
        how="left", nulls_equal=True, maintain_order="left",
    )  # fmt: skip
    index = [*CELL, "n_images_fitted", "n_seeds", "gallery", "image_mean", "seen_share", "chosen"]
    wide = both.pivot(on="metric", index=index, values=["mean", "sd"], maintain_order=True)
    values = {
        f"{metric}{end}": f"{of}_{metric}"
        for metric in present for of, end in (("mean", ""), ("sd", "_sd"))
    }  # fmt: skip
    return in_order(wide.select(*index, **values))


def chosen_settings(results: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return the settings that the runs of each cell chose from their training data.

    Parameters
    ----------
    results : DataFrame
    keys : sequence of str
        Columns that tell cells apart.

    Returns
    -------
    DataFrame
        One row a cell: `keys`, ``<setting>_chosen`` as text for each of `bench.results.CHOSEN`
        (the upper median, and the range where runs differ; empty where nothing was chosen), and
        ``edges``, which says how many runs chose the end of a grid; ``flat``, how many on a surface
        that is flat (`fitters.select.Surface.flat`).
    """
    fits = results.unique([*keys, "seed", "control_draw"], maintain_order=True)
    auto = {name: pl.col(name).cast(pl.String) == "auto" for name in CHOSEN}
    cells = fits.group_by(keys, maintain_order=True).agg(
        *(pl.col(f"{name}_chosen").filter(auto[name]).drop_nulls().sort() for name in CHOSEN),
        *(pl.col(f"{name}_at_edge").filter(auto[name]).sum() for name in CHOSEN),
        pl.col("flat_choice").sum(),
        pl.len().alias("n"),
    )
    texts = [
        {
            **{key: row[key] for key in keys},
            **{f"{name}_chosen": _range_text(row[f"{name}_chosen"]) for name in CHOSEN},
            "edges": ", ".join(
                f"{name} {row[f'{name}_at_edge']} of {row['n']}"
                for name in CHOSEN
                if row[f"{name}_at_edge"]
            ),
            "flat": f"{row['flat_choice']} of {row['n']}" if row["flat_choice"] else "",
        }
        for row in cells.iter_rows(named=True)
    ]
    words: dict[str, Any] = dict.fromkeys(
        (*map("{}_chosen".format, CHOSEN), "edges", "flat"), pl.String
    )
    return pl.DataFrame(texts, words | {key: results.schema[key] for key in keys})


def _range_text(values: Sequence[float]) -> str:
    """Return the upper median of sorted values, one of them, and their range if they differ."""
    if not values:
        return ""
    middle = f"{median_high(values):.3g}"
    if values[0] == values[-1]:
        return middle
    return f"{middle} ({values[0]:.3g} to {values[-1]:.3g})"


def _chosen_text(row: Row) -> str:
    values = {name: row[f"{name}_chosen"] for name in CHOSEN}
    found = ", ".join(f"{name} {value}" for name, value in values.items() if value)
    found += f"; at an edge: {row['edges']}" if row["edges"] else ""
    return found + (f"; flat: {row['flat']}" if row["flat"] else "")


class Table(NamedTuple):
    """A table as text.

    Attributes
    ----------
    headings : list of str
    lines : list of list of str
        One cell a heading; bold text is between ``**``, or `featstore.terminal.best`.
    """

    headings: list[str]
    lines: list[list[str]]

    @classmethod
    def of(
        cls, rows: pl.DataFrame, columns: Sequence[Column], *, optional: Collection[str] = ()
    ) -> Table:
        """Return the table of these rows, a heading and what makes the cell of a row a column.

        Optional columns are left out where all their cells are empty.
        """
        every = rows.to_dicts()
        made = [(heading, [cell(row) for row in every]) for heading, cell in columns]
        kept = [(name, cells) for name, cells in made if name not in optional or any(cells)]
        lines = zip(*(cells for _, cells in kept), strict=True)
        return cls([name for name, _ in kept], [*map(list, lines)])

    def text(self, form: str) -> str:
        """Return the table as ``"md"`` (Markdown), ``"latex"`` or plain text."""
        forms = {"md": markdown, "latex": latex}
        return forms[form](*self) if form in forms else self.plain.text()

    def csv(self) -> str:
        """Return the table as CSV, its cells as they are shown."""
        return comma_separated(pl.DataFrame(self.lines, self.headings, orient="row"))

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are set to the right."""
        return are_numbers(self.lines, len(self.headings))

    @property
    def plain(self) -> TextTable:
        """The table as a terminal shows it."""
        return TextTable(*self, ruled=True)


class Axis(NamedTuple):
    """An axis that intervals of a column are drawn on, each in a cell."""

    low: float
    high: float

    def at(self, value: float | None, end: float) -> float:
        """Return a place, in percent of the axis; what is not known or infinite is at its end."""
        place = end if value is None or math.isinf(value) else value
        return round(100 * (place - self.low) / ((self.high - self.low) or 1.0), 2)

    def bar(self, low: float | None, mean: float, high: float | None) -> dict[str, float]:
        """Return where an interval begins, how wide it is, and where zero and its mean are."""
        begins, ends = self.at(low, self.low), self.at(high, self.high)
        width = round(ends - begins, 2)
        return {"zero": self.at(0.0, 0), "low": begins, "width": width, "mean": self.at(mean, 0)}


Row: TypeAlias = dict[str, Any]
Column: TypeAlias = tuple[str, Callable[[Row], str]]


def result_lines(table: pl.DataFrame, bold: Collection[tuple[Any, ...]] = ()) -> Table:
    """Return a result table as text: percent, mean ± sd.

    A mean without ± comes from a single run: nothing in it is drawn. Encoders, heads, shots,
    penalties and mixing weights have a column each where the table holds more than one.

    Parameters
    ----------
    table : DataFrame
        Of `result_table`.
    bold : collection of (metric, cell)
        Of `bench.comparisons.bold_cells`: their values are marked with ``**``.
    """
    metrics = metric_columns(table)
    levels = {
        tuple(row[name] for name in ARENA): row
        for row in table.filter(method="chance").iter_rows(named=True)
    }

    def chance(row: Row) -> str:
        own = [metric for metric in metrics if row[metric] is not None]
        level = levels[tuple(row[name] for name in ARENA)]
        return value_text(own[0], level[own[0]]) if own else ""

    def value(metric: str, row: Row) -> str:
        text = value_text(metric, row[metric], row[f"{metric}_sd"])
        return f"**{text}**" if (metric, tuple(row[name] for name in CELL)) in bold else text

    def fitted(text: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: "" if row["method"] == "chance" else text(row)

    columns: list[Column] = [
        ("task", itemgetter("direction")),
        ("eval", itemgetter("eval")),
        *extra_columns(table.filter(pl.col("method") != "chance")),
        ("method", _method),
        ("fitted on", fitted(lambda row: source_name(row["source"], row["n_pairs"]))),
        ("K", fitted(lambda row: pairs_text(row["n_pairs"], row["n_images_fitted"]))),
        ("seeds", lambda row: str(row["n_seeds"])),
        ("gallery", lambda row: number_text(row["gallery"], 0)),
        ("chance", chance),
        *((metric_name(metric), partial(value, metric)) for metric in metrics),
        # Last: it is the widest, and the numbers are what a table is read for.
        ("chosen", lambda row: row["chosen"] or ""),
    ]
    return Table.of(table, columns, optional=("chosen",))


def _method(row: Row) -> str:
    return method_title(row["method"])


def metric_columns(table: pl.DataFrame) -> list[str]:
    """Return the metrics of a result table, in its order."""
    return [name for name in table.columns if f"{name}_sd" in table.columns]


#: Columns that are shown only where they vary, and their headings.
EXTRA = {
    "options": "options", "image_set": "images", "name_set": "names",
    "caption_set": "captions", "head_set": "head",
    "pairs_from": "pairs of",
    "head_rows": "head rows",
    "view_set": "views", "layer_sets": "layers",
    "clusters": "clusters", "head_size": "classes", "head_by": "taken by",
    "leave_seen": "without seen",
    **{name: name.removeprefix("n_").replace("_", " ") for name in FIT_SETTINGS},
}  # fmt: skip


def varying(table: pl.DataFrame) -> list[str]:
    """Return the columns of `EXTRA` that hold more than one value.

    Empty ones count as none, but for options, where they are the defaults.
    """
    found = []
    for name in EXTRA:
        if name in table.columns:
            values = set(table[name].cast(pl.String).drop_nulls())
            if len(values if name == "options" else values - {""}) > 1:
                found.append(name)
    return found


def extra_columns(table: pl.DataFrame) -> list[Column]:
    """Return the columns of `EXTRA` that vary in a table."""

    def text(name: str, row: Row) -> str:
        return extra_text(name, row[name])

    return [(EXTRA[name], partial(text, name)) for name in varying(table)]


def extra_text(column: str, value: Any) -> str:
    """Return a value of a column of `EXTRA`: options as they are typed, ``learner=coop``."""
    if column in HEAD_PARTS:
        return "" if value in (None, HEAD_PARTS[column]) else _typed(value)
    if column != "options":
        return set_name(column, value)
    options: dict[str, Any] = json.loads(value) if value else {}
    return " ".join(f"{name}={_typed(option)}" for name, option in options.items())


def _typed(option: Any) -> str:
    if isinstance(option, list):
        return ",".join(map(str, option))
    return str(option).lower() if isinstance(option, bool) else str(option)


class Summary(NamedTuple):
    """One metric of one arena, as a table of method × K that fits a screen.

    Attributes
    ----------
    sentence : str
        What the head alone reaches, beside its controls; empty without a head.
    caption : str
        What the numbers are.
    table : Table
        Values that win are `featstore.terminal.best`; lines of controls are dim.
    left_out : int
        Lines that were left out.
    """

    sentence: str
    caption: str
    table: Table
    left_out: int


#: Lines of a summary below its headings, and its columns of text, at most.
SUMMARY_LINES, SUMMARY_WIDTH = 14, 100


def summary(table: pl.DataFrame, bold: Collection[tuple[Any, ...]] = ()) -> Summary:
    """Return the first metric of the arena that has the most levels of K.

    Methods are in the order of their best value, the head before the rest, controls last. A value
    that wins its primary comparisons (`bench.comparisons.bold_cells`) has a ``*``.

    Parameters
    ----------
    table : DataFrame
        Of `result_table`.
    bold : collection of (metric, cell)
    """
    arenas = table.partition_by(ARENA, maintain_order=True)
    arena = max(arenas, key=lambda one: one["n_pairs"].n_unique())
    metric = next(name for name in metric_columns(arena) if arena[name].null_count() < arena.height)
    arena = arena.filter(pl.col(metric).is_not_null())
    level = arena.row(0, named=True)[metric] if arena["method"][0] == "chance" else None
    cells = arena.filter(pl.col("method") != "chance")
    ks = sorted(set(cells["n_pairs"]), key=pairs_order)
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    extra = extra_columns(cells)
    for row in cells.iter_rows(named=True):
        key = (row["method"], row["source"], *(text(row) for _, text in extra))
        lines.setdefault(key, {})[row["n_pairs"]] = row
    shown = _summary_lines(lines, metric)

    def line(key: tuple[str, ...], *, spread: bool) -> list[str]:
        method, source, *settings = key
        label = "real pairs" if source == "none" else source_name(source, "0")
        values = []
        for k in ks:
            row = lines[key].get(k)
            if row is None:
                values.append("")
                continue
            text: str = value_text(metric, row[metric], row[f"{metric}_sd"] if spread else None)
            is_bold = (metric, tuple(row[name] for name in CELL)) in bold
            values.append(best(f"{text}*") if is_bold else text)
        cells = [method_title(method), label, *settings, *values]
        return [*map(dim, cells)] if source in CONTROLS else cells

    sizes = {k: next(own[k] for own in lines.values() if k in own) for k in ks}
    headings = [
        "method", "fitted on", *(heading for heading, _ in extra),
        *(f"K = {pairs_text(k, sizes[k]['n_images_fitted'])}" for k in ks),
    ]  # fmt: skip
    for spread in (True, False):
        found = Table(headings, [line(key, spread=spread) for key in shown])
        if max(map(len, found.text("table").splitlines())) <= SUMMARY_WIDTH:
            break
    first = cells.row(0, named=True)
    caption = (
        f"{first['direction']}, {first['eval']}: {metric_name(metric)}, mean"
        f"{' ± sd' if spread else ''} over {count(max(cells['n_seeds'].to_list()), 'draw')}, among "
        f"{number_text(first['gallery'], 0)} candidates; K real pairs."
    )
    return Summary(_of_the_head(cells, metric, level), caption, found, len(lines) - len(shown))


def _summary_lines(
    lines: Mapping[tuple[str, ...], Mapping[str, Row]], metric: str
) -> list[tuple[str, ...]]:
    """Return the lines that a summary shows, in their order; of too many, the last controls go."""
    sign = 1 if metric_named(metric).higher_is_better else -1
    best: dict[str, float] = {}
    for (method, *_), own in lines.items():
        values = [sign * row[metric] for row in own.values()]
        best[method] = max([best.get(method, -math.inf), *values])

    def place(key: tuple[str, ...]) -> tuple[Any, ...]:
        method, source, *_ = key
        return -best[method], method, source in CONTROLS, source != "head"

    order = sorted(lines, key=place)  # stable
    controls = [key for key in reversed(order) if key[1] in CONTROLS]
    surplus = controls[: max(0, len(order) - SUMMARY_LINES)]
    return [key for key in order if key not in surplus][:SUMMARY_LINES]


def _of_the_head(cells: pl.DataFrame, metric: str, level: float | None) -> str:
    """Return what head weights alone reach, in a sentence."""
    alone = cells.filter(n_pairs="0")
    heads = alone.filter(source="head").sort(metric, descending=True)
    if heads.is_empty() or not metric_named(metric).higher_is_better:
        return ""
    best = heads.unique("method", keep="first", maintain_order=True).head(3)
    reached = [
        f"{with_unit(metric, row[metric])} ({method_title(row['method'])})"
        for row in best.iter_rows(named=True)
    ]
    control = max(alone.filter(pl.col("source").is_in(CONTROLS))[metric].to_list(), default=None)
    beside = [
        f"{name} {with_unit(metric, value)}"
        for name, value in (("the best control", control), ("chance", level))
        if value is not None
    ]
    return (
        f"Head weights alone, without a real pair, reach {metric} {', '.join(reached)} among "
        f"{number_text(best['gallery'][0], 0)} candidates{'; ' if beside else ''}"
        f"{', '.join(beside)}."
    )


def gain_lines(gains: pl.DataFrame) -> Table:
    """Return a table of comparisons as text: percentage points.

    Every line has both means ± sd over draws, the absolute and the relative gain, the interval and
    what it is about, p and, for the primary comparisons, p corrected by Holm and the size of their
    family; then what n is, the two parts of the standard error, the gallery and chance. A primary
    difference that holds is marked with ``**``.
    """
    columns: list[Column] = [
        ("task", itemgetter("direction")),
        ("eval", itemgetter("eval")),
        ("metric", lambda row: metric_name(row["metric"])),
        # Sides say which part of a head they are of.
        *extra_columns(gains.drop(list(HEAD_PARTS), strict=False)),
        ("method", _method),
        ("a", itemgetter("side_a")),
        ("b", itemgetter("side_b")),
        ("a %", lambda row: value_text(row["metric"], row["a"], row["a_sd"])),
        ("b %", lambda row: value_text(row["metric"], row["b"], row["b_sd"])),
        (f"a {MINUS} b, points", _difference),
        ("relative", lambda row: relative_text(row["relative"])),
        ("95 % interval", lambda row: interval_text(row["low"], row["high"])),
        ("p", side_p),
        ("p, Holm", lambda row: p_text(row["p_holm"])),
        ("family", lambda row: "exploratory" if row["family"] is None else f"of {row['family']}"),
        ("test", lambda row: row["test"] or ""),
        ("for", itemgetter("population")),
        ("rank", _rank),
        ("best control", lambda row: value_text(row["metric"], row["control_best"])),
        ("draws", lambda row: str(row["n_seeds"])),
        ("clusters", lambda row: f"{row['n_clusters']:,}"),
        ("queries", lambda row: f"{row['n_queries']:,}"),
        ("s.e. draws", lambda row: value_text("top-1", row["draw_error"])),
        ("s.e. clusters", lambda row: value_text("top-1", row["cluster_error"])),
        ("s.e. controls", lambda row: value_text("top-1", row["control_error"])),
        ("df", lambda row: number_text(row["df"], 0)),
        ("f", lambda row: "" if row["overlap"] is None else f"{row['overlap']:.2f}"),
        ("gallery", lambda row: number_text(row["gallery"], 0)),
        ("chance", lambda row: value_text(row["metric"], row["chance"])),
    ]
    return Table.of(gains, columns, optional=("rank", "best control", "s.e. controls"))


def side_p(row: Row) -> str:
    """Return p as it is; of a head below its control, one-sided, that it is below."""
    if row["p"] is not None and row["p_below"] is not None and row["difference"] < 0:
        return f"{p_text(row['p_below'])} (below)"
    return p_text(row["p"])


def _difference(row: Row) -> str:
    text = signed_text(row["difference"], row["difference_sd"])
    return f"**{text}**" if row["bold"] else text


def _rank(row: Row) -> str:
    """Return the rank of a head among its control draws."""
    rank = row["control_rank"]
    return "" if rank is None else f"{rank} of {row['n_controls'] + 1}"


#: How the kinds of published numbers are called.
def value_column(name: str) -> Column:
    """Return the column of a metric by the name of its values."""
    return metric_name(name), lambda row: value_text(name, row[name])


_NUMBERS = ("top-1", "confidence", "ECE", "calibration-error", "low", "high", "AURC", "AUROC",
            "AUROC_low", "AUROC_high", "temperature")  # fmt: skip

CONFIDENCE: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    **{name: RUN_COLUMNS[name] for name in ("method", "source", "n_pairs")},
    "learner": pl.String,
    "shots": pl.Int64,
    **dict.fromkeys(_NUMBERS, pl.Float64),
    "n_draws": pl.Int64,
}


def confidence_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row a cell that was scored with confidence: schema `CONFIDENCE`.

    A row has the calibration error over all images of all draws, its interval over clusters (the
    draws are held fixed), and AUROC with the interval over draws and clusters of every mean.

    Parameters
    ----------
    root : Path
        The results folder; ranks are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one series.
    """
    scored = results.filter(metric="AUROC").select("run_id", "direction")
    own = results.join(scored, on=["run_id", "direction"], how="semi", maintain_order="left")
    rows = [_confidence_row(cell, own) for cell in read_cells(root, own)]
    return in_order(pl.DataFrame(rows, schema=CONFIDENCE))


def calibration_of(cell: Cell) -> tuple[Calibration, pl.DataFrame]:
    """Return the calibration of all runs of a cell, and each image's confidence, right, cluster."""
    place = sorted(CONFIDENCE_METRICS).index("confidence")
    direction = cell.arena[ARENA.index("direction")]
    images = read_ranks(cell.root, cell.run_ids).filter(direction=direction)
    images = images.select(
        "cluster_id", confidence=pl.col("own").list.get(place), right=pl.col("rank") == 1
    )
    columns = (images[name].to_numpy() for name in ("confidence", "right", "cluster_id"))
    return calibration(*columns), images


def _confidence_row(cell: Cell, results: pl.DataFrame) -> dict[str, Any]:
    runs = results.filter(pl.col("run_id").is_in(cell.run_ids))
    first, error = runs.row(0, named=True), calibration_of(cell)[0]
    rejection = two_term(cell.runs("AUROC"))
    low, high = rejection.interval()
    return {
        **{name: first[name] for name in CONFIDENCE if name in first},
        "top-1": cell.mean("top-1"), "confidence": cell.mean("confidence"), "ECE": error.raw,
        "calibration-error": error.error, "low": error.low, "high": error.high,
        "AURC": cell.mean("AURC"), "AUROC": rejection.mean, "AUROC_low": low, "AUROC_high": high,
        "temperature": runs["temperature"].mean(), "n_draws": len(cell.run_ids),
    }  # fmt: skip


def confidence_lines(table: pl.DataFrame) -> Table:
    """Return the rows of `confidence_table` as text, percent."""

    def between(low: str, high: str) -> Column:
        text = lambda row: interval_text(row[low], row[high]).replace("+", "")  # noqa: E731
        return "95 % interval", text

    columns: list[Column] = [
        ("eval", itemgetter("eval")),
        ("method", lambda row: row["learner"] or _method(row)),
        ("fitted on", lambda row: source_name(row["source"], row["n_pairs"])),
        ("K", lambda row: row["n_pairs"] if row["shots"] is None else f"{row['shots']} shots"),
        *map(value_column, ("top-1", "confidence", "ECE", "calibration-error")),
        between("low", "high"),
        *map(value_column, ("AURC", "AUROC")),
        between("AUROC_low", "AUROC_high"),
        ("draws", lambda row: str(row["n_draws"])),
    ]
    return Table.of(table, columns)


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, columns padded so that it reads as plain text too."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [headings, *lines]]
    widths = [max(len(line[i]) for line in escaped) for i in range(len(headings))]
    rows = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in escaped
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]]) + "\n"


def latex(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a LaTeX tabular for the booktabs package; ``**x**`` becomes bold, the rest is text."""
    table = [[_latex_cell(cell) for cell in line] for line in [headings, *lines]]
    columns = "".join("r" if right else "l" for right in are_numbers(lines, len(headings)))
    rows = [" & ".join(line) + r" \\" for line in table]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule", *rows[1:],
            r"\bottomrule", r"\end{tabular}", "",
        ]
    )  # fmt: skip


_LATEX = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
        "±": r"$\pm$", MINUS: "$-$", "→": r"$\to$", "↔": r"$\leftrightarrow$", "≤": r"$\leq$",
        "×": r"$\times$", "<": r"\textless{}", ">": r"\textgreater{}", "–": "--",
    }
)  # fmt: skip


def _latex_cell(cell: str) -> str:
    bold = len(cell) > 4 and cell.startswith("**") and cell.endswith("**")
    text = (cell[2:-2] if bold else cell).translate(_LATEX)
    return rf"\textbf{{{text}}}" if bold else text


def comma_separated(frame: pl.DataFrame) -> str:
    """Return a frame as CSV, numbers unrounded; no text is a formula to a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (frame.columns, *frame.iter_rows()):
        writer.writerow(["" if value is None else _no_formula(value) for value in row])
    return buffer.getvalue()


def _no_formula(value: Any) -> Any:
    """Return a cell as it is, but a text that a spreadsheet would run with a quote before it."""
    if not isinstance(value, str):
        return value
    # Bare, a carriage return ends a row: the csv module quotes it from Python 3.13 on.
    text = value.replace("\r", "\\r")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def metric_name(metric: str) -> str:
    """Return the heading of a metric, with its unit."""
    return f"{metric} %" if metric_named(metric).percent else metric.replace("_", " ")


def value_text(metric: str, value: float | None, sd: float | None = None) -> str:
    """Return a value as percent with one decimal, and ± sd if given; whole ranks without one.

    What one decimal would call nothing has one digit that counts: the chance of 3,000 names is
    0.03 %.
    """
    if value is None:
        return ""
    known = metric_named(metric)
    scale = 100.0 if known.percent else 1.0
    form = ".1f" if known.percent or known.values else ".4f"
    texts = [_decimal(scale * each, form) for each in (value, sd) if each is not None]
    if known.pool == "median" and all(text.endswith(".0") for text in texts):
        texts = [text.removesuffix(".0") for text in texts]
    return " ± ".join(texts)


def with_unit(metric: str, value: float) -> str:
    """Return a value for a sentence: a share with its percent sign, a rank or another as it is."""
    return value_text(metric, value) + " %" * metric_name(metric).endswith(" %")


def _decimal(value: float, form: str = ".1f") -> str:
    """Return a number with one decimal, whichever way its last bits were summed."""
    # 29.649999999 and 29.65 are the same mean in another order of terms: one text for both.
    value = round(value, 6) + 0.0
    text = format(value, form)
    if form == ".1f" and text == "0.0" and value > 0.0:
        return f"{value:.{math.ceil(-math.log10(value))}f}"
    return text


def signed_text(difference: float, sd: float | None = None) -> str:
    """Return a difference of shares in percentage points with its sign, and ± sd if given."""
    text = _decimal(100.0 * difference, "+.1f").replace("-", MINUS)
    if text[1:] == "0.0":
        text = "0.0"
    return text if sd is None else f"{text} ± {_decimal(100.0 * sd)}"


def relative_text(share: float | None) -> str:
    """Return a relative gain in percent of side b; empty where b is 0."""
    if share is None:
        return ""
    percent = round(100.0 * share)
    return f"{percent:+,d} %".replace("-", MINUS) if percent else "0 %"


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval of shares in percentage points; empty for none."""
    if low is None or high is None:
        return ""
    return f"[{signed_text(low)}, {signed_text(high)}]"


def gain_text(difference: float, low: float | None, high: float | None) -> str:
    """Return a difference with its interval, for a sentence."""
    return f"{signed_text(difference)} points {interval_text(low, high)}"


def p_text(p: float | None) -> str:
    """Return a p-value with two significant digits, below 0.0001 as that."""
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def number_text(value: float | None, digits: int) -> str:
    """Return a number with thousands separators; empty for None or NaN."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.{digits}f}"


def pairs_text(n_pairs: str, n_images: Any, *, short: bool = False) -> str:
    """Return K as it is shown; ``all`` with the mean number of images, in short that alone."""
    if n_pairs != "all" or n_images is None:
        return n_pairs
    return number_text(n_images, 0) if short else f"all ({number_text(n_images, 0)})"
