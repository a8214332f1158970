"""Commands that read results: table, compare, report, submit, leaderboard; what ls, show print."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.main import (
    form_option,
    names_option,
    print_form,
    results_argument,
    suite_option,
)
from featstore.cli.options import say_taken, take, the_store
from featstore.command_line import (
    Choice,
    StorePlace,
    count,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.terminal import ProgressBar, TextTable, age, dim, human_bytes, print_facts

if TYPE_CHECKING:
    import polars as pl

    from bench.leaderboard import Board
    from bench.tables import Table


@click.command(
    "table",
    epilog="\b\nExample:"
    "\n  headstock eval table build/demo/results"
    "\n  headstock eval table build/demo/results --part gains --format md",
)
@results_argument
@suite_option
@form_option
@click.option(
    "--part",
    type=Choice(
        [
            "both",
            "results",
            "gains",
            "comparisons",
            "doses",
            "published",
            "learners",
            "confidence",
            "rows",
        ]
    ),
    metavar="NAME",
    help="Print one part in full: results, gains of the mix, both (as --all), every comparison, "
    "accuracy by doses of the head (suite controls), the paper's numbers beside ours, the "
    "few-shot learners with intervals, the confidence of runs with confidence=yes, or every row: "
    "one run, one direction, one metric.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Print all results and the gains of the mix."
)
@click.option(
    "--where",
    "where",
    multiple=True,
    metavar="NAME=VALUE",
    help="Print only rows whose column has this value, such as task=zero_shot or eval=held-out.",
)
@names_option(
    "--metrics",
    "metrics",
    "Print these metrics, separated by commas [default: top-1, seen and unseen (names that "
    "the head has or lacks), top-5, top-10, R@1, R@5, R@10 and median_rank, and for the "
    "task generalised its balanced-accuracy and harmonic].",
)
@json_option
def table_command(
    results: Path,
    suite: str | None,
    form: str,
    part: str | None,
    everything: bool,
    where: tuple[str, ...],
    metrics: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Print the results of a folder on one screen.

    The table has method × K for the first metric; --all prints everything.

    With --all, and in other forms than a plain table, there is one row per task × evaluation ×
    method × source × K: mean ± sd over draws, in percent, with the gallery and the chance level;
    then, for every K, the paired difference of real pairs with head weights to the better of the
    two alone, with its 95 % interval over draws and clusters. A value has a star (in Markdown and
    LaTeX it is bold) only where it wins its primary comparisons: corrected p below 5 %, ten draws
    or more (or nothing drawn), at most a quarter of the pool in each. For the paper suite, the
    paper's numbers follow beside ours, with the difference; for the few-shot suite its learners,
    with 95 % intervals and published numbers. docs/statistics.md has the rules.
    """
    is_short = form == "table" and part is None and not (everything or as_json)
    part, form = part or "both", "json" if as_json else form
    with ProgressBar(f"table of {results}", doing="reading results") as bar:
        from bench.cells import only_series
        from bench.comparisons import bold_cells, choose, compare
        from bench.results import data_notes, read_results, unfinished
        from bench.tables import result_table

        series = only_series(results, read_results(results), suite=suite)
        if wrong := [one for one in where if "=" not in one]:
            raise usage_error(f"--where is NAME=VALUE, such as task=zero_shot; got {wrong[0]!r}.")
        conditions = dict(one.split("=", 1) for one in where)
        _, _, rows = choose(results, series, conditions, where=str(results))
        names = _shown_metrics(rows, metrics, results, needed=part in _OWN_PARTS)
        parts = {"both": ("results",) if is_short else ("results", "gains")}.get(part, (part,))
        marks = is_short or form in ("md", "latex")
        frames: dict[str, pl.DataFrame] = {}
        bold: Collection[tuple[Any, ...]] = ()
        if "results" in parts:
            frames["results"] = result_table(rows, names)
        if "rows" in parts:
            frames["rows"] = rows.head(_ROWS) if form == "table" else rows
        if marks or {"gains", "comparisons"} & set(parts):
            bar.stage("comparing cells")
            # Of the whole series, whatever is shown of it: a family is not what one looks at.
            found = compare(results, series, metrics=names)
            found = _equal(found, conditions)
            bold = bold_cells(found, names) if marks else ()
            if "gains" in parts:
                frames["gains"] = _equal(found, {"comparison": "over-parts"})
            if "comparisons" in parts:
                frames["comparisons"] = found
        notes = [*unfinished(results, series["suite"][0]), *data_notes(rows)]
    # Above a table that a person reads, or beside one that another program does.
    click.echo("".join(f"{text}\n\n" for text in notes), nl=False, err=not is_short)
    if is_short:
        _print_summary(results, rows, frames["results"], bold)
        return
    frames |= _suite_tables(results, rows, parts)
    if part in frames and frames[part].is_empty() and form not in ("csv", "json"):
        click.echo(_EMPTY.get(part, _EMPTY["gains"]), err=True)
    _print_tables(frames, form, bold)
    if left_out := rows.height - frames.get("rows", rows).height:
        click.echo(f"\nand {count(left_out, 'more row')}: --json and --format csv print all.")


