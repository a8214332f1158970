"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import StoreType

results_argument = click.argument("results", type=click.Path(path_type=Path, file_okay=False))

store_option = click.option(
    "--store",
    type=StoreType(),
    required=True,
    help="The store that was scored: folder or address.",
)

suite_option = click.option(
    "--suite", default=None, help="Which suite, if the folder holds several."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
