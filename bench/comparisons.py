"""Paired comparisons between cells: who gains over whom, on the same queries.

Both sides of a comparison have the same queries in the same draws, and `bench.statistics` says how
certain the difference is from its sums per draw and cluster. The comparisons, for one method:

==============  ==============================================  ===========================
name            side a                                          side b
==============  ==============================================  ===========================
over-parts      real + head at K                                the better of head alone and
                                                                real alone at K
over-real       real + source at K, for every source            real alone at K
over-chance     a source alone                                  what a random order gives
over-control    head (with K real pairs)                        a control with the same K
over-conse      head, fitted (with K real pairs)                ConSE, the head unfitted
a-b             whatever the user names                         (`compare_choices`)
==============  ==============================================  ===========================

A source alone against chance is no paired difference: its interval is Korn and Graubard's, and it
has no p. A head against a control is one run against draws: its p is that of its rank among them,
and its interval is that of its difference to one more draw.
"The better" of two parts is the one with the higher mean on the very queries that are scored: that
choice can only lower the difference.

**The primary family.** Of the many comparisons of a table these are named beforehand: in the main
evaluation, zero-shot top-1 (R@1 of captions where nothing else is scored), ``over-parts`` for every
method and K, and ``over-control`` without real pairs for random and shuffled rows. Holm's
correction is over them, and only they may be bold. Every other comparison is exploratory: interval
and p as they are. Tasks that a user puts together (``headstock eval task``), and a family
of more than `LARGEST_FAMILY` have nothing primary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.cells import (
    ARENA,
    CELL,
    CONTROLS,
    HEAD_PARTS,
    SETTINGS,
    Cell,
    chance_and_gallery,
    in_order,
    method_title,
    only_series,
    own_metrics,
    path_fields,
    read_arenas,
    sample_sd,
)
from bench.errors import NoResultsError
from bench.metrics.summary import METRICS, cutoff, metric_named
from bench.results import RUN_COLUMNS, read_results
from bench.runs import CLASS_MEANS
from bench.statistics import (
    ENOUGH_CONTROLS,
    ENOUGH_DRAWS,
    LARGEST_FAMILY,
    LARGEST_OVERLAP,
    ControlTest,
    DrawSums,
    Estimate,
    against_controls,
    against_paired_controls,
    holm,
    proportion_interval,
    two_term,
)
from featstore.errors import UnknownName, did_you_mean, listed
from fitters.errors import check_names

#: Controls whose comparison with the head alone is primary.
PRIMARY_CONTROLS = ("random", "shuffled")

#: Direction and metric of the primary family: the first that was scored.
PRIMARY_METRICS = (("image→name", "top-1"), ("image→caption", "R@1"))

#: Metrics that are means over queries, so that a paired difference has a meaning.
PAIRED_METRICS = tuple(name for name, metric in METRICS.items() if metric.paired)

#: Metrics compared when none are named.
DEFAULT_METRICS = ("top-1", "top-10", "R@1", "R@10")

#: A primary comparison whose corrected p is below it, and that has draws enough, is bold.
LEVEL = 0.05

#: With so few classes, an interval over classes is so wide that one over images is given too.
FEW_CLASSES = 20

#: Fields of a choice, as ``name=value``.
FIELDS = ("suite", "task", "eval", "method", "source", "n_pairs", *SETTINGS, "image_set", "run_id")

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    "metric": pl.String,
    "method": pl.String,
    "comparison": pl.String,
    "source": pl.String,
    "n_pairs": pl.String,
    **{name: RUN_COLUMNS[name] for name in SETTINGS},
    "side_a": pl.String,
    "side_b": pl.String,
    "a": pl.Float64,
    "a_sd": pl.Float64,  # over runs; null where nothing is drawn
    "b": pl.Float64,
    "b_sd": pl.Float64,
    "difference": pl.Float64,  # absolute
    "difference_sd": pl.Float64,  # over the draws that both sides have
    "relative": pl.Float64,  # difference / b; null where b is 0
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,  # two-sided; of over-control one-sided, head above control
    "p_below": pl.Float64,  # of over-control: head below control
    "test": pl.String,  # what p comes from
    "control_rank": pl.Int64,  # of the head among its control draws and itself; 1 is best
    "n_controls": pl.Int64,
    "control_sd": pl.Float64,
    "control_best": pl.Float64,
    "family": pl.Int64,  # size of the primary family; null for an exploratory comparison
    "p_holm": pl.Float64,  # corrected over the family
    "bold": pl.Boolean,  # a primary comparison that holds, in whichever direction
    "limit": pl.String,  # why nothing is claimed of new draws: pool, draws, controls; or empty
    "draw_error": pl.Float64,  # standard error from draws alone; null where nothing is drawn
    "cluster_error": pl.Float64,
    "control_error": pl.Float64,
    "df": pl.Float64,
    "overlap": pl.Float64,  # share of the pool of real pairs that a draw takes
    "population": pl.String,  # what the interval is about
    "n_seeds": pl.Int64,
    "n_queries": pl.Int64,
    "n_clusters": pl.Int64,
    "gallery": pl.Float64,
    "chance": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Claim:
    """What one metric says of two cells, or of a cell and what a random order gives (b None).

    Attributes
    ----------
    kind : str
        Which of the module's comparisons.
    a : Cell
    b : Cell or None
    metric : str
    chance, gallery : float
        Of the metric in the arena; NaN where there is no such level.
    """

    kind: str
    a: Cell
    b: Cell | None
    metric: str
    chance: float = math.nan
    gallery: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        """What is compared, the same for every command."""
        return (self.metric, self.a.key, None if self.b is None else self.b.key)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that are compared."""
        return (self.a,) if self.b is None else (self.a, self.b)

    @cached_property
    def seeds(self) -> tuple[int, ...] | None:
        """The seeds on which the two sides are compared; None if there is none.

        A side that ran once is compared with every draw of the other where both score the same
        queries whatever the seed.
        """
        if self.b is None:
            return self.a.seeds
        common = tuple(s for s in self.a.seeds if s in self.b.of_seed)
        once = not self.a.fresh and 1 in (len(self.a.seeds), len(self.b.seeds))
        if once and len(common) < max(len(self.a.seeds), len(self.b.seeds)):
            longer = max(self.a, self.b, key=lambda cell: len(cell.seeds))
            same = len({*self.a.queries, *self.b.queries}) == 1
            return longer.seeds if same else None
        same = all(self.a.of_seed[s] == self.b.of_seed[s] for s in common)
        return common if common and same else None

    @cached_property
    def sides(self) -> tuple[DrawSums, ...]:
        """The sums of every side on the common seeds."""
        return tuple(self._side(cell) for cell in self.cells)

    def _side(self, cell: Cell) -> DrawSums:
        sums, seeds = cell.by_seed(self.metric), self.seeds
        assert seeds is not None
        if cell.seeds == seeds:
            return sums
        place = {seed: row for row, seed in enumerate(cell.seeds)}
        rows = [place[s] if s in place and len(place) > 1 else 0 for s in seeds]
        return DrawSums(sums.total[rows], sums.count[rows])

    @cached_property
    def overlap(self) -> float:
        """The share of the pool that one draw takes; NaN where the pool is not known."""
        shares = [c.fitted / c.pool if c.pool else 0.0 for c in self.cells if c.fitted]
        return math.nan if any(map(math.isnan, shares)) else max(shares, default=0.0)

    @property
    def is_about_this_pool(self) -> bool:
        """Whether draws overlap so much that the interval is about these real pairs alone."""
        return any(cell.n_pairs == "all" for cell in self.cells) or not self.overlap < 1.0

    @property
    def limit(self) -> str:
        """Why nothing can be claimed of new draws: ``"pool"``, ``"draws"`` or ``"controls"``.

        Empty where there are draws enough, or nothing is drawn.
        """
        if self.is_about_this_pool or self.overlap > LARGEST_OVERLAP:
            return "pool"
        test = self.test
        if test is not None and test.rank is not None and test.n_controls < ENOUGH_CONTROLS:
            return "controls"
        common = set(self.seeds or ())
        for cell in self.cells if test is None else (self.a,):
            if cell.is_drawn and len(common.intersection(cell.seeds)) < ENOUGH_DRAWS:
                return "draws"
        return ""

    def control_part(self) -> tuple[float, float]:
        """Return variance and degrees of freedom from control draws averaged within every seed."""
        parts = []
        for cell in self.cells:
            draws = control_means(cell, self.metric, self.seeds)
            if draws is not None and len(draws) > 1:
                parts.append((float(np.var(draws, ddof=1)) / len(draws), len(draws) - 1.0))
        whole = sum(variance for variance, _ in parts)
        if not whole:
            return 0.0, math.nan
        return whole, whole**2 / sum(variance**2 / df for variance, df in parts)

    @cached_property
    def estimate(self) -> Estimate:
        """The mean difference with its variance."""
        a, *b = self.sides
        overlap = 0.0 if self.is_about_this_pool else self.overlap
        found = two_term(a - (b[0] if b else self.chance), overlap=overlap)
        of_controls, df_controls = self.control_part()
        return replace(found, of_controls=of_controls, df_controls=df_controls)

    @cached_property
    def test(self) -> ControlTest | None:
        """The test of a head against the draws of its control; None if too few, or no control."""
        if self.b is None or self.kind != "over-control":
            return None
        draws = control_means(self.b, self.metric, self.seeds)
        a, b = self.sides
        if len(b.total if draws is None else draws) < 2:
            return None
        if draws is not None:
            return against_controls(a.mean, draws, n_rows=round(float(a.count.sum())))
        if not self.a.fresh and (len(self.a.seeds) == 1 or not self.a.is_drawn):
            # One head beside controls that are all there is to draw.
            return against_controls(a.means[0], b.means, n_rows=round(float(a.count[0].sum())))
        n_rows = a.count.sum(axis=1).round().astype(int)
        return against_paired_controls(a.means, b.means, n_rows=n_rows)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The interval of the difference; over chance that of a proportion, where it is one."""
        if self.test is not None:
            return self.test.interval(self.estimate.mean)
        if self.b is not None or cutoff(self.metric) is None:
            return self.estimate.interval()
        ends = proportion_interval(
            self.sides[0],
            overlap=0.0 if self.is_about_this_pool else self.overlap,
            of_controls=self.estimate.of_controls,
            df_controls=self.estimate.df_controls,
        )
        # With few draws of a rare hit the effective n is too large: the wider one counts.
        also = self.estimate.interval() if self.estimate.n_draws > 1 else ()
        both = [*(end - self.chance for end in ends), *also]
        return min(both), max(both)

    @property
    def p(self) -> float | None:
        """Two-sided, of a head over its control one-sided; None where nothing is tested."""
        if self.kind == "over-control":
            return None if self.test is None else self.test.p_above
        return None if self.b is None else self.estimate.p_value()

    def row(self, primary: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the claim as a row of `SCHEMA`."""
        a, b, estimate, test = self.a, self.b, self.estimate, self.test
        low, high = self.interval
        first, *other = self.sides
        # Over chance, a mean is of all runs, and so is what varies between them.
        base, each = self.chance, a.runs(self.metric).means - self.chance
        if other:
            base, each = other[0].mean, first.means - other[0].means
        drawn = estimate.n_draws > 1
        how = "t, draws and clusters" if drawn else "t, clusters"
        row = {
            **dict(zip(ARENA, a.arena, strict=True)),
            "metric": self.metric,
            "method": a.method,
            "comparison": self.kind,
            "source": b.source if b is not None and self.kind == "over-control" else a.source,
            "n_pairs": a.n_pairs,
            **a.settings,
            **_names(a, b),
            "a": a.mean(self.metric) if b is None else first.mean,
            "a_sd": a.sd(self.metric, self.seeds),
            "b": base,
            "b_sd": None if b is None else b.sd(self.metric, self.seeds),
            "difference": estimate.mean,
            "difference_sd": sample_sd(each) if drawn else None,
            "relative": estimate.mean / base if base > 0 else None,
            "low": _finite(low),
            "high": _finite(high),
            "draw_error": math.sqrt(estimate.of_draws) if drawn else None,
            "cluster_error": math.sqrt(estimate.of_clusters),
            "control_error": math.sqrt(estimate.of_controls) or None,
            "df": _finite(estimate.df),
            "overlap": _finite(self.overlap),
            "population": _population(self),
            "n_seeds": len(self.seeds or ()),
            "n_queries": estimate.n_rows,
            "n_clusters": estimate.n_clusters,
            "gallery": self.gallery,
            "chance": _finite(self.chance),
            "bold": False,
            "limit": self.limit,
            "p": self.p,
            "test": None if b is None else how,
        }
        if test is not None:
            row |= {
                "draw_error": None,
                "cluster_error": None,
                "control_error": test.error,
                "df": test.n_controls - 1.0,
                "population": "one more draw of the control, these images",
                "p_below": test.p_below,
                "test": _test_text(test),
                "control_rank": test.rank,
                "n_controls": test.n_controls,
                "control_sd": test.sd,
                "control_best": test.best,
            }
        elif self.kind == "over-control":
            row["test"] = "fewer than two control draws"
        if primary is not None:
            row |= {**primary, "bold": primary["p_holm"] < LEVEL and not self.limit}
        return row