def _print_summary(
    results: Path, rows: pl.DataFrame, table: pl.DataFrame, bold: Collection[tuple[Any, ...]]
) -> None:
    from bench.tables import SUMMARY_WIDTH, summary

    found, said = summary(table, bold), ""
    if "few_shot" in rows["task"]:
        from bench.suites.few_shot import few_shot_claim

        claim = few_shot_claim(results, rows)
        said = "" if claim is None else f"ProKeR: {claim.sentence}"
    for text in filter(None, (found.sentence, said, found.caption)):
        click.echo(textwrap.fill(text, SUMMARY_WIDTH))
    found.table.plain.show()
    is_won = any(cell.endswith("*") for line in found.table.lines for cell in line)
    stars = "* wins its primary comparisons (Holm, p < 0.05). " if is_won else ""
    more = f"{found.left_out} more lines, all" if found.left_out else "All"
    click.echo(f"{stars}{more} tasks and metrics: --all.")


def _suite_tables(
    results: Path, rows: pl.DataFrame, parts: Collection[str]
) -> dict[str, pl.DataFrame]:
    """Return the tables that are named, and with the results those of the rows' own suite."""
    from bench.suites import SUITES
    from bench.tables import confidence_table

    planned = SUITES.get(rows["suite"][0])
    own = planned.tables if planned and "results" in parts else ()
    of_suites = [one for suite in SUITES.values() for one in suite.tables.items()]
    tables = [("confidence", confidence_table), *of_suites]
    return {name: make(results, rows) for name, make in tables if name in parts or name in own}


#: Result rows that a plain table shows; a demo has tens of thousands.
_ROWS = 200


def _print_tables(
    frames: Mapping[str, pl.DataFrame], form: str, bold: Collection[tuple[Any, ...]]
) -> None:
    from bench.tables import comma_separated

    if form == "json":
        print_json({name: frame.to_dicts() for name, frame in frames.items()})
        return
    if form == "csv":
        click.echo("\n".join(comma_separated(frame) for frame in frames.values()), nl=False)
        return
    comment = "% " if form == "latex" else ""
    shown = {name: frame for name, frame in frames.items() if not frame.is_empty()}
    for number, (name, frame) in enumerate(shown.items()):
        click.echo("\n" * bool(number) + f"{comment}{_TITLES[name]}\n")
        print_form(_table(name, frame, bold), form)


def _table(name: str, frame: pl.DataFrame, bold: Collection[tuple[Any, ...]]) -> Table:
    """Return a part of the tables as text."""
    from bench.reproduction import published_lines
    from bench.suites.demo import dose_lines
    from bench.suites.few_shot import learner_lines
    from bench.tables import (
        Table,
        confidence_lines,
        gain_lines,
        result_lines,
    )

    if name == "results":
        return result_lines(frame, bold)
    if name == "rows":
        return Table(frame.columns, [[_text(value) for value in row] for row in frame.iter_rows()])
    own = {
        "published": published_lines, "learners": learner_lines, "doses": dose_lines,
        "confidence": confidence_lines,
    }  # fmt: skip
    return own.get(name, gain_lines)(frame)


def _equal(rows: pl.DataFrame, conditions: Mapping[str, str]) -> pl.DataFrame:
    """Return the rows that have these values in the columns that there are."""
    import polars as pl

    known = [(pl.col(n).cast(pl.String) == v) for n, v in conditions.items() if n in rows.columns]
    return rows.filter(pl.lit(value=True), *known)


