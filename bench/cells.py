"""Cells: runs that differ only in their draws, how a cell is named and ordered, and its sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.protocol import FRESH_SPLITS
from bench.results import SUMMED, read_sums, summed_as
from bench.statistics import DrawSums
from fitters.methods import METHODS

#: Where a comparison is fair: same question, same galleries, same encoders.
ARENA = ["task", "eval", "options", "direction", "image_set", "name_set", "caption_set"]

#: What tells cells of one method, source and K apart, where a suite or a sweep varies it.
SETTINGS = ["head_set", "penalty", "mix", "view_set", "epochs", "sequential"]

#: What makes two runs the same cell. Everything else is the seed or follows from the sets.
CELL = [*ARENA, "method", "source", "n_pairs", *SETTINGS]

TASK_ORDER = [
    "zero_shot", "generalised", "retrieval", "few_shot", "head_names", "neighbours", "modality_gap",
    "neural_collapse", "cosine_head", "hubness", "spectrum",
]  # fmt: skip
EVAL_ORDER = ["all-names", "held-out", "split", "in-class"]
DIRECTION_ORDER = [
    "image→name", "unseen image→unseen name", "image→caption", "caption→image",
]  # fmt: skip
METHOD_ORDER = [
    "chance", "identity", "mean-shift", "conse", "procrustes", "pls", "cca-200", "cca", "csa",
    "asif", "least-squares", "ridge-x2y", "ridge-both", "ridge",
    "kernel-ridge", "paper-cca", "paper-text2concepts", "paper-mlp",
]  # fmt: skip
#: Prototypes that carry no class information.
CONTROLS = ("random", "random-cov", "shuffled")
SOURCE_ORDER = ["none", "shuffled", "random", "random-cov", "head"]

METHOD_NAMES = {
    "chance": "chance",
    "identity": "the pair itself",
    "mean-shift": "Mean shift",
    "conse": "ConSE",
    "procrustes": "Procrustes",
    "pls": "PLS",
    "cca-200": "CCA, 200 directions",
    "cca": "CCA",
    "csa": "CSA",
    "asif": "ASIF",
    "least-squares": "Least squares",
    "ridge-x2y": "Ridge to texts",
    "ridge-both": "Ridge both ways",
    "ridge": "Ridge",
    "kernel-ridge": "Kernel ridge",
    "paper-cca": "CCA of the paper",
    "paper-text2concepts": "Linear map of the paper",
    "paper-mlp": "MLP of the paper",
}

#: Names of the sources without and with real pairs beside them.
ALONE_NAMES = {
    "head": "head weights",
    "random": "random rows",
    "random-cov": "random rows, same covariance",
    "shuffled": "head, names shuffled",
}
MIXED_NAMES = {
    "none": "real pairs",
    "head": "real + head weights",
    "random": "real + random rows",
    "random-cov": "real + random rows, same covariance",
    "shuffled": "real + head, names shuffled",
}


def source_name(source: str, n_pairs: str) -> str:
    """Return what a reader calls the data that a cell was fitted on."""
    names = ALONE_NAMES if n_pairs == "0" else MIXED_NAMES
    return names.get(source, source)


def set_name(column: str, value: Any) -> str:
    """Return a value of a column that names a set as ``dataset · encoder``, others as text."""
    if value is None:
        return ""
    parts = str(value).split("/")
    if not column.endswith("_set") or len(parts) != 3:
        return str(value)
    encoder = parts[2].split(".", 1)[-1].rsplit("-", 1)[0]
    return f"{parts[0]} · {encoder}"


def pairs_order(n_pairs: str) -> float:
    """Return a number that sorts ``"0" < "16" < … < "all"``, with ``"4/class"`` beside 4."""
    return float("inf") if n_pairs == "all" else float(n_pairs.removesuffix("/class"))


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows sorted as a reader expects: task, eval, direction, method, source, K."""
    keys = []
    for column, known in (
        ("task", TASK_ORDER),
        ("eval", EVAL_ORDER),
        ("options", [""]),
        ("direction", DIRECTION_ORDER),
        ("method", METHOD_ORDER),
        ("source", SOURCE_ORDER),
    ):
        if column in frame.columns:
            places = {name: place for place, name in enumerate(known)}
            keys.append(
                pl.col(column).replace_strict(places, default=len(known), return_dtype=pl.Int64)
            )
            keys.append(pl.col(column))
    if "n_pairs" in frame.columns:
        keys.append(
            pl.when(pl.col("n_pairs") == "all")
            .then(float("inf"))
            .otherwise(pl.col("n_pairs").str.strip_suffix("/class").cast(pl.Float64, strict=False))
        )
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
        return f"ConSE, {text}" if self.method == "conse" else text

    @property
    def fresh(self) -> bool:
        """Whether every seed scores other images."""
        return self.arena[ARENA.index("eval")] in FRESH_SPLITS

    @property
    def is_drawn(self) -> bool:
        """Whether another seed would give another result."""
        task = self.arena[ARENA.index("task")]
        trained = self.method in METHODS and METHODS[self.method].fitted_on == "training"
        shots = task == "few_shot" or "/" in self.n_pairs
        return (
            self.fresh or shots or trained or self.source in CONTROLS
            or self.n_pairs not in ("0", "all")
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


def read_cells(root: Path, block: pl.DataFrame) -> list[Cell]:
    """Return the cells of result rows of one arena, by number of real pairs.

    Runs without queries, of diagnostics, are in none.
    """
    runs = block.unique("run_id", maintain_order=True)
    arena = tuple(block.select(ARENA).row(0))
    sums = read_sums(root, runs["run_id"]).filter(pl.col("direction") == block["direction"][0])
    if sums.is_empty():
        return []
    clusters = np.unique(sums["cluster_id"].to_numpy().astype(str))
    known = sums.group_by("run_id").agg(pl.col("queries").first())
    runs = runs.join(known, on="run_id", how="inner", maintain_order="left").with_columns(
        pl.col("control_draw").fill_null(pl.col("seed")),
        pl.max_horizontal("n_images_fitted", "n_shots").alias("fitted"),
    )
    sums = sums.with_columns(
        pl.Series("cluster", np.searchsorted(clusters, sums["cluster_id"].to_numpy().astype(str)))
    ).select("run_id", "cluster", "n_queries", *SUMMED)
    out = []
    for key, cell in runs.group_by(["method", "source", "n_pairs", *SETTINGS], maintain_order=True):
        method, source, n_pairs, *settings = key
        own = cell.sort("seed", "control_draw").with_row_index("draw")
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
                sums=own.select("run_id", pl.col("draw").cast(pl.Int64)).join(sums, on="run_id"),
                fitted=float(own["fitted"].mean() or 0.0),  # type: ignore[arg-type]
                pool=math.nan if pool is None else float(pool),  # type: ignore[arg-type]
                clusters_of=own["clusters_of"][0] or "classes",
                root=root,
            )
        )
    return sorted(out, key=lambda cell: pairs_order(cell.n_pairs))


def chance_and_gallery(block: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return metric → (chance, gallery size) of one arena, the mean over its draws.

    Draws count by their queries, as they do in every mean of a table.
    """
    levels = block.group_by("metric").agg(mean_over_queries("chance"), mean_over_queries("gallery"))
    return {
        metric: (chance or 0.0, gallery or 0.0)
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
