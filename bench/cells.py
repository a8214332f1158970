"""Cells of a table: runs of one setting over its seeds, in the series they belong to.

One folder may collect several suites, and the same suite before and after a set was extracted
again. Only runs over the same revisions, prompts, limit and definitions compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.code import OWN_CODE
from bench.corpus import FRESH_SPLITS
from bench.errors import NoResultsError
from bench.metrics.summary import CLASS_METRICS, CONFIDENCE_METRICS, METRICS, metric_named
from bench.options import TASKS
from bench.results import SUMMED, read_sums, summed_as
from bench.runs import EVALS, FIT_SETTINGS, IDENTITY, SOURCES
from bench.statistics import DrawSums
from featstore.identity import SHORT, canonical_json, sha256_hex
from fitters.errors import check_names
from fitters.methods import METHODS

#: Which classes of a head are prototypes, and how like each other names are that were shuffled.
HEAD_PARTS = {"clusters": 0, "head_size": 0, "head_by": "random", "leave_seen": False}

#: Where a comparison is fair: same question, same galleries, same encoders.
ARENA = ["task", "eval", "options", "direction", "image_set", "name_set", "caption_set"]

#: What tells cells of one method, source and K apart, where a suite or a sweep varies it.
SETTINGS = [
    "head_set",
    "pairs_from",
    "head_rows",
    "view_set",
    "layer_sets",
    *HEAD_PARTS,
    *FIT_SETTINGS,
]

#: What makes two runs the same cell. Everything else is the seed or follows from the sets.
CELL = [*ARENA, "method", "source", "n_pairs", *SETTINGS]

DIRECTION_ORDER = [
    "image→name", "unseen image→unseen name", "image→caption", "caption→image",
]  # fmt: skip
#: What a head is compared with: prototypes that carry no class or only its family, more rows of the
#: same pairs, means of the same images.
CONTROLS = tuple(source for source in SOURCES if source not in ("none", "head"))

#: Titles of rows of a table that are not fitted.
_NOT_FITTED = {"chance": "chance", IDENTITY: "the pair itself"}

#: Names of the sources, of prototypes without real pairs beside them, in the order of tables.
SOURCE_NAMES = {
    "none": "real pairs",
    "repeated": "real pairs, repeated",
    "mixup": "real pairs and their mixtures",
    "class-means": "real + their class means",
    "shuffled": "head, names shuffled",
    "random": "random rows",
    "random-cov": "random rows, same covariance",
    "rotated": "head, rotated",
    "shuffled-within": "head, names shuffled within clusters",
    "head": "head weights",
}


def method_title(method: str) -> str:
    """Return what tables and figures call a method: its id, where it has no title here."""
    known = METHODS.get(method)
    return _NOT_FITTED.get(method) or (known.label if known is not None else "") or method


def source_name(source: str, n_pairs: str) -> str:
    """Return what a reader calls the data that a cell was fitted on."""
    name = SOURCE_NAMES.get(source, source)
    if name.startswith("real"):
        return source if n_pairs == "0" else name
    return name if n_pairs == "0" else f"real + {name}"


def part_name(settings: Mapping[str, Any]) -> str:
    """Return which part of a head stands in for it, in words; empty for the whole one."""
    parts = [f"{settings['clusters']} clusters"] if settings.get("clusters") else []
    if settings.get("head_size"):
        by = settings["head_by"]
        parts.append(f"{settings['head_size']} {'' if by == 'random' else f'{by} '}classes")
    if settings.get("leave_seen"):
        parts.append("none that the images have")
    return ", ".join(parts)


def whole_heads(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in which all classes of a head stand, each by its own name or none.

    Rows of an older version of the protocol, which had no others, are among them.
    """
    return frame.filter(
        *(pl.col(name).fill_null(default) == default for name, default in HEAD_PARTS.items())
    )


def set_name(column: str, value: Any) -> str:
    """Return a value of a column that names a set as ``dataset · encoder``, others as text."""
    if value is None:
        return ""
    parts = str(value).split("/")
    if not column.endswith("_set") or len(parts) != 3:
        return str(value)
    return f"{parts[0]} · {parts[2].split('.', 1)[-1].rsplit('-', 1)[0]}"


#: Label sets whose names people write otherwise than a store.
_LABEL_SETS = {
    "imagenet1k": "ImageNet",
    "imagenet12k": "ImageNet-12k",
    "imagenet21k": "ImageNet-21k",
    "imagenet22k": "ImageNet-22k",
}