def _shown_metrics(
    rows: pl.DataFrame, metrics: tuple[str, ...] | None, results: Path, *, needed: bool
) -> list[str]:
    """Return the metrics that are named; without a name the usual ones, if there is one of them."""
    from bench.errors import NoResultsError
    from bench.tables import SHOWN, with_generalised
    from fitters.errors import check_names

    have = set(rows["metric"])
    if metrics is not None:
        if needed:
            check_names(
                metrics, sorted(have), what="metric", error=NoResultsError, where=f"in {results}"
            )
        return list(metrics)
    names = with_generalised(rows, SHOWN[:-2])
    if needed and not have & set(names):
        raise NoResultsError(
            f"{results} has none of the usual metrics. Name others as `metrics=`: "
            f"{', '.join(sorted(have))}."
        )
    return names


_EMPTY = {
    "gains": (
        "No two cells can be compared here: a gain needs runs with real pairs, with the head alone "
        "and with both, on the same queries and a metric that is a mean over them."
    ),
    "learners": "No run here is of task few_shot.",
    "doses": "No doses of a head here: suite controls has them, or -s head_size=and --clusters.",
    "confidence": "No run here scored its confidence: add -s confidence=yes.",
}

#: Parts that every suite has.
_OWN_PARTS = ("both", "results", "gains", "comparisons")

_TITLES = {
    "results": "Results: percent, mean over all queries of all draws ± sd between runs.",
    "gains": (
        "Gain of real pairs + head weights over the better of the two alone, percentage points. "
        "Intervals and p count draws and clusters; the second p is corrected (Holm) over the "
        "family of primary comparisons that is given with it. The others are exploratory."
    ),
    "published": (
        "The paper's numbers beside ours, percent: theirs exact or read off a figure (to about 0.2 "
        "points). Their map is a network; the encoders are those named. Empty: not run yet."
    ),
    "learners": (
        "Few-shot learners, percent: mean over all queries of all draws of shots, 95 % interval "
        "for other shots and images of these classes."
    ),
    "confidence": (
        "Confidence, percent: calibration error without its bias, with its 95 % interval for other "
        "images and these draws; risk over all coverages (AURC); and how far images whose name is "
        "no candidate are told apart (AUROC), with its 95 % interval over draws and clusters."
    ),
    "comparisons": "Paired comparisons, percentage points.",
    "rows": "Every result row.",
    "doses": (
        "Doses of the head, without real pairs: percent, mean ± sd over draws; the slope is in "
        "points for a factor of ten, of a line through all levels of the dose."
    ),
}


@click.command(
    "compare",
    epilog="\b\nExample:"
    "\n  headstock eval compare build/demo/results:ridge/head/0 build/demo/results:conse"
    "\n  headstock eval compare old/results new/results --metrics top-1",
)
@click.argument("a")
@click.argument("b")
@names_option(
    "--metrics",
    "metrics",
    "Compare these metrics, separated by commas; they must be means over queries [default: "
    "top-1,top-10,R@1,R@10, and those of tasks that other packages define].",
)
@form_option
@json_option
def compare_command(
    a: str, b: str, metrics: tuple[str, ...] | None, form: str, as_json: bool
) -> None:
    """Print the paired differences A - B on the same queries.

    A and B are FOLDER[:method/source/K][:name=value,...], for instance results:ridge/head/16 or
    results:ridge:mix=1.0,penalty=0.3. Two cells are compared with each other. Where a choice leaves
    several, each is compared with the cell of the other that agrees in what is left open: two
    folders are compared cell by cell. For each folder the series written last counts. A comparison
    that `headstock eval table` has too comes with the numbers that it has there.
    """
    with ProgressBar("compare", doing="reading results"):
        from bench.comparisons import compare_choices
        from bench.tables import comma_separated, gain_lines

        found = compare_choices(a, b, metrics=metrics)
    if as_json or form == "json":
        print_json(found.to_dicts())
    elif form == "csv":
        click.echo(comma_separated(found), nl=False)
    else:
        print_form(gain_lines(found), form)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def show_results(results: Path, *, as_json: bool, key: str = "") -> None:
    """Print the verdict of results in a sentence; of a cell what was run, and its numbers."""
    if key:
        return _show_cell(f"{results}:{key}", as_json=as_json)
    with ProgressBar(f"show {results}", doing="reading results"):
        from bench.evaluated import Results

        sentence = Results(results).verdict
    if as_json:
        print_json({"results": str(results), "verdict": sentence})
    else:
        click.echo(sentence)
    return None


