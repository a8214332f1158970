"""`bench table`: results as mean ± sd, and the paired gains of the mix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.cli.options import json_option, results_argument, suite_option
from featstore.command_line import print_json


@click.command(
    "table",
    epilog="\b\nExample:"
    "\n  bench table build/demo/results"
    "\n  bench table build/demo/results --part gains --format md",
)
@results_argument
@suite_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "tex"]),
    default="table",
    show_default=True,
    help="Plain table, Markdown, CSV (unrounded) or LaTeX (booktabs).",
)
@click.option(
    "--part",
    type=click.Choice(["both", "results", "gains", "comparisons", "published"]),
    default="both",
    show_default=True,
    help="Results, gains of the mix, every comparison, or the paper's numbers beside ours.",
)
@click.option("--task", default=None, help="Only this task, such as zero_shot.")
@click.option(
    "--eval",
    "evaluation",
    default=None,
    help="Only this evaluation: all-names, held-out, split or in-class.",
)
@click.option(
    "--metrics",
    default=None,
    help="Comma-separated. By default top-1, top-5, top-10, R@1, R@5, R@10 and median_rank; beside "
    "runs of task generalised also its balanced-accuracy, seen, unseen and harmonic.",
)
@json_option
def command(
    results: Path,
    suite: str | None,
    form: str,
    part: str,
    task: str | None,
    evaluation: str | None,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Print one row per task × evaluation × method × source × K.

    Mean ± sd over draws, in percent, with the gallery and the chance level in every row; then,
    for every K, the paired difference of real pairs with head weights to the better of the two
    alone, with its 95 % interval over draws and clusters. In Markdown and LaTeX a value is bold
    only where it wins its primary comparisons: corrected p below 5 %, ten draws or more (or nothing
    drawn), at most a quarter of the pool in each. For the paper suite, the paper's numbers follow
    beside ours, with the difference. docs/statistics.md has the rules.
    """
    import polars as pl

    from bench.comparisons import PAIRED_METRICS, bold_cells, compare
    from bench.errors import NoResultsError
    from bench.results import read_results
    from bench.series import only_series
    from bench.suites.paper import published_table
    from bench.tables import (
        comma_separated,
        gain_lines,
        published_lines,
        result_lines,
        result_table,
        with_generalised,
    )

    series = rows = only_series(results, read_results(results), suite=suite)
    asked = {"task": task, "eval": evaluation}
    for column, wanted in asked.items():
        if wanted is not None:
            known = sorted(set(rows[column].to_list()))
            if wanted not in known:
                msg = f"{results} has no {column} {wanted!r}. It has: {', '.join(known)}."
                raise NoResultsError(msg)
            rows = rows.filter(pl.col(column) == wanted)
    if metrics is None:
        names = with_generalised(rows, _METRICS)
    else:
        names = [name.strip() for name in metrics.replace(" ", ",").split(",") if name.strip()]
    unknown = [name for name in names if name not in set(rows["metric"])]
    asked_for = unknown if metrics is not None else [] if len(unknown) < len(names) else names
    if (asked_for or not names) and part != "published":
        have = ", ".join(sorted(set(rows["metric"])))
        msg = f"{results} has no metric {', '.join(asked_for) or '(none named)'}. It has: {have}."
        raise NoResultsError(msg)
    frames: dict[str, pl.DataFrame] = {}
    if part in ("both", "results"):
        frames["results"] = result_table(rows, names)
    marks = form in ("md", "tex") and not as_json
    found = None
    if part in ("both", "gains", "comparisons") or marks:
        # Of the whole series, whatever is shown of it: a family is not what one looks at.
        found = compare(results, series, metrics=[n for n in names if n in PAIRED_METRICS])
        for column, wanted in asked.items():
            if wanted is not None:
                found = found.filter(pl.col(column) == wanted)
    if found is not None and part == "comparisons":
        frames["comparisons"] = found
    elif found is not None and part in ("both", "gains"):
        frames["gains"] = found.filter(pl.col("comparison") == "over-parts")
    if part == "published" or (part in ("both", "results") and rows["suite"][0] == "paper"):
        frames["published"] = published_table(rows)
    if as_json:
        print_json({name: frame.to_dicts() for name, frame in frames.items()})
        return
    for place, (name, frame) in enumerate(frames.items()):
        if form == "csv":
            click.echo(("\n" if place else "") + comma_separated(frame), nl=False)
            continue
        if frame.is_empty():
            if part == name:
                click.echo(_EMPTY, err=True)
            continue
        if name == "results":
            bold = bold_cells(found, names) if marks and found is not None else ()
            shown = result_lines(frame, bold)
        else:
            shown = published_lines(frame) if name == "published" else gain_lines(frame)
        title = f"% {_TITLES[name]}" if form == "tex" else _TITLES[name]
        click.echo(("\n" if place else "") + f"{title}\n")
        _echo_table(*shown, form=form)


_METRICS = ("top-1", "top-5", "top-10", "R@1", "R@5", "R@10", "median_rank")

_EMPTY = (
    "No two cells can be compared here: a gain needs runs with real pairs, with the head alone and "
    "with both, on the same queries and a metric that is a mean over them."
)

_TITLES = {
    "results": "Results: percent, mean over all queries of all draws ± sd between runs.",
    "gains": (
        "Gain of real pairs + head weights over the better of the two alone, percentage points. "
        "Intervals and p count draws and clusters; the second p is corrected (Holm) over the "
        "family of primary comparisons that stands beside it. The others are exploratory."
    ),
    "published": (
        "The paper's numbers beside ours, percent: theirs exact or read off a figure (to about 0.2 "
        "points). Their map is a network; the encoders are those named. Empty: not run yet."
    ),
    "comparisons": "Paired comparisons, percentage points.",
}


def _echo_table(headings: Sequence[str], lines: Sequence[Sequence[str]], *, form: str) -> None:
    from bench.tables import aligned, latex, markdown

    write = {"md": markdown, "tex": latex}.get(form, aligned)
    click.echo(write(headings, lines), nl=False)