def label_set_title(name: str) -> str:
    """Return the name of a label set as people write it; one that is not known stays as it is."""
    return _LABEL_SETS.get(name, name)


def pairs_order(n_pairs: str) -> float:
    """Return a number that sorts ``"0" < "16" < … < "all"``, with ``"4/class"`` beside 4."""
    return float("inf") if n_pairs == "all" else float(n_pairs.removesuffix("/class"))


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows sorted as a reader expects: task, eval, direction, method, source, K."""
    keys = []
    closed = [name for name, method in METHODS.built_in.items() if not method.is_trained]
    for column, known in (
        ("task", TASKS.built_in),
        ("eval", EVALS),
        ("options", [""]),
        ("direction", DIRECTION_ORDER),
        # Baselines, the main one, trained ones, a user's own: METHODS begins with the main one.
        ("method", dict.fromkeys([*_NOT_FITTED, *reversed(closed), *METHODS])),
        ("source", SOURCE_NAMES),
    ):
        if column in frame.columns:
            places = {name: place for place, name in enumerate(known)}
            keys.append(
                pl.col(column).replace_strict(places, default=len(known), return_dtype=pl.Int64)
            )
            keys.append(pl.col(column))
    numbers = (name for name in ("clusters", "head_size") if name in frame.columns)
    keys += [pl.col(name).fill_null(0) for name in numbers]
    if "n_pairs" in frame.columns:
        keys.append(pl.col("n_pairs").map_elements(pairs_order, return_dtype=pl.Float64))
    return frame.sort(keys, maintain_order=True)


@dataclass(frozen=True, eq=False)
class Cell:
    """The runs that differ only in their draws, with the sums of every metric.

    Attributes
    ----------
    arena : tuple
        Values of `bench.cells.ARENA`.
    method, source, n_pairs : str
    settings : dict
        The other columns that tell cells apart; see `bench.cells.SETTINGS`.
    draws : tuple of (seed, control draw)
        One a run, sorted. What draws the control is the seed where no other draw is named.
    queries : tuple of str
        Digest of the ids of the queries of every draw.
    run_ids : tuple of str
    clusters : array of str, shape (c,)
        Clusters of all cells of the arena.
    sums : DataFrame
        Columns ``draw`` and ``cluster`` (positions), n_queries and one a metric.
    fitted, pool : float
        Images that a run was fitted on, and those that they were drawn from; NaN if unknown.
    clusters_of : str
        "classes" or "images".
    """

    arena: tuple[Any, ...]
    method: str
    source: str
    n_pairs: str
    settings: dict[str, Any]
    draws: tuple[tuple[int, int], ...]
    queries: tuple[str, ...]
    run_ids: tuple[str, ...]
    clusters: NDArray[Any]
    sums: pl.DataFrame
    fitted: float
    pool: float
    clusters_of: str
    root: Path = field(repr=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Values of `bench.cells.CELL`."""
        own = {"method": self.method, "source": self.source, "n_pairs": self.n_pairs}
        return (*self.arena, *((own | self.settings)[name] for name in CELL[len(ARENA) :]))

    @property
    def name(self) -> str:
        """What a reader calls it."""
        text = source_name(self.source, self.n_pairs)
        if self.n_pairs not in ("0", "all"):
            text = text.replace("real", f"{self.n_pairs} real", 1)
        elif self.n_pairs == "all":
            text = text.replace("real", "all real", 1)
        if part := part_name(self.settings):
            text = f"{text} ({part})"
        return text

    @property
    def fresh(self) -> bool:
        """Whether every seed scores other images."""
        return self.arena[ARENA.index("eval")] in FRESH_SPLITS

    @property
    def is_drawn(self) -> bool:
        """Whether another seed would give another result."""
        task = self.arena[ARENA.index("task")]
        trained = getattr(METHODS.get(self.method), "is_trained", False)
        shots = task == "few_shot" or "/" in self.n_pairs
        return (
            self.fresh or shots or trained or self.source in CONTROLS
            or self.n_pairs not in ("0", "all")
            or (self.settings["head_size"] and self.settings["head_by"] == "random")
        )  # fmt: skip

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in order."""
        return tuple(sorted({seed for seed, _ in self.draws}))

    @cached_property
    def of_seed(self) -> dict[int, str]:
        """Digest of the queries of every seed."""
        return {seed: own for (seed, _), own in zip(self.draws, self.queries, strict=True)}

    def on(self, clusters: NDArray[Any]) -> Cell:
        """Return the cell on another axis of clusters, which holds all its own."""
        place = np.searchsorted(clusters, self.clusters)
        moved = self.sums.with_columns(pl.Series("cluster", place[self.sums["cluster"]]))
        return replace(self, clusters=clusters, sums=moved)

    def runs(self, metric: str) -> DrawSums:
        """Return the sums of every run, shape (runs, clusters)."""
        shape = len(self.draws), len(self.clusters)
        flat = self.sums["draw"].to_numpy() * shape[1] + self.sums["cluster"].to_numpy()
        total, count = np.zeros(shape[0] * shape[1]), np.zeros(shape[0] * shape[1])
        total[flat] = self.sums[summed_as(metric)].to_numpy()
        count[flat] = self.sums["n_queries"].to_numpy()
        return DrawSums(total.reshape(shape), count.reshape(shape))

    def by_seed(self, metric: str) -> DrawSums:
        """Return the sums of every seed, control draws of one seed averaged."""
        runs = self.runs(metric)
        if len(self.seeds) == len(self.draws):
            return runs
        of_seed = np.array([seed for seed, _ in self.draws])
        means = [
            DrawSums(runs.total[of_seed == seed], runs.count[of_seed == seed]).averaged()
            for seed in self.seeds
        ]
        return DrawSums(
            np.concatenate([mean.total for mean in means]),
            np.concatenate([mean.count for mean in means]),
        )

    def mean(self, metric: str) -> float:
        """Return the mean over all queries of all runs."""
        return self.runs(metric).mean

    def sd(self, metric: str, seeds: Sequence[int] | None = None) -> float | None:
        """Return the standard deviation between the runs of these seeds; None where there is one.

        Without any of them, and without `seeds`, all runs count.
        """
        runs = self.runs(metric)
        kept = np.array([seeds is None or seed in seeds for seed, _ in self.draws])
        if not kept.any():
            kept[:] = True
        return sample_sd(DrawSums(runs.total[kept], runs.count[kept]).means)


def read_arenas(root: Path, results: pl.DataFrame) -> list[tuple[pl.DataFrame, list[Cell]]]:
    """Return the result rows of every arena with their cells, by number of real pairs.

    Sums are read once for all. Runs without queries, of diagnostics, are in no cell.
    """
    sums = read_sums(root, results["run_id"].unique(maintain_order=True))
    found = []
    for _, block in results.group_by(ARENA, maintain_order=True):
        names = enumerate(own_metrics(block))
        own = (pl.col("own").list.get(i, null_on_oob=True).alias(name) for i, name in names)
        of_block = sums.filter(
            pl.col("run_id").is_in(block["run_id"].unique().to_list()),
            direction=block["direction"][0],
        ).select("run_id", "queries", "cluster_id", "n_queries", *SUMMED, *own)
        found.append((block, cells_of(block, of_block, root)))
    return found


def read_cells(root: Path, results: pl.DataFrame) -> list[Cell]:
    """Return the cells of result rows, arena by arena; see `read_arenas`."""
    return [cell for _, cells in read_arenas(root, results) for cell in cells]


def cells_of(block: pl.DataFrame, sums: pl.DataFrame, root: Path) -> list[Cell]:
    """Return the cells of result rows of one arena from the sums of their runs by cluster.

    Parameters
    ----------
    block : DataFrame
    sums : DataFrame
        Columns run_id, queries, cluster_id, n_queries and one a metric.
    root : Path
        Where the runs lie.
    """
    if sums.is_empty():
        return []
    runs, arena = block.unique("run_id", maintain_order=True), tuple(block.select(ARENA).row(0))
    names = sums["cluster_id"].unique().sort()
    clusters = names.to_numpy().astype(str)
    known = sums.group_by("run_id").agg(pl.col("queries").first())
    runs = runs.join(known, on="run_id", how="inner", maintain_order="left").with_columns(
        pl.col("control_draw").fill_null(pl.col("seed")),
        pl.max_horizontal("n_images_fitted", "n_shots").alias("fitted"),
    )
    number = pl.col("cluster_id").replace_strict(names, range(len(names)), return_dtype=pl.Int64)
    sums = sums.with_columns(cluster=number).drop("queries", "cluster_id")
    by = ["method", "source", "n_pairs", *SETTINGS]
    groups = [
        (key, own.sort("seed", "control_draw").with_columns(draw=pl.int_range(pl.len())))
        for key, own in runs.group_by(by, maintain_order=True)
    ]
    # One join for all cells: of each with all sums it would take most of a report's time.
    draws = [own.select("run_id", "draw", cell=pl.lit(i)) for i, (_, own) in enumerate(groups)]
    of_cell = sums.join(pl.concat(draws), on="run_id").partition_by("cell", as_dict=True)
    out = []
    for place, ((method, source, n_pairs, *settings), own) in enumerate(groups):
        pool = own["n_pool"].mean()
        out.append(
            Cell(
                arena=arena,
                method=str(method),
                source=str(source),
                n_pairs=str(n_pairs),
                settings=dict(zip(SETTINGS, settings, strict=True)),
                draws=tuple(own.select("seed", "control_draw").iter_rows()),
                queries=tuple(own["queries"]),
                run_ids=tuple(own["run_id"]),
                clusters=clusters,
                sums=of_cell[place,],
                fitted=float(own["fitted"].mean() or 0.0),  # type: ignore[arg-type]
                pool=math.nan if pool is None else float(pool),  # type: ignore[arg-type]
                clusters_of=own["clusters_of"][0] or "classes",
                root=root,
            )
        )
    # By their number of real pairs, then by their part of a head.
    return sorted(out, key=lambda one: (
        pairs_order(one.n_pairs),
        *(int(one.settings[name] or 0) for name in ("clusters", "head_size")),
    ))  # fmt: skip


def own_metrics(results: pl.DataFrame) -> list[str]:
    """Return the metrics of tasks that are not Headstock's, and those of confidence, by name."""
    own = results.filter(
        ~pl.col("task").is_in(list(TASKS.built_in))
        | pl.col("metric").is_in(list(CONFIDENCE_METRICS))
    )
    for task in set(own["task"]) - TASKS.built_in.keys():
        TASKS.get(task)  # declares what is known of its metrics
    return sorted(set(own["metric"]) - METRICS.keys() - CLASS_METRICS.keys())