def _show_cell(choice: str, *, as_json: bool) -> None:
    """Print the fields of the runs of a cell, and the means of its metrics."""
    with ProgressBar(f"show {choice}", doing="reading results"):
        import polars as pl

        from bench.cells import CELL
        from bench.comparisons import chosen_rows
        from bench.results import RUN_COLUMNS

        _, _, rows = chosen_rows(choice)
    if as_json:
        return print_json(rows.to_dicts())
    fields = {n: dict.fromkeys(map(_text, rows[n].drop_nulls())) for n in RUN_COLUMNS}
    facts = [(n, ", ".join(filter(None, found))) for n, found in fields.items() if any(found)]
    facts += _texts_of_classes(rows)
    # One mean of every cell and arena that the choice holds.
    keys = [n for n in CELL if n == "direction" or rows[n].n_unique() > 1]
    means = rows.group_by(*keys, "metric", maintain_order=True).agg(pl.col("value").mean())
    numbers = [(" ".join(filter(None, map(str, names))), _text(value))
               for *names, value in means.iter_rows()]  # fmt: skip
    return print_facts({choice: facts, "Mean over the runs": numbers})


def _texts_of_classes(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """Return how the runs make one text of a class's prompts: of scored names, and of a head's."""
    from featstore.prompts import DEFINITION, text_formula
    from fitters.settings import CHOSEN

    columns = rows.select("variants", "head_variants", "head_name_set").unique(maintain_order=True)
    formulas: dict[tuple[str, str], None] = {}
    for scored, of_head, head_names in columns.drop_nulls("variants").iter_rows():
        names = scored.split(",")
        formulas["text of a name", text_formula(names)] = None
        if not head_names or of_head == CHOSEN:
            continue
        formula = text_formula(of_head.split(",") if of_head else [*names, DEFINITION])
        formulas["text of a head's row", formula] = None
    return list(formulas)


def list_series(results: Path, *, as_json: bool) -> None:
    """List the series of a results folder, the last written first.

    A series is what one table may hold: one suite over the same revisions of its sets,
    prompts, limit and definitions. Tables and the report show the last one.
    """
    with ProgressBar(f"ls {results}", doing="reading results"):
        from bench.cells import series_table
        from bench.results import read_results

        table = series_table(read_results(results))
    if as_json:
        print_json(table.to_dicts())
        return
    lines = []
    for row in table.iter_rows(named=True):
        limit = "" if row["limit"] is None else f", limit {row['limit']:,}"
        numbers = f"{row['n_runs']:,}", f"{row['n_seeds']:,}", age(row["written"])
        names = (row[name].replace(",", ", ") for name in ("n_pairs", "methods", "sources"))
        lines.append((f"{row['suite']}{limit}", *numbers, *names, dim(row["series"])))
    TextTable(("SUITE", "RUNS", "SEEDS", "AGE", "K", "METHODS", "SOURCES", "SERIES"), lines).show()


@click.command(
    "report",
    epilog="\b\nExample:\n  headstock report build/demo/results -o build/demo/report.html",
)
@results_argument
@store_option("Read texts and thumbnails from this store.", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page here; one file holds all [default: RESULTS.html].",
)
@suite_option
@click.option(
    "--images",
    metavar="KEY",
    help="Report on these images, given by key or dataset, if the suite scored several [default: "
    "those of most runs].",
)
@click.option(
    "--paper",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also save every figure as PDF here.",
)
@click.option(
    "--url",
    metavar="URL",
    help="Name the address of the published page, and write the picture that a link to it shows.",
)
@json_option
def report_command(
    results: Path,
    store: StorePlace | None,
    out: Path | None,
    suite: str | None,
    images: str | None,
    paper: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Draw the report of a results folder.

    The store is read for texts and thumbnails; nothing is fitted. Without
    --store it is the one beside the results. A page is of one set of images; of the paper suite it
    also has every published number. It needs no network and no other file.
    """
    out = out or take("out", results.with_name(f"{results.name}.html"))
    store = the_store(store, beside=results.parent)
    say_taken()
    with ProgressBar(f"report {out}", doing="reading results"):
        from bench.report.page import write_report

        written = write_report(
            results, store=store, out=out, suite=suite, images=images, paper=paper, url=url
        )
    size = out.stat().st_size
    if as_json:
        print_json(
            {
                "report": str(written.page),
                "bytes": size,
                "files": [str(path) for path in written.files],
                "answer": written.answer,
            }
        )
        return
    click.echo(written.answer)
    click.echo(f"Wrote {written.page}, {human_bytes(size)}")


@click.command(
    "submit",
    epilog="\b\nExample:"
    "\n  headstock eval submit build/demo/results:ridge/head/0 --name ridge -o board/ridge.json",
)
@click.argument("choice", metavar="RESULTS:METHOD/SOURCE/K")
@click.option("--name", required=True, metavar="NAME", help="Call the entry this on the board.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Write this JSON file.",
)
@click.option(
    "--direction",
    metavar="NAME",
    help="Rank this direction, such as image→name or caption→image [default: image→name, or else "
    "image→caption].",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="Rank by this metric, a mean over queries [default: top-1, or else R@1].",
)
@json_option
def submit_command(
    choice: str,
    name: str,
    out: Path,
    direction: str | None,
    metric: str | None,
    as_json: bool,
) -> None:
    """Pack one result into a file for a leaderboard.

    The file holds the result rows of one metric, its sums by run and cluster of queries, and a
    digest of it all. Put it into the folder that
    `headstock eval leaderboard` reads.
    """
    from bench.leaderboard import check, pack
    from featstore.durable import json_bytes, write_output

    with ProgressBar(f"submission {out}"):
        found = pack(choice, name=name, direction=direction, metric=metric)
        check(found.document)
    write_output(out, [json_bytes(found.document)])
    facts: dict[str, Any] = {
        "file": str(out), "board": found.board, "metric": found.metric,
        "value": found.cell.mean(found.metric), "draws": len(found.cell.draws),
        "digest": found.digest,
    }  # fmt: skip
    if as_json:
        print_json(facts)
        return
    click.echo(
        f"{out}: {name}, {found.metric} {100 * facts['value']:.1f} % over {facts['draws']} draws, "
        f"board {found.board}."
    )


@click.command(
    "leaderboard",
    epilog="\b\nExample:\n  headstock eval leaderboard board -o board.html"
    "\n  headstock eval leaderboard results --from mteb",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "tool",
    type=Choice(["mteb", "lm-eval", "csv"]),
    metavar="mteb|lm-eval|csv",
    help="Read result files of this form instead of submissions: a results folder of mteb or "
    "lm-evaluation-harness, or a CSV file.",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="With --from, rank by this score [default: main_score of mteb, value of csv, acc_norm or "
    "first of lm-eval].",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the boards as this HTML page, instead of printing them.",
)
@click.option(
    "--title", default="Leaderboard", show_default=True, metavar="TEXT", help="Use this heading."
)
@json_option
def leaderboard_command(
    path: Path, tool: str | None, metric: str | None, out: Path | None, title: str, as_json: bool
) -> None:
    """Rank entries, and mark ties with the first.

    Every *.json file below PATH is read and checked; a file that is no submission ends the
    command with its name. Entries are compared with the leader on the draws that both have;
    p is corrected for the choice of the leader. With --from, a board says which question its
    intervals answer: of other tasks, or of other items of one task.
    """
    from bench.leaderboard import leaderboard_page
    from bench.others import other_boards
    from featstore.durable import write_output

    if metric and not tool:
        raise usage_error("--metric is for --from; a submission has the metric it was packed by.")
    found: Sequence[Board] = other_boards(path, tool, metric) if tool else _boards(path)
    if out is not None:
        write_output(out, [leaderboard_page(found, title=title).encode("utf-8")])
    if out is None or as_json:
        _print_boards(found, as_json=as_json)
        return
    entries = sum(len(board.lines) for board in found)
    click.echo(f"{out}: entries {entries:,}, boards {len(found):,}.")


def _boards(folder: Path) -> list[Board]:
    from bench.errors import SubmissionError
    from bench.leaderboard import boards, read_submission

    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise SubmissionError(
            f"{folder} {'holds no submission' if folder.is_dir() else 'does not exist'}. Make one "
            f"with `headstock eval submit RESULTS:METHOD/SOURCE/K --name NAME -o "
            f"{folder}/NAME.json`."
        )
    with ProgressBar(f"leaderboard of {folder}"):
        return boards([read_submission(path) for path in paths])


def show_boards(folder: Path, *, as_json: bool) -> None:
    """Print the boards of the submissions in a folder."""
    _print_boards(_boards(folder), as_json=as_json)


def _print_boards(found: Sequence[Board], *, as_json: bool) -> None:
    if as_json:
        print_json([board.facts() for board in found])
        return
    for board in found:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        for text in filter(None, (board.title, board.sentence, board.question)):
            click.echo(textwrap.fill(text, width))
        click.echo()
        board.table().plain.show()