def control_means(
    cell: Cell, metric: str, seeds: tuple[int, ...] | None
) -> NDArray[np.float64] | None:
    """Return the mean of every control draw over these seeds, of draws that have them all.

    None for a cell that is not a control, or has one control draw a seed.
    """
    of_control: dict[int, set[int]] = {}
    for seed, control in cell.draws:
        of_control.setdefault(control, set()).add(seed)
    if cell.source not in CONTROLS or len(cell.draws) == len(cell.seeds) or seeds is None:
        return None
    runs = cell.runs(metric)
    wanted = np.array([seed in seeds for seed, _ in cell.draws])
    of = np.array([control for _, control in cell.draws])
    kept = [c for c, own in of_control.items() if own.issuperset(seeds)]
    rows = [wanted & (of == c) for c in kept]
    return np.array([DrawSums(runs.total[r], runs.count[r]).mean for r in rows], np.float64)


def compare(
    root: Path | str, results: pl.DataFrame, *, metrics: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return every comparison that the results allow, one row each.

    Parameters
    ----------
    root : Path
        The results folder; sums per cluster are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one series. Leave rows out afterwards, not here:
        the primary family is that of all rows.
    metrics : sequence of str, optional
        Of `PAIRED_METRICS` and of the shares that tasks of one's own have for every image, where
        higher is better. None: `DEFAULT_METRICS` and all such shares.

    Returns
    -------
    DataFrame
        Schema `SCHEMA`. Values and differences are shares (0.1 is ten points). Nothing is drawn
        at random: the same results always give the same numbers.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> runs = [r for r in smoke_runs(open_store("smoke")) if r.task == "zero_shot"][4:12]
    >>> done = run_all(runs, "smoke", "results")
    >>> sorted(set(compare("results", read_results("results"))["comparison"]))[:2]
    ['over-chance', 'over-conse']
    """
    root = Path(root)
    arenas = read_arenas(root, results)
    primary = primary_family(results, arenas)
    rows: list[dict[str, Any]] = []
    for block, cells in arenas:
        levels = chance_and_gallery(block)
        for metric in _present(block, metrics, levels):
            rows += _rows(_claims(cells, metric, levels[metric]), primary)
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def _present(
    block: pl.DataFrame, metrics: Sequence[str] | None, levels: Collection[str]
) -> list[str]:
    """Return those of these metrics that can be paired, of result rows of one arena."""
    declared = ((name, metric_named(name)) for name in own_metrics(block))
    own = [name for name, one in declared if one.percent and one.higher_is_better]
    wanted = (*DEFAULT_METRICS, *own) if metrics is None else metrics
    return [m for m in wanted if m in levels and (m in PAIRED_METRICS or m in own)]


#: Columns ``family`` and ``p_holm`` of the comparisons named beforehand, by `Claim.key`.
Primary: TypeAlias = dict[tuple[Any, ...], dict[str, Any]]


def primary_family(
    results: pl.DataFrame, arenas: Sequence[tuple[pl.DataFrame, list[Cell]]]
) -> Primary:
    """Return the primary comparisons of a series: p corrected over the family, and its size.

    There is one family for every choice of images, texts and head; see the module.

    Parameters
    ----------
    results : DataFrame
        Rows of one series.
    arenas : sequence
        Of these rows; see `bench.cells.read_arenas`.
    """
    if results.is_empty() or "task" in set(results["suite"]):
        return {}
    sets = ["image_set", "name_set", "caption_set"]
    cells = {tuple(block.select(ARENA).row(0)): own for block, own in arenas}
    families: dict[tuple[Any, ...], list[tuple[tuple[Any, ...], float]]] = {}
    for _, table in results.group_by(sets, maintain_order=True):
        direction, metric = next(
            (d, m) for d, m in (*PRIMARY_METRICS, ("", "")) if not d or d in set(table["direction"])
        )
        own = table.filter(direction=direction, metric=metric)
        evals = [name for name in MAIN_EVALS if name in set(own["eval"])]
        own = own.filter(pl.col("eval").is_in(evals[:1]))
        for arena in own.select(ARENA).unique(maintain_order=True).rows():
            for found in _claims(cells[arena], metric, (0.0, 0.0)):
                if _is_primary(found) and found.seeds and (p := found.p) is not None:
                    family = (*arena, found.a.settings["head_set"])
                    families.setdefault(family, []).append((found.key, p))
    out: Primary = {}
    for members in families.values():
        if len(members) <= LARGEST_FAMILY:
            for (key, _), p in zip(members, holm(np.array([p for _, p in members])), strict=True):
                out[key] = {"p_holm": float(p), "family": len(members)}
    return out


#: Evaluations in the order in which one is the main one of a table.
MAIN_EVALS = ("held-out", "split", "all-names", "in-class")


def _is_primary(found: Claim) -> bool:
    if found.kind == "over-parts":
        return True
    alone = found.kind == "over-control" and found.a.n_pairs == "0"
    return alone and found.b is not None and found.b.source in PRIMARY_CONTROLS


def _rows(claims: Iterable[Claim], primary: Primary) -> list[dict[str, Any]]:
    return [
        found.row(primary.get(found.key))
        for found in claims
        if found.seeds and not (found.b is None and math.isnan(found.chance))
    ]


def _names(a: Cell, b: Cell | None) -> dict[str, str]:
    """Return what the sides are called: with their methods, where these differ."""
    if b is None or a.method == b.method:
        return {"side_a": a.name, "side_b": "chance" if b is None else b.name}
    sides = (("side_a", a), ("side_b", b))
    return {side: f"{method_title(cell.method)}, {cell.name}" for side, cell in sides}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _test_text(test: ControlTest) -> str:
    if test.by == "rank":
        return f"rank among {test.n_controls} draws"
    how = "taken as normal" if test.rank is None else "the largest p of three scales"
    return f"t over {test.n_controls} draws, {how}"


def _population(found: Claim) -> str:
    """Return what the interval is about, in words."""
    new = "new classes" if found.a.clusters_of == "classes" else "new images of these classes"
    if found.is_about_this_pool:
        return f"{new}, this pool of pairs"
    if found.estimate.n_draws == 1:
        return f"{new}, this one draw" if any(cell.is_drawn for cell in found.cells) else new
    parts = ["splits"] if found.a.fresh else []
    if any(cell.fitted for cell in found.cells):
        parts.append("pairs")
    if any(cell.source in CONTROLS for cell in found.cells):
        parts.append("controls")
    return f"{new}, new {' and '.join(parts)}" if parts else f"{new}, new seeds"


def bold_cells(comparisons: pl.DataFrame, metrics: Collection[str]) -> set[tuple[Any, ...]]:
    """Return (metric, values of `bench.cells.CELL`) of every cell that may be printed bold.

    A cell is bold if it is side a of primary comparisons and all of them are: with real
    pairs it beats the better of its parts, alone it beats every control.
    Rows are those of `compare`, metrics those that are shown.
    """
    primary = comparisons.filter(
        pl.col("family").is_not_null() & pl.col("metric").is_in(list(metrics))
    ).with_columns(
        # A head is on side a whatever control it is compared with.
        source=pl.when(pl.col("comparison") == "over-control")
        .then(pl.lit("head"))
        .otherwise(pl.col("source"))
    )
    held = primary.group_by(["metric", *CELL], maintain_order=True).agg(
        (pl.col("bold") & (pl.col("difference") > 0)).all()
    )
    return {
        (row["metric"], tuple(row[name] for name in CELL))
        for row in held.filter(pl.col("bold")).iter_rows(named=True)
    }


def _all_like(
    cells: list[Cell], like: Cell, method: str, source: str, n_pairs: str
) -> Iterator[Cell]:
    """Yield the cells that differ from `like` in nothing that plays a part in them.

    Without prototypes there is no head, without prototypes or real pairs nothing is mixed, and
    names are shuffled within clusters in one source alone.
    """
    ignored = {"mix", "sequential"} if source == "none" or n_pairs == "0" else set()
    ignored.add("clusters")
    if source in ("none", CLASS_MEANS):
        no_head = ("head_set", "head_rows", *HEAD_PARTS)
        ignored.update(no_head if source == "none" else HEAD_PARTS)
    wanted = {name: value for name, value in like.settings.items() if name not in ignored}
    if method == "conse":
        wanted = {name: like.settings[name] for name in ("head_set", *HEAD_PARTS)}
    for cell in cells:
        if (cell.method, cell.source, cell.n_pairs) == (method, source, n_pairs) and all(
            cell.settings[name] == value for name, value in wanted.items()
        ):
            yield cell


def _claims(cells: list[Cell], metric: str, level: tuple[float, float]) -> Iterator[Claim]:
    """Yield the claims of one arena on a metric, with its chance and gallery."""

    def claim(kind: str, a: Cell, b: Cell | None) -> Claim:
        return Claim(kind, a, b, metric, *level)

    for cell in cells:
        if cell.n_pairs == "0":
            yield claim("over-chance", cell, None)
        if cell.method == "conse":
            continue
        real = next(_all_like(cells, cell, cell.method, "none", cell.n_pairs), None)
        if real is not None and cell.source != "none":
            yield claim("over-real", cell, real)
        if cell.source != "head":
            continue
        for control in CONTROLS:
            for other in _all_like(cells, cell, cell.method, control, cell.n_pairs):
                yield claim("over-control", cell, other)
        conse = next(_all_like(cells, cell, "conse", "head", "0"), None)
        if conse is not None:
            yield claim("over-conse", cell, conse)
        alone = next(_all_like(cells, cell, cell.method, "head", "0"), None)
        if cell.n_pairs != "0" and alone is not None and real is not None:
            parts = [claim("over-parts", cell, part) for part in (alone, real)]
            if all(part.seeds for part in parts):
                yield max(parts, key=lambda part: part.sides[1].mean)


Choice: TypeAlias = tuple[Path, pl.DataFrame, pl.DataFrame]
"""A results folder, the rows that its table is of, and those of them that are chosen."""


def choose(root: Path, series: pl.DataFrame, wanted: Mapping[str, str], *, where: str) -> Choice:
    """Return the rows of a series that have these values of `FIELDS`.

    Raises
    ------
    NoResultsError
        If there is no such field or row; the message says what there is.
    """
    rows = series
    check_names(wanted, FIELDS, what="field", error=NoResultsError, where=f"in {where!r}")
    for name, value in wanted.items():
        own = pl.col(name).cast(pl.String)
        kept = rows.filter(own.str.starts_with(value) if name == "run_id" else own == value)
        if kept.is_empty():
            known = sorted(set(rows[name].cast(pl.String).drop_nulls()))
            raise NoResultsError(UnknownName(
                f"{root} has no {name} {value!r} there. It has: {listed(known, shown=20)}."
                f"{did_you_mean(value, known)}"
            ))  # fmt: skip
        rows = kept
    return root, series, rows


def chosen_rows(choice: str | Choice) -> Choice:
    """Return the cells of ``FOLDER[:method/source/K][:name=value,…]``, of its series written last.

    Raises
    ------
    NoResultsError
        If the folder holds no such row; the message says what it holds.
    """
    if not isinstance(choice, str):
        return choice
    folder, *rest = choice.split(":")
    root = Path(folder)
    wanted: dict[str, str] = {}
    for part in rest:
        if "=" in part:
            wanted |= dict(item.split("=", 1) for item in part.split(",") if "=" in item)
        else:
            wanted |= path_fields(part)
    series = only_series(root, read_results(root), suite=wanted.pop("suite", None))
    return choose(root, series, wanted, where=choice)


def compare_choices(
    a: str | Choice, b: str | Choice, *, metrics: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return the paired differences of two choices of cells, on the queries that both have.

    Parameters
    ----------
    a, b : str or Choice
        Choices; see `chosen_rows` and `choose`. Where each leaves one cell to a question, these two
        are compared; where they leave several, cells that agree in all that the choices leave open.
    metrics : sequence of str, optional
        As of `compare`.

    Returns
    -------
    DataFrame
        Schema `SCHEMA`. A comparison that the table of the folder has too has the same numbers, its
        corrected p among them; any other is exploratory. A head and its control are compared as
        head over control, whichever was named first: p_below is the other side.

    Raises
    ------
    NoResultsError
        If a choice is empty, or no two cells can be paired.
    """
    (root_a, series, rows_a), (root_b, _, rows_b) = chosen_rows(a), chosen_rows(b)
    primary: Primary = {}
    if root_a.resolve() == root_b.resolve():
        primary = primary_family(series, read_arenas(root_a, series))
    theirs = {tuple(own.select(ARENA).row(0)): cells for own, cells in read_arenas(root_b, rows_b)}
    rows: list[dict[str, Any]] = []
    for block, left in read_arenas(root_a, rows_a):
        right, levels = theirs.get(tuple(block.select(ARENA).row(0)), []), chance_and_gallery(block)
        present = _present(block, metrics, levels) if right else []
        ids = [cell.clusters for cell in (*left, *right)]
        clusters = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.str_)
        pairs = _paired([c.on(clusters) for c in left], [c.on(clusters) for c in right])
        for metric in present:
            rows += _rows((Claim(*named, metric, *levels[metric]) for named in pairs), primary)
    if not rows:
        raise NoResultsError(
            f"No two cells of {_called(a)} and {_called(b)} have the same task, evaluation, sets "
            "and queries, and a metric that is a mean over them. `headstock ls` lists what a "
            "folder holds; choose cells as FOLDER:method/source/K."
        )
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def _called(choice: str | Choice) -> str:
    return choice if isinstance(choice, str) else str(choice[0])