def metric_texts(results: pl.DataFrame) -> dict[str, str]:
    """Return what each metric is, in one line: of ranks, and of tasks that are not Headstock's."""
    return {name: metric_named(name).text for name in (*METRICS, *own_metrics(results))}


def chance_and_gallery(block: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return metric → (chance or NaN, gallery size) of one arena, the mean over its draws.

    Draws count by their queries, as they do in every mean of a table.
    """
    levels = block.group_by("metric").agg(mean_over_queries("chance"), mean_over_queries("gallery"))
    return {
        metric: (math.nan if chance is None else chance, gallery or 0.0)
        for metric, chance, gallery in levels.select("metric", "chance", "gallery").iter_rows()
    }


def mean_over_queries(column: str) -> pl.Expr:
    """Return the mean of the known values of a column over runs, each counted by its queries."""
    known = pl.col(column).is_not_null()
    mass = pl.col("n_queries").filter(known)
    mean = (pl.col(column).filter(known) * mass).sum() / mass.sum()
    return pl.when(known.any()).then(mean).alias(column)


def sample_sd(values: NDArray[np.floating[Any]] | Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of one value, in which nothing was drawn."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


#: Fields in which the runs of a series agree, beside the revisions of the sets that they read.
SERIES = (
    "suite", "locales", "train_fraction", "train_splits", "limit", "metric_version",
    "protocol_version", "code",
)  # fmt: skip

#: Fields in which the runs of one task over one set agree: a suite may prompt the classes of one
#: dataset otherwise than those of another. The value is the column of that set.
CHOICES = {
    "variants": "name_set", "templates": "name_set", "head_variants": "head_name_set",
    "head_templates": "head_name_set", "pair_variants": "name_set", "pair_templates": "name_set",
}  # fmt: skip

#: Columns that name sets, and those of their revisions.
SETS = {
    **{f"{role}_set": f"{role}_revision"
       for role in ("image", "name", "caption", "head", "head_name", "view")},
    "layer_sets": "layer_revisions",
}  # fmt: skip

#: Those that are empty where a run pairs no class with a text.
_OF_PAIRS = ("pair_variants", "pair_templates")


def series_table(results: pl.DataFrame) -> pl.DataFrame:
    """Return one row per series, the last written first.

    Columns: ``series`` (8 hex digits), suite, limit, n_runs, n_seeds, methods, sources,
    n_pairs, written (seconds since the epoch), and the fields of `SERIES` and `CHOICES`, of which
    a series may have several.
    """
    marked = _with_series(results)
    rows = []
    for (name,), part in marked.group_by(["series"], maintain_order=True):
        rows.append(
            {
                "series": name,
                "n_runs": part["run_id"].n_unique(),
                "n_seeds": part["seed"].n_unique(),
                "methods": ",".join(sorted(set(part["method"]))),
                "sources": ",".join(sorted(set(part["source"]))),
                "n_pairs": ",".join(sorted(set(part["n_pairs"]), key=pairs_order)),
                "written": part["written"].max(),
                **part.select(SERIES).row(0, named=True),
                **{name: "; ".join(sorted({*part[name].drop_nulls()} - {""})) for name in CHOICES},
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None).sort("written", descending=True)


def _with_series(results: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the columns ``series`` and ``written``.

    A suite may read many sets. Two series differ where one set has two revisions:
    the runs that read the revision last used of each of their sets are together, and every other
    combination of revisions is a series of its own. So it is with what was chosen for a set and a
    task (`CHOICES`); a run without real pairs of classes has no texts of them, and goes with any.
    """
    code = pl.col("code")
    marked = results.with_columns(
        written=pl.col("finished_at"),
        code=code.str.replace(OWN_CODE, ""),
        own_code=code.str.extract(f"({OWN_CODE})").fill_null(""),
    )
    # Methods and tasks of others stand beside ours; of what changed the last version does.
    last = pl.col("own_code").sort_by("written").last()
    fresh = pl.col("own_code") == last.over([*SERIES, "method", "task", "options"])
    for key, revision in SETS.items():
        last = pl.col(revision).sort_by("written").last().over([*SERIES, key])
        fresh = fresh & pl.col(revision).eq_missing(last)
    for name, key in CHOICES.items():
        own = pl.col(name)
        given = pl.when(own != "").then(own) if name in _OF_PAIRS else own
        # Pairs of another data set have its texts.
        of = [*SERIES, "task", key, "pairs_from"]
        last = given.sort_by("written").drop_nulls().last().over(of)
        fits = given.eq_missing(last)
        fresh = fresh & (fits | own.eq_missing(pl.lit("")) if name in _OF_PAIRS else fits)
    marked = marked.with_columns(fresh=fresh)
    names: dict[str, str] = {}
    columns = [*SERIES, "fresh", "own_code", *SETS.values(), *CHOICES]
    for values, part in marked.group_by(columns, maintain_order=True):
        facts = dict(zip(columns, values, strict=True))
        if facts.pop("fresh"):
            facts = {name: facts[name] for name in SERIES}
        elif not facts["own_code"]:
            del facts["own_code"]
        names |= dict.fromkeys(part["run_id"], sha256_hex(canonical_json(facts))[:SHORT])
    series = pl.col("run_id").replace_strict(names).alias("series")
    return marked.with_columns(series, results["code"]).drop("own_code")


def only_series(root: Path, results: pl.DataFrame, *, suite: str | None = None) -> pl.DataFrame:
    """Return the rows of the series written last, of one suite.

    Tasks beside one suite do not make the choice ambiguous: without a name it is the suite.

    Raises
    ------
    NoResultsError
        If the folder has no run of the suite, or has several suites and none was named.
    """
    suites = sorted(set(results["suite"]))
    alone = [name for name in suites if name != "task"]
    if suite is None and len(alone) == 1:
        suite = alone[0]
    if suite is None and len(suites) > 1:
        raise NoResultsError(
            f"{root} holds results of {len(suites)} suites: {', '.join(suites)}. Name the `suite=`."
        )
    suite = suite or suites[0]
    check_names([suite], suites, what="suite", error=NoResultsError, where=f"in {root}")
    marked = _with_series(results.filter(suite=suite))
    last = marked.sort("written", maintain_order=True)["series"][-1]
    return marked.filter(series=last).drop("written", "fresh", "series")


def path_fields(path: str) -> dict[str, str]:
    """Return the fields that ``method/source/K`` gives; an empty part leaves its field open."""
    words = zip(("method", "source", "n_pairs"), path.split("/", 2), strict=False)
    return {name: word for name, word in words if word}
