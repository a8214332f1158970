"""Results in Python: frame, table, comparisons, plots, the report and the verdict's sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import in_order, only_series, path_fields, whole_heads
from bench.comparisons import (
    choose,
    compare,
    compare_choices,
)
from bench.errors import NoResultsError
from bench.report.figures import Figure, headline_figure, pairs_figure
from bench.report.page import write_report
from bench.report.verdict import first_question, verdict, without_head
from bench.results import CHOSEN, data_notes, read_results
from bench.runs import LEAVES
from bench.tables import (
    metric_columns,
    result_lines,
    result_table,
    varying,
)
from featstore.errors import listed
from featstore.terminal import SHOWN, Card
from fitters.errors import check_names

#: Columns of a comparison that `Results.compare` shows, in this order.
COMPARED = (
    "direction", "eval", "metric", "method", "source", "n_pairs", "side_a", "side_b", "a", "b",
    "difference", "low", "high", "p", "p_below", "test", "population", "n_seeds", "n_queries",
    "n_clusters", "gallery", "chance",
)  # fmt: skip

#: Columns of `Results.frame` before the settings that differ.
FRAMED = (
    "task", "direction", "eval", "method", "source", "n_pairs", "seed", "metric", "value", "chance",
    "n_queries", "gallery", "run_id",
)  # fmt: skip


class Results:
    """The results of an evaluation, or of a folder that `bench` wrote.

    Parameters
    ----------
    folder : path
        A results folder.
    store : path or address, optional
        The store that was read; only the report needs it.
    suite : str, optional
        Which suite, where the folder holds several; of it the series written last.
    methods : sequence of str
        In the order in which they were asked for: the verdict is on the first. None: that of
        `bench.report.verdict.shown_method`.
    run_ids : collection of str, optional
        Only these runs.
    note : str
        What the verdict says of the data, at its end.

    Attributes
    ----------
    rows : DataFrame
        As `bench.read_results` returns them: settings that may be words ("auto", "all") are text.
    folder, store

    Raises
    ------
    NoResultsError
        If the folder holds no such run, or several suites and none was named.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        store: Path | str | None = None,
        suite: str | None = None,
        methods: Sequence[str] = (),
        run_ids: Collection[str] | None = None,
        note: str = "",
    ) -> None:
        self.folder, self.store, self._note = Path(folder), store, note
        self._methods = tuple(methods)
        rows = read_results(self.folder)
        if run_ids is None:
            self.rows = only_series(self.folder, rows, suite=suite)
        else:
            self.rows = rows.filter(pl.col("run_id").is_in(list(run_ids)))

    @property
    def methods(self) -> list[str]:
        """Names of the methods, those that were asked for first."""
        return list(dict.fromkeys([*self._methods, *in_order(self.rows)["method"]]))

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return every result row: one run, direction and metric; numbers are numbers.

        A setting that was chosen (``auto``) has the chosen value, and ``n_pairs`` of all images
        their number. Values are shares: 0.1 is ten percent.

        Parameters
        ----------
        columns : sequence of str, optional
            Of `rows`. None: what a row is of and what it says, at most 20, of which settings are
            those that differ.

        Raises
        ------
        NoResultsError
            If there is no such column.
        """
        if columns is None:
            own = [name for name in varying(self.rows) if name not in FRAMED]
            columns = [*FRAMED, *own[: 20 - len(FRAMED)]]
        check_names(
            columns,
            self.rows.columns,
            what="column",
            error=NoResultsError,
            where="of these results",
        )
        numbers = []
        for leaf in LEAVES:
            if leaf.dtype == pl.String and leaf.option.type in (int, float):
                given = pl.col(leaf.name).cast(pl.Float64, strict=False)
                if leaf.name in CHOSEN:
                    given = pl.coalesce(given, pl.col(f"{leaf.name}_chosen"))
                if leaf.name == "n_pairs":
                    given = pl.coalesce(given, pl.col("n_images_fitted"))
                dtype = pl.Float64 if leaf.option.type is float else pl.Int64
                numbers.append(given.cast(dtype).alias(leaf.name))
        return self.rows.with_columns(numbers).select(columns)

    @cached_property
    def _table(self) -> pl.DataFrame:
        return result_table(self.rows)

    @cached_property
    def _comparisons(self) -> pl.DataFrame:
        return compare(self.folder, self.rows)

    def table(self, metrics: Sequence[str] | None = None) -> pl.DataFrame:
        """Return one row a cell: the mean over all queries of all draws, and the sd over draws.

        Parameters
        ----------
        metrics : sequence of str, optional
            None: those that `headstock eval table` shows.

        Returns
        -------
        DataFrame
            Columns ``<metric>`` and ``<metric>_sd`` (null for a single run), as shares. Method
            "chance" is what a random order gives. Of the settings, those that differ.

        Raises
        ------
        NoResultsError
            If there is no such metric in these results.
        """
        known = self.rows["metric"].unique().sort().to_list()
        check_names(
            metrics or (), known, what="metric", error=NoResultsError, where="of these results"
        )
        table = self._table if metrics is None else result_table(self.rows, metrics)
        shown = [name for name in metric_columns(table) if table[name].null_count() < table.height]
        values = [column for name in shown for column in (name, f"{name}_sd")]
        own = varying(table.filter(pl.col("method") != "chance"))
        return table.select(
            "direction", "eval", "method", "source", "n_pairs", *own, "n_seeds", "gallery", *values
        )

    def compare(
        self,
        a: str | Mapping[str, Any],
        b: str | Mapping[str, Any],
        *,
        metrics: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return the paired differences a - b, on the same queries.

        Parameters
        ----------
        a, b : str or mapping
            A method, ``method/source/K`` such as "ridge/head/16", or values of columns. What both
            leave open is paired: two methods are compared on every source and K that both have.
        metrics : sequence of str, optional
            As of `bench.compare`. None: top-1, top-10, R@1, R@10 and those of tasks of one's own.

        Returns
        -------
        DataFrame
            Means, difference, its 95 % interval and p (of a head over its control one-sided;
            ``p_below`` is the other side), all as shares; what the interval is about,
            and how many draws, queries and clusters it is from. docs/statistics.md has the tests.

        Raises
        ------
        NoResultsError
            If there is no such cell, or no two can be paired.
        """
        left, right = (
            choose(self.folder, self.rows, self._fields(side), where=str(side)) for side in (a, b)
        )
        return compare_choices(left, right, metrics=metrics).select(COMPARED)

    def _fields(self, choice: str | Mapping[str, Any]) -> dict[str, str]:
        if isinstance(choice, str):
            return {"method": choice} if choice in self.methods else path_fields(choice)
        return {name: str(value) for name, value in choice.items()}

    @property
    def verdict(self) -> str:
        """One sentence: whether the head's weights gain over its controls, or what pairs give.

        It is on the first method that was named, and on zero-shot top-1, or else R@1 of captions,
        or else the first metric of another task: not on the best of many. What is odd in the data
        follows (`bench.results.data_notes`).
        """
        return " ".join(filter(None, [self._verdict, self._note, *data_notes(self.rows)]))

    @cached_property
    def _verdict(self) -> str:
        method = next((name for name in self._methods if name != "conse"), None)
        question = first_question(self._comparisons, self.rows)
        if question[0] != "image→class":
            found = verdict(self._comparisons, self._table, method=method, question=question)
            if found is not None:
                return found.sentence
        return without_head(self.folder, self.rows, self._table, question, method)

    def _drawn(self, method: str | None) -> str:
        """Return the method that a figure is about: the first that was named, where none is."""
        fitted = [name for name in self.methods if name not in ("chance", "conse", "identity")]
        if method is None and fitted:
            return fitted[0]
        if method not in fitted:
            raise NoResultsError(
                f"No run of method {method!r} is here. There are: {listed(fitted, shown=20)}."
            )
        return method

    def plot_pairs(self, method: str | None = None) -> Figure:
        """Return the report's figure of accuracy by the number of real pairs, with ± sd over draws.

        Parameters
        ----------
        method : str, optional
            None: the first that was named.

        Returns
        -------
        bench.report.figures.Figure
            A notebook shows it; `drawing` makes a matplotlib figure of it, `data` is what is drawn.

        Raises
        ------
        NoResultsError
            If the method was not run on real pairs.
        """
        method = self._drawn(method)
        found = pairs_figure(whole_heads(self._table), method)
        if found is None:
            raise NoResultsError(
                f"{method} was not run on real pairs, held out. Evaluate it with n_pairs=[16, 64]."
            )
        return found

    def plot_controls(self, method: str | None = None) -> Figure:
        """Return the report's first figure: heads alone, and the controls of a method.

        Of names and top-1, as in the report: other directions and metrics are in `table`.

        Parameters
        ----------
        method : str, optional
            As of `plot_pairs`.

        Returns
        -------
        bench.report.figures.Figure

        Raises
        ------
        NoResultsError
            If the method was not run on a head alone.
        """
        method = self._drawn(method)
        alone = in_order(self.rows.filter(method=method, n_pairs="0", source="head"))["eval"]
        found = None if alone.is_empty() else headline_figure(
            self._comparisons, method=method, evaluation=alone[0]
        )  # fmt: skip
        if found is None:
            raise NoResultsError(f"{method} was not run on a head alone, to name images.")
        return found

    def report(self, path: Path | str) -> Path:
        """Write the report, one HTML file that opens offline, and return where it lies.

        Raises
        ------
        NoResultsError
            If no store was named.
        MissingPackageError
            If jinja2 or matplotlib is missing.
        """
        if self.store is None:
            raise NoResultsError(
                "The report shows texts and thumbnails, which come from the store. "
                "Name it: Results(folder, store=…)."
            )
        suite = str(self.rows["suite"][0])
        return write_report(self.folder, store=self.store, out=path, suite=suite).page

    def __repr__(self) -> str:
        n_runs = self.rows["run_id"].n_unique()
        tasks = ", ".join(dict.fromkeys(self.rows["task"]))
        return (
            f"Results({n_runs:,} runs of {listed(self.methods, shown=6)}: {tasks})\n{self.verdict}"
        )

    def _repr_html_(self) -> str:
        headings, lines = result_lines(self._table)
        card = Card("Results", {}, headings, lines[:SHOWN], max(0, len(lines) - SHOWN))
        return f"<p>{escape(self.verdict)}</p>{card.html}"
