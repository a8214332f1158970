"""`bench ls`: what a results folder holds."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bench.cli.options import json_option, results_argument
from featstore.command_line import print_json


@click.command(
    "ls",
    epilog="\b\nExample:\n  bench ls build/demo/results",
)
@results_argument
@json_option
def command(results: Path, as_json: bool) -> None:
    """List the series of a results folder, the last written first.

    A series is what may stand in one table: one suite over the same revisions of its sets,
    prompts, limit and definitions. Tables and the report show the last one.
    """
    from bench.results import read_results
    from bench.series import series_table

    table = series_table(results, read_results(results))
    if as_json:
        print_json(table.to_dicts())
        return
    for row in table.iter_rows(named=True):
        limit = "" if row["limit"] is None else f"  limit {row['limit']:,}"
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["written"]))
        click.echo(
            f"{row['series']}  {row['suite']}{limit}  {row['n_runs']:,} runs  {row['n_seeds']} "
            f"seeds  K {row['n_pairs']}  {row['methods']}  {row['sources']}  {written}"
        )