def _paired(left: list[Cell], right: list[Cell]) -> list[tuple[str, Cell, Cell]]:
    """Return kind and sides of the comparisons of two choices; no cell is compared with itself."""
    open_ = [
        name
        for name in ("method", "source", "n_pairs", *SETTINGS)
        if any(len({_value(cell, name) for cell in side}) > 1 for side in (left, right))
        and (len(left), len(right)) != (1, 1)
    ]
    by_open = {tuple(_value(cell, name) for name in open_): cell for cell in right}
    pairs = ((cell, by_open.get(tuple(_value(cell, name) for name in open_))) for cell in left)
    return [
        _named(a, b)
        for a, b in pairs
        if b is not None and (a.root.resolve(), a.run_ids) != (b.root.resolve(), b.run_ids)
    ]


def _named(a: Cell, b: Cell) -> tuple[str, Cell, Cell]:
    """Return a comparison; of a head and its control always head over control, as in a table."""
    same = a.method == b.method and a.n_pairs == b.n_pairs
    for head, control in ((a, b), (b, a)):
        if same and head.source == "head" and control.source in CONTROLS:
            return "over-control", head, control
    return "a-b", a, b


def _value(cell: Cell, name: str) -> Any:
    return cell.settings[name] if name in SETTINGS else getattr(cell, name)
