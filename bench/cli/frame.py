"""`bench frame`: every result row, for whatever reads tables."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import json_option, results_argument, suite_option
from featstore.command_line import print_json


@click.command(
    "frame",
    epilog="\b\nExample:"
    "\n  bench frame build/demo/results --csv > results.csv"
    "\n  bench frame build/demo/results -o results.parquet",
)
@results_argument
@suite_option
@click.option("--csv", "as_csv", is_flag=True, help="The same as --format csv.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "md", "tex"]),
    default="csv",
    show_default=True,
    help="What is printed; every digit in CSV, five significant ones in Markdown and LaTeX.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write Parquet (.parquet) or CSV to a file instead.",
)
@json_option
def command(
    results: Path, suite: str | None, as_csv: bool, form: str, out: Path | None, as_json: bool
) -> None:
    """Print every result row: one run, one direction, one metric.

    From Python it is `bench.read_results(folder)`, a polars frame; `.to_pandas()` makes a pandas
    frame of it.
    """
    import io

    import polars as pl

    from bench.errors import NoResultsError
    from bench.results import read_results
    from bench.tables import comma_separated, latex, markdown
    from featstore.store.files import write_file

    if as_csv and as_json:
        msg = "--csv and --json exclude each other."
        raise click.UsageError(msg, click.get_current_context())
    rows = read_results(results)
    if suite is not None:
        rows = rows.filter(pl.col("suite") == suite)
        if rows.is_empty():
            msg = f"{results} holds no run of suite {suite!r}."
            raise NoResultsError(msg)
    if out is not None:
        if out.suffix == ".parquet":
            buffer = io.BytesIO()
            rows.write_parquet(buffer)
            write_file(out, [buffer.getvalue()])
        else:
            write_file(out, [comma_separated(rows).encode("utf-8")])
        click.echo(f"{out}  {rows.height:,} rows", err=True)
    elif as_json:
        print_json(rows.to_dicts())
    elif form == "csv" or as_csv:
        click.echo(comma_separated(rows), nl=False)
    else:
        write = {"md": markdown, "tex": latex}[form]
        lines = [[_text(value) for value in row] for row in rows.iter_rows()]
        click.echo(write(rows.columns, lines), nl=False)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
